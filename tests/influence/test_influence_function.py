"""Influence functions: closed forms, invariants, normalisations, groups, diagnostics and refusals."""

import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from statml.influence import GLMOracle, InfluenceFunction, make_oracle
from statml.influence.glm_families import Binomial, Gaussian, Poisson, Softmax

FAMILIES = {
    "gaussian": Gaussian(),
    "binomial": Binomial(),
    "poisson": Poisson(),
    "softmax": Softmax(3),
}


def optimum(family, X, y, weight, r):
    """Newton's method written out for the test: parameters of a penalised fit to 1e-12."""
    theta = np.zeros(family.n_outputs * X.shape[1])
    for _ in range(100):
        oracle = GLMOracle(family, theta, X, y, weight, r)
        gradient, H = oracle.objective_grad(), oracle.hessian()
        step = np.linalg.solve(H, gradient)
        size = 1.0
        while (
            GLMOracle(family, theta - size * step, X, y, weight, r).loss(X, y) @ weight
            > oracle.loss(X, y) @ weight + 1e3
        ):
            size /= 2
        theta = theta - size * step
        if np.linalg.norm(step) < 1e-13:
            break
    return theta


def problem(name, seed, n=30, q=4):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, q - 1))])
    eta = X @ rng.normal(size=(q, 3)) / 2
    family = FAMILIES[name]
    y = {
        "gaussian": lambda: eta[:, 0] + rng.normal(size=n),
        "binomial": lambda: (rng.random(n) < 1 / (1 + np.exp(-eta[:, 0]))).astype(float),
        "poisson": lambda: rng.poisson(np.exp(eta[:, 0])).astype(float),
        "softmax": lambda: rng.permutation(np.arange(n) % 3).astype(float),
    }[name]()
    weight = rng.uniform(0.5, 2, n)
    r = np.full(family.n_outputs * q, 0.05)
    theta = optimum(family, X, y, weight, r)
    return GLMOracle(family, theta, X, y, weight, r)


def refit(oracle, weight):
    return optimum(oracle.family, oracle.X, oracle.y, weight, oracle.regulariser())


problems = st.builds(
    problem, st.sampled_from(sorted(FAMILIES)), st.integers(0, 10_000), st.integers(20, 40)
)


