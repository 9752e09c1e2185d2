r"""Slicers: rules that say which records a model serves badly.

A slicer is fitted to losses of single records, out of fold, and cuts all records into slices by what is known of
each: features, class and, for the soft one, predicted probabilities. How strongly it is restricted decides whether
it is of use: the worst of *all* soft slices of mass alpha is the conditional value at risk of `CVaRClassifier`, which picks
the largest losses whatever their cause.

* `TreeSlicer`: one regression tree a class, its leaves the slices. Each is grown best-first and cut back to the smallest
  number of leaves that reaches half of the best cross-validated gain in squared error (to one, where that gain is within
  one standard error of zero). A neglected group is the large contrast; the splits that refine it mostly
  follow the features that are hard for everybody, and robustness over those costs accuracy. With ``max_leaves=2``
  and no pruning: a stump.
* `LinearSlicer`: soft slices :math:`P(g \mid z_i) = \mathrm{softmax}_g(z_i' W)` of z = (features, probabilities, class),
  which move uphill on

  .. math::  \sum_g v_g \bar L_g + \rho_e\, \overline{H(P(\cdot \mid z_i))} - \rho_m\, \mathrm{KL}(\bar P \,\|\, U),
             \qquad \bar L_g = \frac{\sum_i P(g \mid z_i)\, \ell_i}{\max(\sum_i P(g \mid z_i),\; c\, n)},

  c the smallest mass: to shrink below it gains nothing. The weights v belong to the adversary (`adversary_weights`).

A slicer has ``fit``, ``membership``, ``rules`` and ``null``; any object that has these four can be given to
`AGROClassifier`.

Cost: a tree O(n p log n) a level; a linear slicer O(n d m) a step of L-BFGS.

References
----------
Breiman, L., Friedman, J. H., Olshen, R. A. and Stone, C. J. (1984). Classification and Regression Trees.
Paranjape, B., Dasigi, P., Srikumar, V., Zettlemoyer, L. and Hajishirzi, H. (2023). AGRO. ICLR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax, xlogy
from sklearn.tree import DecisionTreeRegressor

from .domino import confusion_start, domino_start
from .out_of_fold import stratified_folds
from .simplex import greedy_weights

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

ENOUGH = 0.5  # of the explainable loss; a refinement is not worth a slice
FEWEST = 10  # records in a leaf: a mean of fewer says nothing
WORST_MASS = 0.2  # alpha of the adversary, as in the authors' code
RIDGE = 1e-3  # on a linear slicer's weights: without it a separable slice has none that are finite
STEPS = 20  # of L-BFGS between two looks at which slices are worst


class Slicer(Protocol):
    """What `AGROClassifier` needs of a slicer.

    Attributes
    ----------
    n_permutations : int
        Refits for a p-value; few where a fit is slow.
    """

    n_permutations: int

    def fit(
        self, X: Array, y: Codes, proba: Array, losses: Array, rng: np.random.Generator
    ) -> Self:
        """Learn slices from out-of-fold losses; called again, go on from the slices there are, or anew."""

    def membership(self, X: Array, y: Codes, proba: Array) -> Array:
        """Memberships in [0, 1], each row with sum 1: (n, m)."""

    def rules(self, features: Sequence[str], classes: Sequence) -> list[str]:
        """One rule a slice, all different."""

    def null(self) -> Slicer:
        """An unfitted slicer with at least the same freedom, to be fitted to permuted losses."""


# --- trees ------------------------------------------------------------------------------------------


@dataclass
class TreeSlicer:
    """Slices as the leaves of a regression tree on the losses, one tree a class.

    Parameters
    ----------
    max_leaves : int
        Of each tree.
    min_mass : float
        Smallest share of all records in a leaf.
    by_class : bool
        One tree a class, or one for all, which may split by class too.
    prune : bool
        Whether to cut back.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(500, 2)), rng.integers(0, 2, 500)
    >>> losses = np.where((X[:, 1] > 0.5) & (y == 1), 3.0, 0.2) + 0.1 * rng.normal(size=500)
    >>> slicer = TreeSlicer(max_leaves=3).fit(X, y, None, losses, rng)
    >>> slicer.rules(["age", "dose"], ["no", "yes"])
    ['y = no', 'dose <= 0.501 & y = yes', 'dose > 0.501 & y = yes']
    """

    max_leaves: int = 2
    min_mass: float = 0.02
    by_class: bool = True
    prune: bool = True
    n_permutations: int = 99
    trees: list[DecisionTreeRegressor] = field(default_factory=list, repr=False)

    def fit(self, X, y, proba, losses, rng) -> TreeSlicer:
        self.n_classes = int(y.max()) + 1
        least = max(FEWEST, int(np.ceil(self.min_mass * len(y))))
        self.trees = []
        for rows in self._parts(y):
            Z = self._inputs(X[rows], y[rows])
            leaves = min(self.max_leaves, max(1, int(rows.sum()) // least))
            if self.prune and leaves > 1:
                leaves = explaining_leaves(Z, losses[rows], leaves, least, rng)
            self.trees.append(grow_tree(Z, losses[rows], leaves, least))
        return self

    def membership(self, X, y, proba) -> Array:
        columns = []
        for tree, rows in zip(self.trees, self._parts(y), strict=True):
            leaves = tree.apply(self._inputs(X, y)) if len(X) else np.empty(0, dtype=np.int64)
            columns += [rows & (leaves == leaf) for leaf in _leaves(tree)]
        return np.column_stack(columns).astype(float)

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
        # unpruned trees find at least as extreme leaves in noise as pruned ones
        return replace(self, prune=False, trees=[])

    def _parts(self, y) -> list[NDArray[np.bool_]]:
        if self.by_class:
            return [y == c for c in range(self.n_classes)]
        return [np.ones(len(y), dtype=bool)]

    def _inputs(self, X, y) -> Array:
        # trees are read in single precision; doing it once here keeps fit and apply alike
        Z = X if self.by_class else np.hstack([X, np.eye(self.n_classes)[y]])
        return Z.astype(np.float32)


def grow_tree(Z: Array, losses: Array, leaves: int, least: int) -> DecisionTreeRegressor:
    """A tree of at most so many leaves, best split first."""
    # max_leaf_nodes takes two or more; depth zero is not taken either, but a leaf too large to split is
    least = len(losses) if leaves == 1 else least
    return DecisionTreeRegressor(
        max_leaf_nodes=max(2, leaves), min_samples_leaf=least, random_state=0
    ).fit(Z, losses)


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
        1 where the largest gain in cross-validated squared error is within one standard error of zero.
    """
    fold = stratified_folds(np.zeros(len(losses), dtype=np.int64), n_folds, rng)
    error = np.empty((len(losses), most))
    share = max(1, int(least * (1 - 1 / n_folds)))
    for k in range(n_folds):
        train, test = fold != k, fold == k
        for leaves in range(1, most + 1):
            tree = grow_tree(Z[train], losses[train], leaves, share)
            error[test, leaves - 1] = (losses[test] - tree.predict(Z[test])) ** 2
    gain = error[:, [0]] - error
    mean = gain.mean(axis=0)
    best = int(mean.argmax())
    if mean[best] <= gain[:, best].std(ddof=1) / np.sqrt(len(losses)):
        return 1
    return int(np.flatnonzero(mean >= ENOUGH * mean[best])[0]) + 1


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
        if j in indicators:
            conditions.append(f"y {'=' if j in low else '!='} {indicators[j]}")
        elif j in low and j in high:
            conditions.append(f"{low[j]:.3g} < {features[j]} <= {high[j]:.3g}")
        elif j in low:
            conditions.append(f"{features[j]} > {low[j]:.3g}")
        else:
            conditions.append(f"{features[j]} <= {high[j]:.3g}")
    return conditions


