"""From a trained network to a graph of its operations, in which layers can be replaced and tensors quantised.

The graph is torch.fx's, in evaluation mode, of a copy. Operations that overwrite their input are replaced by ones that do not, since
tensors are kept. What cannot be quantised correctly is refused here, by name and place.
"""

from __future__ import annotations

import copy
import math
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (*CONVOLUTIONS, nn.Linear)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMALISATIONS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)
F = nn.functional
FUNCTIONAL_LAYERS = {
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.linear,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.matmul,
    torch.bmm,
    operator.matmul,
}
IN_PLACE = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    operator.isub: operator.sub,
    operator.itruediv: operator.truediv,
    F.relu_: F.relu,
    torch.relu_: torch.relu,
}
ADDITIONS = {operator.add, torch.add}


class _Tracer(fx.Tracer):
    """Remembers where it is, for errors."""

    where = ""

    def call_module(self, m, forward, args, kwargs):
        outside, self.where = self.where, self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        self.where = outside  # not after an error: it says where
        return result


def trace(model: nn.Module) -> fx.GraphModule:
    """The graph of a network in evaluation mode.

    Parameters
    ----------
    model : torch Module
        Of one input. It is copied and stays as it is.

    Returns
    -------
    GraphModule
        Whose nodes overwrite no tensor.

    Raises
    ------
    TypeError
        If `model` is no Module, or not of 32-bit floats.
    ValueError
        If the graph cannot be traced, or holds something that cannot be quantised; says where.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a trained torch Module, got {type(model).__name__}")
    kinds = {t.dtype for t in model.state_dict().values() if t.is_floating_point()}
    if kinds - {torch.float32}:
        listed = ", ".join(sorted(str(k).removeprefix("torch.") for k in kinds))
        raise TypeError(f"model must hold 32-bit floats, got {listed}: use model.float()")
    model = copy.deepcopy(model).eval()
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # torch.fx raises nearly anything at a branch or loop on values
        place = f"module {tracer.where!r}" if tracer.where else "the forward of the network"
        raise ValueError(
            f"the graph of {type(model).__name__} cannot be traced by torch.fx: in {place}: {error}. "
            "A forward that decides by values must be rewritten, or the part to be quantised be handed over alone."
        ) from error
    traced = fx.GraphModule(model, graph, type(model).__name__)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for extra in inputs[1:]:
        if not extra.args:
            raise ValueError(
                f"model must take one input, got {len(inputs)}: {', '.join(n.target for n in inputs)}"
            )
        extra.replace_all_uses_with(extra.args[0])  # an argument with a default
        graph.erase_node(extra)
    _without_overwriting(traced)
    _check_layers(traced)
    for node in graph.nodes:
        node.type = None  # an annotation; one that is a string cannot be pickled
    graph.eliminate_dead_code()
    graph.lint()
    traced.recompile()
    for parameter in traced.parameters():
        parameter.requires_grad_(False)
    return traced.eval()


def _without_overwriting(traced: fx.GraphModule) -> None:
    for module in traced.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    for node in traced.graph.nodes:
        if node.op == "call_function":
            node.target = IN_PLACE.get(node.target, node.target)
            if node.kwargs.get("inplace"):
                node.kwargs = {**node.kwargs, "inplace": False}
        if node.op == "call_method" and node.target.endswith("_") and node.target[-2:] != "__":
            node.target = node.target[:-1]


def _check_layers(traced: fx.GraphModule) -> None:
    seen: set[str] = set()
    for node in traced.graph.nodes:
        if node.op in ("call_function", "call_method") and (
            node.target in FUNCTIONAL_LAYERS or node.target in ("matmul", "bmm", "mm")
        ):
            name = getattr(node.target, "__name__", node.target)
            raise ValueError(
                f"node {node.name!r} of the graph calls {name} on weights of its own: make it a layer (nn.Conv2d, nn.Linear) "
                "so that it can be quantised"
            )
        if node.op == "call_function" and node.target is F.batch_norm:
            raise ValueError(f"node {node.name!r} of the graph calls batch_norm: make it a module")
        if node.op != "call_module":
            continue
        module = traced.get_submodule(node.target)
        has_weights = any(p.ndim > 1 for p in module.parameters())
        if isinstance(module, TRANSPOSED) or (has_weights and not isinstance(module, LAYERS)):
            raise ValueError(
                f"module {node.target!r} is a {type(module).__name__}, whose weights cannot be quantised; what can are "
                f"{', '.join(kind.__name__ for kind in LAYERS)}"
            )
        if isinstance(module, LAYERS):
            if node.target in seen:
                raise ValueError(
                    f"module {node.target!r} is called twice in a forward; layers with shared weights cannot be quantised"
                )
            seen.add(node.target)
    if not seen:
        raise ValueError(
            f"{traced.__class__.__name__} has no convolution or linear layer to be quantised"
        )


def module_of(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls."""
    return traced.get_submodule(node.target) if node.op == "call_module" else None


def is_layer(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a convolution or linear layer."""
    return isinstance(module_of(traced, node), LAYERS)


def layer_nodes(traced: fx.GraphModule) -> list[fx.Node]:
    """Convolution and linear layers in execution order."""
    return [node for node in traced.graph.nodes if is_layer(traced, node)]


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds two tensors of the graph."""
    added = node.op == "call_function" and node.target in ADDITIONS
    added |= node.op == "call_method" and node.target == "add"
    return added and sum(isinstance(arg, fx.Node) for arg in node.args) == 2


ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.SiLU,
    nn.GELU,
    nn.Hardswish,
    nn.Hardtanh,
    nn.ELU,
    nn.PReLU,
    nn.Sigmoid,
    nn.Tanh,
)
ACTIVATION_FUNCTIONS = {
    F.relu,
    torch.relu,
    F.relu6,
    F.leaky_relu,
    F.silu,
    F.gelu,
    F.hardswish,
    F.hardtanh,
    F.elu,
    torch.sigmoid,
    torch.tanh,
    F.sigmoid,
    F.tanh,
    "relu",
    "sigmoid",
    "tanh",
}


