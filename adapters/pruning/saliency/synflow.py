"""SynFlow (Tanaka, Kunin, Yamins and Ganguli 2020): conserve the flow, without any data.

With every weight replaced by its absolute value, biases by zero and normalisations by the identity, let R be the sum of the outputs
for an input of ones. The score is w dR/dw = R_w, the flow that passes through w. In each layer the flows sum to R, and so
do those into and out of a hidden unit; scoring anew in each of 100 rounds (density d^(j/100) after round j) keeps the last
path open, so that no layer is emptied.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..masks import NORMS
from ..records import Scoring
from ._base import SALIENCIES, Saliency


@SALIENCIES.register("synflow")
class SynFlow(Saliency):
    """Flow through a weight."""

    needs_data = True  # one record, for the shape of the inputs
    rounds = 100

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        module = linearised(scoring.module)
        weights = {n: p for n, p in module.named_parameters() if n in scoring.weights}
        ones = torch.ones_like(scoring.batches[0][0][:1], dtype=torch.float64)
        flow = module(ones).sum()
        gradients = torch.autograd.grad(flow, list(weights.values()), allow_unused=True)
        return {
            name: torch.zeros_like(w) if g is None else (g * w).detach()
            for (name, w), g in zip(weights.items(), gradients, strict=True)
        }


def linearised(module: nn.Module) -> nn.Module:
    """A copy in float64 with absolute weights, no biases and neutral normalisations, in evaluation mode."""
    module = copy.deepcopy(module).double().eval()
    with torch.no_grad():
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, NORMS):
                    setattr(parent, name, nn.Identity())
        for name, parameter in module.named_parameters():
            if name.rpartition(".")[2] == "bias" or parameter.ndim < 2:
                parameter.zero_()
            else:
                parameter.abs_()
    return module
