"""Equalised networks compute the same with ranges that are alike; rounding by sums keeps sums."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statml.adapters import GenieQuantizer
from statml.adapters.quantization.equalization import _streams, equalize
from statml.adapters.quantization.networks import MobileNetV2
from statml.adapters.quantization.sum_rounding import keep_sums, round_by_sums
from statml.adapters.quantization.tracing import trace
from torch import nn

from ._graphs import STRUCTURES, settled


def network_of(structure):
    torch.manual_seed(0)
    network, shape = STRUCTURES[structure]()
    return settled(network), torch.randn(6, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("structure", [s for s in STRUCTURES if s not in ("depthwise", "three dimensions")])  # fmt: skip
@torch.no_grad()
def test_without_relu6_an_equalised_network_computes_the_same(structure):
    network, X = network_of(structure)
    before = network(X)
    assert torch.allclose(equalize(network)(X), before, atol=1e-5 * before.abs().max().item())
    assert torch.equal(network(X), before)  # and the network given stays as it was


@torch.no_grad()
def test_with_relu6_what_lies_within_the_range_is_kept():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8)).eval()  # fmt: skip
    net[0].weight.mul_(torch.logspace(-1, 0.3, 8).reshape(-1, 1, 1, 1))
    X = torch.randn(20, 2, 12, 12)
    values = net[:1](X)
    net[1].running_mean, net[1].running_var = values.mean((0, 2, 3)), values.var((0, 2, 3))
    net[1].weight.copy_(torch.logspace(-1.5, 0.5, 8))
    out = net(X)
    assert torch.allclose(equalize(net, n_std=8)(X), out, atol=1e-5)
    assert (equalize(net, n_std=0.5)(X) - out).abs().max() > 0.1  # values beyond are cut


@torch.no_grad()
def test_ranges_before_depthwise_layers_become_equal():
    network = settled(MobileNetV2(n_classes=6, width=0.25))
    norm = "features.2.conv.0.1"
    network.get_submodule(norm).weight.mul_(torch.logspace(-2, 0, 48))
    network.get_submodule(norm).bias.zero_()
    equal = equalize(network, n_std=3.0)
    ratio = [(w := n.get_submodule(norm).weight.abs()).max() / w.min() for n in (network, equal)]
    assert ratio[0] > 50
    assert ratio[1] < ratio[0] / 30
    reach = equal.get_submodule(norm).weight.abs() * 3
    assert reach.max() <= 6.0001


def test_what_is_added_shares_its_factors():
    network, _ = network_of("residual")
    streams = [s for s in _streams(trace(network)) if len(s.norms) > 1]
    assert [len(s.norms) for s in streams] == [
        2,
        2,
    ]  # stem and second convolution; shortcut and second convolution


@pytest.mark.parametrize("wrong", [0, -1, "four"])
def test_a_range_of_no_deviations_is_refused(wrong):
    with pytest.raises((ValueError, TypeError), match="n_std"):
        equalize(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), n_std=wrong)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from([(), (3,), (3, 3), (1, 1)]), st.integers(0, 2**31))  # fmt: skip
def test_sums_are_kept_within_half_a_step_and_no_weight_moves_a_whole_one(
    n_out, n_in, kernel, seed
):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n_out, n_in, *kernel, generator=generator, dtype=torch.float64) * 20
    codes = round_by_sums(weight)
    error = codes - weight
    assert torch.equal(codes, codes.round())
    assert error.abs().max() < 1
    assert error.reshape(n_out, -1).sum(1).abs().max() <= 0.5 + 1e-9
    nearest = (weight.round() - weight).reshape(n_out, -1).sum(1).abs().max()
    assert error.reshape(n_out, -1).sum(1).abs().max() <= nearest + 1e-9


def test_bounds_hold_while_sums_are_kept():
    weight = torch.full((1, 1, 9), 7.4)
    codes = round_by_sums(weight, -8, 7)
    assert codes.max() == 7
    assert round_by_sums(weight, -8, 9).sum() == 67  # 66.6


def test_keeping_sums_lowers_the_error_on_smooth_inputs():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()  # fmt: skip
    X = torch.nn.functional.avg_pool2d(torch.rand(64, 4, 24, 24), 9, 1) * 4
    errors = []
    for seed in range(8):
        torch.manual_seed(seed)
        net[0].weight.data = torch.randn(4, 1, 3, 3) * 0.3
        quantizer = GenieQuantizer(4, 8, first_last_bits=None, second_input_bits=None, method="rtn-mse", placement="deployable", random_state=0).fit(net, X)  # fmt: skip
        with torch.no_grad():
            before = (quantizer.model_(X) - net(X)).square().mean().item()
            share = keep_sums(quantizer.model_)
            after = (quantizer.model_(X) - net(X)).square().mean().item()
        assert 0 < share < 0.5
        errors.append((before, after))
    before, after = np.array(errors).T
    assert after.mean() < 0.6 * before.mean()
    with torch.no_grad():
        codes = quantizer.to_graph().nodes[1].weight
    assert codes.codes.min() >= 0
    assert codes.codes.max() <= 15
