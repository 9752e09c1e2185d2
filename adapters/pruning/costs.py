"""What a network costs: products, parameters and bytes, over the whole network and not its prunable part."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .masks import LAYERS
from .records import evaluation_mode


def layer_positions(module: nn.Module, x: Tensor) -> dict[str, int]:
    """How often each weight of a linear or convolutional layer is used for one record.

    Parameters
    ----------
    module : torch Module
    x : Tensor of shape (n_records, ...)

    Returns
    -------
    dict of str to int
        By the weights' names: 1 for a linear layer on vectors, the number of places for a convolution.
    """
    positions: dict[str, int] = {}

    def watch(name):
        def hook(layer, inputs, output):
            n = output.numel() // (layer.weight.shape[0] * len(x))
            positions[name] = positions.get(name, 0) + n

        return hook

    handles = [
        layer.register_forward_hook(watch(f"{name}.weight" if name else "weight"))
        for name, layer in module.named_modules()
        if isinstance(layer, LAYERS)
    ]
    try:
        with evaluation_mode(module), torch.no_grad():
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    return positions


def count_macs(state: Mapping[str, Tensor], positions: Mapping[str, int]) -> int:
    """Products of one forward pass of one record with weights that are not zero.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights by name, as in ``state_dict``.
    positions : mapping of str to int
        Of `layer_positions`.

    Returns
    -------
    int
        What a computer would do that skips every zero; dense hardware skips none.
    """
    return sum(n * int(state[name].count_nonzero()) for name, n in positions.items())


def count_nonzero(state: Mapping[str, Tensor], names: list[str]) -> int:
    """Parameters that are not zero."""
    return sum(int(state[name].count_nonzero()) for name in names)


def stored_bytes(state: Mapping[str, Tensor]) -> int:
    """Bytes of a state, each tensor dense or as a bitmap and the values that are not zero, whichever is smaller."""
    total = 0
    for value in state.values():
        dense = value.numel() * value.element_size()
        bitmap = -(-value.numel() // 8) + int(value.count_nonzero()) * value.element_size()
        total += min(dense, bitmap)
    return total
