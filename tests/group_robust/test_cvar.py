"""CVaR-DRO against its two definitions and against general optimisers."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from statml.datasets import make_spurious_gaussians
from statml.group_robust import CVaRClassifier, worst_group_score
from statml.group_robust.cvar import cvar, minimize_cvar
from statml.group_robust.losses import LogLoss


@parametrize_with_checks([CVaRClassifier()])
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def problem(seed, n=40, p=2):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    return X, (X[:, 0] + 0.6 * rng.normal(size=n) > 0).astype(float)


def objective(theta, X, y, alpha, l2):
    w, b = theta[:-1], theta[-1]
    z = X @ w + b
    return cvar(np.logaddexp(0, z) - y * z, alpha) + l2 / 2 * w @ w


@given(
    losses=st.lists(st.floats(-5, 5), min_size=1, max_size=15),
    alpha=st.floats(0.01, 1.0),
)
def test_both_definitions_of_cvar_agree(losses, alpha):
    losses, n = np.array(losses), len(losses)
    value = cvar(losses, alpha)
    # min over eta of eta + mean excess / alpha: piecewise linear, so that a loss is optimal
    excess = np.maximum(losses - losses[:, None], 0).sum(axis=1) / (alpha * n)
    np.testing.assert_allclose((losses + excess).min(), value, atol=1e-9)
    # max over weights of at most 1 / (alpha n)
    cap = max(1 / (alpha * n), 1 / n)
    dual = linprog(-losses, A_eq=[np.ones(n)], b_eq=[1], bounds=[(0, cap)] * n)
    np.testing.assert_allclose(-dual.fun, value, atol=1e-8)
    assert losses.mean() - 1e-9 <= value <= losses.max() + 1e-9


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.8])
def test_the_fit_is_the_optimum_of_the_epigraph_form(alpha):
    """min eta + sum s / (alpha n) + ridge, s >= loss - eta, s >= 0, by sequential quadratic programming."""
    X, y = problem(0)
    n, l2 = len(y), 0.1
    model = CVaRClassifier(alpha, l2, tol=1e-9).fit(X, y)

    def loss(v):
        z = X @ v[:2] + v[2]
        return np.logaddexp(0, z) - y * z

    start = np.r_[0, 0, 0, 1, np.ones(n)]
    found = minimize(
        lambda v: v[3] + v[4:].sum() / (alpha * n) + l2 / 2 * v[:2] @ v[:2],
        start,
        method="SLSQP",
        bounds=[(None, None)] * 4 + [(0, None)] * n,
        constraints={"type": "ineq", "fun": lambda v: v[4:] - loss(v) + v[3]},
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert found.success
    theta = np.r_[model.coef_[0], model.intercept_]
    assert objective(theta, X, y, alpha, l2) <= found.fun + 1e-8
    np.testing.assert_allclose(theta, found.x[:3], atol=1e-3)


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), alpha=st.floats(0.02, 1.0), l2=st.sampled_from([1e-3, 0.1, 2.0]))
def test_the_gap_bounds_the_distance_from_the_optimum_wherever_it_stops(seed, alpha, l2):
    X, y = problem(seed, n=30)
    if len(np.unique(y)) < 2:
        return
    best = minimize_cvar(X, y, LogLoss(), alpha, l2, 1e-8, 1000)
    best_value = best[2] + l2 / 2 * (best[0][:, :-1] ** 2).sum()
    for steps in (1, 3, 10, 30):
        w, q, value, gap, _ = minimize_cvar(X, y, LogLoss(), alpha, l2, 1e-8, steps)
        reached = value + l2 / 2 * (w[:, :-1] ** 2).sum()
        assert gap >= -1e-12
        assert reached - gap <= best_value + 1e-9
        np.testing.assert_allclose(q.sum(), 1)
        assert (q <= 1 / (alpha * 30) * (1 + 1e-9) + 1e-15).all() or alpha * 30 < 1
    assert best[3] <= 1e-8


def test_alpha_one_is_logistic_regression():
    X, y = problem(1, n=200)
    model = CVaRClassifier(alpha=1.0, l2=0.01, tol=1e-10).fit(X, y)
    peer = LogisticRegression(C=1 / (0.01 * 200), tol=1e-10).fit(X, y)
    np.testing.assert_allclose(model.coef_, peer.coef_, atol=1e-5)
    np.testing.assert_allclose(model.intercept_, peer.intercept_, atol=1e-5)


def test_alpha_below_one_record_is_the_largest_loss():
    X, y = problem(2)
    model = CVaRClassifier(alpha=0.001, l2=0.1).fit(X, y)
    losses = -np.log(model.predict_proba(X)[np.arange(len(y)), y.astype(int)])
    assert model.cvar_ == pytest.approx(losses.max())


def test_several_classes():
    X, y = load_iris(return_X_y=True)
    model = CVaRClassifier(alpha=0.3, l2=0.01).fit(X, y)
    assert model.coef_.shape == (3, 4)
    assert model.duality_gap_ <= 1e-6
    losses = -np.log(model.predict_proba(X)[np.arange(150), y])
    assert model.cvar_ == pytest.approx(cvar(losses, 0.3))
    plain = CVaRClassifier(alpha=1.0, l2=0.01).fit(X, y)
    of_plain = cvar(-np.log(plain.predict_proba(X)[np.arange(150), y]), 0.3)
    assert model.cvar_ + 0.005 * (model.coef_**2).sum() < of_plain + 0.005 * (plain.coef_**2).sum()


def test_the_optimal_value_falls_as_alpha_grows():
    X, y = problem(3, n=100)
    values = []
    for alpha in (0.05, 0.1, 0.2, 0.5, 1.0):
        model = CVaRClassifier(alpha, l2=0.01).fit(X, y)
        values.append(model.cvar_ + 0.005 * (model.coef_**2).sum())
    assert (np.diff(values) < 1e-6).all()  # the gap
    assert values[-1] < values[0] - 0.1


def test_with_spurious_features_it_is_as_bad_as_the_mean_loss():
    """Ten seeds: for the 0-1 loss both have the same minimiser, and nearly so for the log loss."""
    difference = []
    for seed in range(10):
        train = make_spurious_gaussians(random_state=seed)
        test = make_spurious_gaussians(n=5000, agreement=0.5, random_state=100 + seed)
        scores = [
            worst_group_score(test.y, model.fit(train.X, train.y).predict(test.X), test.groups)
            for model in (CVaRClassifier(alpha=0.2), CVaRClassifier(alpha=1.0))
        ]
        difference.append(scores[0] - scores[1])
    # robust classifiers are better by 0.25 here; a worst group of 1250 test records has an error of 0.014
    error = np.std(difference, ddof=1) / np.sqrt(10) + 0.014 / np.sqrt(10)
    assert abs(np.mean(difference)) < 0.02 + 3 * error


def test_data_frames_and_any_labels_are_taken():
    X, y = problem(4)
    names = np.where(y == 1, "yes", "no")
    model = CVaRClassifier().fit(pd.DataFrame(X, columns=["a", "b"]), pd.Series(names))
    np.testing.assert_allclose(model.coef_, CVaRClassifier().fit(X, y).coef_, atol=1e-12)
    assert set(model.predict(pd.DataFrame(X, columns=["a", "b"]))) <= {"yes", "no"}
    assert model.feature_names_in_.tolist() == ["a", "b"]


def test_too_few_steps_are_reported():
    X, y = problem(5)
    with pytest.warns(ConvergenceWarning, match=r"the duality gap is .* after 2 steps"):
        CVaRClassifier(max_iter=2).fit(X, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, r"alpha must be a finite number in \(0, 1\], got 0"),
        ({"alpha": 1.5}, r"alpha must be .* got 1.5"),
        ({"l2": 0}, "l2 must be a finite number > 0, got 0"),
        ({"tol": -1.0}, "tol must be a finite number > 0, got -1.0"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1, got 0"),
    ],
)
def test_bad_parameters_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        CVaRClassifier(**options).fit(*problem(0))


def test_bad_data_are_refused():
    X, y = problem(0)
    with pytest.raises(ValueError, match="at least two classes, got one class"):
        CVaRClassifier().fit(X, np.zeros(len(y)))
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        CVaRClassifier().fit(X, y)