@settings(max_examples=20, deadline=None)
@given(problems, st.integers(0, 19))
def test_parameter_change_is_the_derivative_of_the_fit_in_a_records_weight(oracle, i):
    h = 1e-4
    up, down = oracle.sample_weight.copy(), oracle.sample_weight.copy()
    up[i] += h
    down[i] -= h
    derivative = (refit(oracle, up) - refit(oracle, down)) / (2 * h)
    change = InfluenceFunction().fit(oracle).parameter_change([[i]])[0]
    np.testing.assert_allclose(change, -oracle.sample_weight[i] * derivative, rtol=2e-5, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(problems)
def test_influences_sum_to_the_pull_of_the_penalty(oracle):
    """Σ v_i g_i = −nrθ at the optimum, so Σ_i I(i, z) = −∇ℓ(z)ᵀH⁻¹(rθ)."""
    method = InfluenceFunction().fit(oracle)
    total = method.influence(oracle.X, oracle.y).sum(axis=1)
    pull = np.linalg.solve(oracle.hessian(), oracle.regulariser() * oracle.theta)
    expected = -oracle.grad(oracle.X, oracle.y) @ pull
    np.testing.assert_allclose(total, expected, rtol=1e-7, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(problems, st.integers(0, 100))
def test_an_equal_record_has_equal_influence_and_one_without_weight_none(oracle, seed):
    rng = np.random.default_rng(seed)
    i = int(rng.integers(oracle.n_train))
    X, y = np.vstack([oracle.X, oracle.X[i]]), np.append(oracle.y, oracle.y[i])
    v = oracle.sample_weight
    weight = np.append(v, v[i])
    theta = optimum(oracle.family, X, y, weight, oracle.regulariser())
    doubled = GLMOracle(oracle.family, theta, X, y, weight, oracle.regulariser())
    I = InfluenceFunction().fit(doubled).influence(X[:5], y[:5])
    np.testing.assert_allclose(I[:, i], I[:, -1], rtol=1e-12, atol=1e-15)
    silent = GLMOracle(oracle.family, oracle.theta, X, y, np.append(v, 0.0), oracle.regulariser())
    assert np.all(InfluenceFunction().fit(silent).influence(X[:5], y[:5])[:, -1] == 0)


@settings(max_examples=15, deadline=None)
@given(problems, st.integers(0, 100))
def test_influence_follows_a_permutation_of_the_records(oracle, seed):
    order = np.random.default_rng(seed).permutation(oracle.n_train)
    other = GLMOracle(
        oracle.family, oracle.theta, oracle.X[order], oracle.y[order],
        oracle.sample_weight[order], oracle.regulariser(),
    )  # fmt: skip
    I = InfluenceFunction().fit(oracle).influence(oracle.X, oracle.y)
    J = InfluenceFunction().fit(other).influence(oracle.X, oracle.y)
    np.testing.assert_allclose(J, I[:, order], rtol=1e-9, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_influence_does_not_depend_on_the_basis_of_the_features(seed):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(40), rng.normal(size=(40, 3))])
    y = X @ rng.normal(size=4) + rng.normal(size=40)
    M = rng.normal(size=(4, 4)) + 3 * np.eye(4)
    I = [
        InfluenceFunction()
        .fit(LinearRegression(fit_intercept=False).fit(Z, y), Z, y)
        .influence(Z, y)
        for Z in (X, X @ M)
    ]
    np.testing.assert_allclose(I[1], I[0], rtol=1e-6, atol=1e-8)


@settings(max_examples=15, deadline=None)
@given(problems, st.floats(0.1, 10))
def test_a_test_loss_scaled_scales_its_influences_and_groups_add_up(oracle, factor):
    method = InfluenceFunction().fit(oracle)
    X, y = oracle.X[:4], oracle.y[:4]
    margins = method.influence(X, y, target="margin")
    slopes = [
        (oracle.grad(X, y)[k] @ oracle.output_grad(X, y)[k])
        / np.sum(oracle.output_grad(X, y)[k] ** 2)
        for k in range(4)
    ]
    np.testing.assert_allclose(
        method.influence(X, y), -np.array(slopes)[:, None] * margins, rtol=1e-7, atol=1e-10
    )
    I = method.influence(X, y)
    sets = [np.arange(3), np.arange(5, 12), np.array([], dtype=int)]
    together = np.column_stack([I[:, s].sum(axis=1) for s in sets])
    np.testing.assert_allclose(method.group_influence(sets, X, y), together, rtol=1e-12, atol=1e-14)
    change = method.parameter_change(sets)
    np.testing.assert_allclose(oracle.grad(X, y) @ change.T, together, rtol=1e-8, atol=1e-10)


def test_reference_losses_of_the_infinitesimal_jackknife_on_breast_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12).fit(X, y)
    method = InfluenceFunction().fit(model, X, y)
    change, oracle = method.parameter_change(), method.oracle_
    Z, labels = oracle.prepare(X, y)
    losses = [
        oracle.loss(Z[i : i + 1], labels[i : i + 1], oracle.theta + change[i])[0]
        for i in range(len(y))
    ]
    assert np.mean(losses) == pytest.approx(0.0659295, abs=5e-8)


def test_spector_is_too_small_for_first_order_and_the_diagnostics_say_so():
    data = sm.datasets.spector.load_pandas()
    X = sm.add_constant(data.exog, prepend=True)
    fit = sm.Logit(data.endog, X).fit(disp=0, tol=1e-12)
    np.testing.assert_allclose(
        fit.params, [-13.02134686, 2.82611259, 0.09515766, 2.37868766], rtol=1e-7
    )
    method = InfluenceFunction().fit(fit)
    change = method.parameter_change()
    exact = np.array(
        [
            sm.Logit(data.endog.drop(i), X.drop(i)).fit(disp=0, tol=1e-12).params - fit.params
            for i in data.endog.index
        ]
    )
    np.testing.assert_allclose(
        exact[0], [0.14289932, -0.02923943, -0.00119259, -0.02525807], atol=1e-7
    )
    assert np.linalg.norm(change - exact) / np.linalg.norm(exact) == pytest.approx(0.388, abs=1e-3)
    assert method.diagnostics_["linearisation"] > 0.1


