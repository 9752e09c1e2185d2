"""Swing convolution: a strided convolution whose input is shifted at random.

With stride s a fixed lattice of pixels gets little gradient through a convolution, or none (three quarters of them through a 1x1 convolution of
stride 2), which leaves chequerboard patterns in images that are optimised through it. The input is padded by reflection, one pixel on every side,
and cropped back at a random offset; over the offsets every pixel gets its share.

Jeon, Y., Lee, C. and Kim, H. (2023). Genie: show me the data for quantization. CVPR.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, fx, nn

from .tracing import CONVOLUTIONS, layer_nodes, module_of


def swing_conv(
    x: Tensor,
    conv: nn.Module,
    *,
    swing: int = 1,
    offset: tuple[int, ...] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A convolution of a shifted input.

    Parameters
    ----------
    x : Tensor of shape (n_records, n_channels, ...)
    conv : torch.nn.Conv1d, Conv2d or Conv3d
    swing : int, default=1
        Pixels j by which the input can be shifted, in each direction.
    offset : tuple of int, optional
        One number a spatial dimension, in {0, ..., 2 j}; (j, j) is no shift. Drawn uniformly by default, one for all records.
    generator : torch.Generator, optional
        Draws the offset.

    Returns
    -------
    Tensor
        Of the shape that ``conv(x)`` has.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> conv, x = nn.Conv2d(1, 2, 3, stride=2, padding=1), torch.randn(4, 1, 8, 8)
    >>> torch.equal(swing_conv(x, conv, offset=(1, 1)), conv(x))
    True
    """
    sizes = x.shape[2:]
    if offset is None:
        draws = torch.randint(2 * swing + 1, (len(sizes),), generator=generator)
        offset = tuple(draws.tolist())
    # reflection needs more pixels than it pads by
    mode = "reflect" if min(sizes) > swing else "replicate"
    padded = nn.functional.pad(x, [swing] * (2 * len(sizes)), mode=mode)
    crop = tuple(slice(o, o + size) for o, size in zip(offset, sizes, strict=True))
    return conv(padded[(..., *crop)])


class SwingConv(nn.Module):
    """`swing_conv` in the place of a strided convolution.

    Parameters
    ----------
    conv : torch Module
    swing : int
    generator : torch.Generator
    """

    def __init__(self, conv: nn.Module, swing: int, generator: torch.Generator):
        super().__init__()
        self.conv, self.swing, self.generator = conv, swing, generator

    def forward(self, x: Tensor) -> Tensor:
        """Output at a random offset."""
        return swing_conv(x, self.conv, swing=self.swing, generator=self.generator)


def swung(traced: fx.GraphModule, swing: int, generator: torch.Generator) -> fx.GraphModule:
    """The network with every strided convolution shifted at random; weights are shared with the original.

    Parameters
    ----------
    traced : GraphModule
    swing : int
        0 leaves the network as it is.
    generator : torch.Generator

    Returns
    -------
    GraphModule
    """
    other = fx.GraphModule(traced, traced.graph)
    if not swing:
        return other.eval()
    for node in layer_nodes(traced):
        conv = module_of(traced, node)
        if isinstance(conv, CONVOLUTIONS) and any(step != 1 for step in conv.stride):
            _put(other, node.target, SwingConv(conv, swing, generator))
    return other.eval()


def _put(module: nn.Module, path: str, part: nn.Module) -> None:
    """Replace a submodule without touching modules that another network shares."""
    *parents, name = path.split(".")
    for parent in parents:
        child = module._modules[parent]
        copied = child.__class__.__new__(child.__class__)
        copied.__dict__ = {**child.__dict__, "_modules": dict(child._modules)}
        module._modules[parent] = copied
        module = copied
    module._modules[name] = part


def offsets(swing: int, n_dimensions: int) -> list[tuple[int, ...]]:
    """All offsets of a swing."""
    return list(itertools.product(range(2 * swing + 1), repeat=n_dimensions))
