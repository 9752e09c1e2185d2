"""The ready-made estimators: the same posteriors as the composed ones, from releases as people have them."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone

from statml.privacy import (
    PrivateContingencyTable,
    PrivateLinearRegression,
    PrivateNaiveBayes,
    PrivatePosterior,
    PrivateProportion,
    mechanisms,
    models,
)
from statml.privacy.estimators.linear_regression import flat_moments, priors_from_bounds

QUICK = {"draws": 300, "tune": 200, "chains": 2, "random_state": 0, "progress": False}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*effective draws:UserWarning", "ignore:the chains do not agree"
)


def test_a_proportion_is_a_beta_bernoulli_posterior():
    noise = mechanisms.DiscreteLaplace(2.0)
    fit = PrivateProportion(noise, 30, a=2, b=3, **QUICK).fit(17)
    composed = PrivatePosterior(models.BetaBernoulli(2, 3), noise, 30, **QUICK).fit(17)
    np.testing.assert_array_equal(fit.draws_of(), composed.draws_of())
    assert fit.proportion_ == composed.posterior_mean_[0]
    answers = mechanisms.RandomizedResponse(epsilon=1.0, n_categories=2, counts=True)
    survey = PrivateProportion(answers, 200, a=2, b=3, **QUICK | {"draws": 5000}).fit([88, 112])
    # the exact posterior of a survey with 112 ones among 200 answers at epsilon 1
    assert survey.posterior_mean_[0] == pytest.approx(0.607954, abs=4 * 0.0723 / np.sqrt(10_000))
    assert survey.posterior_sd_[0] == pytest.approx(0.072270, rel=0.04)
    assert clone(survey).get_params()["a"] == 2
    assert "p" in fit.summary().as_text()


def test_a_table_keeps_its_labels_and_its_shape():
    noise = mechanisms.DiscreteGaussian(6.25)
    release = pd.DataFrame({"admitted": [131, 47], "refused": [119, 122]}, index=["men", "women"])
    fit = PrivateContingencyTable(noise, 400, **QUICK | {"draws": 4000}).fit(release)
    assert fit.table_.index.tolist() == ["men", "women"]
    # release in row-major order: (131, 119, 47, 122)
    exact = [[0.314975, 0.285272], [0.107054, 0.292698]]
    np.testing.assert_allclose(fit.table_, exact, atol=4 * 0.027 / np.sqrt(8000))
    assert fit.tidy()["term"].tolist() == [
        "men, admitted", "men, refused", "women, admitted", "women, refused"
    ]  # fmt: skip
    share = fit.conditional(axis=1)
    assert share["estimate"][:2].sum() == pytest.approx(1)
    assert share["estimate"].iloc[0] == pytest.approx(0.3150 / 0.6002, abs=0.01)
    p = fit.draws_of().to_numpy()
    ratio = p[:, 0] * p[:, 3] / (p[:, 1] * p[:, 2])
    row = fit.odds_ratio(level=0.9).iloc[0]
    assert [row["conf_low"], row["estimate"], row["conf_high"]] == pytest.approx(
        np.quantile(ratio, [0.05, 0.5, 0.95]), rel=1e-3
    )
    three = PrivateContingencyTable(noise, 400, alpha=np.ones((2, 3)), **QUICK)
    three.fit(np.array([[60, 70, 80], [50, 60, 70]]))
    assert three.table_.shape == (2, 3)
    assert three.conditional(axis=0)["estimate"].sum() == pytest.approx(3)
    with pytest.raises(ValueError, match="odds_ratio needs a 2 by 2 table"):
        three.odds_ratio()
    cube = PrivateContingencyTable(noise, 400, **QUICK).fit(np.full((2, 2, 2), 50))
    assert cube.table_.shape == (2, 2, 2)


def test_a_table_of_randomised_answers_needs_its_shape():
    answers = np.repeat([0, 1, 2, 3], [104, 120, 74, 102])
    bit = np.array([[0.75, 0.25], [0.25, 0.75]])
    mechanism = mechanisms.RandomizedResponse(np.kron(bit, bit))
    fit = PrivateContingencyTable(mechanism, 400, shape=(2, 2), **QUICK | {"draws": 4000}).fit(
        answers
    )
    assert fit.kernel_ == "gibbs"
    np.testing.assert_allclose(
        fit.table_.to_numpy().ravel(), [0.2819, 0.3362, 0.1101, 0.2718], atol=0.02
    )
    with pytest.raises(ValueError, match="shape must be given"):
        PrivateContingencyTable(mechanism, 400, **QUICK).fit(answers)
    with pytest.raises(ValueError, match=r"must be a table of shape \(2, 2\)"):
        PrivateContingencyTable(mechanisms.DiscreteLaplace(1), 9, shape=(2, 2), **QUICK).fit(
            [1, 2, 3, 3]
        )


def test_naive_bayes_classifies_by_the_posterior_predictive():
    tables = [np.array([[40, 8], [10, 42]]), np.array([[30, 15, 5], [4, 16, 30]])]
    fit = PrivateNaiveBayes(mechanisms.DiscreteLaplace(0.05), 100, **QUICK | {"draws": 3000}).fit(
        tables
    )
    assert fit.kernel_ == "exact"
    # hardly any noise, and tables that agree: the posterior predictive has its closed form
    X = np.array([[0, 0], [1, 2], [0, 2]])
    by_hand = np.ones((3, 2))
    for i in range(2):
        by_hand[:, i] *= (tables[0][i].sum() + 1) / 102
        for k, table in enumerate(tables):
            by_hand[:, i] *= (table[i, X[:, k]] + 1) / (table[i].sum() + table.shape[1])
    by_hand /= by_hand.sum(axis=1, keepdims=True)
    # the first table's classes have 48 and 52 records, the second's 50 and 50: noise of one or two explains it
    np.testing.assert_allclose(fit.predict_proba(X), by_hand, atol=0.05)
    assert fit.predict(X).tolist() == by_hand.argmax(axis=1).tolist()
    assert fit.classes_.tolist() == [0, 1]
    flat = PrivateNaiveBayes(
        mechanisms.DiscreteLaplace(0.05), 100, n_levels=[2, 3], n_classes=2, **QUICK | {"draws": 3000}
    ).fit(np.concatenate([t.ravel() for t in tables]))  # fmt: skip
    np.testing.assert_array_equal(flat.draws_of(), fit.draws_of())


def test_naive_bayes_refuses_tables_and_cases_that_do_not_fit():
    noise = mechanisms.DiscreteLaplace(1.0)
    with pytest.raises(ValueError, match="one table of class by level for each feature"):
        PrivateNaiveBayes(noise, 100, **QUICK).fit([np.ones((2, 2)), np.ones((3, 2))])
    with pytest.raises(ValueError, match="n_classes and n_levels must be given"):
        PrivateNaiveBayes(noise, 100, **QUICK).fit(np.ones(4))
    fit = PrivateNaiveBayes(noise, 4, **QUICK).fit([np.ones((2, 2))])
    for X, what in [
        ([[0, 1]], r"X must have shape \(n, 1\)"),
        ([[2]], "X must hold levels"),
        ([[0.5]], "X must hold levels"),
    ]:
        with pytest.raises(ValueError, match=what):
            fit.predict(X)


# --- regression -------------------------------------------------------------------------------------------

RELEASE = {
    "y": -17.15473134947, "x1 y": -5.22543192070, "x2 y": 1.62618334063, "y^2": 11.03130155684,
    "x1": 3.48271049549, "x1^2": 6.80892011490, "x2": -6.91095869216, "x1 x2": 1.07561643523,
    "x2^2": -2.07216429908,
}  # fmt: skip
KNOWN = {
    "bounds": (-10, 10), "x_mean": [0.9, -1.17], "x_cov": 1.0, "sigma2": 2.0,
    "prior_mean": 0.0, "prior_scale": 2.0,
}  # fmt: skip


def test_a_regression_is_the_composed_posterior_whatever_form_the_release_has():
    noise = mechanisms.Laplace(1.5)
    model = models.LinearRegression(
        2, x_mean=[0.9, -1.17], x_cov=1.0, sigma2=2.0, prior_scale=2.0, bounds=(-10, 10)
    )
    expected = PrivatePosterior(model, noise, 50, **QUICK).fit(RELEASE).draws_of()
    X = np.zeros((3, 3))
    X[0, 0] = 50
    for (i, j), name in {
        (1, 0): "x1", (1, 1): "x1^2", (2, 0): "x2", (2, 1): "x1 x2", (2, 2): "x2^2",
    }.items():  # fmt: skip
        X[i, j] = X[j, i] = RELEASE[name]
    matrices = {"XtX": X, "Xty": [RELEASE[k] for k in ("y", "x1 y", "x2 y")], "yty": RELEASE["y^2"]}
    renamed = {
        name.replace("x1 y", "y*x1").replace("x1 x2", "x2:x1"): value
        for name, value in reversed(RELEASE.items())
    }
    for release in (RELEASE, renamed, list(RELEASE.values()), matrices):
        fit = PrivateLinearRegression(noise, 50, **KNOWN, **QUICK).fit(release)
        np.testing.assert_array_equal(fit.draws_of(), expected)
    named = {
        k.replace("x1", "age").replace("x2", "school").replace("y", "income"): v for k, v in RELEASE.items()
    }  # fmt: skip
    fit = PrivateLinearRegression(noise, 50, formula="income ~ age + school", **KNOWN, **QUICK).fit(
        named
    )
    np.testing.assert_array_equal(fit.draws_of(), expected)
    assert fit.tidy()["term"].tolist() == ["Intercept", "age", "school"]
    assert fit.feature_names_in_.tolist() == ["age", "school"]
    assert fit.coef_ == pytest.approx(fit.posterior_mean_[1:3])
    frame = pd.DataFrame({"school": [1.0, 2.0], "age": [3.0, 4.0], "other": [0.0, 0.0]})
    expected_mean = fit.intercept_ + frame[["age", "school"]].to_numpy() @ fit.coef_
    mean, std = fit.predict(frame, return_std=True)
    assert mean == pytest.approx(expected_mean)
    assert fit.predict(frame) == pytest.approx(expected_mean)
    assert (std > np.sqrt(2)).all()
    with pytest.raises(ValueError, match="missing: age"):
        fit.predict(frame[["school"]])
    with pytest.raises(ValueError, match=r"X must be finite and of shape \(n, 2\)"):
        fit.predict([[1.0]])
    assert "school" in fit.summary().as_text()


@pytest.mark.parametrize(
    ("options", "release", "what"),
    [
        ({}, list(range(8)), "release must have 5, 9, 14, 20"),
        ({}, {**RELEASE, "x2 x1": 1.0}, "must have 5, 9"),
        ({}, {**{k: v for k, v in RELEASE.items() if k != "y^2"}, "y2": 1.0}, "missing: y\\^2"),
        (
            {"formula": "income ~ age", "x_mean": 0.0, "prior_scale": 2.0},
            RELEASE,
            "in this order: income, age income, income\\^2, age, age\\^2",
        ),
        ({"formula": "y ~ x1 + np.log(x2)"}, RELEASE, "formula must be of the form"),
        ({"formula": "y ~ x1 * x2"}, RELEASE, "formula must be of the form"),
        ({"formula": "y ~ 0 + x1"}, RELEASE, "formula must be of the form"),
        ({"bounds": {"x1": (0, 1)}}, RELEASE, "bounds must have the keys x1, x2, y"),
        ({"bounds": (1, -1)}, RELEASE, "lower < upper"),
    ],
)
def test_regressions_refuse_what_they_cannot_read(options, release, what):
    with pytest.raises(ValueError, match=what):
        PrivateLinearRegression(mechanisms.Laplace(1.5), 50, **KNOWN | options, **QUICK).fit(
            release
        )


def test_matrices_hold_each_product_once_and_n_without_noise():
    X = np.array([[50.0, 2.0], [2.0, 30.0]])
    good = {"XtX": X, "Xty": [1.0, 2.0], "yty": 9.0}
    assert flat_moments(good, 1, 50).tolist() == [1.0, 2.0, 9.0, 2.0, 30.0]
    noisy_n = X + np.array([[0.3, 0], [0, 0]])
    twice = X + np.array([[0, 0.1], [0, 0]])
    for bad, what in [
        ({**good, "XtX": noisy_n}, r"XtX\[0, 0\] must be n_records = 50"),
        ({**good, "XtX": twice}, "XtX must be symmetric"),
        ({**good, "Xty": [1.0]}, "must have shapes"),
        ({"XtX": X, "Xty": [1.0, 2.0]}, "must have XtX, Xty and yty"),
    ]:
        with pytest.raises(ValueError, match=what):
            flat_moments(bad, 1, 50)


def test_priors_from_bounds_cover_what_bounds_allow():
    """Prior predictive records lie mostly within the bounds, and are not all squeezed into their middle."""
    bounds = np.array([[18.0, 90.0], [0.0, 1.0], [-1000.0, 5000.0]])
    model = models.LinearRegression(2, bounds=bounds, **priors_from_bounds(bounds, None))
    rng = np.random.default_rng(0)
    x = np.concatenate([model.sample_records(model.sample_prior(rng), 1, rng) for _ in range(4000)])
    for column, (low, high) in zip(x.T, bounds, strict=True):
        inside = ((column > low) & (column < high)).mean()
        assert 0.25 < inside < 0.99
        assert abs(np.median(column) - (low + high) / 2) < 0.1 * (high - low)


def test_a_regression_with_nothing_known_recovers_its_coefficients():
    """Little noise on many records: the posterior is near least squares."""
    rng = np.random.default_rng(0)
    n, bounds = 2000, {"a": (0, 10), "y": (-30, 50)}
    a = np.clip(rng.normal(5, 1.5, n), 0.01, 9.99)
    y = 3 + 2 * a + rng.normal(0, 2, n)
    u, v = a / 5 - 1, (y + 30) / 40 - 1
    sums = np.array([v.sum(), (u * v).sum(), (v * v).sum(), u.sum(), (u * u).sum()])
    noise = mechanisms.Laplace(0.5)
    fit = PrivateLinearRegression(
        noise, n, formula="y ~ a", bounds=bounds, **QUICK | {"draws": 300, "tune": 300}
    ).fit(noise.randomise(sums, rng))  # fmt: skip
    table = fit.tidy().set_index("term")
    slope, intercept, *_ = stats.linregress(a, y)
    for term, truth in (("a", slope), ("Intercept", intercept)):
        assert abs(table.loc[term, "estimate"] - truth) < 4 * table.loc[term, "std_error"]
    assert table.loc["a", "std_error"] < 0.5
    assert {"sigma2", "x_mean[0]", "x_cov[0,0]"} <= set(table.index)
