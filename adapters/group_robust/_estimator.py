"""What the networks that are trained against the worst group share: the loop, held-out records, tables."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from statml.group_robust.membership import HardGroups, SoftGroups
from statml.group_robust.out_of_fold import log_losses

from .._estimator import NetClassifier
from .._net import Checkpoint, Net, Records
from .online import BalancedSampler, GroupDROLoop
from .training import GroupCheckpoint, GroupTraining


class GroupNet(NetClassifier):
    """A classifier whose training is a game with a player who weighs groups.

    A subclass puts a `GroupTraining` into ``_training``, and the groups of balanced batches into ``_balanced``, before it
    calls ``_train``; both are there in ``fit`` only.
    """

    _net_class: ClassVar[type[Net]] = GroupDROLoop
    _keeps_callbacks = False
    _training: GroupTraining
    _balanced: HardGroups | SoftGroups | None

    def _play(self, X, y, extras, training: GroupTraining, balanced=None) -> Self:
        """Train against the player; afterwards ``_q`` are the weights of the groups that belong to the result."""
        self._training, self._balanced = training, balanced
        try:
            return self._train(X, y, extras)
        finally:
            del self._training, self._balanced

    def _callbacks(self) -> list[tuple[str, Any]]:
        return [("groups", self._training)]

    def _make_net(
        self, module: nn.Module, order: torch.Generator, epochs: int, plain: bool = False
    ) -> Net:
        net = super()._make_net(module, order, epochs, plain)
        if plain:
            return net
        accelerator = getattr(net, "accelerator", None)
        if accelerator is not None and accelerator.num_processes > 1:
            raise ValueError(
                f"accelerate runs {accelerator.num_processes} processes, each of which would weigh the groups by its own "
                f"batches: {type(self).__name__} is trained in one process"
            )
        if self._balanced is not None:
            n = len(self._balanced.order)
            net.iterator_train__sampler = BalancedSampler(self._balanced, n, order)
            net.iterator_train__shuffle = False
        return net

    def _make_checkpoint(self, path: Path, fingerprint: str, order: torch.Generator) -> Checkpoint:
        callback = GroupCheckpoint(path, fingerprint, order)
        callback.training = self._training
        return callback

    def _identity(self, *free: str) -> dict[str, str]:
        if self._training.averaging is not None:  # where averages begin depends on the end
            free = tuple(name for name in free if name != "epochs")
        return super()._identity(*free)

    def _finish(self, net: Net) -> None:
        q = self._training.finish(net.module_)
        self._q = q / q.sum()
        super()._finish(net)

    def _record_losses(self, X: NDArray, y: NDArray) -> NDArray[np.float64]:
        """Loss of each record under the fitted network, X and y as the loop has them."""
        outputs = [part.cpu() for part in self.net_.forward_iter(Records(torch.from_numpy(X), {}))]
        losses = log_losses(softmax(torch.cat(outputs).numpy().astype(np.float64)), y)
        if not np.isfinite(losses).all():
            warnings.warn(
                "the training diverged: losses are not finite. Lower lr, or scale the columns of X",
                ConvergenceWarning,
                stacklevel=4,
            )
        return losses

    def _history(self, training: GroupTraining, labels: NDArray) -> pd.DataFrame:
        """One row an epoch and group."""
        parts = []
        for row in training.rows:
            part = {"epoch": row["epoch"], "group": labels}
            part |= {name: row[name] for name in row if name != "epoch"}
            parts.append(pd.DataFrame(part))
        columns = ["epoch", "group", "weight", "train_loss"]
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
        return table.assign(selected=table["epoch"] == training.chosen)


def stratified_split(
    codes: NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the records to train on, and of those held out: of every group the same share, rounded.

    At least one record of a group of two or more is held out, since its accuracy has to be judged, and at least one stays.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
    fraction : float
    rng : numpy.random.Generator

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.array([0] * 10 + [1] * 2 + [2])
    >>> train, held_out = stratified_split(codes, 0.2, np.random.default_rng(0))
    >>> np.bincount(codes[train]).tolist(), np.bincount(codes[held_out]).tolist()
    ([8, 1, 1], [2, 1])
    """
    held_out = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes) if fraction else ():
        rows = rng.permutation(np.flatnonzero(codes == code))
        n = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held_out[rows[:n]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of logits, shape (n, K)."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
