r"""Slicers: rules that say which records a model serves badly, and a test of whether they are more than noise.

A slicer is fitted to losses of single records, out of fold, and cuts all records into slices by what is known of
each: features, class and, for the soft one, predicted probabilities. How strongly it is restricted decides whether
it is of use: the worst of *all* soft slices of mass alpha is the conditional value at risk of `CVaRClassifier`, which picks
the largest losses whatever their cause.

* `TreeSlicer`: one regression tree a class, its leaves the slices. Each is grown best-first and cut back to the smallest
  number of leaves that reaches half of the best cross-validated gain in squared error; to one, if there is no gain.
  A neglected group is the large contrast; the splits that refine it mostly follow the features that are hard
  for everybody, and robustness over those costs accuracy. There is no further margin against chance: robustness over a
  slice of noise costs little, a group that is missed costs all of it, and p-values tell which is which. With
  ``max_leaves=2`` and no pruning: a stump.
* `EstimatorSlicer`: levels of the loss that a regressor of yours predicts.
* `LinearSlicer` (`soft_slicer`): soft slices, trained against the classifier.

A slicer has ``fit_membership``, ``membership``, ``rules`` and ``null``; any object that has these four can be given to
`AGROClassifier`.

Cost: a tree O(n p log n) a level; a p-value `n_permutations` trees a class.

Reference: Breiman, L., Friedman, J. H., Olshen, R. A. and Stone, C. J. (1984). Classification and Regression Trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin, clone
from sklearn.dummy import DummyRegressor
from sklearn.tree import DecisionTreeRegressor

from .out_of_fold import seeded, stratified_folds

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

ENOUGH = 0.5  # of the explainable loss; a refinement is not worth a slice
FEWEST = 10  # records in a leaf: a mean of fewer says nothing


class Slicer(Protocol):
    """What `AGROClassifier` needs of a slicer.

    Attributes
    ----------
    n_permutations : int
        Refits for a p-value; few where a fit is slow.
    """

    n_permutations: int

    def fit_membership(
        self, X: Array, y: Codes, proba: Array, losses: Array, rng: np.random.Generator
    ) -> Array:
        """Learn slices from out-of-fold losses, and return the memberships of these records, (n, m)."""

    def membership(self, X: Array, y: Codes, proba: Array) -> Array:
        """Memberships of any records in [0, 1], each row with sum 1: (n, m)."""

    def rules(self, features: Sequence[str], classes: Sequence) -> list[str]:
        """One rule a slice."""

    def null(self) -> Slicer:
        """An unfitted slicer that finds at least as extreme slices, to be fitted to permuted losses."""


# --- trees ------------------------------------------------------------------------------------------


@dataclass
class TreeSlicer:
    """Slices as the leaves of a regression tree on the losses, one tree a class.

    Parameters
    ----------
    max_leaves : int
        Of each tree.
    min_mass : float
        Smallest share of all records in a leaf (a class of fewer is a slice by itself).
    by_class : bool
        One tree a class, or one for all, which may split by class too.
    prune : bool
        Whether to cut back.
    template : DecisionTreeRegressor or None
        Settings of the trees, with which they are grown in place of `max_leaves` and `prune`.
    every_node : bool
        Whether inner nodes count as slices too; for the permutation test.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(500, 2)), rng.integers(0, 2, 500)
    >>> losses = np.where((X[:, 1] > 0.5) & (y == 1), 3.0, 0.2) + 0.1 * rng.normal(size=500)
    >>> slicer = TreeSlicer(max_leaves=3)
    >>> slicer.fit_membership(X, y, None, losses, rng).sum(axis=0).tolist()
    [238.0, 186.0, 76.0]
    >>> slicer.rules(["age", "dose"], ["no", "yes"])
    ['y = no', 'dose <= 0.501 & y = yes', 'dose > 0.501 & y = yes']
    """

    max_leaves: int = 2
    min_mass: float = 0.02
    by_class: bool = True
    prune: bool = True
    template: DecisionTreeRegressor | None = None
    every_node: bool = False
    n_permutations: int = 99
    trees: list[DecisionTreeRegressor] = field(default_factory=list, repr=False)

    def fit_membership(self, X, y, proba, losses, rng) -> Array:
        self.n_classes = int(y.max()) + 1
        least = max(FEWEST, int(np.ceil(self.min_mass * len(y))))
        self.trees = []
        for rows in _parts(y, self.by_class, self.n_classes):
            Z = self._inputs(X[rows], y[rows])
            leaves = min(self.max_leaves, max(1, int(rows.sum()) // least))
            if self.template is None and self.prune and leaves > 1:
                leaves = explaining_leaves(Z, losses[rows], leaves, least, rng)
            if self.template is None or leaves == 1:
                self.trees.append(grow_tree(Z, losses[rows], leaves, least))
            else:
                tree = clone(self.template)
                given = tree.min_samples_leaf  # a number of records, or a share of these
                given = int(np.ceil(given * len(Z))) if isinstance(given, float) else given
                tree.set_params(min_samples_leaf=max(given, least))
                self.trees.append(tree.fit(Z, losses[rows]))
        return self.membership(X, y, proba)

    def membership(self, X, y, proba) -> Array:
        columns = []
        parts = _parts(y, self.by_class, self.n_classes)
        Z = self._inputs(X, y)
        for tree, rows in zip(self.trees, parts, strict=True):
            inside = np.zeros((len(y), tree.tree_.node_count), dtype=bool)
            if rows.any():
                inside[rows] = tree.decision_path(Z[rows], check_input=False).toarray()
            columns.append(inside if self.every_node else inside[:, _leaves(tree)])
        return np.hstack(columns).astype(float)

    def rules(self, features, classes) -> list[str]:
        if self.by_class:
            return [
                " & ".join([*_path(tree, leaf, features, {}), f"y = {classes[c]}"])
                for c, tree in enumerate(self.trees)
                for leaf in _leaves(tree)
            ]
        indicators = {len(features) + c: classes[c] for c in range(self.n_classes)}
        (tree,) = self.trees
        paths = [_path(tree, leaf, features, indicators) for leaf in _leaves(tree)]
        return [" & ".join(path) or "all" for path in paths]

    def null(self) -> TreeSlicer:
        # a pruned tree's leaves are nodes of the tree before pruning, whose extremes bound theirs
        return replace(self, prune=False, every_node=True, trees=[])

    def _inputs(self, X, y) -> Array:
        # trees are read in single precision; doing it once here keeps fit and membership alike
        Z = X if self.by_class else np.hstack([X, np.eye(self.n_classes)[y]])
        largest = np.finfo(np.float32).max
        return np.ascontiguousarray(np.clip(Z, -largest, largest), dtype=np.float32)


def grow_tree(Z: Array, losses: Array, leaves: int, least: int) -> DecisionTreeRegressor:
    """A tree of at most so many leaves, best split first."""
    # max_leaf_nodes takes two or more; depth zero is not taken either, but a leaf too large to split is
    least = len(losses) if leaves == 1 else least
    tree = DecisionTreeRegressor(
        max_leaf_nodes=max(2, leaves), min_samples_leaf=least, random_state=0
    )
    return tree.fit(Z, losses, check_input=False)  # single precision, finite, in rows


def explaining_leaves(
    Z: Array, losses: Array, most: int, least: int, rng: np.random.Generator, n_folds: int = 5
) -> int:
    """The smallest number of leaves that explains half of what trees can explain, out of sample.

    Parameters
    ----------
    Z : ndarray of shape (n, p)
    losses : ndarray of shape (n,)
    most : int
        Largest number of leaves.
    least : int
        Fewest records in a leaf of the tree for all records; fewer in proportion for those of the folds.
    rng : numpy.random.Generator
    n_folds : int, default=5

    Returns
    -------
    int
        1 where no tree gains anything in cross-validated squared error.
    """
    fold = stratified_folds(np.zeros(len(losses), dtype=np.int64), n_folds, rng)
    error = np.empty((len(losses), most))
    share = max(1, int(least * (1 - 1 / n_folds)))
    for k in range(n_folds):
        train, test = fold != k, fold == k
        for leaves in range(1, most + 1):
            tree = grow_tree(Z[train], losses[train], leaves, share)
            error[test, leaves - 1] = (losses[test] - tree.predict(Z[test], check_input=False)) ** 2
    gain = (error[:, [0]] - error).mean(axis=0)
    return int(np.flatnonzero(gain >= ENOUGH * gain.max())[0]) + 1


def _parts(y: Codes, by_class: bool, n_classes: int) -> list[NDArray[np.bool_]]:
    """Rows of each class, or all rows."""
    return [y == c for c in range(n_classes)] if by_class else [np.ones(len(y), dtype=bool)]


def _leaves(tree: DecisionTreeRegressor) -> NDArray[np.int64]:
    return np.flatnonzero(tree.tree_.children_left < 0)


def _path(tree, leaf: int, features: Sequence[str], indicators: dict) -> list[str]:
    """Conditions from the root to a leaf, one a feature; `indicators` are columns that say a class."""
    nodes = tree.tree_
    low: dict[int, float] = {}
    high: dict[int, float] = {}
    node = leaf
    while node:
        left, right = nodes.children_left == node, nodes.children_right == node
        parent = int(np.flatnonzero(left | right)[0])
        j, cut = int(nodes.feature[parent]), float(nodes.threshold[parent])
        if left[parent]:
            high[j] = min(high.get(j, np.inf), cut)
        else:
            low[j] = max(low.get(j, -np.inf), cut)
        node = parent
    conditions = []
    for j in sorted(low.keys() | high.keys()):
        shown = _digits(nodes.threshold[nodes.feature == j])
        if j in indicators:
            conditions.append(f"y {'=' if j in low else '!='} {indicators[j]}")
        elif j in low and j in high:
            conditions.append(f"{shown(low[j])} < {features[j]} <= {shown(high[j])}")
        elif j in low:
            conditions.append(f"{features[j]} > {shown(low[j])}")
        else:
            conditions.append(f"{features[j]} <= {shown(high[j])}")
    return conditions


def _digits(cuts: Array):
    """A format with three digits, or as many as tell a tree's cuts of one feature apart."""
    cuts = np.unique(cuts)
    digits = next((d for d in range(3, 17) if len({f"{c:.{d}g}" for c in cuts}) == len(cuts)), 17)
    return lambda cut: f"{cut:.{digits}g}"


