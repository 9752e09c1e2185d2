import warnings

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from statml.inference import Coefficients, InferenceMixin

COLUMNS = ["term", "estimate", "std_error", "statistic", "p_value", "conf_low", "conf_high"]


class Fit(InferenceMixin, BaseEstimator):
    """An estimator whose coefficients are given."""

    def __init__(self, coefficients, facts=None, notes=()):
        self.coefficients = coefficients
        self.facts = facts
        self.notes = notes

    def fit(self):
        self.fitted_ = True
        return self

    def _coefficients(self):
        return self.coefficients

    def _glance(self):
        return self.facts or {"n_obs": 50}

    def _summary_title(self):
        return "Given coefficients"

    def _summary_notes(self):
        return list(self.notes)


@pytest.fixture
def regression():
    rng = np.random.default_rng(0)
    x = sm.add_constant(rng.normal(size=(30, 2)))
    return sm.OLS(x @ [1.0, 0.5, 0.0] + rng.normal(size=30), x).fit()


@pytest.fixture
def awkward():
    """Estimates that do not exist, errors that are missing or zero."""
    return Coefficients(
        ["plus", "minus", "none", "no error", "exact", "zero", "usual"],
        [np.inf, -np.inf, np.nan, 1.0, 2.0, 0.0, 1.5e7],
        [np.nan, 1.0, np.nan, np.nan, 0.0, 0.0, 2e6],
    )


@pytest.mark.parametrize("use_t", [True, False])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_table_agrees_with_statsmodels(regression, use_t, level):
    regression = regression.model.fit(use_t=use_t)
    df = regression.df_resid if use_t else None
    names = ["const", "x1", "x2"]
    tidy = Fit(Coefficients(names, regression.params, regression.bse, df)).fit().tidy(level)
    assert tidy.columns.tolist() == COLUMNS
    assert tidy["term"].tolist() == names
    np.testing.assert_allclose(tidy["statistic"], regression.tvalues)
    np.testing.assert_allclose(tidy["p_value"], regression.pvalues)
    np.testing.assert_allclose(tidy[["conf_low", "conf_high"]], regression.conf_int(1 - level))


def test_degrees_of_freedom_may_differ_between_terms():
    both = Coefficients(["a", "b"], [1.0, 1.0], [0.5, 0.5], df=[3.0, 30.0]).table()
    for k, df in enumerate((3.0, 30.0)):
        alone = Coefficients(["a"], [1.0], [0.5], df=df).table()
        assert both["p_value"][k] == alone["p_value"][0]
        assert both["conf_low"][k] == alone["conf_low"][0]


def test_conf_int_is_indexed_by_term_and_agrees_with_tidy(regression):
    fit = Fit(Coefficients(["c", "b", "a"], regression.params, regression.bse)).fit()
    interval, tidy = fit.conf_int(level=0.9), fit.tidy(level=0.9)
    assert interval.index.tolist() == ["c", "b", "a"]
    assert interval.columns.tolist() == ["conf_low", "conf_high"]
    np.testing.assert_array_equal(interval.to_numpy(), tidy[["conf_low", "conf_high"]])


def test_glance_is_one_row():
    facts = {"n_obs": 3, "aic": 1.5, "family": "x"}
    pd.testing.assert_frame_equal(
        Fit(Coefficients([], [], []), facts).fit().glance(), pd.DataFrame(facts, index=[0])
    )


def test_summary_shows_what_statsmodels_shows(regression):
    names = ["const", "x1", "x2"]
    df = regression.df_resid
    ours = Fit(Coefficients(names, regression.params, regression.bse, df)).fit().summary()
    theirs = regression.summary().tables[1].as_text()
    assert ours.tables[1].as_text() == theirs


