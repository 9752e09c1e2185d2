"""Policies that are not learned. One a file."""

from ._policy import Policy
from .greedy_information import GreedyInformationPolicy
from .nearest_frontal import NearestFrontalPolicy
from .orbit import OrbitPolicy
from .random import RandomPolicy
from .tour import TourPolicy

__all__ = [
    "GreedyInformationPolicy",
    "NearestFrontalPolicy",
    "OrbitPolicy",
    "Policy",
    "RandomPolicy",
    "TourPolicy",
]
