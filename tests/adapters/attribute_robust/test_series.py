"""Attributes of time series and tables."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from statml.adapters.attribute_robust import (  # noqa: E402
    Amplitude,
    Chain,
    Drift,
    Missingness,
    Noise,
    TimeScale,
    TimeShift,
    TimeWarp,
    UnitShift,
)

SERIES = [Amplitude(0.5, 2), Drift(1), TimeShift(0.3), TimeScale(0.5, 2), TimeWarp(0.8)]


def series(channels=2, length=41, n=3):
    x = torch.randn(n, channels, length, generator=torch.Generator().manual_seed(0))
    return x.double()


def rows(*values, n=3):
    return torch.tensor([values], dtype=torch.float64).expand(n, -1)


@pytest.mark.parametrize("attribute", SERIES, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_clean_value_returns_the_series_bit_for_bit(attribute, dtype):
    x = series().to(dtype)
    assert torch.equal(attribute.apply(x, rows(*attribute.clean).to(dtype)), x)


@pytest.mark.parametrize("attribute", SERIES, ids=lambda a: type(a).__name__)
def test_derivatives_are_those_of_finite_differences(attribute):
    x = series(2, 9, 2).requires_grad_()
    value = attribute.clean[0] + 0.37 * (attribute.high[0] - attribute.clean[0])
    assert torch.autograd.gradcheck(attribute.apply, (x, rows(value, n=2).clone().requires_grad_()))


def test_a_smooth_series_follows_its_formula():
    t = torch.linspace(0, 1, 2001, dtype=torch.float64)

    def f(t):
        return torch.sin(5 * t) + t**2

    x = f(t).view(1, 1, -1)
    inner = slice(600, 1400)  # away from the ends, which stay at their values
    cases = [
        (TimeShift(0.3), 0.1, f(t - 0.1 * 2001 / 2000)),
        (TimeScale(0.5, 2), 1.5, f(0.5 + (t - 0.5) / 1.5)),
        (TimeWarp(0.8), 0.5, f(t + 0.5 * torch.sin(2 * torch.pi * t) / (2 * torch.pi))),
        (Drift(1), 0.7, f(t) + 0.7 * (2 * t - 1)),
        (Amplitude(0.5, 2), 1.7, 1.7 * f(t)),
    ]
    for attribute, value, expected in cases:
        out = attribute.apply(x, rows(value, n=1))[0, 0]
        torch.testing.assert_close(out[inner], expected[inner], rtol=0, atol=1e-5)


def test_a_shift_by_whole_steps_moves_and_repeats_the_first_value():
    x = series(length=40)
    out = TimeShift(0.3).apply(x, rows(4 / 40))
    torch.testing.assert_close(out[..., 4:], x[..., :-4], rtol=0, atol=1e-12)
    torch.testing.assert_close(out[..., :4], x[..., :1].expand(-1, -1, 4))


def test_a_warp_keeps_the_ends_and_the_order_of_time():
    ramp = torch.arange(50, dtype=torch.float64).view(1, 1, -1)
    for a in (-0.99, 0.99):
        out = TimeWarp(0.99).apply(ramp, rows(a, n=1))[0, 0]
        assert (out.diff() > -1e-9).all()
        assert out[0] == 0
        assert out[-1] == pytest.approx(49)


def test_a_series_of_one_point_stays():
    x = torch.ones(3, 2, 1, dtype=torch.float64)
    for attribute in (TimeShift(0.3), TimeScale(0.5, 2), TimeWarp(0.5)):
        assert torch.equal(attribute.apply(x, rows(attribute.high[0])), x)


def test_a_unit_shift_changes_one_column():
    x = torch.randn(3, 4, dtype=torch.float64)
    attribute = UnitShift(2, scale=(0.5, 2.2), offset=(-1, 1))
    out = attribute.apply(x, rows(2.2, 0.5))
    torch.testing.assert_close(out[:, 2], 2.2 * x[:, 2] + 0.5)
    assert torch.equal(out[:, [0, 1, 3]], x[:, [0, 1, 3]])
    assert attribute.names == ("scale_2", "offset_2")
    assert torch.equal(attribute.apply(x, rows(*attribute.clean)), x)
    assert torch.autograd.gradcheck(
        attribute.apply, (x.requires_grad_(), rows(2.0, 0.5).clone().requires_grad_())
    )


def test_missing_values_have_their_rate_grow_with_it_and_stay_in_their_columns():
    x = torch.randn(4000, 3)
    attribute = Missingness(0.8, fill=-9.0, columns=(0, 2))
    noise = attribute.draw_noise(x, torch.Generator().manual_seed(0))
    gone = [
        attribute.apply(x, torch.full((4000, 1), rate), noise) == -9 for rate in (0.0, 0.2, 0.6)
    ]
    assert not gone[0].any()
    assert not gone[2][:, 1].any()
    assert (
        gone[2] | ~gone[1]
    ).all()  # with the same noise, what is missing at 0.2 is missing at 0.6
    for rate, mask in zip((0.2, 0.6), gone[1:], strict=True):
        assert abs(mask[:, [0, 2]].float().mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / 8000)


def test_a_table_has_a_chain_of_its_own():
    x = torch.randn(5, 3)
    chain = Chain([UnitShift(1, scale=(0.5, 2)), Noise(0.3), Missingness(0.2)])
    chain.check(x)
    noise = chain.draw_noise(x, torch.Generator().manual_seed(0))
    clean = torch.tensor(chain.clean, dtype=torch.float32).expand(5, -1)
    assert torch.equal(chain.apply(x, clean, noise), x)
    assert not chain.differentiable[-1]


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="takes series of shape"):
        Drift(1).check((5, 1, 28, 28))
    with pytest.raises(ValueError, match="takes tables of shape"):
        UnitShift(0).check((5, 1, 28))
    with pytest.raises(ValueError, match="changes column 4"):
        UnitShift(4).check((5, 3))
    with pytest.raises(ValueError, match="changes column 3"):
        Missingness(0.1, columns=(3,)).check((5, 3))
    with pytest.raises(ValueError, match="index|column must be an integer"):
        UnitShift(-1)
    with pytest.raises(ValueError, match="low must be at most high"):
        UnitShift(0, scale=(2, 0.5))
    with pytest.raises(ValueError, match=r"takes values in \[0, 1\]"):
        Missingness(0, 1.5)


def test_the_text_of_an_attribute_makes_it_again():
    for attribute in (*SERIES, UnitShift(1, (0.5, 2), (-1, 1)), Missingness(0.2, 0.4, 1.0, (0, 2))):
        assert repr(eval(repr(attribute))) == repr(attribute)
