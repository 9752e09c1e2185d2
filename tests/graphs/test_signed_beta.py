"""The signed beta-model: reference numbers, invariances, existence, equality of dense and fast paths."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from statml.datasets import load_sampson, make_signed_network
from statml.graphs import SignedBetaModel, SparseLogit
from statml.graphs.network import as_network

EIGHT = np.array(
    [
        [0, 0, 0, 1, 0, -1, 1, 0],
        [0, 0, 0, 0, 1, -1, 1, 1],
        [1, 1, 0, 0, -1, -1, 1, -1],
        [-1, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 1, 0],
        [0, -1, 0, -1, 0, 1, 0, 0],
        [0, -1, 0, 0, -1, 0, 1, 0],
    ]
)
SOLVERS = ("dense", "chebyshev")


# --- reference numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_eight_node_network_has_the_reference_solution(solver):
    ee = SignedBetaModel(estimator="ee", rho=0.9, solver=solver, tol=1e-10).fit(EIGHT)
    assert ee.out_status_ == pytest.approx(
        [0.38534029, 0.75852545, 0.02348266, 0.07732417, 0.33128404, 0.70378838, -0.04610302, -0.34561709],
        abs=2e-8,
    )  # fmt: skip
    assert ee.in_status_ == pytest.approx(
        [-0.2137524, -0.16096703, -0.26706968, 0.07206828, -0.55321388, -0.49710513, 1.93849967, -0.31845983],
        abs=2e-8,
    )  # fmt: skip
    assert ee.loglik_ == pytest.approx(-49.70244656, abs=1e-8)
    one = SignedBetaModel(rho=0.9, solver=solver, tol=1e-10).fit(EIGHT)
    assert one.in_status_ == pytest.approx(
        [-0.21937245, -0.16576693, -0.2729211, 0.08152184, -0.53769329, -0.51105449, 1.95196512, -0.32667869],
        abs=2e-8,
    )  # fmt: skip
    assert one.loglik_ == pytest.approx(-49.68656190, abs=1e-8)
    assert one.in_status_se_[[0, 6]] == pytest.approx([0.60306906, 1.12314523], abs=1e-8)
    mle = SignedBetaModel(estimator="mle", rho=0.9, solver=solver, tol=1e-10).fit(EIGHT)
    assert mle.loglik_ == pytest.approx(-49.68580038, abs=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_eight_node_network_has_the_reference_solution_in_the_trinomial_family(solver):
    g = -1.25
    rho = np.exp(g) / (1 + np.exp(2 * g))
    fits = [
        SignedBetaModel("trinomial", e, rho, solver=solver, tol=1e-10).fit(EIGHT)
        for e in ("ee", "one-step", "mle")
    ]
    for fit in fits:  # the likelihood is concave, and net degrees are its equations
        assert fit.in_status_ == pytest.approx(
            [-0.21647834, -0.1512138, -0.28044592, 0.14481815, -0.64190295, -0.5759841, 2.06416233, -0.34295537],
            abs=2e-8,
        )  # fmt: skip


def test_sampson_has_the_reference_ranking():
    monks = SignedBetaModel().fit(load_sampson())
    assert monks.rho_ == 1.0
    table = monks.tidy().set_index("term")
    top = {"Bonaventure": 1.159, "Boniface": 0.981, "Ambrose": 0.832, "John": 0.684}
    bottom = {"Amand": -0.565, "Elias": -1.085, "Simplicius": -1.102, "Basil": -1.435}
    for name, value in {**top, **bottom}.items():
        assert table.loc[f"in[{name}]", "estimate"] == pytest.approx(value, abs=1e-3)
    assert table.loc["in[Bonaventure]", "std_error"] == pytest.approx(0.406, abs=1e-3)
    assert table.loc["in[Basil]", "std_error"] == pytest.approx(0.427, abs=1e-3)
    ranks = monks.rank()
    assert ranks["node"].head(4).tolist() == list(top)
    assert set(ranks["node"].tail(4)) == set(bottom)
    assert monks.compare_many(q=0.1, method="bh").n_rejected == 42


def test_estimate_maximises_an_independent_likelihood():
    """scipy's optimiser on the likelihood written out pair by pair, for a joint fit of rho as well."""
    data = make_signed_network(25, 0.7, 0.8, 0.8, random_state=3)
    a = data.adjacency.toarray()
    n = len(a)
    off = ~np.eye(n, dtype=bool)
    fit = SignedBetaModel("trinomial", tol=1e-10).fit(a)

    def negative_log_likelihood(theta):
        x = theta[:n, None] + theta[None, n : 2 * n]
        log_rho = theta[-1]
        normaliser = np.log1p(np.exp(log_rho) * (np.exp(x) + np.exp(-x)))
        return -(a * x + np.abs(a) * log_rho - normaliser)[off].sum()

    best = scipy.optimize.minimize(negative_log_likelihood, np.zeros(2 * n + 1), method="BFGS")
    assert fit.loglik_ == pytest.approx(-best.fun, abs=1e-6)
    assert fit.rho_ == pytest.approx(np.exp(best.x[-1]), rel=1e-3)
    centred = best.x[n : 2 * n] - best.x[n : 2 * n].mean()
    assert fit.in_status_ == pytest.approx(centred, abs=2e-3)


