r"""Gradient-boosted trees as sums of Newton leaves.

In round t, with the gradients g and curvatures h of the loss at the predictions of the rounds before, leaf
:math:`\ell` of the tree for output k has the value

.. math::  v_\ell = -\eta\, c\, \frac{\sum_{j \in \ell} g_{jk}}{\sum_{j \in \ell} h_{jk} + \lambda},

with the learning rate eta, the ridge lambda and c = 1, but (C - 1) / C for the C classes of scikit-learn's
GradientBoostingClassifier. `boosted_trees` recomputes a model's predictions by this formula and refuses it where
they do not come out (row subsampling, other losses, early rounds on part of the data).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from .._validation import check_labels

Array = NDArray[np.float64]


@dataclass
class BoostedTrees:
    """A boosted model at its training data.

    Attributes
    ----------
    leaves : ndarray of int, shape (n, T, K)
        Leaf of every training record in the tree of each round and output, coded 0, 1, ... within the tree.
    apply : callable
        X -> leaves of other records.
    base : ndarray of shape (K,)
        Prediction before the first round.
    loss : TreeLoss
    y : ndarray of shape (n,)
        Responses, or classes coded 0..C-1.
    learning_rate, l2, factor : float
        eta, lambda and c.
    code : callable
        A user's responses -> coded ones.
    """

    leaves: NDArray[np.int64]
    apply: Callable[[Any], NDArray[np.int64]]
    base: Array
    loss: TreeLoss
    y: Array
    learning_rate: float
    l2: float
    factor: float
    code: Callable[[Any], Array]

    def leaf_values(self, g: Array, h: Array, leaf: NDArray[np.int64], n_leaves: int) -> Array:
        """v of one tree."""
        total, curvature = (np.bincount(leaf, a, minlength=n_leaves) for a in (g, h))
        return newton_value(total, curvature + self.l2, self.learning_rate * self.factor)


class TreeLoss:
    """Half squared error ("squared"), two classes ("binary") or several ("softmax"), by raw predictions (m, K)."""

    def __init__(self, kind: str, n_outputs: int):
        self.kind = kind
        self.n_outputs = n_outputs

    def loss(self, F: Array, y: Array) -> Array:
        """Loss of each record, shape (...,) for F of shape (..., K)."""
        if self.kind == "squared":
            return (y - F[..., 0]) ** 2 / 2
        if self.kind == "binary":
            return np.logaddexp(0, F[..., 0]) - y * F[..., 0]
        top = F.max(axis=-1, keepdims=True)
        own = np.take_along_axis(F, _index(y, F), axis=-1)[..., 0]
        return top[..., 0] + np.log(np.exp(F - top).sum(axis=-1)) - own

    def gradient(self, F: Array, y: Array) -> Array:
        """d loss / d F, shape (..., K)."""
        if self.kind == "squared":
            return F - np.asarray(y)[..., None]
        if self.kind == "binary":
            return expit(F) - np.asarray(y)[..., None]
        g = softmax(F, axis=-1)
        np.put_along_axis(g, _index(y, F), np.take_along_axis(g, _index(y, F), -1) - 1, axis=-1)
        return g

    def curvature(self, F: Array) -> Array:
        """The diagonal of the Hessian, shape (..., K)."""
        if self.kind == "squared":
            return np.ones_like(F)
        p = expit(F) if self.kind == "binary" else softmax(F, axis=-1)
        return p * (1 - p)

    def jacobian(self, F: Array) -> Array:
        """d gradient_a / d F_b, shape (..., K, K)."""
        if self.kind != "softmax":
            return self.curvature(F)[..., None]
        p = softmax(F, axis=-1)
        return p[..., :, None] * (np.eye(F.shape[-1]) - p[..., None, :])

    def third(self, F: Array) -> Array:
        """d curvature_a / d F_b, shape (..., K, K)."""
        if self.kind == "squared":
            return np.zeros((*F.shape, 1))
        if self.kind == "binary":
            p = expit(F)
            return (p * (1 - p) * (1 - 2 * p))[..., None]
        p = softmax(F, axis=-1)
        return (1 - 2 * p)[..., :, None] * self.jacobian(F)


def boosted_trees(model: Any, X: Any, y: Any, sample_weight: Any = None) -> BoostedTrees:
    """View a fitted gradient-boosting model as Newton leaves, and check that it is one.

    Parameters
    ----------
    model : GradientBoosting*, HistGradientBoosting* (scikit-learn), LGBM*, XGB* (their scikit-learn classes)
    X, y : its training data
    sample_weight : must be None

    Raises
    ------
    TypeError
        For another model.
    ValueError
        If the Newton leaves do not give the model's predictions.
    """
    if sample_weight is not None:
        raise ValueError("sample_weight must be None: TreeInfluence takes unweighted records")
    name = type(model).__name__
    if isinstance(model, (GradientBoostingClassifier, GradientBoostingRegressor)):
        parts = _gradient_boosting(model)
    elif isinstance(model, (HistGradientBoostingClassifier, HistGradientBoostingRegressor)):
        parts = _hist_gradient_boosting(model)
    elif name in ("LGBMClassifier", "LGBMRegressor"):
        parts = _lightgbm(model)
    elif name in ("XGBClassifier", "XGBRegressor"):
        parts = _xgboost(model)
    else:
        raise TypeError(
            f"TreeInfluence takes gradient-boosted trees of scikit-learn, LightGBM or XGBoost, got {name}; "
            "SubsetEnsemble and DataShapley take any estimator"
        )
    apply_raw, raw, base, l2, factor, rate = parts
    classes = getattr(model, "classes_", None)
    kind = "squared" if classes is None else "binary" if len(classes) == 2 else "softmax"

    def code(y):
        if classes is None:
            y = np.asarray(y, dtype=float)
            if y.ndim != 1 or not np.isfinite(y).all():
                raise ValueError("y must hold one finite number a record")
            return y
        y = check_labels("y", y)
        unseen = ~np.isin(y, classes)
        if unseen.any():
            raise ValueError(
                f"y holds labels that the model was not trained with: {np.unique(y[unseen])[:5].tolist()}"
            )
        return np.searchsorted(classes, y).astype(float)

    nodes = apply_raw(X)
    # codes 0, 1, ... within each tree; every leaf holds a training record
    used = [
        [np.unique(nodes[:, t, k]) for k in range(nodes.shape[2])] for t in range(nodes.shape[1])
    ]

    def apply(X):
        at = apply_raw(X)
        return np.stack(
            [
                np.stack([_positions(at[:, t, k], used[t][k]) for k in range(at.shape[2])], axis=1)
                for t in range(at.shape[1])
            ],
            axis=1,
        )

    trees = BoostedTrees(
        apply(X), apply, np.atleast_1d(np.asarray(base, float)), TreeLoss(kind, nodes.shape[2]),
        code(y), rate, l2, factor, code,
    )  # fmt: skip
    _check_newton(trees, raw(X), name)
    return trees


def newton_value(gradient, curvature, rate):
    """-rate * gradient / curvature; 0 for a leaf without curvature, as scikit-learn has it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = -rate * gradient / curvature
    return np.where(np.abs(curvature) < 1e-150, 0.0, value)


