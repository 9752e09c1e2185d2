"""Reconstruction of units and of whole networks: limits, caching, resuming."""

import copy

import numpy as np
import pytest
import torch
from statml.adapters.quantization import chaining
from statml.adapters.quantization.chaining import reconstruct_network
from statml.adapters.quantization.lowering import calibrate, quantize_weights, walk
from statml.adapters.quantization.placement import Bits, build_student
from statml.adapters.quantization.quantizers import (
    LSQActivation,
    QuantizedLayer,
    WeightQuantizer,
    search_step,
)
from statml.adapters.quantization.reconstruction import (
    Settings,
    reconstruct_unit,
    reconstruction_error,
)
from statml.adapters.quantization.rounding import ROUNDINGS, Learning
from statml.adapters.quantization.tracing import fix_shapes, layer_nodes, trace
from statml.adapters.quantization.units import find_units
from torch import nn


def linear_unit(n_bits=2, n_in=16, n_out=8, n=200):
    draws = torch.Generator().manual_seed(0)
    layer = nn.Linear(n_in, n_out)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(n_out, n_in, generator=draws))
        layer.bias.zero_()
    mixing = torch.randn(n_in, n_in, generator=draws) + 2  # correlated inputs
    X = torch.randn(n, n_in, generator=draws) @ mixing / 40
    unit = QuantizedLayer(layer)
    grid = search_step(layer.weight, n_bits, per_channel=True)
    unit.quantizer = WeightQuantizer(layer.weight, n_bits, *grid)
    return unit, X, layer(X).detach()


def learn(unit, X, y, settings, **what):
    draws = torch.Generator().manual_seed(1)
    return reconstruct_unit(unit, {"": unit}, [], X, X, y, settings, generator=draws, **what)


def test_error_is_summed_over_channels_and_averaged_over_records_and_places():
    y, target = torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4, 5)
    assert reconstruction_error(y, target).item() == 3


def test_learnt_roundings_beat_the_nearest_on_correlated_inputs():
    unit, X, y = linear_unit()
    record = learn(unit, X, y, Settings(500, round_weight=5.0), weight_step=False)
    assert record.hard_loss < 0.5 * record.start_loss
    assert record.undecided[""] < 0.05
    assert record.hard_loss < 1.2 * record.soft_loss
    assert unit.quantizer.hard
    assert torch.equal(unit.quantizer.codes(), unit.quantizer.codes().round())
    other, X, y = linear_unit()
    both = learn(other, X, y, Settings(500, round_weight=5.0, lr_w_step=3e-3))
    assert both.hard_loss < record.hard_loss


def test_roundings_that_cannot_move_far_enough_stay_undecided():
    unit, X, y = linear_unit()
    record = learn(unit, X, y, Settings(300, lr_round=1e-3))
    assert record.undecided[""] > 0.5


def test_without_iterations_the_result_is_the_nearest():
    unit, X, y = linear_unit()
    record = learn(unit, X, y, Settings(0))
    assert torch.equal(unit.quantizer.codes().to(torch.uint8), unit.quantizer.nearest)
    assert record.start_loss == record.hard_loss


def test_the_term_for_decisions_is_left_out_in_the_warm_up():
    curves = []
    for weight in (0.0, 100.0):
        unit, X, y = linear_unit()
        curves.append(learn(unit, X, y, Settings(100, round_weight=weight, warmup=0.5)).loss)
    assert curves[0][:51] == curves[1][:51]
    assert curves[0][60:] != curves[1][60:]


def test_only_what_is_asked_for_is_learnt():
    unit, X, y = linear_unit()
    step = unit.quantizer.step.detach().clone()
    learn(unit, X, y, Settings(50), weight_step=False)
    assert torch.equal(unit.quantizer.step, step)
    unit, X, y = linear_unit()
    learn(unit, X, y, Settings(50), roundings=False)
    assert torch.equal(unit.quantizer.codes().to(torch.uint8), unit.quantizer.nearest)
    assert not torch.equal(unit.quantizer.step, step)
    assert not unit.layer.weight.requires_grad


# --- networks -----------------------------------------------------------------------------------------


def prepared(net, X, method="genie", n_bits=(3, 3), placement="academic"):
    traced = trace(net)
    fix_shapes(traced, tuple(X.shape[1:]))
    bits, rounding = Bits(*n_bits), ROUNDINGS[method]()
    student = build_student(traced, placement, bits)
    quantize_weights(student, bits, lambda w, n, s: rounding.weight_grid(w, n, s, 2.4))
    calibrate(student, traced, X[:32], lambda x, n: rounding.activation_grid(x, n, 2.4))
    return traced, student, rounding.learning


def run(net, X, learning=None, settings=None, seed=0, method="genie", **where):
    traced, student, own = prepared(net, X, method)
    records = reconstruct_network(
        traced,
        student,
        X,
        learning or own,
        settings or Settings(15),
        np.random.SeedSequence(seed),
        progress=False,
        **where,
    )
    return traced, student, records


def codes_of(student):
    return {
        name: module.quantizer.codes()
        for name, module in student.named_modules()
        if isinstance(module, QuantizedLayer)
    }


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def X(digits):
    return torch.from_numpy(digits[0][:150])


