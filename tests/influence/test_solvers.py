"""Solvers against the dense inverse, and what each promises of itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from statml.influence import GLMOracle, InfluenceFunction, KernelOracle, make_oracle
from statml.influence.curvature import Curvature
from statml.influence.glm_families import Gaussian, Softmax
from statml.influence.oracle import GradientOracle
from statml.influence.solvers import make_solver
from statml.influence.solvers.ekfac import apply_spectrum, ekfac
from statml.influence.solvers.lanczos import lanczos
from statml.influence.solvers.lissa import largest_eigenvalue
from statml.solvers import conjugate_gradient


def solver_of(name, curvature, *, damping=0.0, tol=1e-10, max_iter=None, rank=10**6, seed=0):
    return make_solver(
        name, curvature, damping=damping, tol=tol, max_iter=max_iter, rank=rank,
        rng=np.random.default_rng(seed),
    )  # fmt: skip


def plain(oracle):
    """The same model with the design itself as a record."""
    return GLMOracle(
        oracle.family, oracle.theta, oracle.X, oracle.y, oracle.sample_weight, oracle.regulariser()
    )


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12).fit(X, y)
    return plain(make_oracle(model, X, y))


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X, y = X[:200] / 16, y[:200]
    model = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X, y)
    return plain(make_oracle(model, X, y))


@pytest.mark.parametrize("name", ["direct", "cg", "lissa", "lanczos", "nystrom"])
def test_full_rank_solvers_equal_the_dense_inverse(cancer, name):
    curvature = Curvature(cancer)
    V = np.random.default_rng(1).normal(size=(7, cancer.n_params))
    expected = np.linalg.solve(curvature.dense(), V.T).T
    solved = solver_of(name, curvature).solve(V)
    assert np.abs(solved - expected).max() < 1e-7 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["direct", "cg", "lanczos", "nystrom"])
def test_a_flat_direction_of_softmax_intercepts_does_not_disturb(digits, name):
    """The gradients are orthogonal to it, so any completion gives the pseudo-inverse's answer."""
    g = digits.grad(digits.X[:6], digits.y[:6])
    expected = g @ np.linalg.pinv(digits.hessian(), rcond=1e-12) @ g.T
    solved = solver_of(name, Curvature(digits)).solve(g)
    np.testing.assert_allclose(
        g @ solved.T, expected, rtol=1e-5, atol=1e-7 * np.abs(expected).max()
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 10_000))
def test_conjugate_gradients_solve_every_right_hand_side_to_its_own_tolerance(p, k, seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(p, p))
    A = root @ root.T + 0.1 * np.eye(p)
    B = rng.normal(size=(k, p)) * 10.0 ** rng.integers(-8, 8, size=(k, 1))
    B[0] = 0
    X, residual, _ = conjugate_gradient(lambda V: V @ A, B, 1e-9, 100 * p)
    assert np.all(residual <= 1e-9)
    assert np.all(X[0] == 0)
    actual = np.linalg.norm(X @ A - B, axis=1)
    assert np.all(actual <= 1e-7 * np.linalg.norm(B, axis=1) + 1e-300)


def test_more_right_hand_sides_than_parameters_are_all_solved(cancer):
    I = InfluenceFunction("cg").fit(cancer).influence(cancer.X, cancer.y)
    J = InfluenceFunction("direct").fit(cancer).influence(cancer.X, cancer.y)
    assert len(I) > cancer.n_params
    np.testing.assert_allclose(I, J, rtol=1e-4, atol=1e-7 * np.abs(J).max())
    assert np.all(np.abs(I).sum(axis=1) > 0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 15), st.integers(1, 4), st.integers(0, 1000))
def test_lanczos_spans_everything_even_where_eigenvalues_repeat(p, distinct, seed):
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.normal(size=(p, p)))
    A = (Q * rng.choice(np.arange(1.0, distinct + 1), p)) @ Q.T
    basis, diagonal, off = lanczos(lambda V: V @ A, p, p, rng)
    np.testing.assert_allclose(basis @ basis.T, np.eye(p), atol=1e-10)
    T = np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
    np.testing.assert_allclose(basis.T @ T @ basis, A, atol=1e-8)


def test_low_rank_loses_what_its_documentation_says(cancer):
    """Lanczos drops directions of low curvature; Nyström keeps the ridge and is closer at the same rank."""
    full = InfluenceFunction().fit(cancer).influence(cancer.X, cancer.y)

    def error(name, rank):
        method = InfluenceFunction(name, n_components=rank, random_state=0).fit(cancer)
        difference = method.influence(cancer.X, cancer.y) - full
        return np.linalg.norm(difference) / np.linalg.norm(full)

    assert 0.1 < error("lanczos", 10) < 0.6
    assert error("lanczos", 25) < error("lanczos", 10)
    assert error("nystrom", 20) < 0.15
    assert error("nystrom", 20) < error("lanczos", 20)


