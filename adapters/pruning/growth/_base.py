"""The protocol of growth rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._registry import Described, Registry
from ..masks import Masks, largest

Weights = Mapping[str, nn.Parameter]


class Growth(Described):
    """Connections that move while a sparse network is trained.

    Every `interval` steps, until three quarters of the training are over, each layer drops a fraction of its smallest weights and
    grows as many elsewhere, at zero; a rule says how many (`fraction`) and where (`growth_scores`). In a training too
    short for ten such updates they come more often.

    Parameters
    ----------
    interval : int, default=100
        Steps from one update to the next.
    """

    until = 0.75
    least_updates = 10

    def __init__(self, interval: int = 100):
        if interval < 1:
            raise ValueError(f"interval must be an integer >= 1, got {interval}")
        self.interval = interval

    def start(self, weights: Weights, masks: Masks, n_steps: int) -> None:
        """A training of `n_steps` steps begins; the weights are not masked yet."""
        self._end = self.until * n_steps
        self._every = max(1, min(self.interval, int(self._end / self.least_updates)))

    def is_due(self, step: int) -> bool:
        """Whether connections move in this step."""
        return 0 < step < self._end and step % self._every == 0

    def fraction(self, step: int) -> float:
        """Share of each layer's weights that is dropped."""
        raise NotImplementedError

    def growth_scores(self, name: str, weight: nn.Parameter) -> Tensor:
        """Where a layer grows first; the gradient is that of all weights, the pruned ones among them."""
        raise NotImplementedError

    def budgets(
        self, dropped: dict[str, int], free: dict[str, int], masks: Masks
    ) -> dict[str, int]:
        """How many weights each layer grows: as many as it dropped."""
        return dropped

    def after_backward(self, weights: Weights, masks: Masks, step: int) -> Masks | None:
        """The gradients of a step are there; returns new masks where connections move."""
        if not self.is_due(step):
            return None
        dropped, kept = {}, {}
        for name, keep in masks.items():
            n, full = int(keep.sum()), keep.numel()
            dropped[name] = min(round(self.fraction(step) * n), full - n)
            magnitude = weights[name].detach().abs().masked_fill(~keep, -1.0)
            kept[name] = largest(magnitude, n - dropped[name])
        free = {name: int((~keep).sum()) for name, keep in kept.items()}
        grown = self.budgets(dropped, free, masks)
        new = {}
        for name, keep in kept.items():
            scores = self.growth_scores(name, weights[name]).masked_fill(keep, -torch.inf)
            new[name] = keep | largest(scores, grown[name])
        return new

    def after_step(self, weights: Weights, masks: Masks) -> Masks | None:
        """The weights were updated; returns new masks where connections moved."""
        return None

    def trained(self, masks: Masks) -> Masks:
        """Which weights get a gradient."""
        return masks

    def state(self) -> dict[str, Any]:
        """What a resumed training needs of it."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""


GROWTHS = Registry("growth", Growth)
