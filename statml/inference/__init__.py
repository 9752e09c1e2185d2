"""What every statistical result has in common: tables, intervals, tests, error control."""

from .bootstrap import bootstrap_p_value, parametric_bootstrap, percentile_interval
from .coefficients import Coefficients, InferenceMixin
from .multiple_testing import FDRThreshold, adjust_pvalues, fdr_threshold
from .sandwich import sandwich

__all__ = [
    "Coefficients",
    "FDRThreshold",
    "InferenceMixin",
    "adjust_pvalues",
    "bootstrap_p_value",
    "fdr_threshold",
    "parametric_bootstrap",
    "percentile_interval",
    "sandwich",
]
