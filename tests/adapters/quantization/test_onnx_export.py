"""What is exported runs in integers, to the last code, and is as small as it says."""

import importlib.util

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from statml.adapters.quantization.deployment_report import time_in_turns
from statml.adapters.quantization.integer import IntegerNetwork
from statml.adapters.quantization.lowering import round_to_nearest
from statml.adapters.quantization.onnx_export import build_model, export_onnx
from statml.adapters.quantization.parity import compare_codes, simulate
from statml.adapters.quantization.runtime import count_operations, open_session, run_session

from ._graphs import STRUCTURES, quantised


@pytest.mark.parametrize("storage", ["int4", "int8"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_all_bits_give_the_codes_of_the_integer_reference(bits, storage):
    for n_bits_w, n_bits_a in {(bits, bits), (bits, 8), (8, bits)}:
        graph, X, _ = quantised("residual", n_bits_w, n_bits_a)
        report = compare_codes(graph, X, weight_storage=storage)
        assert report.n_different == 0
        assert report.exact
        assert report.n_codes > 1000


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_runs_in_integers_with_the_codes_of_the_reference(structure, bits):
    graph, X, _ = quantised(structure, bits, bits)
    report = compare_codes(graph, X, weight_storage="int4")
    assert report.n_different == 0, report.table
    assert report.exact
    ops = count_operations(build_model(graph).SerializeToString()).set_index("arithmetic")["count"]
    n_layers = sum(node.weight is not None for node in graph.nodes)
    assert ops.get("float", default=0) == 0
    assert ops.loc[["integer"]].sum() == n_layers


def test_four_bits_take_half_a_byte_and_change_no_output():
    graph, X, _ = quantised("residual", 4, 8)
    models = {k: build_model(graph, weight_storage=k) for k in ("int4", "int8")}
    outputs = {k: run_session(open_session(m.SerializeToString()), X)[0] for k, m in models.items()}
    assert np.array_equal(outputs["int4"], outputs["int8"])
    stored = {w.name: w for w in models["int4"].graph.initializer}
    for node in graph.nodes:
        if node.weight is None:
            continue
        content = stored[f"{node.name}.weight"]
        n = np.prod(content.dims)
        assert len(content.raw_data) == (n if node.weight.n_bits > 4 else -(-n // 2))
        codes = numpy_helper.to_array(content).astype(int)
        offset = stored.get(f"{node.name}.weight.zero_point")
        codes = codes - (0 if offset is None else numpy_helper.to_array(offset).astype(int))
        n_in = node.weight.codes.shape[1]
        assert np.array_equal(codes[:, :n_in], node.weight.centred)
        assert not codes[:, n_in:].any()


@pytest.mark.parametrize(
    ("structure", "n_in"), [("residual", 1), ("joined", 2), ("bottleneck", 3), ("one dimension", 2)]
)
def test_the_first_convolution_reads_four_channels_and_no_other_is_widened(structure, n_in):
    graph, X, _ = quantised(structure, 8, 8)
    model = build_model(graph)
    stored = {w.name: w for w in model.graph.initializer}
    layers = [node for node in graph.nodes if node.weight is not None]
    for k, node in enumerate(layers):
        wanted = list(node.weight.codes.shape)
        if k == 0:
            assert wanted[1] == n_in
            wanted[1] = 4
        assert list(stored[f"{node.name}.weight"].dims) == wanted
    assert np.array_equal(run_session(open_session(model.SerializeToString()), X)[0], IntegerNetwork(graph)(X))  # fmt: skip
    assert "Pad" not in {node.op_type for node in build_model(graph, weight_storage="float32").graph.node}  # fmt: skip


def test_an_odd_number_of_four_bit_weights_is_padded():
    graph, X, _ = quantised("perceptron", 3, 8)  # the middle layer has 9 x 8 weights, of three bits
    model = build_model(graph, weight_storage="int4")
    graph_odd, X_odd, _ = quantised("joined", 4, 4)  # 5 x 6 x 9 and 4 x 6
    for g, x in ((graph, X), (graph_odd, X_odd)):
        assert compare_codes(g, x, weight_storage="int4").exact
    assert model.graph.initializer


def test_the_file_shrinks_by_the_bits_of_the_weights(tmp_path):
    from statml.adapters.quantization.networks import resnet8

    torch.manual_seed(0)
    network = resnet8(width=48).eval()
    graph, _ = round_to_nearest(network, torch.randn(1, 1, 12, 12), n_bits_w=4, n_bits_a=8)
    report = export_onnx(graph, tmp_path / "net.onnx", check=False)
    size = report.size.set_index("form")["ratio"]
    assert 0.24 < size["int8"] < 0.26
    assert 0.12 < size["int4"] < 0.14
    assert (tmp_path / "net.onnx").stat().st_size == report.size.set_index("form").loc["int4", "bytes"]  # fmt: skip
    assert report.parity is None
    assert report.latency is None
    assert report.runs_in_integers


def test_the_report_counts_compares_and_times(tmp_path):
    graph, X, _ = quantised("depthwise", 4, 4)
    report = export_onnx(graph, tmp_path / "net.onnx", weight_storage="int8", X=X)
    assert report.runs_in_integers
    assert (report.n_integer, report.n_float) == (report.n_layers, 0)
    assert report.parity.n_different == 0
    assert report.parity.n_records == len(X)
    assert list(report.latency["form"]) == ["float32", "int8"]
    assert (report.latency["median_ms"] > 0).all()
    text = str(report)
    assert f"{report.n_layers} of {report.n_layers} run in integers" in text
    assert f"0 of {report.parity.n_codes:,} codes differ" in text


@pytest.mark.parametrize("bits", [4, 8])
def test_academic_placement_is_exported_and_said_to_run_in_floats(tmp_path, bits):
    graph, X, _ = quantised("residual", 4, bits, placement="academic")
    report = export_onnx(graph, tmp_path / "net.onnx", X=X)
    assert not report.runs_in_integers
    assert report.n_float > 0
    assert 'placement="deployable"' in str(report)
    (output,) = run_session(open_session(tmp_path / "net.onnx"), X)
    assert np.allclose(output, simulate(graph, X), atol=0.02 * np.abs(output).max())


def test_the_file_takes_any_number_of_records_and_names_its_ends(tmp_path):
    graph, X, _ = quantised("joined", 8, 8)
    export_onnx(graph, tmp_path / "net.onnx", check=False)
    session = open_session(tmp_path / "net.onnx")
    assert [i.name for i in session.get_inputs()] == ["input"]
    assert [o.name for o in session.get_outputs()] == ["output"]
    together = run_session(session, X)[0]
    one_by_one = np.concatenate([run_session(session, x[None])[0] for x in X])
    assert np.array_equal(together, one_by_one)
    assert np.array_equal(together, IntegerNetwork(graph)(X))


def test_two_layers_may_read_the_input():
    torch.manual_seed(0)

    class Forked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = (torch.nn.Conv2d(3, 4, k, padding=k // 2) for k in (1, 3))
            self.three, self.last = torch.nn.Conv2d(3, 3, 3, padding=1, groups=3), torch.nn.Linear(11, 2)  # fmt: skip

        def forward(self, x):
            x = torch.cat([self.one(x), self.two(x), self.three(x)], 1)
            return self.last(torch.relu(x).mean((2, 3)))

    graph, _ = round_to_nearest(Forked().eval(), torch.randn(6, 3, 8, 8))
    assert compare_codes(graph, np.random.default_rng(0).standard_normal((4, 3, 8, 8))).exact
    ops = count_operations(build_model(graph).SerializeToString())
    assert ops.set_index("op").loc["QLinearConv", "count"] == 3


@pytest.mark.parametrize("opset", [21, 22, 23])
def test_later_opsets_give_the_same_outputs(opset):
    graph, X, _ = quantised("residual", 4, 4)
    model = build_model(graph, opset=opset)
    assert model.opset_import[0].version == opset
    assert np.array_equal(run_session(open_session(model.SerializeToString()), X)[0], IntegerNetwork(graph)(X))  # fmt: skip


def test_the_float_form_is_the_network_without_quantised_tensors():
    graph, X, _ = quantised("residual", 8, 8)
    torch.manual_seed(0)
    from ._graphs import residual, settled

    network = settled(residual()[0])
    (output,) = run_session(open_session(build_model(graph, weight_storage="float32").SerializeToString()), X)  # fmt: skip
    with torch.no_grad():
        expected = network(X).numpy()
    # only the weights are rounded, to 8 bits
    assert np.abs(output - expected).max() < 0.05 * np.abs(expected).max()


def test_an_addition_of_any_two_codes_is_the_references():
    from statml.adapters.quantization.quantized_graph import Grid, Node, QuantizedGraph, Weight

    one = Weight(np.full((1, 1, 1, 1), 129, np.int16), np.ones(1), np.array([128], np.int16), 8)
    options = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    rng = np.random.default_rng(0)
    for _ in range(10):
        steps = np.exp(rng.normal(-3, 0.7, 4))
        zeros = rng.choice([0, 8, 128], 3)
        left, right, out = (Grid(float(s), int(z), 8) for s, z in zip(steps, zeros, strict=False))
        entry = Grid(float(steps[3]), 128, 8)
        nodes = (
            Node("x", "input", activation=entry),
            Node("a", "conv", ("x",), left, one, rng.normal(size=1), options),
            Node("b", "conv", ("x",), right, one, rng.normal(size=1), options),
            Node("c", "add", ("a", "b"), out),
        )
        graph = QuantizedGraph(nodes, (1, 16, 16), "deployable")
        X = entry.values(np.arange(256)).reshape(1, 1, 16, 16)
        report = compare_codes(graph, X)
        assert report.n_different == 0, report.table


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"weight_storage": "int2"}, "weight_storage"),
        ({"opset": 20}, "opset"),
        ({"opset": 21.5}, "opset"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(tmp_path, arguments, error):
    graph, _, _ = quantised("perceptron")
    with pytest.raises((ValueError, TypeError), match=error):
        export_onnx(graph, tmp_path / "net.onnx", **arguments)
    assert not (tmp_path / "net.onnx").exists()


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    graph, _, _ = quantised("perceptron")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    with pytest.raises(ModuleNotFoundError, match=r"onnxruntime.*statml\[onnx\]"):
        export_onnx(graph, tmp_path / "net.onnx")


def test_the_file_is_valid_onnx(tmp_path):
    graph, _, _ = quantised("three dimensions", 4, 4)
    export_onnx(graph, tmp_path / "net.onnx", check=False)
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)


def test_times_are_ratios_within_turns():
    table = time_in_turns({"slow": lambda: sum(range(20000)), "fast": lambda: None}, n_repeats=5)
    assert list(table.columns) == ["form", "q25_ms", "median_ms", "q75_ms", "speedup"]
    assert table["speedup"].iloc[0] == 1
    assert table["speedup"].iloc[1] > 2
