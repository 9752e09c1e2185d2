"""The table of timings compares like with like."""

import importlib.util

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from statml.adapters.pruning import benchmark  # noqa: E402
from statml.adapters.pruning.timing import _in_turns  # noqa: E402
from torch import nn  # noqa: E402

HAS_ONNX = all(importlib.util.find_spec(p) for p in ("onnx", "onnxscript", "onnxruntime"))


def test_every_form_is_timed_on_the_same_batch_and_compact_is_several_times_faster():
    torch.manual_seed(0)
    widths = [nn.Linear(64, 1024), nn.Linear(1024, 1024), nn.Linear(1024, 3)]
    net = nn.Sequential(widths[0], nn.ReLU(), widths[1], nn.ReLU(), widths[2])
    with torch.no_grad():
        for layer in widths[:2]:
            layer.weight[64:] = 0
            layer.bias[64:] = 0
    before = [p.detach().clone() for p in net.parameters()]
    table = benchmark(net.train(), torch.randn(64, 64), n_repeats=7).set_index("form")
    assert net.training
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))

    assert list(table.index) == ["dense", "sparse", "compact", "onnx"]
    assert (table["n_records"] == 64).all()
    assert (table["n_threads"] == torch.get_num_threads()).all()
    here = table.dropna(subset=["median_ms"])
    assert len(here) == (4 if HAS_ONNX else 3)
    assert (here["note"] == "").all()
    if not HAS_ONNX:  # what cannot be timed says why
        assert "pip install 'statml[onnx]'" in table["note"]["onnx"]
    assert (here["q25_ms"] <= here["median_ms"]).all()
    assert (here["median_ms"] <= here["q75_ms"]).all()
    np.testing.assert_allclose(here["speedup"], here["median_ms"]["dense"] / here["median_ms"])
    assert (here["max_difference"] < 1e-5).all()
    assert here["max_difference"]["dense"] == 0
    # a sixteenth of the units is 200 times fewer products: bounds that noise does not reach
    assert table["speedup"]["compact"] > 3
    assert table["bytes"]["compact"] < table["bytes"]["dense"] / 50


def test_forms_take_turns_and_warm_up_is_not_counted():
    order = []
    times = _in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 4)
    assert order == ["a", "b"] * 7
    assert [len(t) for t in times.values()] == [4, 4]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="n_repeats must be an integer >= 1, got 0"):
        benchmark(nn.Linear(2, 2), torch.zeros(1, 2), n_repeats=0)
