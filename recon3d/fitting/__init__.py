"""Solving for the head: camera, identity, pose and expression from landmarks."""

from recon3d.fitting._priors import SPARSE
from recon3d.fitting._state import FitState
from recon3d.fitting.focal import default_focal
from recon3d.fitting.guess import guess_from_encoder, guess_from_scores
from recon3d.fitting.solver import FitResult, FitSettings, LandmarkSolver, Observed

__all__ = [
    "SPARSE",
    "FitResult",
    "FitSettings",
    "FitState",
    "LandmarkSolver",
    "Observed",
    "default_focal",
    "guess_from_encoder",
    "guess_from_scores",
]
