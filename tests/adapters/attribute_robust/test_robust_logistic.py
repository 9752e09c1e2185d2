"""Exact robust logistic regression: against closed forms, scikit-learn, a general solver and its own certificate."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks
from statml.adapters.attribute_robust import (
    AdditiveShift,
    Box,
    Chain,
    RobustLogisticRegression,
    Rotation,
    search,
)
from statml.adapters.attribute_robust import robust_logistic as module


def data(seed=0, n=80, p=4):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    y = (X @ rng.normal(size=p) + rng.normal(size=n) > 0).astype(int)
    return X, y


@parametrize_with_checks([RobustLogisticRegression()])
def test_scikit_learn_takes_it_as_its_own(estimator, check):
    check(estimator)


def test_without_shifts_it_is_ridge_logistic_regression():
    X, y = data()
    ours = RobustLogisticRegression(l2=0.05).fit(X, y)
    theirs = LogisticRegression(C=1 / (0.05 * len(y)), tol=1e-10, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


@given(
    seed=st.integers(0, 50),
    n_shifts=st.integers(0, 4),
    size=st.floats(0.01, 3),
    l2=st.floats(0.001, 1),
)
@settings(max_examples=25, deadline=None)
def test_the_gap_closes_and_no_neighbour_is_better(seed, n_shifts, size, l2):
    X, y = data(seed, n=40)
    rng = np.random.default_rng(seed)
    shifts = [AdditiveShift(rng.normal(size=4), -size, 2 * size) for _ in range(n_shifts)]
    model = RobustLogisticRegression(shifts, l2=l2).fit(X, y)
    assert -1e-12 <= model.duality_gap_ <= 1e-9

    def objective(coef, intercept):
        other = RobustLogisticRegression(shifts, l2=l2)
        other.classes_, other.n_features_in_ = model.classes_, 4
        other.coef_, other.intercept_ = coef, intercept
        return other.worst_case_loss(X, y).mean() + l2 / 2 * (coef**2).sum()

    assert objective(model.coef_, model.intercept_) == pytest.approx(model.objective_, abs=1e-12)
    for scale in (1e-3, 0.1, 1):
        moved = objective(
            model.coef_ + scale * rng.normal(size=(1, 4)),
            model.intercept_ + scale * rng.normal(size=1),
        )
        assert moved >= model.dual_objective_


def test_a_general_solver_finds_the_same():
    X, y = data(3, n=60, p=3)
    d, eps, l2 = np.array([1.0, -0.5, 0.2]), 0.4, 0.02
    model = RobustLogisticRegression([AdditiveShift(d, eps)], l2=l2).fit(X, y)
    sign = 2 * y - 1

    def objective(
        theta,
    ):  # with t >= |d w| as a fourth coordinate, by sequential quadratic programs
        w, c, t = theta[:3], theta[3], theta[4]
        return np.logaddexp(0, -sign * (X @ w + c) + eps * t).mean() + l2 / 2 * w @ w

    found = minimize(
        objective, [0, 0, 0, 0, 1.0], method="SLSQP", options={"ftol": 1e-14, "maxiter": 1000},
        constraints=[{"type": "ineq", "fun": lambda v, s=s: v[4] + s * d @ v[:3]} for s in (-1, 1)],
    )  # fmt: skip
    assert model.objective_ == pytest.approx(found.fun, abs=1e-8)
    np.testing.assert_allclose(model.coef_[0], found.x[:3], atol=2e-3)


def test_a_wide_shift_makes_the_model_ignore_its_direction():
    X, y = data(1)
    d = np.array([1.0, 1.0, 0.0, 0.0])
    model = RobustLogisticRegression([AdditiveShift(d, 100.0)]).fit(X, y)
    plain = RobustLogisticRegression().fit(X, y)
    assert abs(model.coef_[0] @ d) < 1e-6 * abs(plain.coef_[0] @ d)


def test_its_worst_case_is_what_the_inner_search_finds():
    X, y = data(2)
    shifts = [AdditiveShift([1.0, 0.5, 0, 0], 0.3), AdditiveShift([0, 0, 1, -1], -0.1, 0.4)]
    model = RobustLogisticRegression(shifts).fit(X, y)
    chain = Chain(shifts)
    x, w = torch.from_numpy(X), torch.from_numpy(model.coef_[0])
    sign = torch.from_numpy(2.0 * y - 1)

    def loss(x, u):
        return torch.nn.functional.softplus(-sign * (x @ w + model.intercept_[0]))

    found = search(loss, chain, x, Box.of(chain, x), n_steps=20)
    np.testing.assert_allclose(found.objective.numpy(), model.worst_case_loss(X, y), atol=1e-10)
    assert model.worst_case_loss(X, y).mean() >= model.worst_case_loss(X, y, []).mean()


def test_weights_are_copies():
    X, y = data(4)
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    shifts = [AdditiveShift(np.ones(4), 0.2)]
    weighted = RobustLogisticRegression(shifts).fit(X, y, sample_weight=weight)
    copied = RobustLogisticRegression(shifts).fit(np.repeat(X, weight, 0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.coef_, copied.coef_, atol=1e-4)
    assert weighted.objective_ == pytest.approx(copied.objective_, abs=1e-8)


def test_it_needs_no_torch():
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name.split(".")[0] == "torch" for name in names)
    assert not any(
        node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    )  # nor one of its neighbours, which do


@pytest.mark.parametrize(
    ("options", "y", "error", "message"),
    [
        ({"l2": 0.0}, None, ValueError, "l2 must be"),
        ({"attributes": [AdditiveShift([1.0], 1)]}, None, ValueError, "1 columns, X has 4"),
        ({"attributes": [Rotation(10)]}, None, TypeError, "additive shifts"),
        ({}, np.arange(80) % 3, ValueError, "Only binary"),
        ({}, np.zeros(80), ValueError, "one class only"),
    ],
)
def test_bad_input_is_refused_by_name(options, y, error, message):
    X, labels = data()
    with pytest.raises(error, match=message):
        RobustLogisticRegression(**options).fit(X, labels if y is None else y)
    with pytest.raises(ValueError, match="direction must be finite"):
        AdditiveShift([np.inf, 1.0], 1)


def test_too_few_steps_are_warned_of():
    X, y = data()
    from sklearn.exceptions import ConvergenceWarning

    with pytest.warns(ConvergenceWarning, match="duality gap"):
        RobustLogisticRegression([AdditiveShift(np.ones(4), 1.0)], max_iter=3).fit(X, y)
