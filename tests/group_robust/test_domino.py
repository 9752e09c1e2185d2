"""Where soft slices start."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from statml.group_robust.domino import GAMMA, confusion_start, domino_start, em_step


def records(seed, n=200, p=3, K=2):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, p)), rng.integers(0, K, n)
    return X, y, rng.dirichlet(np.ones(K), n), rng


@given(seed=st.integers(0, 10**6), m=st.integers(1, 9), K=st.integers(2, 3))
def test_confusion_cells_are_not_mixed_and_no_slice_starts_empty(seed, m, K):
    X, y, proba, rng = records(seed, n=120, K=K)
    start = confusion_start(X, y, proba, m, rng)
    np.testing.assert_allclose(start.sum(axis=1), 1)
    own = start.argmax(axis=1)
    cell = y * K + proba.argmax(axis=1)
    if m >= len(np.unique(cell)):
        assert len(np.unique(own)) == m
        assert all(len(np.unique(cell[own == g])) == 1 for g in range(m))
    else:  # cells share slices
        assert all(len(np.unique(own[cell == c])) == 1 for c in np.unique(cell))


def test_the_likelihood_of_the_mixture_never_falls():
    for seed in range(5):
        X, y, proba, rng = records(seed)
        R, labels = confusion_start(X, y, proba, 4, rng), np.eye(2)[y]
        values = []
        for _ in range(30):
            R, value = em_step(R, X, labels, proba)
            values.append(value)
        # the pseudo-counts of empty categories may cost their own size
        assert np.diff(values).min() > -1e-4
        assert values[-1] > values[0] + 0.01


def test_memberships_are_those_of_the_formula():
    X, y, proba, rng = records(0, n=50)
    R0, labels = rng.dirichlet(np.ones(3), 50), np.eye(2)[y]
    R, value = em_step(R0, X, labels, proba)
    log_joint = np.empty((50, 3))
    for s in range(3):
        w = R0[:, s] / R0[:, s].sum()
        mean = w @ X
        variance = w @ (X - mean) ** 2
        log_joint[:, s] = (
            np.log(R0[:, s].mean())
            + multivariate_normal(mean, np.diag(variance)).logpdf(X)
            + GAMMA * np.log((w @ labels)[y])
            + GAMMA * proba @ np.log(w @ proba)
        )
    np.testing.assert_allclose(value, logsumexp(log_joint, axis=1).mean(), rtol=1e-3)
    np.testing.assert_allclose(
        R, np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True)), atol=1e-3
    )


def test_the_mixture_separates_errors_of_different_kind_and_place():
    rng = np.random.default_rng(0)
    n = 300
    centre = rng.integers(0, 2, n)
    X = np.column_stack([6.0 * centre, np.zeros(n)]) + rng.normal(size=(n, 2))
    y = rng.integers(0, 2, n)
    wrong = (centre == 1) & (y == 1)
    p = np.where(y ^ wrong, 0.9, 0.1)
    R = domino_start(X, y, np.column_stack([1 - p, p]), 4, rng)
    own = R.argmax(axis=1)
    slice_of_errors = np.bincount(own[wrong]).argmax()
    assert (own[wrong] == slice_of_errors).mean() > 0.95
    assert wrong[own == slice_of_errors].mean() > 0.95


def test_many_and_constant_features_are_taken():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=(200, 150)), np.ones(200)])
    y = rng.integers(0, 2, 200)
    R = domino_start(X, y, np.full((200, 2), 0.5), 3, rng)
    np.testing.assert_allclose(R.sum(axis=1), 1)
    R = domino_start(np.ones((20, 2)), y[:20], np.full((20, 2), 0.5), 3, rng)
    assert np.isfinite(R).all()
