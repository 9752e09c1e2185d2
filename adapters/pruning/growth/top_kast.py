"""Top-KAST (Jayakumar et al. 2020): run forward with the largest weights, train some more.

Each layer runs with its D largest weights (A) and trains the D + M largest (B): those of B outside A wait in reserve until they
are large enough. An L2 penalty, stronger on the reserve by one over the density, lets weights of A fall back. The weights of the
network are exactly zero outside A after every step; the reserve, and its optimizer state, live beside them while it is trained.
"""

from __future__ import annotations

import torch

from ..masks import Masks, largest
from ._base import GROWTHS, Growth, Weights


@GROWTHS.register("topkast")
class TopKAST(Growth):
    """Top-K always sparse training.

    Parameters
    ----------
    interval : int, default=100
        Steps from one choice of A and B to the next.
    extra : float, default=0.1
        M, as a share of a layer's weights.
    strength : float, default=1e-4
        Of the penalty.
    """

    until = 1.0

    def __init__(self, interval: int = 100, extra: float = 0.1, strength: float = 1e-4):
        super().__init__(interval)
        self.extra, self.strength = extra, strength

    def start(self, weights: Weights, masks: Masks, n_steps: int) -> None:
        super().start(weights, masks, n_steps)
        self._step = 0
        self._reserve = {name: weights[name].detach().clone() for name in masks}
        self._trained = {}
        for name, keep in masks.items():
            magnitude = weights[name].detach().abs().masked_fill(keep, torch.inf)
            self._trained[name] = largest(magnitude, self._n_trained(keep))
            self._reserve[name].masked_fill_(keep | ~self._trained[name], 0.0)

    def trained(self, masks: Masks) -> Masks:
        return self._trained

    @torch.no_grad()
    def after_backward(self, weights: Weights, masks: Masks, step: int) -> Masks | None:
        for name, keep in masks.items():
            w = weights[name]
            density = float(keep.sum()) / keep.numel()
            w.grad.add_(w, alpha=self.strength)
            w.grad.add_(self._reserve[name], alpha=self.strength / max(density, 1e-3))
            w.add_(self._reserve[name])  # the step is taken by both
        return None

    @torch.no_grad()
    def after_step(self, weights: Weights, masks: Masks) -> Masks | None:
        self._step += 1
        new = None
        if self.is_due(self._step):
            new = {}
            for name, keep in masks.items():
                magnitude = weights[name].abs()
                new[name] = largest(magnitude, int(keep.sum()))
                self._trained[name] = largest(magnitude, self._n_trained(keep))
        for name, keep in (new or masks).items():
            self._reserve[name] = weights[name].masked_fill(keep | ~self._trained[name], 0.0)
            weights[name].masked_fill_(~keep, 0.0)
        return new

    def _n_trained(self, keep: torch.Tensor) -> int:
        return min(keep.numel(), int(keep.sum()) + round(self.extra * keep.numel()))

    def state(self):
        return {"reserve": self._reserve, "trained": self._trained, "step": self._step}

    def load(self, state):
        self._reserve, self._trained = state["reserve"], state["trained"]
        self._step = state["step"]
