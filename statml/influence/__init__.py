"""Training-data influence: which training records made the model what it is."""

from . import functionals, metrics
from ._base import BaseInfluence
from .auto import Influence
from .data_shapley import DataShapley
from .displays import (
    CaseDiagnosticsDisplay,
    DetectionCurveDisplay,
    InfluenceAgreementDisplay,
    LDSDisplay,
    RemovalCurveDisplay,
    SelfInfluenceDisplay,
    TopInfluenceDisplay,
)
from .glm_oracle import GLMOracle
from .hydra import HyDRA
from .influence_function import InfluenceFunction
from .influential_subset import InfluentialSubset, most_influential_subset
from .kernel_oracle import KernelOracle
from .knn_shapley import KNNShapley
from .leave_one_out import LeaveOneOut
from .models import make_oracle
from .monte_carlo import MonteCarloValues
from .newton_step import NewtonStep
from .oracle import GradientOracle
from .representer_point import RepresenterPoint
from .sgd_influence import SGDInfluence
from .source import Source
from .subset_ensemble import SubsetEnsemble
from .tracin import TracIn
from .trajectory import Trajectory, record_sgd
from .trak import TRAK
from .tree_influence import TreeInfluence

__all__ = [
    "TRAK",
    "BaseInfluence",
    "CaseDiagnosticsDisplay",
    "DataShapley",
    "DetectionCurveDisplay",
    "GLMOracle",
    "GradientOracle",
    "HyDRA",
    "Influence",
    "InfluenceAgreementDisplay",
    "InfluenceFunction",
    "InfluentialSubset",
    "KNNShapley",
    "KernelOracle",
    "LDSDisplay",
    "LeaveOneOut",
    "MonteCarloValues",
    "NewtonStep",
    "RemovalCurveDisplay",
    "RepresenterPoint",
    "SGDInfluence",
    "SelfInfluenceDisplay",
    "Source",
    "SubsetEnsemble",
    "TopInfluenceDisplay",
    "TracIn",
    "Trajectory",
    "TreeInfluence",
    "functionals",
    "make_oracle",
    "metrics",
    "most_influential_subset",
    "record_sgd",
]
