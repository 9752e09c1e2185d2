r"""Rejection with a promise: split conformal p-values.

Means are learned from one part of the records, distances from another, the *calibration* part. A new record at distance d
of the mean of class c, whose calibration distances are :math:`d_1, \dots, d_n`, has the p-value

.. math:: p_c(d) = \frac{1 + \#\{i: d_i \ge d\}}{n + 1}, \qquad w_c(d) = 1 - p_c(d).

If the new record is exchangeable with those of the calibration, :math:`P(p \le \alpha) \le \alpha` for every n and every
distribution, and :math:`P(p \le \alpha) > \alpha - 1/(n + 1)` without ties. So "reject where p is at most 0.05" rejects 5 % of
what is known, whatever the network, the distance or the shape of the classes.

The calibration is by class (Mondrian): of the classifier's class for ``bound="predicted"``, so that the promise holds for
the known records that are called c, rightly or wrongly; of the true class for ``bound="min"``, where a record's p-value is
the largest over classes and the promise holds class by class, conservatively.

A batch is judged as a whole by Benjamini and Hochberg's procedure: of the records called new, at most the share q is known on
average. Conformal p-values that share a calibration set are positively dependent, for which it is valid (Bates et al.).

The promise needs calibration records that the *network* was not trained on, as new records are not. Latents of training
records lie closer to their means, and a calibration on them rejects more than alpha of what is known.

References
----------
Vovk, V., Gammerman, A. and Shafer, G. (2005). Algorithmic learning in a random world. Springer. Section 4.5.
Bates, S., Candès, E., Lei, L., Romano, Y. and Sesia, M. (2023). Testing for outliers with conformal p-values. Annals of
Statistics 51, 149-178.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length, column_or_1d

from statml._validation import RandomState, as_generator, check_number
from statml.inference import adjust_pvalues

from .bound import Bound, _listed, warn_starved
from .distances import record_distances

Array = NDArray[np.float64]

MIN_CALIBRATION = 19  # with fewer, no p-value can be as small as 0.05


class ConformalBound(Bound):
    """Outlier probabilities whose rejections of known records are controlled in finite samples.

    Parameters
    ----------
    distance : {"cosine", "euclidean", "mixed"}, default="cosine"
        Between a latent and the mean of a class.
    calibration : float in (0, 1), default=0.5
        Share of each class's records that is set aside for the calibration where ``fit`` is not told which.
    bound : {"predicted", "min"}, default="predicted"
        Whether a record is judged by the class that the classifier says, or by the class that suits it best.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Fixes the split.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    means_ : ndarray of shape (n_classes, d)
        Of the correctly classified records outside the calibration.
    params_ : list of ndarray
        Sorted calibration distances of each class.
    tail_sizes_ : ndarray of int, shape (n_classes,)
        Their numbers; p-values of a class are at least 1 / (this + 1).
    starved_ : ndarray of bool, shape (n_classes,)
        Classes with fewer than 19 calibration records of their own. They are judged by the distances of all classes
        together, for which the promise holds on average over classes only.
    n_features_in_ : int

    See Also
    --------
    conformal_p_values : The same for any score, as reconstruction errors.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.continual import ConformalBound
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(2, size=1200)
    >>> Z = rng.normal(size=(1200, 5)) + 6 * y[:, None]
    >>> bound = ConformalBound("euclidean", random_state=0).fit(Z[:1000], y[:1000])
    >>> bound.reject(Z[1000:], y[1000:], alpha=0.1).mean().round(2)
    np.float64(0.1)
    >>> bound.reject([[40.0] * 5], [1], alpha=0.1)
    array([ True])
    """

    def __init__(
        self,
        distance: str = "cosine",
        calibration: float = 0.5,
        bound: str = "predicted",
        random_state: RandomState = None,
    ):
        self.distance = distance
        self.calibration = calibration
        self.bound = bound
        self.random_state = random_state

    def fit(
        self,
        Z: ArrayLike,
        y: ArrayLike,
        y_pred: ArrayLike | None = None,
        held_out: ArrayLike | None = None,
    ) -> Self:
        """Learn means from one part of the records and calibrate on the other.

        Parameters
        ----------
        Z : array-like of shape (n, d)
            Latents, made as those that will be judged.
        y : array-like of shape (n,)
            Classes.
        y_pred : array-like of shape (n,), optional
            What the classifier says; default `y`. Means use correctly classified records only. With
            ``bound="predicted"`` the calibration takes all records that are called c, right or wrong.
        held_out : array-like of bool, shape (n,), optional
            True for calibration records: those that the network was not trained on. Default: a random split within
            each class, `calibration` of it; the promise then holds only if the network was trained on none of them.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For NaN, unequal lengths, a class without a record outside the calibration, or no calibration record.
        """
        Z, y, y_pred = self._check(Z, y, y_pred)
        held_out = self._split(y, held_out)
        lost = np.setdiff1d(y, y[~held_out])
        if len(lost):
            raise ValueError(
                f"held_out leaves {_listed(lost)} without a record from which to learn a mean"
            )
        self._set_means(Z[~held_out], y[~held_out], y_pred[~held_out])
        groups = (y_pred if self.bound == "predicted" else y)[held_out]
        code = self._codes("y_pred", groups)
        own = record_distances(Z[held_out], self.means_[code], self.distance)
        if not len(own):
            raise ValueError("held_out must be True for at least one record, got none")
        together = np.sort(own)
        counts = np.bincount(code, minlength=len(self.classes_))
        self.starved_ = counts < MIN_CALIBRATION
        self.params_ = [
            together if starved else np.sort(own[code == c])
            for c, starved in enumerate(self.starved_)
        ]
        self.tail_sizes_ = np.array([len(d) for d in self.params_])
        warn_starved(
            self.classes_, self.starved_, f"{MIN_CALIBRATION} calibration records", stacklevel=2
        )
        return self

    def p_values(self, Z: ArrayLike, y_pred: ArrayLike | None = None) -> Array:
        """Conformal p-values of the hypothesis that a record is of a known class; 1 - ``outlier_proba``.

        Parameters
        ----------
        Z : array-like of shape (n, d)
        y_pred : array-like of shape (n,), optional
            As for ``outlier_proba``.

        Returns
        -------
        ndarray of shape (n,)
        """
        return 1 - self.outlier_proba(Z, y_pred)

    def reject(
        self, Z: ArrayLike, y_pred: ArrayLike | None = None, alpha: float = 0.05
    ) -> NDArray[np.bool_]:
        """Which records are not of a known class; of the known ones, at most the share `alpha` on average.

        Parameters
        ----------
        Z : array-like of shape (n, d)
        y_pred : array-like of shape (n,), optional
            As for ``outlier_proba``.
        alpha : float in (0, 1), default=0.05

        Returns
        -------
        ndarray of bool, shape (n,)
        """
        alpha = check_number("alpha", alpha, 0, 1, low_open=True, high_open=True)
        return _at_most(self.p_values(Z, y_pred), alpha)

    def discover(
        self, Z: ArrayLike, y_pred: ArrayLike | None = None, q: float = 0.05
    ) -> NDArray[np.bool_]:
        """Which records of a batch are new; of those so called, at most the share `q` is known on average.

        Parameters
        ----------
        Z : array-like of shape (n, d)
            One batch, judged as a whole (Benjamini-Hochberg).
        y_pred : array-like of shape (n,), optional
            As for ``outlier_proba``.
        q : float in (0, 1), default=0.05
            False discovery rate.

        Returns
        -------
        ndarray of bool, shape (n,)
            All False where no evidence is enough, as when the calibration has fewer than about n / q records.
        """
        q = check_number("q", q, 0, 1, low_open=True, high_open=True)
        return _at_most(adjust_pvalues(self.p_values(Z, y_pred)), q)

    def _split(self, y: NDArray, held_out: ArrayLike | None) -> NDArray[np.bool_]:
        if held_out is not None:
            held_out = column_or_1d(held_out)
            if held_out.dtype != bool:
                raise TypeError(f"held_out must hold booleans, got {held_out.dtype}")
            check_consistent_length(y, held_out)
            return held_out
        share = check_number("calibration", self.calibration, 0, 1, low_open=True, high_open=True)
        rng = as_generator(self.random_state)
        held_out = np.zeros(len(y), dtype=bool)
        for c in np.unique(y):
            members = rng.permutation(np.flatnonzero(y == c))
            held_out[members[: min(round(share * len(members)), len(members) - 1)]] = True
        return held_out

    def _w(self, distances: Array, c: NDArray[np.int64]) -> Array:
        c = np.broadcast_to(c, distances.shape)
        w = np.empty(distances.shape)
        for k in np.unique(c):
            here = c == k
            w[here] = 1 - conformal_p_values(self.params_[k], distances[here])
        return w

    def _w_inverse(self, p: Array, c: NDArray[np.int64]) -> Array:
        # w jumps just beyond each calibration distance; beyond the largest it is n / (n + 1) for ever
        p, c = np.broadcast_arrays(p, c)
        found = np.empty(p.shape)
        for at in np.ndindex(p.shape):
            ordered = self.params_[c[at]]
            k = int(np.ceil(p[at] * (len(ordered) + 1) * (1 - 1e-12)))
            found[at] = 0.0 if k == 0 else ordered[k - 1] if k <= len(ordered) else np.inf
        return found


def conformal_p_values(calibration: ArrayLike, scores: ArrayLike) -> Array:
    """P-values of scores among those of a calibration set; high scores are suspicious.

    Parameters
    ----------
    calibration : array-like of shape (n,)
        Scores of known records that neither the network nor the score has seen.
    scores : array-like of any shape

    Returns
    -------
    ndarray of the shape of `scores`
        (1 + number of calibration scores >= score) / (n + 1).

    Raises
    ------
    ValueError
        For an empty calibration or NaN.

    Examples
    --------
    >>> conformal_p_values([1.0, 2.0, 3.0, 4.0], [0.5, 3.0, 9.0])
    array([1. , 0.6, 0.2])
    """
    calibration = np.sort(column_or_1d(np.asarray(calibration, dtype=float)))
    scores = np.asarray(scores, dtype=float)
    if len(calibration) == 0:
        raise ValueError("calibration must hold at least one score, got none")
    for name, values in (("calibration", calibration), ("scores", scores)):
        if np.isnan(values).any():
            raise ValueError(f"{name} must not hold NaN")
    smaller = np.searchsorted(calibration, scores, side="left")
    return (1 + len(calibration) - smaller) / (len(calibration) + 1)


def _at_most(p: Array, limit: float) -> NDArray[np.bool_]:
    # p-values are fractions k / (n + 1): one that equals the limit must not miss it by a rounding
    return p <= limit * (1 + 1e-12)
