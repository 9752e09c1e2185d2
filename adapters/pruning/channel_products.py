"""What layers with weights do to channel ids: the rules of linear layers, convolutions, embeddings and attention.

A product reads the units of its input and makes new ones. An entry of sum_i w_i x_i depends on the network's input if some term
does, and a term does if one factor depends and the other is not a constant zero: which is the operation itself, run on zeros
and ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

from .channel_rules import consume, keep_all, name_of, rule, tracked_in, value_of
from .channel_units import FIXED, Site, Tracked

if TYPE_CHECKING:
    from .channel_ids import Propagation


def _product(
    run: Propagation,
    node: fx.Node,
    x: Tracked,
    weight: Tracked,
    bias: Tracked | None,
    apply: Callable[[Tensor, Tensor], Tensor],
    *,
    axis: int,
    out_axis: int,
    in_axis: int,
    n_groups: int = 1,
) -> Tracked:
    """A weight whose dimension `in_axis` reads the units along `axis` of x, and whose other channel dimension makes new ones."""
    value = apply(x.value, weight.value)
    depends = _bilinear(x, weight, apply)
    weight_out = 1 - in_axis if in_axis < 2 else 0
    if bias is not None:
        shape = [1] * value.ndim
        shape[out_axis] = -1
        value = value + bias.value.reshape(shape)
    if (
        weight.entries is None
        or weight.ids is not None
        or (bias is not None and bias.entries is None)
    ):
        run.units.keep(x.ids, f"the weight of {node.name} is computed from others")
        for t in (weight, bias):
            if t is not None and t.entries is not None:
                run.parameters.keep(t.entries, f"{node.name} has a weight that is computed")
        return Tracked(value, torch.full(value.shape, FIXED), depends)
    in_ids = consume(run, x.ids, axis)
    n_outputs = value.shape[out_axis]
    if n_groups == len(in_ids) > 1:  # depthwise: what comes in goes out under the same id
        out_ids = np.repeat(in_ids, n_outputs // n_groups)
        run.parameters.attach(
            weight.entries,
            weight_out if in_axis == 1 else 0,
            out_ids if in_axis == 1 else in_ids,
            reads=False,
        )
    else:
        by_group = in_ids.reshape(n_groups, -1)
        run.units.join(
            by_group[:1], by_group, "its place in a convolution's group cannot be removed"
        )
        out_ids = np.tile(run.units.new(n_outputs // n_groups).numpy(), n_groups)
        # a transposed convolution holds all inputs, but the outputs of one group; the other way round otherwise
        per_weight = in_ids if weight.value.shape[in_axis] == len(in_ids) else by_group[0]
        made = out_ids[: weight.value.shape[weight_out]]
        run.parameters.attach(weight.entries, in_axis, per_weight, reads=True)
        run.parameters.attach(weight.entries, weight_out, made, reads=False)
        run.sites.append(
            Site(
                node.name,
                x,
                weight,
                bias,
                axis,
                out_axis,
                in_axis,
                per_weight,
                out_ids,
                n_groups,
                apply,
            )
        )
    if bias is not None:
        run.parameters.attach(bias.entries, 0, out_ids, reads=False)
    shape = [1] * value.ndim
    shape[out_axis] = n_outputs
    return Tracked(
        value, torch.from_numpy(out_ids.copy()).reshape(shape).expand(value.shape), depends
    )


def _bilinear(a: Tracked, b: Tracked, apply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Which entries of a product depend on the input."""
    left = apply(a.depends.float(), b.moves.float())
    return (left + apply(a.moves.float(), b.depends.float()) if b.depends.any() else left) > 0.5