def test_conditional_family_is_a_logistic_regression_on_the_edges():
    import statsmodels.api as sm

    data = make_signed_network(15, 0.9, 0.5, 0.5, random_state=0)
    a = data.adjacency.tocoo()
    i, j = a.coords
    fit = SignedBetaModel("conditional", tol=1e-10).fit(data.adjacency)
    design = np.hstack([np.eye(15)[i], np.eye(15)[j][:, 1:]])
    glm = sm.GLM((a.data > 0).astype(float), design, family=sm.families.Binomial()).fit(tol=1e-12)
    beta = np.r_[0, glm.params[15:]]
    assert fit.in_status_ == pytest.approx(beta - beta.mean(), abs=1e-6)
    assert fit.loglik_ == pytest.approx(glm.llf, abs=1e-8)
    # Standard errors of differences, and of the reported statuses, exactly as the generalised linear model's.
    cov = np.zeros((15, 15))
    cov[1:, 1:] = glm.cov_params()[15:, 15:]
    contrast = np.zeros(15)
    contrast[[3, 8]] = 1, -1
    assert fit.compare(3, 8).std_error == pytest.approx(
        np.sqrt(contrast @ cov @ contrast), rel=1e-6
    )
    centre = np.eye(15) - 1 / 15
    assert fit.in_status_se_ == pytest.approx(np.sqrt(np.diag(centre @ cov @ centre)), rel=1e-6)
    # out-status plus mean in-status, in the regression's own parameters
    full, gradient = glm.cov_params(), np.zeros((15, 29))
    gradient[:, :15] = np.eye(15)
    gradient[:, 15:] = 1 / 15
    assert fit.out_status_se_ == pytest.approx(
        np.sqrt(np.diag(gradient @ full @ gradient.T)), rel=1e-6
    )
    for cov_type, name, groups in (
        ("HC0", "sandwich", None),
        ("cluster", "dyad", np.minimum(i, j) * 15 + np.maximum(i, j)),
    ):
        keywords = {} if groups is None else {"groups": groups, "use_correction": False}
        robust = sm.GLM((a.data > 0).astype(float), design, family=sm.families.Binomial()).fit(
            tol=1e-12, cov_type=cov_type, cov_kwds=keywords or None
        )
        cov[1:, 1:] = robust.cov_params()[15:, 15:]
        ours = SignedBetaModel("conditional", cov=name, tol=1e-10).fit(data.adjacency)
        assert ours.compare(3, 8).std_error == pytest.approx(
            np.sqrt(contrast @ cov @ contrast), rel=1e-6
        )


