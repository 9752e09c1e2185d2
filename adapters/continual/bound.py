r"""What the three bounds on the aggregate posterior have in common.

The aggregate posterior of a class, :math:`q(z) = E_{x} q(z | x)` over its records x, is summarised by the mean
:math:`\bar z_c` and by the distances of the class's records to it. A *bound* turns a distance d into the probability
:math:`w_c(d)` that a record so far away is an outlier: nondecreasing in d, between 0 and 1. The bounds differ in how:

* `WeibullBound` - the paper's: a Weibull distribution fitted to the largest distances, in libMR's convention. Its w is
  a score, not an exceedance probability.
* `PeaksOverThresholdBound` - a generalised Pareto tail: w is calibrated, w > 0.99 for one record in a hundred.
* `ConformalBound` - 1 minus a split-conformal p-value: w is calibrated in finite samples, without any model.

The protocol (everything else in this family asks for nothing more)::

    bound.fit(Z, y, y_pred=None)        -> self
    bound.distances(Z)                  -> (n, n_classes)
    bound.outlier_proba(Z, y_pred=None) -> (n,)
    bound.outlier_proba_per_class(Z)    -> (n, n_classes)
    bound.inverse(p, c)                 -> distance at which w_c is p
    bound.classes_, means_, params_     -> arrays

Attributes are arrays or lists of arrays, so that a fitted bound can be written to a file as plain data.
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import check_is_fitted

from statml._validation import check_choice, check_labels, check_magnitude

from .distances import DISTANCES, class_distances, record_distances

Array = NDArray[np.float64]


class Bound(BaseEstimator):
    """Base of the bounds; see the module's docstring.

    A subclass stores the parameters ``distance`` and ``bound`` and supplies ``_fit_classes(distances, n_seen)``,
    ``_w(distances, c)`` and ``_w_inverse(p, c)``, the last two for arrays and indices of classes that broadcast.
    """

    distance: str
    bound: str

    def fit(self, Z: ArrayLike, y: ArrayLike, y_pred: ArrayLike | None = None) -> Self:
        """Learn means and distances of every class.

        Parameters
        ----------
        Z : array-like of shape (n, d)
            Latents. Of a variational encoder: samples, or means of samples, as those that will be judged; a bound on
            posterior means is too narrow for samples.
        y : array-like of shape (n,)
            Classes of any type that can be sorted.
        y_pred : array-like of shape (n,), optional
            What the classifier says. Only correctly classified records count, as in the paper; a class that has none
            of them keeps all its records, with a warning. Default: all are taken as correct.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For NaN, unequal lengths, no record, or too few records of all classes together.
        """
        Z, y, y_pred = self._check(Z, y, y_pred)
        self._set_means(Z, y, y_pred)
        correct = self._counted(y, y_pred)
        code = np.searchsorted(self.classes_, y)
        own = record_distances(Z, self.means_[code], self.distance)
        seen = np.bincount(code, minlength=len(self.classes_))
        self._fit_classes([own[correct & (code == c)] for c in range(len(self.classes_))], seen)
        return self

    def distances(self, Z: ArrayLike) -> Array:
        """Distances to all class means.

        Parameters
        ----------
        Z : array-like of shape (n, d)

        Returns
        -------
        ndarray of shape (n, n_classes)
            Columns in the order of ``classes_``.
        """
        return class_distances(self._latents(Z), self.means_, self.distance)

    def outlier_proba_per_class(self, Z: ArrayLike) -> Array:
        """w of every record under every class.

        Parameters
        ----------
        Z : array-like of shape (n, d)

        Returns
        -------
        ndarray of shape (n, n_classes)
        """
        return self._w(self.distances(Z), np.arange(len(self.means_))[None])

    def outlier_proba(self, Z: ArrayLike, y_pred: ArrayLike | None = None) -> Array:
        """w of every record: how certainly it lies beyond what was seen.

        Parameters
        ----------
        Z : array-like of shape (n, d)
        y_pred : array-like of shape (n,), optional
            The classifier's labels, for ``bound="predicted"``; without them the class with the nearest mean is taken.
            ``bound="min"`` takes the smallest w over classes and needs none.

        Returns
        -------
        ndarray of shape (n,)
            In [0, 1].

        Raises
        ------
        ValueError
            If a label has no bound.
        sklearn.exceptions.NotFittedError
            Before ``fit``.
        """
        Z = self._latents(Z)
        if self.bound == "min":
            return self.outlier_proba_per_class(Z).min(axis=1)
        if y_pred is None:
            distances = class_distances(Z, self.means_, self.distance)
            code = distances.argmin(axis=1)
            return self._w(distances[np.arange(len(Z)), code], code)
        code = self._codes("y_pred", y_pred)
        check_consistent_length(Z, code)
        return self._w(record_distances(Z, self.means_[code], self.distance), code)

    def inverse(self, p: ArrayLike, c: Any) -> Array:
        """Distance from the mean of a class at which w is p.

        Parameters
        ----------
        p : array-like
            In [0, 1).
        c : label, or array-like of labels that broadcasts with `p`
            From ``classes_``.

        Returns
        -------
        ndarray of the broadcast shape, or float for scalars

        Raises
        ------
        ValueError
            If p is outside [0, 1) or a label has no bound.
        """
        check_is_fitted(self)
        p = np.asarray(p, dtype=float)
        if not ((p >= 0) & (p < 1)).all():
            raise ValueError(f"p must lie in [0, 1), got {p[~((p >= 0) & (p < 1))].flat[0]}")
        labels = np.asarray(c)
        code = self._codes("c", labels.ravel()).reshape(labels.shape)
        found = self._w_inverse(p, code)
        return float(found) if np.ndim(found) == 0 else found

    # --- for the subclasses -----------------------------------------------------------------------------

    def _fit_classes(self, distances: list[Array], n_seen: NDArray[np.int64]) -> None:
        raise NotImplementedError

    def _w(self, distances: Array, c: NDArray[np.int64]) -> Array:
        raise NotImplementedError

    def _w_inverse(self, p: Array, c: NDArray[np.int64]) -> Array:
        raise NotImplementedError

    def _check(self, Z, y, y_pred) -> tuple[Array, NDArray, NDArray]:
        check_choice("distance", self.distance, DISTANCES)
        check_choice("bound", self.bound, ("predicted", "min"))
        Z = check_magnitude("Z", check_array(Z, dtype=float, input_name="Z"))
        y = check_labels("y", y)
        y_pred = y if y_pred is None else check_labels("y_pred", y_pred)
        check_consistent_length(Z, y, y_pred)
        if (y.dtype.kind in "biuf") != (y_pred.dtype.kind in "biuf"):
            raise ValueError(
                f"y_pred must hold labels of the type of y, {y.dtype}, got {y_pred.dtype}"
            )
        return Z, y, y_pred

    def _set_means(self, Z: Array, y: NDArray, y_pred: NDArray) -> None:
        self.classes_ = np.unique(y)
        self.n_features_in_ = Z.shape[1]
        none = np.setdiff1d(self.classes_, y[y == y_pred])
        if len(none):
            warnings.warn(
                f"no record of {_listed(none)} is classified correctly; the bound rests on all records there",
                stacklevel=3,
            )
        counted = self._counted(y, y_pred)
        self.means_ = np.stack([Z[counted & (y == c)].mean(axis=0) for c in self.classes_])

    @staticmethod
    def _counted(y: NDArray, y_pred: NDArray) -> NDArray[np.bool_]:
        """Correctly classified records, and all records of a class that has none."""
        correct = np.asarray(y == y_pred)
        return correct | ~np.isin(y, y[correct])

    def _latents(self, Z: ArrayLike) -> Array:
        check_is_fitted(self)
        Z = check_array(Z, dtype=float, input_name="Z", ensure_min_samples=0)
        check_magnitude("Z", Z)
        if Z.shape[1] != self.n_features_in_:
            raise ValueError(
                f"Z must have {self.n_features_in_} columns, as in fit, got {Z.shape[1]}"
            )
        return Z

    def _codes(self, name: str, labels: ArrayLike) -> NDArray[np.int64]:
        return class_codes(name, labels, self.classes_)


def class_codes(name: str, labels: ArrayLike, classes: NDArray) -> NDArray[np.int64]:
    """Positions of labels in the sorted `classes`; an error naming the argument if one is not there.

    Examples
    --------
    >>> import numpy as np
    >>> class_codes("y", ["b", "a"], np.array(["a", "b"]))
    array([1, 0])
    """
    labels = check_labels(name, labels)
    known = np.isin(labels, classes)
    if not known.all():
        raise ValueError(
            f"{name} must hold labels from classes_, {_listed(classes)}, got {labels[~known][0]!r}"
        )
    return np.searchsorted(classes, labels)


def warn_starved(labels: NDArray, starved: NDArray[np.bool_], needed: str, stacklevel: int) -> None:
    """Say which classes borrow from the others."""
    if starved.any():
        warnings.warn(
            f"{_listed(labels[starved])}: fewer than {needed}, so that the bound leans on that of all classes "
            "together",
            stacklevel=stacklevel + 1,
        )


def _listed(labels: NDArray) -> str:
    shown = ", ".join(str(label) for label in labels[:8])
    more = f", ... ({len(labels)} in all)" if len(labels) > 8 else ""
    return f"{'class' if len(labels) == 1 else 'classes'} {shown}{more}"
