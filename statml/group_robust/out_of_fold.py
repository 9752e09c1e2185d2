"""Predictions for every record by a model that did not see it.

In-sample errors of a flexible model vanish, and with them everything that a method for finding groups feeds on. So the
errors come from K models, each fitted without one part of the records.

Cost: K fits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

Array = NDArray[np.float64]


def stratified_folds(y: NDArray[np.int64], n_folds: int, rng: np.random.Generator) -> NDArray:
    """Number the records 0 to n_folds - 1 at random, each class as evenly as it goes.

    Parameters
    ----------
    y : ndarray of int, shape (n,)
        Positions of classes.
    n_folds : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int, shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> fold = stratified_folds(np.array([0] * 4 + [1] * 6), 2, np.random.default_rng(0))
    >>> [np.bincount(fold[:4]).tolist(), np.bincount(fold[4:]).tolist()]
    [[2, 2], [3, 3]]
    """
    fold = np.empty(len(y), dtype=np.int64)
    start = 0
    for code in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == code))
        # going on where the last class stopped keeps the folds of one size
        fold[rows] = (start + np.arange(len(rows))) % n_folds
        start += len(rows)
    return fold


def seeded(estimator: BaseEstimator, rng: np.random.Generator) -> BaseEstimator:
    """A clone in which every ``random_state`` that was left open, also of nested estimators, is a draw from `rng`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> seeded(LogisticRegression(random_state=7), np.random.default_rng(0)).random_state
    7
    >>> seeded(LogisticRegression(), np.random.default_rng(0)).random_state is None
    False
    """
    estimator = clone(estimator)
    for name, value in sorted(estimator.get_params(deep=True).items()):
        if value is None and (name == "random_state" or name.endswith("__random_state")):
            estimator.set_params(**{name: int(rng.integers(2**31))})
    return estimator


def out_of_fold_proba(
    estimator: BaseEstimator,
    X: Array,
    y: NDArray[np.int64],
    fold: NDArray[np.int64],
    fit_params: Callable[[NDArray], dict] | None = None,
) -> Array:
    """Class probabilities of each record, by a clone fitted to the other folds.

    Parameters
    ----------
    estimator : classifier with predict_proba
    X : ndarray of shape (n, p)
    y : ndarray of int, shape (n,)
        Positions 0 to K - 1.
    fold : ndarray of int, shape (n,)
    fit_params : callable or None, default=None
        Mask of the training records -> further arguments of ``fit``.

    Returns
    -------
    ndarray of shape (n, K)
        A class that the other folds lack gets the probability 1 / (records there + K) of Laplace's rule.
    """
    proba = np.empty((len(y), int(y.max()) + 1))
    for k in np.unique(fold):
        train = fold != k
        if len(np.unique(y[train])) < 2:
            raise ValueError(
                f"y has too few records of all but one class for {len(np.unique(fold))} folds; "
                "give more records or a smaller cv"
            )
        extra = {} if fit_params is None else fit_params(train)
        model = clone(estimator).fit(X[train], y[train], **extra)
        proba[~train] = aligned_proba(model, X[~train], proba.shape[1], int(train.sum()))
    return proba


def aligned_proba(model: BaseEstimator, X: Array, n_classes: int, n_train: int) -> Array:
    """Probabilities with a column for each of n_classes classes, those the model never saw included."""
    found = model.predict_proba(X)
    if found.shape[1] == n_classes:
        return found
    proba = np.full((len(X), n_classes), 1.0 / (n_train + n_classes))
    absent = n_classes - found.shape[1]
    proba[:, model.classes_.astype(int)] = found * (1.0 - absent / (n_train + n_classes))
    return proba


def log_losses(proba: Array, y: NDArray[np.int64]) -> Array:
    """-log of the probability of the true class, shape (n,)."""
    return -np.log(np.maximum(proba[np.arange(len(y)), y], np.finfo(float).tiny))
