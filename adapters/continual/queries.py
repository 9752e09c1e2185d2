"""Active queries in an open world: ask about records that are informative, and never about those beyond the bound.

A record near the class means teaches little; one far from them is either informative or foreign. The band [lo, hi] of outlier
probabilities draws the line: candidates inside it are offered to a strategy, those above it are rejected, cost no budget, and
are reported for a person to look at. When nothing in the band is left the answer is shorter than the budget: spending the rest
on what lies beyond would buy noise.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, check_consistent_length, column_or_1d

from statml._validation import RandomState, as_generator, check_integer

from .selection import BoundFilter, Pool, check_band, find_rule
from .selection.pool import Rule

Array = NDArray[np.float64]


@dataclass(frozen=True)
class QueryResult:
    """What to ask about, and what was left out as foreign.

    Attributes
    ----------
    indices : ndarray of int, shape (at most n,)
        Positions in the pool, best first.
    scores : ndarray of shape (len(indices),)
        Their outlier probabilities.
    rejected_ : ndarray of int
        Positions of the candidates above the band, by falling outlier probability.
    """

    indices: NDArray[np.int64]
    scores: Array
    rejected_: NDArray[np.int64]
    _rejected_latents: Array = field(repr=False, compare=False)

    def novel_(self, min_size: int = 10) -> NDArray[np.int64]:
        """Group the rejected candidates: records that are foreign in the same way may be a new class.

        Parameters
        ----------
        min_size : int >= 2, default=10
            Smallest group.

        Returns
        -------
        ndarray of int, shape (number of rejected candidates,)
            Number of the group, -1 for those in none (HDBSCAN on the latents).
        """
        from sklearn.cluster import HDBSCAN

        min_size = check_integer("min_size", min_size, low=2)
        if len(self.rejected_) < min_size:
            return np.full(len(self.rejected_), -1)
        model = HDBSCAN(min_cluster_size=min_size, copy=True, allow_single_cluster=True)
        return model.fit_predict(self._rejected_latents)


def query_pool(
    Z: ArrayLike,
    n: int,
    bound: Any,
    y_pred: ArrayLike | None = None,
    *,
    strategy: str | Rule = "below_bound",
    band: tuple[float, float] | None = (0.0, 0.95),
    class_proba: ArrayLike | None = None,
    labelled: ArrayLike | None = None,
    refused: ArrayLike | None = None,
    random_state: RandomState = None,
) -> QueryResult:
    """Choose at most n records of a pool to have labelled.

    Parameters
    ----------
    Z : array-like of shape (n_pool, d)
        Latents of the pool, under the current model: after each round they have to be made anew.
    n : int >= 1
        Budget.
    bound : Bound
        Fitted.
    y_pred : array-like of shape (n_pool,), optional
        The classifier's labels; default: the class with the nearest mean.
    strategy : str or function, default="below_bound"
        "below_bound" (the largest outlier probability in the band), "inverse_cdf" (spread over the band, balanced over
        classes), "entropy" (needs `class_proba`), "k_center", "k_means", "herding", "random", or a function
        ``(pool, n, rng) -> indices``.
    band : (lo, hi) or None, default=(0.0, 0.95)
        Outlier probabilities that are offered. None offers everything and rejects nothing. What a value means depends on the
        bound: under a `WeibullBound` 0.95 lies beyond nearly all training records, under the calibrated bounds it is their
        95 % quantile.
    class_proba : array-like of shape (n_pool, n_classes), optional
    labelled : array-like of shape (m, d), optional
        Latents of the labelled records, from which "k_center" keeps away.
    refused : array-like of bool, shape (n_pool,), optional
        Records that another judge calls foreign, as one that looks at reconstructions; their outlier probability counts as 1.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None

    Returns
    -------
    QueryResult

    Warns
    -----
    UserWarning
        If the band holds fewer candidates than the budget.

    Raises
    ------
    ValueError
        For NaN, a pool with other columns than the bound's, a bad band, or a strategy without what it needs.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.continual import WeibullBound
    >>> rng = np.random.default_rng(0)
    >>> bound = WeibullBound("euclidean").fit(rng.normal(size=(400, 3)), np.zeros(400, int))
    >>> pool = np.array([[0.0, 0.0, 0.0], [3.4, 0.0, 0.0], [50.0, 0.0, 0.0]])
    >>> result = query_pool(pool, 1, bound)
    >>> result.indices, result.rejected_
    (array([1]), array([2]))
    """
    Z = check_array(Z, dtype=float, input_name="Z")
    n = check_integer("n", n, low=1)
    rule = find_rule("strategy", strategy)
    if y_pred is None:
        y_pred = bound.classes_[bound.distances(Z).argmin(axis=1)]
    y_pred = column_or_1d(y_pred)
    check_consistent_length(Z, y_pred)
    w = bound.outlier_proba(Z, y_pred)
    if refused is not None:
        check_consistent_length(Z, refused)
        w = np.where(np.asarray(refused, dtype=bool), 1.0, w)
    pool = Pool(
        Z,
        labels=y_pred,
        outlier_proba=w,
        class_proba=None if class_proba is None else np.asarray(class_proba, dtype=float),
        bound=bound,
        labelled=None if labelled is None else np.asarray(labelled, dtype=float),
    )
    rejected = np.empty(0, dtype=np.int64)
    if band is not None:
        rule = BoundFilter(rule, check_band(band))
        rejected = np.flatnonzero(w > band[1])
        rejected = rejected[np.argsort(-w[rejected], kind="stable")]
    chosen = rule(pool, min(n, len(Z)), as_generator(random_state))
    if len(chosen) < n:
        warnings.warn(
            f"{len(chosen)} of {n} queries are used: no more of the pool's {len(Z)} records lie in the band {band}",
            stacklevel=2,
        )
    return QueryResult(chosen, w[chosen], rejected, Z[rejected])
