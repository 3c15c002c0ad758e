"""From what was seen of a clip to captures: persons → fitting → capture.

The second half of the way; the first is recon3d.observe. Neither holds more than a few hundred frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recon3d._focal_option import Focal
from recon3d._records import CHUNK, Chunk, Records
from recon3d._threads import one_thread
from recon3d.capture import Capture
from recon3d.errors import NoFaceError, UsageError
from recon3d.fitting import FitState, LandmarkSolver, default_focal, guess_from_encoder, guess_from_scores
from recon3d.fitting.clip import Curves, Sights, best_frames, gaps, smoothed, solve_frames
from recon3d.fitting.controls import Controls
from recon3d.fitting.identity import Identity, Observations, solve_identity, solve_identity_and_focal
from recon3d.fitting.persons import Tracklet, group_persons
from recon3d.head import HeadModel
from recon3d.head.contour import landmarks68
from recon3d.observe import ClipSettings

#: Frames that tell the identity of a person, and of a single tracklet.
_IDENTITY_FRAMES, _TRACKLET_FRAMES = 40, 12
#: A tracklet that stands still for a cut's sake: frames darker or brighter than these tell little.
_LIGHT = (20.0, 245.0)


@dataclass(frozen=True)
class Person:
    """One person of a clip.

    Attributes:
        capture: The result, one row a frame of the clip.
        residual: Root mean square landmark distance over the tracked frames, in face sizes.
        lost: Start and end, s, of every stretch in which the face was not seen.
        cuts: Times, s, of the clip's cuts.
    """

    capture: Capture
    residual: float
    lost: tuple[tuple[float, float], ...]
    cuts: tuple[float, ...]


@dataclass(frozen=True)
class _Index:
    """All records of a clip but for the landmarks; rows are faces, in the order of the records."""

    times: npt.NDArray[np.float64]
    cuts: npt.NDArray[np.bool_]
    frame: npt.NDArray[np.int64]
    tracklet: npt.NDArray[np.int64]
    box: npt.NDArray[np.float32]
    score: npt.NDArray[np.float32]
    quality: npt.NDArray[np.float64]


class ClipSolver:
    """Solves the records of one clip after another with the same head."""

    def __init__(self, head: HeadModel, solver: LandmarkSolver) -> None:
        """Use a head model and its solver for the dense landmarks."""
        self._head, self._solver, self._threads = head, solver, 1

    def solve(
        self, records: Records, size: tuple[int, int], fps: float, name: str, settings: ClipSettings
    ) -> list[Person]:
        """Return the persons of a clip, the most prominent first.

        Args:
            records: From ``observe``.
            size: Width and height of the frames, px.
            fps: Frames per second.
            name: What the captures are to call the clip.
            settings: How.

        Raises:
            NoFaceError: Nobody was seen.
            UsageError: The stretch for the calibration shows nobody.
        """
        with one_thread() as self._threads:
            index = _read_index(records)
            if not len(index.frame):
                raise NoFaceError("no face found in the whole clip; show one larger or more from the front")
            if settings.calibrate is not None and not _at_rest(index, settings).any():
                start, end = settings.calibrate
                length = f"the clip is {index.times[-1]:.1f} s long"
                raise UsageError(f"--calibrate {start:g}:{end:g}: nobody is seen in this stretch; {length}")
            persons = [
                self._person(records, index, numbers, size, fps, name, settings)
                for numbers in self._persons(records, index, size, settings)
            ]
        found = [person for person in persons if person is not None]
        if not found:
            raise NoFaceError("a face was found, but no frame of it could be fitted")
        return found

    def _persons(
        self, records: Records, index: _Index, size: tuple[int, int], settings: ClipSettings
    ) -> list[list[int]]:
        numbers = np.unique(index.tracklet).tolist()
        tracklets = []
        for number in numbers:
            rows = np.flatnonzero(index.tracklet == number)
            identity = None
            if len(numbers) > 1 and len(rows) >= 4:
                identity = self._identity(records, index, rows, size, settings, single=True)
            extent = np.linalg.norm(index.box[rows, 2:] - index.box[rows, :2], axis=1).mean()
            tracklets.append(Tracklet(number, index.frame[rows], float(extent), identity))
        persons = group_persons(tracklets, len(index.times))
        limit = {"all": len(persons), "largest": 1}.get(str(settings.faces), settings.max_faces)
        return persons[:limit]

    def _identity(
        self,
        records: Records,
        index: _Index,
        rows: npt.NDArray[np.int64],
        size: tuple[int, int],
        settings: ClipSettings,
        *,
        single: bool = False,
        rest: bool = False,
    ) -> Identity:
        """Solve the identity of the person seen in ``rows``; ``rest``: all of them show the face at rest."""
        count = _TRACKLET_FRAMES if single else _IDENTITY_FRAMES
        best = rows[best_frames(index.quality[rows], count)]
        pixels, hints = _gather(records, best)
        guess, confidence = self._guess(hints)
        if rest:
            units = self._solver.controls.count
            guess, confidence = torch.zeros(len(best), units), torch.full((units,), 1e3)
        seen = Observations(pixels, torch.tensor(size, dtype=torch.float32) / 2, guess, confidence)
        guessed = default_focal(pixels[int(index.quality[best].argmax())].numpy(), size)
        given = None if settings.focal is None else Focal.parse(settings.focal).pixels(size)
        if given is not None or single:
            return solve_identity(self._solver, seen, given or guessed, rounds=3 if single else 6)
        return solve_identity_and_focal(self._solver, seen, guessed, self._threads)

    def _guess(
        self, hints: _Hints, rest: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Guess the expression of B faces; ``rest`` (52,) are the units of the face at rest."""
        units, confidence = hints.guess()
        return self._solver.guess_of(units if rest is None else (units - rest).clamp_min(0), confidence)

    def _person(
        self,
        records: Records,
        index: _Index,
        numbers: Sequence[int],
        size: tuple[int, int],
        fps: float,
        name: str,
        settings: ClipSettings,
    ) -> Person | None:
        """Return a person, or None where not one frame could be fitted."""
        rows = np.flatnonzero(np.isin(index.tracklet, numbers))
        at_rest = rows[_at_rest(index, settings)[rows]]
        rest = None
        if len(at_rest):
            identity = self._identity(records, index, at_rest, size, settings, rest=True)
            rest = _gather(records, at_rest)[1].guess()[0].median(0).values
        else:  # no calibration, or it is another person's
            identity = self._identity(records, index, rows, size, settings)
        principal = torch.tensor(size, dtype=torch.float32) / 2
        curves = Curves.empty(len(index.times), self._solver.controls.count)
        sights = self._sights(records, numbers, rest)
        solve_frames(self._solver, sights, curves, identity.shape, identity.focal, principal, self._threads)
        if not curves.tracked.any():
            return None
        breaks = _breaks(index, rows, curves.tracked)
        controls = self._solver.controls
        smooth = smoothed(curves, index.times, breaks, settings.smooth, controls=controls)
        units = smooth.expression
        if not self._head.speaks_arkit:
            given = self._seen_units(records, numbers, len(index.times), rest)
            raw = replace(curves, expression=given)
            seen = smoothed(raw, index.times, breaks, settings.smooth, controls=Controls.units(52))
            units = self._read_units(smooth.expression, seen.expression)
        capture = self._capture(index, rows, smooth, units, identity, size, fps, name)
        lost = tuple(
            (float(index.times[g.start]), float(index.times[g.stop - 1])) for g in gaps(curves.tracked)
        )
        cuts = tuple(float(t) for t in index.times[index.cuts])
        return Person(capture, float(np.sqrt(np.square(curves.residual[curves.tracked]).mean())), lost, cuts)

    def _seen_units(
        self, records: Records, numbers: Sequence[int], frames: int, rest: torch.Tensor | None
    ) -> npt.NDArray[np.float32]:
        """Return ARKit units (frames, 52) that networks see in the person of these tracklets; else 0.

        Scores are rescaled to what the units do on a head only where the head is then asked, too.
        """
        units = np.zeros((frames, 52), np.float32)
        for chunk in records:
            mine = np.isin(chunk.tracklet, numbers)
            if mine.any():
                hints = _Hints.of(chunk, mine)
                plain = hints.scores if hints.told is None else hints.told
                units[chunk.frame[mine]] = (hints.guess()[0] if self._head.knows_arkit else plain).numpy()
        return units if rest is None else (units - rest.numpy()).clip(0)

    def _read_units(
        self, expression: npt.NDArray[np.float32], seen: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Read the units (T, 52) off expressions, given those that networks saw; else these are all."""
        given = torch.from_numpy(seen)
        found = self._solver.units_of(torch.from_numpy(expression), given)
        return seen if found is None else found.numpy()

    def _sights(
        self, records: Records, numbers: Sequence[int], rest: torch.Tensor | None
    ) -> Iterator[Sights]:
        for chunk in records:
            mine = np.isin(chunk.tracklet, numbers)
            if mine.any():
                guess, confidence = self._guess(_Hints.of(chunk, mine), rest)
                pixels = torch.from_numpy(chunk.landmarks[mine])
                yield Sights(chunk.frame[mine], pixels, guess, confidence)

    def _capture(
        self,
        index: _Index,
        rows: npt.NDArray[np.int64],
        curves: Curves,
        units: npt.NDArray[np.float32],
        identity: Identity,
        size: tuple[int, int],
        fps: float,
        name: str,
    ) -> Capture:
        head, total = self._head, len(index.times)
        pose = np.zeros((total, head.num_joints, 3), np.float32)
        translation = np.zeros((total, 3), np.float32)
        coefficients = np.zeros((total, head.num_expression), np.float32)
        points = np.zeros((total, 68, 2), np.float32)
        shape = torch.zeros(head.num_shape)
        for start in range(0, total, CHUNK):
            part = slice(start, start + CHUNK)
            expression = torch.from_numpy(curves.expression[part])
            state = FitState(
                torch.from_numpy(curves.rotation[part]).float(),
                torch.from_numpy(curves.translation[part]).float(),
                identity.shape.expand(len(expression), -1),
                expression,
            )
            with torch.no_grad():
                shapes, own, turns, moved = state.posed(head)
                vertices = head(shapes, own, turns).vertices + moved[:, None]
                depth = vertices[..., 2:].clamp_min(1e-3)
                middle = torch.tensor(size, dtype=torch.float32) / 2
                points[part] = landmarks68(head, vertices[..., :2] / depth * identity.focal + middle).numpy()
            pose[part], translation[part], shape = turns.numpy(), moved.numpy(), shapes[0]
            coefficients[part] = own.numpy()
        box, score = _held(index, rows, points)
        return Capture(
            head=head.id,
            source=name,
            fps=fps,
            timestamps=index.times,
            image_size=np.array(size, np.int64),
            focal=identity.focal,
            principal=np.array(size, np.float64) / 2,
            shape=shape.numpy(),
            expression=coefficients,
            pose=pose,
            translation=translation,
            arkit=units.clip(0, 1),
            landmarks68=points,
            box=box,
            score=score,
            tracked=curves.tracked,
        )


def _read_index(records: Records) -> _Index:
    times, cuts, frame, tracklet, box, score, quality = [], [], [], [], [], [], []
    for chunk in records:
        times.append(chunk.times)
        cuts.append(chunk.cuts)
        frame.append(chunk.frame)
        tracklet.append(chunk.tracklet)
        score.append(chunk.score)
        points = chunk.landmarks
        boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1) if len(points) else None
        box.append(np.zeros((0, 4), np.float32) if boxes is None else boxes)
        quality.append(_quality(chunk, box[-1]))
    if not times:
        return _Index(*(np.zeros(0) for _ in range(7)))  # type: ignore[arg-type]
    joined = [np.concatenate(part) for part in (times, cuts, frame, tracklet, box, score, quality)]
    return _Index(*joined)


def _quality(chunk: Chunk, box: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """How well a frame shows the face: sharp, well lit, large and sure."""
    size = np.linalg.norm(box[:, 2:] - box[:, :2], axis=1)
    lit = (chunk.light > _LIGHT[0]) & (chunk.light < _LIGHT[1])
    sharp = chunk.sharpness / (1 + chunk.light)  # a dark face has small differences
    return np.asarray(sharp * np.sqrt(size) * chunk.score * np.where(lit, 1.0, 0.1), np.float64)


def _at_rest(index: _Index, settings: ClipSettings) -> npt.NDArray[np.bool_]:
    """(n,) bool: rows of the stretch for the calibration."""
    if settings.calibrate is None:
        return np.zeros(len(index.frame), bool)
    start, end = settings.calibrate
    time = index.times[index.frame]
    return np.asarray((time >= start) & (time <= end))


@dataclass(frozen=True)
class _Hints:
    """What networks say of the expressions of B faces.

    Attributes:
        scores: (B, 52) of the face stage.
        told: (B, 52) of the encoder, and ...
        variance: ... (B, 52) of its error; None where it was not asked.
    """

    scores: torch.Tensor
    told: torch.Tensor | None = None
    variance: torch.Tensor | None = None

    @staticmethod
    def of(chunk: Chunk, rows: npt.NDArray[Any]) -> _Hints:
        columns = (chunk.scores, chunk.told, chunk.variance)
        return _Hints(*(torch.from_numpy(column[rows]) for column in columns if column is not None))

    def guess(self) -> tuple[torch.Tensor, torch.Tensor]:
        """An expression (B, 52), and its confidence."""
        if self.told is not None and self.variance is not None:
            return guess_from_encoder(self.told, self.variance)
        return guess_from_scores(self.scores)


def _gather(records: Records, rows: npt.NDArray[np.int64]) -> tuple[torch.Tensor, _Hints]:
    """Return landmarks (K, N, 2) and hints of some rows of the index (rising)."""
    pixels, hints, first = [], [], 0
    for chunk in records:
        inside = rows[(rows >= first) & (rows < first + len(chunk.frame))] - first
        pixels.append(chunk.landmarks[inside])
        hints.append([v for v in vars(_Hints.of(chunk, inside)).values() if v is not None])
        first += len(chunk.frame)
    joined = (torch.cat(column) for column in zip(*hints, strict=True))
    return torch.from_numpy(np.concatenate(pixels)), _Hints(*joined)


def _breaks(
    index: _Index, rows: npt.NDArray[np.int64], tracked: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """(T,) bool: frames before which nothing goes on smoothly: cuts, and where another tracklet begins."""
    owner = np.full(len(tracked), -1)
    owner[index.frame[rows]] = index.tracklet[rows]
    changed = np.r_[False, (owner[1:] != owner[:-1]) & (owner[1:] >= 0) & (owner[:-1] >= 0)]
    return index.cuts | changed


def _held(
    index: _Index, rows: npt.NDArray[np.int64], points: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return box (T, 4) and score (T,): those seen; elsewhere the box of the eased head, and 0."""
    box = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).astype(np.float32)
    score = np.zeros(len(points), np.float32)
    box[index.frame[rows]] = index.box[rows]
    score[index.frame[rows]] = index.score[rows].clip(0, 1)
    return box, score
