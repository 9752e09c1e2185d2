"""What the meta-steps of a training do, and what is kept of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .mixing_weights import MixingWeights

SCHEDULES = ("constant", "cosine")


@dataclass
class Plan:
    """What a meta-step is to do; parameters of `AMALClassifier` that have been checked."""

    rate: float
    update: str
    update_every: int
    warmup: int
    lookahead: float
    meta: str
    dropout: float
    batch_size: int
    lr: float
    damping: float
    schedule: Callable[[float], float]
    epochs: int
    seed: int

    def due(self, epoch: int) -> bool:
        """Whether weights move before an epoch, counted from 0."""
        return self.rate > 0 and epoch >= max(self.warmup, 1) and epoch % self.update_every == 0


class Trace:
    """What is kept of the meta-steps.

    Parameters
    ----------
    y : ndarray of int of shape (n,)
        -1 for unlabelled.
    n_classes : int
    """

    def __init__(self, y: NDArray[np.int64], n_classes: int):
        self.one_hot = (y[:, None] == np.append(np.arange(n_classes), -1)).astype(float)
        self.path: list[NDArray[np.float64]] = []
        self.epochs: list[int] = []
        self.val_losses: list[float] = []
        self.alignment: NDArray[np.float64] | None = None

    def record(self, mixing: MixingWeights, epoch: int) -> None:
        """Keep the mean weights of each class: (n_classes + 1, K), those of the unlabelled last."""
        mask = mixing.mask.astype(float)
        counts = self.one_hot.T @ mask
        sums = self.one_hot.T @ mixing.weights
        self.path.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
        self.epochs.append(epoch)

    def state(self) -> dict[str, Any]:
        """Arrays, numbers, lists of them."""
        return {
            "path": list(self.path),
            "epochs": list(self.epochs),
            "val_losses": list(self.val_losses),
            "alignment": self.alignment,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.path, self.epochs = state["path"], state["epochs"]
        self.val_losses, self.alignment = state["val_losses"], state["alignment"]


def learning_rate(schedule: str | Callable[[float], float]) -> Callable[[float], float]:
    """The factor of the learning rate at each share of the training that is done."""
    if callable(schedule):
        return schedule
    if schedule == "constant":
        return lambda done: 1.0
    return lambda done: 0.5 * (1 + math.cos(math.pi * done))