def _check_newton(trees: BoostedTrees, raw: Array, name: str) -> None:
    F = np.tile(trees.base, (len(trees.y), 1))
    for t in range(trees.leaves.shape[1]):
        g, h = trees.loss.gradient(F, trees.y), trees.loss.curvature(F)
        step = np.empty_like(F)
        for k in range(F.shape[1]):
            leaf = trees.leaves[:, t, k]
            step[:, k] = trees.leaf_values(g[:, k], h[:, k], leaf, leaf.max() + 1)[leaf]
        F += step
    raw = raw.reshape(F.shape)
    error = np.abs(F - raw).max() / max(1.0, np.abs(raw).max())
    if error > 1e-3:
        raise ValueError(
            f"the leaves of this {name} are not Newton steps of its training data (predictions differ by {error:.1e}): "
            "it was fitted to other data, with subsampling, weights, early stopping or another loss. Name the training "
            "data, or use SubsetEnsemble"
        )


# --- the libraries ----------------------------------------------------------------------------------


def _gradient_boosting(model):
    if model.loss not in ("squared_error", "log_loss"):
        raise TypeError(f'loss must be "squared_error" or "log_loss", got {model.loss!r}')
    classes = getattr(model, "classes_", None)
    K = model.estimators_.shape[1]

    def apply(X):
        X = _checked(model, X, np.float32)
        return np.stack(
            [
                np.stack([tree.tree_.apply(X) for tree in stage], axis=1)
                for stage in model.estimators_
            ],
            axis=1,
        )

    def raw(X):
        X = _checked(model, X, np.float32)
        out = model._raw_predict_init(X)
        for stage in model.estimators_:
            for k, tree in enumerate(stage):
                out[:, k] += model.learning_rate * tree.tree_.predict(X)[:, 0]
        return out

    if model.init not in (None, "zero"):
        raise TypeError("init must be None or 'zero'")
    one = np.zeros((1, model.n_features_in_), dtype=np.float32)
    base = model._raw_predict_init(one)[0]
    factor = (K - 1) / K if classes is not None and K > 1 else 1.0
    return apply, raw, base, 0.0, factor, model.learning_rate


