"""Intervals: reference identities, coverage by simulation, and warnings where they fail.

Populations have finite support, so that their group DRO solution is a weighted fit and exact.
"""

import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from statml.group_robust import GroupDROClassifier, GroupDRORegressor
from statml.group_robust.inference import kkt_inference
from statml.group_robust.losses import MultinomialLogLoss
from statml.group_robust.solver import Problem, solve
from statml.parallel import parallel_map

SIZES = (600, 300, 200)


def population(kind):
    """Rows X, y, group and their probability within the group; groups 0 and 2 want opposite slopes."""
    rng = np.random.default_rng(0)
    X, y, groups, probability = [], [], [], []
    slopes = np.array([[2.0, 0.0], [1.0, 1.0], [-1.0, 1.5]])
    for g in range(3):
        x = rng.normal(size=(20, 2))
        z = x @ slopes[g] * (3 if g == 1 and kind == "logistic" else 1)
        for value in (0, 1):
            X.append(x)
            groups.append(np.full(20, g))
            if kind == "logistic":
                y.append(np.full(20, value))
                probability.append(1 / (1 + np.exp(z if value == 0 else -z)) / 20)
            else:
                sd = (1.0, 0.3, 1.2)[g]
                y.append(z + sd * (2 * value - 1))
                probability.append(np.full(20, 1 / 40))
    return np.vstack(X), *map(np.concatenate, (y, groups, probability))


def estimator(kind, **parameters):
    return (GroupDROClassifier if kind == "logistic" else GroupDRORegressor)(**parameters)


def estimates(model):
    """Coefficients, weights and level, in the order of tidy()."""
    return np.r_[model._solution.w.ravel(), model.group_weights_, model._level()]


def truth(kind, parameters):
    X, y, groups, probability = population(kind)
    weight = probability * np.array(SIZES)[groups]
    return estimator(kind, **parameters, tol=1e-12).fit(X, y, groups, sample_weight=weight)


def draw(kind, rng):
    X, y, groups, probability = population(kind)
    rows = np.concatenate(
        [
            rng.choice(np.flatnonzero(groups == g), n, p=probability[groups == g])
            for g, n in enumerate(SIZES)
        ]
    )
    return X[rows], y[rows], groups[rows]


def covered(task, rng):
    """Which intervals of one sample cover; NaN where there is none."""
    kind, parameters, inference, target = task
    fit = estimator(kind, **parameters, random_state=rng).fit(*draw(kind, rng))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = fit.tidy(inference=inference)
    inside = (table["conf_low"] <= target) & (target <= table["conf_high"])
    return np.where(table["conf_low"].isna(), np.nan, inside)


def coverage(kind, parameters, n_draws, seed, inference="sandwich"):
    population_fit = truth(kind, parameters)
    task = kind, parameters, inference, estimates(population_fit)
    hits = np.array(parallel_map(covered, [task] * n_draws, random_state=seed))
    return hits, population_fit


DESIGNS = [
    ("logistic", {}),
    ("squared", {"l2": 0}),
    ("squared", {"offset": "excess"}),
    ("squared", {"offset": "null"}),
    ("squared", {"alpha": 0.7}),
    ("logistic", {"offset": [0.05, 0.0, 0.0]}),
]


def assert_coverage(hits, n_errors):
    """Every term within Monte-Carlo errors of 95 %; bias of first-order theory up to 1 %. Returns the rates.

    A weight that stands on its bound in the population has no interval in most samples, and is left out.
    """
    rate = np.nanmean(hits[:, np.isnan(hits).mean(axis=0) < 0.5], axis=0)
    error = np.sqrt(0.95 * 0.05 / len(hits))
    assert len(rate) >= 4
    assert np.abs(rate - 0.95).max() <= n_errors * error + 0.01
    return rate


