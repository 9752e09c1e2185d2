"""First-order saliencies: what the gradient g says about the loss without a weight.

To first order the loss changes by -g w when w is set to zero.

- Taylor (Molchanov et al. 2017): (g w)^2, of a unit the square of the sum;
- SNIP (Lee, Ajanthan and Torr 2019): abs(g w), divided by its sum, at initialisation: the derivative of the loss in a factor c at
  every weight, at c = 1;
- movement (Sanh, Wolf and Rush 2020): -sum_t g_t w_t over the steps of a training; what moves away from zero stays.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..records import Scoring
from ._base import SALIENCIES, Saliency


class _FirstOrder(Saliency):
    needs_data = True

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        gradients = scoring.mean_gradients()
        return {name: gradients[name] * w.detach() for name, w in scoring.weights.items()}


@SALIENCIES.register("taylor")
class Taylor(_FirstOrder):
    """Squared first-order change of the loss."""

    def link(self, total: Tensor, size: Tensor | float) -> Tensor:
        return total.square() / size


@SALIENCIES.register("snip")
class SNIP(_FirstOrder):
    """Absolute first-order change of the loss, as a share of the sum over all weights."""

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        terms = super().terms(scoring)
        total = sum(t.abs().sum() for t in terms.values())
        return {name: t / total if total > 0 else t for name, t in terms.items()}

    def link(self, total: Tensor, size: Tensor | float) -> Tensor:
        return total.abs() / size


@SALIENCIES.register("movement")
class Movement(Saliency):
    """Movement away from zero, collected over a training cycle."""

    trained = True

    def start(self, weights, n_records, n_steps):
        self._sums = {name: torch.zeros_like(w) for name, w in weights.items()}

    def after_backward(self, weights):
        for name, w in weights.items():
            if w.grad is not None:
                self._sums[name].addcmul_(w.grad, w.detach(), value=-1.0)

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        return {name: self._sums[name].clone() for name in scoring.weights}

    def state(self):
        return {"sums": self._sums}

    def load(self, state):
        self._sums = state["sums"]
