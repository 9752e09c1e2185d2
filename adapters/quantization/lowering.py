"""From a network with quantisers to plain data: `QuantizedGraph`.

Batch normalisation after a layer is folded here, exactly. With :math:`g = \\gamma / \\sqrt{\\sigma^2 + \\epsilon}`, the step of a channel
becomes :math:`s |g|` and its bias :math:`\\beta + (b - \\mu) g`; where g is negative, codes and zero-point are mirrored,
:math:`w' = 2^n - 1 - w, z' = 2^n - 1 - z`, which turns the sign of :math:`w - z`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from .placement import CONCATENATIONS, MAX_POOL_FUNCTIONS, Bits, build_student, passes_on
from .quantized_graph import Grid, Node, QuantizedGraph, Weight
from .quantizers import LSQActivation, QuantizedLayer, WeightQuantizer, search_step
from .tracing import fix_shapes, is_addition, is_batch_norm, module_of, run_nodes, trace

F = nn.functional
RELUS = {F.relu, torch.relu, "relu"}
SPATIAL = {2: 0, 3: 1, 4: 2, 5: 3}  # spatial dimensions of a batch by its dimensions


def fold_norm(
    codes: np.ndarray,
    step: np.ndarray,
    zero_point: np.ndarray,
    bias: np.ndarray,
    n_bits: int,
    scale: np.ndarray,
    shift: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Put scale x + shift, channel by channel, into the weights of the layer before it.

    Parameters
    ----------
    codes : ndarray of int, output channels first
    step, zero_point, bias, scale, shift : ndarray of shape (n_out,)
    n_bits : int

    Returns
    -------
    codes, step, zero_point, bias : ndarray
        A channel of scale zero becomes its shift alone.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.ones(1)
    >>> fold_norm(np.array([[0, 3]]), one, np.array([1]), 0 * one, 2, -2 * one, one)
    (array([[3, 0]]), array([2.]), array([2]), array([1.]))
    """
    top = 2**n_bits - 1
    wide = (-1, *[1] * (codes.ndim - 1))
    mirrored, dead = scale < 0, scale == 0
    codes = np.where(mirrored.reshape(wide), top - codes, codes)
    zero_point = np.where(mirrored, top - zero_point, zero_point)
    codes = np.where(dead.reshape(wide), zero_point.reshape(wide), codes)
    step = np.where(dead, step, step * np.abs(scale))
    return codes, step, zero_point, bias * scale + shift


