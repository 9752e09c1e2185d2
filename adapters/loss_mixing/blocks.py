r"""Losses bound to the records of a fit, with their gradients in closed form.

A `Block` holds K losses: on logits z (b, C) of the records `index` it gives

.. math:: \ell_{ik}, \qquad \delta_{ik} = \partial \ell_{ik} / \partial z_i,

the losses (b, K) and their gradients (b, K, C), and says in ``mask`` (n, K) which records have which loss. Most are a divergence
from a distribution q at temperature T, with p = softmax(z/T):

.. math:: \ell = T^2 \sum_c q_c (\log q_c - \log p_c), \qquad \delta = T (p - q),

KL(teacher || student) with q the teacher's softmax at T (Hinton, Vinyals and Dean 2015); with T = 1 and without the entropy of q, the
cross-entropy with a soft or hard label. Everything here takes NumPy arrays and torch tensors alike.

References
----------
Hinton, G., Vinyals, O. and Dean, J. (2015). Distilling the knowledge in a neural network. arXiv:1503.02531.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

LEAST = 1e-30  # a probability of zero, on the scale of logarithms


class Block(Protocol):
    """K losses a record, bound to n records."""

    names: list[str]
    mask: Any  # (n, K) bool

    def losses(self, logits: Any, index: Any) -> Any:
        """Losses (b, K), differentiable in the logits (b, C); those outside the mask are 0."""

    def gradients(self, logits: Any, index: Any) -> Any:
        """Their gradients in the logits, (b, K, C), closed form."""

    def tensors(self, device: Any, dtype: Any) -> Self:
        """The block for tensors of torch."""

    def padded(self, m: int) -> Self:
        """The block with m more records, which have none of its losses."""


# --- functions that take both NumPy arrays and tensors ----------------------------------------------


def log_softmax(z: Any) -> Any:
    """Logarithm of the softmax over the last axis."""
    if not isinstance(z, np.ndarray):
        return z.log_softmax(-1)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def exp(z: Any) -> Any:
    return np.exp(z) if isinstance(z, np.ndarray) else z.exp()


def _padded(values: NDArray, m: int) -> NDArray:
    return np.concatenate([values, np.zeros((m, *values.shape[1:]), values.dtype)])


def _as_tensor(values: NDArray, device: Any, dtype: Any) -> Any:
    import torch

    return torch.as_tensor(values, device=device).to(
        dtype if values.dtype.kind == "f" else torch.bool
    )


# --- blocks -----------------------------------------------------------------------------------------


class TargetBlock:
    """Divergences from distributions that were fixed before.

    Parameters
    ----------
    names : list of str
    targets : ndarray of shape (n, K, C)
        Distributions over the classes, at temperature `temperature`.
    mask : ndarray of bool of shape (n, K)
    temperature : float, default=1.0
    divergence : bool, default=False
        Whether the entropy of the target is subtracted, so that the least loss is zero.
    """

    def __init__(
        self,
        names: list[str],
        targets: NDArray,
        mask: NDArray,
        temperature: float = 1.0,
        divergence: bool = False,
    ):
        self.names, self.mask, self.temperature = names, mask, temperature
        self.targets = np.where(mask[:, :, None], targets, 0.0)
        logs = np.log(np.maximum(self.targets, LEAST)) if divergence else 0.0
        self.negative_entropy = (self.targets * logs).sum(axis=2)  # (n, K)

    def losses(self, logits, index):
        log_p = log_softmax(logits / self.temperature)
        cross = (self.targets[index] * log_p[:, None]).sum(-1)
        return self.temperature**2 * (self.negative_entropy[index] - cross)

    def gradients(self, logits, index):
        p = exp(log_softmax(logits / self.temperature))[:, None]
        return self.temperature * (self.mask[index][:, :, None] * p - self.targets[index])

    def curvature(self, logits, weights):
        """Sum over k of weights (b, K) times the second derivative, diag(p) - pp'; shape (b, C, C)."""
        p = exp(log_softmax(logits / self.temperature))
        diagonal = np.einsum("bc,cd->bcd", p, np.eye(p.shape[1]))
        return weights.sum(axis=1)[:, None, None] * (diagonal - p[:, :, None] * p[:, None])

    def tensors(self, device, dtype):
        block = copy.copy(self)
        for name in ("mask", "targets", "negative_entropy"):
            setattr(block, name, _as_tensor(getattr(self, name), device, dtype))
        return block

    def padded(self, m):
        block = copy.copy(self)
        for name in ("mask", "targets", "negative_entropy"):
            setattr(block, name, _padded(getattr(self, name), m))
        return block

    @staticmethod
    def joined(blocks: Sequence[TargetBlock]) -> TargetBlock:
        """Neighbours of one temperature as one block: fewer, larger operations."""
        block = copy.copy(blocks[0])
        block.names = [name for b in blocks for name in b.names]
        for name in ("mask", "targets", "negative_entropy"):
            setattr(block, name, np.concatenate([getattr(b, name) for b in blocks], axis=1))
        return block


