r"""Cross-layer equalisation without data: channels of a tensor are brought to like ranges before the tensor is quantised.

A tensor has one step for all its channels, so that a channel whose values are thirty times smaller than another's has five bits fewer. ReLU is
positively homogeneous: channel c of a tensor can be multiplied by f_c > 0 where it is made, and what reads it divided by f_c, and
the network computes the same. Here, for every tensor between layers (with all that is added to it, which has to share the factors):

- r_c, the range of the channel, from its normalisation alone: its values are taken as normal with mean :math:`\beta_c` and deviation
  :math:`|\gamma_c|`, and reach `n_std` deviations;
- w_c, the largest share that the weights reading the channel have in the ranges of their own grids, one an output channel;
- :math:`f_c \propto \sqrt{w_c / r_c}`, which balances the two (Nagel et al. 2019, eq. 11, with the range of the tensor in the place of the first
  weights', which have a step a channel already). A depthwise layer has a step of its own for the weights of every channel: dividing them
  costs nothing, and :math:`f_c \propto 1 / r_c`.

ReLU6 is not homogeneous: its factors are at least 1 and raise no channel's range above 6, so that values beyond `n_std` deviations alone are
cut. Factors that only grow leave nothing to balance; other layers than depthwise ones would pay with their weights, and tensors behind a ReLU6 that
they read stay as they are.

References
----------
Nagel, M., van Baalen, M., Blankevoort, T. and Welling, M. (2019). Data-free quantization through weight equalization and bias
correction. ICCV.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from statml._validation import check_number

from .tracing import is_activation, is_addition, is_batch_norm, is_layer, module_of, trace

LARGEST_FACTOR = 64.0  # a channel of no range at all is not raised without end
PASSING = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


@dataclass
class _Stream:
    """Tensors that are scaled together: normalisations that make them, layers that read them."""

    norms: list[nn.Module] = field(default_factory=list)
    readers: list[nn.Module] = field(default_factory=list)
    activations: list[nn.Module | None] = field(default_factory=list)
    fixed: bool = False


def equalize(model: nn.Module, *, n_std: float = 4.0) -> fx.GraphModule:
    """A copy of a trained network that computes the same and loses less when it is quantised.

    Parameters
    ----------
    model : torch Module
        Convolutions, batch normalisations, ReLU or ReLU6, sums. What is not made of these stays as it is.
    n_std : float, default=4.0
        Range of a channel in standard deviations.

    Returns
    -------
    GraphModule
        In evaluation mode; takes the place of `model` in `GenieQuantizer.fit`. Its outputs are those of `model` up to rounding and,
        with ReLU6, up to activations beyond `n_std` deviations.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 3, 1)).eval()
    >>> with torch.no_grad():
    ...     _ = net[1].weight.copy_(torch.tensor([1.0, 0.01]))
    >>> equal, X = equalize(net), torch.randn(5, 1, 8, 8)
    >>> torch.allclose(equal(X), net(X), atol=1e-6), bool(equal.get_submodule("1").weight[1] > 0.05)
    (True, True)
    """
    n_std = check_number("n_std", n_std, 0, low_open=True)
    traced = trace(model)
    for stream in _streams(traced):
        if stream.norms and stream.readers and not stream.fixed:
            _scale(stream, n_std)
    return traced


def _streams(traced: fx.GraphModule) -> Iterable[_Stream]:
    """All tensors of a network, by what has to be scaled together."""
    parent: dict[fx.Node, fx.Node] = {node: node for node in traced.graph.nodes}

    def root(node: fx.Node) -> fx.Node:
        while parent[node] is not node:
            node = parent[node]
        return node

    for node in traced.graph.nodes:
        if is_activation(traced, node) or is_addition(node) or _passes(traced, node):
            for source in node.all_input_nodes:
                parent[root(source)] = root(node)
    streams: dict[fx.Node, _Stream] = {}
    for node in traced.graph.nodes:
        stream = streams.setdefault(root(node), _Stream())
        module = module_of(traced, node)
        if is_batch_norm(traced, node) and _made_by_layer(traced, node):
            stream.norms.append(module)
        elif is_activation(traced, node):
            stream.activations.append(module)
            stream.fixed |= not isinstance(module, (nn.ReLU, nn.ReLU6))
        elif not (is_addition(node) or _passes(traced, node)):
            # a layer without normalisation, the input, a join: its range is not known, or not to be changed
            stream.fixed |= not (is_layer(traced, node) and _only_normalised(traced, node))
        for source in node.all_input_nodes:
            read = streams.setdefault(root(source), _Stream())
            if is_layer(traced, node):
                read.readers.append(module)
            elif root(source) is not root(node) and not _folds(traced, source, node):
                read.fixed = True
    return streams.values()


def _passes(traced: fx.GraphModule, node: fx.Node) -> bool:
    if isinstance(module_of(traced, node), PASSING):
        return True
    # (n, C, 1, 1) to (n, C): channels stay channels where as many features as channels are read, which `_scale` checks
    return isinstance(module_of(traced, node), nn.Flatten) or node.target is torch.flatten


def _made_by_layer(traced: fx.GraphModule, node: fx.Node) -> bool:
    return is_layer(traced, node.args[0]) and _only_normalised(traced, node.args[0])


def _only_normalised(traced: fx.GraphModule, node: fx.Node) -> bool:
    return len(node.users) == 1 and is_batch_norm(traced, next(iter(node.users)))


def _folds(traced: fx.GraphModule, source: fx.Node, node: fx.Node) -> bool:
    return is_batch_norm(traced, node) and is_layer(traced, source)


@torch.no_grad()
def _scale(stream: _Stream, n_std: float) -> None:
    n = stream.norms[0].num_features
    if any(norm.num_features != n or not norm.affine for norm in stream.norms):
        return
    shares = [_share(layer, n) for layer in stream.readers]
    if any(share is None for share in shares):
        return
    mean = sum(norm.bias for norm in stream.norms)
    deviation = torch.stack([norm.weight for norm in stream.norms]).square().sum(0).sqrt()
    low, high = mean - n_std * deviation, mean + n_std * deviation
    six = any(isinstance(a, nn.ReLU6) for a in stream.activations)
    bounded = six or len(stream.activations) > 0
    reach = high.clamp(min=0) if bounded else torch.maximum(high.abs(), low.abs())
    reach = reach.clamp(max=6) if six else reach
    largest = reach.max()
    if not largest > 0:
        return
    reach = reach.clamp(min=largest / LARGEST_FACTOR)
    share = torch.stack(shares).amax(0)
    if all(_is_depthwise(layer) for layer in stream.readers):
        factor = largest / reach
    elif six:
        return
    else:
        factor = (share.clamp(min=1 / LARGEST_FACTOR) / reach).sqrt()
        factor = factor * (largest / (factor * reach).max())
    factor = factor.clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)
    if six:
        factor = torch.minimum(factor.clamp(min=1), (6 / reach).clamp(min=1))
    for norm in stream.norms:
        norm.weight.mul_(factor)
        norm.bias.mul_(factor)
    for layer in stream.readers:
        wide = (1, -1, *[1] * (layer.weight.ndim - 2))
        if _is_depthwise(layer):
            wide = (-1, *[1] * (layer.weight.ndim - 1))
        layer.weight.div_(factor.reshape(wide))


def _is_depthwise(layer: nn.Module) -> bool:
    return getattr(layer, "groups", 1) > 1


def _share(layer: nn.Module, n: int) -> Tensor | None:
    """For every input channel the largest share of an output channel's range that a weight has; None if channels cannot be told."""
    weight = layer.weight
    if _is_depthwise(layer):
        return weight.new_ones(n) if layer.groups == n == len(weight) else None
    if weight.shape[1] != n:
        return None
    range_out = weight.abs().flatten(1).amax(1).clamp(min=torch.finfo(weight.dtype).tiny)
    relative = weight.abs() / range_out.reshape(-1, *[1] * (weight.ndim - 1))
    return relative.transpose(0, 1).flatten(1).amax(1)
