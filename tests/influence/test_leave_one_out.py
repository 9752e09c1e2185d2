"""Removing records exactly: against refits from scratch, closed forms and published numbers."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from statml.influence import LeaveOneOut, NewtonStep, make_oracle

NAMES = ["linear", "ridge", "logistic", "weighted logistic", "softmax", "poisson"]


def parameters(model):
    coef, intercept = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    return np.column_stack([intercept, coef]).ravel()


def refit_without(model, X, y, w, members):
    keep = np.setdiff1d(np.arange(len(y)), members)
    return clone(model).fit(X[keep], y[keep], sample_weight=None if w is None else w[keep])


def centred(theta, oracle):
    """Softmax parameters are compared up to the constant that may be added to all intercepts."""
    gauge = oracle.gauge()
    return theta - gauge @ (gauge.T @ theta)


@pytest.mark.parametrize("name", NAMES)
def test_leave_one_out_equals_refits_from_scratch(small_models, name):
    model, X, y, w = small_models[name]
    loo = LeaveOneOut().fit(model, X, y, w)
    change = loo.parameter_change()
    for i in range(0, len(y), 7):
        expected = parameters(refit_without(model, X, y, w, [i]))
        difference = centred(loo.oracle_.theta + change[i] - expected, loo.oracle_)
        assert np.abs(difference).max() < 2e-6


@pytest.mark.parametrize("name", NAMES)
def test_group_removal_equals_a_refit_without_the_group(small_models, name):
    model, X, y, w = small_models[name]
    loo = LeaveOneOut().fit(model, X, y, w)
    groups = [[0, 3, 9], np.arange(10, 22), np.arange(len(y)) % 13 == 1]
    for members, change in zip(groups, loo.parameter_change(groups), strict=True):
        members = np.flatnonzero(members) if np.asarray(members).dtype == bool else members
        expected = parameters(refit_without(model, X, y, w, members))
        assert np.abs(centred(loo.oracle_.theta + change - expected, loo.oracle_)).max() < 2e-6


@pytest.mark.parametrize("name", ["ridge", "logistic", "softmax"])
def test_warm_and_cold_refits_give_the_same_influence(small_models, name):
    model, X, y, w = small_models[name]
    warm = LeaveOneOut().fit(model, X, y, w)
    cold = LeaveOneOut(warm_start=False).fit(model, X, y, w)
    for target in ("loss", "margin", "prediction"):
        np.testing.assert_allclose(
            warm.influence(X[:9], y[:9], target=target),
            cold.influence(X[:9], y[:9], target=target), atol=1e-5,
        )  # fmt: skip
    np.testing.assert_allclose(warm.self_influence(), cold.self_influence(), atol=1e-5)
    sets = [[0, 1, 2], [5]]
    np.testing.assert_allclose(
        warm.group_influence(sets, X[:4], y[:4]),
        cold.group_influence(sets, X[:4], y[:4]),
        atol=1e-5,
    )


def test_published_loo_matrix_of_a_ridge_regression(diabetes):
    X, y = diabetes
    model = Ridge(alpha=1).fit(X, y)
    expected = [
        [8.928097164, 0.0847222229, 7.1735438766, 1.5671354003],
        [0.0846298798, 2.5944437464, 0.6969756851, -1.0472406932],
    ]
    for method in (LeaveOneOut(), NewtonStep()):
        found = method.fit(model, X, y).influence(X[:2], y[:2])[:, :4]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_published_errors_on_the_spector_data():
    data = sm.datasets.spector.load_pandas()
    fit = sm.Logit(data.endog, sm.add_constant(data.exog)).fit(disp=0)
    exact = LeaveOneOut().fit(fit).parameter_change()[0]
    np.testing.assert_allclose(
        exact, [0.14289932, -0.02923943, -0.00119259, -0.02525807], atol=5e-9
    )
    with pytest.warns(UserWarning, match="LeaveOneOut is exact"):
        step = NewtonStep().fit(fit)
    every = LeaveOneOut().fit(fit).parameter_change()
    relative = np.linalg.norm(step.parameter_change() - every) / np.linalg.norm(every)
    assert relative == pytest.approx(0.305, abs=0.01)


def test_published_cross_validation_losses_of_breast_cancer():
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    model = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X, y)
    loo = LeaveOneOut().fit(model, X, y)
    with pytest.warns(UserWarning, match="falls short"):
        step = NewtonStep().fit(model, X, y)
    training = loo.oracle_.loss(loo.oracle_.X, loo.oracle_.y)
    assert (training + loo.self_influence()).mean() == pytest.approx(0.07567300588, abs=1e-8)
    assert (training + step.self_influence()).mean() == pytest.approx(0.07590926927, abs=1e-7)
    assert step.leverage().max() == pytest.approx(0.76966, abs=1e-5)
    assert step.leverage().sum() == pytest.approx(14.72008, abs=1e-4)


def test_the_newton_step_is_nearer_to_leave_one_out_than_the_influence_function(cancer):
    from statml.influence import InfluenceFunction
    from statml.influence.metrics import loo_correlation

    X, y, X_test, y_test = cancer
    model = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X, y)
    truth = LeaveOneOut().fit(model, X, y).influence(X_test, y_test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        step = NewtonStep().fit(model, X, y).influence(X_test, y_test)
    first = InfluenceFunction().fit(model, X, y).influence(X_test, y_test)
    newton, plain = loo_correlation(step, truth), loo_correlation(first, truth)
    assert newton["pearson"] > 0.98 > 0.96 > plain["pearson"]
    assert plain["slope"] < 0.8 < 0.9 < newton["slope"] < 1.1
    assert min(newton["spearman"], plain["spearman"]) > 0.98


@pytest.mark.parametrize("name", NAMES)
def test_a_group_step_is_one_newton_step_without_the_group(small_models, name):
    model, X, y, w = small_models[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        step = NewtonStep().fit(model, X, y, w)
    oracle = step.oracle_
    members = np.arange(5, 14)  # both ways to solve: few members against p, and many
    for size in (1, 9):
        chosen = members[:size]
        weight = oracle.sample_weight.copy()
        weight[chosen] = 0.0
        gradient = oracle.grad_sum((weight - oracle.sample_weight)[:, None], oracle.X, oracle.y)[
            :, 0
        ]
        A = oracle.information(oracle.theta, weight)
        A += oracle.gauge() @ oracle.gauge().T
        expected = -np.linalg.solve(A, gradient)
        found = step.parameter_change([chosen])[0]
        np.testing.assert_allclose(centred(found, oracle), centred(expected, oracle), atol=1e-10)
        if size == 1:
            np.testing.assert_allclose(
                centred(step.parameter_change()[chosen[0]], oracle), centred(expected, oracle),
                atol=1e-10,
            )  # fmt: skip


def test_newton_steps_are_exact_for_squared_loss(small_models):
    for name in ("linear", "ridge"):
        model, X, y, w = small_models[name]
        step, loo = NewtonStep().fit(model, X, y, w), LeaveOneOut().fit(model, X, y, w)
        np.testing.assert_allclose(step.parameter_change(), loo.parameter_change(), atol=1e-12)
        sets = [[0, 1, 2, 3, 4, 5, 6], [8, 2]]
        np.testing.assert_allclose(
            step.parameter_change(sets), loo.parameter_change(sets), atol=1e-10
        )


def test_a_second_step_squares_the_error(small_models):
    model, X, y, w = small_models["logistic"]
    truth = LeaveOneOut().fit(model, X, y, w).parameter_change()
    errors = []
    for order in (1, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            change = NewtonStep(order=order).fit(model, X, y, w).parameter_change()
        errors.append(np.linalg.norm(change - truth, axis=1) / np.linalg.norm(truth, axis=1))
    assert np.median(errors[1]) < 1e-4 < np.median(errors[0])


def test_errors_shrink_at_the_rates_of_theory():
    """One record in ten dimensions: the step errs by O(1 / n^2), an effect is O(1 / n)."""
    sizes, errors, effects = np.array([200, 400, 800]), [], []
    for n in sizes:
        rng = np.random.default_rng(5)
        X = rng.normal(size=(n, 10))
        y = (rng.random(n) < 1 / (1 + np.exp(-X @ np.ones(10) / 3))).astype(int)
        model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(X, y)
        truth = LeaveOneOut().fit(model, X, y).parameter_change()
        step = NewtonStep().fit(model, X, y).parameter_change()
        errors.append(np.median(np.linalg.norm(step - truth, axis=1)))
        effects.append(np.median(np.linalg.norm(truth, axis=1)))
    slopes = [np.polyfit(np.log(sizes), np.log(e), 1)[0] for e in (errors, effects)]
    assert slopes[0] == pytest.approx(-2.0, abs=0.3)
    assert slopes[1] == pytest.approx(-1.0, abs=0.2)


# --- case diagnostics -------------------------------------------------------------------------------


def test_case_diagnostics_agree_with_statsmodels_on_stackloss():
    data = sm.datasets.stackloss.load_pandas()
    fit = sm.OLS(data.endog, sm.add_constant(data.exog)).fit()
    theirs, step = fit.get_influence(), NewtonStep().fit(fit)
    np.testing.assert_allclose(step.cooks_distance(), theirs.cooks_distance[0], rtol=1e-9)
    np.testing.assert_allclose(step.dffits(), theirs.dffits[0], rtol=1e-9)
    np.testing.assert_allclose(step.dfbetas(), theirs.dfbetas, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(-step.parameter_change(), theirs.dfbeta, rtol=1e-8, atol=1e-11)
    assert step.cooks_distance()[[20, 0]] == pytest.approx([0.6919999163, 0.1537103724], abs=1e-9)
    assert (np.argsort(-step.cooks_distance())[:3] + 1).tolist() == [21, 1, 4]
    assert step.dffits()[20] == pytest.approx(-2.1002963, abs=1e-6)
    assert step.leverage()[16] == pytest.approx(0.412123498, abs=1e-8)


def test_case_diagnostics_of_weighted_least_squares_agree_with_statsmodels(diabetes):
    X, y = diabetes
    w = 1.0 + np.arange(len(y)) % 4
    fit = sm.WLS(y, sm.add_constant(X), weights=w).fit()
    step = NewtonStep().fit(fit)
    root = np.sqrt(w)
    scaled = sm.OLS(root * y, root[:, None] * sm.add_constant(X)).fit().get_influence()
    np.testing.assert_allclose(step.cooks_distance(), scaled.cooks_distance[0], rtol=1e-8)
    np.testing.assert_allclose(step.dffits(), scaled.dffits[0], rtol=1e-8)


def test_published_cooks_distances_of_diabetes(diabetes):
    X, y = diabetes
    cook = NewtonStep().fit(LinearRegression().fit(X, y), X, y).cooks_distance()
    assert cook.argmax() == 382
    assert cook.max() == pytest.approx(0.0244749598, abs=1e-9)
    assert cook.sum() == pytest.approx(0.9896432210, abs=1e-8)


def test_one_step_diagnostics_of_a_logit_agree_with_statsmodels():
    data = sm.datasets.spector.load_pandas()
    fit = sm.Logit(data.endog, sm.add_constant(data.exog)).fit(disp=0, tol=1e-12)
    theirs = fit.get_influence()
    with pytest.warns(UserWarning, match="falls short"):
        step = NewtonStep().fit(fit)
    np.testing.assert_allclose(step.parameter_change(), -theirs.d_params, atol=1e-10)
    np.testing.assert_allclose(step.cooks_distance(), theirs.cooks_distance[0], rtol=1e-8)


# --- kernels, L1 penalties, links ---------------------------------------------------------------------


def test_kernel_ridge_has_its_textbook_leave_one_out_residuals(diabetes):
    X, y = diabetes[0][:80], diabetes[1][:80]
    model = KernelRidge(alpha=0.5, kernel="rbf", gamma=2.0).fit(X, y)
    step = NewtonStep().fit(model, X, y)
    K = np.exp(-2.0 * ((X[:, None] - X[None]) ** 2).sum(-1)) + 0.5 * np.eye(80)
    inverse = np.linalg.inv(K)
    residual = (inverse @ y) / np.diag(inverse)
    loss = step.oracle_.loss(step.oracle_.X, step.oracle_.y)
    np.testing.assert_allclose(loss + step.self_influence(), residual**2 / 2, rtol=1e-8)


def test_a_gaussian_process_is_refitted_exactly(diabetes):
    X, y = diabetes[0][:60], diabetes[1][:60]
    process = GaussianProcessRegressor(RBF(0.2), alpha=0.3, optimizer=None).fit(X, y)
    without = clone(process).fit(np.delete(X, 7, axis=0), np.delete(y, 7))
    step = NewtonStep().fit(process, X, y)
    change = process.predict(X[:5]) - without.predict(X[:5])
    np.testing.assert_allclose(
        step.influence(X[:5], target="prediction")[:, 7], change, rtol=1e-6, atol=1e-8
    )


def test_an_l1_penalty_is_exact_while_its_active_set_stays(diabetes):
    """scikit-learn's penalty stands in the mean loss: alpha (n - 1) / n of the sum after a deletion."""
    X, y = diabetes
    X = X * 10
    for model in (Lasso(alpha=0.3, tol=1e-13, max_iter=50_000), ElasticNet(alpha=0.1, tol=1e-13)):
        model.fit(X, y)
        active = np.flatnonzero(model.coef_)
        loo = LeaveOneOut().fit(model, X, y)
        change = loo.parameter_change()
        checked = 0
        for i in range(0, len(y), 60):
            other = clone(model).fit(np.delete(X, i, axis=0), np.delete(y, i))
            if np.array_equal(np.sign(other.coef_), np.sign(model.coef_)):
                expected = np.append(other.intercept_, other.coef_[active])
                np.testing.assert_allclose(loo.oracle_.theta + change[i], expected, atol=1e-7)
                checked += 1
        assert checked >= 5


