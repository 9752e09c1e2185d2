"""Simulated signed networks have the stated probabilities."""

import numpy as np
import pytest
from scipy.special import expit

from statml.datasets import make_signed_network


@pytest.mark.parametrize(("rho", "heterogeneity"), [(0.3, 0.0), (1.0, 0.0), (0.4, 0.7)])
def test_edges_have_the_probabilities_of_the_model(rho, heterogeneity):
    n, reps = 12, 1500
    alpha, beta = np.linspace(-1, 1, n), np.linspace(1.5, -1.5, n)
    rng = np.random.default_rng(0)
    first = make_signed_network(n, rho, alpha, beta, heterogeneity, random_state=1)
    plus, minus = np.zeros((2, n, n))
    expected_plus, expected_minus = np.zeros((2, n, n))
    s = expit(alpha[:, None] + beta[None, :])
    for _ in range(reps):
        data = make_signed_network(n, rho, alpha, beta, heterogeneity, random_state=rng)
        a = data.adjacency.toarray()
        plus += a == 1
        minus += a == -1
        r = np.minimum(rho * data.row_activity[:, None] * data.col_activity[None, :], 1)
        expected_plus += r * s * (1 - r * (1 - s))
        expected_minus += r * (1 - s) * (1 - r * s)
    off = ~np.eye(n, dtype=bool)
    for count, expected in ((plus, expected_plus), (minus, expected_minus)):
        z = (count - expected)[off] / np.sqrt(
            np.maximum(expected[off] * (1 - expected[off] / reps), 1)
        )
        assert np.mean(z**2) == pytest.approx(1, abs=5 * np.sqrt(2 / off.sum()))
    assert (np.diag(plus) == 0).all()
    assert first.beta.sum() == pytest.approx(0, abs=1e-12)


def test_large_sparse_networks_are_cheap_and_have_the_expected_number_of_edges():
    data = make_signed_network(200_000, rho=5e-5, alpha=0.5, beta=0.5, random_state=0)
    expected = 200_000 * 199_999 * 5e-5  # rho - O(rho^2)
    assert data.adjacency.nnz == pytest.approx(expected, abs=5 * np.sqrt(expected))


def test_a_seed_fixes_everything():
    one, other = (make_signed_network(30, random_state=4) for _ in range(2))
    assert (one.adjacency != other.adjacency).nnz == 0
    assert (one.beta == other.beta).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 2}, "n must be"),
        ({"rho": 0}, "rho must be"),
        ({"rho": 1.2}, "rho must be"),
        ({"alpha": -1}, "alpha must be"),
        ({"beta": [1, 2]}, r"beta must be a number or 100 finite values.*\(2,\)"),
        ({"heterogeneity": -1}, "heterogeneity must be"),
    ],
)
def test_unusable_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_signed_network(**arguments)
