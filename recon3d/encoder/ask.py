"""Asking the encoder about the faces of a clip while the next frames are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recon3d.encoder.crop import CutOut, cut_out
from recon3d.face.source import Face

if TYPE_CHECKING:
    from recon3d.encoder.encoder import FaceEncoder, Told

#: Faces that are looked at together.
_BATCH = 16


class Asked:
    """Faces one after another, and what the encoder tells of them. For one chunk of a clip."""

    def __init__(self, encoder: FaceEncoder) -> None:
        """Ask this encoder."""
        self._encoder, self._waiting = encoder, list[CutOut]()
        self._pool = ThreadPoolExecutor(1, "recon3d-encoder")
        self._answers: list[Future[Told]] = []

    def about(self, pixels: npt.NDArray[np.uint8], faces: Sequence[Face]) -> None:
        """Ask about the faces of a frame (H,W,3)."""
        self._waiting += [cut_out(pixels, face.landmarks) for face in faces]
        if len(self._waiting) >= _BATCH:
            self._send()

    def told(self) -> Told:
        """Return what the encoder tells of all faces, in the order in which it was asked."""
        self._send()
        with self._pool:
            answers = [answer.result() for answer in self._answers]
        return self._encoder.joined(answers)

    def _send(self) -> None:
        faces, self._waiting = self._waiting, []
        # One batch is looked at while the next is gathered; no more, so that memory stays flat.
        if len(self._answers) > 1:
            self._answers[-2].result()
        self._answers.append(self._pool.submit(self._encoder.tell, faces))
