"""Grids, roundings and their gradients against closed forms and brute force."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from statml.adapters.quantization import quantizers
from statml.adapters.quantization.quantizers import (
    GAMMA,
    ZETA,
    LSQActivation,
    WeightQuantizer,
    fake_quantize,
    inverse_rectified_sigmoid,
    range_step,
    rectified_sigmoid,
    search_step,
)
from statml.adapters.quantization.reconstruction import (
    annealed_beta,
    refit_step,
    rounding_penalty,
)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quantizer_of(weight, n_bits):
    return WeightQuantizer(weight, n_bits, *search_step(weight, n_bits, per_channel=True))


@pytest.mark.parametrize("n_bits", [2, 3, 4, 8])
def test_soft_weights_start_at_the_trained_ones_and_hard_ones_at_the_nearest(n_bits):
    weight = draws(16, 3, 3, 3)
    quantizer = quantizer_of(weight, n_bits)
    step, zero = quantizer.step.detach(), quantizer.zero_point
    code = weight / step + zero
    inside = (code >= 0) & (code <= 2**n_bits - 1)
    assert inside.double().mean() > 0.8
    assert (quantizer() - weight)[inside].abs().max() < 2e-15
    quantizer.hard = True
    assert torch.equal(
        quantizer.codes(), (torch.round(weight / step) + zero).clamp(0, 2**n_bits - 1)
    )
    assert torch.equal(quantizer.codes().to(torch.uint8), quantizer.nearest)
    outside = ~(
        (torch.round(weight / step) + zero >= 0)
        & (torch.round(weight / step) + zero <= 2**n_bits - 1)
    )
    assert quantizer.clipped == pytest.approx(outside.double().mean().item())


def test_gradient_of_a_step_is_the_integer_code_since_the_base_is_held():
    weight = draws(4, 50)
    quantizer = quantizer_of(weight, 3)
    with torch.no_grad():
        quantizer.V += 0.3 * draws(4, 50, seed=1)
    quantizer().sum().backward()
    expected = (quantizer.codes() - quantizer.zero_point).sum(1, keepdim=True)
    torch.testing.assert_close(quantizer.step.grad, expected.detach(), rtol=0, atol=1e-12)
    # the straight-through version would give code - W / s, another number altogether
    coupled = (quantizer.codes() - quantizer.zero_point - weight / quantizer.step).sum(1)
    assert (coupled - expected[:, 0]).abs().min() > 1


def test_gradient_of_a_rounding_is_the_step_times_the_slope_where_nothing_is_clipped():
    weight = draws(4, 50)
    quantizer = quantizer_of(weight, 3)
    quantizer().sum().backward()
    sigma = torch.sigmoid(quantizer.V.detach())
    h = sigma * (ZETA - GAMMA) + GAMMA
    code = quantizer.base + rectified_sigmoid(quantizer.V.detach()) + quantizer.zero_point
    free = (h > 0) & (h < 1) & (code > 0) & (code < 7)
    slope = quantizer.step.detach() * (ZETA - GAMMA) * sigma * (1 - sigma)
    assert free.double().mean() > 0.7
    torch.testing.assert_close(
        quantizer.V.grad[free], slope.expand(4, 50)[free], rtol=0, atol=1e-15
    )
    clipped = (code < 0) | (code > 7)
    assert clipped.any()
    assert (quantizer.V.grad[clipped] == 0).all()


def test_rectified_sigmoid_reaches_its_ends_and_is_inverted():
    V = torch.tensor([-2.3980, 0.0, 2.3980], dtype=torch.float64)
    assert rectified_sigmoid(V).tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-15)
    h = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(
        rectified_sigmoid(inverse_rectified_sigmoid(h)), h, rtol=0, atol=1e-15
    )


def test_penalty_and_its_exponent_have_the_values_of_the_formula():
    for h, beta, expected in [
        (0.5, 20, 1),
        (0.9, 20, 0.988471),
        (0.9, 2, 0.36),
        (0, 7, 0),
        (1, 7, 0),
    ]:
        value = rounding_penalty(torch.tensor([h], dtype=torch.float64), beta).item()
        assert value == pytest.approx(expected, abs=5e-7)
    assert rounding_penalty(torch.full((3, 4), 0.5), 2).item() == 12  # a sum, not a mean
    assert [annealed_beta(t, 20_000) for t in (1, 4000, 8000, 12_000, 20_000)] == [
        20,
        20,
        15.5,
        11,
        2,
    ]


@pytest.mark.parametrize("n_bits", [2, 3, 4, 6])
@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_searched_step_is_within_two_per_cent_of_the_best_by_brute_force(
    n_bits, rectified, symmetric
):
    x = draws(20_000)
    x = x.clamp(min=0) if rectified else x
    top = 2**n_bits - 1

    def error(step, zero):
        codes = (torch.round(x / step) + zero).clamp(0, top)
        return (x - step * (codes - zero)).abs().pow(2.4).mean().item()

    step, zero = search_step(x, n_bits, symmetric=symmetric)
    assert zero == (0 if rectified else zero)
    if symmetric and not rectified:
        assert zero == 2 ** (n_bits - 1)
    largest = 2 * x.abs().max() if symmetric and not rectified else x.max() - x.min().clamp(max=0)
    best = min(error(s, zero) for s in np.linspace(0.005, 1, 1500) * float(largest) / top)
    assert error(step, zero) <= 1.02 * best


def test_a_search_of_few_values_is_exhaustive():
    x = draws(60_000).clamp(min=-1)

    def error(ratio):
        step = 2 * ratio * x.abs().max() / 15
        return (x - step * ((x / step).round() + 8).clamp(0, 15) + 8 * step).abs().pow(2.4).mean()

    ratios = [r / 100 for r in range(100, 0, -1)]
    best = ratios[int(torch.stack([error(r) for r in ratios]).argmin())]
    assert search_step(x, 4, symmetric=True)[0] == best * 2 * x.abs().max() / 15


HEAVY = {
    "normal": lambda x: x,
    "rectified and capped, so that the largest tie": lambda x: x.mul(4).clamp(0, 6),
    "heavy tails": lambda x: x * x.roll(1) * x.roll(2).exp(),
    "one in 100,000 a hundred times larger": lambda x: torch.where(
        torch.arange(len(x)) % 100_000 == 7, 100 * x.sign(), x
    ),
}


@pytest.mark.parametrize("n_bits", [2, 4, 8])
@pytest.mark.parametrize("kind", HEAVY)
def test_the_search_of_a_large_tensor_finds_what_that_of_all_its_values_finds(
    kind, n_bits, monkeypatch
):
    x = HEAVY[kind](draws(600_000))
    sampled = search_step(x, n_bits, symmetric=True)
    again = search_step(x.clone(), n_bits, symmetric=True)
    assert sampled == again
    monkeypatch.setattr(quantizers, "SEARCHED", len(x))
    step, zero = search_step(x, n_bits, symmetric=True)
    assert sampled[1] == zero

    def error(step):
        codes = (torch.round(x / step) + zero).clamp(0, 2**n_bits - 1)
        return (x - step * (codes - zero)).abs().pow(2.4).mean()

    # the same candidate or a neighbour, where the two are as good as equal: differences between neighbours hang on
    # the values that one clips and the other does not, most of which are among the largest
    candidate = (2 if zero else 1) * x.abs().max() / (2**n_bits - 1) / 100
    assert abs(sampled[0] - step) <= 1.001 * candidate
    assert error(sampled[0]) <= 1.003 * error(step)


def test_channels_of_many_weights_are_searched_each_on_its_own(monkeypatch):
    weight = torch.stack([draws(90_000), 10 * draws(90_000, seed=1).abs()])
    step, zero = search_step(weight, 4, per_channel=True)
    monkeypatch.setattr(quantizers, "SEARCHED", 90_000)
    whole, whole_zero = search_step(weight, 4, per_channel=True)
    assert torch.equal(zero, whole_zero)
    torch.testing.assert_close(step, whole, rtol=0.05, atol=0)


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40),
    st.integers(2, 8),
    st.booleans(),
)
def test_grids_hold_zero_and_are_positive_whatever_comes(values, n_bits, symmetric):
    x = torch.tensor(values)
    for step, zero in (
        search_step(x, n_bits, symmetric=symmetric),
        range_step(x, n_bits, symmetric=symmetric),
    ):
        assert step > 0
        assert zero == round(zero.item())
        assert 0 <= zero <= 2**n_bits - 1
    step, zero = range_step(x, n_bits)
    values = step * ((torch.round(x / step) + zero).clamp(0, 2**n_bits - 1) - zero)
    # within the range nothing is off by more than half a step (one, where the zero-point was rounded)
    assert ((values - x).abs() <= step * 1.001 + 1e-5).all()


def test_each_channel_has_a_grid_of_its_own_and_permuting_channels_permutes_codes():
    weight = draws(6, 4, 3) * torch.tensor([1, 10, 0.1, 1, 5, 2.0])[:, None, None]
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    one, other = quantizer_of(weight, 3), quantizer_of(weight[order], 3)
    one.hard = other.hard = True
    assert torch.equal(one.codes()[order], other.codes())
    assert torch.equal(one.step[order], other.step)


def test_a_percentile_cuts_an_outlier_off():
    x = torch.cat([draws(10_000), torch.tensor([100.0], dtype=torch.float64)])
    whole, cut = range_step(x, 8)[0], range_step(x, 8, 99.9)[0]
    assert cut < whole / 10
    assert range_step(x, 8, 100.0)[0] == whole


def test_gradient_of_an_activation_is_that_of_lsq():
    step = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x = torch.linspace(-2, 2, 81, dtype=torch.float64, requires_grad=True)
    low, high = -4, 3
    fake_quantize(x, step, 4, 7).backward(torch.ones(81, dtype=torch.float64))
    u = (x / step).detach()
    inside = (torch.round(u) > low) & (torch.round(u) < high)
    each = []
    for value in x.detach():
        s = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        fake_quantize(value, s, 4, 7).backward()
        each.append(s.grad.item())
    each = torch.tensor(each, dtype=torch.float64)
    torch.testing.assert_close(each[inside], (torch.round(u) - u)[inside], rtol=0, atol=1e-14)
    assert (each[torch.round(u) < low] == low).all()
    assert (each[torch.round(u) > high] == high).all()
    assert step.grad.item() == pytest.approx(each.sum().item())
    assert (x.grad[inside] == 1).all()
    assert (x.grad[(torch.round(u) < low) | (torch.round(u) > high)] == 0).all()


def test_dropping_lets_the_stated_share_pass_and_stops_when_it_is_off():
    grid = LSQActivation(2)
    x = draws(20_000).float().abs()
    assert torch.equal(grid(x), x)  # no grid yet
    grid.set_grid(torch.tensor(0.5), torch.tensor(0.0))
    quantised = grid(x)
    grid.drop_prob, grid.generator = 0.5, torch.Generator().manual_seed(0)
    passed = (grid(x) == x).double().mean().item()
    assert abs(passed - 0.5) < 4 * (0.25 / 20_000) ** 0.5
    grid.drop_prob = 0.0
    assert torch.equal(grid(x), quantised)


def test_refitted_step_is_the_least_squares_solution():
    X, weight = draws(200, 10), draws(3, 10, seed=1)
    quantizer = quantizer_of(weight, 2)
    quantizer.hard = True
    codes = (quantizer.codes() - quantizer.zero_point).detach()
    refitted = refit_step(weight, codes, X.T @ X)
    for c in range(3):
        design = (X @ codes[c])[:, None]
        expected = torch.linalg.lstsq(design, (X @ weight[c])[:, None]).solution.item()
        assert refitted[c].item() == pytest.approx(expected, rel=1e-10)

    def loss(step):
        return (X @ (weight - step[:, None] * codes).T).square().sum(0)

    assert (loss(refitted) <= loss(quantizer.step[:, 0].detach()) + 1e-12).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3), 1), "n_bits must be an integer in"),
        ((torch.ones(3), 9), "n_bits must be an integer in"),
        ((torch.ones(3), 4, 0.0), "p must be a finite number"),
        ((torch.tensor([1.0, float("nan")]), 4), "x must hold finite numbers"),
        ((torch.ones(0), 4), "at least one"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        search_step(*arguments)