def test_the_two_conventions_for_a_penalty(diabetes):
    X, y = diabetes
    model, n = Ridge(alpha=1).fit(X, y), len(y)
    sums = LeaveOneOut(alpha_convention="sum").fit(model, X, y)
    means = LeaveOneOut(alpha_convention="mean").fit(model, X, y)
    rest = np.delete(X, 3, axis=0), np.delete(y, 3)
    for loo, alpha in ((sums, 1.0), (means, (n - 1) / n)):
        expected = parameters(Ridge(alpha=alpha).fit(*rest))
        np.testing.assert_allclose(
            loo.oracle_.theta + loo.parameter_change()[3], expected, atol=1e-8
        )
    gap = np.abs(sums.parameter_change() - means.parameter_change()).max()
    assert gap == pytest.approx(0.27, abs=0.02)


def test_a_link_that_is_not_canonical_uses_the_observed_curvature():
    rng = np.random.default_rng(3)
    X = sm.add_constant(rng.normal(size=(80, 2)))
    y = (rng.random(80) < 0.5 + 0.3 * np.tanh(X[:, 1])).astype(float)
    family = sm.families.Binomial(sm.families.links.Probit())
    fit = sm.GLM(y, X, family=family).fit(tol=1e-14)
    loo = LeaveOneOut().fit(fit)
    for i in (0, 17, 50):
        other = sm.GLM(np.delete(y, i), np.delete(X, i, axis=0), family=family).fit(tol=1e-14)
        np.testing.assert_allclose(
            loo.oracle_.theta + loo.parameter_change()[i], other.params, atol=1e-6
        )


