"""The training loop of the adapters: skorch's, fed by slices of tensors.

`Net` is skorch's `NeuralNet` with three changes. Minibatches are slices of tensors rather than stacks of single records
(most of skorch's overhead a step). A criterion gives one loss a record, and `Net.objective` makes one number of them: the
place where a method weighs records or groups. And y is a dict of tensors, with "y" and whatever else a method
needs a record ("weight", "group", "index"), so that it is sliced with the batch.

An adapter that changes the loop subclasses `Net`, overrides one step of it, and names the subclass in its estimator.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from skorch.utils import to_tensor
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from statml.parallel import progress_bar

from ._files import read_state, write_state


class Records(Dataset):
    """Tensors that are sliced together.

    Parameters
    ----------
    X : Tensor of shape (n, ...)
    y : dict of name to Tensor of shape (n, ...)
    """

    def __init__(self, X: Tensor, y: dict[str, Tensor]):
        self.X, self.y = X, y

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index) -> tuple[Tensor, dict[str, Tensor]]:
        return self.X[index], {name: values[index] for name, values in self.y.items()}


class Batches:
    """Minibatches of `Records` by slicing; takes the place of torch's DataLoader.

    Parameters
    ----------
    dataset : Records
    batch_size : int
    shuffle : bool, default=False
    generator : torch.Generator or None, default=None
        Draws the order of the records.
    sampler : iterable of int, optional
        The records of one epoch, drawn anew every time it is iterated over; takes the place of `shuffle`.

    Notes
    -----
    Where the last of several random batches would hold one record, it joins the batch before.
    """

    def __init__(self, dataset, batch_size, shuffle=False, generator=None, sampler=None):
        self.dataset, self.batch_size = dataset, batch_size
        self.shuffle, self.generator, self.sampler = shuffle, generator, sampler

    def __len__(self) -> int:
        n = len(self.dataset) if self.sampler is None else len(self.sampler)
        full, rest = divmod(n, self.batch_size)
        in_order = self.sampler is None and not self.shuffle
        return full + (rest > 1 or (rest == 1 and (full == 0 or in_order)))

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        if self.sampler is not None:
            order = torch.as_tensor(list(self.sampler))
        elif self.shuffle:
            order = torch.randperm(len(self.dataset), generator=self.generator)
        else:  # slices of what is in order need no copy
            for start in range(0, len(self.dataset), self.batch_size):
                yield self.dataset[start : start + self.batch_size]
            return
        parts = list(order.split(self.batch_size))
        if len(parts) > 1 and len(parts[-1]) == 1:  # batch normalisation cannot take one record
            parts[-2:] = [torch.cat(parts[-2:])]
        for part in parts:
            yield self.dataset[part]


class Net(NeuralNet):
    """skorch's net with losses a record; see the module's docstring."""

    def get_loss(self, y_pred: Tensor, y_true: dict[str, Tensor], X=None, training=False):
        y_true = to_tensor(y_true, device=self.device)
        losses = self.criterion_(y_pred, y_true["y"])
        if losses.ndim > 1:
            losses = losses.flatten(1).mean(1)
        return self.objective(losses, y_true, training)

    def objective(self, losses: Tensor, y_true: dict[str, Tensor], training: bool) -> Tensor:
        """One number of the losses (batch,) of the records of a batch: their mean, weighted if there are weights."""
        weight = y_true.get("weight")
        return losses.mean() if weight is None else (weight * losses).mean()


def accelerated(net_class: type[Net]) -> type[Net]:
    """A net whose loop runs through accelerate: mixed precision, several processes."""
    from skorch.hf import AccelerateMixin

    class Accelerated(AccelerateMixin, net_class):
        """The net with skorch's mixin in front."""

        def _initialize_accelerator(self):
            # a criterion has no parameters, which torch's wrapper for several processes refuses
            criteria, self._criteria = self._criteria, []
            try:
                return super()._initialize_accelerator()
            finally:
                self._criteria = criteria

        def get_iterator(self, dataset, training=False):
            # accelerate shards torch's own loader among the processes
            kind = "iterator_train" if training else "iterator_valid"
            kwargs = self.get_params_for(kind)
            kwargs.setdefault("batch_size", self.batch_size)
            return self.accelerator.prepare(DataLoader(dataset, **kwargs))

        def get_loss(self, y_pred, y_true, X=None, training=False):
            with self.accelerator.autocast():
                return net_class.get_loss(self, y_pred, y_true, X=X, training=training)

    return Accelerated


def silent(*_: object) -> None:
    """Where skorch's table of epochs goes: `Progress` takes its place. (Switching it off breaks accelerate's mixin.)"""


class Progress(Callback):
    """A bar over the epochs, as every long loop of the package shows it."""

    def __init__(self, progress: bool | str, description: str, epochs: int):
        self.progress, self.description, self.epochs = progress, description, epochs

    def on_train_begin(self, net, **kwargs):
        done = len(net.history)
        self.bar_ = progress_bar(self.epochs, self.progress, self.description, done)

    def on_epoch_end(self, net, **kwargs):
        self.bar_.set_postfix(loss=f"{net.history[-1, 'train_loss']:.4g}", refresh=False)
        self.bar_.update()

    def on_train_end(self, net, **kwargs):
        self.bar_.close()
        del self.bar_  # a bar cannot be pickled


class Checkpoint(Callback):
    """Writes the state of the training after every epoch, from which `resume` goes on bit-identically.

    Parameters
    ----------
    path : Path
    fingerprint : str
        What identifies the run.
    generator : torch.Generator
        The one that orders the records.
    """

    def __init__(self, path: Path, fingerprint: str, generator: torch.Generator):
        self.path, self.fingerprint, self.generator = path, fingerprint, generator

    def on_epoch_end(self, net, **kwargs):
        state: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "module": net.module_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "order": self.generator.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "history": [
                {
                    name: value.item() if isinstance(value, np.generic) else value
                    for name, value in row.items()
                    if name != "batches"
                }
                for row in net.history
            ],
            **self.further_state(),
        }
        write_state(self.path, state)

    def resume(self, net: Net) -> int:
        """Bring an initialised net to where its run stopped; returns the number of epochs done."""
        if not self.path.exists():
            return 0
        state = read_state(self.path)
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"checkpoint_dir {str(self.path.parent)!r} holds another run: its data or parameters differ. "
                "Name another folder, or delete this one to start anew."
            )
        net.module_.load_state_dict(state["module"])
        net.optimizer_.load_state_dict(state["optimizer"])
        self.generator.set_state(state["order"])
        torch.set_rng_state(state["torch"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
        for row in state["history"]:
            net.history.new_epoch()
            for name, value in row.items():
                net.history.record(name, value)
        self.restore_further(state)
        return len(state["history"])

    def further_state(self) -> dict[str, Any]:
        """What else belongs to the state: tensors, numbers, strings, lists and dicts of them."""
        return {}

    def restore_further(self, state: dict[str, Any]) -> None:
        """Take up what `further_state` returned."""