def is_activation(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is an elementwise nonlinearity of one tensor."""
    if node.op == "call_module":
        return isinstance(module_of(traced, node), ACTIVATIONS)
    return node.op in ("call_function", "call_method") and node.target in ACTIVATION_FUNCTIONS


def is_batch_norm(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a batch normalisation."""
    return isinstance(module_of(traced, node), _BatchNorm)


def batch_norms(traced: fx.GraphModule) -> list[fx.Node]:
    """Batch normalisations with running statistics, in execution order."""
    return [
        node
        for node in traced.graph.nodes
        if is_batch_norm(traced, node) and module_of(traced, node).running_mean is not None
    ]


def infer_input_shape(traced: fx.GraphModule) -> tuple[int, ...] | None:
    """Shape of one record where the first module says it, which a linear layer does and a convolution does not."""
    (entry,) = [node for node in traced.graph.nodes if node.op == "placeholder"]
    first = module_of(traced, next(iter(entry.users)))
    if isinstance(first, nn.Linear):
        return (first.in_features,)
    if isinstance(first, nn.Unflatten) and first.dim == 1 and min(first.unflattened_size) > 0:
        return (math.prod(first.unflattened_size),)
    return None


@torch.no_grad()
def count_classes(traced: fx.GraphModule, input_shape: tuple[int, ...], device: str = "cpu") -> int:
    """Outputs of a classifier for one record.

    Parameters
    ----------
    traced : GraphModule
    input_shape : tuple of int
    device : str, default="cpu"

    Returns
    -------
    int
        At least 2.

    Raises
    ------
    ValueError
        If the network does not return one output a class.
    """
    outputs = traced(torch.zeros(2, *input_shape, device=device))
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"model must return one output a class, shape (n_records, n_classes), got {got} for two records"
        )
    return outputs.shape[1]


@torch.no_grad()
def fix_shapes(traced: fx.GraphModule, input_shape: tuple[int, ...]) -> None:
    """Make a graph free of computations with sizes: for one shape of the records, and any number of them.

    Parameters
    ----------
    traced : GraphModule
        Changed in place.
    input_shape : tuple of int

    Raises
    ------
    ValueError
        If the network does not take records of this shape, or computes with the number of records.
    """
    two, three = (_values(traced, input_shape, n) for n in (2, 3))
    graph = traced.graph
    for node in list(graph.nodes):
        if node.op == "call_method" and node.target in ("view", "reshape"):
            shape = tuple(two[node.name].shape)[1:]
            if tuple(three[node.name].shape) == (3, *shape) and two[node.name].shape[0] == 2:
                node.target, node.args, node.kwargs = "reshape", (node.args[0], -1, *shape), {}
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        value = two.get(node.name)
        if node.op in ("placeholder", "output", "get_attr") or isinstance(value, Tensor):
            continue
        if isinstance(value, (tuple, list)) and any(isinstance(v, Tensor) for v in value):
            continue  # several tensors, as of a chunk
        if value != three[node.name]:
            raise ValueError(
                f"node {node.name!r} of the graph computes with the number of records, which must stay free: "
                "write x.flatten(1) or x.reshape(-1, ...) instead"
            )
        for user in list(node.users):
            user.args = fx.node.map_arg(user.args, lambda n, s=node, v=value: v if n is s else n)
            user.kwargs = fx.node.map_arg(
                user.kwargs, lambda n, s=node, v=value: v if n is s else n
            )
        if not node.users:
            graph.erase_node(node)
    graph.lint()
    traced.recompile()


def _values(traced: fx.GraphModule, input_shape: tuple[int, ...], n: int) -> dict[str, Any]:
    """Outputs of all nodes for n records of ones."""
    dtype = next(p.dtype for p in traced.parameters())
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    nodes = [node for node in traced.graph.nodes if node.op not in ("placeholder", "output")]
    device = next(p.device for p in traced.parameters())
    known = {inputs[0].name: torch.ones((n, *input_shape), dtype=dtype, device=device)}
    try:
        return run_nodes(traced, nodes, known)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(
            f"the network does not take records of shape {tuple(input_shape)}: {error}"
        ) from error


def run_nodes(
    traced: fx.GraphModule, nodes: list[fx.Node], known: dict[str, Tensor]
) -> dict[str, Any]:
    """Execute some nodes in the order given; returns their outputs by name beside what was known."""
    values = dict(known)
    for node in nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n.name])
        if node.op == "call_module":
            values[node.name] = traced.get_submodule(node.target)(*args, **kwargs)
        elif node.op == "call_function":
            values[node.name] = node.target(*args, **kwargs)
        elif node.op == "call_method":
            values[node.name] = getattr(args[0], node.target)(*args[1:], **kwargs)
        elif node.op == "get_attr":
            values[node.name] = _attribute(traced, node.target)
        else:
            raise AssertionError(f"node {node.name} of kind {node.op} cannot be executed alone")
    return values


def _attribute(traced: nn.Module, path: str) -> Any:
    value: Any = traced
    for part in path.split("."):
        value = getattr(value, part)
    return value
