"""Separation is found where it is, and nowhere else."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from statml.group_robust import GroupDROClassifier
from statml.group_robust.separation import is_separated


def separated_by_brute_force(X, y):
    """max_d min over rows and sum of margins, by the primal linear programme."""
    M = X * np.where(y == 1, 1.0, -1.0)[:, None]
    n, p = M.shape
    result = scipy.optimize.linprog(
        np.r_[np.zeros(p), -np.ones(n)],
        A_ub=np.column_stack([-M, np.eye(n)]),
        b_ub=np.zeros(n),
        bounds=[(None, None)] * p + [(0, 1)] * n,
    )
    return -result.fun > 1e-6


@given(st.integers(0, 2**32 - 1))
def test_verdict_is_that_of_the_primal_linear_programme(seed):
    rng = np.random.default_rng(seed)
    n, p = rng.integers(4, 20), rng.integers(1, 4)
    X = np.column_stack([rng.integers(-1, 2, (n, p)).astype(float), np.ones(n)])
    y = rng.integers(0, 2, n)
    y[:2] = 0, 1
    assert is_separated(X, y, np.zeros((n, 1))) == separated_by_brute_force(X, y)


@pytest.mark.parametrize("tol", [1e-8, 1e-3])
@pytest.mark.parametrize("n", [100, 2000])
def test_a_single_row_that_is_separated_is_seen_at_any_tolerance(n, tol):
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=(n, 3)), np.zeros(n)])
    X[0, 3] = 1.0  # a category that occurs once
    y = (X[:, 0] + rng.logistic(size=n) > 0).astype(int)
    groups = np.arange(n) % 2
    fit = GroupDROClassifier(l2=0, tol=tol)
    # where the row's group has no weight, the other group's loss has a minimiser
    free = fit.fit(X[:, :3], y, groups)
    active = groups[0] in free.active_groups_
    if active:
        with pytest.raises(ValueError, match="separated"):
            fit.fit(X, y, groups)
    y3 = rng.integers(0, 3, n)
    with pytest.raises(ValueError, match="separated"):
        GroupDROClassifier(l2=0, tol=tol, alpha=1.0).fit(X, y3, groups)


def test_every_row_counts_in_the_mean_loss():
    rng = np.random.default_rng(1)
    X = np.column_stack([rng.normal(size=(500, 2)), np.zeros(500)])
    X[3, 2] = 1.0
    y = rng.integers(0, 2, 500)
    with pytest.raises(ValueError, match="separated"):
        GroupDROClassifier(l2=0, alpha=1.0).fit(X, y, np.arange(500) % 2)


def test_large_log_odds_alone_are_not_separation():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(3000, 2)) * 4
    y = (X[:, 0] * 3 + rng.logistic(size=3000) > 0).astype(int)
    fit = GroupDROClassifier(l2=0).fit(X, y, rng.integers(0, 2, 3000))
    assert np.abs(fit.decision_function(X)).max() > 25


def test_three_classes_that_touch_are_not_separated():
    X = np.column_stack([[0.0, 0, 0, 1, 1, 1], np.ones(6)])
    y = np.array([0, 1, 2, 0, 1, 2])
    assert not is_separated(X, y, np.zeros((6, 3)))
    assert is_separated(X[:4], np.array([0, 1, 1, 2]), np.zeros((4, 3)))
