"""The oracle's losses, gradients and curvatures, by finite differences, for every kind of model."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    ElasticNet,
    GammaRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    TweedieRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from statml.influence import GLMOracle, make_oracle
from statml.influence.glm_families import Gaussian

RNG = np.random.default_rng(1)
X = RNG.normal(size=(60, 4))
ETA = 0.3 + X @ [0.8, -0.6, 0.3, 0.0]
Y = ETA + RNG.normal(size=60)
TWO = (RNG.random(60) < 1 / (1 + np.exp(-ETA))).astype(int)
THREE = np.argmax(X[:, :3] + RNG.gumbel(size=(60, 3)), axis=1)
COUNT = RNG.poisson(np.exp(ETA)).astype(float)
POSITIVE = RNG.gamma(2.0, np.exp(ETA) / 2)
DESIGN = sm.add_constant(X)
TIGHT = {"tol": 1e-10, "max_iter": 2000}
NEWTON = {"solver": "newton-cholesky", **TIGHT}
LIBLINEAR = {"solver": "liblinear", "random_state": 0, **TIGHT}


def statsmodels_glm(y, family):
    return sm.GLM(y, DESIGN, family=family).fit(tol=1e-13, maxiter=200)


MODELS = {
    "ols": lambda: (LinearRegression(), X, Y),
    "ridge": lambda: (Ridge(alpha=3.0), X, Y),
    "lasso": lambda: (Lasso(alpha=0.1, tol=1e-12), X, Y),
    "elastic net": lambda: (ElasticNet(alpha=0.1, tol=1e-12), X, Y),
    "logistic": lambda: (LogisticRegression(**NEWTON), X, TWO),
    "balanced logistic": lambda: (LogisticRegression(class_weight="balanced", **NEWTON), X, TWO),
    "liblinear": lambda: (LogisticRegression(**LIBLINEAR), X, TWO),
    "l1 logistic": lambda: (LogisticRegression(l1_ratio=1.0, C=0.5, **LIBLINEAR), X, TWO),
    "softmax": lambda: (LogisticRegression(**NEWTON), X, THREE),
    "poisson": lambda: (PoissonRegressor(alpha=0.1, **NEWTON), X, COUNT),
    "gamma": lambda: (GammaRegressor(alpha=0.1, **NEWTON), X, POSITIVE),
    "tweedie": lambda: (TweedieRegressor(power=1.5, alpha=0.1, **NEWTON), X, POSITIVE),
    "kernel ridge": lambda: (KernelRidge(alpha=0.5, kernel="rbf", gamma=0.3), X, Y),
    "gaussian process": lambda: (
        GaussianProcessRegressor(
            RBF(2.0) + WhiteKernel(0.5), alpha=1e-3, normalize_y=True, optimizer=None
        ), X, Y,
    ),
    "pipeline": lambda: (make_pipeline(StandardScaler(), LogisticRegression(**NEWTON)), X, TWO),
}  # fmt: skip
RESULTS = {
    "sm ols": lambda: sm.OLS(Y, DESIGN).fit(),
    "sm wls": lambda: sm.WLS(Y, DESIGN, weights=1.0 + np.arange(60) % 3).fit(),
    "sm logit": lambda: sm.Logit(TWO, DESIGN).fit(disp=0, tol=1e-12),
    "sm poisson": lambda: sm.Poisson(COUNT, DESIGN).fit(disp=0, tol=1e-12),
    "sm mnlogit": lambda: sm.MNLogit(THREE, DESIGN).fit(disp=0, method="newton", tol=1e-12),
    "sm probit": lambda: statsmodels_glm(TWO, sm.families.Binomial(sm.families.links.Probit())),
    "sm gamma": lambda: statsmodels_glm(POSITIVE, sm.families.Gamma(sm.families.links.Log())),
    "sm negative binomial": lambda: statsmodels_glm(COUNT, sm.families.NegativeBinomial(alpha=0.4)),
    "sm shares": lambda: statsmodels_glm(
        np.column_stack([COUNT, 20 - np.minimum(COUNT, 20)]), sm.families.Binomial()
    ),
}


def oracle_of(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statsmodels' and scikit-learn's remarks on settings
        if name in RESULTS:
            return make_oracle(RESULTS[name]())
        model, features, y = MODELS[name]()
        return make_oracle(model.fit(features, y), features, y)


@pytest.fixture(scope="module", params=[*MODELS, *RESULTS])
def oracle(request):
    return oracle_of(request.param)


def differences(f, theta, step=1e-5):
    return np.stack(
        [(f(theta + step * e) - f(theta - step * e)) / (2 * step) for e in np.eye(len(theta))],
        axis=-1,
    )


def away(oracle):
    return oracle.theta + 0.05 * np.random.default_rng(0).normal(size=oracle.n_params)


def test_the_fit_is_stationary_for_the_objective(oracle):
    scale = np.abs(oracle.grad(oracle.X, oracle.y)).mean()
    assert np.abs(oracle.objective_grad()).max() < 1e-6 * scale


def test_gradients_are_those_of_the_values(oracle):
    theta, part = away(oracle), slice(0, 7)
    for target in ("loss", "margin", "prediction"):
        expected = differences(
            lambda t, target=target: oracle.value(oracle.X[part], oracle.y[part], target, t), theta
        )
        found = oracle.value_grad(oracle.X[part], oracle.y[part], target, theta)
        np.testing.assert_allclose(found, expected, atol=2e-6 * max(1, np.abs(expected).max()))


def test_the_hessian_is_that_of_the_objective(oracle):
    theta = away(oracle)
    expected = differences(oracle.objective_grad, theta)
    found = oracle.hvp(np.eye(oracle.n_params), theta=theta)
    np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())
    at_fit = oracle.hvp(np.eye(oracle.n_params))
    np.testing.assert_allclose(oracle.hessian(), at_fit, atol=1e-10 * np.abs(at_fit).max())


def test_products_with_all_gradients_need_no_array_of_them(oracle):
    G = oracle.grad(oracle.X, oracle.y)
    V = np.random.default_rng(2).normal(size=(oracle.n_params, 3))
    scale = np.abs(G).max() * np.sqrt(oracle.n_params)
    np.testing.assert_allclose(
        oracle.grad_dot(V, oracle.X, oracle.y), G @ V, atol=1e-11 * scale * np.abs(V).max()
    )
    c = np.random.default_rng(3).normal(size=(oracle.n_train, 2))
    np.testing.assert_allclose(
        oracle.grad_sum(c, oracle.X, oracle.y), G.T @ c, atol=1e-11 * scale * oracle.n_train
    )


def test_the_gauss_newton_matrix_is_psd_and_is_the_hessian_of_canonical_links(oracle):
    G = oracle.ggn_vp(np.eye(oracle.n_params))
    assert np.linalg.eigvalsh((G + G.T) / 2).min() > -1e-10 * np.abs(G).max()
    if type(oracle.family).__name__ != "LinkedFamily":
        np.testing.assert_allclose(G, oracle.hessian(), atol=1e-10 * np.abs(G).max())


def test_factor_solves_with_n_times_the_hessian(oracle):
    factor = oracle.factor()
    g = oracle.grad(oracle.X[:3], oracle.y[:3]).T  # orthogonal to a gauge, if there is one
    residual = oracle.n_train * oracle.hvp(factor.solve(g)) - g
    assert np.abs(residual).max() < 1e-8 * np.abs(g).max()
    np.testing.assert_allclose(factor.inverse() @ g, factor.solve(g), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["ridge", "logistic", "softmax", "poisson", "pipeline"])
def test_prepared_records_give_the_models_predictions(name):
    model, features, y = MODELS[name]()
    model.fit(features, y)
    oracle = make_oracle(model, features, y)
    Z, coded = oracle.prepare(features[:5], y[:5])
    found = oracle.output(Z, coded, "prediction")
    if hasattr(model, "predict_proba"):
        expected = model.predict_proba(features[:5])[np.arange(5), y[:5]]
    else:
        expected = model.predict(features[:5])
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_sparse_design_gives_the_same_oracle():
    model = LogisticRegression(**NEWTON).fit(X, THREE)
    dense, sparse = make_oracle(model, X, THREE), make_oracle(model, sp.csr_matrix(X), THREE)
    assert sp.issparse(sparse.X)
    np.testing.assert_allclose(sparse.hessian(), dense.hessian(), atol=1e-13)
    np.testing.assert_allclose(
        sparse.grad(sparse.X[:4], sparse.y[:4]), dense.grad(dense.X[:4], dense.y[:4]), atol=1e-13
    )


def test_a_formula_transforms_new_records():
    data = sm.datasets.spector.load_pandas().data
    fit = smf.logit("GRADE ~ np.log(GPA) + TUCE", data).fit(disp=0)
    Z, _ = make_oracle(fit).prepare(data.head(3), data["GRADE"].head(3))
    np.testing.assert_allclose(Z[:, 1], np.log(data["GPA"].head(3)))


@given(st.integers(0, 10**6), st.sampled_from([1, 3]))
def test_hvp_is_linear_and_symmetric(seed, k):
    oracle = oracle_cached("softmax")
    rng = np.random.default_rng(seed)
    U, V = rng.normal(size=(2, oracle.n_params, k))
    np.testing.assert_allclose(oracle.hvp(2 * U + V), 2 * oracle.hvp(U) + oracle.hvp(V), atol=1e-10)
    np.testing.assert_allclose(U.T @ oracle.hvp(V), oracle.hvp(U).T @ V, atol=1e-10)


CACHE = {}


def oracle_cached(name):
    if name not in CACHE:
        CACHE[name] = oracle_of(name)
    return CACHE[name]


# --- bad input --------------------------------------------------------------------------------------


def test_an_unfitted_model_is_refused():
    with pytest.raises(NotFittedError, match="call its fit"):
        make_oracle(LogisticRegression(), X, TWO)


def test_a_model_without_gradients_is_refused_with_what_works():
    with pytest.raises(TypeError, match="SubsetEnsemble and DataShapley work for any estimator"):
        make_oracle(RandomForestClassifier(3).fit(X, TWO), X, TWO)


def test_separable_classes_are_refused_without_a_penalty():
    y = (X[:, 0] > 0).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=np.inf, max_iter=50).fit(X, y)
    with pytest.raises(ValueError, match="separable"):
        make_oracle(model, X, y).factor()


def test_a_singular_hessian_is_refused_and_a_damping_named():
    doubled = np.column_stack([X, X[:, 0]])
    oracle = make_oracle(LinearRegression().fit(doubled, Y), doubled, Y)
    with pytest.raises(ValueError, match="set damping="):
        oracle.factor()
    assert oracle.factor(damping=1e-3).rcond > 1e-6


@pytest.mark.parametrize(
    ("X_test", "y_test", "message"),
    [
        (X[:, :3], TWO, "features"),
        (np.where(X > 2, np.nan, X), TWO, "NaN"),
        (X, TWO + 5, "labels that the model was not trained with"),
        (X[:5], TWO, "inconsistent"),
    ],
)
def test_test_records_that_do_not_fit_are_refused(X_test, y_test, message):
    oracle = oracle_cached("logistic")
    with pytest.raises(ValueError, match=message):
        oracle.prepare(X_test, y_test)


def test_a_hessian_beyond_the_memory_limit_is_refused():
    model = Ridge().fit(X, Y)
    with pytest.raises(MemoryError, match="memory_limit"):
        make_oracle(model, X, Y, memory_limit=64).factor()


def test_shapes_of_an_oracle_are_checked():
    with pytest.raises(ValueError, match="theta must hold 1 x 4"):
        GLMOracle(Gaussian(), np.zeros(3), X, Y)