def test_a_units_target_is_the_float_network_and_its_input_the_quantised(small_net, X, monkeypatch):
    seen = []
    original = chaining.reconstruct_unit

    def spy(forward, layers, activations, quantized, float_inputs, target, *rest, **named):
        seen.append((quantized, float_inputs, target))
        return original(
            forward, layers, activations, quantized, float_inputs, target, *rest, **named
        )

    monkeypatch.setattr(chaining, "reconstruct_unit", spy)
    traced, _, records = run(small_net, X)
    truth = dict(walk(traced, X))
    for (unit, _), (quantized, float_inputs, target) in zip(records, seen, strict=True):
        torch.testing.assert_close(float_inputs, truth[unit.entry])
        torch.testing.assert_close(target, truth[unit.nodes[-1]])
        first = unit.entry == "x"
        assert torch.equal(quantized, float_inputs) == first


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_the_float_network_is_executed_once_whatever_the_number_of_units(small_net, X, granularity):
    traced, student, _ = prepared(small_net, X)
    calls = {}
    for node in layer_nodes(traced):
        traced.get_submodule(node.target).register_forward_hook(
            lambda m, i, o, name=node.target: calls.update({name: calls.get(name, 0) + len(o)})
        )
    learning = Learning(granularity=granularity, weight_step=True)
    reconstruct_network(
        traced, student, X, learning, Settings(1), np.random.SeedSequence(0), progress=False
    )
    assert set(calls.values()) == {len(X)}


def test_every_seed_gives_its_own_result_and_the_same_seed_the_same(small_net, X):
    _, one, _ = run(small_net, X)
    _, two, _ = run(small_net, X)
    _, other, _ = run(small_net, X, seed=1)
    assert same(codes_of(one), codes_of(two))
    assert not same(codes_of(one), codes_of(other))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_nothing_is_dropped_and_nothing_learnt_any_more_afterwards(small_net, X):
    _, student, _ = run(small_net, X)
    for module in student.modules():
        if isinstance(module, LSQActivation):
            assert module.drop_prob == 0
            assert module.active
        if isinstance(module, QuantizedLayer):
            assert module.quantizer.hard
    with torch.no_grad():
        assert torch.equal(student(X), student(X))


@pytest.mark.parametrize("method", ["genie", "brecq"])
def test_an_interrupted_run_goes_on_with_the_same_result(
    small_net, X, tmp_path, monkeypatch, method
):
    _, whole, records = run(small_net, X, method=method)
    original, count = chaining.reconstruct_unit, []

    def interrupted(*arguments, **named):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(chaining, "reconstruct_unit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(small_net, X, method=method, folder=tmp_path, fingerprint="a")
    assert len(list(tmp_path.glob("*.pt"))) == 2
    _, resumed, again = run(small_net, X, method=method, folder=tmp_path, fingerprint="a")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        finite = torch.isfinite(a)
        assert torch.equal(a[finite], b[finite])
    assert same(codes_of(whole), codes_of(resumed))
    assert [record.hard_loss for _, record in records] == [r.hard_loss for _, r in again]
    with pytest.raises(ValueError, match="holds another run"):
        run(small_net, X, folder=tmp_path, method=method, fingerprint="b")


def test_genie_without_its_changes_is_the_first_pass_of_brecq(small_net, X):
    settings = Settings(15, round_weight=0.01, drop_prob=0.0)
    without = Learning(activation_step=None, quantize_activations=False, drop_prob=0.0)
    _, genie, _ = run(small_net, X, without, settings)
    brecq = ROUNDINGS["brecq"].learning
    first = type(brecq)(**{**vars(brecq), "activation_step": None})
    _, other, _ = run(small_net, X, first, settings, method="brecq")
    assert same(codes_of(genie), codes_of(other))


def test_brecq_learns_steps_of_activations_in_a_second_pass_and_leaves_codes(small_net, X):
    settings = Settings(15, round_weight=0.01, drop_prob=0.0)
    brecq = ROUNDINGS["brecq"].learning
    first = type(brecq)(**{**vars(brecq), "activation_step": None})
    _, one, _ = run(small_net, X, first, settings, method="brecq")
    _, two, _ = run(small_net, X, brecq, settings, method="brecq")
    assert same(codes_of(one), codes_of(two))
    steps = [
        [m.step.item() for m in student.modules() if isinstance(m, LSQActivation)]
        for student in (one, two)
    ]
    assert steps[0] != steps[1]


def test_permuting_the_records_of_output_channels_permutes_codes(small_net, X):
    _, student, _ = prepared(small_net, X)
    order = torch.tensor([5, 0, 3, 1, 9, 2, 8, 4, 7, 6])
    turned = copy.deepcopy(small_net)
    with torch.no_grad():
        turned.head.weight.copy_(small_net.head.weight[order])
        turned.head.bias.copy_(small_net.head.bias[order])
    _, other, _ = prepared(turned, X)
    assert torch.equal(codes_of(student)["head"][order], codes_of(other)["head"])


def test_reconstruction_lowers_the_error_of_the_output(small_net, X):
    traced, student, learning = prepared(small_net, X, n_bits=(2, 4))
    exact = traced(X)
    before = (student(X) - exact).square().mean().item()
    reconstruct_network(
        traced,
        student,
        X,
        learning,
        Settings(60, lr_round=0.08),
        np.random.SeedSequence(0),
        progress=False,
    )
    with torch.no_grad():
        after = (student(X) - exact).square().mean().item()
    assert after < 0.6 * before


def test_units_are_learnt_in_the_deployable_placement_too(small_net, X):
    traced, student, learning = prepared(small_net, X, placement="deployable")
    records = reconstruct_network(
        traced, student, X, learning, Settings(5), np.random.SeedSequence(0), progress=False
    )
    assert [unit for unit, _ in records] == find_units(traced)
    assert all(np.isfinite(record.hard_loss) for _, record in records)
