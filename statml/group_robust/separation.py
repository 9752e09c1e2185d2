r"""Separated classes: without a penalty the log loss of separated data has no minimiser.

If some direction w has :math:`(w_{y_i} - w_k)' x_i \ge 0` for every row i of positive weight and every class k, and > 0 for
one of them, the loss falls for ever along it (Albert, A. and Anderson, J. A. 1984, Biometrika 71, 1-10).

By Stiemke's lemma there is none exactly if positive numbers exist under which the differences :math:`x_i (e_{y_i} - e_k)'`
sum to zero, which a linear programme decides. It is seldom needed: following the direction would save at least the probability
:math:`s_i \ge 0` that each separated row gives to the classes it is separated from, so that a certified gap bounds
:math:`v_i s_i`; and where that is small, so is the curvature along the direction. A curvature that is nowhere below
:math:`2\, \mathrm{gap} / \min_i v_i` therefore rules separation out.

Cost: O(n p^2) if margins or curvature decide; else a linear programme of p K constraints and n K variables.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

from .losses import MultinomialLogLoss
from .solver import Problem, Solution, gram

Array = NDArray[np.float64]


def refuse_separated(problem: Problem, solution: Solution) -> None:
    """Raise a ValueError if the classes are separated among the rows that the solution gives weight to.

    Parameters
    ----------
    problem : Problem
        Without a penalty.
    solution : Solution
        Where the solver stopped.
    """
    v = problem.groups.row_weights(solution.q)
    used = v > 0
    codes, z = problem.y[used].astype(int), solution.point.z[used]
    if is_separated(problem.X[used], codes, z, solution.gap / v[used].min()):
        raise ValueError(
            "the classes in y are separated by a linear function of X, so that with l2=0 the loss has no minimiser "
            "(it falls for ever as the coefficients grow); set l2 > 0"
        )


def is_separated(X: Array, codes: NDArray[np.int64], z: Array, slack: float = np.inf) -> bool:
    """Whether some direction separates the classes, completely or with ties.

    Parameters
    ----------
    X : ndarray of shape (n, p)
        With the column of ones, if any.
    codes : ndarray of int, shape (n,)
        Classes, 0 to K - 1.
    z : ndarray of shape (n, K), or (n, 1) for two classes
        Linear predictors.
    slack : float
        What the loss of one row can still fall by at most.

    Returns
    -------
    bool

    Examples
    --------
    >>> import numpy as np
    >>> from statml.group_robust.separation import is_separated
    >>> X = np.column_stack([[-2.0, -1.0, 1.0, 2.0], np.ones(4)])
    >>> is_separated(X, np.array([0, 0, 1, 1]), np.zeros((4, 1)))
    True
    >>> is_separated(X, np.array([0, 1, 0, 1]), np.zeros((4, 1)))
    False
    """
    if z.shape[1] == 1:
        z = np.column_stack([np.zeros(len(z)), z[:, 0]])
    margins = z[np.arange(len(z)), codes][:, None] - z
    margins[np.arange(len(z)), codes] = np.inf
    if margins.min() > 0:
        return True
    left, size, _ = scipy.linalg.svd(X, full_matrices=False)
    basis = left[:, size > 1e-10 * size.max()]
    if np.isfinite(slack) and _least_curvature(basis, codes, z) > 2 * slack:
        return False
    return _direction_exists(basis, codes, z.shape[1])


def _least_curvature(basis: Array, codes: NDArray[np.int64], z: Array) -> float:
    """Of the log loss, over the directions in which X and the classes vary, in orthonormal coordinates."""
    K = z.shape[1]
    contrasts = scipy.linalg.helmert(K)
    _, curvature = MultinomialLogLoss(K).derivatives(codes, z)
    return float(np.linalg.eigvalsh(gram(basis, contrasts @ curvature @ contrasts.T)).min())


def _direction_exists(basis: Array, codes: NDArray[np.int64], n_classes: int) -> bool:
    contrasts = scipy.linalg.helmert(n_classes)  # (K - 1, K): two classes share one direction
    blocks = []
    for k in range(n_classes):
        rows = codes != k
        between = contrasts[:, codes[rows]].T - contrasts[:, k]
        blocks.append((basis[rows][:, :, None] * between[:, None, :]).reshape(rows.sum(), -1))
    differences = np.vstack(blocks) * np.sqrt(len(basis))
    result = scipy.optimize.linprog(
        np.zeros(len(differences)),
        A_eq=differences.T,
        b_eq=np.zeros(differences.shape[1]),
        bounds=(1, None),
        method="highs",
    )
    return result.status == 2  # infeasible