@rule("linear")
def linear(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Tracked:
    x, weight, bias = (*args, None)[:3]
    if x.ids is None:
        return keep_all(run, node, args, kwargs)
    apply = lambda x, w: torch.nn.functional.linear(x, w)  # noqa: E731
    return _product(
        run, node, x, weight, bias, apply, axis=-1, out_axis=x.value.ndim - 1, in_axis=1
    )


@rule("conv1d", "conv2d", "conv3d")
def convolution(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Tracked:
    x, weight, bias, *rest = (*args, None)[: max(3, len(args))]
    if kwargs or x.ids is None or x.value.ndim != weight.value.ndim:
        return keep_all(run, node, args, kwargs)
    n_groups = rest[3] if len(rest) > 3 else 1
    apply = lambda x, w: node.target(x, w, None, *rest)  # noqa: E731
    return _product(
        run, node, x, weight, bias, apply, axis=1, out_axis=1, in_axis=1, n_groups=n_groups
    )


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Tracked:
    x, weight, bias, *rest = (*args, None)[: max(3, len(args))]
    n_groups = rest[3] if len(rest) > 3 else 1
    if kwargs or x.ids is None or x.value.ndim != weight.value.ndim:
        return keep_all(run, node, args, kwargs)
    if n_groups == x.value.shape[1] and weight.value.shape[1] > 1:
        return keep_all(run, node, args, kwargs)
    apply = lambda x, w: node.target(x, w, None, *rest)  # noqa: E731
    return _product(
        run, node, x, weight, bias, apply, axis=1, out_axis=1, in_axis=0, n_groups=n_groups
    )


@rule("embedding")
def embedding(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Tracked:
    """Rows of a table: each column is a unit, constant if all its entries are equal."""
    table, index = args[:2]
    value = value_of(node, args, kwargs)
    if table.entries is None or table.ids is not None:
        return keep_all(run, node, args, kwargs)
    made = run.units.new(value.shape[-1])
    run.parameters.attach(table.entries, 1, made, reads=False)
    differs = (table.value != table.value[:1]).any(0)
    return Tracked(
        value, made.expand(value.shape), (index.depends.any() & differs).expand(value.shape)
    )


@rule("matmul", "mm", "bmm", "addmm", "baddbmm")
def product(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Tracked:
    """With a parameter, a linear layer; of two activations, attention: one unit for each matrix (each head)."""
    bias = None
    if name_of(node) in ("addmm", "baddbmm"):
        bias, *args = args
    a, b = args[:2]
    if a.ids is not None and b.ids is None and b.value.ndim == 2 and not kwargs:
        is_vector = bias is None or bias.value.ndim == 1
        if is_vector and a.value.ndim > 1:
            return _product(
                run, node, a, b, bias, torch.matmul, axis=-1, out_axis=a.value.ndim - 1, in_axis=0
            )
    if (
        a.ids is None
        or b.ids is None
        or min(a.value.ndim, b.value.ndim) < 2
        or (bias is not None and bias.depends.any())
    ):
        return keep_all(run, node, node_args(bias, args), kwargs)
    if bias is not None and (
        bias.value.numel() > 1 and bool((bias.value != bias.value.flatten()[0]).any())
    ):
        return keep_all(run, node, node_args(bias, args), kwargs)
    value = value_of(node, node_args(bias, args), kwargs)
    unit = _one_unit_a_matrix(run, (a, b))
    ids = unit[..., None, None].expand(value.shape)
    return Tracked(value, ids, _bilinear(a, b, torch.matmul))


def node_args(bias: Tracked | None, args: Any) -> tuple:
    """The arguments of a product with its bias put back in front."""
    return tuple(args) if bias is None else (bias, *args)


@rule("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")
def attention(run: Propagation, node: fx.Node, args: tuple, kwargs: dict) -> Any:
    """Each head is one unit; it is constant where its values are, whatever the weights."""
    query, key, values, *rest = args
    if any(t.ids is None for t in (query, key, values)) or (
        list(tracked_in((rest, kwargs)))
        and any(t.depends.any() for t in tracked_in((rest, kwargs)))
    ):
        return keep_all(run, node, args, kwargs)
    value = value_of(node, args, kwargs)
    out = value[0] if isinstance(value, tuple) else value
    unit = _one_unit_a_matrix(run, (query, key, values))
    differs = (values.value != values.value[..., :1, :]).any(-2, keepdim=True)
    tracked = Tracked(
        out,
        unit[..., None, None].expand(out.shape),
        (values.depends.any(-2, keepdim=True) | differs).expand(out.shape),
    )
    return [tracked] if isinstance(value, tuple) else tracked


def _one_unit_a_matrix(run: Propagation, operands: tuple[Tracked, ...]) -> Tensor:
    """Join the ids of each matrix of a stack, and those of the operands' matrices at the same place."""
    lead = torch.broadcast_shapes(*(t.ids.shape[:-2] for t in operands))
    flat = [t.ids.expand(*lead, *t.ids.shape[-2:]).reshape(*lead, -1) for t in operands]
    first = flat[0][..., :1]
    for ids in flat:
        run.units.join(first, ids, "its attention head cannot be removed")
    return first[..., 0]