def test_summary_holds_title_facts_and_notes_in_every_format():
    facts = {"n_obs": 50, "log_likelihood": -1234.567, "family": "x", "rho": np.nan}
    summary = Fit(Coefficients(["slope"], [1.0], [0.5]), facts, ["One note."]).fit().summary(0.9)
    for text in (summary.as_text(), summary.as_html(), summary.as_latex()):
        for content in (
            "Given coefficients",
            "n obs",
            "50",
            "-1234.6",
            "slope",
            "One note.",
            "0.05",
        ):
            assert content in text
        assert "rho" not in text  # a fact without a value
    widths = {len(line) for line in summary.as_text().split("\n\n")[0].split("\n")}
    assert len(widths) == 1


def test_facts_stay_as_wide_as_long_terms():
    coefficients = Coefficients(["a term of " + "many " * 10 + "words"], [1.0], [0.5])
    text = Fit(coefficients).fit().summary().as_text()
    assert len({len(line) for line in text.split("\n")}) == 1


@pytest.mark.parametrize("size", [60, 61, 200])
def test_a_long_summary_shows_both_ends_and_says_what_is_left_out(size):
    terms = [f"term{k}." for k in range(size)]
    text = str(Fit(Coefficients(terms, np.ones(size), np.ones(size))).fit().summary())
    shown = [term for term in terms if term in text]
    assert shown == (terms if size == 60 else terms[:30] + terms[-30:])
    said = {60: None, 61: "1 term is left out", 200: "140 terms are left out"}[size]
    assert ("left out" in text) == (size > 60)
    assert said is None or said in text


def test_awkward_estimates_print_without_a_warning(awkward):
    fit = Fit(awkward).fit()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lines = fit.summary().as_text().split("\n")
        fit.summary().as_html(), fit.summary().as_latex()
    rows = {term: line for line in lines for term in awkward.terms if line.startswith(term)}
    assert rows["plus"].split() == ["plus", "inf"]
    assert rows["minus"].split() == ["minus", "-inf", "1.000"]
    assert rows["none"].split() == ["none"]
    assert rows["no error"].split() == ["no", "error", "1.0000"]
    assert rows["usual"].split()[1:3] == ["1.5e+07", "2e+06"]


def test_no_test_or_interval_rests_on_an_estimate_that_does_not_exist(awkward):
    inference = awkward.table().set_index("term")[["statistic", "p_value", "conf_low", "conf_high"]]
    assert inference.loc[["plus", "minus", "none", "no error"]].isna().all(axis=None)
    assert inference.loc["exact"].tolist() == [np.inf, 0.0, 2.0, 2.0]
    assert inference.loc["zero"].isna().tolist() == [True, True, False, False]
    assert inference.loc["usual"].notna().all()


def test_a_fit_without_coefficients_has_an_empty_table():
    fit = Fit(Coefficients([], [], [])).fit()
    assert fit.tidy().columns.tolist() == COLUMNS
    assert len(fit.tidy()) == 0
    assert "Given coefficients" in str(fit.summary())


@pytest.mark.parametrize("method", ["tidy", "conf_int", "glance", "summary"])
def test_results_before_fit_are_refused(method):
    with pytest.raises(NotFittedError):
        getattr(Fit(Coefficients(["a"], [1.0], [1.0])), method)()


@pytest.mark.parametrize("method", ["tidy", "conf_int", "summary"])
def test_a_level_in_percent_is_refused(method):
    with pytest.raises(ValueError, match=r"did you mean 0\.95"):
        getattr(Fit(Coefficients(["a"], [1.0], [1.0])).fit(), method)(95)


def test_coefficients_of_unequal_lengths_or_with_negative_errors_are_refused():
    with pytest.raises(ValueError, match=r"estimate must have shape \(2,\).*got \(3,\)"):
        Coefficients(["a", "b"], [1.0, 2.0, 3.0], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"std_error must have shape \(2,\).*got \(\)"):
        Coefficients(["a", "b"], [1.0, 2.0], 1.0)
    with pytest.raises(
        ValueError, match="std_error must not be negative, got a negative one for 'b'"
    ):
        Coefficients(["a", "b", "c"], [1.0, 2.0, 3.0], [1.0, -1.0, np.nan])
