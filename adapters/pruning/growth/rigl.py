"""RigL (Evci et al. 2020): drop the smallest, grow where the gradient is largest.

The fraction that moves falls along a cosine, (a/2) (1 + cos(pi t / T_end)) with a = 0.3 and T_end three quarters of the training.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from ._base import GROWTHS, Growth


@GROWTHS.register("rigl")
class RigL(Growth):
    """Rigged lottery."""

    alpha = 0.3

    def fraction(self, step: int) -> float:
        return cosine_fraction(self.alpha, step / self._end)

    def growth_scores(self, name: str, weight: nn.Parameter) -> Tensor:
        return weight.grad.abs()


def cosine_fraction(alpha: float, t: float) -> float:
    """Share of the weights that moves, t in [0, 1].

    Examples
    --------
    >>> [round(cosine_fraction(0.3, t), 5) for t in (0, 0.25, 0.5, 0.75)]
    [0.3, 0.25607, 0.15, 0.04393]
    """
    return alpha / 2 * (1 + math.cos(math.pi * t))
