r"""What every table of estimates has in common: intervals, tests, tidy tables and a printed summary.

Each term j has an estimate and a standard error; its statistic for the hypothesis that the parameter is zero is
:math:`t_j = \hat\theta_j / s_j`, its two-sided p-value :math:`2 P(T \ge |t_j|)` and its interval of level
:math:`1 - a` is :math:`\hat\theta_j \pm q_{1-a/2}\, s_j`, where T is standard normal or, with ``df`` degrees of
freedom, Student's t.

The verbs ``tidy`` and ``glance`` mean what they mean in R's broom package: one row a term, one row a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.utils.validation import check_is_fitted
from statsmodels.iolib.summary import Summary
from statsmodels.iolib.table import SimpleTable

from .._validation import check_level
from .summaries import facts_table, number, summary_of, text_table

MOST_ROWS = 60  # of a printed table of coefficients


@dataclass(frozen=True)
class Coefficients:
    """Estimates with their standard errors.

    Parameters
    ----------
    terms : sequence of str, length k
        Names, in the order of the tables.
    estimate : array-like of shape (k,)
        May hold infinite values (an estimate that does not exist) and NaN (a term that is not estimated).
    std_error : array-like of shape (k,)
        NaN where there is none; never negative.
    df : float, array-like of shape (k,) or None, default=None
        Degrees of freedom of the t reference distribution; None means the normal distribution.

    Raises
    ------
    ValueError
        If lengths differ or a standard error is negative.

    Examples
    --------
    >>> from statml.inference import Coefficients
    >>> Coefficients(["a", "b"], [1.0, 2.0], [0.5, 0.5]).table(level=0.95)["conf_low"].round(2).tolist()
    [0.02, 1.02]
    """

    terms: Sequence[str]
    estimate: ArrayLike
    std_error: ArrayLike
    df: float | ArrayLike | None = None

    def __post_init__(self):
        object.__setattr__(self, "terms", [str(term) for term in self.terms])
        for name in ("estimate", "std_error"):
            values = np.asarray(getattr(self, name), dtype=float)
            if values.shape != (len(self.terms),):
                raise ValueError(
                    f"{name} must have shape ({len(self.terms)},), one value a term, got {values.shape}"
                )
            object.__setattr__(self, name, values)
        if (self.std_error < 0).any():
            worst = self.terms[int(np.nanargmin(self.std_error))]
            raise ValueError(f"std_error must not be negative, got a negative one for {worst!r}")

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """All that is known of each term, as `InferenceMixin.tidy` returns it."""
        level = check_level(level)
        reference = stats.norm if self.df is None else stats.t(self.df)
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = self.estimate / self.std_error
        # An infinite estimate says that none exists: no test, and no interval, can rest on it.
        statistic = np.where(np.isfinite(self.estimate), statistic, np.nan)
        half = np.where(
            np.isfinite(self.estimate), reference.ppf((1 + level) / 2) * self.std_error, np.nan
        )
        return pd.DataFrame(
            {
                "term": self.terms,
                "estimate": self.estimate,
                "std_error": self.std_error,
                "statistic": statistic,
                "p_value": np.minimum(2 * reference.sf(np.abs(statistic)), 1.0),
                "conf_low": self.estimate - half,
                "conf_high": self.estimate + half,
            }
        )


class InferenceMixin:
    """Tables, intervals and a summary for an estimator with coefficients.

    The estimator supplies ``_coefficients()`` (a `Coefficients`), ``_glance()`` (a dict of facts about the fit,
    one row), ``_summary_title()`` (a str) and, if it has any, ``_summary_notes()`` (a list of str). The order of
    the terms is the estimator's own.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator
    >>> from statml.inference import Coefficients, InferenceMixin
    >>> class Mean(InferenceMixin, BaseEstimator):
    ...     def fit(self, x):
    ...         self.x_ = x
    ...         return self
    ...     def _coefficients(self):
    ...         n = len(self.x_)
    ...         return Coefficients(["mean"], [self.x_.mean()], [self.x_.std(ddof=1) / n**0.5], df=n - 1)
    ...     def _glance(self):
    ...         return {"n_obs": len(self.x_)}
    ...     def _summary_title(self):
    ...         return "Mean"
    >>> fit = Mean().fit(np.array([4.0, 5.0, 6.0, 9.0]))
    >>> fit.tidy(level=0.9).round(3)
       term  estimate  std_error  statistic  p_value  conf_low  conf_high
    0  mean       6.0       1.08      5.555    0.012     3.458      8.542
    >>> fit.glance()
       n_obs
    0      4
    >>> "mean" in fit.summary().as_text()
    True
    """

    def tidy(self, level: float = 0.95) -> pd.DataFrame:
        """One row a term: estimate, standard error, test of zero, interval.

        Parameters
        ----------
        level : float, default=0.95
            Confidence level of each interval.

        Returns
        -------
        DataFrame of k rows
            Columns term, estimate, std_error, statistic, p_value, conf_low, conf_high. Where the estimate is
            infinite or has no standard error, the last four are NaN.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self)
        return self._coefficients().table(level)

    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        """Confidence intervals.

        Parameters
        ----------
        level : float, default=0.95
            Confidence level of each interval.

        Returns
        -------
        DataFrame of k rows, indexed by term
            Columns conf_low and conf_high.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        """
        return self.tidy(level).set_index("term")[["conf_low", "conf_high"]]

    def glance(self) -> pd.DataFrame:
        """One row of facts about the whole fit.

        Returns
        -------
        DataFrame of 1 row

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self)
        return pd.DataFrame([self._glance()])

    def summary(self, level: float = 0.95) -> Summary:
        """The fit as a table for reading; a long one shows its first and last 30 terms.

        Parameters
        ----------
        level : float, default=0.95
            Confidence level of each interval.

        Returns
        -------
        statsmodels.iolib.summary.Summary
            Prints as text; ``as_html()`` and ``as_latex()`` give other formats.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        """
        check_is_fitted(self)
        level = check_level(level)
        table, notes = self.tidy(level), list(self._summary_notes())
        n_left_out = len(table) - MOST_ROWS
        if n_left_out > 0:
            half = MOST_ROWS // 2
            table = pd.concat([table[:half], table[-half:]])
            plural = "term is" if n_left_out == 1 else "terms are"
            notes.insert(
                0,
                f"{n_left_out} {plural} left out between the first {half} and the last {half}; tidy() has all.",
            )
        body = self._summary_table(table, level)
        width = len(str(body).partition("\n")[0])
        facts = facts_table(self._summary_title(), self._glance(), width)
        return summary_of(facts, body, notes=notes)

    def _summary_notes(self) -> list[str]:
        return []

    def _summary_table(self, table: pd.DataFrame, level: float) -> SimpleTable:
        """The printed form of (part of) ``tidy(level)``; another one for results that have no tests, say."""
        return _coefficient_table(table, level, "z" if self._coefficients().df is None else "t")


def _coefficient_table(table: pd.DataFrame, level: float, statistic: str) -> SimpleTable:
    tail = f"{(1 - level) / 2:.4g}"
    header = ["coef", "std err", statistic, f"P>|{statistic}|"]
    header += [f"[{tail}", f"{(1 + level) / 2:.4g}]"]
    rows = [
        (
            number(row.estimate, 4),
            number(row.std_error),
            number(row.statistic),
            "" if np.isnan(row.p_value) else f"{row.p_value:.3f}",
            number(row.conf_low),
            number(row.conf_high),
        )
        for row in table.itertuples()
    ]
    return text_table(rows, header, table["term"].tolist())