def test_a_sparse_pipeline_gives_what_a_dense_one_gives(cancer):
    X, y, X_test, y_test = cancer
    X, y = X[:120] * (np.abs(X[:120]) > 0.8), y[:120]
    model = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X, y)
    dense = LeaveOneOut().fit(model, X, y).influence(X_test[:5], y_test[:5])
    sparse = (
        LeaveOneOut()
        .fit(model, sp.csr_matrix(X), y)
        .influence(sp.csr_matrix(X_test[:5]), y_test[:5])
    )
    np.testing.assert_allclose(sparse, dense, atol=1e-9)


# --- invariants -------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.sampled_from(["logistic", "softmax", "poisson", "ridge"]))
def test_duplicates_zero_weights_permutations_and_reparametrisations(small_models, seed, name):
    model, X, y, _ = small_models[name]
    rng = np.random.default_rng(seed)
    X = np.vstack([X, X[:1]])
    y = np.append(y, y[0])
    w = rng.uniform(0.5, 2.0, size=len(y))
    w[-1], w[5] = w[0], 0.0
    fit = clone(model).fit(X, y, sample_weight=w)
    order = rng.permutation(len(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        values = NewtonStep().fit(fit, X, y, w).influence(X[:6], y[:6])
        permuted = NewtonStep().fit(fit, X[order], y[order], w[order]).influence(X[:6], y[:6])
    scale = np.abs(values).max()
    assert np.abs(values[:, 0] - values[:, -1]).max() < 1e-10 * scale  # duplicates
    assert np.all(values[:, 5] == 0)
    np.testing.assert_allclose(permuted, values[:, order], atol=1e-10 * scale)


@given(st.integers(0, 2**31))
def test_unpenalised_influence_does_not_depend_on_the_parametrisation(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(50, 3))
    y = X @ [1.0, -1.0, 0.5] + rng.normal(size=50)
    B = rng.normal(size=(3, 3)) + 3 * np.eye(3)
    a = NewtonStep().fit(LinearRegression().fit(X, y), X, y).influence(X[:4], y[:4])
    b = NewtonStep().fit(LinearRegression().fit(X @ B, y), X @ B, y).influence(X[:4] @ B, y[:4])
    np.testing.assert_allclose(a, b, atol=1e-7 * np.abs(a).max())


def test_memory_blocks_do_not_change_the_result(cancer):
    X, y, X_test, y_test = cancer
    model = LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-12).fit(X, y)
    whole = LeaveOneOut().fit(model, X, y)
    blocks = LeaveOneOut().fit(model, X, y, memory_limit=60_000)
    np.testing.assert_allclose(
        blocks.influence(X_test, y_test), whole.influence(X_test, y_test), atol=1e-9
    )
    assert blocks._changes is None
    pd.testing.assert_frame_equal(
        blocks.rank(X_test[:9], y_test[:9], k=2, per_test=True),
        whole.rank(X_test[:9], y_test[:9], k=2, per_test=True), rtol=1e-6,
    )  # fmt: skip
    with pytest.raises(MemoryError, match="index_sets"):
        blocks.parameter_change()


# --- the face: tables, frames, refusals ----------------------------------------------------------------


def test_tables_carry_the_names_of_the_records(diabetes):
    X = pd.DataFrame(diabetes[0]).add_prefix("v")
    X.index = [f"patient {i}" for i in range(len(X))]
    y = pd.Series(diabetes[1], index=X.index)
    step = NewtonStep().fit(make_pipeline(StandardScaler(), Ridge()).fit(X, y), X, y)
    table = step.rank(X[:50], y[:50], k=4)
    assert list(table.columns) == ["rank", "row", "label", "influence", "effect"]
    mean = step.influence(X[:50], y[:50]).mean(axis=0)
    assert table["row"].tolist() == np.argsort(-np.abs(mean))[:4].tolist()
    assert table["label"].tolist() == [f"patient {i}" for i in table["row"]]
    np.testing.assert_allclose(table["influence"], mean[table["row"]])
    assert ((table["effect"] == "helps") == (table["influence"] > 0)).all()
    helpful = step.rank(X[:50], y[:50], k=3, by="helpful")["influence"]
    assert helpful.tolist() == sorted(mean, reverse=True)[:3]
    assert step.to_frame(X[:2], y[:2]).loc["patient 1", "patient 9"] == pytest.approx(
        step.influence(X[:2], y[:2])[1, 9]
    )
    text = step.summary().as_text()
    assert "Newton step" in text
    assert "max_leverage" in text.replace(" ", "_")
    groups = np.arange(len(y)) % 3
    by_group = step.influence(X[:3], y[:3], groups=groups)
    np.testing.assert_allclose(
        by_group, step.group_influence([groups == g for g in range(3)], X[:3], y[:3])
    )


def test_self_influence_is_the_diagonal(small_models):
    for name in ("ridge", "softmax", "poisson"):
        model, X, y, w = small_models[name]
        loo = LeaveOneOut().fit(model, X, y, w)
        np.testing.assert_allclose(loo.self_influence(), np.diag(loo.influence(X, y)), atol=1e-10)


def test_other_models_go_through_clones():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(25, 2)), rng.normal(size=25)
    tree = DecisionTreeRegressor(max_depth=2, random_state=0)
    loo = LeaveOneOut(warm_start=False, random_state=0).fit(tree, X, y)
    other = clone(tree).fit(np.delete(X, 4, 0), np.delete(y, 4)).predict(X[:3])
    full = clone(tree).fit(X, y).predict(X[:3])
    expected = ((y[:3] - other) ** 2 - (y[:3] - full) ** 2) / 2
    np.testing.assert_allclose(loo.influence(X[:3], y[:3])[:, 4], expected, atol=1e-12)
    with pytest.raises(TypeError, match="warm_start=True"):
        loo.parameter_change()


