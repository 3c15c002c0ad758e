"""How much of an emotion the expression's numbers hold: a linear probe.

A logistic regression reads the emotion off the numbers alone, on faces that it was not fitted to. It says
nothing of single units, but it is the one test of expressions on real photographs without truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recon3d.errors import MissingExtraError
from recon3d.evaluation.archives import read_pictures

Pixels = npt.NDArray[np.uint8]
_LABELS = "labels.json"
#: Too few pictures show these.
LEFT_OUT = ("contempt", "fear")
_FOLDS = 5


def read_emotions(archive: str | Path) -> Iterator[tuple[Pixels, str]]:
    """Read pictures (H,W,3) and their labels, in the order of their names.

    Raises:
        InputError: The archive is missing, damaged, or is another one.
    """
    for _, pixels, label in read_pictures(archive, _LABELS, "emotion.zip"):
        yield pixels, str(label)


def probe(values: npt.NDArray[np.floating], labels: list[str], seed: int = 0) -> float:
    """Return the balanced accuracy with which a linear model reads labels off values (n,P).

    Five folds, each class alike in all; classes weigh the same however rare they are.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import balanced_accuracy_score
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingExtraError(
            "the emotion probe needs scikit-learn: pip install 'recon3d[train]'"
        ) from error
    kept = np.array([label not in LEFT_OUT for label in labels])
    chosen = np.array(labels)[kept]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    told = cross_val_predict(model, values[kept], chosen, cv=folds)
    return float(balanced_accuracy_score(chosen, told))
