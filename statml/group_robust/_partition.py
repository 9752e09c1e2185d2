"""What methods share that cut labelled records into groups: classes by two inferred environments."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from ._linear_classifier import validated_classes

Array = NDArray[np.float64]


class GroupPartition(BaseEstimator):
    """A subclass has ``fit``, and ``_environments(X, codes)`` for records that it was not fitted to."""

    def fit_predict(self, X: ArrayLike, y: ArrayLike) -> NDArray[np.str_]:
        """Fit, and return the group of each training record.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,)

        Returns
        -------
        ndarray of str, shape (n,)
        """
        return self.fit(X, y).labels_

    def predict_groups(self, X: ArrayLike, y: ArrayLike) -> NDArray[np.str_]:
        """Groups of other labelled records, those of a validation set for example.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,)
            Their classes; a group depends on the class.

        Returns
        -------
        ndarray of str, shape (n,)

        Raises
        ------
        ValueError
            If y holds a class that was not there in ``fit``.
        """
        check_is_fitted(self)
        X, y = validate_data(self, X, y, dtype=np.float64, reset=False)
        codes = class_codes(y, self.classes_)
        return self._names(codes, self._environments(X, codes))

    def _validated(self, X, y):
        X, self.classes_, codes = validated_classes(self, X, y)
        self.n_train_ = len(X)
        return X, codes

    def _keep(self, codes, environments) -> Self:
        self.labels_ = self._names(codes, environments)
        self.groups_ = np.unique(self.labels_)
        return self

    def _names(self, codes, environments) -> NDArray[np.str_]:
        names = np.array([[f"y={c}, environment {e}" for e in (0, 1)] for c in self.classes_])
        return names[codes, environments]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def class_codes(y: NDArray, classes: NDArray) -> NDArray[np.int64]:
    """Positions of labels among the classes; a label that is none of them is refused by name."""
    unseen = ~np.isin(y, classes)
    if unseen.any():
        raise ValueError(
            f"y holds the class {y[unseen].tolist()[0]!r}, which was not there in fit; the classes are {classes.tolist()}"
        )
    return np.searchsorted(classes, y)