# --- soft linear slices -----------------------------------------------------------------------------


@dataclass
class LinearSlicer:
    """Soft slices of a linear model, trained against the classifier.

    Parameters
    ----------
    n_slices : int
        Of each class if `by_class`, else in all.
    by_class : bool
    init : {"confusion", "domino", "random"}
        What the first slices imitate: cells of class and predicted class; a DOMINO mixture; nothing. Equal slices
        are a stationary point, so that some start has to break the symmetry.
    min_mass, marginal_reg, entropy_reg : float
        c, rho_m and rho_e above.
    adversary : {"worst", "greedy-reverse"}
    n_looks : int
        Times that the adversary looks again which slices are worst, in one call of `fit`.
    warm_start : bool
        Whether a second call of `fit` goes on from the slices there are.
    """

    n_slices: int = 6
    by_class: bool = True
    init: str = "confusion"
    min_mass: float = 0.02
    marginal_reg: float = 0.0
    entropy_reg: float = 0.0
    adversary: str = "worst"
    n_looks: int = 5
    warm_start: bool = False
    n_permutations: int = 19
    weights: Array | None = field(default=None, repr=False)

    def fit(self, X, y, proba, losses, rng) -> LinearSlicer:
        n = len(y)
        if self.weights is None or not self.warm_start:
            self.n_classes = proba.shape[1]
            raw = self._raw(X, y, proba)
            self.centre, self.scale = raw.mean(axis=0), raw.std(axis=0)
            self.scale[self.scale == 0] = 1.0
            start = self._start(X, y, proba, rng)
            self.weights = self._imitate(self._inputs(X, y, proba), y, start, rng)
        Z, allowed = self._inputs(X, y, proba), self._allowed(y)
        for _ in range(self.n_looks):
            P = soft_slices(Z, self.weights, allowed)
            v = adversary_weights(self._losses(P, losses), P.mean(axis=0), self.adversary)
            found = minimize(
                lambda w, v=v: self._downhill(w, Z, allowed, losses, v, n),
                self.weights.ravel(),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": STEPS},
            )
            self.weights = found.x.reshape(self.weights.shape)
        return self

    def membership(self, X, y, proba) -> Array:
        return soft_slices(self._inputs(X, y, proba), self.weights, self._allowed(y))

    def rules(self, features, classes) -> list[str]:
        names = [*features, *(f"P(y = {c})" for c in classes), *(f"[y = {c}]" for c in classes)]
        rules = []
        for g in range(self.weights.shape[1]):
            own = g // self.n_slices if self.by_class else None
            others = [h for h in range(self.weights.shape[1]) if self._class_of(h) == own]
            contrast = (self.weights[:, g] - self.weights[:, others].mean(axis=1))[:-1]
            top = np.argsort(-np.abs(contrast))[:3]
            score = " ".join(f"{contrast[j]:+.2g} {names[j]}" for j in top)
            rules.append(
                f"slice {g}: {score}" + (f" & y = {classes[own]}" if self.by_class else "")
            )
        return rules

    def null(self) -> LinearSlicer:
        return replace(self, weights=None)

    def _class_of(self, g: int) -> int | None:
        return g // self.n_slices if self.by_class else None

    def _allowed(self, y) -> NDArray[np.bool_]:
        m = self.n_slices * (self.n_classes if self.by_class else 1)
        if not self.by_class:
            return np.ones((len(y), m), dtype=bool)
        return np.arange(m) // self.n_slices == y[:, None]

    def _raw(self, X, y, proba) -> Array:
        return np.hstack([X, proba, np.eye(self.n_classes)[y]])

    def _inputs(self, X, y, proba) -> Array:
        Z = (self._raw(X, y, proba) - self.centre) / self.scale
        return np.column_stack([Z, np.ones(len(Z))])

    def _losses(self, P, losses) -> Array:
        return P.T @ losses / np.maximum(P.sum(axis=0), self.min_mass * len(losses))

    def _start(self, X, y, proba, rng) -> Array | None:
        """Memberships that the first slices imitate: (n, m)."""
        if self.init == "random":
            return None
        make = confusion_start if self.init == "confusion" else domino_start
        if not self.by_class:
            return make(X, y, proba, self.n_slices, rng)
        start = np.zeros((len(y), self.n_slices * self.n_classes))
        for c in range(self.n_classes):
            rows, columns = y == c, slice(c * self.n_slices, (c + 1) * self.n_slices)
            start[rows, columns] = make(X[rows], y[rows], proba[rows], self.n_slices, rng)
        return start

    def _imitate(self, Z, y, start, rng) -> Array:
        """Weights whose slices are near the start, in cross entropy."""
        shape = (Z.shape[1], self._allowed(y).shape[1])
        noise = 0.1 * rng.standard_normal(shape)
        if start is None:
            return noise
        allowed, n = self._allowed(y), len(y)

        def cross_entropy(w):
            W = w.reshape(shape)
            P = soft_slices(Z, W, allowed)
            value = -xlogy(start, np.maximum(P, 1e-300)).sum() / n + RIDGE / 2 * (W**2).sum()
            return value, (Z.T @ (P - start) / n + RIDGE * W).ravel()

        found = minimize(
            cross_entropy, noise.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 100}
        )
        return found.x.reshape(shape)

    def _downhill(self, w, Z, allowed, losses, v, n):
        """Minus the adversary's objective, and its gradient."""
        W = w.reshape(Z.shape[1], -1)
        P = soft_slices(Z, W, allowed)
        mass, floor = P.sum(axis=0), self.min_mass * n
        size = np.maximum(mass, floor)
        slice_losses = P.T @ losses / size
        share = mass / n
        m = len(mass)
        entropy = -xlogy(P, P).sum() / n
        divergence = (xlogy(share, share * m)).sum()
        value = v @ slice_losses + self.entropy_reg * entropy - self.marginal_reg * divergence
        value -= RIDGE / 2 * (W**2).sum()

        slope = (v / size) * (losses[:, None] - np.where(mass > floor, slice_losses, 0.0))
        if self.entropy_reg:
            slope -= self.entropy_reg * (np.log(np.maximum(P, 1e-300)) + 1) / n
        if self.marginal_reg:
            slope -= self.marginal_reg * (np.log(np.maximum(share * m, 1e-300)) + 1) / n
        through_softmax = P * (slope - (P * slope).sum(axis=1, keepdims=True))
        gradient = Z.T @ through_softmax - RIDGE * W
        return -value, -gradient.ravel()


