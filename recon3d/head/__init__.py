"""The parametric head: FLAME's formula over the open head or a file of FLAME's format."""

from recon3d.head.model import HeadModel, HeadOutput, LandmarkEmbedding, load_head

__all__ = ["HeadModel", "HeadOutput", "LandmarkEmbedding", "load_head"]
