"""One texture of a clip: a few frames that show the head from as many sides as it turns, blended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from recon3d.conventions import ARKIT_NAMES
from recon3d.export._still import camera_vertices, check_head
from recon3d.export.texture import Pixels, texture_size

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel
    from recon3d.media.video import Clip, Frame

#: Frames looked at, from the first sight of the face on: the clip may have to be read again that far.
_FRAMES = 240
#: Limits, degrees, between the directions of which one frame each is taken.
_YAW = (-25.0, -9.0, 9.0, 25.0)
#: A face at rest shows most of its skin, and with open eyes: how much a closed lid counts.
_LID = 3.0


class Keeper:
    """Keeps the frames that textures need while a clip is read for something else, or reads it for them."""

    def __init__(self, captures: Iterable[Capture]) -> None:
        """Note the frames that some captures of one clip need."""
        self._wanted = {row for capture in captures for row in texture_frames(capture)}
        self._kept: dict[int, Pixels] = {}

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield the frames of the clip as they are."""
        for frame in frames:
            if frame.index in self._wanted:
                self._kept[frame.index] = frame.pixels
            yield frame

    def kept(self, clip: Clip) -> Mapping[int, Pixels]:
        """Return the frames by their index, reading the clip if nobody has."""
        missing = self._wanted - self._kept.keys()
        if missing:
            last = max(missing)
            for frame in self.watch(clip.frames(ahead=4)):
                if frame.index >= last:
                    break
        return self._kept


def bake_clip_texture(
    pictures: Mapping[int, Pixels], capture: Capture, head: HeadModel, *, delight: bool = False
) -> Pixels | None:
    """Blend frames of a clip into the texture of one of its persons: (size, size, 3) uint8, v up.

    None for a head model without texture coordinates, and where the person was never seen.

    Args:
        pictures: Frames of the clip by their index, those of ``texture_frames`` among them; a missing one
            is done without.
        capture: The person, one row a frame of the clip.
        head: The head model that the capture was made with.
        delight: Take the clip's light out.

    Raises:
        InputError: The head is another.
    """
    check_head(capture, head)
    rows = [row for row in texture_frames(capture) if row in pictures]
    if len(head.faces_uv) == 0 or not rows:
        return None
    from recon3d.render.camera import Camera
    from recon3d.render.texture import View, unwrap_views

    principal = float(capture.principal[0]), float(capture.principal[1])
    camera = Camera.create(capture.focal, capture.size, principal)
    return unwrap_views(
        (View(pictures[row], camera_vertices(capture, head, row), camera) for row in rows),
        head.faces,
        head.uv,
        head.faces_uv,
        size=texture_size(capture),
        colors=head.colors,
        mirror=head.mirror,
        delight=delight,
    )


def texture_frames(capture: Capture) -> list[int]:
    """Choose the frames: of each direction that the head takes, the one most at rest; rising."""
    seen = np.flatnonzero(capture.tracked)
    seen = seen[seen < seen[:1].sum() + _FRAMES]
    if not len(seen):
        return []
    lids = [ARKIT_NAMES.index(f"eyeBlink{side}") for side in ("Left", "Right")]
    unrest = capture.arkit[seen].sum(axis=1) + _LID * capture.arkit[seen][:, lids].sum(axis=1)
    direction = np.digitize(_yaw(capture, seen), _YAW)
    chosen = [seen[direction == k][np.argmin(unrest[direction == k])] for k in np.unique(direction)]
    return sorted(int(row) for row in chosen)


def _yaw(capture: Capture, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Degrees by which the head is turned from the line to the camera, to either side."""
    from recon3d.head.rotation import axis_angle_to_matrix

    ahead = axis_angle_to_matrix(torch.from_numpy(capture.pose[rows, 0]))[:, :, 2].numpy()
    toward = -capture.translation[rows]
    turned = np.arctan2(ahead[:, 0], -ahead[:, 2]) - np.arctan2(toward[:, 0], -toward[:, 2])
    return np.asarray(np.degrees(turned))
