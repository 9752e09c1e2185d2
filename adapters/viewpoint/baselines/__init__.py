"""Policies that are not learned. One a file."""

from ._policy import Policy, run_episodes
from .greedy_information import GreedyInformationPolicy
from .nearest_frontal import NearestFrontalPolicy
from .random import RandomPolicy

__all__ = [
    "GreedyInformationPolicy",
    "NearestFrontalPolicy",
    "Policy",
    "RandomPolicy",
    "run_episodes",
]
