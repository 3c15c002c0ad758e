"""Measures how far to believe the face stage's scores, on renders of the open head with known expressions.

    python tools/calibrate_scores.py --take TAKE.csv [--renders 1000] [--share 0.5]

Writes assets/score_calibration.json: for every ARKit unit a rest value, a gain, and the inverse variance of
the calibrated score as an observation of the unit. TAKE.csv is a Live Link Face recording, for natural
expressions.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from recon3d.conventions import ARKIT_MIRROR, ARKIT_NAMES, FRONTAL
from recon3d.face import FaceSource, open_face_source
from recon3d.files import atomic_path
from recon3d.fitting import FitState
from recon3d.head import HeadModel, load_head
from recon3d.head.rotation import axis_angle_to_matrix
from recon3d.render.camera import Camera
from recon3d.render.shading import Lighting, render_head

Floats = npt.NDArray[np.float64]
_SIZE = 288
#: Below this correlation with the truth a score says nothing.
_USELESS = 0.15
_LARGEST_GAIN = 1.5


def read_take(path: Path) -> Floats:
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    return np.array([[float(x) for x in row[2:54]] for row in rows[1:] if len(row) == len(rows[0])])


def random_expression(rng: np.random.Generator, take: Floats) -> Floats:
    """A recorded expression, one unit (or a pair of sides) alone, or a sparse mixture, in equal parts."""
    kind = rng.integers(3)
    if kind == 0:
        return np.asarray(take[rng.integers(len(take))])
    if kind == 1:
        single = np.zeros(52)
        single[rng.integers(51)] = rng.uniform(0.2, 1)
        both = rng.random() < 0.5
        return np.maximum(single, single[list(ARKIT_MIRROR)]) if both else single
    return rng.uniform(0, 1, 52) * (rng.random(52) < 0.1)


def render_and_score(
    head: HeadModel, source: FaceSource, expression: Floats, rng: np.random.Generator
) -> npt.NDArray[np.float32] | None:
    """Draw a random person with this expression from a random side; return the scores (52,)."""
    shape = torch.tensor(rng.normal(0, 0.7, (1, head.num_shape)), dtype=torch.float32)
    turn = torch.tensor(rng.uniform(-1, 1, (1, 3)) * [0.25, 0.4, 0.2], dtype=torch.float32)
    rotation = torch.tensor(FRONTAL, dtype=torch.float32) @ axis_angle_to_matrix(turn)
    distance = float(rng.uniform(0.5, 1.3))
    shift = [rng.uniform(-0.02, 0.02), rng.uniform(-0.03, 0.01), distance]
    state = FitState(rotation, torch.tensor([shift], dtype=torch.float32), shape, torch.zeros(1, 52))
    _, _, pose, translation = state.posed(head)
    vertices = head(shape, torch.tensor(expression[None], dtype=torch.float32), pose).vertices
    lighting = Lighting(
        key_direction=(float(rng.uniform(-1, 1)), float(rng.uniform(-1, 0.1)), -1.0),
        key=float(rng.uniform(0.4, 0.8)), fill=0.2, sky=0.3, ground=0.15, wrap=0.3, specular=0.05, rim=0.0,
    )  # fmt: skip
    tint = torch.tensor(rng.uniform(0.6, 1.15, (1, 3)), dtype=torch.float32)
    shown = render_head(
        vertices + translation[:, None],
        head.faces,
        Camera.create(0.6 * _SIZE * distance / 0.2, (_SIZE, _SIZE)),
        (head.colors * tint).clamp(0, 1),
        lighting=lighting,
        supersample=2,
        background=(float(rng.uniform(0.1, 0.9)),) * 3,
    )
    faces = source.find((shown.image[0].clamp(0, 1) * 255).byte().numpy(), max_faces=1)
    return faces[0].scores if faces else None


def calibrate(scores: Floats, truth: Floats) -> dict[str, dict[str, float]]:
    """Fit ``unit = gain · max(score - rest, 0)`` for each unit, both sides of the face alike."""
    mirror = list(ARKIT_MIRROR)
    scores = np.concatenate([scores, scores[:, mirror]])
    truth = np.concatenate([truth, truth[:, mirror]])
    table = {}
    for k, name in enumerate(ARKIT_NAMES):
        rest = float(np.median(scores[truth[:, k] < 0.05, k]))
        above = np.maximum(scores[:, k] - rest, 0)
        gain, confidence = 0.0, 0.0
        if above.std() > 1e-4:
            slope = min(float(above @ truth[:, k] / (above @ above)), _LARGEST_GAIN)
            predicted = np.clip(slope * above, 0, 1)
            correlation = float(np.corrcoef(predicted, truth[:, k])[0, 1])
            if correlation > _USELESS:
                gain = slope
                # what an observation must be worth to shrink the unit's variance by the correlation's square
                confidence = correlation**2 / (1 - correlation**2) / float(truth[:, k].var())
        table[name] = {"rest": round(rest, 4), "gain": round(gain, 3), "confidence": round(confidence, 2)}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--take", type=Path, required=True)
    parser.add_argument("--renders", type=int, default=1000)
    parser.add_argument("--share", type=float, default=0.5, help="first part of the recording that is used")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("assets/score_calibration.json"))
    options = parser.parse_args()
    head, source, take = load_head(), open_face_source("mediapipe"), read_take(options.take)
    take = take[: round(len(take) * options.share)]
    rng = np.random.default_rng(options.seed)
    scores, truth = [], []
    for _ in range(options.renders):
        expression = random_expression(rng, take)
        found = render_and_score(head, source, expression, rng)
        if found is not None:
            scores.append(found.astype(np.float64))
            truth.append(expression)
    table = calibrate(np.array(scores), np.array(truth))
    document = {
        "format": "recon3d-score-calibration/1",
        "head": head.id,
        "renders": len(scores),
        "units": table,
    }
    with atomic_path(options.out) as path:
        path.write_text(json.dumps(document, indent=1) + "\n")
    used = sum(unit["gain"] > 0 for unit in table.values())
    print(f"{options.out}: {len(scores)} renders with a face; {used} of 52 scores are worth using")


if __name__ == "__main__":
    main()
