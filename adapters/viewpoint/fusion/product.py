"""Conflation: the normalised product."""

from __future__ import annotations

import numpy as np

from ._fusion import CLIP, Fusion, State


class ProductFusion(Fusion):
    """Every look counts in full: Bayes' rule for looks that are independent given the class.

    Looks from one pose repeat each other's errors, and then beliefs of 95 % are right less often than that: see
    ``PoseDiscountFusion``.

    Parameters
    ----------
    clip : float, default=1e-6
        How near to 0 a look's probability is let.
    """

    def __init__(self, clip: float = CLIP):
        self.clip = clip

    def start(self, episodes: int, targets: int) -> State:
        return {}

    def weigh(self, state: State, relative: np.ndarray, seen: np.ndarray) -> tuple[None, State]:
        return None, state

    def __repr__(self) -> str:
        return "ProductFusion()"
