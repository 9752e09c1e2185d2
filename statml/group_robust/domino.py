r"""Where soft slices start: cells of the confusion matrix, or DOMINO's error-aware mixture.

DOMINO models features z, class y and predicted class of a record as a mixture of slices s,

.. math::  \sum_i \log \sum_s \pi_s\, N(z_i; \mu_s, \mathrm{diag}\,\sigma_s^2)\;
           p(y_i \mid s)^{\gamma}\; \textstyle\prod_k p(\hat y = k \mid s)^{\gamma \hat p_{ik}},

with the predicted probabilities :math:`\hat p_i` plugged in as soft counts. A large gamma makes slices homogeneous in
the kind of error. It is fitted by EM from the cells of the confusion matrix.

Cost: O(n p m) an iteration.

Reference: Eyuboglu, S., Varma, M., Saab, K., Delbrouck, J.-B., Lee-Messer, C., Dunnmon, J., Zou, J. and Ré, C. (2022).
Domino: discovering systematic errors with cross-modal embeddings. International Conference on Learning
Representations, section 5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.decomposition import PCA

Array = NDArray[np.float64]

GAMMA = 10.0
MAX_ITER = 200
TOL = 1e-6  # of the mean log likelihood
MOST_COMPONENTS = 128
LEAST_VARIANCE = 1e-3  # of features scaled to variance 1


def confusion_start(
    X: Array, y: NDArray[np.int64], proba: Array, n_slices: int, rng: np.random.Generator
) -> Array:
    """Memberships by cells of class and predicted class, a little blurred.

    Where there are more slices than cells, cells are cut along a random direction of the features, so that no two
    slices start alike.

    Examples
    --------
    >>> import numpy as np
    >>> proba = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    >>> X = np.zeros((3, 1))
    >>> start = confusion_start(X, np.array([0, 0, 1]), proba, 4, np.random.default_rng(0))
    >>> len(set(start.argmax(axis=1).tolist()))
    3
    """
    cell = y * proba.shape[1] + proba.argmax(axis=1)
    cells, position = np.unique(cell, return_inverse=True)
    along = X @ rng.standard_normal(X.shape[1])
    own = position % n_slices
    if n_slices > len(cells):  # every slice gets a part of some cell
        for c, numbers in enumerate(np.array_split(np.arange(n_slices), len(cells))):
            rows = np.flatnonzero(position == c)
            rank = np.argsort(np.argsort(along[rows]))
            own[rows] = numbers[rank * len(numbers) // len(rows)]
    return 0.8 * np.eye(n_slices)[own] + 0.2 / n_slices


def domino_start(
    X: Array, y: NDArray[np.int64], proba: Array, n_slices: int, rng: np.random.Generator
) -> Array:
    """Memberships of a fitted DOMINO mixture.

    Parameters
    ----------
    X : ndarray of shape (n, p)
        Scaled here, and reduced to 128 principal components if there are more.
    y : ndarray of int, shape (n,)
    proba : ndarray of shape (n, K)
    n_slices : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of shape (n, n_slices)

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> z = np.repeat([-3.0, 3.0], 50)[:, None] + rng.normal(size=(100, 1))
    >>> proba = np.full((100, 2), 0.5)
    >>> start = domino_start(z, np.zeros(100, dtype=int), proba, 2, rng)
    >>> bool(abs(start[:50, 0].mean() - start[50:, 0].mean()) > 0.99)
    True
    """
    if X.shape[1] > MOST_COMPONENTS and len(X) > MOST_COMPONENTS:
        seed = int(rng.integers(2**31))
        X = PCA(MOST_COMPONENTS, random_state=seed).fit_transform(X)
    spread = X.std(axis=0)
    Z = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    labels = np.eye(proba.shape[1])[y]
    R = confusion_start(Z, y, proba, n_slices, rng)
    before = -np.inf
    for _ in range(MAX_ITER):
        R, log_likelihood = em_step(R, Z, labels, proba)
        if log_likelihood - before < TOL:
            break
        before = log_likelihood
    return R


def em_step(R: Array, Z: Array, labels: Array, proba: Array) -> tuple[Array, float]:
    """Fit the mixture to memberships, and return those under the fit, with its mean log likelihood.

    Parameters
    ----------
    R : ndarray of shape (n, m)
    Z : ndarray of shape (n, p)
    labels : ndarray of shape (n, K)
        Classes as 0 and 1.
    proba : ndarray of shape (n, K)

    Returns
    -------
    R : ndarray of shape (n, m)
    log_likelihood : float
    """
    mass = R.sum(axis=0) + 1e-10
    mean = R.T @ Z / mass[:, None]
    variance = np.maximum(R.T @ Z**2 / mass[:, None] - mean**2, LEAST_VARIANCE)
    p_y = (R.T @ labels + 1e-3) / (mass[:, None] + 1e-3 * labels.shape[1])
    p_hat = (R.T @ proba + 1e-3) / (mass[:, None] + 1e-3 * labels.shape[1])
    log_joint = (
        np.log(mass / len(Z))
        - 0.5 * (Z**2 @ (1 / variance).T - 2 * Z @ (mean / variance).T)
        - 0.5 * (mean**2 / variance + np.log(2 * np.pi * variance)).sum(axis=1)
        + GAMMA * (labels @ np.log(p_y).T + proba @ np.log(p_hat).T)
    )
    total = logsumexp(log_joint, axis=1)
    return np.exp(log_joint - total[:, None]), float(total.mean())
