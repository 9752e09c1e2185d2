"""What each ATen operation does to channel ids: the rules of `channel_ids`, one function a kind of operation.

A rule takes the run (`Propagation`), the node and its arguments, in which every tensor is a `Tracked`, and returns the node's result
as `Tracked`. It computes the value as the operation does, carries the ids, and says which entries depend on the
network's input. Layers with weights are in `channel_products`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

from .channel_units import FIXED, Tracked, varies

if TYPE_CHECKING:
    from .channel_ids import Propagation

Rule = Callable[["Propagation", fx.Node, tuple, dict], Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations by their ATen name."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def apply_rule(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Any:
    """The tracked result of a node."""
    found = list(tracked_in((args, kwargs)))
    if not found:
        return _track_constant(node.target(*args, **kwargs))
    name = name_of(node)
    if name == "sym_size":
        return node.target(*values_of((args, kwargs))[0])
    with_ids = any(t.ids is not None for t in found)
    if not with_ids and len(found) > 1 and name not in SHAPE_OPERATIONS:
        return keep_all(run, node, args, kwargs)  # parameters computed from parameters
    return RULES.get(name, keep_all)(run, node, args, kwargs)


# --- operations that move entries ---------------------------------------------------------------------

SHAPE_OPERATIONS = [
    "view",
    "_unsafe_view",
    "reshape",
    "flatten",
    "unflatten",
    "permute",
    "transpose",
    "t",
    "mT",
    "movedim",
    "squeeze",
    "unsqueeze",
    "slice",
    "select",
    "narrow",
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "cat",
    "concat",
    "stack",
    "expand",
    "expand_as",
    "repeat",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "flip",
    "roll",
    "constant_pad_nd",
    "pad",
    "getitem",
    "clone",
    "contiguous",
    "alias",
    "detach",
    "_to_copy",
    "to",
    "lift_fresh_copy",
    "unfold",
    "index_select",
]
PADS = ("constant_pad_nd", "pad")


@rule(*SHAPE_OPERATIONS)
def move(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Any:
    """Execute the operation literally on values, ids and all."""
    found = list(tracked_in((args, kwargs)))
    name = name_of(node)

    def run_on(part: Callable[[Tracked], Tensor], fill: float | None = None):
        new_args, new_kwargs = fx.node.map_aggregate(
            (args, kwargs), lambda a: part(a).contiguous() if isinstance(a, Tracked) else a
        )
        if fill is not None:
            new_kwargs = {key: v for key, v in new_kwargs.items() if key != "dtype"}
            if name in PADS:
                new_args = (*new_args[:2], *(["constant"] if name == "pad" else []), fill)
        return node.target(*new_args, **new_kwargs)

    def ids_of(t: Tracked) -> Tensor:
        return torch.full(t.value.shape, FIXED) if t.ids is None else t.ids

    value = run_on(lambda t: t.value)
    depends = run_on(lambda t: t.depends, 0)
    with_ids = any(t.ids is not None for t in found)
    ids = run_on(ids_of, FIXED) if with_ids else None
    entries = None
    if not with_ids and all(t.entries is not None for t in found):
        entries = None if name in PADS else run_on(lambda t: t.entries, 0)
    elif with_ids:  # a parameter among activations, such as a class token
        for t in found:
            if t.entries is not None:
                run.parameters.keep(t.entries, f"{node.name} puts it beside activations")
    if isinstance(value, Tensor):
        return Tracked(value, ids, depends.bool(), entries)
    return [
        Tracked(
            v,
            None if ids is None else ids[k],
            depends[k].bool(),
            None if entries is None else entries[k],
        )
        for k, v in enumerate(value)
    ]


def name_of(node: fx.Node) -> str:
    """The ATen name of a node's operation, without its overload."""
    return getattr(node.target, "__name__", str(node.target)).partition(".")[0]


# --- elementwise operations ---------------------------------------------------------------------------

ELEMENTWISE = [
    "relu",
    "relu6",
    "gelu",
    "silu",
    "mish",
    "sigmoid",
    "tanh",
    "hardswish",
    "hardsigmoid",
    "hardtanh",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "softplus",
    "softsign",
    "softshrink",
    "hardshrink",
    "tanhshrink",
    "logsigmoid",
    "log_sigmoid",
    "threshold",
    "exp",
    "expm1",
    "log",
    "log1p",
    "abs",
    "neg",
    "sqrt",
    "rsqrt",
    "square",
    "reciprocal",
    "sign",
    "sin",
    "cos",
    "erf",
    "clamp",
    "clamp_min",
    "clamp_max",
    "pow",
    "round",
    "floor",
    "ceil",
    "dropout",
    "add",
    "sub",
    "rsub",
    "mul",
    "div",
    "maximum",
    "minimum",
    "where",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_not",
    "logical_and",
    "logical_or",
    "masked_fill",
    "nan_to_num",
    "lerp",
    "addcmul",
]


