"""TRAK: its identities with influence functions and with deletion in least squares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.preprocessing import StandardScaler

from statml.influence import TRAK, GLMOracle, InfluenceFunction
from statml.influence.glm_families import Binomial


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12).fit(X[:400], y[:400])
    return model, X[:400], y[:400], X[400:], y[400:]


@pytest.mark.parametrize("target", ["loss", "margin", "prediction"])
def test_weighted_trak_is_the_influence_function_of_a_logistic_model(cancer, target):
    model, X, y, X_test, y_test = cancer
    I = InfluenceFunction().fit(model, X, y).influence(X_test, y_test, target=target)
    tau = TRAK().fit(model, X, y).influence(X_test, y_test, target=target)
    np.testing.assert_allclose(tau, I, atol=1e-10 * np.abs(I).max())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_the_identity_holds_with_weights_at_any_parameters(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(30, 3)), (rng.random(30) < 0.5).astype(float)
    oracle = GLMOracle(Binomial(), rng.normal(size=3), X, y, rng.uniform(0, 2, 30), np.full(3, 0.1))
    oracle.objective_grad = lambda theta=None: np.zeros(
        3
    )  # the identity does not ask for a stationary fit
    I = InfluenceFunction().fit(oracle).influence(X, y, target="margin")
    np.testing.assert_allclose(
        TRAK().fit(oracle).influence(X, y, target="margin"), I, rtol=1e-8, atol=1e-12
    )


def test_least_squares_without_projection_is_deletion_shrunk_by_leverage():
    X, y = load_diabetes(return_X_y=True)
    model = LinearRegression().fit(X, y)
    tau = TRAK(weighted=False).fit(model, X, y).influence(X[:8], y[:8], target="margin")
    design = np.column_stack([np.ones(len(X)), X])
    leverage = np.sum(design @ np.linalg.inv(design.T @ design) * design, axis=1)
    for i in (0, 17, 382):
        without = LinearRegression().fit(np.delete(X, i, 0), np.delete(y, i))
        difference = model.predict(X[:8]) - without.predict(X[:8])
        np.testing.assert_allclose(tau[:, i], (1 - leverage[i]) * difference, atol=1e-9)


def test_poisson_regression_is_taken_through_its_linear_predictor():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    y = rng.poisson(np.exp(X @ [0.3, -0.2, 0.1]))
    model = PoissonRegressor(alpha=0.1, tol=1e-10).fit(X, y)
    I = InfluenceFunction().fit(model, X, y).influence(X, y)
    np.testing.assert_allclose(
        TRAK().fit(model, X, y).influence(X, y), I, atol=1e-9 * np.abs(I).max()
    )


def test_plain_trak_is_far_from_the_influence_function_of_a_logistic_model(cancer):
    model, X, y, X_test, y_test = cancer
    I = InfluenceFunction().fit(model, X, y).influence(X_test, y_test, target="margin")
    plain = TRAK(weighted=False).fit(model, X, y).influence(X_test, y_test, target="margin")
    assert np.corrcoef(plain.ravel(), I.ravel())[0, 1] < 0.95


def test_projections_converge_to_the_unprojected_scores(cancer):
    model, X, y, X_test, y_test = cancer
    exact = TRAK(reg=0.01).fit(model, X, y).influence(X_test, y_test)

    def correlation(dim):
        return np.mean(
            [
                np.corrcoef(
                    TRAK(proj_dim=dim, reg=0.01, random_state=s).fit(model, X, y)
                    .influence(X_test, y_test).ravel(),
                    exact.ravel(),
                )[0, 1]
                for s in range(5)
            ]
        )  # fmt: skip

    assert correlation(8) < correlation(28)


def test_an_ensemble_averages_matrices_and_residuals_separately(cancer):
    _, X, y, X_test, y_test = cancer
    halves = [np.arange(0, 400, 2), np.arange(1, 400, 2)]
    models = [LogisticRegression(solver="newton-cholesky").fit(X[h], y[h]) for h in halves]
    both = TRAK(n_models=2, reg=1e-3).fit(models, X, y)
    each = [TRAK(reg=1e-3).fit(m, X, y) for m in models]
    residuals = np.mean([t.residuals_ for t in each], axis=0)
    np.testing.assert_allclose(both.residuals_, residuals)
    kernels = np.mean(
        [t.influence(X_test, y_test, target="margin") / t.residuals_ for t in each], axis=0
    )
    np.testing.assert_allclose(
        both.influence(X_test, y_test, target="margin"), kernels * residuals, rtol=1e-8, atol=1e-12
    )


def test_bad_arguments_are_refused_by_name(cancer):
    model, X, y, *_ = cancer
    for arguments, message in [
        ({"proj_dim": 0}, "proj_dim must be"),
        ({"n_models": 2}, "n_models=2 models, got 1"),
        ({"reg": -1.0}, "reg must be"),
        ({"reg": "big"}, "reg must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            TRAK(**arguments).fit(model, X, y)
    with pytest.raises(TypeError, match="weighted must be"):
        TRAK(weighted="yes").fit(model, X, y)
    same = np.column_stack([X[:, 0], X[:, 0]])
    flat = LinearRegression().fit(same, y)
    with pytest.raises(ValueError, match="pass reg="):
        TRAK(weighted=False).fit(flat, same, y.astype(float))