@pytest.mark.parametrize("estimator", ["ee", "one-step"])
def test_leading_standard_errors_are_close_to_the_exact_ones(estimator):
    """What the formula 1/f_i + 1/f_j leaves out is of relative size 1/n."""
    data = make_signed_network(60, 0.6, 0.7, 0.7, random_state=1)
    n = 60
    fit = SignedBetaModel(estimator=estimator).fit(data.adjacency)
    x = fit.out_status_[:, None] + fit.in_status_[None, :]
    family, off = SparseLogit(), ~np.eye(n, dtype=bool)

    def system(kernel):
        w = getattr(family, kernel)(x, fit.rho_) * off
        return np.block([[np.diag(w.sum(1)), w], [w.T, np.diag(w.sum(0))]])

    if estimator == "ee":
        bread = np.linalg.pinv(system("mean_slope"))
        exact = bread @ system("variance") @ bread
    else:
        exact = np.linalg.pinv(system("information"))
    exact = exact[n:, n:]
    i, j = np.triu_indices(n, 1)
    variance = exact[i, i] + exact[j, j] - 2 * exact[i, j]
    assert fit._side("in").covariance.difference_variance(i, j) == pytest.approx(variance, rel=0.02)


# --- dense and fast paths ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sparse-logit", "trinomial"])
@pytest.mark.parametrize("estimator", ["ee", "one-step", "mle"])
def test_dense_and_fast_paths_agree(family, estimator):
    data = make_signed_network(150, 0.4, 1.2, 1.2, random_state=4)
    fits = [
        SignedBetaModel(family, estimator, solver=s, tol=1e-11).fit(data.adjacency) for s in SOLVERS
    ]
    for name in ("in_status_", "out_status_", "in_status_se_", "out_status_se_", "loglik_", "rho_"):
        assert getattr(fits[0], name) == pytest.approx(getattr(fits[1], name), rel=1e-8, abs=1e-8)
    for cov in ("sandwich", "dyad"):
        fits = [
            SignedBetaModel(family, estimator, cov=cov, solver=s, tol=1e-11).fit(data.adjacency)
            for s in SOLVERS
        ]
        assert fits[0].in_status_se_ == pytest.approx(fits[1].in_status_se_, rel=1e-8)
        assert fits[0].compare(1, 2).std_error == pytest.approx(
            fits[1].compare(1, 2).std_error, rel=1e-8
        )
    gofs = [f.gof().tests.set_index("test") for f in fits]
    assert gofs[0]["statistic"].to_numpy() == pytest.approx(
        gofs[1]["statistic"].to_numpy(), rel=1e-6
    )


def test_ridge_solutions_agree_and_solve_the_penalised_problem():
    data = make_signed_network(40, 0.5, 1.0, 1.0, random_state=5)
    a, l2, n = data.adjacency.toarray(), 1e-3, 40
    fits = [
        SignedBetaModel("trinomial", rho=0.3, l2=l2, solver=s, tol=1e-10).fit(a) for s in SOLVERS
    ]
    assert fits[0].in_status_ == pytest.approx(fits[1].in_status_, abs=1e-8)
    off = ~np.eye(n, dtype=bool)

    def objective(theta):
        alpha, beta = theta[:n], theta[n:]
        x = alpha[:, None] + beta[None, :]
        p = np.log1p(0.3 * (np.exp(x) + np.exp(-x)))
        log_likelihood = (a * x + np.abs(a) * np.log(0.3) - p)[off].mean()
        ridge = ((alpha - alpha.mean()) ** 2).sum() + ((beta - beta.mean()) ** 2).sum()
        return -log_likelihood + l2 / 2 * ridge

    best = scipy.optimize.minimize(
        objective, np.zeros(2 * n), method="BFGS", options={"gtol": 1e-9}
    )
    assert fits[0].in_status_ == pytest.approx(best.x[n:] - best.x[n:].mean(), abs=1e-4)


def test_sparse_input_is_never_made_dense():
    """100,000 nodes would need 80 GB as a matrix."""
    data = make_signed_network(100_000, rho=2e-4, alpha=0.3, beta=0.3, random_state=0)
    fit = SignedBetaModel("trinomial").fit(data.adjacency)
    assert fit.converged_
    assert np.corrcoef(fit.in_status_, data.beta)[0, 1] > 0.3


# --- invariances ------------------------------------------------------------------------------------

