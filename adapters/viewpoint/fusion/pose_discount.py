"""Pose-discounted fusion: looks from nearly the same pose repeat each other, and together count as few.

n looks with a common correlation rho are worth n / (1 + (n - 1) rho) independent ones (the design effect of cluster samples, Kish 1965): never
more than 1 / rho. The look after n others gets the difference,

    w(n) = (n + 1) / (1 + n rho) - n / (1 + (n - 1) rho),    w(0) = 1.

Clusters are cells of distance and aspect: looks from other cells count as new.
"""

from __future__ import annotations

import numpy as np

from statml._validation import check_number

from ..geometry import distance_and_aspect
from ._fusion import CLIP, Fusion, State

N_DISTANCES, N_ASPECTS = (
    12,
    13,
)  # cells: the last distance is "12 m or more"; aspects cover the front half


class PoseDiscountFusion(Fusion):
    """The weight of a look falls with the number of earlier looks from its cell of poses.

    Parameters
    ----------
    correlation : float, default=0.5
        rho in [0, 1], of two looks from one cell; 0 is the product, 1 lets one look a cell count.
    """

    clip = CLIP

    def __init__(self, correlation: float = 0.5):
        self.correlation = check_number("correlation", correlation, 0, 1)

    def start(self, episodes: int, targets: int) -> State:
        return {"looks": np.zeros((episodes, targets, N_DISTANCES * N_ASPECTS))}

    def weigh(
        self, state: State, relative: np.ndarray, seen: np.ndarray
    ) -> tuple[np.ndarray, State]:
        cell = _cells(relative)[..., None]
        earlier = np.take_along_axis(state["looks"], cell, -1)
        looks = state["looks"].copy()
        np.put_along_axis(looks, cell, earlier + seen[..., None], -1)
        return _worth(earlier[..., 0] + 1, self.correlation) - _worth(
            earlier[..., 0], self.correlation
        ), {"looks": looks}

    def __repr__(self) -> str:
        return f"PoseDiscountFusion(correlation={self.correlation:g})"


def _cells(relative: np.ndarray) -> np.ndarray:
    """Cells of 1 m of distance by 15 degrees of aspect, the middle one centred on the front."""
    distance, aspect = distance_and_aspect(relative)
    near = np.minimum(distance, N_DISTANCES - 1).astype(int)
    turn = np.rint(aspect / np.radians(15.0)).astype(int) + N_ASPECTS // 2
    return near * N_ASPECTS + np.clip(turn, 0, N_ASPECTS - 1)


def _worth(n: np.ndarray, rho: float) -> np.ndarray:
    """How many independent looks n looks of one cell are worth; none are worth none."""
    return n / np.maximum(1 + (n - 1) * rho, np.finfo(float).tiny) * (n > 0)
