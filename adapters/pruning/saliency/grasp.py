"""GraSP (Wang, Zhang and Grosse 2020): keep the gradient flowing, before any training.

Without w the squared norm of the gradient changes, to first order, by -2 w (Hg), H the Hessian of the loss. Weights whose
removal lowers it most stay: the score is w (Hg). At the end of a training g is near zero and the score says little: it is meant for
``schedule="static"``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..records import Scoring, evaluation_mode
from ._base import SALIENCIES, Saliency


@SALIENCIES.register("grasp")
class GraSP(Saliency):
    """Gradient flow that is lost without a weight."""

    needs_data = True

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        weights = list(scoring.weights.values())
        gradient = [scoring.mean_gradients()[name] for name in scoring.weights]
        products = [torch.zeros_like(w) for w in weights]
        with evaluation_mode(scoring.module):
            # Hg = d/dw of (gradient of a batch)'g, g held fixed; batches add up
            for X, y in scoring.batches:
                loss = scoring.loss(scoring.module(X), y).sum() / scoring.n_records
                first = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
                inner = sum(
                    (a * b).sum() for a, b in zip(first, gradient, strict=True) if a is not None
                )
                second = torch.autograd.grad(inner, weights, allow_unused=True)
                for product, part in zip(products, second, strict=True):
                    if part is not None:
                        product += part
        return {
            name: w.detach() * product
            for (name, w), product in zip(scoring.weights.items(), products, strict=True)
        }
