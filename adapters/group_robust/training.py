"""What one training carries beside its network: averages of the weights, and the choice of an epoch by held-out records."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from torch import Tensor, nn

from .._net import Checkpoint, Net, Records
from .online import GroupPlayer

Array = NDArray[np.float64]
State = dict[str, Tensor]
# logits of the held-out records -> what is compared (larger is better), and what is kept of the epoch
Judge = Callable[[NDArray], tuple[tuple[float, ...], dict[str, Any]]]


class Averaging:
    """The average of the weights over the last part of a training, and of the group weights.

    For a convex loss it is the average of the iterates that comes near to the optimum; the last one keeps swinging.
    Running statistics of normalisations are averaged like weights; integers are taken from the last step.

    Parameters
    ----------
    share : float
        Share of the steps, at the end, that is averaged.
    """

    def __init__(self, share: float):
        self.share = share
        self.step = self.n = 0
        self.mean: State | None = None
        self.mean_q: Array | None = None

    def start(self, n_steps: int) -> None:
        """n_steps: of the whole training."""
        self.first = n_steps - max(1, round(self.share * n_steps))

    def after_step(self, module: nn.Module, q: Array) -> None:
        self.step += 1
        if self.step <= self.first:
            return
        self.n += 1
        state = module.state_dict()
        if self.mean is None:
            self.mean, self.mean_q = copy_of(state), q.copy()
            return
        floating = [k for k, v in state.items() if v.is_floating_point()]
        torch._foreach_lerp_(
            [self.mean[k] for k in floating], [state[k] for k in floating], 1 / self.n
        )
        for k in state.keys() - set(floating):
            self.mean[k].copy_(state[k])
        self.mean_q += (q - self.mean_q) / self.n


class Selection:
    """The epoch that held-out records like best; with `patience`, training ends so many epochs after it.

    Parameters
    ----------
    X : Tensor of shape (n, ...)
    judge : callable
        Logits -> (what is compared, larger is better; what is noted).
    patience : int or None
    """

    def __init__(self, X: Tensor, judge: Judge, patience: int | None):
        self.X, self.judge, self.patience = X, judge, patience
        self.best: tuple[float, ...] | None = None
        self.best_epoch = -1
        self.state: State | None = None
        self.q: Array | None = None

    def after_epoch(self, net: Net, epoch: int, state: State, q: Array) -> dict[str, Any]:
        """Judge the network with these weights; what was noted."""
        logits = torch.cat([part.cpu() for part in net.forward_iter(Records(self.X, {}))])
        score, noted = self.judge(logits.numpy().astype(np.float64))
        if self.best is None or score > self.best:
            self.best, self.best_epoch = score, epoch
            self.state, self.q = copy_of(state), q.copy()
        return noted

    def is_over(self, epoch: int) -> bool:
        return self.patience is not None and epoch - self.best_epoch >= self.patience


class GroupTraining(Callback):
    """The group player at work in a net, with averaging and selection where asked for.

    Parameters
    ----------
    player : GroupPlayer
    averaging : Averaging or None
    selection : Selection or None
    """

    def __init__(
        self, player: GroupPlayer, averaging: Averaging | None, selection: Selection | None
    ):
        self.player, self.averaging, self.selection = player, averaging, selection
        self.rows: list[dict[str, Any]] = []

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        net.player_ = self.player
        if self.averaging is not None:
            n_batches = len(net.get_iterator(X, training=True))
            self.averaging.start(n_batches * net.max_epochs)

    def on_epoch_begin(self, net, **kwargs):
        self.player.start_epoch()

    def on_batch_end(self, net, training=True, **kwargs):
        if training and self.averaging is not None:
            self.averaging.after_step(net.module_, self.player.q)

    def on_epoch_end(self, net, **kwargs):
        row = {
            "epoch": len(self.rows),
            "weight": self.player.q.tolist(),
            "train_loss": self.player.epoch_losses(),
        }
        if self.selection is not None:
            now = copy_of(net.module_.state_dict())
            state, q = self.result(now)
            net.module_.load_state_dict(state)
            row |= self.selection.after_epoch(net, row["epoch"], state, q)
            net.module_.load_state_dict(now)
        self.rows.append(row)
        if self.selection is not None and self.selection.is_over(row["epoch"]):
            raise KeyboardInterrupt  # skorch's way to end a training

    def result(self, now: State) -> tuple[State, Array]:
        """Weights and group weights: averaged, once that has begun."""
        if self.averaging is not None and self.averaging.mean is not None:
            return self.averaging.mean, self.averaging.mean_q
        return now, self.player.q

    def finish(self, module: nn.Module) -> Array:
        """Put the result into the module; the group weights that belong to it."""
        if self.selection is not None and self.selection.state is not None:
            state, q = self.selection.state, self.selection.q
        else:
            state, q = self.result(module.state_dict())
        module.load_state_dict(state)
        return q

    @property
    def chosen(self) -> int:
        """The epoch whose network is the result."""
        return len(self.rows) - 1 if self.selection is None else self.selection.best_epoch

    # --- an interrupted training ------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What belongs to a checkpoint."""
        state: dict[str, Any] = {"player": self.player.state(), "rows": self.rows}
        for name, fields in PARTS.items():
            part = getattr(self, name)
            state[name] = {} if part is None else {f: _plain(getattr(part, f)) for f in fields}
        return state

    def load(self, state: dict[str, Any]) -> None:
        self.player.load(state["player"])
        self.rows = state["rows"]
        for name in PARTS:
            for field, value in state[name].items():
                value = np.array(value) if field.endswith("q") and value is not None else value
                setattr(getattr(self, name), field, value)


PARTS = {
    "averaging": ("step", "n", "mean", "mean_q"),
    "selection": ("best", "best_epoch", "state", "q"),
}


class GroupCheckpoint(Checkpoint):
    """A checkpoint with the state of a `GroupTraining`."""

    training: GroupTraining

    def further_state(self) -> dict[str, Any]:
        return {"training": self.training.state()}

    def restore_further(self, state: dict[str, Any]) -> None:
        self.training.load(state["training"])


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def copy_of(state: State) -> State:
    """Weights apart from their module."""
    return {name: value.detach().clone() for name, value in copy.copy(state).items()}
