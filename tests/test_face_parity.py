"""The face stage against MediaPipe's own Face Landmarker, which runs the same networks."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import skimage.data

from recon3d.face import FaceSource, open_face_source

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = ROOT / "tools" / "face_parity.py"
    spec = importlib.util.spec_from_file_location("face_parity", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["face_parity"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference(tool: ModuleType) -> Iterator[Any]:
    opened = tool.Reference()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def source() -> FaceSource:
    return open_face_source()


@pytest.mark.parametrize("cut", ["whole", "head", "mirrored", "wide"])
def test_the_astronaut_agrees(tool: ModuleType, reference: Any, source: FaceSource, cut: str) -> None:
    pixels = np.array(skimage.data.astronaut())
    pixels = {
        "whole": pixels,
        "head": pixels[20:240, 110:330],
        "mirrored": pixels[:, ::-1],
        "wide": pixels[40:260],
    }[cut]
    pixels = np.ascontiguousarray(pixels)
    theirs, ours = reference.find(pixels), source.find(pixels)
    assert len(theirs) == len(ours) == 1
    found = tool.compare(cut, theirs[0], ours)
    assert found is not None
    assert found.of_diagonal < 0.1
    assert found.scores.max() < 0.03
    if pixels.shape[0] == pixels.shape[1]:
        # Depth too; but MediaPipe scales it with x alone, wrong for a turned face in an oblong image.
        off = np.abs(ours[0].landmarks[:, 2] - theirs[0][0][:, 2]).max()
        assert off < 0.005 * np.linalg.norm(ours[0].box[2:] - ours[0].box[:2])


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the shared photographs are not here")
def test_photographs_agree(tool: ModuleType, reference: Any, source: FaceSource) -> None:
    differences, lost = [], 0
    for name, pixels in tool.photographs(PHOTOS, 24):
        ours = source.find(pixels)
        for face in reference.find(pixels):
            found = tool.compare(name, face, ours)
            lost += found is None
            differences += [found] if found is not None else []
    assert lost == 0 and len(differences) >= 24
    figures = tool.summarise(differences, 24, lost, 0)
    assert figures["landmarks_percent_of_box_diagonal"]["mean"] < 0.1
    assert figures["scores_mean_abs_difference"] < 0.005
    assert figures["blink_scores_mean_abs_difference"] < 0.01
    assert figures["share_of_faces_with_all_scores_within_0.03"] > 0.85