networks = st.integers(0, 10_000).map(
    lambda seed: make_signed_network(14, 0.9, 0.4, 0.4, random_state=seed).adjacency.toarray()
)
models = st.builds(
    SignedBetaModel,
    family=st.sampled_from(["sparse-logit", "trinomial", "conditional"]),
    estimator=st.sampled_from(["ee", "one-step", "mle"]),
    l2=st.sampled_from([0.003, 0.02]),
    cov=st.sampled_from(["model", "sandwich", "dyad"]),
    tol=st.just(1e-10),
)


def results(model, a):
    fit = clone(model).fit(a)
    return fit.out_status_, fit.in_status_, fit.out_status_se_, fit.in_status_se_


def level(out, into):
    """Out-statuses relative to their own mean: the part that no gauge touches."""
    return out - out.mean(), into - into.mean()


@given(a=networks, model=models)
def test_changing_all_signs_changes_the_sign_of_every_status(a, model):
    one, other = results(model, a), results(model, -a)
    for k in (0, 1):
        assert one[k] == pytest.approx(-other[k], abs=1e-7)
    for k in (2, 3):
        assert one[k] == pytest.approx(other[k], rel=1e-6)


@given(a=networks, model=models)
def test_transposing_swaps_the_sides(a, model):
    one, other = results(model, a), results(model, a.T)
    out, into = level(*one[:2])
    swapped_into, swapped_out = level(*other[:2])
    assert out == pytest.approx(swapped_out, abs=1e-7)
    assert into == pytest.approx(swapped_into, abs=1e-7)


@given(a=networks, model=models, seed=st.integers(0, 100))
def test_the_order_of_the_nodes_does_not_matter(a, model, seed):
    order = np.random.default_rng(seed).permutation(len(a))
    one, other = results(model, a), results(model, a[np.ix_(order, order)])
    for first, second in zip(one, other, strict=True):
        assert first[order] == pytest.approx(second, abs=1e-7)


@given(a=networks)
def test_self_loops_are_ignored(a):
    model = SignedBetaModel(l2=0.01)
    with pytest.warns(UserWarning, match="self-loop"):
        looped = results(model, a + np.eye(len(a), dtype=int))
    assert results(model, a)[1] == pytest.approx(looped[1], abs=1e-12)


