"""Which tensors are quantised, to how many bits, and the network with quantisers in these places.

"academic", as papers count: the input of every convolution and linear layer, but for the first. One quantiser a tensor serves
all who read it, a shortcut among them. Outputs of layers reach a residual sum unquantised.

"deployable", as integer kernels compute: the input of the network (to 8 bits), the output of every layer after its normalisation and its
activation function, every sum and every average. Tensors that are joined share a quantiser. Only the last output stays real. A
tensor that no layer reads costs nothing in more bits, and has 8.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx, nn

from statml._validation import check_choice, check_integer

from .quantizers import LSQActivation, QuantizedLayer
from .tracing import (
    is_activation,
    is_batch_norm,
    is_layer,
    layer_nodes,
    module_of,
)

PLACEMENTS = ("academic", "deployable")
F = nn.functional
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
MAX_POOL_FUNCTIONS = {F.max_pool1d, F.max_pool2d, F.max_pool3d}
PASSING = (nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)
PASSING_FUNCTIONS = {torch.flatten, F.dropout, "flatten", "reshape", "view", "squeeze", "contiguous"}  # fmt: skip
CONCATENATIONS = {torch.cat, torch.concat}


@dataclass(frozen=True)
class Bits:
    """Bits of every layer and tensor.

    Parameters
    ----------
    weights : int or dict of layer name to int
    activations : int
    first_last : int or None
        Of the weights of the first and the last layer, and of the tensor that the last one reads. None: as the others.
    second_input : int or None
        Of the first tensor that is quantised after the network's input, which the second layer reads.
    """

    weights: int | Mapping[str, int] = 4
    activations: int = 4
    first_last: int | None = 8
    second_input: int | None = 8

    def of_layer(self, name: str, first: bool, last: bool) -> int:
        """Bits of a layer's weights."""
        if isinstance(self.weights, Mapping):
            return self.weights[name]
        return self.first_last if self.first_last is not None and (first or last) else self.weights


def check_bits(bits: Bits, names: list[str]) -> None:
    """Refuse bits outside 2 to 8, and names that are no layers."""
    if isinstance(bits.weights, Mapping):
        for name in bits.weights:
            if name not in names:
                raise ValueError(
                    f"n_bits_w names {name!r}, which is no layer; layers are {', '.join(names)}"
                )
        missing = [name for name in names if name not in bits.weights]
        if missing:
            raise ValueError(f"n_bits_w must name every layer; {missing[0]!r} is missing")
        for name, n in bits.weights.items():
            check_integer(f"n_bits_w[{name!r}]", n, 2, 8)
    else:
        check_integer("n_bits_w", bits.weights, 2, 8)
    check_integer("n_bits_a", bits.activations, 2, 8)
    for name, n in (
        ("first_last_bits", bits.first_last),
        ("second_input_bits", bits.second_input),
    ):
        if n is not None:
            check_integer(name, n, 2, 8)


def build_student(traced: fx.GraphModule, placement: str, bits: Bits) -> fx.GraphModule:
    """A copy of a network in which layers are `QuantizedLayer` and tensors go through `LSQActivation`.

    Parameters
    ----------
    traced : GraphModule
        As `tracing.trace` returns it.
    placement : {"academic", "deployable"}
    bits : Bits

    Returns
    -------
    GraphModule
        Its nodes have the names of those of `traced`; quantisers come after the node whose output they quantise, as ``quant_<name>``. The quantisers
        have no grids yet, and the layers no quantised weights.
    """
    check_choice("placement", placement, PLACEMENTS)
    student = copy.deepcopy(traced)
    layers = layer_nodes(student)
    check_bits(bits, [node.target for node in layers])
    tensors = _academic(student) if placement == "academic" else _deployable(student)
    groups = _joined(student, tensors) if placement == "deployable" else {}
    reads_last = _quantised_input(layers[-1], tensors)
    numbered = [t for t in tensors if t.op != "placeholder"]
    made: dict[str, LSQActivation] = {}
    graph = student.graph
    for tensor in tensors:
        n = bits.activations
        if tensor.op == "placeholder" or (
            placement == "deployable" and not _layers_reading(student, tensor, tensors)
        ):
            n = 8
        elif tensor is reads_last and bits.first_last is not None:
            n = bits.first_last
        elif tensor is numbered[0] and bits.second_input is not None:
            n = bits.second_input
        shared = groups.get(tensor.name, tensor.name)
        if shared not in made:
            made[shared] = LSQActivation(n)
            student.add_module(f"quant_{shared}", made[shared])
        # the widest of what is joined serves all
        made[shared].n_bits = max(made[shared].n_bits, n)
        users = list(tensor.users)
        with graph.inserting_after(tensor):
            quantised = graph.create_node(
                "call_module", f"quant_{shared}", (tensor,), name=f"quant_{tensor.name}"
            )
        for user in users:
            user.replace_input_with(tensor, quantised)
    for node in layers:
        parent, _, name = node.target.rpartition(".")
        setattr(
            student.get_submodule(parent),
            name,
            QuantizedLayer(student.get_submodule(node.target)),
        )
    graph.lint()
    student.recompile()
    return student.eval()