@rule(*ELEMENTWISE)
def elementwise(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Tracked:
    """Join the ids that meet; a parameter among the operands belongs to the units that it meets."""
    found = list(tracked_in((args, kwargs)))
    value = value_of(node, args, kwargs)
    shape, name = value.shape, name_of(node)
    if name in ("mul", "div") and len(found) == 2:
        a, b = (t.depends.expand(shape) for t in found)
        a_moves, b_moves = (t.moves.expand(shape) for t in found)
        depends = (a & b_moves) | (a_moves & b) if name == "mul" else a_moves & (a | b)
    else:
        depends = torch.zeros(shape, dtype=torch.bool)
        for t in found:
            depends |= t.depends.expand(shape)
    active = [t for t in found if t.ids is not None]
    if not active:  # one parameter, entry by entry
        return Tracked(value, None, depends, found[0].entries)
    ids = _meet(run, node, active, shape)
    for t in found:
        if t.ids is None:
            _attach_elementwise(run, node, t, ids)
    return Tracked(value, ids, depends)


def _meet(run: Propagation, node: fx.Node, operands: list[Tracked], shape: torch.Size) -> Tensor:
    """The ids of an elementwise result.

    An operand that is broadcast along a dimension in which another's units differ (one attention map for all channels) belongs to
    none of them: it is kept, and the others go their way.
    """
    expanded = [t.ids.expand(shape) for t in operands]
    along = [set(varies(run.units.roots(ids))) for ids in expanded]
    one_for_many = []
    for t, mine in zip(operands, along, strict=True):
        padded = (1,) * (len(shape) - t.ids.ndim) + tuple(t.ids.shape)
        broadcast = {d for d in range(len(shape)) if padded[d] == 1 < shape[d]}
        one_for_many.append(any(broadcast & other for other in along if other is not mine))
    partners = [ids for ids, one in zip(expanded, one_for_many, strict=True) if not one]
    for t, one in zip(operands, one_for_many, strict=True):
        if one:
            run.units.keep(t.ids, f"{node.name} uses it for many units at once")
    if not partners:
        for t in operands:
            run.units.keep(t.ids, f"{node.name} combines every unit with every other")
        return torch.full(shape, FIXED)
    for other in partners[1:]:
        run.units.join(partners[0], other, f"{node.name} meets what cannot be removed")
    return partners[0]


def _attach_elementwise(run: Propagation, node: fx.Node, t: Tracked, ids: Tensor) -> None:
    """Give the entries of a parameter that meets units to them; a constant that differs by unit keeps them."""
    roots = torch.from_numpy(run.units.roots(ids))
    padded = (1,) * (ids.ndim - t.value.ndim) + tuple(t.value.shape)
    along = [d for d in varies(roots.numpy()) if padded[d] > 1]
    if not along:
        return
    if t.entries is None or len(along) > 1 or varies(roots.numpy()) != along:
        run.units.keep(ids, f"{node.name} combines it with a constant of fixed size")
        return
    axis = along[0]
    rows = ids.movedim(axis, 0).reshape(ids.shape[axis], -1)
    run.parameters.attach(t.entries.reshape(padded), axis, rows[:, 0], reads=False)


def consume(run: Propagation, ids: Tensor, axis: int) -> np.ndarray:
    """Join all ids that share an index along an axis; returns one a index."""
    rows = ids.movedim(axis, 0).reshape(ids.shape[axis], -1)
    run.units.join(rows[:, :1], rows, "a layer reads it together with what cannot be removed")
    return rows[:, 0].numpy()


@rule("prelu", "_prelu_kernel")
def prelu(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Tracked:
    """A slope for each channel, or one for all."""
    x, slope = args
    if (
        slope.value.ndim == 1
        and x.value.ndim > 1
        and slope.value.numel() > 1
        and slope.entries is not None
    ):
        run.parameters.attach(slope.entries, 0, consume(run, x.ids, 1), reads=False)
    elif slope.value.numel() > 1:
        _attach_elementwise(run, node, slope, x.ids)
    return Tracked(value_of(node, args, kwargs), x.ids, x.depends)


# --- normalisations, pooling, reductions --------------------------------------------------------------


@rule("_native_batch_norm_legit_no_training", "batch_norm", "native_batch_norm")
def batch_norm(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Any:
    """In evaluation mode, a scale and shift for each channel."""
    x, weight, bias, mean, variance = args[:5]
    value = value_of(node, args, kwargs)
    out = value[0] if isinstance(value, tuple) else value
    if x.ids is None or mean is None:
        return keep_all(run, node, args, kwargs)
    ids = consume(run, x.ids, 1)
    for t in (weight, bias, mean, variance):
        if t is None:
            continue
        if t.entries is None:
            run.units.keep(ids, f"a parameter of {node.name} is computed from others")
        else:
            run.parameters.attach(t.entries, 0, ids, reads=False)
    depends = x.depends
    if weight is not None:
        depends = depends & (weight.value != 0).reshape(1, -1, *[1] * (out.ndim - 2))
    tracked = Tracked(out, x.ids, depends)
    return [tracked, None, None] if isinstance(value, tuple) else tracked


@rule("instance_norm")
def instance_norm(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Tracked:
    """Each channel is normalised by itself."""
    x, weight, bias, mean, variance = args[:5]
    ids = consume(run, x.ids, 1)
    for t in (weight, bias, mean, variance):
        if t is not None and t.entries is not None:
            run.parameters.attach(t.entries, 0, ids, reads=False)
        elif t is not None:
            run.units.keep(ids, f"a parameter of {node.name} is computed from others")
    return Tracked(value_of(node, args, kwargs), x.ids, _spread(x, x.value.shape, keep=2)[1])


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Any:
    """All channels enter the mean and the variance: removing one is not exact, so none is removed."""
    x = args[0]
    run.units.keep(x.ids, f"{node.name} normalises over all units")
    result = keep_all(run, node, args, kwargs)
    last = tuple(range(-len(args[1]), 0))
    mixed = x.depends.any(dim=last, keepdim=True).expand(x.depends.shape)
    if isinstance(result, Tracked):
        return Tracked(result.value, x.ids, mixed)
    return [Tracked(result[0].value, x.ids, mixed), *result[1:]]


@rule(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool2d", "max_pool2d_with_indices", "_adaptive_avg_pool2d", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d",
    "reflection_pad2d", "replication_pad2d", "reflection_pad1d", "replication_pad1d",
)  # fmt: skip
def resize(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Any:
    """Within each channel, over space."""
    x = args[0]
    if x.value.ndim != int(next((c for c in name_of(node) if c.isdigit()), "2")) + 2:
        return keep_all(run, node, args, kwargs)
    consume(run, x.ids, 1)
    value = value_of(node, args, kwargs)
    out = value[0] if isinstance(value, tuple) else value
    tracked = Tracked(out, *_spread(x, out.shape, keep=2))
    return [tracked, None] if isinstance(value, tuple) else tracked


def _spread(x: Tracked, shape: torch.Size, keep: int) -> tuple[Tensor, Tensor]:
    """Ids and dependence of a result that mixes all dimensions after the first `keep`."""
    last = tuple(range(keep, x.value.ndim))
    ids = x.ids[(..., *[slice(0, 1)] * len(last))].expand(shape)
    return ids, x.depends.any(dim=last, keepdim=True).expand(shape)


@rule("mean", "sum", "amax", "amin", "var", "std", "logsumexp", "prod")
def reduction(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Tracked:
    """Over dimensions along which the units are the same; otherwise they are kept."""
    x = args[0]
    value = value_of(node, args, kwargs)
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    if not isinstance(dims, (int, list, tuple)):
        dims = range(x.value.ndim)
    dims = {d % x.value.ndim for d in ([dims] if isinstance(dims, int) else dims)}
    if dims & set(varies(run.units.roots(x.ids))):
        run.units.keep(x.ids, f"{node.name} goes over all units")
    ids, depends = x.ids, x.depends
    for d in sorted(dims):
        ids, depends = ids.narrow(d, 0, 1), depends.any(d, keepdim=True)
    if dims & set(varies(run.units.roots(x.ids))):
        ids = torch.full(ids.shape, FIXED)
    return Tracked(value, ids.reshape(value.shape), depends.reshape(value.shape))


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum")
def along_one_dimension(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Tracked:
    """Mixes entries along one dimension."""
    x, dim = args[0], args[1] % args[0].value.ndim
    if dim in varies(run.units.roots(x.ids)):
        run.units.keep(x.ids, f"{node.name} goes over all units")
    return Tracked(
        value_of(node, args, kwargs),
        x.ids,
        x.depends.any(dim, keepdim=True).expand(x.depends.shape),
    )


# --- everything else ----------------------------------------------------------------------------------


def keep_all(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Any:
    """Keep every unit and parameter that an operation without a rule touches."""
    depends, with_ids = False, False
    why = f"{node.name} is an operation that cannot be followed"
    for t in tracked_in((args, kwargs)):
        depends |= bool(t.depends.any())
        with_ids |= t.ids is not None
        if t.ids is not None:
            run.units.keep(t.ids, why)
        if t.entries is not None:
            run.parameters.keep(t.entries, why)

    def track(value):
        if not isinstance(value, Tensor):
            return value
        ids = torch.full(value.shape, FIXED) if with_ids else None
        return Tracked(value, ids, torch.full(value.shape, depends))

    value = value_of(node, args, kwargs)
    return [track(v) for v in value] if isinstance(value, (tuple, list)) else track(value)


def _track_constant(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Tracked(value, None, torch.zeros(value.shape, dtype=torch.bool))
    return value


def tracked_in(nested: Any) -> Iterator[Tracked]:
    if isinstance(nested, Tracked):
        yield nested
    elif isinstance(nested, (list, tuple)):
        for part in nested:
            yield from tracked_in(part)
    elif isinstance(nested, dict):
        yield from tracked_in(list(nested.values()))


def values_of(nested: Any) -> Any:
    return fx.node.map_aggregate(nested, lambda a: a.value if isinstance(a, Tracked) else a)


def value_of(node: fx.Node, args: tuple, kwargs: dict) -> Any:
    args, kwargs = values_of((args, kwargs))
    return node.target(*args, **kwargs)
