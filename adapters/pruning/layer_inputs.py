"""What flows into linear and convolutional layers, as the rows of a design matrix.

A convolution is a linear map of patches: with x the unfolded patch (d = channels in a group times kernel size) and W the
weight as a matrix (outputs, d), its output is W x. The methods that work layer by layer need only the second
moments X'X of these rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .masks import CONVOLUTIONS, LAYERS
from .records import Scoring


def layers_of(module: nn.Module, names: list[str], method: str) -> dict[str, nn.Module]:
    """The layers that own weights, by the weights' names.

    Raises
    ------
    ValueError
        If a weight is not that of a linear or convolutional layer.
    """
    owners = dict(module.named_modules())
    layers = {}
    for name in names:
        owner, _, leaf = name.rpartition(".")
        if leaf != "weight" or not isinstance(owners[owner], LAYERS):
            raise ValueError(
                f"{method} works on the weights of linear and convolutional layers; {name} is none: exclude it"
            )
        layers[name] = owners[owner]
    return layers


def design(layer: nn.Module, inputs: Tensor) -> Tensor:
    """A layer's inputs as rows, shape (groups, rows, d) so that outputs are rows times the weight's rows."""
    if not isinstance(layer, CONVOLUTIONS):
        return inputs.reshape(1, -1, inputs.shape[-1])
    d = layer.weight[0].numel()
    # a convolution with the identity as its kernel copies each patch, whatever the stride, padding and dilation
    identity = torch.eye(d, dtype=inputs.dtype, device=inputs.device)
    kernel = identity.reshape(d, *layer.weight.shape[1:]).repeat(
        layer.groups, *[1] * (layer.weight.ndim - 1)
    )
    patches = layer._conv_forward(inputs, kernel, None).flatten(2)  # (n, groups d, positions)
    n, _, positions = patches.shape
    return (
        patches.reshape(n, layer.groups, d, positions)
        .permute(1, 0, 3, 2)
        .reshape(layer.groups, n * positions, d)
    )


def rows(layer: nn.Module, values: Tensor) -> Tensor:
    """A tensor of the weight's shape as (groups, outputs a group, d)."""
    groups = getattr(layer, "groups", 1)
    return values.reshape(groups, values.shape[0] // groups, -1)


@dataclass
class Moments:
    """Second moments of the inputs of one layer.

    Parameters
    ----------
    gram : Tensor of shape (groups, d, d)
        X'X, float64.
    total : Tensor of shape (groups, d)
        Column sums.
    n : int
        Rows.
    """

    gram: Tensor
    total: Tensor
    n: int


def input_moments(scoring: Scoring, layers: dict[str, nn.Module]) -> dict[str, Moments]:
    """Second moments of the inputs of several layers, in one pass over the records.

    Parameters
    ----------
    scoring : Scoring
    layers : dict of str to Module

    Returns
    -------
    dict of str to Moments

    Raises
    ------
    ValueError
        If nothing passed through a layer.
    """
    moments: dict[str, Moments] = {}

    def watch(name):
        def hook(layer, inputs, output):
            X = design(layer, inputs[0].detach()).double()
            gram, total = X.transpose(1, 2) @ X, X.sum(1)
            if name in moments:
                old = moments[name]
                gram, total = old.gram + gram, old.total + total
                moments[name] = Moments(gram, total, old.n + X.shape[1])
            else:
                moments[name] = Moments(gram, total, X.shape[1])

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        scoring.forward()
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in layers if name not in moments]
    if missing:
        raise ValueError(f"nothing passed through {', '.join(missing)}; exclude what is not used")
    return moments


def execution_order(scoring: Scoring, layers: dict[str, nn.Module]) -> list[str]:
    """Names of the layers in the order in which the network runs them."""
    order: list[str] = []
    handles = [
        layer.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name, layer in layers.items()
    ]
    try:
        scoring.forward()
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(order))