def test_intervals_cover_in_every_design():
    pooled = []
    for seed, (kind, parameters) in enumerate(DESIGNS):
        hits, _ = coverage(kind, parameters, 40, seed)
        assert_coverage(hits, 4)  # some thirty terms
        pooled.append(np.nanmean(hits, axis=1))
    pooled = np.concatenate(pooled)  # draws are independent, terms within one are not
    error = pooled.std(ddof=1) / np.sqrt(len(pooled))
    assert abs(pooled.mean() - 0.95) <= 3 * error + 0.005


@pytest.mark.slow
@pytest.mark.parametrize("design", range(len(DESIGNS)))
def test_coverage_of_every_term_is_between_92_and_98_percent(design):
    kind, parameters = DESIGNS[design]
    hits, _ = coverage(kind, parameters, 1500, 100 + design)
    rate = assert_coverage(hits, 3)
    assert rate.min() > 0.92
    assert rate.max() < 0.98


def test_standard_errors_are_the_spread_of_the_estimates():
    kind, parameters = "squared", {"l2": 0}
    fits = [
        estimator(kind, **parameters).fit(*draw(kind, np.random.default_rng(seed)))
        for seed in range(120)
    ]
    spread = np.std([estimates(fit) for fit in fits], axis=0, ddof=1)
    variance = np.array([fit.tidy()["std_error"] ** 2 for fit in fits])
    active = ~np.isnan(variance).any(axis=0)
    assert active.sum() == 6  # all but the weight of the inactive group
    stated = np.sqrt(variance.mean(axis=0))
    # relative error of a standard deviation of 120 draws: 1 / sqrt(240) = 0.065
    np.testing.assert_allclose(stated[active], spread[active], rtol=0.26)


@pytest.mark.parametrize("kind", ["logistic", "squared"])
def test_variance_of_the_worst_loss_is_the_envelope_without_a_penalty(kind):
    """At a saddle point neither w nor q moves the value to first order: only the losses themselves do."""
    X, y, groups = draw(kind, np.random.default_rng(1))
    fit = estimator(kind, l2=0, tol=1e-12).fit(X, y, groups)
    problem = fit._problem
    losses, codes = fit._solution.point.losses, problem.groups.codes
    expected = sum(
        q**2 * losses[codes == g].var(ddof=1) / (codes == g).sum()
        for g, q in enumerate(fit.group_weights_)
    )
    error = fit.tidy().iloc[-1]["std_error"]
    assert error**2 == pytest.approx(expected, rel=1e-8)


def test_one_group_has_the_heteroskedasticity_robust_errors_of_least_squares():
    X, y, _ = draw("squared", np.random.default_rng(2))
    fit = GroupDRORegressor(l2=0).fit(X, y)
    theirs = sm.OLS(y, sm.add_constant(X, prepend=False)).fit(cov_type="HC0")
    factor = np.sqrt(len(y) / (len(y) - 1))
    errors = fit.tidy().set_index("term")["std_error"][["x0", "x1", "intercept"]]
    np.testing.assert_allclose(errors, theirs.bse * factor, rtol=1e-8)


def test_multinomial_loss_of_two_classes_has_the_binary_errors():
    X, y, groups = draw("logistic", np.random.default_rng(3))
    binary = GroupDROClassifier(l2=1e-2).fit(X, y, groups)
    # the symmetric coefficients are -w/2 and w/2, whose squared norm is half that of w
    given = binary._problem
    problem = Problem(given.X, given.y, MultinomialLogLoss(2), given.groups, 2e-2, True)
    solution = solve(problem, np.zeros(3), np.ones(3), tol=1e-12)
    np.testing.assert_allclose(solution.w[:2, 1] - solution.w[:2, 0], binary.coef_[0], atol=1e-7)
    n = len(problem.y)
    result = kkt_inference(
        problem, solution.w, solution.q, np.zeros(3), np.zeros((n, 1)), np.ones(3), np.arange(3)
    )
    contrast = np.kron(np.eye(3), [-1.0, 1.0])
    errors = np.sqrt(np.diag(contrast @ result.covariance[:6, :6] @ contrast.T))
    expected = binary.tidy().set_index("term")["std_error"][["x0", "x1", "intercept"]]
    np.testing.assert_allclose(errors, expected, rtol=1e-6)


