r"""The sandwich covariance of an estimator that solves :math:`\sum_i \psi_i(\theta) = 0`.

With A the derivative of the sum, :math:`\widehat{\mathrm{var}}(\hat\theta) = A^{-1} M A^{-T}`, where M sums the outer
products of the scores :math:`\psi_i`, or of their sums over clusters of dependent observations. No
small-sample factor is applied.

References
----------
Huber, P. J. (1967). Proceedings of the Fifth Berkeley Symposium 1, 221-233.
White, H. (1980). Econometrica 48, 817-838.
Liang, K.-Y. and Zeger, S. L. (1986). Biometrika 73, 13-22.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array


def sandwich(
    bread: ArrayLike | sp.sparray,
    scores: ArrayLike | sp.sparray,
    clusters: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Covariance of k linear combinations of p parameters, from the scores of n observations.

    Parameters
    ----------
    bread : array-like or sparse of shape (k, p)
        The inverse A^-1, or some of its rows, or their combinations.
    scores : array-like or sparse of shape (n, p)
        The score of each observation at the estimate. A sparse one is not made dense, nor is its p x p product.
    clusters : array-like of shape (n,) or None, default=None
        Labels of any kind; observations with equal labels may depend on each other. None: all are independent.

    Returns
    -------
    ndarray of shape (k, k)

    Raises
    ------
    ValueError
        If shapes do not match, a number is not finite, or a label is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.inference import sandwich
    >>> x = np.array([1.0, 2.0, 4.0, 5.0])
    >>> variance_of_mean = sandwich([[1 / 4]], (x - x.mean())[:, None])
    >>> bool(variance_of_mean.item() == x.var() / 4)
    True
    """
    bread = check_array(bread, accept_sparse=True, dtype=np.float64, input_name="bread")
    scores = check_array(scores, accept_sparse="csr", dtype=np.float64, input_name="scores")
    if bread.shape[1] != scores.shape[1]:
        raise ValueError(
            "bread and scores must have one column a parameter each, "
            f"got shapes {bread.shape} and {scores.shape}"
        )
    if clusters is not None:
        scores = _cluster_sums(scores, clusters)
    covariance = bread @ (scores.T @ scores) @ bread.T
    return covariance.toarray() if sp.issparse(covariance) else covariance


def _cluster_sums(scores, clusters):
    codes, labels = pd.factorize(np.asarray(clusters))
    n = scores.shape[0]
    if codes.shape != (n,):
        raise ValueError(f"clusters must hold one label for each of {n} scores, got {codes.shape}")
    if (codes < 0).any():
        raise ValueError("clusters must not hold missing labels")
    member = sp.csr_array((np.ones(n), (codes, np.arange(n))), shape=(len(labels), n))
    return member @ scores
