"""Models and data that the tests of influence share."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge
from sklearn.preprocessing import StandardScaler

EXACT = {"tol": 1e-12, "max_iter": 1000}


@pytest.fixture(scope="session")
def diabetes():
    return load_diabetes(return_X_y=True)


@pytest.fixture(scope="session")
def cancer():
    """Breast cancer, standardised; 400 training and 169 test records."""
    X, y = load_breast_cancer(return_X_y=True)
    scaler = StandardScaler().fit(X[:400])
    X = scaler.transform(X)
    return X[:400], y[:400], X[400:], y[400:]


@pytest.fixture(scope="session")
def small_models():
    """Name -> (fitted estimator, X, y, sample_weight), small enough for brute force."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    eta = 0.5 + X @ [1.0, -0.5, 0.0]
    weight = rng.integers(1, 4, size=40).astype(float)
    two = (rng.random(40) < 1 / (1 + np.exp(-eta))).astype(int)
    iris_X, iris_y = load_iris(return_X_y=True)
    keep = rng.permutation(150)[:60]
    logistic = LogisticRegression(solver="newton-cholesky", **EXACT)
    models = {
        "linear": (LinearRegression(), X, eta + rng.normal(size=40), None),
        "ridge": (Ridge(alpha=2.0), X, eta + rng.normal(size=40), weight),
        "logistic": (logistic, X, two, None),
        "weighted logistic": (logistic, X, two, weight),
        "softmax": (logistic, iris_X[keep], iris_y[keep], None),
        "poisson": (
            PoissonRegressor(alpha=0.1, solver="newton-cholesky", tol=1e-12), X,
            rng.poisson(np.exp(eta / 2)).astype(float), None,
        ),
    }  # fmt: skip
    fitted = {}
    for name, (model, X_, y_, w) in models.items():
        fitted[name] = (type(model)(**model.get_params()).fit(X_, y_, sample_weight=w), X_, y_, w)
    return fitted


def parameters(model):
    """Intercept and coefficients, class after class, as the oracle orders them."""
    coef = np.atleast_2d(model.coef_)
    intercept = np.atleast_1d(model.intercept_)
    return np.column_stack([intercept, coef]).ravel()
