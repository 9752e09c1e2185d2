"""Sparse variational dropout (Molchanov, Ashukha and Vetrov 2017): a posterior for each weight, and prune what is mostly noise.

The posterior of a weight is N(w, sigma^2) with alpha = sigma^2 / w^2; the prior is log-uniform. In training the weights are drawn
from it, and the loss a record is penalised by the divergence over the number of records,

    KL = -k1 sigmoid(k2 + k3 log alpha) + log(1 + 1/alpha) / 2 + k1,   k = (0.63576, 1.87320, 1.48695).

The score is -log alpha; log alpha > 3 (more than 95 % noise) is the authors' threshold for pruning. The approximation of
KL is within 0.01 of the exact divergence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..records import Scoring
from ._base import SALIENCIES
from ._learned import LearnedSaliency

K1, K2, K3 = 0.63576, 1.87320, 1.48695
TINY = 1e-16


@SALIENCIES.register("variational_dropout", "vd")
class VariationalDropout(LearnedSaliency):
    """Signal-to-noise ratio of a learned posterior.

    Parameters
    ----------
    strength : float, default=1.0
        Factor at the divergence; below 1 it is tempered.
    lr : float, default=0.02
        Of the noise's own optimizer (Adam).
    """

    def __init__(self, strength: float = 1.0, lr: float = 0.02):
        self.strength, self.lr = strength, lr

    def start(self, weights, n_records, n_steps):
        super().start(weights, n_records, n_steps)
        self._n_records, self._n_steps, self._step = n_records, n_steps, 0

    def initial(self, w: Tensor) -> Tensor:
        return torch.full_like(w, -10.0)  # log sigma^2

    def perturb(self, weights):
        return {
            name: w + (w != 0) * (self._extra[name] / 2).exp() * torch.randn_like(w)
            for name, w in weights.items()
        }

    def penalty(self, weights):
        # the divergence sets in over the first half: noise that comes at once drowns weights that are not learned yet
        warm = min(1.0, 2 * self._step / max(self._n_steps, 1))
        total = sum(
            (divergence(log_alpha(w, self._extra[name])) * (w != 0)).sum()
            for name, w in weights.items()
        )
        return self.strength * warm * total / self._n_records

    def after_step(self, weights, lr):
        super().after_step(weights, lr)
        self._step += 1

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        return {
            name: -log_alpha(w, self._extra[name]).detach() for name, w in scoring.weights.items()
        }

    def state(self):
        return super().state() | {"step": self._step}

    def load(self, state):
        super().load(state)
        self._step = state["step"]


def log_alpha(w: Tensor, log_variance: Tensor) -> Tensor:
    """log(sigma^2 / w^2), kept within [-10, 10]."""
    return (log_variance - (w.square() + TINY).log()).clamp(-10.0, 10.0)


def divergence(log_alpha: Tensor) -> Tensor:
    """KL of the posterior from the log-uniform prior, up to a constant: 0 where it is all noise.

    Examples
    --------
    >>> import torch
    >>> divergence(torch.tensor([-4.0, 0.0, 4.0]))
    tensor([2.6342, 0.4312, 0.0093])
    """
    softplus = torch.nn.functional.softplus(-log_alpha)  # log(1 + 1/alpha)
    return -K1 * (K2 + K3 * log_alpha).sigmoid() + softplus / 2 + K1
