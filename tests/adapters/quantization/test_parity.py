"""Runtime, integer reference and simulation agree, and the report notices where they do not."""

import dataclasses

import numpy as np
import pytest
import torch
from statml.adapters.quantization import parity
from statml.adapters.quantization.integer import IntegerNetwork
from statml.adapters.quantization.lowering import round_to_nearest
from statml.adapters.quantization.networks import resnet8
from statml.adapters.quantization.onnx_export import build_model
from statml.adapters.quantization.parity import compare_codes, simulate

from ._graphs import quantised


@pytest.fixture(scope="module")
def clothes():
    """The shipped network at several widths of bits, on images made of smooth noise."""
    torch.manual_seed(0)
    X = torch.nn.functional.avg_pool2d(torch.randn(8, 1, 32, 32), 5, 1) * 3
    network = resnet8("fashion-mnist")
    made = {
        bits: round_to_nearest(network, X, n_bits_w=bits[0], n_bits_a=bits[1])[0]
        for bits in ((8, 8), (4, 8), (4, 4), (2, 2))
    }
    return made, X


@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (4, 4), (2, 2)])
def test_simulation_and_integers_differ_on_ties_only(clothes, bits):
    graphs, X = clothes
    report = compare_codes(graphs[bits], X)
    assert report.exact
    assert report.n_codes > 50_000
    assert report.simulated_share < 0.001
    assert report.table["simulated_largest"].max() <= 1


def test_coarse_steps_let_the_bias_move_codes_and_the_report_counts_them(clothes):
    graphs, X = clothes
    moved = {
        bits: (t := compare_codes(graphs[bits], X).table)["bias_moved"].sum() / t["n_codes"].sum()
        for bits in ((8, 8), (2, 2))
    }
    assert moved[2, 2] > 5 * moved[8, 8]
    assert moved[8, 8] < 0.01


def test_the_simulation_is_the_fitted_module():
    graph, X, module = quantised("depthwise", 8, 8)
    with torch.no_grad():
        expected = module(X).numpy()
    ours = simulate(graph, X)
    assert np.abs(ours - expected).max() < 0.1 * np.abs(expected).max()
    assert np.corrcoef(ours.ravel(), expected.ravel())[0, 1] > 0.999


def test_one_wrong_weight_in_the_file_is_found(monkeypatch):
    graph, X, _ = quantised("residual", 4, 8)
    place = next(k for k, node in enumerate(graph.nodes) if node.op == "conv")
    weight = graph.nodes[place].weight
    codes = weight.codes.copy()
    largest = np.unravel_index(np.abs(weight.centred).argmax(), codes.shape)
    codes[largest] = weight.zero_point[largest[0]]
    nodes = list(graph.nodes)
    nodes[place] = dataclasses.replace(
        nodes[place], weight=dataclasses.replace(weight, codes=codes)
    )
    wrong = dataclasses.replace(graph, nodes=tuple(nodes))
    monkeypatch.setattr(parity, "build_model", lambda g, **how: build_model(wrong, **how))
    report = compare_codes(graph, X)
    assert not report.exact
    assert report.n_different > 0
    assert report.table["different"].iloc[0] == 0  # the input comes before it
    assert report.table["different"].iloc[1] > 0
    assert "differ between onnxruntime" in str(report)


def test_the_table_has_a_row_for_every_tensor_on_a_grid():
    graph, X, _ = quantised("joined", 4, 4)
    report = compare_codes(graph, X)
    codes = IntegerNetwork(graph).codes(X)
    assert set(report.table["tensor"]) == set(codes)
    assert report.n_codes == sum(c.size for c in codes.values())
    assert (report.table["n_bits"] <= 8).all()


def test_records_are_compared_as_many_as_given():
    graph, X, _ = quantised("perceptron", 8, 8)
    assert compare_codes(graph, X[:3]).n_records == 3
    assert 0 <= compare_codes(graph, X).same_class <= 1
