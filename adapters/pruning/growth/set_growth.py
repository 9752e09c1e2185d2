"""SET (Mocanu et al. 2018): drop the smallest, regrow at random."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._base import GROWTHS, Growth


@GROWTHS.register("set")
class SET(Growth):
    """Sparse evolutionary training; 30 % of the weights move in each update."""

    zeta = 0.3

    def fraction(self, step: int) -> float:
        return self.zeta

    def growth_scores(self, name: str, weight: nn.Parameter) -> Tensor:
        return torch.rand_like(weight)
