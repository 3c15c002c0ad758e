"""Region masks and the plain colours of the open head."""

from __future__ import annotations

import numpy as np

from open_head.assembly import Assembly
from open_head.eyes import IRIS_RING, PUPIL_RING
from open_head.source import Array, Mask, Source

#: sRGB, a neutral skin and what stands out of it; only for previews and for the landmark embedding.
_COLORS = {
    "skin": (0.78, 0.60, 0.51),
    "lips": (0.66, 0.36, 0.34),
    "brows": (0.27, 0.18, 0.13),
    "mouth_inside": (0.35, 0.13, 0.13),
    "tongue": (0.70, 0.36, 0.36),
    "teeth": (0.90, 0.88, 0.82),
    "sclera": (0.93, 0.91, 0.89),
    "iris": (0.33, 0.23, 0.15),
    "pupil": (0.03, 0.03, 0.03),
}


def _influence(source: Source, assembly: Assembly, *stems: str) -> Array:
    """Largest displacement (V,) m of each vertex under the local changes whose name starts so."""
    labels = [str(x).split(":")[-1] for x in source.model.blendshape_labels]
    rows = [i for i, x in enumerate(labels) if (x[2:] if x[:2] in ("l-", "r-") else x).startswith(stems)]
    if not rows:
        raise RuntimeError(f"no change of the source starts with {stems}")
    moved = np.zeros(len(assembly.piece))
    found = np.linalg.norm(source.changes[rows][:, assembly.copied], axis=-1).max(0)
    moved[: len(found)] = found
    return moved


def region_masks(source: Source, assembly: Assembly, vertices: Array, weights: Array) -> dict[str, Mask]:
    """Name the parts of the head: each a (V,) mask. Masks may overlap (lips lie within the face)."""
    skin = assembly.piece == 0
    hidden = np.zeros(len(skin), bool)
    hidden[assembly.inside_mouth] = True
    hidden[assembly.sockets] = True
    inside_mouth = np.zeros(len(skin), bool)
    inside_mouth[assembly.inside_mouth] = True
    outside = skin & ~hidden
    # Vertices on the seam between lip and mouth belong to both sides; they are the lips' inner edge.
    x, y, z = vertices.T
    ear = _influence(source, assembly, "ear-shape", "ear-flap", "ear-lobe")
    ears = outside & (ear > 0.6e-3) & (np.abs(x) > 0.055)
    lips = _lips(source, assembly, inside_mouth) & skin
    nose = outside & (_influence(source, assembly, "nose-scale", "nose-volume") > 2e-3) & ~lips
    blink = np.zeros(len(skin))
    for side in ("Left", "Right"):
        unit = np.linalg.norm(source.units[f"eyeBlink{side}"][assembly.copied], axis=1)
        blink[: len(unit)] = np.maximum(blink[: len(unit)], unit)
    eyelids = skin & (blink > 1.0e-3)
    brows = _brows(assembly, vertices) & outside
    neck_base = vertices[skin & (weights[:, 0] > 0.3)][:, 1].max()
    chin = y[lips].min() - 0.045
    neck = outside & ~ears & (y < np.minimum(chin, chin - 0.6 * (0.02 - z))) & (z < z[lips].max() - 0.02)
    neck |= outside & (weights[:, 0] > 0.3) & (y <= neck_base)
    front = z > z[ears].max() - 0.002
    hairline = y < y[brows].max() + 0.045
    face = outside & front & hairline & ~ears & ~neck
    neck |= outside & ~face & ~ears & (y < y[lips].mean()) & (z > z[ears].min() - 0.01)
    neck |= neck[assembly.mirror]
    scalp = outside & ~face & ~ears & ~neck
    regions = {
        "face": face,
        "lips": lips,
        "eyelids": eyelids,
        "brows": brows,
        "nose": nose,
        "ears": ears,
        "scalp": scalp,
        "neck": neck,
        "eyeballs": assembly.piece >= 3,
        "left_eyeball": assembly.piece == 3,
        "right_eyeball": assembly.piece == 4,
        "eye_sockets": hidden & ~inside_mouth,
        "mouth_inside": inside_mouth | (assembly.piece == 1) | (assembly.piece == 2),
        "teeth": assembly.piece == 2,
        "tongue": assembly.piece == 1,
    }
    return {name: mask | mask[assembly.mirror] if name[:4] not in ("left", "righ") else mask
            for name, mask in regions.items()}  # fmt: skip


def _lips(source: Source, assembly: Assembly, inside_mouth: Mask) -> Mask:
    """The vermilion: what the source's lip-volume changes inflate, and the seam to the mouth's inside."""
    volume = _influence(source, assembly, "mouth-upperlip-volume", "mouth-lowerlip-volume")
    seam = np.zeros(len(inside_mouth), bool)
    touched = assembly.triangles[(inside_mouth[assembly.triangles].sum(1) > 0)]
    mixed = touched[~inside_mouth[touched].all(1)]
    seam[mixed[inside_mouth[mixed]]] = True
    for _ in range(3):  # the rim that a smile turns outward near the corners is lip as well
        seam[assembly.triangles[seam[assembly.triangles].any(1)]] = True
    return np.asarray(volume > 0.35 * volume.max()) | (seam & ~_deep(assembly, inside_mouth))


def _deep(assembly: Assembly, inside_mouth: Mask) -> Mask:
    """Vertices of the mouth's inside that are not on its rim."""
    outside = np.zeros(len(inside_mouth), bool)
    outside[assembly.triangles[~inside_mouth[assembly.triangles].all(1)]] = True
    return inside_mouth & ~outside


def _brows(assembly: Assembly, vertices: Array) -> Mask:
    """Two bands over the eyes, by the proportions of a face: there is no hair in the source."""
    marked = np.zeros(len(vertices), bool)
    for piece in (3, 4):
        ball = vertices[assembly.piece == piece]
        eye = (ball.max(0) + ball.min(0)) / 2
        outward = np.sign(eye[0])
        dx = outward * (vertices[:, 0] - eye[0])
        dy = vertices[:, 1] - eye[1]
        arch = 0.0175 + 0.004 * (1 - ((dx - 0.006) / 0.024) ** 2)
        thickness = np.where(dx < 0.012, 0.0048, 0.0036)
        marked |= (np.abs(dy - arch) < thickness) & (dx > -0.018) & (dx < 0.029) & (vertices[:, 2] > 0.02)
    return marked


def paint(assembly: Assembly, regions: dict[str, Mask]) -> Array:
    """(V, 3) plain sRGB colours in [0, 1]."""
    colors = np.tile(np.array(_COLORS["skin"]), (len(assembly.piece), 1))
    for name in ("lips", "brows"):
        colors[regions[name]] = _COLORS[name]
    inner = regions["mouth_inside"] & ~regions["lips"]
    colors[inner] = _COLORS["mouth_inside"]
    colors[regions["teeth"]] = _COLORS["teeth"]
    colors[regions["tongue"]] = _COLORS["tongue"]
    for piece in (3, 4):
        ball = np.flatnonzero(assembly.piece == piece)
        ring = assembly.eyeball.ring
        colors[ball] = _COLORS["sclera"]
        colors[ball[ring <= IRIS_RING]] = _COLORS["iris"]
        colors[ball[ring <= PUPIL_RING]] = _COLORS["pupil"]
    return colors
