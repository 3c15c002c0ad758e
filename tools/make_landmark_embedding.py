"""Places the 478 dense and the 68 iBUG landmarks, and the jaw's contour lines, on a head model.

    python tools/make_landmark_embedding.py [HEAD.npz] [--renders 160]

With --renders 0 the dense landmarks stay as they are, and the others are placed by them anew. Writes them
into the file itself, as triangle + barycentric arrays (``lmk_*``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from recon3d.face import open_face_source
from recon3d.files import atomic_path
from recon3d.head import HeadModel, LandmarkEmbedding, load_head
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
    if options.renders:
        dense = _place_dense(head, options.renders, options.seed)
    else:
        dense = head.embeddings["mediapipe478"]
    sparse = ibug68(head, dense)
    lines = contour_lines(head, sparse)
    with np.load(options.head, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files if not key.startswith("lmk_")}
    for name, embedding in (("mediapipe478", dense), ("ibug68", sparse), ("contour", lines)):
        arrays[f"lmk_{name}_triangle"] = embedding.triangle.numpy().astype(np.int32)
        arrays[f"lmk_{name}_barycentric"] = embedding.barycentric.numpy()
    with atomic_path(options.head) as path:
        np.savez_compressed(path, **arrays)


def _place_dense(head: HeadModel, renders: int, seed: int) -> LandmarkEmbedding:
    result = embed_landmarks(head, open_face_source("mediapipe"), renders=renders, seed=seed)
    spread = result.spread * 1e3
    print(
        f"{head.name}: 478 landmarks from {result.renders} renders; "
        f"spread median {np.median(spread):.2f} mm, "
        f"90th percentile {np.percentile(spread, 90):.2f} mm, worst {spread.max():.2f} mm"
    )
    return result.embedding


if __name__ == "__main__":
    main()
