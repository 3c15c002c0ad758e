"""Pictures of the head: smooth normals, a small studio of lights, and the function that draws it all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recon3d.render.antialias import antialias
from recon3d.render.camera import Camera
from recon3d.render.rasterize import Fragments, blend, images_of, kernels_for, rasterize, scatter, seen

#: Colour of a head that brings none (sRGB, [0,1]).
CLAY = (0.66, 0.68, 0.72)

Direction = tuple[float, float, float]


@dataclass(frozen=True)
class Lighting:
    """Lights around the head. Directions point to the light in camera space (-Y is up, -Z to the viewer).

    Intensities count in linear light: a white surface that faces the key light alone gets ``key``.

    Attributes:
        key_direction: Where the main light stands; any length.
        key: Its intensity.
        fill_direction: Where the second light stands.
        fill: Its intensity.
        sky: Light from all around, on surfaces that look up.
        ground: Light from all around, on surfaces that look down.
        wrap: How far light reaches around the form: 0 is Lambert's law, 1 a half-dark ball (soft light).
        specular: Strength of the key light's highlight.
        shininess: Its sharpness, Blinn's exponent.
        rim: Strength of the bright line along the contour.
    """

    key_direction: Direction = (-0.80, -0.75, -0.62)
    key: float = 0.95
    fill_direction: Direction = (0.85, -0.05, -0.55)
    fill: float = 0.13
    sky: float = 0.17
    ground: float = 0.07
    wrap: float = 0.15
    specular: float = 0.10
    shininess: float = 24.0
    rim: float = 0.16


#: Lights for people's eyes: form is readable at a glance.
STUDIO = Lighting()

#: Lights like those of a portrait: for a face detector, and for judging colours.
SOFT = Lighting(
    key_direction=(-0.35, -0.45, -0.90),
    key=0.55,
    fill=0.22,
    sky=0.30,
    ground=0.18,
    wrap=0.4,
    specular=0.03,
    rim=0.0,
)


@dataclass(frozen=True, eq=False)
class RenderOutput:
    """Pictures of B heads. With ``supersample`` s, the samples are s·H × s·W, and the picture their mean.

    Attributes:
        image: (B,H,W,3) sRGB in [0,1], background included.
        alpha: (B,H,W) part of the pixel that the head covers, [0,1]. Differentiable if antialiased.
        depth: (B,sH,sW) m, zero where there is no head.
        normals: (B,sH,sW,3) unit, camera space, turned to the viewer; zeros where there is no head.
        fragments: The samples' triangles and weights.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor
    normals: Tensor
    fragments: Fragments


def vertex_normals(verts: Tensor, faces: Tensor) -> Tensor:
    """Return smooth unit normals (B,V,3) of vertices (B,V,3): the mean of the faces, weighted by area.

    They point to the side from which the corners run counter-clockwise. A vertex of no face, or of faces
    without area, gets zeros. Differentiable.
    """
    kernels = kernels_for(verts)
    if kernels is not None:
        return F.normalize(kernels.FaceNormalSums.apply(verts, faces), dim=-1)
    first, second, third = (verts.index_select(1, faces[:, k]) for k in range(3))
    cross = torch.linalg.cross(second - first, third - first)  # twice the area long
    total = torch.zeros_like(verts)
    for k in range(3):
        total = total.index_add(1, faces[:, k], cross)
    return F.normalize(total, dim=-1)


def concavity(verts: Tensor, faces: Tensor) -> Tensor:
    """Return (B,V) how much each vertex lies below its neighbours: in about [-1,1], positive in hollows.

    The height of the neighbours' mean over the vertex along its normal, divided by their mean distance.
    Differentiable. Darkening hollows makes eyelids and lips readable on a head of one colour.
    """
    ends = torch.cat((faces, faces.roll(1, dims=1))).t()
    start, end = torch.cat((ends[0], ends[1], ends[2])), torch.cat((ends[1], ends[2], ends[0]))
    offsets = verts.index_select(1, end) - verts.index_select(1, start)
    row = torch.cat((offsets, offsets.norm(dim=-1, keepdim=True)), dim=-1)
    total = verts.new_zeros(*verts.shape[:2], 4).index_add(1, start, row)
    height = (total[..., :3] * vertex_normals(verts, faces)).sum(-1)
    return height / total[..., 3].clamp_min(1e-12)


