r"""The parameters of a network as one flat vector, layer after layer.

A linear layer (or convolution) is the matrix [W | b], rows its outputs, so that a record's gradient of it is :math:`\delta a^\top`
with a = (inputs, 1). What belongs to no such layer follows as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block:
    """A stretch of the flat vector: a layer's [W | b], or one other parameter."""

    def __init__(self, name: str, shapes: dict[str, torch.Size], is_layer: bool):
        self.name, self.shapes, self.is_layer = name, shapes, is_layer
        self.parameters = list(shapes)
        self.size = sum(shape.numel() for shape in shapes.values())

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The stretch, of parameters by name."""
        values = [tensors[name].detach() for name in self.parameters]
        if not self.is_layer:
            return values[0].reshape(-1)
        return torch.cat([v.reshape(len(v), -1) for v in values], dim=1).reshape(-1)

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Undo `flatten`."""
        if not self.is_layer:
            (name,) = self.parameters
            return {name: flat.reshape(self.shapes[name])}
        first = self.shapes[self.parameters[0]]
        matrix = flat.reshape(first[0], -1)
        named, start = {}, 0
        for name, shape in self.shapes.items():
            width = shape.numel() // first[0]
            named[name] = matrix[:, start : start + width].reshape(shape)
            start += width
        return named

    def entry_names(self) -> list[str]:
        """A name for each entry, such as ``0.weight[2,3]``."""
        names = {}
        for name, shape in self.shapes.items():
            entries = [f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(*shape)]
            names[name] = np.array(entries, dtype=object).reshape(-1)
        if not self.is_layer:
            return next(iter(names.values())).tolist()
        rows = self.shapes[self.parameters[0]][0]
        return np.hstack([v.reshape(rows, -1) for v in names.values()]).ravel().tolist()

    def rows(self, inputs: Tensor, slope: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """a (m, positions, in) and delta (m, positions, out) of one call of the layer."""
        m = len(inputs)
        if isinstance(layer, nn.Conv2d):
            a = F.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride).mT
            delta = slope.reshape(m, slope.shape[1], -1).mT
        else:
            a, delta = (t.reshape(m, -1, t.shape[-1]) for t in (inputs, slope))
        if len(self.parameters) == 2:
            a = torch.cat([a, torch.ones_like(a[..., :1])], dim=-1)
        return a, delta


def arrange(module: nn.Module, params: Sequence[str] | None) -> list[Block]:
    """Blocks of the parameters that count: layers in the module's order, then the rest."""
    named = dict(module.named_parameters())
    if params is None:
        chosen = [name for name, value in named.items() if value.requires_grad]
    else:
        chosen = list(params)
        unknown = [name for name in chosen if name not in named]
        if unknown:
            raise ValueError(f"params names parameters that the module lacks: {unknown[:5]}")
    if not chosen:
        raise ValueError("params leaves no parameter that counts")
    everywhere = [id(value) for _, value in module.named_parameters(remove_duplicate=False)]
    blocks, taken = [], set()
    for name, layer in module.named_modules():
        prefix = f"{name}." if name else ""
        own = [prefix + k for k, _ in layer.named_parameters(recurse=False)]
        # the gradient of a tied parameter is not that of one layer
        tied = any(everywhere.count(id(v)) > 1 for _, v in layer.named_parameters(recurse=False))
        if _is_layer(layer) and own and not tied and all(k in chosen for k in own):
            blocks.append(Block(name, {k: named[k].shape for k in own}, True))
            taken.update(own)
    rest = [name for name in chosen if name not in taken]
    return blocks + [Block(name, {name: named[name].shape}, False) for name in rest]


def _is_layer(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return (
            layer.groups == 1
            and layer.padding_mode == "zeros"
            and not isinstance(layer.padding, str)
        )
    return isinstance(layer, nn.Linear)
