"""Builds flame_model/open_head.npz from MakeHuman's CC0 data, deterministically.

    pip install -c constraints.txt -e ".[build-head]"
    python tools/build_head_model.py [--out flame_model/open_head.npz]

The landmark embeddings are added afterwards by tools/make_landmark_embedding.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from open_head.assembly import assemble
from open_head.identity import learn_identity, sample_heads
from open_head.regions import paint, region_masks
from open_head.rig import joint_regressor, skinning_weights
from open_head.source import load_source
from open_head.units import unit_basis

from recon3d.conventions import ARKIT_NAMES
from recon3d.files import atomic_path


def build(samples: int, components: int, seed: int) -> dict[str, npt.NDArray[Any]]:
    """Run every step; returns the arrays of the file."""
    source = load_source()
    assembly = assemble(source)
    heads, joints = sample_heads(source, assembly, samples, seed)
    weights = skinning_weights(source, assembly)
    draft = heads.mean(0)
    regions = region_masks(source, assembly, draft, weights)
    importance = np.where(regions["face"] | regions["lips"] | regions["eyelids"], 4.0, 0.5)
    importance = np.where(regions["neck"] | regions["ears"] | (assembly.piece > 0), 0.1, importance)
    mean, basis, aligned, held = learn_identity(heads, joints, assembly.mirror, importance, components)
    ball = mean[assembly.piece == 3]
    eye_radius = float(np.linalg.norm(ball[0] - ball[-1])) / 2  # from pole to pole
    expressions = unit_basis(source, assembly, eye_radius)
    eye = mean[assembly.piece == 3].mean(0)
    origin = np.array([0.0, eye[1] - 0.02, eye[2] - 0.075])  # between the ears, as FLAME has it
    print(f"{len(mean)} vertices, {len(assembly.triangles)} triangles; {components} components "
          f"hold {100 * held:.2f} % of the variance of {samples} random adults")  # fmt: skip
    regressor = joint_regressor(_apply_alignment(heads, mean, importance), aligned, assembly)
    return {
        "v_template": (mean - origin).astype(np.float32),
        "f": assembly.triangles.astype(np.int32),
        "shapedirs": basis.astype(np.float16),
        "exprdirs": expressions.astype(np.float16),
        "posedirs": np.zeros((len(mean), 3, 0), np.float16),
        "J_regressor": regressor.astype(np.float32),
        "weights": weights.astype(np.float32),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.int32),
        "expression_names": np.array(ARKIT_NAMES),
        "uv": assembly.uv.astype(np.float32),
        "f_uv": assembly.faces_uv.astype(np.int32),
        "colors": paint(assembly, regions).astype(np.float16),
        "mirror": assembly.mirror.astype(np.int32),
        **{f"region_{name}": mask for name, mask in regions.items()},
    }


def _apply_alignment(
    heads: npt.NDArray[np.float64], mean: npt.NDArray[np.float64], importance: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    from open_head.identity import align

    rotation, translation = align(heads, mean, importance)
    moved: npt.NDArray[np.float64] = np.einsum("bij,bvj->bvi", rotation, heads) + translation[:, None]
    return moved


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("flame_model/open_head.npz"))
    parser.add_argument("--samples", type=int, default=1200)
    parser.add_argument("--components", type=int, default=120)
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    arrays = build(options.samples, options.components, options.seed)
    with atomic_path(options.out) as path:
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
