"""What a score may look at: a network, its masks, and some records; and the gradients that scores are made of.

Scores are taken in evaluation mode (dropout off, running statistics in use) over all records at once, never over one
batch in training mode, and leave the network as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional as F

from .masks import Masks

BATCH = 128  # records at a time
CHUNK = 16  # records whose gradients are held at once
Loss = Callable[[Tensor, Tensor], Tensor]


def squared_error(outputs: Tensor, y: Tensor) -> Tensor:
    """Squared error of each record, averaged over the outputs."""
    return (outputs - y).square().flatten(1).mean(1)


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each record."""
    return F.cross_entropy(outputs, y, reduction="none")


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": squared_error}


@dataclass
class Scoring:
    """A network and the records on which its weights are scored.

    Parameters
    ----------
    module : torch Module
    weights : dict of str to Parameter
        The module's own parameters, those to be scored.
    masks : dict of str to bool Tensor
    batches : list of (X, y), default=[]
        Tensors on the module's device.
    loss : callable, default=cross_entropy
        (outputs, y) -> one loss a record.
    generator : torch Generator, optional
        For what is drawn at random.
    """

    module: nn.Module
    weights: dict[str, nn.Parameter]
    masks: Masks
    batches: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    loss: Loss = cross_entropy
    generator: torch.Generator | None = None

    def __post_init__(self):
        self.n_records = sum(len(X) for X, _ in self.batches)

    def need_records(self, criterion: str) -> None:
        """Refuse, in the criterion's name, where no records were handed over."""
        if not self.n_records:
            raise ValueError(f"{criterion} needs records: hand over data, a pair (X, y)")

    def forward(self) -> None:
        """Run the network over all records, for what hooks see."""
        with evaluation_mode(self.module), torch.no_grad():
            for X, _ in self.batches:
                self.module(X)

    def mean_gradients(self) -> dict[str, Tensor]:
        """Gradient of the mean loss, shape of each weight."""
        total = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        with evaluation_mode(self.module):
            for X, y in self.batches:
                loss = self.loss(self.module(X), y).sum() / self.n_records
                grads = torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True)
                for name, grad in zip(self.weights, grads, strict=True):
                    if grad is not None:
                        total[name] += grad
        return total

    def record_gradients(self) -> Iterator[dict[str, Tensor]]:
        """Gradients of single records' losses, in chunks of shape (records, ...)."""
        with evaluation_mode(self.module):
            weights, rest = self._frozen()

            def loss(weights, x, y):
                outputs = functional_call(self.module, (weights, rest), (x[None],))
                return self.loss(outputs, y[None])[0]

            gradient = vmap(torch.func.grad(loss), (None, 0, 0), randomness="different")
            for X, y in self._chunks():
                yield gradient(weights, X, y)

    def curvature_diagonal(self) -> dict[str, Tensor]:
        """Diagonal of the generalised Gauss-Newton matrix of the mean loss, shape of each weight.

        With J the derivative of the outputs and S S' the Hessian of a record's loss in the outputs, the diagonal of J'SS'J is
        the sum of squares of the columns of S'J. For a linear network and squared error it is the Hessian's.
        """
        total = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        with evaluation_mode(self.module):
            weights, rest = self._frozen()

            def squares(x, y):
                outputs, pull = vjp(
                    lambda w: functional_call(self.module, (w, rest), (x[None],))[0], weights
                )
                hessian = torch.func.hessian(lambda o: self.loss(o[None], y[None])[0])(
                    outputs.detach()
                )
                values, vectors = torch.linalg.eigh(hessian)
                root = (vectors * values.clamp(min=0).sqrt()).T
                return {name: g.square().sum(0) for name, (g) in vmap(pull)(root)[0].items()}

            batched = vmap(squares, randomness="different")
            for X, y in self._chunks():
                for name, value in batched(X, y).items():
                    total[name] += value.sum(0) / self.n_records
        return total

    def _frozen(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weights = {name: w.detach() for name, w in self.weights.items()}
        rest = {
            name: value.detach()
            for name, value in [*self.module.named_parameters(), *self.module.named_buffers()]
            if name not in weights
        }
        return weights, rest

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        for X, y in self.batches:
            yield from zip(X.split(CHUNK), y.split(CHUNK), strict=True)


@contextlib.contextmanager
def evaluation_mode(module: nn.Module):
    """Evaluation mode inside, the modes as they were after it."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def as_batches(data: Any, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Records as a list of batches of tensors.

    Parameters
    ----------
    data : (X, y) of array-likes or tensors, list of such batches, or None
        X becomes float32; y is int64 where it holds integers (encoded classes), float32 otherwise.
    device : torch device

    Returns
    -------
    list of (Tensor, Tensor)
    """
    if data is None:
        return []
    if isinstance(data, tuple) and len(data) == 2:
        X, y = (_tensor(part) for part in data)
        if len(X) != len(y):
            raise ValueError(f"data must hold as many X as y, got {len(X)} and {len(y)}")
        data = list(zip(X.split(BATCH), y.split(BATCH), strict=True))
    batches = []
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError("data must be a pair (X, y) or a list of such pairs")
        X, y = (_tensor(part).to(device) for part in batch)
        y = y.float() if y.is_floating_point() else y.long()
        batches.append((X.float(), y))
    return batches


def as_loss(loss: str | Loss) -> Loss:
    """A loss function from its name."""
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(f'loss must be "cross_entropy", "mse" or a function, got {loss!r}')
    return LOSSES[loss]


def _tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))
