"""How steady the ways to read a face are on real clips, whose truth nobody knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from recon3d.evaluation.expressions import Pixels, Reader
from recon3d.evaluation.metrics import curve_jitter
from recon3d.face import Face, FaceSource
from recon3d.media.video import open_clip

#: Clips that are looked at, in the order of their names, and frames of each.
_CLIPS, _FRAMES = 10, 48


def score_clips(clips: Sequence[Path], source: FaceSource, reader: Reader) -> dict[str, float]:
    """Read clips frame by frame, unsmoothed: ``curve_jitter`` of each way, mean over the clips.

    Clips in which a frame shows no face, or fewer than three frames, count nothing.
    """
    jitter: dict[str, list[float]] = {}
    for clip in clips[:_CLIPS]:
        pictures, faces = _faces(clip, source)
        if len(pictures) < 3:
            continue
        for name, reading in reader.read(pictures, faces).items():
            jitter.setdefault(name, []).append(curve_jitter(reading.expression.numpy()))
    return _means(jitter)


def _faces(path: Path, source: FaceSource) -> tuple[list[Pixels], list[Face]]:
    """The first frames of a clip and the face in each; nothing if one has none."""
    with open_clip(path) as clip:
        pictures = [frame.pixels for frame in islice(clip.frames(), _FRAMES)]
    found = [source.find(picture, max_faces=1) for picture in pictures]
    if not all(found):
        return [], []
    return pictures, [faces[0] for faces in found]


def _means(values: Mapping[str, list[float]]) -> dict[str, float]:
    kept = {name: [x for x in row if np.isfinite(x)] for name, row in values.items()}
    return {name: float(np.mean(row)) for name, row in kept.items() if row}
