"""Ways to read an expression off a face, side by side: landmarks, scores, the encoder, and them together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recon3d._threads import one_thread
from recon3d.encoder.crop import cut_out
from recon3d.encoder.encoder import FaceEncoder, Told
from recon3d.face import Face
from recon3d.fitting import (
    FitState,
    LandmarkSolver,
    default_focal,
    guess_from_encoder,
    guess_from_scores,
)

Pixels = npt.NDArray[np.uint8]
T = TypeVar("T")

#: The ways, as tables name them.
LANDMARKS, SCORES, BOTH_SCORES = "landmarks only", "face-stage scores", "scores + landmarks"
ENCODER, BOTH = "encoder only", "encoder + landmarks"
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Reading:
    """What one way reads off n faces.

    Attributes:
        expression: (n,52).
        state: The fitted head; None where nothing was fitted.
        rotation: (n,3,3) head to camera; None where it is not told.
        shape: (n,S) identity; None where it is not told.
    """

    expression: Tensor
    state: FitState | None = None
    rotation: Tensor | None = None
    shape: Tensor | None = None


class Reader:
    """Reads faces in every way."""

    def __init__(self, solver: LandmarkSolver, encoder: FaceEncoder | None) -> None:
        """Use a solver for the dense landmarks and, if there is one, an encoder."""
        self._solver, self._encoder = solver, encoder
        self._spent, self._faces = dict[str, float](), 0

    def read(self, pictures: Sequence[Pixels], faces: Sequence[Face]) -> Mapping[str, Reading]:
        """Read one face in each picture, by every way."""
        self._faces += len(faces)
        with one_thread():
            parts = [
                self._read(pictures[k : k + _BATCH], faces[k : k + _BATCH])
                for k in range(0, len(faces), _BATCH)
            ]
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}

    def _read(self, pictures: Sequence[Pixels], faces: Sequence[Face]) -> dict[str, Reading]:
        scores = torch.from_numpy(np.stack([face.scores for face in faces if face.scores is not None]))
        hint = guess_from_scores(scores)
        found = {
            LANDMARKS: self._timed(LANDMARKS, lambda: self._fitted(pictures, faces, None)),
            SCORES: Reading(scores),
            BOTH_SCORES: self._timed(BOTH_SCORES, lambda: self._fitted(pictures, faces, hint)),
        }
        if (encoder := self._encoder) is not None:
            told = self._timed(ENCODER, lambda: _told(encoder, pictures, faces))
            found[ENCODER] = _as_reading(told)
            told_hint = guess_from_encoder(torch.from_numpy(told.expression), torch.from_numpy(told.variance))
            found[BOTH] = self._timed(BOTH, lambda: self._fitted(pictures, faces, told_hint))
        return found

    def milliseconds(self) -> Mapping[str, float]:
        """Return how long each way took a face so far, beyond finding it; scores come with finding it."""
        spent = dict(self._spent)
        if BOTH in spent:
            spent[BOTH] += spent[ENCODER]
        return {name: 1000 * seconds / max(self._faces, 1) for name, seconds in spent.items()}

    def _timed(self, name: str, work: Callable[[], T]) -> T:
        start = perf_counter()
        done = work()
        self._spent[name] = self._spent.get(name, 0.0) + perf_counter() - start
        return done

    def _fitted(
        self, pictures: Sequence[Pixels], faces: Sequence[Face], hint: tuple[Tensor, Tensor] | None
    ) -> Reading:
        points = torch.from_numpy(np.stack([face.landmarks[:, :2] for face in faces]))
        focal, principal = cameras(pictures, faces)
        guess, confidence = hint or (None, None)
        state = self._solver.fit(points, focal, principal, guess=guess, confidence=confidence).state
        return Reading(state.expression, state, state.rotation, state.shape)


def cameras(pictures: Sequence[Pixels], faces: Sequence[Face]) -> tuple[Tensor, Tensor]:
    """Focal lengths (n,) and principal points (n,2) as they are guessed for pictures without EXIF."""
    sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
    focal = [default_focal(face.landmarks, size) for face, size in zip(faces, sizes, strict=True)]
    return torch.tensor(focal, dtype=torch.float32), torch.tensor(sizes, dtype=torch.float32) / 2


def _told(encoder: FaceEncoder, pictures: Sequence[Pixels], faces: Sequence[Face]) -> Told:
    return encoder.tell([cut_out(p, face.landmarks) for p, face in zip(pictures, faces, strict=True)])


def _as_reading(told: Told) -> Reading:
    columns = (torch.from_numpy(c) for c in (told.expression, told.rotation, told.shape))
    expression, rotation, shape = columns
    return Reading(expression, None, rotation, shape)


def _joined(parts: Sequence[Reading]) -> Reading:
    def join(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    states = [part.state for part in parts if part.state is not None]
    state = None
    if states:
        columns = zip(*(vars(one).values() for one in states), strict=True)
        state = FitState(*(torch.cat(column) for column in columns))
    expression = torch.cat([part.expression for part in parts])
    return Reading(expression, state, join("rotation"), join("shape"))
