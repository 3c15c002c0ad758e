"""The open head said in FLAME's manner: expressions without names, a jaw and eyeballs that turn, correctives.

For tests of what depends on the manner and not on FLAME's looks. The coefficients are principal directions of
the open head's units, less what eyeballs do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon3d.conventions import ARKIT_NAMES
from recon3d.resources import resource_path

Array = npt.NDArray[Any]
_COUNT = 30


def jointed_arrays(
    count: int = _COUNT, *, units: bool = True, left_out: tuple[str, ...] = ("eyeLook",)
) -> dict[str, Array]:
    """Return the arrays of such a head.

    Args:
        count: Components.
        units: With the open head's units as those carried over to it.
        left_out: Beginnings of names of units that the components do not show.
    """
    with np.load(resource_path("flame_model/open_head.npz"), allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    directions = arrays["exprdirs"].astype(np.float32)
    moves = [k for k, name in enumerate(ARKIT_NAMES) if not name.startswith(left_out)]
    basis, sizes, _ = np.linalg.svd(directions[..., moves].reshape(-1, len(moves)), full_matrices=False)
    arrays["exprdirs"] = (basis * sizes)[:, :count].reshape(len(directions), 3, -1).astype(np.float32) * 0.3
    # A little of FLAME's correctives: the chin gives as the jaw turns about X.
    correctives = np.zeros((len(directions), 3, 36), np.float32)
    correctives[:, 2, 9 + 5] = 0.01 * arrays["weights"][:, 2]
    arrays["posedirs"] = correctives
    arrays["joints_follow_expression"] = np.array(True)
    if units:
        arrays["arkitdirs"] = directions
        flat = arrays["f"].ravel()
        place = np.unique(flat, return_index=True)[1]  # every vertex is a corner
        arrays["lmk_open_head_triangle"] = place // 3
        arrays["lmk_open_head_barycentric"] = np.eye(3, dtype=np.float32)[place % 3]
    del arrays["expression_names"]
    return arrays


def write_jointed_head(path: Path, count: int = _COUNT, **options: Any) -> Path:
    """Write such a head; return ``path``."""
    np.savez(path, allow_pickle=False, **jointed_arrays(count, **options))
    return path
