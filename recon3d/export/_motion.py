"""A capture's motion in a scene that animation tools share: what all animated exporters write.

The scene has glTF's axes: metres, +Y up, the camera looks along -Z. The camera stands still. The head's root
joint moves as the video shows it, and everything is shifted so that over the tracked frames this joint's
mean place is its place in the head model at rest. So the head stays about the origin, upright and looking
along +Z where the subject faced the camera, and the clip's camera sees it as in the video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon3d.conventions import FRONTAL, GLOBAL
from recon3d.export._still import Floats, Still, as_batch
from recon3d.export.options import ExportOptions

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

Doubles = npt.NDArray[np.float64]

#: Frames per second of a scene that is told none: a photograph's.
DEFAULT_RATE = 30.0
#: Joints that never turn further than this (rad) need no curve.
STILL_ANGLE = 1e-6


@dataclass(frozen=True)
class Motion:
    """K frames of one head; K may be less than the capture's T where frames share their time.

    Attributes:
        times: (K,) s, the first 0, strictly rising even as float32.
        rate: Frames per second, nominal: the times may be spaced otherwise.
        weights: (K, E) float32 expression coefficients.
        rotations: (K, J, 4) unit quaternions x y z w, each joint to its parent, the root to the scene;
            no sign changes from frame to frame, so that they can be interpolated number by number.
        root: (K, 3) m, place of the root joint in the scene.
        joints: (J, 3) m, the joints at rest, in head space.
        camera: (3,) m, place of the camera in the scene; it is not turned.
    """

    times: Doubles
    rate: float
    weights: Floats
    rotations: Doubles
    root: Doubles
    joints: Doubles
    camera: Doubles

    def __len__(self) -> int:
        return len(self.times)

    @property
    def turning(self) -> list[int]:
        """The joints that are turned in some frame."""
        turned = np.abs(self.rotations[..., :3]).max(axis=(0, 2)) > STILL_ANGLE / 2
        return [int(j) for j in np.flatnonzero(turned)]

    def offsets(self, parents: tuple[int, ...]) -> Floats:
        """Return the joints' translations to their parents (K, J, 3) m; the root's to the scene."""
        steps = [self.joints[j] - self.joints[parent] for j, parent in enumerate(parents)]
        found = np.tile(np.asarray(steps, np.float32), (len(self), 1, 1))
        found[:, GLOBAL] = self.root
        return found


def motion_of(capture: Capture, head: HeadModel, options: ExportOptions) -> Motion:
    """Return the motion of a capture, resampled if ``options.fps`` asks for it.

    Raises:
        UsageError: ``options.fps`` is no frame rate.
    """
    from scipy.spatial.transform import Rotation

    from recon3d.export._resample import at_rate

    if options.fps is not None:
        capture = at_rate(capture, options.fps)
    joints = _rest_joints(capture, head)
    seconds = capture.timestamps - capture.timestamps[0]
    kept = np.unique(seconds.astype(np.float32), return_index=True)[1]
    pose = capture.pose[kept].astype(np.float64)
    rotations = Rotation.from_rotvec(pose.reshape(-1, 3)).as_quat().reshape(*pose.shape[:2], 4)
    # Camera space to the scene is a half turn about X: i * (x, y, z, w) = (w, -z, y, -x).
    x, y, z, w = rotations[:, GLOBAL].T.copy()
    rotations[:, GLOBAL] = np.stack([w, -z, y, -x], axis=-1)
    root = (joints[GLOBAL] + capture.translation[kept]) @ FRONTAL
    seen = capture.tracked[kept]
    camera = joints[GLOBAL] - root[seen if seen.any() else slice(None)].mean(axis=0)
    return Motion(
        times=seconds[kept],
        rate=nominal_rate(capture),
        weights=capture.expression[kept],
        rotations=_continuous(rotations),
        root=root + camera,
        joints=joints,
        camera=camera,
    )


def still_motion(capture: Capture, frame: Still) -> Motion:
    """Return the one frame of a photograph: the head stands straight at its place, as in ``mesh.glb``."""
    from scipy.spatial.transform import Rotation

    joints = frame.joints.astype(np.float64)
    return Motion(
        times=np.zeros(1),
        rate=nominal_rate(capture),
        weights=frame.expression[None],
        rotations=Rotation.from_rotvec(frame.rotations.astype(np.float64)).as_quat()[None],
        root=joints[None, GLOBAL],
        joints=joints,
        camera=joints[GLOBAL]
        - (joints[GLOBAL] + capture.translation[frame.frame].astype(np.float64)) @ FRONTAL,
    )


def _rest_joints(capture: Capture, head: HeadModel) -> Doubles:
    import torch

    with torch.no_grad():
        joints: Doubles = head.rest_joints(as_batch(capture.shape, head))[0].cpu().double().numpy()
    return joints


def nominal_rate(capture: Capture) -> float:
    """Return the frames per second that a capture states, or that its timestamps suggest."""
    if capture.fps > 0:
        return capture.fps
    steps = np.diff(capture.timestamps)
    steps = steps[steps > 0]
    return float(1 / np.median(steps)) if len(steps) else DEFAULT_RATE


def _continuous(rotations: Doubles) -> Doubles:
    """Choose between q and -q, which are the same rotation, the one nearer to the frame before."""
    flips = (rotations[1:] * rotations[:-1]).sum(-1, keepdims=True) < 0
    signs = np.cumprod(np.where(flips, -1.0, 1.0), axis=0)
    return np.concatenate([rotations[:1], rotations[1:] * signs])
