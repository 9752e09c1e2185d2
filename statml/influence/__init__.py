"""Training-data influence: which training records made the model what it is."""

from ._base import BaseInfluence
from .glm_oracle import GLMOracle
from .kernel_oracle import KernelOracle
from .models import make_oracle
from .oracle import GradientOracle

__all__ = [
    "BaseInfluence",
    "GLMOracle",
    "GradientOracle",
    "KernelOracle",
    "make_oracle",
]