def test_a_class_that_disappears_is_reported_and_is_nan(small_models):
    _, X, y, _ = small_models["softmax"]
    keep = np.append(np.flatnonzero(y != 2), np.flatnonzero(y == 2)[:1])
    model = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X[keep], y[keep])
    with pytest.warns(UserWarning, match="a class disappears"):
        loo = LeaveOneOut().fit(model, X[keep], y[keep])
    values = loo.influence(X[:3], y[:3])
    assert np.isnan(values[:, -1]).all()
    assert np.isfinite(values[:, :-1]).all()


def test_a_record_that_alone_carries_a_parameter_is_nan():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=12), np.arange(12) == 4])
    y = rng.normal(size=12)
    model = LinearRegression().fit(X, y)
    for method in (NewtonStep(), LeaveOneOut()):
        with pytest.warns(UserWarning, match="NaN"):
            method.fit(model, X, y)
        values = method.influence(X[:2], y[:2])
        assert np.isnan(values[:, 4]).all()
        assert np.isfinite(np.delete(values, 4, axis=1)).all()


def test_a_fit_that_stopped_early_is_noticed(cancer):
    X, y, *_ = cancer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(max_iter=2).fit(X, y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        NewtonStep().fit(model, X, y)

    assert any("not at its optimum" in str(w.message) for w in caught)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s, X, y: s.influence(X[:2]), ValueError, "y_test must be given"),
        (lambda s, X, y: s.influence(X[:2], y[:2], target="odds"), ValueError, "target must be"),
        (lambda s, X, y: s.influence(X[:2, :3], y[:2]), ValueError, "features"),
        (lambda s, X, y: s.group_influence([[0, 0]], X, y), ValueError, "names a record twice"),
        (lambda s, X, y: s.group_influence([[999]], X, y), ValueError, "positions in 0..441"),
        (lambda s, X, y: s.group_influence([[0.5]], X, y), ValueError, "positions or a mask"),
        (lambda s, X, y: s.influence(X, y, groups=[1, 2]), ValueError, "one label for each"),
        (lambda s, X, y: s.rank(X, y, by="size"), ValueError, "by must be"),
        (lambda s, X, y: s.influential(X, y), TypeError, "deterministic"),
        (lambda s, X, y: s.functional_influence(3), TypeError, "callable"),
        (lambda s, X, y: NewtonStep(order=3).fit(Ridge().fit(X, y), X, y), ValueError, "order"),
        (
            lambda s, X, y: NewtonStep().fit(KNeighborsClassifier().fit(X, y > 100), X, y > 100),
            TypeError, "KNNShapley",
        ),
        (lambda s, X, y: NewtonStep().fit(Ridge().fit(X, y)), ValueError, "X and y must hold"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(diabetes, call, error, message):
    X, y = diabetes
    step = NewtonStep().fit(Ridge().fit(X, y), X, y)
    with pytest.raises(error, match=message):
        call(step, X, y)


def test_an_unfitted_method_says_so(diabetes):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        NewtonStep().influence(*diabetes)


def test_methods_clone_and_pickle(diabetes):
    import pickle

    X, y = diabetes
    loo = LeaveOneOut(alpha_convention="mean").fit(Ridge().fit(X, y), X, y)
    assert clone(loo).get_params()["alpha_convention"] == "mean"
    again = pickle.loads(pickle.dumps(NewtonStep().fit(make_oracle(
        sm.OLS(y, sm.add_constant(X)).fit()
    ))))  # fmt: skip
    assert again.influence(sm.add_constant(X)[:2], y[:2]).shape == (2, 442)
