r"""Cross-risk minimisation: twin models that learn from each other's errors, and the groups on which they err.

Two models are fitted, with equal total weight for each class, to random halves of the records. After every round each
record is shown to the twin that was not fitted to it, and its label is flipped to that twin's prediction, made with
probability p, with chance :math:`(p - 1/K)\, K / (K - 1)`. So the easy, spurious rule spreads, and records
that contradict it lose their say. A record belongs to environment 1 if either twin misclassifies its original label; the
twins also say so for a labelled validation set, whose groups therefore come for free.

Here a round is a whole fit, where the paper's is a gradient step. Early steps of a network see the easy rule only; a model
that takes in all features at once, as a linear one does, finds little more than its own errors. The authors choose
parameters by the share of flipped labels, `flip_rate_`: the larger, the more the twins agree on a rule that the labels do
not follow.

Cost: 2 `n_rounds` fits to half of the records.

Reference: Pezeshki, M., Bouchacourt, D., Ibrahim, M., Ballas, N., Vincent, P. and Lopez-Paz, D. (2024). Discovering
environments with XRM. International Conference on Machine Learning, algorithm 1.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression

from .._validation import RandomState, as_generator, check_integer
from ._partition import GroupPartition
from .out_of_fold import aligned_proba, seeded, stratified_folds

Array = NDArray[np.float64]


class XRMPartition(GroupPartition):
    """Groups of class and environment, found by twins; to be given to a robust classifier.

    Parameters
    ----------
    estimator : classifier with predict_proba or None, default=None
        Balances the classes by itself. None is ``LogisticRegression(class_weight="balanced", max_iter=1000)``.
    n_rounds : int, default=10
        Fits of each twin.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Fixes halves and flips, and the estimator where its own ``random_state`` is None.

    Attributes
    ----------
    labels_ : ndarray of str, shape (n,)
        Group of each record, like "y=1, environment 0".
    environments_ : ndarray of int, shape (n,)
        1 where either twin errs.
    flip_rate_ : float
        Share of labels that were flipped in the end.
    groups_ : ndarray of str
        The groups there are.
    twins_ : list of 2 classifiers
    classes_ : ndarray of shape (n_classes,)

    References
    ----------
    Pezeshki et al. (2024), algorithm 1.

    Examples
    --------
    >>> from statml.datasets import make_spurious_gaussians
    >>> from statml.group_robust.xrm import XRMPartition
    >>> data = make_spurious_gaussians(random_state=0)
    >>> xrm = XRMPartition(random_state=0).fit(data.X, data.y)
    >>> minority = data.y != data.attribute
    >>> bool(xrm.environments_[minority].mean() > 5 * xrm.environments_[~minority].mean())
    True
    """

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        n_rounds: int = 10,
        random_state: RandomState = None,
    ):
        self.estimator = estimator
        self.n_rounds = n_rounds
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the twins and find the environments.

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
            If a parameter is out of range, y has one class, or all but one class have a single record.
        """
        n_rounds = check_integer("n_rounds", self.n_rounds, low=1)
        X, codes = self._validated(X, y)
        K = len(self.classes_)
        if np.sum(np.bincount(codes) > 1) < 2:
            raise ValueError("y must hold at least two classes with two records, one for each twin")
        twin = self.estimator
        if twin is None:
            twin = LogisticRegression(class_weight="balanced", max_iter=1000)
        rng = as_generator(self.random_state)
        twin = seeded(twin, rng)
        half = stratified_folds(codes, 2, rng)
        labels = codes.copy()
        for _ in range(n_rounds):
            self.twins_ = [clone(twin).fit(X[half == h], labels[half == h]) for h in (0, 1)]
            proba = [aligned_proba(model, X, K, len(X) // 2) for model in self.twins_]
            held_out = np.where((half == 0)[:, None], proba[1], proba[0])
            flipped = flip_labels(labels, held_out, rng)
            for h in (0, 1):
                if len(np.unique(flipped[half == h])) > 1:  # a twin cannot learn from one class
                    labels[half == h] = flipped[half == h]
        self.flip_rate_ = float((labels != codes).mean())
        self.environments_ = self._environments(X, codes)
        return self._keep(codes, self.environments_)

    def _environments(self, X: Array, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        K = len(self.classes_)
        errs = [
            aligned_proba(model, X, K, self.n_train_ // 2).argmax(axis=1) != codes
            for model in self.twins_
        ]
        return (errs[0] | errs[1]).astype(np.int64)


def flip_labels(
    labels: NDArray[np.int64], held_out: Array, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Replace labels by held-out predictions, with chance (p - 1/K) K / (K - 1).

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
    held_out : ndarray of shape (n, K)
        Class probabilities by the twin that did not see the record.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int, shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> certain = np.array([[0.0, 1.0], [0.5, 0.5]])
    >>> flip_labels(np.array([0, 0]), certain, np.random.default_rng(0))
    array([1, 0])
    """
    K = held_out.shape[1]
    chance = (held_out.max(axis=1) - 1 / K) * K / (K - 1)
    return np.where(rng.random(len(labels)) < chance, held_out.argmax(axis=1), labels)
