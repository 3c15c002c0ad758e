"""``recon3d evaluate``: every way to read a face, on everything that can tell right from wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recon3d.errors import UsageError
from recon3d.evaluation.clips import score_clips
from recon3d.evaluation.emotions import probe, read_emotions
from recon3d.evaluation.expressions import Reader, cameras
from recon3d.evaluation.lfpw import Split, detect, project68, read_lfpw
from recon3d.evaluation.metrics import nme_outer_eye
from recon3d.evaluation.renders import RenderScore, draw_renders, score_renders
from recon3d.evaluation.synthetic import read_live_link
from recon3d.face import Face, open_face_source
from recon3d.fitting import LandmarkSolver
from recon3d.head import HeadModel
from recon3d.training.expressions import ExpressionSampler
from recon3d.training.synthetic import OTHER

Say = Callable[[str], None]
#: Of the renders that are judged by; training has others.
_SEED = 1000


@dataclass
class EvaluationReport:
    """Figures of each way to read a face, by the way's name.

    Attributes:
        renders: On renders of settings that training never used.
        nme: On photographs marked by hand: (inner 51 points, all 68), percent.
        emotions: Balanced accuracy of the linear probe.
        jitter: On real clips, frame by frame (``curve_jitter``).
        milliseconds: A face, beyond the face stage's own time; batches of 32, one thread.
    """

    renders: dict[str, RenderScore] = field(default_factory=dict)
    nme: dict[str, tuple[float, float]] = field(default_factory=dict)
    emotions: dict[str, float] = field(default_factory=dict)
    jitter: dict[str, float] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """One row a way, with what is known of it."""
        names = list(dict.fromkeys([*self.renders, *self.nme, *self.emotions, *self.jitter]))
        rows = []
        for name in names:
            row: dict[str, Any] = {"way": name}
            if name in self.renders:
                score = self.renders[name]
                row |= {
                    "correlation": score.correlation, "mae": score.mae, "lids_mm": score.lids,
                    "lips_mm": score.lips, "rotation_degrees": score.rotation, "shape_mm": score.shape,
                }  # fmt: skip
            if name in self.nme:
                row |= {"nme51": self.nme[name][0], "nme68": self.nme[name][1]}
            if name in self.emotions:
                row["emotion_accuracy"] = self.emotions[name]
            if name in self.jitter:
                row["jitter"] = self.jitter[name]
            if name in self.milliseconds:
                row["milliseconds"] = self.milliseconds[name]
            rows.append(row)
        return rows


def evaluate_renders(
    report: EvaluationReport, head: HeadModel, reader: Reader, count: int, recording: Path | None
) -> None:
    """Judge by new renders of other settings."""
    rows = None if recording is None else read_live_link(recording).numpy()
    faces = draw_renders(head, OTHER, ExpressionSampler(rows, odd=True), count, _SEED)
    report.renders = score_renders(faces, head, reader)


def evaluate_photographs(
    report: EvaluationReport, archive: Path, head: HeadModel, reader: Reader, split: Split, limit: int | None
) -> None:
    """Judge by photographs with 68 points marked by hand."""
    source = open_face_source("mediapipe")
    pictures, faces, marked = [], [], []
    for photograph in read_lfpw(archive, split, limit):
        found = detect(photograph, source)
        if found.face is not None:
            pictures.append(photograph.pixels)
            faces.append(found.face)
            marked.append(found.points)
    focal, principal = cameras(pictures, faces)
    true = np.stack(marked)
    for name, reading in reader.read(pictures, faces).items():
        if reading.state is None:
            continue
        points = project68(head, reading.state, focal, principal).numpy()
        inner, whole = (float(nme_outer_eye(points, true, jaw=jaw).mean()) for jaw in (False, True))
        report.nme[name] = inner, whole


def evaluate_emotions(report: EvaluationReport, archive: Path, reader: Reader) -> None:
    """Judge by how well emotions are told from the expressions alone."""
    source = open_face_source("mediapipe")
    pictures, faces, labels = [], list[Face](), []
    for pixels, label in read_emotions(archive):
        found = source.find(pixels, max_faces=1)
        if found:
            pictures.append(pixels)
            faces.append(found[0])
            labels.append(label)
    for name, reading in reader.read(pictures, faces).items():
        report.emotions[name] = probe(reading.expression.numpy(), labels)


def evaluate(
    head: HeadModel,
    *,
    encoder: Path | bool = True,
    data: Path | None = None,
    renders: int = 1000,
    split: Split = "report",
    limit: int | None = None,
    say: Say = lambda line: None,
) -> EvaluationReport:
    """Judge every way to read a face.

    Args:
        head: The open head.
        encoder: True for the one that comes with recon3d, weights, or False to leave it out.
        data: Folder with ``photos/lfpw_train.zip``, ``photos/emotion.zip``, ``videos/*.mp4`` and
            ``livelink/rom_3.csv``; what is not there is left out.
        renders: How many are drawn.
        split: Of the photographs.
        limit: At most so many photographs.
        say: Told what is being done.

    Raises:
        UsageError: No renders are asked for, and none of the data is there.
        AssetError: The encoder cannot be used.
        InputError: The data is damaged.
    """
    from recon3d.encoder.encoder import choose_encoder

    reader = Reader(LandmarkSolver(head), choose_encoder(encoder, head))
    report = EvaluationReport()
    folder = data or Path("nowhere")
    recording = folder / "livelink" / "rom_3.csv"
    if renders:
        say(f"{renders} renders")
        evaluate_renders(report, head, reader, renders, recording if recording.exists() else None)
    if (archive := folder / "photos" / "lfpw_train.zip").exists():
        say(f"photographs marked by hand, {split} half")
        evaluate_photographs(report, archive, head, reader, split, limit)
    if (archive := folder / "photos" / "emotion.zip").exists():
        say("emotions")
        evaluate_emotions(report, archive, reader)
    if clips := sorted((folder / "videos").glob("*.mp4")):
        say("clips")
        report.jitter = score_clips(clips, open_face_source("mediapipe"), reader)
    report.milliseconds = dict(reader.milliseconds())
    if not report.rows():
        raise UsageError("there is nothing to judge by; give --renders, or --data with the archives")
    return report
