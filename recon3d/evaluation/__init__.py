"""How good is it: metrics, and the benchmarks that use them."""

from recon3d.evaluation.lfpw import LfpwReport, evaluate_lfpw, read_lfpw
from recon3d.evaluation.metrics import (
    mean_absolute_error,
    nme_outer_eye,
    rotation_error_degrees,
    unit_correlation,
)
from recon3d.evaluation.synthetic import SyntheticReport, evaluate_synthetic

__all__ = [
    "LfpwReport",
    "SyntheticReport",
    "evaluate_lfpw",
    "evaluate_synthetic",
    "mean_absolute_error",
    "nme_outer_eye",
    "read_lfpw",
    "rotation_error_degrees",
    "unit_correlation",
]
