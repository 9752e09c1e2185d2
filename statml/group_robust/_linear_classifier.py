"""What classifiers with ``coef_`` and ``intercept_`` share: how they predict, and how they read their labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .._validation import check_magnitude

Array = NDArray[np.float64]


def validated_classes(estimator: BaseEstimator, X: ArrayLike, y: ArrayLike):
    """X as floats, the classes, and the class of each record as a position 0 to K - 1."""
    X, y = validate_data(estimator, X, y, dtype=np.float64)
    check_magnitude("X", X)
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y must hold at least two classes, got one class, {classes.tolist()[0]!r}"
        )
    return X, classes, codes


class LinearClassifier(ClassifierMixin, BaseEstimator):
    """Prediction from coefficients; a subclass fits ``coef_``, ``intercept_`` and ``classes_``."""

    def decision_function(self, X: ArrayLike) -> Array:
        """Linear predictors.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n,) for two classes (log odds of the second), else (n, n_classes)
        """
        check_is_fitted(self)
        X = check_magnitude("X", validate_data(self, X, dtype=np.float64, reset=False))
        z = X @ self.coef_.T + self.intercept_
        return z[:, 0] if len(self.classes_) == 2 else z

    def predict_proba(self, X: ArrayLike) -> Array:
        """Class probabilities.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n, n_classes)
        """
        z = self.decision_function(X)
        return softmax(z, axis=1) if z.ndim == 2 else np.column_stack([expit(-z), expit(z)])

    def predict(self, X: ArrayLike) -> NDArray:
        """Most probable classes.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n,)
        """
        z = self.decision_function(X)
        return self.classes_[z.argmax(axis=1) if z.ndim == 2 else (z > 0).astype(int)]
