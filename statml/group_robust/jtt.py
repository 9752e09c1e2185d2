r"""Just train twice: find the records that a first model gets wrong, and give them more weight in a second one.

With E the records that the identification model misclassifies, the second model minimises

.. math::  \lambda_\mathrm{up} \sum_{i \in E} \ell_i(w) + \sum_{i \notin E} \ell_i(w).

In the paper the identification model is stopped early (by default here, after half of the iterations that it would take)
and judged on its own training records. A flexible model makes no errors there, so that out-of-fold errors are the
default here.

Cost: one fit for the iteration count where there is early stopping, `cv` for the errors, one for the result.

Reference: Liu, E. Z., Haghgoo, B., Chen, A. S., Raghunathan, A., Koh, P. W., Sagawa, S., Liang, P. and Finn, C. (2021).
Just train twice: improving group robustness without training group information. International Conference on
Machine Learning, algorithm 1.
"""

from __future__ import annotations

import math
import warnings
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data

from .._validation import RandomState, as_generator, check_integer, check_magnitude, check_number
from ._linear_classifier import validated_classes
from .out_of_fold import out_of_fold_proba, seeded, stratified_folds


class JTTClassifier(ClassifierMixin, BaseEstimator):
    """Any classifier, trained twice.

    Parameters
    ----------
    estimator : classifier or None, default=None
        Takes ``sample_weight``, and has ``predict_proba``. None is ``LogisticRegression(max_iter=1000)``.
    upweight : float, default=10.0
        Weight of a misclassified record, lambda_up; the others have weight 1.
    stop : float in (0, 1] or None, default=0.5
        Share of its iterations after which the identification model is stopped; for estimators with ``max_iter`` and
        ``n_iter_``. None: it is not stopped.
    cv : int or None, default=5
        Folds for out-of-fold errors. None: errors on the training records themselves, as in the paper.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Fixes the folds, and the estimator where its own ``random_state`` is None.

    Attributes
    ----------
    estimator_ : classifier
        The second fit.
    error_set_ : ndarray of bool, shape (n,)
        E.
    identification_steps_ : int or None
    classes_ : ndarray of shape (n_classes,)

    Notes
    -----
    `upweight` and `stop` are usually chosen by the accuracy of the worst known group of a validation set, which needs
    group labels; without them, JTT has no guarantee to be better than its first model.

    References
    ----------
    Liu et al. (2021), algorithm 1.

    Examples
    --------
    >>> from statml.datasets import make_spurious_gaussians
    >>> from statml.group_robust.jtt import JTTClassifier
    >>> data = make_spurious_gaussians(random_state=0)
    >>> model = JTTClassifier(random_state=0).fit(data.X, data.y)
    >>> minority = data.y != data.attribute
    >>> bool(model.error_set_[minority].mean() > 5 * model.error_set_[~minority].mean())
    True
    """

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        upweight: float = 10.0,
        stop: float | None = 0.5,
        cv: int | None = 5,
        random_state: RandomState = None,
    ):
        self.estimator = estimator
        self.upweight = upweight
        self.stop = stop
        self.cv = cv
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Train twice.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,)

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, y has one class, or `estimator` cannot be stopped early.
        TypeError
            If `estimator` does not take ``sample_weight``.

        Warns
        -----
        UserWarning
            If no record is misclassified: the result is then the plain fit.
        """
        upweight = check_number("upweight", self.upweight, 0, low_open=True)
        if self.cv is not None:
            check_integer("cv", self.cv, low=2)
        X, self.classes_, codes = validated_classes(self, X, y)
        rng = as_generator(self.random_state)
        final = LogisticRegression(max_iter=1000) if self.estimator is None else self.estimator
        if not has_fit_parameter(_last(final), "sample_weight"):
            raise TypeError(
                f"estimator must take sample_weight in fit, which {type(_last(final)).__name__} does not"
            )
        final = seeded(final, rng)
        first, self.identification_steps_ = _stopped_early(final, self.stop, X, codes)
        with warnings.catch_warnings():
            if self.identification_steps_ is not None:  # not to converge is the point
                warnings.simplefilter("ignore", ConvergenceWarning)
            if self.cv is None:
                predicted = clone(first).fit(X, codes).predict(X)
            else:
                fold = stratified_folds(codes, self.cv, rng)
                predicted = out_of_fold_proba(first, X, codes, fold).argmax(axis=1)
        self.error_set_: NDArray[np.bool_] = predicted != codes
        if not self.error_set_.any():
            warnings.warn(
                "no record is misclassified, so that the second fit equals the first; stop earlier, or use cv",
                stacklevel=2,
            )
        weight = np.where(self.error_set_, upweight, 1.0)
        self.estimator_ = _fit_weighted(clone(final), X, codes, weight)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Class probabilities of the second model.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n, n_classes)
        """
        check_is_fitted(self)
        X = check_magnitude("X", validate_data(self, X, dtype=np.float64, reset=False))
        return self.estimator_.predict_proba(X)

    def predict(self, X: ArrayLike) -> NDArray:
        """Classes predicted by the second model.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n,)
        """
        check_is_fitted(self)
        X = check_magnitude("X", validate_data(self, X, dtype=np.float64, reset=False))
        return self.classes_[self.estimator_.predict(X)]


def _stopped_early(estimator, stop, X, codes):
    """The estimator with fewer iterations, and their number."""
    if stop is None:
        return estimator, None
    stop = check_number("stop", stop, 0, 1, low_open=True)
    full = clone(estimator).fit(X, codes)
    n_iter = getattr(_last(full), "n_iter_", None)
    if n_iter is None or "max_iter" not in _last(full).get_params():
        raise ValueError(
            f"stop={stop:g} needs an estimator with max_iter and n_iter_, which {type(_last(full)).__name__} lacks; "
            "set stop=None, and cv to a number of folds"
        )
    steps = max(1, math.ceil(stop * int(np.max(n_iter))))
    first = clone(estimator)
    _last(first).set_params(max_iter=steps)
    return first, steps


def _fit_weighted(estimator, X, codes, weight):
    if isinstance(estimator, Pipeline):
        name = estimator.steps[-1][0]
        return estimator.fit(X, codes, **{f"{name}__sample_weight": weight})
    return estimator.fit(X, codes, sample_weight=weight)


def _last(estimator):
    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