class EntropyBlock:
    """Entropy of the prediction itself."""

    def __init__(self, name: str, mask: NDArray):
        self.names, self.mask = [name], mask

    def losses(self, logits, index):
        log_p = log_softmax(logits)
        return self.mask[index] * -(exp(log_p) * log_p).sum(-1)[:, None]

    def gradients(self, logits, index):
        log_p = log_softmax(logits)
        p = exp(log_p)
        entropy = -(p * log_p).sum(-1)[:, None]
        return self.mask[index][:, :, None] * (-p * (log_p + entropy))[:, None]

    def tensors(self, device, dtype):
        return EntropyBlock(self.names[0], _as_tensor(self.mask, device, dtype))

    def padded(self, m):
        return EntropyBlock(self.names[0], _padded(self.mask, m))


class FunctionBlock:
    """A function of logits (b, C) and index (b,), both tensors, that returns losses (b,)."""

    def __init__(
        self, name: str, function: Callable[[Any, Any], Any], mask: Any, n: int | None = None
    ):
        self.names, self.function, self.mask = [name], function, mask
        self.n = len(mask) if n is None else n  # the records that the function knows

    def losses(self, logits, index):
        if isinstance(logits, np.ndarray):
            return self._by_torch(logits, index)[0]
        return self.mask[index] * self._checked(logits, index)[:, None]

    def gradients(self, logits, index):
        if isinstance(logits, np.ndarray):
            return self._by_torch(logits, index)[1]
        import torch

        with torch.enable_grad():
            z = logits.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._checked(z, index).sum(), z)
        return self.mask[index][:, :, None] * slope[:, None]

    def _by_torch(self, logits: NDArray, index: NDArray) -> tuple[NDArray, NDArray]:
        import torch

        z, i = torch.from_numpy(logits), torch.from_numpy(np.asarray(index))
        block = self.tensors("cpu", z.dtype)
        return block.losses(z, i).detach().numpy(), block.gradients(z, i).numpy()

    def _checked(self, logits, index):
        losses = self.function(logits, index.clamp(max=self.n - 1))
        shape = tuple(getattr(losses, "shape", ()))
        if shape != (len(logits),):
            raise ValueError(
                f"auxiliary loss {self.names[0]!r} must return one loss a record, a tensor of shape ({len(logits)},), got "
                f"shape {shape}" + (' (a mean? use reduction="none")' if shape == () else "")
            )
        return losses

    def probe(self, n: int, n_classes: int) -> None:
        """Refuse a function that mixes records: a loss must not change with who else is in the batch."""
        import torch

        z = torch.linspace(-1, 1, 2 * n_classes).reshape(2, n_classes).double()
        index = torch.tensor([0, min(1, n - 1)])
        both = self._checked(z, index)
        alone = self._checked(z[:1], index[:1])
        if not torch.allclose(both[:1].double(), alone.double(), rtol=1e-4, atol=1e-6):
            raise ValueError(
                f"auxiliary loss {self.names[0]!r} gives a record another loss when other records are with it, {float(both[0]):.4g} "
                f'rather than {float(alone[0]):.4g} (a mean? use reduction="none")'
            )

    def tensors(self, device, dtype):
        mask = _as_tensor(self.mask, device, dtype)
        return FunctionBlock(self.names[0], self.function, mask, self.n)

    def padded(self, m):
        return FunctionBlock(self.names[0], self.function, _padded(self.mask, m), self.n)


# --- all losses of a fit ----------------------------------------------------------------------------


class Losses:
    """All losses of a fit, the cross-entropy with y first; itself a `Block`.

    Parameters
    ----------
    blocks : list of Block
    """

    def __init__(self, blocks: list[Any]):
        self.blocks = blocks
        self.names = [name for block in blocks for name in block.names]
        masks = [block.mask for block in blocks]
        numpy = isinstance(masks[0], np.ndarray)
        self.mask = np.concatenate(masks, axis=1) if numpy else _cat(masks)

    def losses(self, logits, index):
        parts = [block.losses(logits, index) for block in self.blocks]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts, axis=1) if isinstance(logits, np.ndarray) else _cat(parts)

    def gradients(self, logits, index):
        parts = [block.gradients(logits, index) for block in self.blocks]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts, axis=1) if isinstance(logits, np.ndarray) else _cat(parts)

    def tensors(self, device, dtype):
        return Losses([block.tensors(device, dtype) for block in self.blocks])


def _cat(parts):
    import torch

    return torch.cat(parts, dim=1)