def _hist_gradient_boosting(model):
    if model.loss not in ("squared_error", "log_loss"):
        raise TypeError(f'loss must be "squared_error" or "log_loss", got {model.loss!r}')
    if getattr(model, "is_categorical_", None) is not None:
        raise TypeError("categorical features are not taken; encode them as numbers")

    def apply(X):
        X = _checked(model, X, np.float64, finite=False)
        return np.stack(
            [np.stack([_walk(p.nodes, X) for p in stage], axis=1) for stage in model._predictors],
            axis=1,
        )

    def raw(X):
        X = _checked(model, X, np.float64, finite=False)
        out = np.tile(np.ravel(model._baseline_prediction), (len(X), 1))
        for stage in model._predictors:
            for k, p in enumerate(stage):
                out[:, k] += p.nodes["value"][_walk(p.nodes, X)]
        return out

    base = np.ravel(model._baseline_prediction)
    return apply, raw, base, model.l2_regularization, 1.0, model.learning_rate


def _walk(nodes, X):
    """Leaf of each record in a tree of HistGradientBoosting."""
    at = np.zeros(len(X), dtype=np.int64)
    while True:
        inner = np.flatnonzero(~nodes["is_leaf"][at].astype(bool))
        if not len(inner):
            return at
        node = nodes[at[inner]]
        x = X[inner, node["feature_idx"]]
        missing = np.isnan(x)
        left = np.where(
            missing, node["missing_go_to_left"].astype(bool), x <= node["num_threshold"]
        )
        at[inner] = np.where(left, node["left"], node["right"])


def _lightgbm(model):
    booster = model.booster_
    K = booster.num_model_per_iteration()
    params = model.get_params()
    base = _lightgbm_base(model, booster, K)

    def apply(X):
        leaves = np.asarray(booster.predict(X, pred_leaf=True), dtype=np.int64)
        return leaves.reshape(len(leaves), -1, K)

    def raw(X):
        return np.asarray(booster.predict(X, raw_score=True)).reshape(-1, K)

    # several classes: LightGBM's curvature is C / (C - 1) p (1 - p)
    factor = (K - 1) / K if K > 1 else 1.0
    return apply, raw, base, params["reg_lambda"] * factor, factor, params["learning_rate"]


def _lightgbm_base(model, booster, K):
    """LightGBM starts at the average and hides it in the first trees; their mean leaf gives it back."""
    frame = booster.trees_to_dataframe()
    base = np.empty(K)
    for k in range(K):
        # the root's value is the average prediction before the split, without a Newton step
        root = frame[(frame["tree_index"] == k) & (frame["node_depth"] == 1)]
        base[k] = float(root["value"].iloc[0])
    return base


def _xgboost(model):
    import json

    booster = model.get_booster()
    config = json.loads(booster.save_config())["learner"]
    param = config["learner_model_param"]
    K = max(1, int(param["num_class"]))
    scores = np.atleast_1d(np.array(json.loads(param["base_score"]), dtype=float))
    objective = config["objective"]["name"]
    base = np.log(scores / (1 - scores)) if objective == "binary:logistic" else scores
    params = model.get_params()

    def apply(X):
        leaves = np.asarray(model.apply(X), dtype=np.int64)
        return leaves.reshape(len(leaves), -1, K)

    def raw(X):
        return np.asarray(model.predict(X, output_margin=True), dtype=float).reshape(-1, K)

    l2 = 1.0 if params.get("reg_lambda") is None else params["reg_lambda"]
    rate = 0.3 if params.get("learning_rate") is None else params["learning_rate"]
    # several classes: XGBoost's curvature is 2 p (1 - p)
    factor = 0.5 if K > 1 else 1.0
    return apply, raw, np.broadcast_to(base, K), l2 * factor, factor, rate


def _positions(nodes, used):
    """Positions of nodes among those that hold a training record."""
    at = np.minimum(np.searchsorted(used, nodes), len(used) - 1)
    if (used[at] != nodes).any():
        raise ValueError(
            "a record falls into a leaf that holds no record of X; X must be the data that the trees were trained on"
        )
    return at


def _checked(model, X, dtype, finite=True):
    from sklearn.utils.validation import validate_data

    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # what single precision cannot hold is refused as infinite
        return validate_data(
            model, X, reset=False, dtype=dtype, ensure_all_finite=True if finite else "allow-nan"
        )


def _index(y, F):
    return np.broadcast_to(np.asarray(y).astype(int), F.shape[:-1])[..., None]
