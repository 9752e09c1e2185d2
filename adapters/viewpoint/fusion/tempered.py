"""Tempered fusion: every look counts for less."""

from __future__ import annotations

import numpy as np

from statml._validation import check_number

from ._fusion import CLIP, Fusion, State


class TemperedFusion(Fusion):
    """b <- b p^w with one weight for all looks.

    Parameters
    ----------
    weight : float, default=0.5
        w in (0, 1].
    """

    clip = CLIP

    def __init__(self, weight: float = 0.5):
        self.weight = check_number("weight", weight, 0, 1, low_open=True)

    def start(self, episodes: int, targets: int) -> State:
        return {}

    def weigh(
        self, state: State, relative: np.ndarray, seen: np.ndarray
    ) -> tuple[np.ndarray, State]:
        return np.full(seen.shape, self.weight), state

    def __repr__(self) -> str:
        return f"TemperedFusion(weight={self.weight:g})"