@given(a=networks)
def test_net_degrees_are_matched(a):
    fit = SignedBetaModel(estimator="ee", family="trinomial", tol=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fit.fit(a)
    if len(fit.existence_):
        return
    n = len(a)
    edges = [(i, j) for i in range(n) for j in range(n) if i != j]
    p = fit.predict_proba(edges)
    expected = np.zeros((n, n))
    expected[tuple(np.array(edges).T)] = p[:, 2] - p[:, 0]
    assert expected.sum(axis=1) == pytest.approx(a.sum(axis=1), abs=1e-6)
    assert expected.sum(axis=0) == pytest.approx(a.sum(axis=0), abs=1e-6)
    assert (1 - p[:, 1]).sum() == pytest.approx(np.abs(a).sum(), abs=1e-6)


def test_nodes_with_equal_net_degrees_get_equal_estimates():
    a = np.zeros((12, 12), dtype=int)
    for i in range(12):  # a ring: every node sends and receives one of each sign
        a[i, (i + 1) % 12], a[i, (i + 2) % 12] = 1, -1
    a[0, 5] = a[6, 11] = 1
    fit = SignedBetaModel(estimator="ee", rho=0.5).fit(a)
    assert np.ptp(fit.out_status_[[1, 2, 3, 4]]) == pytest.approx(0, abs=1e-9)
    assert fit.out_status_[0] == pytest.approx(fit.out_status_[6], abs=1e-9)


def test_isolated_nodes_have_a_finite_status_where_absence_is_an_observation():
    a = np.zeros((30, 30), dtype=int)
    a[:20, :20] = make_signed_network(20, 0.9, 0.5, 0.5, random_state=2).adjacency.toarray()
    for family in ("sparse-logit", "trinomial"):
        fit = SignedBetaModel(family, estimator="ee", rho=0.6).fit(a)
        assert np.isfinite(fit.in_status_).all()
        assert np.ptp(fit.in_status_[20:]) == pytest.approx(0, abs=1e-9)


# --- existence --------------------------------------------------------------------------------------


def all_positive_from_zero():
    a = make_signed_network(20, 0.8, 0.3, 0.3, random_state=6).adjacency.toarray()
    a[0] = 1
    a[0, 0] = 0
    return a


@pytest.mark.parametrize("family", ["sparse-logit", "trinomial", "conditional"])
@pytest.mark.parametrize("estimator", ["ee", "one-step", "mle"])
def test_a_node_at_its_bound_is_named_with_the_remedy_and_not_estimated(family, estimator):
    names = [f"n{k}" for k in range(20)]
    frame = pd.DataFrame(all_positive_from_zero(), index=names, columns=names)
    with pytest.warns(UserWarning, match=r"out\[n0\] \(net degree 19, bound .*remedy: l2 > 0"):
        fit = SignedBetaModel(family, estimator).fit(frame)
    row = fit.existence_.set_index(["node", "side"]).loc[("n0", "out")]
    assert row["status"] == np.inf
    assert "bound" in row["reason"]
    assert fit.out_status_[0] == np.inf
    assert np.isnan(fit.out_status_se_[0])
    finite = np.isfinite(fit.out_status_)
    assert finite.sum() >= 15
    assert np.abs(fit.out_status_[finite]).max() < 15
    with pytest.raises(ValueError, match="n0 has no finite out-status"):
        fit.compare("n0", "n1", side="out")
    assert fit.predict_proba([("n0", "n1")])[0, 2] == pytest.approx(
        fit.rho_ if family == "sparse-logit" else 1.0
    )
    fit.summary().as_text()
    ridge = SignedBetaModel(family, estimator, l2=1e-3).fit(frame)
    assert np.isfinite(ridge.out_status_).all()
    assert len(ridge.existence_) == 0


def test_net_degree_beyond_the_bound_of_a_small_rho_is_found():
    a = all_positive_from_zero()
    a[0, 10:] = 0  # net degree 9 of 19, but rho = 0.4 allows less than 7.6
    with pytest.warns(UserWarning, match=r"out\[0\] \(net degree 9, bound 7.6\)"):
        SignedBetaModel(estimator="ee", rho=0.4).fit(a)


def test_where_no_status_is_finite_it_says_so():
    complete = 1 - np.eye(6, dtype=int)
    with pytest.raises(ValueError, match="no finite estimate exists.*l2 > 0"):
        SignedBetaModel("trinomial", rho=0.4).fit(complete)


def test_conditional_family_without_ridge_leaves_out_what_is_not_connected():
    block = make_signed_network(15, 0.95, 0.3, 0.3, random_state=7).adjacency.toarray()
    a = np.zeros((40, 40), dtype=int)
    a[:15, :15], a[20:35, 20:35] = block, block
    a[20, 21] = 0
    with pytest.warns(UserWarning, match="not connected to the largest part"):
        fit = SignedBetaModel("conditional").fit(a)
    assert np.isfinite(fit.in_status_[:15]).all()
    assert np.isnan(fit.in_status_[15:]).all()
    assert set(fit.existence_["reason"]) == {
        "no edges", "not connected to the largest part of the network",
    }  # fmt: skip
    assert np.isnan(fit.predict_proba([(0, 20)])).all()
    assert fit.predict_sign([(0, 20)])[0] == 0
    ridge = SignedBetaModel("conditional", l2=0.01).fit(a)
    assert np.isfinite(ridge.in_status_).all()


def test_rho_stays_within_its_range_on_a_dense_network():
    a = make_signed_network(40, 1.0, 0.5, 0.5, random_state=8).adjacency.toarray()
    a[a == 0] = np.where(np.random.default_rng(0).random((a == 0).sum()) < 0.5, 1, -1)
    np.fill_diagonal(a, 0)
    fit = SignedBetaModel().fit(a)
    assert fit.rho_ == 1.0
    assert fit.converged_


def test_too_few_iterations_are_reported():
    data = make_signed_network(50, 0.3, 2.0, 2.0, random_state=9)
    from sklearn.exceptions import ConvergenceWarning

    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        fit = SignedBetaModel("trinomial", tol=1e-12, max_iter=1).fit(data.adjacency)
    assert not fit.converged_


# --- prediction, sampling, results ------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    data = make_signed_network(60, 0.5, 1.0, 1.0, random_state=10)
    return SignedBetaModel(random_state=0).fit(data.adjacency)


def test_probabilities_sum_to_one_and_agree_with_the_predicted_sign(fitted):
    edges = np.array([(i, (i + k) % 60) for i in range(60) for k in (1, 7)])
    p = fitted.predict_proba(edges)
    assert p.shape == (120, 3)
    assert p.sum(axis=1) == pytest.approx(1)
    assert (fitted.predict_sign(edges) == np.where(p[:, 2] >= p[:, 0], 1, -1)).all()
    assert fitted.predict_proba(pd.DataFrame(edges)) == pytest.approx(p)


def test_score_is_the_area_under_the_roc_curve_of_held_out_signs(fitted):
    from sklearn.metrics import roc_auc_score

    edges = np.column_stack([fitted.network_.source, fitted.network_.target])
    sign = fitted.network_.sign
    p = fitted.predict_proba(edges)
    assert fitted.score(edges, sign) == pytest.approx(roc_auc_score(sign, p[:, 2] / p[:, 0]))
    with pytest.raises(ValueError, match=r"both \+1 and -1"):
        fitted.score(edges, np.ones(len(edges)))
    with pytest.raises(ValueError, match="2 rows"):
        fitted.score(edges[:2], [1, -1, 1])


@pytest.mark.parametrize("family", ["sparse-logit", "trinomial", "conditional"])
def test_samples_have_the_fitted_probabilities(family):
    data = make_signed_network(30, 0.6, 1.0, 1.0, random_state=11)
    fit = SignedBetaModel(family, l2=1e-4).fit(data.adjacency)
    reps = 300
    rng = np.random.default_rng(0)
    draws = np.array([fit.sample(rng).toarray() for _ in range(reps)])
    edges = np.array([(i, j) for i in range(30) for j in range(30) if i != j])
    if family == "conditional":
        edges = np.column_stack([fit.network_.source, fit.network_.target])
        assert (np.abs(draws) == np.abs(data.adjacency.toarray())).all()
    p = fit.predict_proba(edges)
    for column, sign in ((0, -1), (2, 1)):
        rate = (draws[:, edges[:, 0], edges[:, 1]] == sign).mean(axis=0)
        z = (rate - p[:, column]) / np.sqrt(
            np.maximum(p[:, column] * (1 - p[:, column]), 1e-3) / reps
        )
        # The mean square of standard scores over many pairs: 1, give or take its Monte-Carlo error.
        assert np.mean(z**2) == pytest.approx(1, abs=5 * np.sqrt(2 / len(edges)) + 0.05)


def test_sampling_is_fixed_by_the_seed(fitted):
    assert (fitted.sample(3) != fitted.sample(3)).nnz == 0
    assert (fitted.sample(3) != fitted.sample(4)).nnz > 0


def test_results_have_the_package_wide_form(fitted):
    tidy = fitted.tidy()
    assert list(tidy.columns) == [
        "term", "estimate", "std_error", "statistic", "p_value", "conf_low", "conf_high",
    ]  # fmt: skip
    assert len(tidy) == 120
    assert fitted.conf_int(0.9).loc[tidy["term"][0]].tolist() == pytest.approx(
        fitted.tidy(0.9).loc[0, ["conf_low", "conf_high"]].tolist()
    )
    glance = fitted.glance()
    assert len(glance) == 1
    assert glance["n_nodes"][0] == 60
    assert glance["aic"][0] == pytest.approx(-2 * fitted.loglik_ + 2 * 120)
    text = fitted.summary().as_text()
    assert "Signed beta-model" in text
    assert "sparse-logit" in text


def test_fitting_edges_equals_fitting_the_matrix(fitted):
    a = fitted.network_.adjacency.tocoo()
    other = SignedBetaModel().fit_edges(*a.coords, a.data, n_nodes=60)
    assert other.in_status_ == pytest.approx(fitted.in_status_, abs=1e-12)


def test_a_family_of_ones_own_can_be_given(fitted):
    class Renamed(SparseLogit):
        name = "renamed"

    own = SignedBetaModel(family=Renamed()).fit(fitted.network_)
    assert own.in_status_ == pytest.approx(fitted.in_status_)
    assert own.glance()["family"][0] == "renamed"


def test_the_estimator_can_be_cloned_and_pickled(fitted):
    import pickle

    copy = clone(SignedBetaModel(family="trinomial", l2=0.1))
    assert copy.get_params()["l2"] == 0.1
    again = pickle.loads(pickle.dumps(fitted))
    assert again.compare(1, 2) == fitted.compare(1, 2)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"family": "logit"}, "family must be"),
        ({"estimator": "map"}, "estimator must be"),
        ({"rho": 1.5}, "rho must be"),
        ({"rho": 0}, "rho must be"),
        ({"rho": "estimate"}, "rho must be"),
        ({"rho": 0.5, "family": "conditional"}, 'rho must be "auto"'),
        ({"l2": -1}, "l2 must be"),
        ({"l2": np.nan}, "l2 must be"),
        ({"solver": "fast"}, "solver must be"),
        ({"cov": "robust"}, "cov must be"),
        ({"tol": 0}, "tol must be"),
        ({"max_iter": 0}, "max_iter must be"),
        ({"interp_tol": 1}, "interp_tol must be"),
        ({"clip_step": 0}, "clip_step must be"),
    ],
)
def test_unusable_parameters_are_refused_by_name(parameters, message):
    with pytest.raises(ValueError, match=message):
        SignedBetaModel(**parameters).fit(EIGHT)


