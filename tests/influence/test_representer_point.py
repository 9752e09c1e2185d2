"""Representer points: the identity they rest on, refits of the last layer, and signs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from statml.influence import RepresenterPoint


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 20.0))
def test_outputs_are_sums_of_contributions(seed, C):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(60, 4)), rng.permutation(np.arange(60) % 2)
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12).fit(X, y)
    method = RepresenterPoint().fit(model, X, y)
    assert not method.refitted_
    parts = method.contributions(X[:7])[:, :, 0]
    np.testing.assert_allclose(
        parts.sum(axis=1) + model.intercept_, model.decision_function(X[:7]), atol=1e-8
    )
    np.testing.assert_allclose(method.coefficients_.sum(), 0, atol=1e-7)
    np.testing.assert_allclose(method.l2_, 1 / (C * 60))


def test_several_classes_give_the_contribution_to_the_records_own():
    X, y = load_digits(return_X_y=True)
    X, y = X[:300] / 16, y[:300]
    model = LogisticRegression(C=0.5, tol=1e-12, max_iter=20_000).fit(X, y)
    method = RepresenterPoint().fit(model, X, y)
    parts = method.contributions(X[:5])
    np.testing.assert_allclose(
        parts.sum(axis=1) + model.intercept_, model.decision_function(X[:5]), atol=1e-3
    )
    I = method.influence(X[:5], y[:5])
    np.testing.assert_allclose(I, parts[np.arange(5), :, y[:5]], rtol=1e-10)
    # a record of the class speaks for it wherever the two are alike (inputs here are not negative)
    same = y[:5, None] == y
    assert np.all(I[same] >= 0)
    assert np.all(I[~same] <= 0)


def test_regression_is_signed_towards_the_response():
    X, y = load_diabetes(return_X_y=True)
    model = Ridge(alpha=1.0).fit(X, y)
    method = RepresenterPoint().fit(model, X, y)
    parts = method.contributions(X)[:, :, 0]
    np.testing.assert_allclose(parts.sum(axis=1) + model.intercept_, model.predict(X), rtol=1e-9)
    sign = np.sign(y - model.predict(X))
    np.testing.assert_allclose(method.influence(X, y), parts * sign[:, None], rtol=1e-9)
    assert np.all(method.self_influence() >= 0)


def test_both_codings_of_two_classes_are_helped_by_their_own():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    model = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X, y)
    values = RepresenterPoint().fit(model, X, y).self_influence()
    assert np.all(values >= 0)
    flipped = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X, 1 - y)
    np.testing.assert_allclose(
        RepresenterPoint().fit(flipped, X, 1 - y).self_influence(), values, rtol=1e-4, atol=1e-12
    )


def test_a_model_without_penalty_is_refitted_with_one():
    X, y = load_diabetes(return_X_y=True)
    model = LinearRegression().fit(X, y)
    method = RepresenterPoint(l2=0.01).fit(model, X, y)
    ridge = Ridge(alpha=0.01 * len(X)).fit(X, y)
    assert method.refitted_
    assert method.n_fits_ == 1
    np.testing.assert_allclose(
        method.contributions(X)[:, :, 0].sum(axis=1) + ridge.intercept_, ridge.predict(X), rtol=1e-9
    )
    with pytest.raises(ValueError, match="not at the optimum"):
        RepresenterPoint(refit_last=None).fit(model, X, y)


def test_another_penalty_than_the_fits_is_a_refit_too():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10).fit(X, y)
    method = RepresenterPoint(l2=0.1).fit(model, X, y)
    other = LogisticRegression(C=1 / (0.1 * len(X)), solver="newton-cholesky", tol=1e-10).fit(X, y)
    assert method.refitted_
    np.testing.assert_allclose(
        method.contributions(X)[:, :, 0].sum(axis=1) + other.intercept_,
        other.decision_function(X),
        atol=1e-3,
    )


def test_bad_arguments_are_refused_by_name():
    X, y = load_diabetes(return_X_y=True)
    model = Ridge().fit(X, y)
    with pytest.raises(ValueError, match="l2 must be"):
        RepresenterPoint(l2=0.0).fit(model, X, y)
    with pytest.raises(ValueError, match="refit_last must be"):
        RepresenterPoint(refit_last="adam").fit(model, X, y)
    with pytest.raises(ValueError, match="y_test"):
        RepresenterPoint().fit(model, X, y).influence(X[:3], target="margin")
