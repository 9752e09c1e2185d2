r"""The weights of groups: the simplex, and its part that CVaR over groups allows.

Group weights q are in :math:`\{q \ge 0, \sum q_g = 1, q_g \le u_g\}`: all caps :math:`u_g = 1` give group DRO,
:math:`u_g = p_g/\alpha` (p_g the share of group g) gives CVaR over groups at level alpha, from the mean loss
(alpha = 1) to group DRO (alpha at most the smallest share).

Cost: `greedy_weights` O(m log m); `simplex_qp` solves a few linear systems of the size of the support of q.

References
----------
Rockafellar, R. T. and Uryasev, S. (2000). Journal of Risk 2, 21-41 (CVaR). Nocedal, J. and Wright, S. J. (2006).
Numerical Optimization, Algorithm 16.3 (active sets).
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def greedy_weights(losses: ArrayLike, caps: ArrayLike) -> Array:
    """The weights that make the weighted loss largest: caps to the worst groups until all mass is used.

    Parameters
    ----------
    losses : array-like of shape (m,)
    caps : array-like of shape (m,)
        Largest weight of each group; they sum to at least 1.

    Returns
    -------
    ndarray of shape (m,)

    Examples
    --------
    >>> import numpy as np
    >>> from statml.group_robust.simplex import greedy_weights
    >>> shares = np.array([0.5, 0.3, 0.15, 0.05])
    >>> greedy_weights([0.2, 0.9, 0.5, 1.4], shares / 0.2).round(2).tolist()
    [0.0, 0.75, 0.0, 0.25]
    """
    losses, caps = np.asarray(losses, dtype=float), np.asarray(caps, dtype=float)
    worst_first = np.argsort(-losses, kind="stable")
    used = np.minimum(np.cumsum(caps[worst_first]), 1.0)
    q = np.empty_like(losses)
    q[worst_first] = np.diff(used, prepend=0.0)
    # Caps that sum to 1 up to rounding (alpha = 1) must not leave mass unused.
    return q / q.sum()


def entropic_projection(q: Array, caps: Array) -> Array:
    """The point of the capped simplex nearest to q > 0 in Kullback-Leibler divergence: min(c q, caps).

    Parameters
    ----------
    q : ndarray of shape (m,)
        Positive; need not sum to 1.
    caps : ndarray of shape (m,)

    Returns
    -------
    ndarray of shape (m,)

    Examples
    --------
    >>> import numpy as np
    >>> from statml.group_robust.simplex import entropic_projection
    >>> entropic_projection(np.array([6.0, 1.0, 1.0]), np.array([0.5, 1.0, 1.0])).tolist()
    [0.5, 0.25, 0.25]
    """
    q = q / q.sum()
    capped = np.zeros(len(q), dtype=bool)
    while True:
        left = 1.0 - caps[capped].sum()
        if capped.all() or left <= 0:
            return np.where(capped, caps, 0.0) / caps[capped].sum()
        scaled = np.where(capped, caps, q * left / q[~capped].sum())
        over = scaled > caps * (1 + 1e-15)
        if not over.any():
            return scaled
        capped |= over


def simplex_qp(M: Array, b: Array, caps: Array, q: Array) -> Array:
    r"""Maximise :math:`b'q - q'Mq/2` over the capped simplex, by active sets.

    Parameters
    ----------
    M : ndarray of shape (m, m)
        Symmetric, positive semidefinite.
    b, caps : ndarray of shape (m,)
    q : ndarray of shape (m,)
        Feasible start; near a solution the active set is nearly right and few steps are needed.

    Returns
    -------
    ndarray of shape (m,)

    Examples
    --------
    >>> import numpy as np
    >>> from statml.group_robust.simplex import simplex_qp
    >>> simplex_qp(np.eye(3), np.array([1.0, 0.5, -3.0]), np.ones(3), np.full(3, 1 / 3)).round(3).tolist()
    [0.75, 0.25, 0.0]
    """
    m = len(b)
    if m == 1:
        return np.ones(1)
    # The ridge picks one solution where groups are redundant; it is far below what the data determine.
    M = M + np.eye(m) * (1e-13 * max(np.trace(M) / m, 1e-3 * np.ptp(b)))
    q = np.clip(q, 0.0, caps)
    free = (q > 0) & (q < caps)
    if not free.any():
        free[np.argmax(np.where(q > 0, q, -1.0))] = True
    scale = max(np.abs(b).max(), np.abs(M).max(), 1e-300)
    for _ in range(50 + 10 * m):
        step, multiplier = _free_step(M, b - M @ q, free)
        low = np.where(free & (step < 0), q / np.where(step < 0, -step, 1.0), np.inf)
        high = np.where(free & (step > 0), (caps - q) / np.where(step > 0, step, 1.0), np.inf)
        length = min(low.min(), high.min())
        if length < 1:
            q = np.clip(q + length * step, 0.0, caps)
            blocked = free & (np.minimum(low, high) <= length)
            q[blocked] = np.where(step[blocked] < 0, 0.0, caps[blocked])
            free &= ~blocked
            if free.any():
                continue
            multiplier = None
        else:
            q = np.clip(q + step, 0.0, caps)
        slope = b - M @ q
        if multiplier is None:  # q is a vertex: any value between the slopes of both sides will do
            below, above = slope[q > 0], slope[q < caps]
            if not len(above) or above.max() <= below.min() + 1e-14 * scale:
                break
            free[np.flatnonzero(q < caps)[np.argmax(above)]] = True
            free[np.flatnonzero(q > 0)[np.argmin(below)]] = True
            continue
        wrong = np.where(free, 0.0, np.where(q <= 0, slope - multiplier, multiplier - slope))
        worst = int(np.argmax(wrong))
        if wrong[worst] <= 1e-14 * scale:
            break
        free[worst] = True
    return q / q.sum()


def _free_step(M: Array, slope: Array, free: NDArray[np.bool_]) -> tuple[Array, float]:
    """The step to the maximum over the free weights with the sum kept, and the multiplier of the sum."""
    at = np.flatnonzero(free)
    step = np.zeros(len(slope))
    if len(at) == 1:
        return step, float(slope[at[0]])
    k = len(at)
    system = np.ones((k + 1, k + 1))
    system[:k, :k] = M[np.ix_(at, at)]
    system[k, k] = 0.0
    target = np.r_[slope[at], 0.0]
    try:
        solution = np.linalg.solve(system, target)
    except np.linalg.LinAlgError:
        solution = scipy.linalg.lstsq(system, target)[0]
    step[at] = solution[:k] - solution[:k].mean()
    return step, float(solution[k])