def soft_slices(Z: Array, W: Array, allowed: NDArray[np.bool_]) -> Array:
    """Softmax over the slices that a record may be in: (n, m)."""
    return softmax(np.where(allowed, Z @ W, -np.inf), axis=1)


def adversary_weights(slice_losses: Array, mass: Array, adversary: str) -> Array:
    """Which slices' losses the adversary raises.

    "worst": those of the worst slices of total mass 0.2, which is what the classifier will minimise.
    "greedy-reverse", the authors' code: every slice counts 1 *except* the worst ones, which count 0.2, and the slice in
    which their mass is used up, which counts (1 - 0.2 * mass of the worst ones) * its own mass.

    Parameters
    ----------
    slice_losses, mass : ndarray of shape (m,)
    adversary : {"worst", "greedy-reverse"}

    Returns
    -------
    ndarray of shape (m,)

    Examples
    --------
    >>> import numpy as np
    >>> losses, mass = np.array([0.2, 0.9, 0.5, 1.4]), np.array([0.5, 0.3, 0.15, 0.05])
    >>> adversary_weights(losses, mass, "worst").round(2).tolist()
    [0.0, 0.75, 0.0, 0.25]
    >>> adversary_weights(losses, mass, "greedy-reverse").round(3).tolist()
    [1.0, 0.297, 1.0, 0.2]
    """
    h = greedy_weights(slice_losses, mass / WORST_MASS)
    if adversary == "worst":
        return h
    order = np.argsort(-slice_losses, kind="stable")
    before = np.cumsum(mass[order]) - mass[order]
    full = np.cumsum(mass[order]) <= WORST_MASS
    v = np.ones(len(mass))
    v[order[full]] = WORST_MASS
    tie = order[~full & (before < WORST_MASS)]
    v[tie] = (1 - WORST_MASS * mass[order[full]].sum()) * mass[tie]
    return v


