r"""KNN-Shapley: Shapley values, and every other semivalue, of nearest-neighbour prediction, exactly.

For one test record, sort the training records from near to far and let :math:`c_i` say whether the i-th has its
label. The values follow from the farthest record inwards.

* "hard", utility :math:`\frac1K \#\{\text{right among the nearest } \min(K, |S|)\}`, 0 for the empty set
  (Jia et al. 2019): :math:`\phi_i - \phi_{i+1} = (c_i - c_{i+1}) T_i`, with

  .. math::  T_i = \frac1K \sum_{a=0}^{\min(K,i)-1} \sum_b \binom{i-1}{a} \binom{N-i-1}{b} [w(a+b) + w(a+b+1)],
             \qquad \phi_N = \frac{c_N}{K} \sum_{s<\min(K,N)} \binom{N-1}{s} w(s)

  for any semivalue w (`semivalues`), which for Shapley is :math:`T_i = \min(K, i) / (iK)`. The table T does not depend
  on labels: one serves all test records.
* "soft", the share of right neighbours among the nearest min(K, |S|), 1/C for the empty set (Wang and Jia 2023).
* "regression", :math:`-(K^{-1} \sum_{\text{nearest}} y - y_{test})^2` (Jia et al. 2019), :math:`-y_{test}^2` for the
  empty set.

Records at the same distance have no order. The utility is then its mean over all orders of the tied records, and so
are the values: a tied record of the right label gets more than one of a wrong label, and duplicates get the same.

Cost: distances and sorting, O(n log n) a test record, and O(n) for the values; O(n^2 K) once for the table of
a semivalue other than Shapley.

References: Jia, R. et al. (2019). Efficient task-specific data valuation for nearest neighbor algorithms. PVLDB 12,
1610-1623. Wang, J. T. and Jia, R. (2023). A note on "Efficient task-specific data valuation ...". arXiv:2304.04258.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numba import njit
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.utils import check_array, check_consistent_length

from .._validation import check_choice, check_integer, check_labels
from ._base import BaseInfluence
from .models import split_pipeline
from .oracle import count, take
from .semivalues import Semivalue, log_binomial, log_weights

Array = NDArray[np.float64]

TIED = 1e-13  # relative difference of distances that is rounding


class KNNShapley(BaseInfluence):
    """Exact data values for a nearest-neighbour predictor.

    Parameters
    ----------
    n_neighbors : int or None, default=None
        K; None takes the estimator's, or 5.
    kind : {"hard", "soft", "regression"}, default="hard"
    semivalue : {"shapley", "banzhaf", "loo"} or ("beta", a, b), default="shapley"
        Others than "shapley" for kind="hard".
    ties : {"average", "order"}, default="average"
        Mean over all orders of records at the same distance, or the order of the training data. For
        kind="regression" the mean of two orders, by rising and by falling response, which is exact for pairs.
    metric : str or callable, default="euclidean"
        As in `sklearn.metrics.pairwise_distances`.

    Notes
    -----
    ``fit(estimator, X, y)`` takes a KNeighborsClassifier, a KNeighborsRegressor, a fitted Pipeline that ends in one,
    or None. ``influence`` returns the value of each training record for each test record, positive for helpful; its
    row sums are the utility of all records minus that of none (Shapley). The values are those of the
    neighbour model; for another model they are a proxy, and depend on the scale of the features.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from statml.influence import KNNShapley
    >>> X, y = load_iris(return_X_y=True)
    >>> values = KNNShapley(n_neighbors=5).fit(None, X[::2], y[::2]).influence(X[1::2], y[1::2])
    >>> values.shape, float(values.sum(axis=1).mean().round(4))  # the mean share of right neighbours
    ((75, 75), 0.9493)
    """

    _needs_oracle = False

    def __init__(
        self,
        n_neighbors: int | None = None,
        kind: str = "hard",
        semivalue: Semivalue = "shapley",
        ties: str = "average",
        metric: Any = "euclidean",
    ):
        self.n_neighbors = n_neighbors
        self.kind = kind
        self.semivalue = semivalue
        self.ties = ties
        self.metric = metric

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val):
        check_choice("kind", self.kind, ("hard", "soft", "regression"))
        check_choice("ties", self.ties, ("average", "order"))
        if sample_weight is not None:
            raise ValueError("sample_weight must be None: neighbours count alike")
        K = self.n_neighbors
        self._transform, final = split_pipeline(estimator)
        if estimator is not None:
            wanted = KNeighborsRegressor if self.kind == "regression" else KNeighborsClassifier
            if not isinstance(final, wanted):
                raise TypeError(
                    f'kind="{self.kind}" takes a {wanted.__name__}, a Pipeline that ends in one, or None; '
                    f"got {type(final).__name__}"
                )
            K = final.n_neighbors if K is None else K
        self.n_neighbors_ = check_integer("n_neighbors", 5 if K is None else K, low=1)
        self._X = check_array(
            self._transform(X), accept_sparse="csr", dtype=np.float64, input_name="X"
        )
        if y is None:
            raise ValueError("y must hold the training labels, got None")
        check_consistent_length(self._X, y)
        self._y = self._check_y(y)
        if self.kind != "hard" and self.semivalue != "shapley":
            raise ValueError(
                f'semivalue must be "shapley" for kind="{self.kind}", got {self.semivalue!r}'
            )
        n = self.n_train_
        if self.kind == "hard":
            self._T = semivalue_table(self.semivalue, n, self.n_neighbors_)
        elif self.kind == "soft":
            self._T = soft_table(n, self.n_neighbors_)
        self.method_ = f"KNN-{self.semivalue} ({self.kind})"

    def _check_y(self, y):
        if self.kind == "regression":
            return check_array(y, ensure_2d=False, dtype=float, input_name="y").ravel()
        y = check_labels("y", y)
        if y.dtype.kind == "f" and not np.array_equal(y, np.round(y)):
            raise ValueError(
                f'y must hold class labels for kind="{self.kind}"; kind="regression" takes numbers'
            )
        return y

    def _prepare(self, X, y, target):
        if target != "loss":
            raise ValueError(f'target must be "loss" (the neighbours\' utility), got {target!r}')
        X = check_array(self._transform(X), accept_sparse="csr", dtype=np.float64, input_name="X")
        if X.shape[1] != self._X.shape[1]:
            raise ValueError(f"X must have {self._X.shape[1]} features, got {X.shape[1]}")
        if y is None:
            raise ValueError("y_test must be given")
        check_consistent_length(X, y)
        y = self._check_y(y)
        if self.kind != "regression":
            unseen = ~np.isin(y, self._y)
            if unseen.any():
                raise ValueError(
                    f"y holds labels that are not in the training data: {np.unique(y[unseen])[:5].tolist()}"
                )
        return X, y

    def _training_records(self):
        return self._X, self._y

    def _influence(self, X, y, target):
        out = np.empty((count(X), self.n_train_))
        for part in self._blocks(count(X), n_arrays=6):
            block, labels = take(X, part), y[part]
            distance = self._distances(block)
            if self.kind == "regression":
                out[part] = self._regression(distance, labels)
                continue
            order = np.argsort(distance, axis=1, kind="stable")
            right = self._y == labels[:, None]
            tolerance = (
                TIED * distance.max(axis=1) if self.ties == "average" else -np.ones(len(order))
            )
            n_classes = len(np.unique(self._y))
            base = np.zeros(len(order))
            if self.kind == "soft":
                base = _soft_base(right.sum(axis=1), self.n_train_, self.n_neighbors_, n_classes)
            _values(order, distance, right, self._T, base, tolerance, out[part])
        return out

    def _distances(self, X):
        if self.metric != "euclidean":
            return pairwise_distances(X, self._X, metric=self.metric)
        # squared: the order is the same, and so are ties; the cross products are all that costs
        cross = X @ self._X.T
        cross = cross.toarray() if sp.issparse(cross) else cross
        cross *= -2
        cross += _squared_norms(self._X)
        cross += _squared_norms(X)[:, None]
        return cross

    def _regression(self, distance, labels):
        K = self.n_neighbors_
        out = np.zeros_like(distance)
        keys = (self._y, -self._y) if self.ties == "average" else (np.arange(self.n_train_),)
        for j, row in enumerate(distance):
            if self.ties == "average":
                row = _merge_ties(row)
            for key in keys:
                order = np.lexsort((key, row))
                out[j, order] += regression_values(self._y[order], labels[j], K) / len(keys)
            if self.ties == "average":
                _, same = np.unique(np.stack([row, self._y]), axis=1, return_inverse=True)
                same = same.ravel()
                out[j] = (np.bincount(same, out[j]) / np.bincount(same))[same]
        return out


# --- tables: phi_j = T_j c_j + sum_{i > j} (T_i - T_{i-1}) c_i + base, records from near to far ---


def semivalue_table(semivalue: Semivalue, n: int, K: int) -> Array:
    """T_1..T_N of the hard-label game; T_N is the factor of c_N in phi_N."""
    if semivalue == "shapley":
        i = np.arange(1, n + 1)
        return np.minimum(K, i) / (K * i)
    log_w = log_weights(semivalue, n)
    T = np.empty(n)
    last = min(K, n)
    T[n - 1] = np.exp(logsumexp(log_binomial(n - 1, np.arange(last)) + log_w[:last])) / K
    pair = np.logaddexp(log_w[:-1], log_w[1:]) if n > 1 else log_w  # w(s) + w(s + 1)
    for i in range(1, n):
        b = np.arange(n - i)
        from_b = log_binomial(n - i - 1, b)
        terms = [
            log_binomial(i - 1, np.array(a)) + logsumexp(from_b + pair[a + b])
            for a in range(min(K, i))
        ]
        T[i - 1] = np.exp(logsumexp(terms)) / K
    return T


def soft_table(n: int, K: int) -> Array:
    """T_1..T_N of the soft-label Shapley game."""
    if n == 1:
        return np.ones(1)
    i = np.arange(1, n)
    harmonic = np.sum(1 / np.arange(1, min(K, n - 1) + 1))
    if n >= K:
        bracket = np.sum(1 / np.arange(1, K + 1)) + (np.minimum(i, K) * (n - 1) / i - K) / K
    else:
        bracket = np.full(n - 1, harmonic)
    tail = np.sum(1 / np.arange(2, min(K, n) + 1))
    return np.append(bracket / (n - 1), (tail * (1 + 1 / (n - 1)) + 1) / n)


def _soft_base(n_right, n, K, n_classes):
    """What phi_N has beside its own c_N."""
    tail = np.sum(1 / np.arange(2, min(K, n) + 1))
    others = n_right * tail / (n * max(n - 1, 1))
    return -others - 1 / (n_classes * n)


@njit(cache=True)
def _values(order, distance, right, T, base, tolerance, out):
    """Fill out (m, n), in the order of the training data, block of ties after block from far to near."""
    m, n = order.shape
    for t in range(m):
        tail = base[
            t
        ]  # sum over records beyond the block, of (T_i - T_{i-1}) times the mean of c there
        end = n
        while end > 0:
            start = end - 1
            while (
                start > 0
                and distance[t, order[t, start]] - distance[t, order[t, start - 1]] <= tolerance[t]
            ):
                start -= 1
            size = end - start
            n_right = 0.0
            mean_T = 0.0
            for j in range(start, end):
                n_right += right[t, order[t, j]]
                mean_T += T[j]
            mean_T /= size
            below = T[start - 1] if start > 0 else 0.0
            for j in range(start, end):
                c = 1.0 if right[t, order[t, j]] else 0.0
                others = (n_right - c) / (size - 1) if size > 1 else 0.0
                out[t, order[t, j]] = c * mean_T + others * (T[end - 1] - mean_T) + tail
            tail += n_right / size * (T[end - 1] - below)
            end = start


def regression_values(y: Array, y_test: float, K: int) -> Array:
    """Shapley values of the regression game for responses from near to far, shape (n,).

    Between neighbours in the order the value changes by (y_{i+1} - y_i) / K * min(K, i) / i times
    sum_l A_l y_l / K - 2 y_test, where A_l = (min(K, i) - 1) / (i - 1) for l < i, 1 for i and i + 1, and
    min(K, l - 1) min(K - 1, l - 2) i / {(l - 1) (l - 2) min(K, i)} beyond. Prefix and suffix sums make it O(n).
    """
    n = len(y)
    phi = np.empty(n)
    before = y[:-1].sum() / (n - 1) if n > 1 else 0.0
    m = min(K, n)  # the farthest record counts in coalitions of fewer than K others
    phi[-1] = -y[-1] * m * (y[-1] / K - 2 * y_test + before * (m - 1) / K) / (n * K)
    if n == 1:
        return phi
    i = np.arange(1, n)
    prefix = np.concatenate([[0.0], np.cumsum(y)])  # prefix[k] = y_1 + ... + y_k
    l = np.arange(1, n + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.minimum(K, l - 1) * np.minimum(K - 1, l - 2) / ((l - 1) * (l - 2))
    weight[:2] = 0.0
    suffix = np.concatenate([np.cumsum((weight * y)[::-1])[::-1], [0.0, 0.0]])
    top = np.minimum(K, i)
    near = np.divide(top - 1, i - 1, out=np.zeros(n - 1), where=i > 1)
    sums = near * prefix[i - 1] + y[i - 1] + y[i] + suffix[i + 1] * i / top
    step = (y[i] - y[i - 1]) / K * top / i * (sums / K - 2 * y_test)
    phi[:-1] = phi[-1] + np.cumsum(step[::-1])[::-1]
    return phi


def _merge_ties(row: Array) -> Array:
    """Distances in which those that differ by rounding alone are equal."""
    order = np.argsort(row, kind="stable")
    gap = np.diff(row[order]) > TIED * row.max()
    merged = np.empty_like(row)
    merged[order] = np.concatenate([[0], np.cumsum(gap)])
    return merged


def _squared_norms(X):
    if sp.issparse(X):
        return np.asarray(X.multiply(X).sum(axis=1)).ravel()
    return np.einsum("ij,ij->i", X, X)