def test_nystrom_without_any_ridge_is_refused():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 10)), rng.normal(size=40)
    oracle = GLMOracle(Gaussian(), np.linalg.lstsq(X, y)[0], X, y)
    with pytest.raises(ValueError, match="needs a ridge or damping > 0"):
        InfluenceFunction("nystrom", n_components=5).fit(oracle)


def test_power_iteration_finds_the_largest_eigenvalue(cancer):
    curvature = Curvature(cancer)
    largest = np.linalg.eigvalsh(curvature.dense())[-1]
    found = largest_eigenvalue(curvature.matvec, cancer.n_params, np.random.default_rng(0))
    assert 0.98 * largest < found <= largest * (1 + 1e-10)


def test_lissa_reports_a_residual_that_it_could_not_remove(cancer):
    with pytest.warns(UserWarning, match="LiSSA left a relative residual"):
        method = InfluenceFunction("lissa", max_iter=100).fit(cancer)
    assert method.diagnostics_["lissa_residual"] > 0.01
    assert method.diagnostics_["solver_residual"] == pytest.approx(
        method.diagnostics_["lissa_residual"], rel=0.2
    )


class Saddle(GradientOracle):
    """A loss that curves down in one direction."""

    def __init__(self):
        self.theta = np.zeros(2)
        self.X, self.y = np.arange(4.0)[:, None], np.zeros(4)
        self.sample_weight = np.ones(4)
        self.parameter_names = ["up", "down"]

    def prepare(self, X, y=None):
        return np.asarray(X, float), y

    def loss(self, X, y, theta=None):
        theta = self.theta if theta is None else theta
        return (
            np.full(len(X), theta[0] ** 2 / 2 - theta[1] ** 2 / 4) + (X - 1.5)[:, 0] * theta.sum()
        )

    def grad(self, X, y, theta=None):
        theta = self.theta if theta is None else theta
        return (X - 1.5) + np.array([theta[0], -theta[1] / 2])

    def hvp(self, V, X=None, y=None, sample_weight=None, theta=None):
        return (np.array([1.0, -0.5]) * V.T).T


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        ("direct", "not positive definite.*damping="),
        ("cg", "curvature <= 0"),
        ("lissa", "diverged"),
    ],
)
def test_negative_curvature_is_refused_with_a_remedy(solver, message):
    with pytest.raises(ValueError, match=message):
        InfluenceFunction(solver, curvature="hessian", damping=0.0).fit(Saddle())
    InfluenceFunction(solver, curvature="hessian", damping=1.0).fit(Saddle())


def test_conjugate_gradients_that_stop_early_say_so(cancer):
    with pytest.warns(UserWarning, match="stopped after max_iter=3"):
        InfluenceFunction("cg", max_iter=3).fit(cancer)


# --- EK-FAC, DataInf, LoGra -----------------------------------------------------------------------------