def norm_as_affine(norm: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift, a channel each, of a batch normalisation in evaluation mode."""
    mean, var = (t.detach().double().cpu().numpy() for t in (norm.running_mean, norm.running_var))
    scale = 1 / np.sqrt(var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight.detach().double().cpu().numpy()
    shift = -mean * scale
    if norm.affine:
        shift = shift + norm.bias.detach().double().cpu().numpy()
    return scale, shift


@torch.no_grad()
def lower(student: fx.GraphModule, input_shape: tuple[int, ...], placement: str) -> QuantizedGraph:
    """The plain data of a network whose quantisers all have their grids.

    Parameters
    ----------
    student : GraphModule
        As `build_student` made it, fitted: roundings decided, grids set.
    input_shape : tuple of int
        Shape of one record.
    placement : {"academic", "deployable"}

    Returns
    -------
    QuantizedGraph

    Raises
    ------
    ValueError
        If the network holds an operation that `QuantizedGraph` has no name for; says which.
    """
    (entry,) = [node for node in student.graph.nodes if node.op == "placeholder"]
    inside = [node for node in student.graph.nodes if node.op not in ("placeholder", "output")]
    device = next(p.device for p in student.parameters())
    values = run_nodes(student, inside, {entry.name: torch.zeros(2, *input_shape, device=device)})
    nodes: list[Node] = []
    name_of: dict[str, str] = {}  # of an fx node: the name of the node that holds its output
    for node in student.graph.nodes:
        if node.op == "output":
            continue
        module = module_of(student, node)
        if isinstance(module, LSQActivation):
            _set_grid(nodes, name_of, node, module)
            continue
        if _does_nothing(module, node):
            name_of[node.name] = name_of[node.args[0].name]
            continue
        sources = tuple(name_of[arg.name] for arg in node.all_input_nodes)
        if is_addition(node) and node.args[0] is node.args[1]:
            sources = sources * 2
        if is_batch_norm(student, node) and _folded(student, node, nodes, sources):
            name_of[node.name] = sources[0]
            continue
        made = _node(student, node, module, sources, values)
        nodes.append(made)
        name_of[node.name] = made.name
    output = next(n for n in student.graph.nodes if n.op == "output")
    if nodes[-1].name != name_of[output.all_input_nodes[0].name]:
        raise ValueError("the network must end with its output")
    return QuantizedGraph(tuple(nodes), tuple(input_shape), placement)


def _set_grid(nodes: list[Node], name_of: dict[str, str], node: fx.Node, module: Any) -> None:
    if not module.ready:
        raise ValueError(f"the quantiser {node.target!r} has no grid yet: fit first")
    source = name_of[node.args[0].name]
    name_of[node.name] = source
    grid = Grid(float(module.step), int(module.zero_point), module.n_bits)
    place = next(k for k, made in enumerate(nodes) if made.name == source)
    nodes[place] = _replaced(nodes[place], activation=grid)


def _replaced(node: Node, **changes: Any) -> Node:
    return Node(**{name: getattr(node, name) for name in node.__dataclass_fields__} | changes)


def _does_nothing(module: nn.Module | None, node: fx.Node) -> bool:
    if isinstance(module, (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)):
        return True
    return node.target in (F.dropout, "contiguous")


def _folded(student: fx.GraphModule, node: fx.Node, nodes: list[Node], sources) -> bool:
    """Fold a normalisation into the layer before it, if it is that layer's only reader."""
    before = node.args[0]
    if not isinstance(module_of(student, before), QuantizedLayer) or len(before.users) != 1:
        return False
    place = next(k for k, made in enumerate(nodes) if made.name == sources[0])
    layer = nodes[place]
    scale, shift = norm_as_affine(module_of(student, node))
    codes, step, zero_point, bias = fold_norm(
        layer.weight.codes,
        layer.weight.step,
        layer.weight.zero_point,
        layer.bias,
        layer.weight.n_bits,
        scale,
        shift,
    )
    weight = Weight(codes.astype(np.int16), step, zero_point.astype(np.int16), layer.weight.n_bits)
    nodes[place] = _replaced(layer, weight=weight, bias=bias)
    return True


def _node(student, node: fx.Node, module: nn.Module | None, sources, values) -> Node:
    """The node of an operation that has a name; the ways in which torch writes it."""
    value = values[node.name]
    if node.op == "placeholder":
        return Node(node.name, "input")
    if isinstance(module, QuantizedLayer):
        return _layer(node, module, sources)
    if is_batch_norm(student, node):
        scale, shift = norm_as_affine(module)
        return Node(node.name, "affine", sources, options={"scale": scale, "shift": shift})
    if isinstance(module, nn.ReLU) or node.target in RELUS:
        return Node(node.name, "relu", sources)
    is_six = isinstance(module, nn.Hardtanh) and (module.min_val, module.max_val) == (0, 6)
    if isinstance(module, nn.ReLU6) or is_six or node.target is F.relu6:
        return Node(node.name, "relu6", sources)
    if is_addition(node):
        return Node(node.name, "add", sources)
    if node.target in CONCATENATIONS:
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        return Node(node.name, "concat", sources, options={"axis": axis % value.ndim})
    pool = _pool(node, module, sources, values)
    if pool is not None:
        return pool
    if passes_on(student, node) and value.ndim == 2:
        return Node(node.name, "flatten", sources, options={"start_axis": 1})
    what = (
        type(module).__name__
        if module is not None
        else getattr(node.target, "__name__", node.target)
    )
    raise ValueError(
        f"node {node.name!r} of the graph is a {what}, for which no integer form is known here; the fitted network (model_) still "
        "simulates it"
    )


def _layer(node: fx.Node, module: QuantizedLayer, sources) -> Node:
    quantizer, layer = module.quantizer, module.layer
    if quantizer is None or not quantizer.hard:
        raise ValueError(f"the weights of layer {node.target!r} are not quantised yet: fit first")

    def array(t: Tensor, kind) -> np.ndarray:
        return t.detach().cpu().numpy().astype(kind)

    weight = Weight(
        array(quantizer.codes(), np.int16),
        array(quantizer.step, np.float64).reshape(-1),
        array(quantizer.zero_point, np.int16).reshape(-1),
        quantizer.n_bits,
    )
    n_out = len(weight.step)
    bias = np.zeros(n_out) if layer.bias is None else array(layer.bias, np.float64)
    if isinstance(layer, nn.Linear):
        return Node(node.target, "linear", sources, weight=weight, bias=bias)
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise ValueError(
            f"layer {node.target!r} pads by {layer.padding!r}, {layer.padding_mode!r}; what can be written is a number of zeros"
        )
    options = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }
    return Node(node.target, "conv", sources, weight=weight, bias=bias, options=options)