def test_simultaneous_loss_intervals_cover_all_groups_at_once():
    target = truth("squared", {}).group_losses_

    def all_inside(_, rng):
        fit = estimator("squared").fit(*draw("squared", rng))
        table = fit.group_table(level=0.9)
        return bool(((table["conf_low"] <= target) & (target <= table["conf_high"])).all())

    hits = [all_inside(None, np.random.default_rng([7, k])) for k in range(120)]
    error = np.sqrt(0.9 * 0.1 / 120)
    assert np.mean(hits) >= 0.9 - 3 * error - 0.01


# --- tables -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fit():
    X, y, groups = draw("logistic", np.random.default_rng(0))
    frame = pd.DataFrame(X, columns=["age", "hours"])
    return GroupDROClassifier().fit(frame, y, np.array(["a", "b", "c"])[groups])


def test_tidy_has_coefficients_weights_and_the_worst_loss(fit):
    table = fit.tidy()
    assert table["term"].tolist() == [
        "age", "hours", "intercept", "q[a]", "q[b]", "q[c]", "worst-group loss",
    ]  # fmt: skip
    assert table["estimate"].iloc[-1] == pytest.approx(fit.worst_group_loss_, abs=1e-8)
    inactive = table.set_index("term").loc["q[b]"]
    assert inactive["estimate"] == 0
    assert np.isnan(inactive["std_error"])
    wide = fit.conf_int(level=0.99)
    assert (wide["conf_low"] < fit.conf_int()["conf_low"]).drop("q[b]").all()


def test_summary_and_glance_say_what_was_fitted(fit):
    text = fit.summary().as_text()
    assert "Group DRO, log loss" in text
    assert "worst-group loss" in text
    assert "Intervals are for the penalised coefficients, l2 = 0.001." in text
    row = fit.glance().iloc[0]
    assert row["n_obs"] == 1100
    assert (row["n_groups"], row["n_active"]) == (3, 2)
    assert row["duality_gap"] == fit.duality_gap_


def test_level_is_named_after_what_was_minimised():
    X, y, groups = draw("squared", np.random.default_rng(0))
    fit = GroupDRORegressor(alpha=0.7, offset="excess").fit(X, y, groups)
    assert fit._terms()[-1] == "CVaR of group losses with offset"


def test_group_table_holds_every_loss(fit):
    table = fit.group_table()
    np.testing.assert_allclose(table["loss"], fit.group_losses_)
    np.testing.assert_allclose(table["weight"], fit.group_weights_)
    assert (table["conf_low"] < table["loss"]).all()
    narrow = fit.group_table(level=0.5)
    assert (narrow["conf_low"] > table["conf_low"]).all()


# --- where the normal limit fails -------------------------------------------------------------------


def tied():
    """Two groups; the second ties in the population's optimum of the first without having weight."""
    X, y, groups, probability = population("squared")
    keep = groups < 2
    first = groups == 0
    alone = GroupDRORegressor(l2=0).fit(X[first], y[first], sample_weight=probability[first])
    residual = (y - alone.predict(X)) ** 2
    losses = [np.average(residual[groups == g], weights=probability[groups == g]) for g in (0, 1)]
    offset = [0.0, losses[0] - losses[1]]
    return X[keep], y[keep], groups[keep], probability[keep], offset, losses[0]


def draw_tied(rng, n=800):
    X, y, groups, probability, offset, _ = tied()
    rows = np.concatenate(
        [rng.choice(np.flatnonzero(groups == g), n, p=probability[groups == g]) for g in (0, 1)]
    )
    return GroupDRORegressor(l2=0, offset=offset, random_state=0).fit(
        X[rows], y[rows], groups[rows]
    )


