"""68 iBUG landmarks by the ``face-alignment`` package, an optional extra.

Method: A. Bulat and G. Tzimiropoulos, How far are we from solving the 2D & 3D Face Alignment problem?,
ICCV 2017.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recon3d.assets import is_offline
from recon3d.errors import AssetError, MissingExtraError
from recon3d.face._crop import Pixels
from recon3d.face.dense import DenseSource
from recon3d.face.source import MAX_FACES, Face, bounds, check_pixels

NETWORK = "2DFAN-4"


class FanSource:
    """Finds faces as :class:`DenseSource` does and gives 68 landmarks for each. Not thread-safe.

    Its networks see an upright crop, so strongly turned faces fare worse than with the default source.
    Expression scores are those of the default source's networks.
    """

    def __init__(self, *, weights_dir: str | Path | None = None, device: str = "cpu", **options: Any) -> None:
        """Load the networks.

        Args:
            weights_dir: Folder that holds the package's own weights file; by default the package's
                downloader fetches it (about 95 MB) into torch's hub cache.
            device: A torch device.
            options: As for :class:`DenseSource`, which finds the faces.

        Raises:
            MissingExtraError: ``face-alignment`` is not installed.
            AssetError: The weights cannot be had or loaded.
        """
        try:
            from face_alignment import api
        except ImportError as error:
            raise MissingExtraError(
                f'the fan face source needs face-alignment ({error}): pip install "recon3d[fan]"'
            ) from error
        weights = _find_weights(api, weights_dir)
        self._aligner: Any = _open_aligner(api, weights, device)
        self._dense = DenseSource(**options)

    def find(self, pixels: Pixels, *, max_faces: int = MAX_FACES) -> list[Face]:
        """Return at most ``max_faces`` faces of an (H,W,3) uint8 RGB image, the most prominent first.

        Raises:
            InputError: The array is not such an image.
        """
        pixels = check_pixels(pixels)
        found = self._dense.find(pixels, max_faces=max_faces)
        if not found:
            return []
        boxes = [[*map(float, face.box), face.score] for face in found]
        points = self._aligner.get_landmarks_from_image(pixels, detected_faces=boxes)
        return [_with_points(face, np.asarray(p, np.float32)) for face, p in zip(found, points, strict=True)]


def _with_points(face: Face, points: np.ndarray[Any, np.dtype[np.float32]]) -> Face:
    flat = np.concatenate((points[:, :2], np.zeros((len(points), 1), np.float32)), axis=1)
    return Face(bounds(flat), face.score, flat, "ibug68", face.scores)


def _find_weights(api: Any, weights_dir: str | Path | None) -> Path:
    """Return the path of the network's weights file, downloading it if no folder is given."""
    from urllib.parse import urlsplit

    url: str = api.models_urls[NETWORK]
    name = urlsplit(url).path.rsplit("/", 1)[-1]
    if weights_dir is not None:
        path = Path(weights_dir) / name
        if not path.is_file():
            raise AssetError(f"{path} is not there; put face-alignment's weights from {url} into that folder")
        return path
    import torch

    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if cached.is_file():
        return cached
    by_hand = f"download {url} by hand and give its folder as weights_dir"
    if is_offline():
        raise AssetError(f"{cached} is not there and RECON3D_OFFLINE forbids the network; {by_hand}")
    try:
        return Path(api.load_file_from_url(url, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise AssetError(f"{name} cannot be downloaded ({error}); {by_hand}") from error


def _open_aligner(api: Any, weights: Path, device: str) -> Any:
    """Build face-alignment's pipeline around one weights file, without its own face detector."""

    class Aligner(api.FaceAlignment):  # type: ignore[misc]  # the package is untyped
        def _load_native(self, network_name: str, network_size: int, device: str, dtype: Any) -> Any:
            return _load_network(api, weights, network_size).to(device, dtype=dtype)

    # "folder" is the one detector of the package that loads no weights; the boxes come from us.
    two_d = api.LandmarksType.TWO_D
    return Aligner(two_d, device=device, face_detector="folder", compile=False)


def _load_network(api: Any, weights: Path, size: int) -> Any:
    import pickle

    import torch

    network = api.FAN(size)
    try:
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AssetError(f"{weights}: not the weights of {NETWORK} ({reason})") from error
    return network.eval()
