"""Sparse networks from scratch (Dettmers and Zettlemoyer 2019): grow where the momentum is largest, across layers.

The momentum is the exponential average of the gradients of all weights. What the layers drop is shared out again in proportion
to the mean momentum of their weights, and grown where the momentum is largest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..distribution._base import apportion
from ..masks import Masks
from ._base import GROWTHS, Growth, Weights
from .rigl import cosine_fraction


@GROWTHS.register("snfs")
class SNFS(Growth):
    """Sparse momentum; half of the weights move at first, fewer along a cosine."""

    alpha = 0.5
    beta = 0.9

    def start(self, weights: Weights, masks: Masks, n_steps: int) -> None:
        super().start(weights, masks, n_steps)
        self._momentum = {name: torch.zeros_like(weights[name]) for name in masks}

    def fraction(self, step: int) -> float:
        return cosine_fraction(self.alpha, step / self._end)

    def growth_scores(self, name: str, weight: nn.Parameter) -> Tensor:
        return self._momentum[name].abs()

    def budgets(
        self, dropped: dict[str, int], free: dict[str, int], masks: Masks
    ) -> dict[str, int]:
        # the least a layer can get is one share in a million, so that none is without a target
        share = [
            float(self._momentum[n].abs()[m].mean()) if m.any() else 0.0 for n, m in masks.items()
        ]
        floor = max(*share, 1e-30) * 1e-6
        counts = apportion(
            [s + floor for s in share], sum(dropped.values()), [free[name] for name in masks]
        )
        return dict(zip(masks, counts, strict=True))

    def after_backward(self, weights: Weights, masks: Masks, step: int) -> Masks | None:
        for name, momentum in self._momentum.items():
            momentum.lerp_(weights[name].grad, 1 - self.beta)
        return super().after_backward(weights, masks, step)

    def state(self):
        return {"momentum": self._momentum}

    def load(self, state):
        self._momentum = state["momentum"]
