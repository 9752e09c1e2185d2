"""Loss mixing: weights for every loss of every record, learned on a small clean validation set.

Nothing here needs torch but `AMALClassifier` and `meta_gradient`; names are loaded when they are asked for.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "AMALClassifier": "estimator",
    "AlignmentDisplay": "displays",
    "CAGE": "cage",
    "DawidSkene": "dawid_skene",
    "DistillationLoss": "auxiliary",
    "Entropy": "auxiliary",
    "LabelMatrix": "rule_set",
    "LambdaHistogramDisplay": "displays",
    "LambdaPathDisplay": "displays",
    "MajorityVote": "majority_vote",
    "PerExample": "auxiliary",
    "RuleSet": "rule_set",
    "RuleVotes": "auxiliary",
    "SoftTarget": "auxiliary",
    "Teacher": "auxiliary",
    "head_meta_gradient": "head",
    "meta_gradient": "one_step",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return list(__all__)
