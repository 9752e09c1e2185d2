"""Wholistic continual learning: bounds on what was seen, exemplars, queries, the order of tasks, and how to judge it all.

Everything imported here is numpy and scipy; what needs torch is loaded at its first use.
"""

from __future__ import annotations

import importlib

from .bound import Bound
from .combining import calibrated_combination, combine_p_values
from .compass import CompassDisplay, cleva_entry, write_cleva
from .conformal import ConformalBound, conformal_p_values
from .displays import AccuracyMatrixDisplay, LearningCurvesDisplay, OpenSetDisplay
from .distances import class_distances
from .evaluator import ContinualEvaluator, bound_score, entropy_score, softmax_score
from .metrics import (
    ContinualScores,
    OpenSetScores,
    auroc_interval,
    continual_scores,
    open_set_scores,
    openness,
    rejection_threshold,
)
from .peaks_over_threshold import PeaksOverThresholdBound, fit_gpd_tail
from .queries import QueryResult, query_pool
from .report import ContinualReport
from .selection import BoundFilter, Pool, select_exemplars
from .task_order import choose_task, outlier_shares
from .tasks import Task
from .weibull import WeibullBound, fit_weibull_tail, weibull_cdf, weibull_inverse

# name -> file of this folder: what needs torch, imported at its first use
_TORCH: dict[str, str] = {
    "OpenVAEClassifier": "open_vae",
    "Past": "replay",
    "Replayed": "replay",
    "VAE": "vae",
}

__all__ = [
    "AccuracyMatrixDisplay",
    "Bound",
    "BoundFilter",
    "CompassDisplay",
    "ConformalBound",
    "ContinualEvaluator",
    "ContinualReport",
    "ContinualScores",
    "LearningCurvesDisplay",
    "OpenSetDisplay",
    "OpenSetScores",
    "PeaksOverThresholdBound",
    "Pool",
    "QueryResult",
    "Task",
    "WeibullBound",
    "auroc_interval",
    "bound_score",
    "calibrated_combination",
    "choose_task",
    "class_distances",
    "cleva_entry",
    "combine_p_values",
    "conformal_p_values",
    "continual_scores",
    "entropy_score",
    "fit_gpd_tail",
    "fit_weibull_tail",
    "open_set_scores",
    "openness",
    "outlier_shares",
    "query_pool",
    "rejection_threshold",
    "select_exemplars",
    "softmax_score",
    "weibull_cdf",
    "weibull_inverse",
    "write_cleva",
]
__all__ += sorted(_TORCH)


def __getattr__(name: str):
    if name not in _TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_TORCH[name]}", __name__), name)
