"""A pinhole camera with full perspective: camera space (metres) to pixels and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Points nearer than this (metres, behind the camera included) have no picture.
NEAR = 1e-3


@dataclass(frozen=True, eq=False)
class Camera:
    """A batch of B pinhole cameras with square pixels that share one image size.

    Camera space is OpenCV's (+X right, +Y down, +Z into the scene, metres); pixels start at the image's
    top-left corner, pixel centres at half-integers. A camera of batch 1 serves any batch of points.

    Attributes:
        focal: (B,) focal length, px.
        principal: (B,2) principal point x, y, px.
        size: Image width and height, px.
    """

    focal: Tensor
    principal: Tensor
    size: tuple[int, int]

    @staticmethod
    def create(
        focal: float | Sequence[float],
        size: tuple[int, int],
        principal: tuple[float, float] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Camera:
        """Return a camera from plain numbers: one ``focal`` (px), or a list for a batch.

        ``principal`` (px) is the middle of the image unless told.
        """
        focals = [focal] if isinstance(focal, (int, float)) else list(focal)
        centre = principal if principal is not None else (size[0] / 2, size[1] / 2)
        return Camera(
            torch.tensor([float(f) for f in focals], dtype=dtype, device=device),
            torch.tensor([centre] * len(focals), dtype=dtype, device=device),
            (int(size[0]), int(size[1])),
        )

    def project(self, points_cam: Tensor) -> Tensor:
        """Project (B,N,3) camera-space points, m, to (B,N,3): x and y in px, and the depth z, m, unchanged.

        Differentiable to the points, ``focal`` and ``principal``; computed in the points' dtype. Points
        behind the camera are projected through it, to the other side: the returned z tells them apart, and
        the rasterizer cuts triangles between the two. Within ``NEAR`` of the camera's plane, z is replaced
        by ``NEAR`` in the division, so that x and y stay finite.
        """
        focal, principal = self._like(points_cam)
        depth = points_cam[..., 2:3]
        divisor = torch.where(depth < 0, depth.clamp_max(-NEAR), depth.clamp_min(NEAR))
        pixels = points_cam[..., :2] * (focal[:, None, None] / divisor) + principal[:, None]
        return torch.cat((pixels, depth), dim=-1)

    def unproject(self, points_px: Tensor) -> Tensor:
        """Undo ``project``: (B,N,3) x px, y px, z m to (B,N,3) camera-space points, m. Differentiable."""
        focal, principal = self._like(points_px)
        depth = points_px[..., 2:3]
        plane = (points_px[..., :2] - principal[:, None]) / focal[:, None, None]
        return torch.cat((plane * depth, depth), dim=-1)

    def scaled(self, factor: float) -> Camera:
        """Return the camera of the same picture resized by ``factor`` (its size is rounded to whole px)."""
        width, height = (max(1, round(side * factor)) for side in self.size)
        return Camera(self.focal * factor, self.principal * factor, (width, height))

    def cropped(self, left: float, top: float, size: tuple[int, int]) -> Camera:
        """Return the camera of a window of the picture: its top-left corner (px) and its size (w, h)."""
        offset = torch.tensor([left, top], dtype=self.principal.dtype, device=self.principal.device)
        return Camera(self.focal, self.principal - offset, size)

    def to(self, like: Tensor) -> Camera:
        """Return the camera with the dtype and device of ``like``."""
        focal, principal = self._like(like)
        return Camera(focal, principal, self.size)

    def _like(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return (
            self.focal.to(dtype=points.dtype, device=points.device),
            self.principal.to(dtype=points.dtype, device=points.device),
        )
