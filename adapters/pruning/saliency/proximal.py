"""Penalties that prune while they train: the lasso and the group lasso, by proximal steps.

After each step of the optimizer (learning rate eta) every weight, or every group, is drawn towards zero and set to exactly zero
if it is near:

- L1: w <- sign(w) max(|w| - eta lambda, 0);
- group lasso (Yuan and Lin 2006; groups are the outputs of a layer, n_g weights each): w_g <- w_g max(1 - eta lambda sqrt(n_g) / ||w_g||, 0).

The score is the magnitude that is left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..records import Scoring
from ._base import SALIENCIES, Saliency


@SALIENCIES.register("l1")
class L1Prox(Saliency):
    """Lasso in training, magnitude afterwards.

    Parameters
    ----------
    strength : float, default=1e-4
        lambda, on the scale of the mean loss.
    """

    trained = True

    def __init__(self, strength: float = 1e-4):
        self.strength = strength

    @torch.no_grad()
    def after_step(self, weights, lr):
        for w in weights.values():
            w.copy_(torch.nn.functional.softshrink(w, lr * self.strength))

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        return {name: w.detach().abs() for name, w in scoring.weights.items()}


@SALIENCIES.register("group_lasso")
class GroupLasso(Saliency):
    """Group lasso over outputs in training, root mean square afterwards.

    Parameters
    ----------
    strength : float, default=1e-4
        lambda, on the scale of the mean loss.
    """

    trained = True

    def __init__(self, strength: float = 1e-4):
        self.strength = strength

    @torch.no_grad()
    def after_step(self, weights, lr):
        for w in weights.values():
            groups = w.flatten(1)
            norms = groups.norm(dim=1, keepdim=True)
            threshold = lr * self.strength * groups.shape[1] ** 0.5
            groups.mul_((1 - threshold / norms.clamp(min=torch.finfo(w.dtype).tiny)).clamp(min=0.0))

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        return {name: w.detach().square() for name, w in scoring.weights.items()}

    def link(self, total: Tensor, size: Tensor | float) -> Tensor:
        return (total / size).sqrt()
