r"""Influence in gradient-boosted trees, with the structure of the trees held fixed.

In the notation of `tree_ensembles`: :math:`v_\ell = -\eta \sum g / (\sum h + \lambda)` in every leaf.

* "leafrefit" (Sharchilev et al. 2018): the leaves of all rounds are recomputed without record i, round after round.
  This *is* leave-one-out while the trees split alike.
* "leafinfluence" (Sharchilev et al. 2018): its derivative. With J the derivative of all training predictions with respect
  to the weight of i,

  .. math::  \partial v_\ell = -\eta \frac{1(i \in \ell)(g_i + h_i v_\ell / \eta)
             + \sum_{j \in \ell} (h_j + k_j v_\ell / \eta) J_j}{\sum_{j \in \ell} h_j + \lambda},

  k the third derivative of the loss; the influence is minus the derivative of the test loss.
* "boostin" (Brophy et al. 2023), TracIn for boosting: :math:`\sum_t 1(\text{same leaf})\, g_{test,t}\, \eta (g_i + h_i
  v / \eta) / (\sum h + \lambda)`. The authors' published code leaves out the division of v by eta; finite
  differences of the leaf value confirm the formula here.
* "leafsim" (Brophy et al. 2023): :math:`\sum_t 1(\text{same leaf}) / n_\ell^2`, signed: positive for the same class (or
  a response that pulls towards the test record's).
* "trex" (Brophy and Lowd 2020): a ridge surrogate of the raw predictions in the kernel of shared leaves; a record's
  influence is what its representer term does to the loss.

Cost for n records, T rounds and K outputs: "leafrefit" and "leafinfluence" O(n^2 T K), the others O(n_test n T K) ("trex"
O(n^3) besides).

References: Sharchilev, B. et al. (2018). Finding influential training samples for gradient boosted decision trees. ICML.
Brophy, J., Hammoudeh, Z. and Lowd, D. (2023). Adapting and evaluating influence-estimation methods for gradient-boosted
decision trees. JMLR 24. Brophy, J. and Lowd, D. (2020). TREX. arXiv:2009.05530.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .._validation import check_choice, check_number
from ._base import BaseInfluence
from .models import split_pipeline
from .oracle import count
from .tree_ensembles import boosted_trees, newton_value

Array = NDArray[np.float64]

KINDS = ("leafrefit", "leafinfluence", "boostin", "leafsim", "trex")


class TreeInfluence(BaseInfluence):
    """Influence of training records on gradient-boosted trees.

    Parameters
    ----------
    kind : {"leafrefit", "leafinfluence", "boostin", "leafsim", "trex"}, default="leafrefit"
        "leafrefit" and "leafinfluence" estimate leave-one-out, "boostin" is faster and as good at ranking, "leafsim" and
        "trex" measure similarity in the trees' eyes and are not in units of the loss of the model.
    l2 : float, default=0.003
        Ridge of the surrogate of "trex".

    Notes
    -----
    ``fit(estimator, X, y)`` takes scikit-learn's GradientBoosting* and HistGradientBoosting* and LightGBM's and XGBoost's
    scikit-learn classes, or a fitted Pipeline that ends in one, with squared error or log-loss, no row subsampling
    and no weights. The trees' structure does not react to a removal: where single records decide splits (small
    leaves, small samples) the true effect differs.

    Attributes
    ----------
    diagnostics_ : dict
        n_rounds, n_outputs; for "trex" fidelity, the share of the variance of the raw predictions that the surrogate
        explains.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.ensemble import GradientBoostingClassifier
    >>> from statml.influence import TreeInfluence
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(X[:300], y[:300])
    >>> TreeInfluence("boostin").fit(model, X[:300], y[:300]).influence(X[300:], y[300:]).shape
    (269, 300)
    """

    _needs_oracle = False

    def __init__(self, kind: str = "leafrefit", l2: float = 0.003):
        self.kind = kind
        self.l2 = l2

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val):
        check_choice("kind", self.kind, KINDS)
        check_number("l2", self.l2, 0, low_open=True)
        if X is None or y is None:
            raise ValueError("X and y must hold the training data, got None")
        self._transform, model = split_pipeline(estimator)
        self._X = self._transform(X)
        self._trees = trees = boosted_trees(model, self._X, y, sample_weight)
        n, T, K = trees.leaves.shape
        self.diagnostics_: dict[str, Any] = {"n_rounds": T, "n_outputs": K}
        self.method_ = f"trees, {self.kind}"
        if self.kind == "leafrefit":
            self.n_fits_ = n
        if self.kind == "trex":
            self._fit_surrogate()

    def _prepare(self, X, y, target):
        if target != "loss":
            raise ValueError(f'target must be "loss" for trees, got {target!r}')
        if y is None:
            raise ValueError('y_test must be given for target="loss"')
        X, y = self._transform(X), self._trees.code(y)
        if count(X) != len(y):
            raise ValueError(f"X_test has {count(X)} records, y_test {len(y)}")
        return self._trees.apply(X), y

    def _training_records(self):
        return self._trees.leaves, self._trees.y

    def _influence(self, X, y, target):
        leaves = X
        if self.kind == "leafrefit":
            return self._leaf_refit(leaves, y)
        if self.kind == "leafinfluence":
            return self._leaf_influence(leaves, y)
        if self.kind == "boostin":
            return self._boostin(leaves, y)
        return self._leafsim(leaves, y) if self.kind == "leafsim" else self._trex(leaves, y)

    def _self_influence(self):
        # the hooks below cost the same for all records at once
        return np.diag(self._influence(*self._training_records(), "loss")).copy()

    def _rounds(self, leaves):
        """Of each round, at the fit: g, h, F of the training data before it, leaf values, F of the test records."""
        trees = self._trees
        F = np.tile(trees.base, (len(trees.y), 1))
        F_test = np.tile(trees.base, (len(leaves), 1))
        for t in range(trees.leaves.shape[1]):
            g, h = trees.loss.gradient(F, trees.y), trees.loss.curvature(F)
            values = []
            for k in range(F.shape[1]):
                leaf = trees.leaves[:, t, k]
                values.append(trees.leaf_values(g[:, k], h[:, k], leaf, leaf.max() + 1))
            yield t, g, h, F, values, F_test
            F = F + np.stack([v[trees.leaves[:, t, k]] for k, v in enumerate(values)], axis=1)
            F_test = F_test + np.stack([v[leaves[:, t, k]] for k, v in enumerate(values)], axis=1)
        self._F_test = F_test

    def _leaf_refit(self, leaves, y):
        trees = self._trees
        n, T, K = trees.leaves.shape
        out = np.empty((len(leaves), n))
        for part in self._removed(n, n + len(leaves)):
            rows = np.arange(part.start, part.stop)
            b = np.arange(len(rows))
            F = np.tile(
                trees.base, (len(rows), n, 1)
            )  # of all training records without each of the rows
            F_test = np.tile(trees.base, (len(rows), len(leaves), 1))
            for t in range(T):
                g, h = trees.loss.gradient(F, trees.y), trees.loss.curvature(F)
                g[b, rows], h[b, rows] = 0.0, 0.0
                for k in range(K):
                    leaf = trees.leaves[:, t, k]
                    member = _one_hot(leaf)
                    total, curvature = g[:, :, k] @ member, h[:, :, k] @ member
                    v = newton_value(
                        total, curvature + trees.l2, trees.learning_rate * trees.factor
                    )
                    F[:, :, k] += v[:, leaf]
                    F_test[:, :, k] += v[:, leaves[:, t, k]]
            out[:, part] = trees.loss.loss(F_test, y).T
        for _ in self._rounds(leaves):
            pass
        return out - trees.loss.loss(self._F_test, y)[:, None]

    def _leaf_influence(self, leaves, y):
        trees = self._trees
        n, _, K = trees.leaves.shape
        rate = trees.learning_rate * trees.factor
        out = np.empty((len(leaves), n))
        for part in self._removed(n, n + len(leaves)):
            rows = np.arange(part.start, part.stop)
            b = np.arange(len(rows))
            J = np.zeros((len(rows), n, K))  # d F_j / d weight of i
            J_test = np.zeros((len(rows), len(leaves), K))
            for t, g, h, F, values, _ in self._rounds(leaves):
                dg = np.einsum("jab,ijb->ija", trees.loss.jacobian(F), J)
                dh = np.einsum("jab,ijb->ija", trees.loss.third(F), J)
                for k in range(K):
                    leaf, v = trees.leaves[:, t, k], values[k]
                    member = _one_hot(leaf)
                    moved = (dg[:, :, k] + dh[:, :, k] * v[leaf] / rate) @ member
                    own = leaf[rows]
                    moved[b, own] += g[rows, k] + h[rows, k] * v[own] / rate
                    dv = newton_value(moved, h[:, k] @ member + trees.l2, rate)
                    J[:, :, k] += dv[:, leaf]
                    J_test[:, :, k] += dv[:, leaves[:, t, k]]
            slope = trees.loss.gradient(self._F_test, y)
            out[:, part] = -np.einsum("ijk,jk->ji", J_test, slope)
        return out

    def _boostin(self, leaves, y):
        trees = self._trees
        rate = trees.learning_rate * trees.factor
        out = np.zeros((len(leaves), self.n_train_))
        for t, g, h, _, values, F_test in self._rounds(leaves):
            slope = trees.loss.gradient(F_test, y)
            for k, v in enumerate(values):
                leaf = trees.leaves[:, t, k]
                total = np.bincount(leaf, h[:, k], minlength=len(v)) + trees.l2
                step = -newton_value(g[:, k] + h[:, k] * v[leaf] / rate, total[leaf], rate)
                # a test record in a leaf meets the records of that leaf
                out += (_one_hot(leaves[:, t, k], len(v)).multiply(slope[:, [k]]).tocsr()
                        @ _one_hot(leaf, len(v)).multiply(step[:, None]).T.tocsr()).toarray()  # fmt: skip
        return out

    def _leafsim(self, leaves, y):
        trees = self._trees
        similarity = (self._path(leaves) @ self._path(trees.leaves).T).toarray()
        if trees.loss.kind != "squared":
            return np.where(trees.y == y[:, None], similarity, -similarity)
        for _ in self._rounds(leaves):
            pass
        at = (
            self._F_test
        )  # a response beyond the prediction, on the side of the test record's, pulls the right way
        return similarity * np.sign((trees.y - at) * (y[:, None] - at))

    def _path(self, leaves):
        """Leaves of a record over all trees, each 1 / (training records in the leaf), sparse."""
        train = self._trees.leaves.reshape(self.n_train_, -1)
        sizes = train.max(axis=0) + 1
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        counts = np.concatenate(
            [
                np.bincount(column, minlength=size)
                for column, size in zip(train.T, sizes, strict=True)
            ]
        )
        columns = leaves.reshape(len(leaves), -1) + offsets[:-1]
        rows = np.repeat(np.arange(len(leaves)), columns.shape[1])
        data = 1 / counts[columns.ravel()]
        return sp.csr_array((data, (rows, columns.ravel())), shape=(len(leaves), offsets[-1]))

    def _fit_surrogate(self):
        trees = self._trees
        kernel = self._kernel(trees.leaves)
        for _ in self._rounds(trees.leaves):
            pass
        target = self._F_test
        self._centre = target.mean(axis=0)
        n = self.n_train_
        self._alpha = np.linalg.solve(kernel + n * self.l2 * np.eye(n), target - self._centre)
        fitted = kernel @ self._alpha + self._centre
        total = ((target - self._centre) ** 2).sum()
        self.diagnostics_["fidelity"] = float(1 - ((target - fitted) ** 2).sum() / total)

    def _kernel(self, leaves):
        """Shared leaves, each weighted by 1 / its training records, per tree."""
        train = self._path(self._trees.leaves)
        ones = train.copy()
        ones.data[:] = 1.0
        other = self._path(leaves)
        return (other @ ones.T).toarray() / (leaves.shape[1] * leaves.shape[2])

    def _trex(self, leaves, y):
        trees = self._trees
        kernel = self._kernel(leaves)
        F = kernel @ self._alpha + self._centre
        term = kernel[:, :, None] * self._alpha  # (m, n, K)
        without = F[:, None, :] - term
        return trees.loss.loss(without, y[:, None]) - trees.loss.loss(F, y)[:, None]

    def _removed(self, n, width):
        """Blocks of removed records such that an array (rows, width, K) fits the memory limit."""
        size = max(1, int(self._memory_limit // (8 * 6 * width * self._trees.leaves.shape[2])))
        for start in range(0, n, size):
            yield slice(start, min(start + size, n))


def _one_hot(leaf, n_leaves=None):
    n = len(leaf)
    shape = (n, (leaf.max() + 1) if n_leaves is None else n_leaves)
    return sp.csr_array((np.ones(n), (np.arange(n), leaf)), shape=shape)
