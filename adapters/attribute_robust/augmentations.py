r"""Other ways to train for unseen changes, as attributes, to compare with: pixels, random convolutions, AugMix.

=================  ==========================================================================================================
`PixelShift`       x' = x + delta, a shift a pixel: with ``objective="adversarial"`` this is pixel PGD training (Madry et al. 2018) with steps
                   in proportion to the derivative: a `step_size` of several half-widths makes nearly signs of them
`RandomConv`       x' = (1 - a) x + a (W * x), W a random convolution a record (Xu et al. 2021); with ``objective="random"``
`AugMix`           x' = (1 - a) x + a sum_i w_i chain_i(x), random chains of the attributes given (Hendrycks et al. 2020, without its
                   consistency loss); with ``objective="random"``
=================  ==========================================================================================================

ADA (Volpi et al. 2018) is ``objective="ada"``, with any of these or other attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from statml._validation import check_integer

from .attribute import Attribute, Chain


class PixelShift(Attribute):
    """Every number of a record shifted on its own: the sup-norm ball of adversarial training.

    Parameters
    ----------
    low : float
        Radius eps of the ball, in the units of x.
    shape : tuple of int
        Of a record.

    Examples
    --------
    >>> import torch
    >>> PixelShift(0.1, shape=(1, 2, 2)).n_parameters
    4
    """

    def __init__(self, low: float, shape: Sequence[int]):
        self.shape = tuple(check_integer("shape", size, low=1) for size in shape)
        size = int(np.prod(self.shape))
        self.names = tuple(f"pixel{i}" for i in range(size))
        self.units, self.clean = ("those of x",) * size, (0.0,) * size
        super().__init__(low)

    def __repr__(self) -> str:
        return f"PixelShift({self.high.max()}, shape={self.shape})"

    def check(self, shape: Sequence[int]) -> None:
        if tuple(shape[1:]) != self.shape:
            raise ValueError(f"PixelShift has shape {self.shape}, got X of shape {tuple(shape)}")

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return x + value.view_as(x)


class RandomConv(Attribute):
    """Images mixed with their random convolution, whose weights are drawn once a record with variance 1 / (channels size^2).

    Parameters
    ----------
    low : float, default=0.0
        Of the share of the convolved image.
    high : float, default=1.0
    size : int, default=3
        Side of the kernel, odd.
    """

    kind, names, units, clean, limits = "images", ("random_conv",), ("share",), (0.0,), (0.0, 1.0)

    def __init__(self, low: float = 0.0, high: float = 1.0, size: int = 3):
        super().__init__(low, high)
        self.size = check_integer("size", size, low=1)
        if size % 2 == 0:
            raise ValueError(f"size must be odd, got {size}")

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, size={self.size})"

    def draw_noise(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        n, c = x.shape[:2]
        weights = torch.randn(n, c, c, self.size, self.size, generator=generator, dtype=x.dtype)
        return (weights / (c * self.size**2) ** 0.5).to(x.device)

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        n, c, height, width = x.shape
        half = self.size // 2
        # one group a record
        kernels = noise.reshape(n * c, c, self.size, self.size)
        convolved = F.conv2d(x.reshape(1, n * c, height, width), kernels, padding=half, groups=n)
        return torch.lerp(x, convolved.view_as(x), value.view(-1, 1, 1, 1))


class AugMix(Attribute):
    """Records mixed with a mixture of random chains of attributes, drawn once a record.

    Parameters
    ----------
    attributes : sequence of Attribute
        What the chains are made of; each acts with random values in its box.
    width : int, default=3
        Number of chains, mixed by Dirichlet(1, ..., 1) weights.
    depth : int, default=3
        Largest number of attributes in a chain; each has 1 to `depth`, drawn with replacement for a batch.

    Notes
    -----
    The share of the mixture is Beta(1, 1), that is uniform, in the paper as under ``objective="random"``.
    """

    names, units, clean, limits = ("augmix",), ("share",), (0.0,), (0.0, 1.0)

    def __init__(self, attributes: Sequence[Attribute], width: int = 3, depth: int = 3):
        super().__init__(0.0, 1.0)
        self.attributes = Chain(attributes).attributes
        self.width = check_integer("width", width, low=1)
        self.depth = check_integer("depth", depth, low=1)
        if not self.attributes:
            raise ValueError("attributes must hold at least one attribute, got none")

    def __repr__(self) -> str:
        return f"AugMix({self.attributes}, width={self.width}, depth={self.depth})"

    def check(self, shape: Sequence[int]) -> None:
        for attribute in self.attributes:
            attribute.check(shape)

    def draw_noise(self, x: Tensor, generator: torch.Generator | None = None) -> Any:
        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, dtype=x.dtype)

        mixture = -torch.log1p(-uniform(len(x), self.width))
        chains = []
        for _ in range(self.width):
            length = int(torch.randint(1, self.depth + 1, (1,), generator=generator))
            which = torch.randint(len(self.attributes), (length,), generator=generator)
            chain = Chain([self.attributes[i] for i in which.tolist()])
            low, high = (torch.as_tensor(v, dtype=x.dtype) for v in (chain.low, chain.high))
            value = low + (high - low) * uniform(len(x), chain.n_parameters)
            chains.append((chain, value.to(x.device), chain.draw_noise(x, generator)))
        return (mixture / mixture.sum(1, keepdim=True)).to(x.device), chains

    def apply(self, x: Tensor, value: Tensor, noise: Any = None) -> Tensor:
        mixture, chains = noise
        column = (-1, *[1] * (x.ndim - 1))
        mixed = sum(
            weight.view(column) * chain.apply(x, own, held)
            for weight, (chain, own, held) in zip(mixture.T, chains, strict=True)
        )
        return torch.lerp(x, mixed, value.view(column))