def _academic(traced: fx.GraphModule) -> list[fx.Node]:
    """Tensors that layers read, but for the first layer's."""
    layers = layer_nodes(traced)
    read = {node.args[0] for node in layers[1:]} - {layers[0].args[0]}
    return [
        node
        for node in traced.graph.nodes
        if node in read and node.op not in ("placeholder", "get_attr")
    ]


def _deployable(traced: fx.GraphModule) -> list[fx.Node]:
    """The input, outputs of layers after normalisation and activation, sums, averages and other operations."""
    (result,) = next(n for n in traced.graph.nodes if n.op == "output").all_input_nodes
    tensors = []
    for node in traced.graph.nodes:
        if node.op in ("output", "get_attr") or node is result:
            continue
        last = passes_on(traced, node) or _is_concatenation(node)
        fused = _one_user(node) and (
            is_activation(traced, _one_user(node))
            or (is_layer(traced, node) and is_batch_norm(traced, _one_user(node)))
        )
        # the last output stays real, with what only passes it on
        ends = _only_passed_to(traced, node, result)
        if not (last or fused or ends):
            tensors.append(node)
    return tensors


def _only_passed_to(traced: fx.GraphModule, node: fx.Node, result: fx.Node) -> bool:
    while _one_user(node) is not None and passes_on(traced, _one_user(node)):
        node = _one_user(node)
    return node is result


def _one_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def passes_on(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node hands the values of its input on, so that codes stay codes."""
    if node.op == "call_module":
        return isinstance(module_of(traced, node), MAX_POOLS + PASSING)
    return node.op in ("call_function", "call_method") and (
        node.target in PASSING_FUNCTIONS or node.target in MAX_POOL_FUNCTIONS
    )


def _is_concatenation(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in CONCATENATIONS


def _sources(traced: fx.GraphModule, node: fx.Node, tensors: list[fx.Node]) -> list[fx.Node]:
    """The quantised tensors whose codes a node hands on or is."""
    if node in tensors:
        return [node]
    if passes_on(traced, node) or _is_concatenation(node):
        return [s for source in node.all_input_nodes for s in _sources(traced, source, tensors)]
    return []


def _joined(traced: fx.GraphModule, tensors: list[fx.Node]) -> dict[str, str]:
    """For tensors that are concatenated: the one whose quantiser they share."""
    leader = {node.name: node.name for node in tensors}

    def find(name):
        while leader[name] != name:
            name = leader[name]
        return name

    for node in traced.graph.nodes:
        if _is_concatenation(node):
            names = [find(s.name) for s in _sources(traced, node, tensors)]
            for name in names[1:]:
                leader[find(name)] = find(names[0])
    return {name: find(name) for name in leader}


def _quantised_input(layer: fx.Node, tensors: list[fx.Node]) -> fx.Node | None:
    """The quantised tensor that a layer reads, seen through what hands it on."""
    node = layer.args[0]
    while node not in tensors:
        if len(node.all_input_nodes) != 1:
            return None
        (node,) = node.all_input_nodes
    return node


def _layers_reading(traced: fx.GraphModule, tensor: fx.Node, tensors: list[fx.Node]) -> bool:
    waiting = list(tensor.users)
    while waiting:
        user = waiting.pop()
        if is_layer(traced, user):
            return True
        if passes_on(traced, user) or _is_concatenation(user):
            waiting += list(user.users)
    return False