def shade(normals: Tensor, colors: Tensor, lighting: Lighting = STUDIO) -> Tensor:
    """Light surface points: diffuse key and fill, light from all around, a highlight and a rim.

    The viewer counts as distant: highlight and rim are judged along the camera's axis. Gamma is taken as
    2, close to sRGB's and cheaper. Differentiable.

    Args:
        normals: (...,3) unit normals in camera space, turned to the viewer.
        colors: (...,3) diffuse colour in linear light, broadcast against the normals.
        lighting: The lights.

    Returns:
        (...,3) sRGB in [0,1].
    """
    key, fill = _unit(lighting.key_direction), _unit(lighting.fill_direction)
    half = _unit((key[0], key[1], key[2] - 1.0))
    toward = torch.tensor((key, fill, half), dtype=normals.dtype, device=normals.device)
    on_key, on_fill, on_half = (normals @ toward.T).unbind(-1)
    up, facing = -normals[..., 1], -normals[..., 2]
    light = _wrapped(on_key, lighting.wrap) * lighting.key + _wrapped(on_fill, lighting.wrap) * lighting.fill
    light = light + up * ((lighting.sky - lighting.ground) / 2) + (lighting.sky + lighting.ground) / 2
    shine = on_half.clamp(min=1e-6) ** lighting.shininess * lighting.specular
    if lighting.rim > 0:
        # Stronger above than below, as if a lamp stood behind the head.
        grazing = 1 - facing.clamp(0, 1)
        shine = shine + grazing * grazing * grazing * (up * 0.5 + 0.5) * lighting.rim
    linear = colors * light[..., None] + shine[..., None]
    return linear.clamp(1e-6, 1).sqrt()


def render_head(
    vertices_cam: Tensor,
    faces: Tensor,
    camera: Camera,
    colors: Tensor | None = None,
    *,
    lighting: Lighting = STUDIO,
    background: tuple[float, float, float] = (0.5, 0.5, 0.5),
    supersample: int = 1,
    antialiased: bool = False,
    cull_backfaces: bool = False,
    backend: str | None = None,
) -> RenderOutput:
    """Draw heads with smooth shading.

    Differentiable but for the choice of the triangle at each sample, unless ``antialiased``: then the picture
    follows its outlines, too.

    Args:
        vertices_cam: (B,V,3) camera space, m.
        faces: (F,3) int64.
        camera: One camera, or one an image.
        colors: (V,3) or (B,V,3) sRGB diffuse colours in [0,1]; None draws clay.
        lighting: ``STUDIO``, ``SOFT`` or your own.
        background: sRGB in [0,1].
        supersample: Samples per pixel and axis; 2 gives pictures with smooth edges.
        antialiased: Blend the samples along outlines (recon3d.render.antialias).
        cull_backfaces: Leave out surfaces seen from behind.
        backend: The rasterizer; None takes the fastest one.
    """
    if supersample > 1:
        camera = camera.scaled(supersample)
    verts_px = camera.project(vertices_cam)
    fragments = rasterize(verts_px, faces, camera.size, cull_backfaces=cull_backfaces, backend=backend)
    where, triangle, weights = seen(fragments)
    carried = _carried(vertices_cam, faces, colors)
    values = blend(carried, faces, triangle, weights, images_of(where, fragments))
    normals = F.normalize(values[:, :3], dim=-1)
    if not cull_backfaces:
        normals = normals * _side(verts_px, faces, where, triangle, fragments)
    shaded = shade(normals, values[:, 3:], lighting)
    paper = shaded.new_tensor(background)
    picture = scatter(shaded - paper, where, fragments) + paper
    alpha = fragments.mask.to(picture.dtype)
    if antialiased:
        both = antialias(torch.cat((picture, alpha[..., None]), dim=-1), fragments, verts_px, faces)
        picture, alpha = both[..., :3], both[..., 3]
    if supersample > 1:
        picture = F.avg_pool2d(picture.movedim(-1, 1), supersample).movedim(1, -1)
        alpha = F.avg_pool2d(alpha[:, None], supersample)[:, 0]
    return RenderOutput(picture, alpha, fragments.depth, scatter(normals, where, fragments), fragments)


def _carried(vertices_cam: Tensor, faces: Tensor, colors: Tensor | None) -> Tensor:
    """What the vertices carry over the triangles (B,V,6): normal and linear colour."""
    normals = vertex_normals(vertices_cam, faces)
    chosen = normals.new_tensor(CLAY) if colors is None else colors.to(normals)
    return torch.cat((normals, chosen.square().expand_as(normals)), dim=-1)


def _side(verts_px: Tensor, faces: Tensor, where: Tensor, triangle: Tensor, fragments: Fragments) -> Tensor:
    """(n,1) 1 where the seen triangle shows its front, -1 where its back. No gradient."""
    (x0, y0), (x1, y1), (x2, y2) = (verts_px.detach()[:, faces[:, k], :2].unbind(-1) for k in range(3))
    front = (x1 - x0) * (y2 - y0) <= (x2 - x0) * (y1 - y0)
    for k in range(3):  # a corner behind the camera is projected to the other side
        front = front ^ (verts_px.detach()[:, faces[:, k], 2] < 0)
    image = images_of(where, fragments)
    index = triangle if image is None else triangle + image * len(faces)
    return front.reshape(-1).index_select(0, index).to(verts_px.dtype)[:, None] * 2 - 1


def _wrapped(cosine: Tensor, wrap: float) -> Tensor:
    return ((cosine + wrap) / (1 + wrap)).clamp_min(0)


def _unit(direction: Direction) -> Direction:
    length = math.hypot(*direction)
    return direction[0] / length, direction[1] / length, direction[2] / length