# --- are the slices more than noise? ----------------------------------------------------------------


def slice_statistics(P: Array, y: Codes, losses: Array, by_class: bool) -> Array:
    """How far each slice's mean loss is above that of its class, in units of its noise: (m,)."""
    r = losses.astype(float).copy()
    for rows in [y == c for c in np.unique(y)] if by_class else [slice(None)]:
        spread = r[rows].std()
        r[rows] = (r[rows] - r[rows].mean()) / (spread if spread > 0 else 1.0)
    return P.T @ r / np.sqrt(np.maximum((P**2).sum(axis=0), 1e-300))


def permutation_p_values(
    slicer: Slicer,
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
    observed = slice_statistics(slicer.membership(X, y, proba), y, losses, by_class)
    largest = np.empty(slicer.n_permutations)
    for b in range(slicer.n_permutations):
        permuted = losses.copy()
        for rows in [np.flatnonzero(y == c) for c in np.unique(y)] if by_class else [slice(None)]:
            permuted[rows] = rng.permutation(losses[rows])
        refit = slicer.null().fit(X, y, proba, permuted, rng)
        P = refit.membership(X, y, proba)
        largest[b] = slice_statistics(P, y, permuted, by_class).max()
    # whole classes have the statistic 0 up to rounding
    as_extreme = (largest[:, None] >= observed - 1e-9).sum(axis=0)
    return (1 + as_extreme) / (1 + len(largest))