# --- a regressor of the user's ----------------------------------------------------------------------


@dataclass
class EstimatorSlicer:
    """Slices as levels of the loss that a regressor predicts from the features, one regressor a class.

    The levels of the training records are those of cross-fitted predictions: a flexible regressor reproduces the noise
    of the losses it was fitted to. They are found by a `TreeSlicer` whose only feature is the prediction.

    Parameters
    ----------
    estimator : regressor
    max_leaves, min_mass, by_class
        Of the levels, as in `TreeSlicer`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(500, 2)), np.repeat([0, 1], 250)
    >>> losses = np.exp(X[:, 0]) * (y + 0.1)
    >>> slicer = EstimatorSlicer(Ridge(), max_leaves=2)
    >>> P = slicer.fit_membership(X, y, None, losses, rng)
    >>> bool(X[P[:, 3] == 1, 0].mean() > X[P[:, 2] == 1, 0].mean() + 1)
    True
    >>> slicer.rules(["a", "b"], ["no", "yes"])[3]
    'predicted loss > 3.21 & y = yes'
    """

    estimator: RegressorMixin
    max_leaves: int = 2
    min_mass: float = 0.02
    by_class: bool = True
    levels: TreeSlicer | None = None
    n_folds: int = 5
    n_permutations: int = 19
    models: list = field(default_factory=list, repr=False)

    def __post_init__(self):
        if self.levels is None:
            self.levels = TreeSlicer(self.max_leaves, self.min_mass, self.by_class)

    def fit_membership(self, X, y, proba, losses, rng) -> Array:
        self.n_classes = int(y.max()) + 1
        self.models, predicted = [], np.empty(len(y))
        for part in _parts(y, self.by_class, self.n_classes):
            rows = np.flatnonzero(part)
            few = len(rows) < 2 * FEWEST
            model = DummyRegressor() if few else seeded(self.estimator, rng)
            Z, r = self._inputs(X[rows], y[rows]), losses[rows]
            fold = stratified_folds(np.zeros(len(rows), dtype=np.int64), self.n_folds, rng)
            for k in range(0 if few else self.n_folds):
                train = fold != k
                predicted[rows[~train]] = clone(model).fit(Z[train], r[train]).predict(Z[~train])
            self.models.append(model.fit(Z, r))
            if few:
                predicted[rows] = model.predict(Z)
        return self.levels.fit_membership(predicted[:, None], y, proba, losses, rng)

    def membership(self, X, y, proba) -> Array:
        predicted = np.empty(len(y))
        parts = _parts(y, self.by_class, self.n_classes)
        for model, rows in zip(self.models, parts, strict=True):
            if rows.any():
                predicted[rows] = model.predict(self._inputs(X[rows], y[rows]))
        return self.levels.membership(predicted[:, None], y, proba)

    def rules(self, features, classes) -> list[str]:
        return self.levels.rules(["predicted loss"], classes)

    def null(self) -> EstimatorSlicer:
        return replace(self, levels=self.levels.null(), models=[])

    def _inputs(self, X, y) -> Array:
        return X if self.by_class else np.hstack([X, np.eye(self.n_classes)[y]])


