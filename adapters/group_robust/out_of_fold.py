r"""Probabilities and features of every record by a network that did not see it.

The networks of the folds have features in spaces of their own: to lay them side by side, as published code does, compares
nothing. Here those of fold k are turned into the space of one reference network by the rotation :math:`Q_k` that brings the
two networks' features of the records that fold k was trained on together,

.. math::  Q_k = \arg\min_{Q'Q = I} \| F_k Q - F_\mathrm{ref} \|, \qquad Q_k = U V', \quad F_k' F_\mathrm{ref} = U S V'

(orthogonal Procrustes, features centred).

Cost: K trainings.

Reference: Schönemann, P. H. (1966). A generalized solution of the orthogonal Procrustes problem. Psychometrika 31, 1-10.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from statml._validation import check_integer
from statml.group_robust.out_of_fold import stratified_folds
from statml.parallel import parallel_map

from .._estimator import NetClassifier
from ._estimator import softmax
from .features import features_and_outputs

BASE = tuple(NetClassifier._get_param_names())

Array = NDArray[np.float64]


def out_of_fold(
    network: NetClassifier,
    X: NDArray[np.float32],
    y: NDArray[np.int64],
    n_folds: int,
    seed: np.random.SeedSequence,
    weight: NDArray[np.float32] | None = None,
    n_jobs: int | None = None,
    folder: Path | None = None,
    reference: NDArray[np.float32] | None = None,
) -> tuple[Array, Array | None]:
    """Out-of-fold probabilities and, given those of a reference network, features.

    Parameters
    ----------
    network : NetClassifier
        Cloned, and fitted to the records outside each fold.
    X : ndarray of shape (n, ...)
    y : ndarray of int, shape (n,)
        Positions 0 to K - 1.
    n_folds : int
    seed : SeedSequence
    weight : ndarray of shape (n,), optional
    n_jobs : int or None, default=None
    folder : Path or None, default=None
        Where an interrupted run finds what it has finished.
    reference : ndarray of shape (n, d), optional
        Features of all records in the reference network.

    Returns
    -------
    proba : ndarray of shape (n, K)
    features : ndarray of shape (n, d), or None
    """
    check_integer("cv", n_folds, low=2)
    fold = stratified_folds(y, n_folds, np.random.default_rng(seed.spawn(1)[0]))
    for k in range(n_folds):
        if len(np.unique(y[fold != k])) < len(np.unique(y)):
            raise ValueError(
                f"y has a class with too few records for cv={n_folds} folds; give more records or a smaller cv"
            )
    results = parallel_map(
        partial(_fold, network, X, y, fold, weight, folder, reference is not None),
        range(n_folds),
        random_state=seed,
        n_jobs=n_jobs,
        progress=network.progress,
        description="out of fold",
    )
    proba = np.empty((len(y), int(y.max()) + 1))
    features = None if reference is None else np.empty(reference.shape)
    for k, found in enumerate(results):
        out = fold == k
        proba[out] = softmax(found["outputs"][out].astype(np.float64))
        if reference is not None:
            features[out] = aligned(found["features"], reference, ~out)[out]
    return proba, features


def _fold(network, X, y, fold, weight, folder, with_features, k, rng) -> dict[str, Any]:
    inside = fold != k
    model = clone(network).set_params(random_state=int(rng.integers(2**32)), progress=False)
    if folder is not None:
        model.set_params(checkpoint_dir=folder / f"fold_{k}")
    model.fit(X[inside], y[inside], None if weight is None else weight[inside])
    if not with_features:
        return {"outputs": model._outputs(X)}
    features, outputs = features_and_outputs(model.net_, X)
    return {"outputs": outputs, "features": features}


def aligned(features: NDArray, reference: NDArray, rows: NDArray[np.bool_]) -> Array:
    """Features, turned so that those of `rows` are near to the reference.

    Parameters
    ----------
    features, reference : ndarray of shape (n, d)
    rows : ndarray of bool, shape (n,)

    Returns
    -------
    ndarray of shape (n, d)

    Examples
    --------
    >>> import numpy as np
    >>> F = np.random.default_rng(0).normal(size=(20, 2))
    >>> turned = F @ np.array([[0.6, 0.8], [-0.8, 0.6]]) + 1
    >>> bool(np.allclose(aligned(turned, F, np.arange(20) < 10), F))
    True
    """
    F, R = features.astype(float), reference.astype(float)
    centre, target = F[rows].mean(axis=0), R[rows].mean(axis=0)
    U, _, Vt = np.linalg.svd((F[rows] - centre).T @ (R[rows] - target))
    return (F - centre) @ (U @ Vt) + target
