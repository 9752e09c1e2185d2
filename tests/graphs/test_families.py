"""The families' probabilities, slopes and the quantities that follow from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statml.graphs.families import Conditional, SparseLogit, Trinomial, Unsigned

CASES = [
    (SparseLogit(), 1.0),
    (SparseLogit(), 0.9),
    (SparseLogit(), 0.05),
    (Trinomial(), 0.4),
    (Trinomial(), 2.0),
    (Conditional(), None),
    (Unsigned(), None),
]
ids = [f"{family.name}-{rho}" for family, rho in CASES]


@pytest.mark.parametrize(("family", "rho"), CASES, ids=ids)
@given(x=st.floats(-30, 30))
def test_probabilities_are_nonnegative_and_sum_to_one(family, rho, x):
    p = np.array(family.probabilities(np.array([x]), rho))
    assert (p >= 0).all()
    assert p.sum() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize(("family", "rho"), CASES, ids=ids)
@given(x=st.floats(-8, 8))
def test_slopes_are_the_derivatives_of_the_probabilities(family, rho, x):
    h = 1e-5
    up, down = (np.array(family.probabilities(np.array([x + s * h]), rho)) for s in (1, -1))
    assert np.array(family.slopes(np.array([x]), rho)) == pytest.approx(
        (up - down) / (2 * h), abs=1e-8
    )


@pytest.mark.parametrize(("family", "rho"), CASES, ids=ids)
def test_infinite_index_gives_the_limits_without_a_warning(family, rho):
    ends = np.array(family.probabilities(np.array([-np.inf, np.inf]), rho))
    near = np.array(family.probabilities(np.array([-60.0, 60.0]), rho))
    assert ends == pytest.approx(near, abs=1e-12)


def test_sparse_logit_information_at_zero_has_the_reference_values():
    values = [float(SparseLogit().information(np.zeros(1), rho)[0]) for rho in (0.5, 0.2, 0.05)]
    assert values == pytest.approx([0.16667, 0.05556, 0.01282], abs=5e-6)


@pytest.mark.parametrize(
    ("rho", "efficiency"),
    [(0.5, [0.9509, 0.7711, 0.4853]), (0.2, [0.8556, 0.5347, 0.2576]), (1.0, [1, 1, 1])],
)
def test_net_degree_equations_lose_the_stated_share_of_information(rho, efficiency):
    family, x = SparseLogit(), np.array([1.0, 2.0, 3.0])
    ratio = family.mean_slope(x, rho) ** 2 / family.variance(x, rho) / family.information(x, rho)
    assert ratio == pytest.approx(efficiency, abs=6e-5)


def test_sparse_logit_likelihood_is_not_concave():
    family, h = SparseLogit(), 1e-4

    def curvature(x, sign):
        values = [family.log_probability(np.array([x + s * h]), 0.9, sign)[0] for s in (-1, 0, 1)]
        return (values[0] - 2 * values[1] + values[2]) / h**2

    assert curvature(0.0, 0) == pytest.approx(-0.40099, abs=1e-4)
    assert curvature(3.0, 0) == pytest.approx(0.16173, abs=1e-4)
    assert curvature(-3.0, 1) == pytest.approx(0.13155, abs=1e-4)


def test_trinomial_is_the_difference_of_two_logistic_layers():
    mu1, mu2, x = -1.0, -1.5, 0.37
    g = (mu1 + mu2) / 2
    rho = np.exp(g) / (1 + np.exp(2 * g))
    minus, zero, plus = Trinomial().probabilities(np.array([x + (mu1 - mu2) / 2]), rho)
    assert [plus[0], minus[0], zero[0]] == pytest.approx(
        [0.301103382, 0.0871345667, 0.6117620513], abs=1e-9
    )


def test_sparse_logit_with_rho_one_is_a_binomial_of_two_coins():
    x = np.linspace(-5, 5, 11)
    s = 1 / (1 + np.exp(-x))
    minus, zero, plus = SparseLogit().probabilities(x, 1.0)
    assert plus == pytest.approx(s**2)
    assert zero == pytest.approx(2 * s * (1 - s))
    assert minus == pytest.approx((1 - s) ** 2)
    assert SparseLogit().information(x, 1.0) == pytest.approx(2 * s * (1 - s))


def test_conditional_is_the_limit_of_sparse_logit_for_small_rho():
    x = np.linspace(-4, 4, 9)
    assert SparseLogit().information(x, 1e-7) / 1e-7 == pytest.approx(
        Conditional().information(x, None), rel=1e-5
    )
    minus, _, plus = SparseLogit().probabilities(x, 1e-7)
    assert plus / (plus + minus) == pytest.approx(Conditional().probabilities(x)[2], rel=1e-5)
