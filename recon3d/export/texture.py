"""The skin texture of a mesh: the photograph, laid out in the head's texture coordinates."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon3d.errors import InputError
from recon3d.export._still import camera_vertices, check_head, still
from recon3d.media.image import save_pixels

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel
    from recon3d.media.image import Photo

Pixels = npt.NDArray[np.uint8]

#: Side of the square texture. A face of 500 px across, unwrapped, fills about this.
TEXTURE_SIZE = 1024


def bake_texture(
    capture: Capture, head: HeadModel, photo: Photo, size: int = TEXTURE_SIZE, *, delight: bool = False
) -> Pixels | None:
    """Lay the photograph out in the head's texture coordinates: (size, size, 3) uint8, v up.

    What is hidden is completed from the other side of the face. ``delight`` takes the photograph's light out.
    None for a head model without texture coordinates (FLAME's own files have none).

    Raises:
        InputError: The photograph is not the captured one (its size differs), or the head is another.
    """
    from recon3d.render.camera import Camera
    from recon3d.render.texture import unwrap

    check_head(capture, head)
    if photo.size != capture.size:
        raise InputError(
            f"{capture.source}: the photograph has {photo.size[0]} x {photo.size[1]} pixels, "
            f"the capture was made of {capture.size[0]} x {capture.size[1]}"
        )
    if len(head.faces_uv) == 0:
        return None
    frame = still(capture, head).frame
    camera = Camera.create(
        capture.focal, capture.size, (float(capture.principal[0]), float(capture.principal[1]))
    )
    return unwrap(
        photo.pixels,
        camera_vertices(capture, head, frame),
        head.faces,
        camera,
        head.uv,
        head.faces_uv,
        size=size,
        colors=head.colors,
        mirror=head.mirror,
        delight=delight,
    )


def texture_size(capture: Capture) -> int:
    """Return the side of the texture, px: as fine as the photograph where the face is small in it.

    The face fills 0.28 of the side of the open head's layout, so a larger texture would
    hold no more detail, only take longer.
    """
    box = capture.box[int(capture.tracked.argmax())]
    wanted = float((box[2:] - box[:2]).max()) / 0.28
    return int(min(max(math.ceil(wanted / 256), 2), 4)) * 256


def encode_jpeg(pixels: Pixels) -> bytes:
    """Return (H, W, 3) uint8 pixels as the bytes of a JPEG file."""
    file = io.BytesIO()
    save_pixels(file, pixels, "JPEG")
    return file.getvalue()