def _pool(node: fx.Node, module: nn.Module | None, sources, values) -> Node | None:
    if node.op == "placeholder":
        return None
    before = values[node.args[0].name] if isinstance(node.args[0], fx.Node) else None
    if before is None:
        return None
    value, n = values[node.name], before.ndim - 2

    def several(x: Any) -> tuple[int, ...]:
        return (x,) * n if isinstance(x, int) else tuple(x)

    if isinstance(module, (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)):
        given = {k: getattr(module, k) for k in ("kernel_size", "stride", "padding", "dilation")}
        options = {k: several(v) for k, v in given.items()}
        return Node(
            node.name, "max_pool", sources, options=options | {"ceil_mode": module.ceil_mode}
        )
    if node.target in MAX_POOL_FUNCTIONS:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        given = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
        given |= dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
        given["stride"] = given["kernel_size"] if given["stride"] is None else given["stride"]
        options = {k: several(given[k]) for k in names[:-1]} | {"ceil_mode": given["ceil_mode"]}
        return Node(node.name, "max_pool", sources, options=options)
    if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)):
        if getattr(module, "divisor_override", None):
            return None
        given = {k: getattr(module, k) for k in ("kernel_size", "stride", "padding")}
        options = {k: several(v) for k, v in given.items()}
        options |= {k: getattr(module, k) for k in ("ceil_mode", "count_include_pad")}
        return Node(node.name, "avg_pool", sources, options=options)
    adaptive = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
    functions = {F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d}
    averages = isinstance(module, adaptive) or node.target in functions
    if averages and value.shape[2:].numel() == 1:
        return Node(node.name, "global_avg_pool", sources)
    if node.target in ("mean", torch.mean):
        dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        dims = () if dims is None else (dims,) if isinstance(dims, int) else dims
        if sorted(d % before.ndim for d in dims) == list(range(2, before.ndim)):
            # without the dimensions that it averages over, the output is (n_records, n_channels)
            return Node(node.name, "global_avg_pool", sources, options={"squeeze": value.ndim == 2})
    return None


# --- round to nearest ---------------------------------------------------------------------------------


@torch.no_grad()
def calibrate(student: fx.GraphModule, traced: fx.GraphModule, X: Tensor, grid: Any = None) -> None:
    """Give every quantiser of a tensor its grid, from what the float network makes of X.

    Parameters
    ----------
    student : GraphModule
        As `build_student` made it; changed in place.
    traced : GraphModule
        The float network that it was made of.
    X : Tensor of shape (n_records, ...)
    grid : callable, optional
        (tensor, n_bits) -> (step, zero_point); by default `search_step` without a free zero-point.
    """
    grid = grid or (lambda x, n: search_step(x, n, symmetric=True))
    quantisers = {
        node.args[0].name: node.target
        for node in student.graph.nodes
        if isinstance(module_of(student, node), LSQActivation)
    }
    waiting = {
        target: [t for t, other in quantisers.items() if other == target]
        for target in quantisers.values()
    }
    seen: dict[str, list[Tensor]] = {target: [] for target in waiting}
    for name, value in walk(traced, X):
        if name not in quantisers:
            continue
        target = quantisers[name]
        seen[target].append(value.reshape(-1))
        if len(seen[target]) == len(waiting[target]):  # all that share it have been seen
            module = student.get_submodule(target)
            module.set_grid(*grid(torch.cat(seen.pop(target)), module.n_bits))