def test_ekfac_is_exact_for_one_linear_layer_with_squared_loss_up_to_the_draws():
    """S = E δ² is the only thing drawn; in the eigenbasis of XᵀX the curvature is diagonal."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 5)) @ rng.normal(size=(5, 5))
    y = X @ np.ones(5) + rng.normal(size=20_000)
    oracle = GLMOracle(Gaussian(), np.linalg.lstsq(X, y)[0], X, y)
    errors = []
    for seed in range(5):
        layers = ekfac(Curvature(oracle), np.random.default_rng(seed))
        H = oracle.hessian()
        approximation = apply_spectrum(layers, np.eye(5), lambda e: e)
        errors.append(np.linalg.norm(approximation - H) / np.linalg.norm(H))
    # the relative error of an eigenvalue is that of a mean of 20,000 products δ²a², about √(8/20,000) = 2 %
    assert np.mean(errors) < 0.04


def test_ekfac_has_a_smaller_frobenius_error_than_kfac_on_a_softmax(digits):
    """Against the Fisher matrix of the same drawn labels it is the best with these eigenvectors."""
    curvature = Curvature(digits, "ggn")
    extra = np.diag(digits.regulariser()) + curvature.lift * digits.gauge() @ digits.gauge().T
    for seed in range(3):
        (layer,) = ekfac(curvature, np.random.default_rng(seed))
        corrected = apply_spectrum([layer], np.eye(digits.n_params), lambda e: e)
        drawn = np.random.default_rng(int(np.random.default_rng(seed).integers(2**63)))
        X = np.tile(digits.X, (50, 1))
        y = digits.sample_labels(X, drawn)
        ((a, delta),) = digits.layer_factors(X, y)
        g = digits.grad(X, y)
        fisher = g.T @ g / len(g) + extra
        plain = np.kron(delta.T @ delta, a.T @ a) / len(g) ** 2 + extra
        error, error_of_kfac = (np.linalg.norm(M - fisher) for M in (corrected, plain))
        assert error < error_of_kfac


def test_the_solve_of_ekfac_inverts_its_own_matrix(digits):
    curvature = Curvature(digits, damping=0.01)
    solver = solver_of("ekfac", curvature)
    V = np.random.default_rng(0).normal(size=(3, digits.n_params))
    back = apply_spectrum(solver.layers_, solver.solve(V), lambda e: e)
    np.testing.assert_allclose(back, V, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 10))
def test_datainf_is_exact_for_a_single_record(seed, damping):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(1, 4)), rng.normal(size=1)
    oracle = GLMOracle(Gaussian(), rng.normal(size=4), X, y)
    g = oracle.grad(X, y)[0]
    V = rng.normal(size=(2, 4))
    expected = np.linalg.solve(np.outer(g, g) + damping * np.eye(4), V.T).T
    solver = solver_of("datainf", Curvature(oracle), damping=damping)
    np.testing.assert_allclose(solver.solve(V), expected, rtol=1e-8, atol=1e-10)


def test_datainf_is_poor_on_a_model_of_few_parameters_and_its_residual_shows_it(cancer):
    full = InfluenceFunction().fit(cancer).influence(cancer.X, cancer.y)
    method = InfluenceFunction("datainf").fit(cancer)
    correlation = np.corrcoef(method.influence(cancer.X, cancer.y).ravel(), full.ravel())[0, 1]
    assert 0.6 < correlation < 0.85  # .70 measured elsewhere on the same data
    assert method.diagnostics_["solver_residual"] > 1


def test_logra_with_all_dimensions_is_the_empirical_fisher(cancer):
    full = InfluenceFunction(curvature="fisher", damping=0.01).fit(cancer)
    projected = InfluenceFunction("logra", damping=0.01, n_components=31).fit(cancer)
    np.testing.assert_allclose(
        projected.influence(cancer.X[:9], cancer.y[:9]),
        full.influence(cancer.X[:9], cancer.y[:9]),
        rtol=1e-6,
        atol=1e-10,
    )


def test_solvers_that_need_layers_refuse_a_model_without():
    with pytest.raises(ValueError, match="does not split into layers"):
        InfluenceFunction("ekfac", damping=1.0, curvature="hessian").fit(Saddle())


# --- the curvature --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hessian", "ggn", "fisher"])
def test_products_agree_with_the_dense_matrix(digits, kind):
    curvature = Curvature(digits, kind, 0.02)
    V = np.random.default_rng(0).normal(size=(3, digits.n_params))
    np.testing.assert_allclose(curvature.matvec(V), V @ curvature.dense(), atol=1e-12)
    np.testing.assert_allclose(
        curvature.data_matvec(V) + curvature.ridge * V, curvature.matvec(V), atol=1e-12
    )
    here = Curvature(digits, kind, 0.02, np.array([digits.theta, digits.theta]))
    np.testing.assert_allclose(here.dense(), curvature.dense(), atol=1e-12)


def test_a_batch_of_everything_is_the_whole_and_batches_average_to_it(cancer):
    curvature = Curvature(cancer, damping=0.1)
    rng = np.random.default_rng(0)
    V = rng.normal(size=(2, cancer.n_params))
    whole = curvature.matvec(V)
    np.testing.assert_array_equal(curvature.batch_matvec(V, 10**6, rng), whole)
    draws = np.array([curvature.batch_matvec(V, 100, rng) for _ in range(400)])
    error = draws.std(axis=0, ddof=1) / np.sqrt(400)
    z = (draws.mean(axis=0) - whole) / error
    # 62 correlated z-scores: their mean square is near 1, and 2 is far beyond its spread
    assert np.mean(z**2) < 2


def test_the_mean_eigenvalue_is_the_trace_up_to_probes(digits):
    curvature = Curvature(digits, "ggn", 0.0)
    data = digits.ggn() - np.diag(digits.regulariser())
    assert curvature.mean_eigenvalue() == pytest.approx(np.trace(data) / digits.n_params, rel=0.25)


def test_gauge_directions_are_lifted_for_products_and_matrix_alike():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 2)), np.arange(30) % 3
    oracle = GLMOracle(Softmax(3), np.zeros(6), X, y)
    curvature = Curvature(oracle)
    eigenvalues = np.linalg.eigvalsh(curvature.dense())
    assert eigenvalues[0] > 1e-3
    V = rng.normal(size=(2, 6))
    np.testing.assert_allclose(curvature.matvec(V), V @ curvature.dense(), atol=1e-12)


def test_kernel_models_have_influence_functions_too():
    from sklearn.kernel_ridge import KernelRidge

    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 2))
    y = np.sin(X[:, 0]) + 0.1 * rng.normal(size=40)
    model = KernelRidge(kernel="rbf", alpha=0.5).fit(X, y)
    oracle = make_oracle(model, X, y)
    assert isinstance(oracle, KernelOracle)
    I = InfluenceFunction().fit(model, X, y).influence(X, y, target="prediction")
    # first order and exact removal differ by the factor 1 − h_i, constant down a column
    K = model._get_kernel(X)
    hat = K @ np.linalg.inv(K + 0.5 * np.eye(40))
    without = [
        KernelRidge(kernel="rbf", alpha=0.5).fit(np.delete(X, i, 0), np.delete(y, i)).predict(X)
        for i in range(40)
    ]
    exact = model.predict(X)[:, None] - np.array(without).T
    np.testing.assert_allclose(I, exact * (1 - np.diag(hat)), atol=1e-8)
