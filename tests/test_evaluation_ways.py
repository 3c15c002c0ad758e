"""``recon3d evaluate``: the figures are right where the answer is known."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from face_clips import face_frames, wall_frames, write_clip
from PIL import Image
from scipy.spatial.transform import Rotation

from recon3d.encoder.encoder import FaceEncoder
from recon3d.encoder.network import EncoderConfig, EncoderNetwork
from recon3d.errors import InputError, UsageError
from recon3d.evaluation.clips import score_clips
from recon3d.evaluation.emotions import probe, read_emotions
from recon3d.evaluation.expressions import BOTH, BOTH_SCORES, ENCODER, LANDMARKS, SCORES, Reader
from recon3d.evaluation.metrics import curve_jitter
from recon3d.evaluation.renders import draw_renders, score_renders, shape_error
from recon3d.evaluation.report import EvaluationReport
from recon3d.face import open_face_source
from recon3d.fitting import LandmarkSolver
from recon3d.head import HeadModel
from recon3d.training.expressions import ExpressionSampler
from recon3d.training.synthetic import OTHER


def test_every_way_is_judged_on_the_same_renders(head: HeadModel) -> None:
    torch.manual_seed(0)
    encoder = FaceEncoder(EncoderNetwork(EncoderConfig(mixed=64)).eval())
    faces = draw_renders(head, OTHER, ExpressionSampler(), 24, seed=5)
    scores = score_renders(faces, head, Reader(LandmarkSolver(head), encoder))
    assert list(scores) == [LANDMARKS, SCORES, BOTH_SCORES, ENCODER, BOTH]
    for name, score in scores.items():
        assert -1 <= score.correlation <= 1 and 0 < score.mae < 0.5 and len(score.units) == 52, name
        assert np.isnan(score.rotation) == np.isnan(score.shape) == (name == SCORES)
    assert scores[LANDMARKS].rotation < scores[ENCODER].rotation, "random weights know no rotation"
    rows = EvaluationReport(renders=scores, nme={BOTH: (3.0, 4.0)}).rows()
    assert [row["way"] for row in rows] == list(scores) and rows[-1]["nme51"] == 3.0


def test_the_shape_error_forgets_how_the_head_lies(head: HeadModel) -> None:
    shape = torch.randn(2, head.num_shape, generator=torch.Generator().manual_seed(0))
    assert shape_error(head, shape, shape) < 1e-3
    assert shape_error(head, shape[:1], shape[1:]) > 1
    # A component alone, against a rigid alignment done by scipy.
    one, zero = torch.zeros(1, head.num_shape), torch.zeros(1, head.num_shape)
    one[0, 0] = 2
    face = torch.from_numpy(head.regions["face"])
    a, b = (head.unposed(s, torch.zeros(1, 52))[0, face].double().numpy() for s in (one, zero))
    a, b = a - a.mean(0), b - b.mean(0)
    turn, _ = Rotation.align_vectors(b, a)
    wanted = np.linalg.norm(turn.apply(a) - b, axis=1).mean() * 1000
    assert shape_error(head, one, zero) == pytest.approx(wanted, rel=1e-3)


def test_jitter_by_hand() -> None:
    steps = np.arange(100.0)
    curves = np.stack([steps % 2, np.sin(steps / 30), np.full(100, 0.3)], axis=1)
    # Up and down by 1 each frame: second differences of 2, a deviation of 1/2.
    assert curve_jitter(curves[:, :1]) == pytest.approx(4.0)
    assert curve_jitter(curves[:, 1:]) < 0.01  # what stands still counts nothing
    assert np.isnan(curve_jitter(curves[:, 2:]))
    noise = np.random.default_rng(0).normal(size=(4000, 3))
    assert curve_jitter(noise) == pytest.approx(np.sqrt(6) * np.sqrt(2 / np.pi), rel=0.03)
    with pytest.raises(UsageError, match="at least 3 frames"):
        curve_jitter(curves[:2])


def test_clips_are_read_frame_by_frame(head: HeadModel, tmp_path: Path) -> None:
    clips = [
        write_clip(tmp_path / "face.mp4", face_frames(8)),
        write_clip(tmp_path / "wall.mp4", wall_frames(4)),
    ]
    reader = Reader(LandmarkSolver(head), None)
    jitter = score_clips(clips, open_face_source("mediapipe"), reader)
    assert set(jitter) <= {LANDMARKS, SCORES, BOTH_SCORES} and jitter
    assert all(0 < value < 5 for value in jitter.values())
    assert set(reader.milliseconds()) == {LANDMARKS, BOTH_SCORES}  # scores come with finding the face
    assert all(value > 0 for value in reader.milliseconds().values())


def test_the_probe_tells_what_can_be_told() -> None:
    rng = np.random.default_rng(0)
    labels = ["joy"] * 60 + ["anger"] * 30 + ["fear"] * 5
    values = rng.normal(size=(95, 4))
    assert probe(values, labels) == pytest.approx(0.5, abs=0.2)
    values[:60, 0] += 6
    assert probe(values, labels) > 0.97


def test_emotion_pictures_are_read_in_order_and_wrong_files_explained(tmp_path: Path) -> None:
    archive = tmp_path / "emotion.zip"
    with zipfile.ZipFile(archive, "w") as bundle:
        for name, level in (("b.png", 200), ("a.png", 100)):
            picture = io.BytesIO()
            Image.new("L", (8, 6), level).save(picture, "PNG")
            bundle.writestr(name, picture.getvalue())
        bundle.writestr("labels.json", json.dumps({"b.png": "joy", "a.png": "anger"}))
    read = list(read_emotions(archive))
    assert [label for _, label in read] == ["anger", "joy"]
    assert read[0][0].shape == (6, 8, 3) and read[0][0].max() == 100
    with pytest.raises(InputError, match=r"no such file; emotion\.zip is needed"):
        list(read_emotions(tmp_path / "none.zip"))
    archive.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"not the archive of pictures with labels\.json, or damaged"):
        list(read_emotions(archive))
