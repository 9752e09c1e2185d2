"""L0 penalty by hard-concrete gates (Louizos, Welling and Kingma 2018).

Each weight runs as w z with a gate z in [0, 1] that is exactly zero with positive probability:

    s = sigmoid((log u - log(1 - u) + log alpha) / beta),   z = min(1, max(0, s (zeta - gamma) + gamma)),   u uniform.

The penalty is strength times the expected number of gates that are not zero, P(z != 0) = sigmoid(log alpha - beta log(-gamma / zeta)); beta = 2/3,
gamma = -0.1, zeta = 1.1. After training the gates are fixed at their value for the noise at its centre and
multiplied into the weights. The score is log alpha.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..records import Scoring
from ._base import SALIENCIES
from ._learned import LearnedSaliency

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


@SALIENCIES.register("l0")
class HardConcrete(LearnedSaliency):
    """Learned gates.

    Parameters
    ----------
    strength : float, default=1e-6
        Of the penalty, a weight, on the scale of the mean loss.
    lr : float, default=0.02
        Of the gates' own optimizer (Adam).
    """

    def __init__(self, strength: float = 1e-6, lr: float = 0.02):
        self.strength, self.lr = strength, lr

    def initial(self, w: Tensor) -> Tensor:
        return torch.full_like(w, 2.0)  # open in 97 of 100 draws

    def perturb(self, weights):
        return {name: w * sample_gate(self._extra[name]) for name, w in weights.items()}

    def penalty(self, weights):
        return self.strength * sum(probability_open(a).sum() for a in self._extra.values())

    @torch.no_grad()
    def finish(self, weights):
        for name, w in weights.items():
            w.mul_(stretch(self._extra[name].sigmoid()))

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        return {name: self._extra[name].detach().clone() for name in scoring.weights}


def stretch(s: Tensor) -> Tensor:
    """A number in (0, 1) stretched over both ends of [0, 1] and cut off there."""
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)


def sample_gate(log_alpha: Tensor) -> Tensor:
    """Draws of hard-concrete gates."""
    u = torch.rand_like(log_alpha).clamp(1e-6, 1 - 1e-6)
    return stretch(((u.log() - (-u).log1p() + log_alpha) / BETA).sigmoid())


def probability_open(log_alpha: Tensor) -> Tensor:
    """P(z != 0).

    Examples
    --------
    >>> import torch
    >>> probability_open(torch.tensor([-3.0, 0.0, 2.0]))
    tensor([0.1976, 0.8318, 0.9734])
    """
    return (log_alpha - BETA * math.log(-GAMMA / ZETA)).sigmoid()
