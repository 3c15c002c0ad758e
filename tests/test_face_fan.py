"""The optional 68-point source, on weights of the right form made here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch

from recon3d.errors import AssetError, MissingExtraError
from recon3d.face import open_face_source

api = pytest.importorskip("face_alignment.api", reason="the fan extra is not installed")
WEIGHTS = "2DFAN4-11f355bf06.pth.tar"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("fan")
    torch.save(api.FAN(4).state_dict(), folder / WEIGHTS)
    return folder


def test_68_points_in_the_face_s_own_crop(weights: Path) -> None:
    pixels = np.array(skimage.data.astronaut())
    (dense,) = open_face_source().find(pixels)
    (face,) = open_face_source("fan", weights_dir=weights).find(pixels)
    assert face.kind == "ibug68"
    assert face.landmarks.shape == (68, 3) and face.landmarks.dtype == np.float32
    assert np.isfinite(face.landmarks).all() and (face.landmarks[:, 2] == 0).all()
    assert face.score == dense.score
    np.testing.assert_array_equal(face.scores, dense.scores)
    # Untrained weights point anywhere, but only within the crop that face-alignment takes around a box.
    middle, side = (dense.box[:2] + dense.box[2:]) / 2, (dense.box[2:] - dense.box[:2]).sum()
    assert np.abs(face.landmarks[:, :2] - middle).max() < 0.75 * side
    assert len(np.unique(face.landmarks[:, :2], axis=0)) > 5


def test_no_face_gives_no_points(weights: Path) -> None:
    assert open_face_source("fan", weights_dir=weights).find(np.zeros((64, 64, 3), np.uint8)) == []


def test_missing_weights_are_explained(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=WEIGHTS):
        open_face_source("fan", weights_dir=tmp_path)


def test_offline_without_weights_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECON3D_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(AssetError, match="RECON3D_OFFLINE"):
        open_face_source("fan")


@pytest.mark.parametrize("content", [b"", b"not weights", None])
def test_wrong_weights_are_explained(tmp_path: Path, content: bytes | None) -> None:
    if content is None:
        torch.save({"something": torch.zeros(3)}, tmp_path / WEIGHTS)
    else:
        (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(AssetError, match="not the weights of 2DFAN-4") as caught:
        open_face_source("fan", weights_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(MissingExtraError, match=r'pip install "recon3d\[fan\]"'):
        open_face_source("fan")