def walk(traced: fx.GraphModule, X: Tensor) -> Iterator[tuple[str, Any]]:
    """Outputs of all nodes in turn, by name; what no later node reads is forgotten."""
    left = {node.name: len(node.users) for node in traced.graph.nodes}
    values: dict[str, Any] = {}
    for node in traced.graph.nodes:
        if node.op == "output":
            return
        values = {node.name: X} if node.op == "placeholder" else run_nodes(traced, [node], values)
        yield node.name, values[node.name]
        for source in node.all_input_nodes:
            left[source.name] -= 1
            if not left[source.name]:
                del values[source.name]


def quantize_weights(student: fx.GraphModule, bits: Bits, weight_grid: Any = None) -> None:
    """Give every layer quantised weights, rounded to nearest.

    8-bit weights are symmetric, with codes 1 to 255 around 128, so that they fit int8 when centred, mirrored or not.

    Parameters
    ----------
    student : GraphModule
        As `build_student` made it; changed in place.
    bits : Bits
    weight_grid : callable, optional
        (weight, n_bits, symmetric) -> (step, zero_point), an output channel each; by default `search_step`.
    """
    grid = weight_grid or _searched
    layers = [n for n in student.graph.nodes if isinstance(module_of(student, n), QuantizedLayer)]
    for k, node in enumerate(layers):
        module = module_of(student, node)
        n = bits.of_layer(node.target, k == 0, k == len(layers) - 1)
        centred = n == 8
        weight = module.layer.weight
        step, zero_point = grid(weight, n, centred)
        if centred:
            zero_point = torch.full_like(zero_point, 128)
        module.quantizer = WeightQuantizer(weight, n, step, zero_point, low=1 if centred else 0)
        module.quantizer.hard = True


def _searched(weight: Tensor, n_bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    return search_step(weight, n_bits, per_channel=True, symmetric=symmetric)


def round_to_nearest(
    model: nn.Module,
    X: Tensor,
    *,
    n_bits_w: int = 8,
    n_bits_a: int = 8,
    placement: str = "deployable",
    first_last_bits: int | None = 8,
) -> tuple[QuantizedGraph, fx.GraphModule]:
    """A network rounded to nearest, as plain data and as a module that simulates it.

    Parameters
    ----------
    model : torch Module
    X : Tensor of shape (n_records, ...)
        Inputs from which the steps of tensors come.
    n_bits_w, n_bits_a : int, default=8
    placement : {"academic", "deployable"}, default="deployable"
    first_last_bits : int or None, default=8

    Returns
    -------
    graph : QuantizedGraph
    module : GraphModule
        With the same codes and grids, computing in floats.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).eval()
    >>> graph, module = round_to_nearest(net, torch.randn(20, 1, 8), n_bits_w=4)
    >>> [(node.name, node.op, node.activation is not None) for node in graph.nodes]
    [('input_1', 'input', True), ('0', 'conv', False), ('_2', 'relu', True), ('_3', 'flatten', False), ('4', 'linear', False)]
    """
    traced = trace(model)
    fix_shapes(traced, tuple(X.shape[1:]))
    bits = Bits(n_bits_w, n_bits_a, first_last_bits, first_last_bits)
    student = build_student(traced, placement, bits)
    quantize_weights(student, bits)
    calibrate(student, traced, X)
    return lower(student, tuple(X.shape[1:]), placement), student