def test_second_order_group_influence_is_closer_to_removal_than_first_order():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5))
    y = X @ rng.normal(size=5) + rng.normal(size=60)
    model = Ridge(alpha=1.0).fit(X, y)
    removed = [np.arange(k, k + 15) for k in (0, 15, 30, 45)]
    theta = np.append(model.intercept_, model.coef_)
    errors = {}
    for order in (1, 2):
        change = InfluenceFunction(group_order=order).fit(model, X, y).parameter_change(removed)
        errors[order] = []
        for S, delta in zip(removed, change, strict=True):
            kept = np.setdiff1d(np.arange(60), S)
            other = Ridge(alpha=1.0).fit(X[kept], y[kept])
            exact = np.append(other.intercept_, other.coef_) - theta
            errors[order].append(np.linalg.norm(delta - exact) / np.linalg.norm(exact))
    assert np.all(np.array(errors[2]) < 0.6 * np.array(errors[1]))


def test_second_order_group_influence_is_its_first_two_neumann_terms():
    oracle = problem("softmax", 3)
    S = np.array([1, 4, 5, 9])
    n, H = oracle.n_train, oracle.hessian()
    g = oracle.grad(oracle.X[S], oracle.y[S])
    first = np.linalg.solve(H, oracle.sample_weight[S] @ g) / n
    H_S = len(S) * (
        oracle.hvp(np.eye(12), oracle.X[S], oracle.y[S], oracle.sample_weight[S])
        - np.diag(oracle.regulariser())
    )
    expected = first + np.linalg.solve(H, H_S @ first) / n
    method = InfluenceFunction(group_order=2).fit(oracle)
    np.testing.assert_allclose(method.parameter_change([S])[0], expected, rtol=1e-10)
    np.testing.assert_allclose(
        method.group_influence([S], oracle.X[:3], oracle.y[:3])[:, 0],
        oracle.grad(oracle.X[:3], oracle.y[:3]) @ expected,
        rtol=1e-10,
    )


def test_normalisations_divide_by_their_norms():
    oracle = problem("binomial", 5)
    I = InfluenceFunction().fit(oracle).influence(oracle.X[:6], oracle.y[:6])
    g = oracle.grad(oracle.X, oracle.y)
    solved = np.linalg.solve(oracle.hessian(), g.T).T
    norms = {
        "relatif": np.linalg.norm(solved, axis=1),
        "l-relatif": np.sqrt(np.sum(g * solved, axis=1)),
        "renorm": np.linalg.norm(g, axis=1),
    }
    for name, norm in norms.items():
        method = InfluenceFunction(normalize=name).fit(oracle)
        np.testing.assert_allclose(
            method.influence(oracle.X[:6], oracle.y[:6]), I / norm, rtol=1e-9
        )
        np.testing.assert_allclose(
            method.self_influence(), np.diag(method.influence(oracle.X, oracle.y)), rtol=1e-9
        )


def test_self_influence_is_the_diagonal_without_the_matrix():
    oracle = problem("poisson", 2)
    method = InfluenceFunction().fit(oracle)
    full = method.influence(oracle.X, oracle.y)
    np.testing.assert_allclose(method.self_influence(), np.diag(full), rtol=1e-10)
    assert np.all(method.self_influence() >= 0)


def test_small_memory_gives_the_same_numbers():
    oracle = problem("softmax", 7)
    whole = InfluenceFunction().fit(oracle)
    oracle.memory_limit = 8 * oracle.n_params * 3
    parts = InfluenceFunction().fit(oracle, memory_limit=oracle.memory_limit)
    np.testing.assert_allclose(
        parts.influence(oracle.X, oracle.y),
        whole.influence(oracle.X, oracle.y),
        rtol=1e-10,
        atol=1e-15,
    )
    np.testing.assert_allclose(parts.self_influence(), whole.self_influence(), rtol=1e-10)


def test_all_neighbours_as_candidates_give_the_full_ranking():
    X, y = load_digits(return_X_y=True)
    X, y = X[:200] / 16, y[:200]
    model = LogisticRegression(max_iter=2000).fit(X[:150], y[:150])
    method = InfluenceFunction().fit(model, X[:150], y[:150])
    full = method.rank(X[150:155], y[150:155], k=5, per_test=True)
    near = method.rank_nearest(X[150:155], y[150:155], k=5, n_candidates=150)
    np.testing.assert_array_equal(near["row"], full["row"])
    np.testing.assert_allclose(near["influence"], full["influence"], rtol=1e-10)
    few = method.rank_nearest(X[150:155], y[150:155], k=5, n_candidates=20)
    for test, table in few.groupby("test"):
        distance = np.linalg.norm(X[:150] - X[150 + test], axis=1)
        assert set(table["row"]) <= set(np.argsort(distance, kind="stable")[:20])


