"""Finding faces: boxes, dense landmarks and ARKit scores."""

from recon3d.face.source import Face, FaceSource, open_face_source

__all__ = ["Face", "FaceSource", "open_face_source"]
