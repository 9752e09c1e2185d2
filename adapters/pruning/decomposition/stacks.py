"""Many networks trained as one: a stack of parameter tensors, one slice a network.

All networks of a stack have the same architecture. Their parameters are tensors of shape (B, ...), one update moves them all, and
each sees minibatches of its own. The forward pass of a multilayer perceptron is a batched matrix product; any other module runs
network by network through `torch.func.functional_call`, on slices of the same tensors, so that both ways give the same numbers.

The update is that of ``torch.optim.SGD`` with momentum and weight decay; a mask keeps pruned weights, and their momentum, at exactly zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from ..._mlp import MLP
from ..masks import prunable_weights

Masks = dict[str, Tensor]
EVALUATE_BATCH = 2048


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: the same for every network and level of an experiment.

    Parameters
    ----------
    epochs : int
    batch_size : int
    lr, momentum, weight_decay : float
    milestones : sequence of float
        Shares of the epochs after which the learning rate falls to a tenth.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: Sequence[float] = (0.5, 0.75)

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        passed = sum(epoch >= share * self.epochs for share in self.milestones)
        return self.lr * 0.1**passed


@dataclass(frozen=True)
class Stack:
    """B networks of one architecture.

    Attributes
    ----------
    template : torch Module
        Gives the forward pass; its own parameters are not used.
    parameters, buffers : dict of name to Tensor of shape (B, ...)
    prunable : tuple of str
        Names of the parameters that may be pruned.
    looped : bool
        Whether the forward pass goes network by network.
    """

    template: nn.Module = field(repr=False)
    parameters: dict[str, Tensor] = field(repr=False)
    buffers: dict[str, Tensor] = field(repr=False)
    prunable: tuple[str, ...]
    looped: bool

    @classmethod
    def of(
        cls, modules: Sequence[nn.Module], prune_output: bool, looped: bool | None = None
    ) -> Stack:
        """Stack modules of one architecture, copying their weights; `looped=None` loops only where it has to."""
        template = modules[0]
        names = [name for name, _ in template.named_parameters()]
        states = [dict(m.named_parameters()) for m in modules]
        parameters = {n: torch.stack([s[n].detach().clone() for s in states]) for n in names}
        buffered = [dict(m.named_buffers()) for m in modules]
        buffers = {n: torch.stack([b[n].clone() for b in buffered]) for n in buffered[0]}
        prunable = tuple(prunable_weights(template, prune_output=prune_output))
        if looped is None:
            looped = not (isinstance(template, MLP) and _has_no_dropout(template))
        return cls(template, parameters, buffers, prunable, looped)

    def __len__(self) -> int:
        return len(next(iter(self.parameters.values())))

    def copy(self) -> Stack:
        """The same networks in memory of their own."""
        return self._map(Tensor.clone)

    def __getitem__(self, index) -> Stack:
        """Some of the networks, copied."""
        index = torch.as_tensor(index)
        return self._map(lambda t: t[index].clone())

    @staticmethod
    def join(stacks: Sequence[Stack]) -> Stack:
        """One stack of several, copied."""
        first = stacks[0]
        return replace(
            first,
            parameters={n: torch.cat([s.parameters[n] for s in stacks]) for n in first.parameters},
            buffers={n: torch.cat([s.buffers[n] for s in stacks]) for n in first.buffers},
        )

    def _map(self, function: Callable[[Tensor], Tensor]) -> Stack:
        return replace(
            self,
            parameters={n: function(t) for n, t in self.parameters.items()},
            buffers={n: function(t) for n, t in self.buffers.items()},
        )

    # --- forward ----------------------------------------------------------------------------------------

    def forward(self, X: Tensor, training: bool) -> Tensor:
        """Logits (B, b, classes) of minibatches X (B, b, ...), one a network."""
        if self.looped:
            self.template.train(training)
            outputs = []
            for b in range(len(self)):
                # slices are views: what a normalisation writes into its buffers stays
                state = {n: t[b] for n, t in (self.parameters | self.buffers).items()}
                outputs.append(functional_call(self.template, state, (X[b],)))
            return torch.stack(outputs)
        h = X.flatten(2)
        weights = list(self.parameters.values())  # weight, bias of each layer in turn
        for k in range(0, len(weights), 2):
            h = torch.baddbmm(weights[k + 1][:, None, :], h, weights[k].transpose(1, 2))
            if k + 2 < len(weights):
                h = h.relu()
        return h

    @torch.no_grad()
    def logits(self, X: Tensor) -> Tensor:
        """Logits (B, n, classes) of the same records X (n, ...) for every network."""
        parts = [
            self.forward(part.expand(len(self), *part.shape), training=False)
            for part in X.split(EVALUATE_BATCH)
        ]
        return torch.cat(parts, dim=1)


def _has_no_dropout(module: nn.Module) -> bool:
    return not any(isinstance(part, nn.Dropout) for part in module.modules())


# --- training -----------------------------------------------------------------------------------------


def train(
    stack: Stack,
    masks: Masks | None,
    X: Tensor,
    y: Tensor,
    records: Tensor,
    orders: Sequence[np.random.Generator],
    recipe: Recipe,
    after_epoch: Callable[[int, Stack], None] | None = None,
) -> None:
    """Train every network of a stack, in place.

    Parameters
    ----------
    stack : Stack
    masks : dict of name to bool Tensor of shape (B, ...), or None
        The weights are masked first and stay at exactly zero.
    X : Tensor of shape (n, ...)
    y : Tensor of int64, shape (n,)
    records : Tensor of int64, shape (B, n_train)
        The records on which each network is trained.
    orders : sequence of numpy Generator, length B
        Networks whose generators are in the same state see the same order.
    recipe : Recipe
    after_epoch : callable, optional
        (number of epochs done, stack), after each epoch.
    """
    names = list(stack.parameters)
    factors: dict[str, Tensor] = {}
    if masks is not None:
        for name, keep in masks.items():
            stack.parameters[name].masked_fill_(~keep, 0.0)
            factors[name] = keep.to(stack.parameters[name].dtype)
    velocity = {n: torch.zeros_like(t) for n, t in stack.parameters.items()}
    leaves = [t.requires_grad_() for t in stack.parameters.values()]
    n = records.shape[1]
    try:
        for epoch in range(recipe.epochs):
            lr = recipe.lr_at(epoch)
            order = torch.from_numpy(np.stack([rng.permutation(n) for rng in orders]))
            order = records.gather(1, order)
            for batch in order.split(recipe.batch_size, dim=1):
                losses = _losses(stack.forward(X[batch], training=True), y[batch]).mean(dim=1)
                # the networks share nothing, so that the gradient of the sum is each one's own
                gradients = torch.autograd.grad(losses.sum(), leaves)
                with torch.no_grad():
                    for name, leaf, gradient in zip(names, leaves, gradients, strict=True):
                        step = gradient.add(leaf, alpha=recipe.weight_decay)
                        if name in factors:
                            step.mul_(factors[name])
                        velocity[name].mul_(recipe.momentum).add_(step)
                        leaf.sub_(velocity[name], alpha=lr)
            if after_epoch is not None:
                after_epoch(epoch + 1, stack)
    finally:
        for leaf in leaves:
            leaf.requires_grad_(False)


def _losses(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of every record, shape (B, b)."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view_as(
        y
    )


@dataclass(frozen=True)
class Evaluation:
    """What a stack makes of some records; all arrays of shape (B, n)."""

    loss: NDArray[np.float32]
    predicted: NDArray[np.int64]


def evaluate(stack: Stack, X: Tensor, y: Tensor) -> Evaluation:
    """Loss and predicted class of every record by every network."""
    logits = stack.logits(X)
    losses = _losses(logits, y.expand(len(stack), -1))
    return Evaluation(losses.numpy(), logits.argmax(dim=2).numpy())


# --- masks --------------------------------------------------------------------------------------------


def full_masks(stack: Stack) -> Masks:
    """Masks that keep every prunable weight."""
    return {n: torch.ones_like(stack.parameters[n], dtype=torch.bool) for n in stack.prunable}


def keep_largest(scores: dict[str, Tensor], masks: Masks, n_keep: int) -> Masks:
    """The surviving weights of largest score, over all layers of a network, exactly `n_keep` of them.

    Parameters
    ----------
    scores : dict of name to Tensor of shape (B, ...)
    masks : dict of name to bool Tensor of the same shapes
        Only what they keep can survive.
    n_keep : int

    Returns
    -------
    dict of name to bool Tensor
    """
    flat = torch.cat(
        [scores[n].masked_fill(~keep, -torch.inf).flatten(1) for n, keep in masks.items()], dim=1
    )
    order = flat.argsort(dim=1, descending=True, stable=True)  # ties: the first ones survive
    kept = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order[:, :n_keep], True)
    out, start = {}, 0
    for name, mask in masks.items():
        size = mask[0].numel()
        out[name] = kept[:, start : start + size].view_as(mask) & mask
        start += size
    return out