# --- are the slices more than noise? ----------------------------------------------------------------


def slice_statistics(P: Array, y: Codes, losses: Array, by_class: bool) -> Array:
    """How far each slice's mean loss is above that of its class, in units of its noise.

    Parameters
    ----------
    P : ndarray of shape (n, m)
    y : ndarray of int, shape (n,)
    losses : ndarray of shape (n,)
    by_class : bool
        Whether to compare with the class, or with all records.

    Returns
    -------
    ndarray of shape (m,)
    """
    r = losses.astype(float)
    for rows in _parts(y, by_class, int(y.max()) + 1):
        if rows.any():
            spread = r[rows].std()
            r[rows] = (r[rows] - r[rows].mean()) / (spread if spread > 0 else 1.0)
    return P.T @ r / np.sqrt(np.maximum((P**2).sum(axis=0), 1e-300))


def permutation_p_values(
    slicer: Slicer,
    P: Array,
    X: Array,
    y: Codes,
    proba: Array,
    losses: Array,
    by_class: bool,
    rng: np.random.Generator,
) -> Array:
    """P-values of a fitted slicer's slices, adjusted for the search that found them.

    The losses are permuted (within classes if `by_class`) and the slicer is fitted again; a slice's statistic is
    compared with the largest one of any slice in each refit. Under the hypothesis that the losses have nothing to do
    with the inputs (given the class), the probability that any of the p-values is at most a is at most a.

    Parameters
    ----------
    slicer : Slicer
        Fitted to these data.
    P : ndarray of shape (n, m)
        What its ``fit_membership`` returned.
    X : ndarray of shape (n, p)
    y : ndarray of int, shape (n,)
    proba : ndarray of shape (n, K)
    losses : ndarray of shape (n,)
    by_class : bool
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of shape (m,)
        (1 + number of refits as extreme) / (1 + number of refits).
    """
    observed = slice_statistics(P, y, losses, by_class)
    parts = [np.flatnonzero(rows) for rows in _parts(y, by_class, int(y.max()) + 1)]
    largest = np.empty(slicer.n_permutations)
    for b in range(slicer.n_permutations):
        permuted = losses.copy()
        for rows in parts:
            permuted[rows] = rng.permutation(losses[rows])
        refit = slicer.null().fit_membership(X, y, proba, permuted, rng)
        largest[b] = slice_statistics(refit, y, permuted, by_class).max()
    # whole classes have the statistic 0 up to rounding
    as_extreme = (largest[:, None] >= observed - 1e-9).sum(axis=0)
    return (1 + as_extreme) / (1 + len(largest))
