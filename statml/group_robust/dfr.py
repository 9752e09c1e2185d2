r"""Deep feature reweighting: keep the features, refit the last layer on data in which all groups are equally frequent.

A network that leans on a spurious feature has mostly learnt the core ones as well. So its features are frozen, and a
logistic regression with an L1 penalty is fitted to group-balanced subsets of held-out records: as many from every group
as the smallest has. Its strength C is chosen by the accuracy of the worst group on one half of the records; then the
coefficients of many fits, each to a new balanced subset of all records, are averaged.

X holds the features, of records that the network was not trained on.

Cost: `n_retrains` times the number of candidates, plus `n_retrains`, small fits.

Reference: Kirichenko, P., Izmailov, P. and Wilson, A. G. (2023). Last layer re-training is sufficient for robustness
to spurious correlations. International Conference on Learning Representations, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import sklearn
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.fixes import parse_version

from .._validation import RandomState, as_generator, check_integer, check_number
from ._linear_classifier import LinearClassifier, validated_classes
from .metrics import group_membership
from .out_of_fold import stratified_folds

Array = NDArray[np.float64]

# scikit-learn 1.8 renamed the penalty
L1 = {"l1_ratio": 1.0} if parse_version(sklearn.__version__) >= parse_version("1.8") else {}
L1 = L1 or {"penalty": "l1"}


class DeepFeatureReweighting(LinearClassifier):
    """L1 logistic regression on group-balanced subsets, averaged.

    Parameters
    ----------
    Cs : sequence of float, default=(1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
        Candidates for the inverse strength of the penalty, as in scikit-learn.
    n_retrains : int, default=20
        Balanced subsets over which coefficients are averaged.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Fixes subsets and halves.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) for two classes, else (n_classes, n_features)
        For features in their own units.
    intercept_ : ndarray of shape (1,) or (n_classes,)
    C_ : float
        The candidate chosen.
    worst_group_accuracy_ : dict
        Of each candidate, on the half of the records it was not fitted to.
    groups_ : list
    group_sizes_ : ndarray of int, shape (n_groups,)
    classes_ : ndarray of shape (n_classes,)

    References
    ----------
    Kirichenko et al. (2023), section 6.

    Examples
    --------
    >>> from statml.datasets import make_spurious_gaussians
    >>> from statml.group_robust.dfr import DeepFeatureReweighting
    >>> data = make_spurious_gaussians(random_state=0)
    >>> model = DeepFeatureReweighting(random_state=0).fit(data.X, data.y, groups=data.groups)
    >>> weight = abs(model.coef_[0])
    >>> bool(weight[:5].min() > weight[data.spurious_feature])
    True
    """

    def __init__(
        self,
        Cs: Sequence[float] = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01),
        n_retrains: int = 20,
        random_state: RandomState = None,
    ):
        self.Cs = Cs
        self.n_retrains = n_retrains
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit the last layer.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,)
        groups : array-like of shape (n,) or None, default=None
            Group of each record. None: the classes are the groups.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, y has one class, or group labels are missing or not one a record.
        """
        n_retrains = check_integer("n_retrains", self.n_retrains, low=1)
        if np.ndim(self.Cs) != 1 or len(self.Cs) == 0:
            raise ValueError(f"Cs must be a sequence of numbers > 0, got {self.Cs!r}")
        Cs = [check_number("Cs", C, 0, low_open=True) for C in self.Cs]
        X, self.classes_, codes = validated_classes(self, X, y)
        self.groups_, member = group_membership(codes if groups is None else groups, len(X))
        if (member.sum(axis=1) > 1).any():
            raise ValueError("groups must not overlap: one label a record is taken")
        if groups is None:
            self.groups_ = self.classes_.tolist()
        group = member.argmax(axis=1)
        self.group_sizes_: NDArray[np.int64] = member.sum(axis=0)
        rng = as_generator(self.random_state)
        scaler = StandardScaler().fit(X)
        Z = scaler.transform(X)
        K = len(self.classes_)

        fold = stratified_folds(group, 2, rng)
        # a group of one record is in one half only: the one that is fitted to
        fold = np.where(self.group_sizes_[group] == 1, 0, fold)
        fit, judge = fold == 0, fold == 1
        self.worst_group_accuracy_: dict[float, float] = {}
        for C in Cs if len(Cs) > 1 and judge.any() else ():
            w = _averaged_fit(Z[fit], codes[fit], group[fit], K, C, n_retrains, rng)
            right = _predicted(w, Z[judge]) == codes[judge]
            self.worst_group_accuracy_[C] = float(
                min(right[group[judge] == g].mean() for g in np.unique(group[judge]))
            )
        candidates = self.worst_group_accuracy_ or {Cs[0]: np.nan}
        self.C_ = max(candidates, key=candidates.get)
        w = _averaged_fit(Z, codes, group, K, self.C_, n_retrains, rng)
        self.coef_ = w[:, :-1] / scaler.scale_
        self.intercept_ = w[:, -1] - self.coef_ @ scaler.mean_
        return self


def balanced_subset(group: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions of as many records of every group as the smallest has, drawn at random.

    Examples
    --------
    >>> import numpy as np
    >>> group = np.array([0, 0, 0, 1])
    >>> np.bincount(group[balanced_subset(group, np.random.default_rng(0))])
    array([1, 1])
    """
    names, sizes = np.unique(group, return_counts=True)
    return np.concatenate(
        [rng.choice(np.flatnonzero(group == g), sizes.min(), replace=False) for g in names]
    )


def _averaged_fit(Z, codes, group, K, C, n_retrains, rng) -> Array:
    """Mean of the coefficients over balanced subsets, shape (1 or K, p + 1), intercepts last."""
    total = np.zeros((1 if K == 2 else K, Z.shape[1] + 1))
    solver = "liblinear" if K == 2 else "saga"
    for _ in range(n_retrains):
        rows = balanced_subset(group, rng)
        if len(np.unique(codes[rows])) < K:
            raise ValueError(
                f"groups must be such that a subset with equally many of each holds every class; one of {len(rows)} "
                "records did not. Give groups made of class and attribute"
            )
        seed = int(rng.integers(2**31))
        model = LogisticRegression(C=C, solver=solver, max_iter=1000, random_state=seed, **L1)
        model.fit(Z[rows], codes[rows])
        total += np.column_stack([model.coef_, model.intercept_])
    return total / n_retrains


def _predicted(w, Z) -> NDArray[np.int64]:
    z = Z @ w[:, :-1].T + w[:, -1]
    return z.argmax(axis=1) if z.shape[1] > 1 else (z[:, 0] > 0).astype(np.int64)