def test_unusable_requests_are_refused_by_name(fitted):
    with pytest.raises(ValueError, match="side must be"):
        fitted.rank(side="both")
    with pytest.raises(ValueError, match="level must be"):
        fitted.compare(1, 2, level=95)
    with pytest.raises(ValueError, match="same node"):
        fitted.compare(1, 1)
    with pytest.raises(ValueError, match=r"shape \(n_edges, 2\)"):
        fitted.predict_proba([1, 2, 3])
    with pytest.raises(ValueError, match="node with itself"):
        fitted.predict_proba([(1, 1)])
    with pytest.raises(NotFittedError):
        SignedBetaModel().predict_proba([(1, 2)])
    with pytest.raises(NotFittedError):
        SignedBetaModel().compare(1, 2)


def test_no_input_is_changed():
    a = sp.csr_array(EIGHT)
    before = a.copy()
    SignedBetaModel("trinomial").fit(a)
    assert (a != before).nnz == 0
    network = as_network(EIGHT)
    assert as_network(network) is network


@given(seed=st.integers(0, 1000), rho=st.floats(0.3, 1), half=st.floats(0, 2))
def test_one_step_never_lowers_the_likelihood(seed, rho, half):
    a = make_signed_network(18, rho, half, half, random_state=seed).adjacency
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ee = SignedBetaModel(estimator="ee").fit(a)
        except ValueError:  # no status at all is finite, and the other estimator says so too
            with pytest.raises(ValueError, match="no finite estimate exists"):
                SignedBetaModel(estimator="one-step").fit(a)
            return
        one = SignedBetaModel(estimator="one-step").fit(a)
    assert one.loglik_ >= ee.loglik_ - 1e-9


def test_a_status_whose_likelihood_rises_without_end_is_named():
    """The likelihood of the sparse logit may have no maximum where the estimating equation has a solution."""
    named = []
    for seed in range(12):
        a = make_signed_network(18, 0.4, 1.0, 1.0, random_state=seed).adjacency
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit = SignedBetaModel(estimator="mle").fit(a)
        finite = np.isfinite(fit.in_status_)
        assert np.abs(fit.in_status_[finite]).max() < 50
        assert np.isfinite(fit.in_status_se_[finite]).all()
        rises = fit.existence_["reason"].str.contains("rises without end")
        named += fit.existence_["node"][rises].tolist()
        assert bool(len(fit.existence_)) == any("no finite" in str(w.message) for w in caught)
    assert named  # it does happen in networks this small and sparse
