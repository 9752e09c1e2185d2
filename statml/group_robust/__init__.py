"""Group robustness: models whose worst group does well, and the discovery of groups that do badly.

The convex core: group distributionally robust optimisation with a certificate and confidence intervals. Its
counterpart for networks is ``statml.adapters.group_robust``.
"""

from .agro import AGROClassifier
from .cvar import CVaRClassifier
from .dfr import DeepFeatureReweighting
from .displays import GroupPathDisplay
from .eiil import EIILPartition
from .group_dro import GroupDROClassifier, GroupDRORegressor
from .jtt import JTTClassifier
from .metrics import group_report, make_worst_group_scorer, worst_group_score
from .path import GroupPath
from .xrm import XRMPartition

__all__ = [
    "AGROClassifier",
    "CVaRClassifier",
    "DeepFeatureReweighting",
    "EIILPartition",
    "GroupDROClassifier",
    "GroupDRORegressor",
    "GroupPath",
    "GroupPathDisplay",
    "JTTClassifier",
    "XRMPartition",
    "group_report",
    "make_worst_group_scorer",
    "worst_group_score",
]
