"""Places the 478 dense and the 68 iBUG landmarks, and the jaw's contour lines, on a head model.

    python tools/make_landmark_embedding.py [HEAD.npz] [--renders 160]

Writes them into the file itself, as triangle + barycentric arrays (``lmk_*``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from recon3d.face import open_face_source
from recon3d.files import atomic_path
from recon3d.head import load_head
from recon3d.head.contour import contour_lines
from recon3d.head.embedding import embed_landmarks, ibug68


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("head", type=Path, nargs="?", default=Path("flame_model/open_head.npz"))
    parser.add_argument("--renders", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    head = load_head(options.head)
    result = embed_landmarks(head, open_face_source("mediapipe"), renders=options.renders, seed=options.seed)
    dense = result.embedding
    sparse = ibug68(dense)
    lines = contour_lines(head, sparse)
    with np.load(options.head, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files if not key.startswith("lmk_")}
    for name, embedding in (("mediapipe478", dense), ("ibug68", sparse), ("contour", lines)):
        arrays[f"lmk_{name}_triangle"] = embedding.triangle.numpy().astype(np.int32)
        arrays[f"lmk_{name}_barycentric"] = embedding.barycentric.numpy()
    with atomic_path(options.head) as path:
        np.savez_compressed(path, **arrays)
    spread = result.spread * 1e3
    print(
        f"{options.head}: 478 landmarks from {result.renders} renders; "
        f"spread median {np.median(spread):.2f} mm, "
        f"90th percentile {np.percentile(spread, 90):.2f} mm, worst {spread.max():.2f} mm"
    )


if __name__ == "__main__":
    main()