def test_a_tie_without_weight_is_warned_of():
    n_warned = 0
    for seed in range(20):
        fit = draw_tied(np.random.default_rng(seed))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit.tidy()
            fit.tidy()
        messages = [str(w.message) for w in caught]
        assert len(messages) <= 1  # once a fit
        n_warned += any("within its error of a" in message for message in messages)
    assert n_warned >= 17  # a test at 5 % that the tie is none fails to see it now and then
    assert "In doubt" in fit.summary().as_text()


@pytest.mark.slow
def test_subsampled_intervals_cover_the_level_at_a_tie():
    *_, level = tied()
    hits = []
    for seed in range(200):
        fit = draw_tied(np.random.default_rng([1, seed]))
        fit.subsample(n_subsamples=100, progress=False)
        low, high = fit.conf_int(inference="subsample").iloc[-1]
        hits.append(low <= level <= high)
    error = np.sqrt(0.95 * 0.05 / 200)
    assert np.mean(hits) >= 0.95 - 3 * error


def test_subsample_agrees_with_the_sandwich_in_a_regular_case():
    X, y, groups = draw("squared", np.random.default_rng(0))
    fit = GroupDRORegressor(random_state=0).fit(X, y, groups)
    fit.subsample(n_subsamples=200, fraction=0.3, progress=False)
    regular, sub = fit.tidy(), fit.tidy(inference="subsample")
    known = regular["std_error"].notna()
    np.testing.assert_allclose(
        sub.loc[known, "std_error"], regular.loc[known, "std_error"], rtol=0.25
    )
    assert sub["estimate"].tolist() == regular["estimate"].tolist()
    assert "Intervals from subsamples." in fit.summary(inference="subsample").as_text()


def test_subsamples_depend_on_the_seed_alone_and_resume(tmp_path):
    X, y, groups = draw("squared", np.random.default_rng(0))
    fit = GroupDRORegressor().fit(X, y, groups)
    options = {"n_subsamples": 4, "random_state": 3, "progress": False}
    one = fit.subsample(**options).deviations
    np.testing.assert_array_equal(fit.subsample(**options, n_jobs=2).deviations, one)
    kept = fit.subsample(**options, checkpoint_dir=tmp_path).deviations
    np.testing.assert_array_equal(kept, one)
    np.testing.assert_array_equal(fit.subsample(**options, checkpoint_dir=tmp_path).deviations, one)
    other = GroupDRORegressor(l2=0.5).fit(X, y, groups)
    with pytest.raises(ValueError, match="checkpoint_dir .* holds another run"):
        other.subsample(**options, checkpoint_dir=tmp_path)


def test_subsamples_of_soft_groups_are_drawn_from_all_rows():
    X, y, groups = draw("squared", np.random.default_rng(0))
    soft = 0.9 * np.eye(3)[groups] + 0.1 / 3
    fit = GroupDRORegressor().fit(X, y, group_weights=soft)
    table = fit.subsample(n_subsamples=20, random_state=0, progress=False).table()
    assert (table["conf_low"] <= table["conf_high"]).all()
    assert np.isfinite(table["std_error"]).all()


def test_a_group_of_one_row_and_too_many_columns_are_doubted():
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(60, 2)), np.r_[np.zeros(59), 1]
    y = X[:, 0] + rng.normal(size=60) + 8 * groups
    with pytest.warns(UserWarning, match=r"group 1\.0 has weight but one row only"):
        GroupDRORegressor().fit(X, y, groups).tidy()
    wide = rng.normal(size=(60, 30))
    with pytest.warns(UserWarning, match="31 parameters are many for 60 rows"):
        GroupDRORegressor().fit(wide, y).tidy()


def test_bad_arguments_are_named(fit):
    with pytest.raises(ValueError, match='inference must be "sandwich" or "subsample"'):
        fit.tidy(inference="bootstrap")
    with pytest.raises(ValueError, match="level must be a number strictly between 0 and 1"):
        fit.conf_int(level=95)
    with pytest.raises(ValueError, match="fraction must be a finite number in"):
        fit.subsample(fraction=1.0)
    with pytest.raises(ValueError, match="n_subsamples must be an integer >= 2"):
        fit.subsample(n_subsamples=1)