def test_pipelines_and_regressions_are_attributed_in_the_users_terms():
    X, y = load_breast_cancer(return_X_y=True)
    pipe = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10)).fit(X, y)
    Z = pipe[0].transform(X)
    I = InfluenceFunction().fit(pipe, X, y).influence(X[:5], y[:5])
    J = InfluenceFunction().fit(pipe[1], Z, y).influence(Z[:5], y[:5])
    np.testing.assert_allclose(I, J, rtol=1e-10)
    counts = np.random.default_rng(0).poisson(2.0, len(X))
    model = PoissonRegressor(alpha=1e-2, tol=1e-8).fit(Z[:, :5], counts)
    assert InfluenceFunction().fit(model, Z[:, :5], counts).influence(
        Z[:3, :5], counts[:3]
    ).shape == (3, 569)


def test_collinear_columns_are_refused_with_the_damping_that_helps():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3))
    X = np.column_stack([X, X[:, 0]])
    y = X @ np.ones(4) + rng.normal(size=50)
    model = LinearRegression().fit(X, y)
    with pytest.raises(ValueError, match="pass damping="):
        InfluenceFunction().fit(model, X, y)
    assert np.isfinite(InfluenceFunction(damping=1e-3).fit(model, X, y).influence(X, y)).all()


def test_separable_classes_without_penalty_are_refused():
    X = np.linspace(-1, 1, 20)[:, None]
    y = (X[:, 0] > 0).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=np.inf, max_iter=50).fit(X, y)
    with pytest.raises(ValueError, match="separable"):
        InfluenceFunction().fit(model, X, y)


def test_an_unconverged_fit_is_warned_about():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(max_iter=2).fit(X, y)
    with pytest.warns(UserWarning, match="has not converged"):
        method = InfluenceFunction().fit(model, X, y)
    assert method.diagnostics_["nonconvergence"] > 1


def test_damping_has_its_share_in_the_diagnostics():
    oracle = problem("gaussian", 1)
    shares = [
        InfluenceFunction(damping=d).fit(oracle).diagnostics_["damping_share"] for d in (0, 0.1, 10)
    ]
    assert shares[0] == 0 < shares[1] < shares[2] < 1
    g = oracle.grad(oracle.X, oracle.y)[
        np.unique(np.linspace(0, oracle.n_train - 1, 8).astype(int))
    ]
    H = oracle.hessian() + 0.1 * np.eye(4)
    x = np.linalg.solve(H, g.T).T
    expected = np.mean(0.1 * np.sum(x * x, axis=1) / np.sum(g * x, axis=1))
    assert shares[1] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"solver": "newton"}, ValueError, "solver must be"),
        ({"curvature": "exact"}, ValueError, "curvature must be"),
        ({"damping": -1}, ValueError, "damping must be"),
        ({"damping": "big"}, ValueError, "damping must be"),
        ({"normalize": "cosine"}, ValueError, "normalize must be"),
        ({"n_components": 0}, ValueError, "n_components must be"),
        ({"tol": 0}, ValueError, "tol must be"),
        ({"max_iter": 0}, ValueError, "max_iter must be"),
        ({"group_order": 3}, ValueError, "group_order must be"),
    ],
)
def test_arguments_are_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        InfluenceFunction(**arguments).fit(problem("gaussian", 0))


def test_bad_test_records_are_refused():
    X, y = load_breast_cancer(return_X_y=True)
    method = InfluenceFunction().fit(Ridge().fit(X, y), X, y)
    with pytest.raises(ValueError, match="features"):
        method.influence(X[:3, :4], y[:3])
    bad = X[:3].copy()
    bad[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        method.influence(bad, y[:3])
    with pytest.raises(ValueError, match="y_test"):
        method.influence(X[:3])
    digits = LogisticRegression(max_iter=2000).fit(X / X.std(0), y)
    with pytest.raises(ValueError, match="not trained with"):
        InfluenceFunction().fit(digits, X / X.std(0), y).influence(X[:2], [0, 7])


def test_parameters_can_be_cloned_and_summary_prints():
    method = clone(InfluenceFunction(solver="cg", damping=0.1))
    assert method.get_params()["damping"] == 0.1
    oracle = problem("binomial", 0)
    text = str(method.fit(oracle).summary(3))
    assert "cg" in text
    assert "loss without a record" in text
    assert make_oracle(oracle) is oracle
