"""Naive Bayes classification from noisy tables of class by feature; the model is `statml.privacy.models.NaiveBayesLogLinear`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from ..._validation import RandomState
from ..mechanisms._release import numbers
from ..models import NaiveBayesLogLinear
from ..protocols import Array, Mechanism
from ._own_model import OwnModel


class PrivateNaiveBayes(OwnModel):
    """Naive Bayes classification learned from noisy tables of class by feature.

    Parameters
    ----------
    mechanism : Mechanism
        Noise on every cell of every table.
    n_records : int
        Public number of records.
    n_levels : sequence of K int or None, default=None
        Levels of each feature; None takes them from the shapes of the tables.
    n_classes : int or None, default=None
        Only needed where the release is a flat array.
    prior_class, prior_level : float, default=1.0
        Dirichlet priors of the class probabilities, and of the levels given a class.
    draws, tune, chains, kernel, n_jobs, progress, checkpoint_dir, random_state
        As in `PrivatePosterior`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        0, 1, ...
    class_prior_ : ndarray of shape (n_classes,)
        Posterior mean of the class probabilities.
    model : NaiveBayesLogLinear
        And the attributes of `PrivatePosterior`.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import PrivateNaiveBayes, mechanisms
    >>> tables = [np.array([[40, 8], [10, 42]]), np.array([[30, 15, 5], [4, 16, 30]])]  # class by level
    >>> fit = PrivateNaiveBayes(mechanisms.DiscreteLaplace(4), n_records=100, random_state=0).fit(tables)
    >>> fit.predict([[0, 0], [1, 2]])
    array([0, 1])
    """

    def __init__(
        self,
        mechanism: Mechanism,
        n_records: int,
        n_levels: Sequence[int] | None = None,
        n_classes: int | None = None,
        prior_class: float = 1.0,
        prior_level: float = 1.0,
        draws: int = 2000,
        tune: int = 1000,
        chains: int = 4,
        kernel: str = "auto",
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        random_state: RandomState = None,
    ):
        self.mechanism = mechanism
        self.n_records = n_records
        self.n_levels = n_levels
        self.n_classes = n_classes
        self.prior_class = prior_class
        self.prior_level = prior_level
        self.draws = draws
        self.tune = tune
        self.chains = chains
        self.kernel = kernel
        self.n_jobs = n_jobs
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state

    def fit(self, release: Sequence[ArrayLike] | ArrayLike, y: None = None) -> Self:
        """Draw from the posterior.

        Parameters
        ----------
        release : sequence of K array-likes of shape (n_classes, n_levels[k]), or all of their cells in one flat array
            Feature after feature, class after class.
        y : ignored
        """
        n_classes, n_levels = self.n_classes, self.n_levels
        if not isinstance(release, Mapping) and all(np.ndim(table) == 2 for table in release):
            tables = [numbers("release", table) for table in release]
            shapes = [table.shape for table in tables]
            n_classes = shapes[0][0] if n_classes is None else n_classes
            n_levels = [shape[1] for shape in shapes] if n_levels is None else list(n_levels)
            expected = [(n_classes, J) for J in n_levels]
            if shapes != expected:
                raise ValueError(
                    f"release must be one table of class by level for each feature, of shapes {expected}; got {shapes}"
                )
            release = np.concatenate([table.ravel() for table in tables])
        elif n_classes is None or n_levels is None:
            raise ValueError(
                "n_classes and n_levels must be given where the release is no list of tables"
            )
        self._model = NaiveBayesLogLinear(n_classes, n_levels, self.prior_class, self.prior_level)
        super().fit(release)
        self.classes_: NDArray[np.int64] = np.arange(n_classes)
        self.class_prior_: Array = self.posterior_mean_[:n_classes]
        return self

    def predict_proba(self, X: ArrayLike) -> Array:
        """Class probabilities of new cases, averaged over the posterior.

        Parameters
        ----------
        X : array-like of int, shape (n, K)
            Level of each feature, 0, 1, ...

        Returns
        -------
        ndarray of shape (n, n_classes)
        """
        check_is_fitted(self)
        X = numbers("X", X)
        n_levels = np.array(self.model.n_levels)
        if X.ndim != 2 or not len(X) or X.shape[1] != len(n_levels):
            raise ValueError(f"X must have shape (n, {len(n_levels)}), got {X.shape}")
        if not np.isin(X, np.arange(n_levels.max())).all() or (X.max(axis=0) >= n_levels).any():
            raise ValueError(
                f"X must hold levels 0, ..., n_levels - 1 of features with {n_levels.tolist()} levels"
            )
        X = X.astype(np.int64)
        theta = self.draws_of().to_numpy()
        I = len(self.classes_)
        joint = np.repeat(theta[:, None, :I], len(X), axis=1)  # draws, cases, classes
        for k, table in enumerate(self.model.tables(theta[:, I:])):
            joint *= np.moveaxis(table[:, :, X[:, k]], 1, 2)
        p = joint.mean(axis=0)
        return p / p.sum(axis=1, keepdims=True)

    def predict(self, X: ArrayLike) -> Array:
        """The most probable class of new cases, shape (n,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]
