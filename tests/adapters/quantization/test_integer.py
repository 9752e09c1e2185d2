"""The integer reference: sums, roundings and bounds, each against arithmetic written out."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statml.adapters.quantization.integer import (
    BIAS_LIMIT,
    IntegerNetwork,
    fuse,
    integer_weights,
    product,
    requantise,
)
from statml.adapters.quantization.parity import simulate
from statml.adapters.quantization.quantized_graph import Grid, Node, QuantizedGraph, Weight

from ._graphs import STRUCTURES, quantised


def convolution(weight, stride, padding, dilation, groups):
    options = {"stride": (stride,) * 2, "padding": (padding,) * 2, "dilation": (dilation,) * 2}
    centred = Weight((weight + 128).astype(np.int16), np.ones(len(weight)), np.full(len(weight), 128, np.int16), 8)  # fmt: skip
    return Node("conv", "conv", ("x",), None, centred, np.zeros(len(weight)), options | {"groups": groups})  # fmt: skip


def convolved(x, w, stride, padding, dilation, groups):
    """A convolution in int64, one output at a time."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    n_out, n_in, k, _ = w.shape
    span = dilation * (k - 1) + 1
    size = [(s - span) // stride + 1 for s in x.shape[1:]]
    out = np.zeros((n_out, *size), np.int64)
    for o in range(n_out):
        group = o // (n_out // groups)
        part = x[group * n_in : (group + 1) * n_in]
        for i in range(size[0]):
            for j in range(size[1]):
                window = part[:, i * stride : i * stride + span : dilation, j * stride : j * stride + span : dilation]  # fmt: skip
                out[o, i, j] = (window * w[o]).sum()
    return out


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([(1, 3), (2, 2), (3, 1), (6, 1)]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(0, 2**31),
)
def test_sums_of_a_convolution_are_exact(channels, k, stride, padding, dilation, seed):
    groups, n_in = channels
    rng = np.random.default_rng(seed)
    x = rng.integers(-255, 256, (groups * n_in, 8, 9))
    w = rng.integers(-127, 128, (2 * groups, n_in, k, k))
    node = convolution(w, stride, padding, dilation, groups)
    ours = product(node, torch.from_numpy(x)[None].double(), torch.from_numpy(w).double())
    assert np.array_equal(ours[0].numpy(), convolved(x, w, stride, padding, dilation, groups))


def test_the_largest_sum_that_int32_holds_is_exact():
    n = 2**31 // (255 * 127)
    x, w = torch.full((1, n), 255.0).double(), torch.full((1, n), 127.0).double()
    assert int(product(Node("fc", "linear", ("x",)), x, w)) == n * 255 * 127


def test_rounding_goes_to_the_even_code_on_ties_and_stays_within_a_byte():
    totals = torch.tensor([-9999.0, -3, -1, 0, 1, 3, 5, 9999]).double()
    codes = requantise(totals, np.float32(0.5), Grid(1.0, 8, 4))
    assert codes.tolist() == [0, 6, 8, 8, 8, 10, 10, 255]


def one_layer(w=3, bias=0.0, step=0.5, grid=None, out=None, after=None, n_bits=8):
    """x -> one weight -> optionally a ReLU."""
    zero = 128 if n_bits == 8 else 2 ** (n_bits - 1)
    weight = Weight(np.array([[w + zero]], np.int16), np.array([step]), np.array([zero], np.int16), n_bits)  # fmt: skip
    out = out or Grid(0.5, 0, 8)
    nodes = [Node("x", "input", activation=grid or Grid(0.25, 128, 8))]
    layer = Node("fc", "linear", ("x",), None if after else out, weight, np.array([bias]))
    nodes += [layer, *([Node("act", after, ("fc",), out)] if after else [])]
    return QuantizedGraph(tuple(nodes), (1,), "deployable")


def test_a_layer_written_out():
    graph = one_layer(w=-3, bias=7.0, out=Grid(0.5, 10, 8))
    x = np.array([[-4.0], [0.1], [2.5]])  # codes around 128: -16, 0, 10
    # (code * -3 + 7 / 0.125) * 0.125 / 0.5 + 10
    expected = [round((q * -3 + 56) * 0.25) + 10 for q in (-16, 0, 10)]
    assert IntegerNetwork(graph).codes(x)["fc"].ravel().tolist() == expected


@pytest.mark.parametrize(("after", "low", "high"), [("relu", 20, 255), ("relu6", 20, 32)])
def test_a_relu_is_a_bound_on_codes(after, low, high):
    graph = one_layer(out=Grid(0.5, 20, 8), after=after)
    (_, step) = fuse(graph)
    assert (step.name, step.activation, step.bounds()) == ("act", after, (low, high))
    x = np.linspace(-30, 30, 101)[:, None]
    network = IntegerNetwork(graph)
    assert np.array_equal(network.codes(x)["act"], step.grid.codes(simulate(graph, x)))
    assert network.codes(x)["act"].min() == low
    assert network.codes(x)["act"].max() <= high


def test_a_relu_is_not_joined_to_a_node_that_others_read():
    graph = one_layer(after="relu")
    more = Node("sum", "add", ("fc", "act"), Grid(0.5, 128, 8))
    steps = fuse(dataclasses.replace(graph, nodes=(*graph.nodes, more)))
    assert [step.name for step in steps] == ["x", "fc", "act", "sum"]
    assert all(step.activation is None for step in steps)


def test_a_channel_of_vanishing_weights_keeps_its_bias():
    grid = Grid(0.1, 0, 8)
    weight = Weight(
        np.array([[255, 1], [200, 130]], np.int16), np.array([1e-14, 0.01]), np.full(2, 128, np.int16), 8
    )  # fmt: skip
    node = Node("fc", "linear", ("x",), None, weight, np.array([0.7, -0.3]))
    stored = integer_weights(node, grid)
    value = stored.bias * np.float64(stored.step) * grid.step
    assert np.abs(stored.bias).max() <= BIAS_LIMIT
    assert np.allclose(value, [0.7, -0.3], rtol=1e-3)
    real = weight.values @ np.array([25.5, 25.5])  # the largest that the weights can add
    kept = (stored.codes * stored.step[:, None]) @ np.array([25.5, 25.5])
    assert np.allclose(kept, real, atol=1e-8)


def test_eight_bits_with_free_zero_points_are_refused_where_int8_is_needed():
    weight = Weight(np.array([[255, 0]], np.int16), np.ones(1), np.array([0], np.int16), 8)
    nodes = (
        Node("x", "input", activation=Grid(1.0, 0, 8)),
        Node("fc", "linear", ("x",), Grid(1.0, 0, 8), weight, np.zeros(1)),
    )
    with pytest.raises(ValueError, match="'fc'.*255.*symmetric"):
        IntegerNetwork(QuantizedGraph(nodes, (2,), "deployable"))
    assert IntegerNetwork(QuantizedGraph(nodes, (2,), "academic"))([[1, 5]]).item() == 255


def test_a_sum_that_leaves_int32_is_refused():
    n = 70_000
    weight = Weight(np.full((1, n), 255, np.int16), np.ones(1), np.full(1, 128, np.int16), 8)
    node = Node("fc", "linear", ("x",), None, weight, np.zeros(1))
    with pytest.raises(ValueError, match="'fc'.*int32"):
        integer_weights(node, Grid(1.0, 0, 8))


def test_permuting_output_channels_permutes_codes():
    graph, X, _ = quantised("one dimension", 4, 8)
    order = np.random.default_rng(0).permutation(6)
    nodes = list(graph.nodes)
    place = next(k for k, node in enumerate(nodes) if node.op == "conv")
    w = nodes[place].weight
    nodes[place] = dataclasses.replace(
        nodes[place],
        weight=dataclasses.replace(
            w, codes=w.codes[order], step=w.step[order], zero_point=w.zero_point[order]
        ),
        bias=nodes[place].bias[order],
    )
    permuted = dataclasses.replace(graph, nodes=tuple(nodes))
    name = next(s.name for s in fuse(graph) if s.node.op == "conv")
    ours, theirs = (IntegerNetwork(g).codes(X)[name] for g in (graph, permuted))
    assert np.array_equal(ours[:, order], theirs)
    assert not np.array_equal(ours, theirs)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_academic_networks_go_on_in_real_numbers(structure):
    graph, X, module = quantised(structure, 4, 8, placement="academic")
    ours = IntegerNetwork(graph)(X)
    with torch.no_grad():
        expected = module(X).numpy()
    # codes may differ on ties between float32 and float64
    assert np.abs(ours - expected).max() < 0.05 * np.abs(expected).max()
    assert np.median(np.abs(ours - expected)) < 1e-5 * np.abs(expected).max()


def test_inputs_of_another_kind_are_refused():
    network = IntegerNetwork(one_layer())
    with pytest.raises(ValueError, match="X must have shape"):
        network(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="not finite"):
        network(np.array([[np.nan]]))


def test_an_unknown_operation_is_named():
    graph = one_layer()
    nodes = (*graph.nodes, Node("s", "softmax", ("fc",), Grid(0.1, 0, 8)))
    with pytest.raises(ValueError, match="'s'.*'softmax'"):
        IntegerNetwork(dataclasses.replace(graph, nodes=nodes))(np.zeros((1, 1)))
