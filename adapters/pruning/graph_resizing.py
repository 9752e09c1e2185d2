"""A network's graph with smaller parameters, every size that the graph fixes corrected.

What remains of a tensor is known entry by entry from its channel ids, and is a tensor again (`channel_ids` sees to that):
the size of a dimension is the number of indices of which something remains. So every number in a view, an expansion, a split, a slice or
the groups of a convolution can be counted anew. This is how attention heads are removed, and how modules are made smaller
whose own code holds their sizes.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, fx

from .channel_ids import Propagation
from .channel_rules import name_of
from .channel_units import FIXED, Tracked


def resize_graph(run: Propagation, tensors: dict[str, Tensor], dead: np.ndarray) -> fx.GraphModule:
    """The graph of a network with smaller parameters.

    Parameters
    ----------
    run : Propagation
    tensors : dict of name to Tensor
        The parameters and buffers that change; a bias that did not exist is added to its layer.
    dead : ndarray of bool
        Units that are gone, by representative.

    Returns
    -------
    torch.fx.GraphModule
    """
    graph = copy.deepcopy(run.graph)
    learned = {name: p.requires_grad for name, p in graph.named_parameters()}
    device = next(iter(tensors.values())).device
    graph.to(device)
    remains = _Remains(run, dead)
    for node in graph.graph.nodes:
        if node.op == "call_function" and name_of(node) in RESIZERS:
            RESIZERS[name_of(node)](node, remains)
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        layer = graph.get_submodule(owner)
        if leaf in layer._buffers:
            layer._buffers[leaf] = tensor
            continue
        if layer._parameters.get(leaf) is None:
            _add_bias(graph, name)
        layer._parameters[leaf] = torch.nn.Parameter(tensor, requires_grad=learned.get(name, True))
    for node in graph.graph.nodes:  # a parameter that two layers share goes by its first name
        if node.op == "get_attr":
            node.target = run.names.get(node.target, node.target)
    graph.recompile()
    return graph


class _Remains:
    """Which indices of each dimension of a tensor in the graph remain."""

    def __init__(self, run: Propagation, dead: np.ndarray):
        self.run, self.dead = run, dead
        self.gone = np.zeros(int(run.parameters.starts[-1]), dtype=bool)
        for (name, dim), ids in run.parameters.slots.items():
            if name in run.parameters.shapes:
                index = torch.from_numpy(dead[run.units.roots(np.maximum(ids, FIXED))])
                lost = run.parameters.entries(name).movedim(dim, 0)[index]
                self.gone[lost.numpy().ravel()] = True

    def along(self, t: Tracked, dim: int) -> np.ndarray:
        """Whether each index of a dimension remains, bool of the dimension's size."""
        if t.ids is not None:
            left = ~self.dead[self.run.units.roots(t.ids)]
        elif t.entries is not None:
            left = ~self.gone[t.entries.numpy()]
        else:
            return np.ones(t.value.shape[dim], dtype=bool)
        return np.moveaxis(left, dim, 0).reshape(left.shape[dim], -1).any(axis=1)

    def of(self, node: fx.Node):
        """What is known of a node's tensor."""
        return self.run.tracked[node.name]


def _resize_view(node: fx.Node, remains: _Remains) -> None:
    t, sizes = remains.of(node), list(node.args[1])
    for dim, size in enumerate(sizes):
        left = remains.along(t, dim)
        if left.all() or size == -1:
            continue
        # a size that is computed from the batch's, as in batch * heads, follows from the others
        sizes[dim] = int(left.sum()) if isinstance(size, int) else -1
    node.args = (node.args[0], sizes, *node.args[2:])


def _resize_split(node: fx.Node, remains: _Remains) -> None:
    x = node.args[0]
    dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    before = remains.of(x)
    if remains.along(before, dim % before.value.ndim).all():
        return
    sizes = [int(remains.along(part, dim % part.value.ndim).sum()) for part in remains.of(node)]
    node.target = torch.ops.aten.split_with_sizes.default
    node.args, node.kwargs = (x, sizes, dim), {}


def _resize_slice(node: fx.Node, remains: _Remains) -> None:
    x, dim, start, end, step = (*node.args, *(0, None, None, 1)[len(node.args) - 1 :])
    before = remains.of(x)
    left = remains.along(before, dim % before.value.ndim)
    if left.all():
        return
    if step != 1 or not all(isinstance(v, (int, type(None))) for v in (start, end)):
        raise ValueError(f"{node.name} takes every {step}th of the channels that are removed")
    start, stop, _ = slice(start, end).indices(len(left))
    node.args = (x, dim, int(left[:start].sum()), int(left[:stop].sum()))


def _resize_select(node: fx.Node, remains: _Remains) -> None:
    x, dim, index = node.args
    left = remains.along(remains.of(x), dim % remains.of(x).value.ndim)
    if not left[index]:
        raise ValueError(f"{node.name} takes one channel, which is removed")
    if not left.all():
        node.args = (x, dim, int(left[: index % len(left)].sum()))


def _resize_convolution(node: fx.Node, remains: _Remains) -> None:
    x, args = remains.of(node.args[0]), list(node.args)
    if len(args) > 6 and args[6] == x.value.shape[1] > 1:  # one group a channel
        args[6] = int(remains.along(x, 1).sum())
        node.args = tuple(args)


def _add_bias(graph: fx.GraphModule, name: str) -> None:
    """Let the layer with the weight beside a new bias use it."""
    weight = name.removesuffix("bias") + "weight"
    (get,) = (n for n in graph.graph.nodes if n.op == "get_attr" and n.target == weight)
    (layer,) = get.users
    owner, _, leaf = name.rpartition(".")
    graph.get_submodule(owner).register_parameter(leaf, None)
    with graph.graph.inserting_before(layer):
        bias = graph.graph.create_node("get_attr", name)
    layer.args = (*layer.args[:2], bias, *layer.args[3:])


RESIZERS = {
    "view": _resize_view,
    "_unsafe_view": _resize_view,
    "reshape": _resize_view,
    "expand": _resize_view,
    "split": _resize_split,
    "split_with_sizes": _resize_split,
    "chunk": _resize_split,
    "slice": _resize_slice,
    "select": _resize_select,
    **dict.fromkeys(
        [f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)], _resize_convolution
    ),
}
