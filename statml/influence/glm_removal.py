r"""Removing records from a generalised linear model: one Newton step, or the exact optimum.

In the notation of `glm_oracle`, with :math:`S_i = v_i W_i` and :math:`J_i = I_K \otimes x_i^T`, a Newton step from the
fit on the objective without record i gives

.. math::  \theta_{-i} - \theta \approx A^{-1} J_i^T c_i, \qquad c_i = (I - S_i Q_i)^{-1} v_i s_i,
           \qquad Q_i = J_i A^{-1} J_i^T,

which is exact for squared loss. For a set S of records it is :math:`(A - \sum_{i \in S} J_i^T S_i J_i)^{-1} \sum_{i \in S}
v_i g_i`. Further steps lead to the exact optimum. The first of them keep the Hessian at the fit (chord iterations),
and so all records are treated at once, at O(n^2 p) an iteration in matrix products; records that have not converged
after a few are finished one by one with full Newton steps, O(n p^2 + p^3) each.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from .glm_oracle import Factor, GLMOracle, row_kron

Array = NDArray[np.float64]

CHORD_STEPS = 12  # for all records at once, before those left are taken one by one


def removal_coefficients(oracle: GLMOracle, inverse: Array) -> tuple[Array, Array]:
    """c_i, shape (n, K), and the leverages trace(S_i Q_i), shape (n,).

    Where I - S_i Q_i is not positive definite (the model without i has no optimum that a Newton step could
    find), c_i is NaN.
    """
    X, v = oracle.X, oracle.sample_weight
    n, q = X.shape
    K = oracle.family.n_outputs
    blocks = inverse.reshape(K, q, K, q)
    S = oracle.curvatures(X, oracle.y) * v[:, None, None]
    Q = np.empty((n, K, K))
    for a in range(K):
        for b in range(a + 1):
            Q[:, a, b] = Q[:, b, a] = _row_products(X @ blocks[a, :, b, :], X)
    s = oracle.scores(X, oracle.y) * v[:, None]
    if K == 1:
        leverage = (S * Q)[:, 0, 0]
        room = 1 - leverage
        with np.errstate(divide="ignore", invalid="ignore"):
            c = np.where(room[:, None] > 1e-10, s / room[:, None], np.nan)
        return np.where(v[:, None] > 0, c, 0.0), leverage
    SQ = S @ Q
    leverage = np.einsum("iaa->i", SQ)
    M = np.eye(K) - SQ
    c = np.empty((n, K))
    # the largest eigenvalue of S Q is at most its trace
    safe = leverage < 0.9
    for i in np.flatnonzero(~safe):
        safe[i] = np.linalg.eigvals(M[i]).real.min() > 1e-10
    c[safe] = np.linalg.solve(M[safe], s[safe][:, :, None])[:, :, 0]
    c[~safe] = np.nan
    c[v == 0] = 0.0
    return c, leverage


def group_newton_step(oracle: GLMOracle, factor: Factor, members: NDArray[np.int64]) -> Array:
    """One Newton step on the objective without the members, shape (p,); NaN where there is none."""
    X, y, v = oracle.X[members], oracle.y[members], oracle.sample_weight[members]
    W = oracle.curvatures(X, y) * v[:, None, None]
    K = W.shape[1]
    J = np.concatenate(
        [row_kron(np.eye(K)[[a] * len(v)], X) for a in range(K)]
    )  # class after class
    s = (oracle.scores(X, y) * v[:, None]).T.ravel()
    if len(J) < oracle.n_params:  # Woodbury in the space of the members
        AJ = factor.solve(J.T)
        Q = J @ AJ
        WQ = np.einsum("iab,bik->aik", W, Q.reshape(K, len(v), -1)).reshape(Q.shape)
        M = np.eye(len(J)) - WQ
        if len(J) and np.linalg.eigvals(WQ).real.max() > 1 - 1e-10:
            return np.full(oracle.n_params, np.nan)
        return AJ @ np.linalg.solve(M, s)
    WJ = np.einsum("iab,bik->aik", W, J.reshape(K, len(v), -1)).reshape(J.shape)
    try:
        return cho_solve(cho_factor(factor.completed - J.T @ WJ), J.T @ s)
    except np.linalg.LinAlgError:
        return np.full(oracle.n_params, np.nan)


def chord_refits(
    oracle: GLMOracle,
    inverse: Array,
    rows: NDArray[np.int64],
    theta: Array,
    penalty: Array,
    tol: float,
    steps: int = CHORD_STEPS,
) -> tuple[Array, NDArray[np.bool_]]:
    """Improve theta (len(rows), p) towards the optima without each row, all at once.

    Each iteration takes the Hessian at the fit, less the row's own part there. `penalty` (len(rows), p) is the
    diagonal R of each sum objective. Returns the parameters and which rows have converged.
    """
    X, y, v = oracle.X, oracle.y, oracle.sample_weight
    K, q = oracle.family.n_outputs, X.shape[1]
    n = len(v)
    own, S, room = _downdates(oracle, inverse, rows)
    theta = theta.copy()
    converged = np.zeros(len(rows), dtype=bool)
    previous = np.full(len(rows), np.inf)
    active = np.flatnonzero(np.isfinite(theta).all(axis=1) & np.isfinite(room).all(axis=(1, 2)))
    linear = n * oracle.linear
    for _ in range(steps):
        if not len(active):
            break
        at = theta[active]
        # linear predictors of all records under all parameter vectors: (n, active, K)
        blocks = at.reshape(len(active), K, q)
        eta = np.stack([np.asarray(X @ blocks[:, a].T) for a in range(K)], axis=-1)
        s = oracle.family.score(eta.reshape(-1, K), np.repeat(y, len(active)))
        s = s.reshape(n, len(active), K) * v[:, None, None]
        s[rows[active], np.arange(len(active))] = 0.0
        gradient = np.concatenate([np.asarray(X.T @ s[:, :, a]) for a in range(K)]).T
        gradient += penalty[active] * at + linear
        step = gradient @ inverse
        # Woodbury: (A - J^T S J)^{-1} = A^{-1} + A^{-1} J^T (I - S Q)^{-1} S J A^{-1}
        inner = np.einsum("iak,ik->ia", own[active], gradient)
        inner = np.einsum("iab,ibc,ic->ia", room[active], S[active], inner)
        step += np.einsum("iak,ia->ik", own[active], inner)
        theta[active] = at - step
        size = np.sqrt(np.maximum(np.einsum("ij,ij->i", step, gradient), 0))
        done = size <= tol
        stalled = size > 0.5 * previous[active]  # a full Newton step is the better buy
        converged[active[done]] = True
        previous[active] = size
        active = active[~done & ~stalled]
    return theta, converged


def newton_refit(
    oracle: GLMOracle, weight: Array, theta: Array, penalty: Array, tol: float, max_iter: int
) -> tuple[Array, bool]:
    """Optimum of the sum objective with other weights and penalty, by damped Newton steps from theta."""
    X, y = oracle.X, oracle.y
    linear = oracle.n_train * oracle.linear
    gauge = oracle.gauge()
    used = weight > 0

    def objective(theta):
        # penalty terms first: they stay finite where the loss overflows
        smooth = theta @ (penalty * theta) / 2 + linear @ theta
        with np.errstate(over="ignore", invalid="ignore"):
            return smooth + weight[used] @ oracle.loss(X[used], y[used], theta)

    base = oracle.n_train * oracle.regulariser()
    value = objective(theta)
    for _ in range(max_iter):
        s = oracle.scores(X, y, theta) * weight[:, None]
        gradient = np.concatenate([np.asarray(X.T @ s[:, a]) for a in range(s.shape[1])])
        gradient += penalty * theta + linear
        A = oracle.information(theta, weight)
        A[np.diag_indices_from(A)] += penalty - base
        A = A + np.diag(A).mean() * gauge @ gauge.T
        step, regular = _descent_step(A, gradient)
        if step is None:
            return theta, False
        decrement = gradient @ step
        size = 1.0
        while True:
            proposal = theta - size * step
            new = objective(proposal)
            # near the optimum the difference of two objectives is rounding alone
            if new <= value - 1e-4 * size * decrement or decrement < 1e-9 * (1 + abs(value)):
                break
            size /= 2
            if size < 1e-10:
                return theta, False
        theta, value = proposal, new
        if decrement <= tol**2 and size == 1.0:
            return theta, regular
        if max(np.abs(oracle.linear_predictor(X[used], theta)).max(), 1) > 1e6 * max(
            1.0, np.abs(y).max()
        ):
            return theta, False  # runs off: there is no optimum
    return theta, False


def _descent_step(A: Array, gradient: Array) -> tuple[Array | None, bool]:
    """A^{-1} gradient, and whether A was positive definite; if not, with as much damping as makes it so."""
    scale = np.sqrt(np.maximum(np.diag(A), 1e-12 * max(np.diag(A).max(), 1e-300)))
    scaled = A / scale[:, None] / scale
    ridge = 0.0
    for _ in range(12):
        try:
            factor = cho_factor(scaled + ridge * np.eye(len(A)))
        except np.linalg.LinAlgError:
            ridge = max(10 * ridge, 1e-8)
            continue
        regular = ridge == 0.0 and np.diag(factor[0]).min() > 1e-7
        return cho_solve(factor, gradient / scale) / scale, regular
    return None, False


def _downdates(oracle: GLMOracle, inverse: Array, rows) -> tuple[Array, Array, Array]:
    """J_i A^{-1} (r, K, p), S_i (r, K, K) and (I - S_i Q_i)^{-1} (r, K, K) of some rows."""
    X = oracle.X[rows]
    K, q = oracle.family.n_outputs, X.shape[1]
    dense = X.toarray() if sp.issparse(X) else X
    own = np.stack(
        [dense @ inverse.reshape(K, q, -1)[a] for a in range(K)], axis=1
    )  # row a of J_i A^{-1}
    Q = np.einsum("iabj,ij->iab", own.reshape(len(rows), K, K, q), dense)
    S = oracle.curvatures(X, oracle.y[rows]) * oracle.sample_weight[rows, None, None]
    M = np.eye(K) - S @ Q
    room = np.full_like(M, np.nan)
    fine = np.abs(np.linalg.det(M)) > 1e-12
    room[fine] = np.linalg.inv(M[fine])
    return own, S, room


def _row_products(A, B) -> Array:
    """Row by row, the product of A and B."""
    if sp.issparse(B):
        return np.asarray(B.multiply(A).sum(axis=1)).ravel()
    return np.einsum("ij,ij->i", A, B)
