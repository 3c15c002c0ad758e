"""Synthetic faces: renders of the head model with exact truth."""

from recon3d.training.synthetic.faces import Faces, SyntheticFaces
from recon3d.training.synthetic.settings import OTHER, TRAINING, SyntheticSettings

__all__ = ["OTHER", "TRAINING", "Faces", "SyntheticFaces", "SyntheticSettings"]
