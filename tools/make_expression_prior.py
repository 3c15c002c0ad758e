"""Measures which ARKit units go together on a real face, from a Live Link Face recording.

    python tools/make_expression_prior.py --take TAKE.csv [--share 0.5]

Writes assets/expression_prior.json: the mean product of every two units over the first part of the recording
(the rest is left for evaluation), both sides of the face alike. Not centred: a face at rest is all zeros,
whatever the mean of a recording that was made to show every unit.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from recon3d.conventions import ARKIT_MIRROR, ARKIT_NAMES
from recon3d.evaluation.synthetic import read_live_link
from recon3d.files import atomic_path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--take", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.5, help="part of the recording that is used")
    parser.add_argument("--out", type=Path, default=Path("assets/expression_prior.json"))
    options = parser.parse_args()
    take = read_live_link(options.take).double().numpy()
    take = take[: round(len(take) * options.share)]
    both = np.concatenate([take, take[:, list(ARKIT_MIRROR)]])
    moments = both.T @ both / len(both)
    document = {
        "format": "recon3d-expression-prior/1",
        "frames": len(take),
        "units": list(ARKIT_NAMES),
        "moments": [[round(float(x), 5) for x in row] for row in moments],
    }
    with atomic_path(options.out) as path:
        path.write_text(json.dumps(document) + "\n")
    print(f"{options.out}: {len(take)} frames")


if __name__ == "__main__":
    main()
