"""Which task next? Candidates are compared by how much of them lies beyond the current bound.

A candidate class of which few records are outliers is similar to what is known; one of which many are is dissimilar. Learning
the similar first is a curriculum; learning the dissimilar first widens what is covered early. Neither rule wins everywhere, and
orders differ by as much as methods do: compare several orders before believing in one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from statml._validation import RandomState, as_generator, check_choice, check_level, check_number

RULES = ("dissimilar", "similar", "random")


def outlier_shares(
    outlier_probas: Mapping[str, ArrayLike], threshold: float = 0.95, level: float = 0.95
) -> pd.DataFrame:
    """How much of each candidate lies beyond the bound.

    Parameters
    ----------
    outlier_probas : mapping of name to array-like of shape (n,)
        Outlier probabilities of each candidate's records, all under the same bound.
    threshold : float in [0, 1), default=0.95
        A record is an outlier if its probability exceeds this.
    level : float, default=0.95
        Confidence level of each share's interval (Wilson's).

    Returns
    -------
    DataFrame
        Indexed by name: n, share, conf_low, conf_high, mean (of the probabilities).

    Raises
    ------
    ValueError
        If there is no candidate, one is empty, or a probability is NaN or outside [0, 1].

    Examples
    --------
    >>> outlier_shares({"cats": [0.1, 0.2, 0.99, 0.3], "cars": [0.99, 1.0, 0.4, 0.98]})["share"]
    cats    0.25
    cars    0.75
    Name: share, dtype: float64
    """
    threshold = check_number("threshold", threshold, 0, 1, high_open=True)
    level = check_level(level)
    if len(outlier_probas) == 0:
        raise ValueError("outlier_probas must name at least one candidate, got none")
    rows = {}
    for name, values in outlier_probas.items():
        w = np.asarray(values, dtype=float).ravel()
        if len(w) == 0:
            raise ValueError(f"candidate {name!r} has no record")
        if not ((w >= 0) & (w <= 1)).all():
            raise ValueError(f"outlier probabilities of candidate {name!r} must lie in [0, 1]")
        n_out = int(np.count_nonzero(w > threshold))
        low, high = proportion_confint(n_out, len(w), alpha=1 - level, method="wilson")
        rows[name] = {
            "n": len(w),
            "share": n_out / len(w),
            "conf_low": low,
            "conf_high": high,
            "mean": w.mean(),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def choose_task(
    outlier_probas: Mapping[str, ArrayLike],
    rule: str = "dissimilar",
    *,
    by: str = "share",
    threshold: float = 0.95,
    random_state: RandomState = None,
) -> str:
    """Name the candidate to learn next.

    Parameters
    ----------
    outlier_probas : mapping of name to array-like of shape (n,)
        Outlier probabilities of each candidate's records, all under the same bound.
    rule : {"dissimilar", "similar", "random"}, default="dissimilar"
        Most outliers, fewest, or any.
    by : {"share", "mean"}, default="share"
        Share of outliers, or mean outlier probability. Equal shares are decided by the mean, equal means by the order given.
    threshold : float in [0, 1), default=0.95
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        For "random".

    Returns
    -------
    str
        A key of `outlier_probas`.

    Raises
    ------
    ValueError
        As `outlier_shares`, or for an unknown rule.

    Examples
    --------
    >>> choose_task({"cats": [0.1, 0.2, 0.99, 0.3], "cars": [0.99, 1.0, 0.4, 0.98]}, "similar")
    'cats'
    """
    check_choice("rule", rule, RULES)
    check_choice("by", by, ("share", "mean"))
    table = outlier_shares(outlier_probas, threshold)
    names = list(outlier_probas)
    if rule == "random":
        return names[int(as_generator(random_state).integers(len(names)))]
    columns = ["share", "mean"] if by == "share" else ["mean"]
    sign = 1 if rule == "similar" else -1
    keys = [tuple(sign * value for value in row) for row in table[columns].to_numpy()]
    return names[min(range(len(names)), key=keys.__getitem__)]
