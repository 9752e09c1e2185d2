r"""The exact solver of convex group DRO: dual Newton over the simplex, with a certificate.

.. math::  P(w) = \max_{q \in Q} \sum_g q_g (L_g(w) + a_g) + \tfrac{l_2}{2} \|w\|^2
                = \max_{q \in Q} F_q(w), \qquad  d(q) = \min_w F_q(w),

Q the (capped) simplex, a the offsets, the intercept not penalised. d is concave and
:math:`\min_w P = \max_q d` (Sion). With J the gradients of the group losses and H the Hessian of :math:`F_q`,

.. math::  \nabla d(q) = L(w(q)) + a, \qquad  \nabla^2 d(q) = -J H^{-1} J',

so that a Newton step over q is a quadratic programme of the number of groups, with Armijo's rule on d. It also
moves w to first order, :math:`w - H^{-1}(J'q + l_2 w)`, which leaves to the inner minimisation over w a residual of second
order: near the solution an outer step costs one Hessian, and w and q converge together, quadratically.

**Certificate.** For u with :math:`u_i` in the domain of the conjugate and :math:`\sum_i v_i u_i = 0` (intercept),

.. math::  d(q) \ge q'a - \sum_i v_i \varphi_i^*(u_i) - \tfrac{1}{2 l_2} \| \textstyle\sum_i v_i x_i u_i \|^2 .

We take the gradient linearised at the Newton point, :math:`u = \varphi' - \varphi''\, x'H^{-1}\nabla F_q`: it fulfils the
constraint, and without a penalty :math:`\sum v_i x_i u_i = 0` too, so that the bound is tight to third order in the error of
w. The gap is a sum of terms that cannot be negative: the spread of the active group losses, Fenchel-Young gaps of the rows,
and a square.

Cost: O(n p^2 + m^3) an outer step, five to ten of them; O(np) a conjugate-gradient step beyond `DENSE_UP_TO` parameters.

Reference for the problem: Sagawa, S., Koh, P. W., Hashimoto, T. B. and Liang, P. (2020). Distributionally robust neural
networks for group shifts. ICLR.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from .losses import Loss
from .membership import Groups
from .simplex import greedy_weights, simplex_qp

Array = NDArray[np.float64]

DENSE_UP_TO = 2000  # parameters; beyond, systems are solved by conjugate gradients
BLOCK = 2048  # rows whose scaled copy fits into the processor's cache
SUFFICIENT = 1e-4  # Armijo's constant
# Of an expected gain in d, what may remain as error of the minimisation over w: tried in turn, since the squared
# decrement only measures that error once it is small.
INNER_SHARES = (0.05, 1e-3, 1e-6, 1e-12)
PATIENCE = 15  # outer steps without a smaller gap
INNER_STEPS = 100
SHORTEST = 2.0**-30  # step in q
DAMPING = 0.1  # share of the majorising curvature, where the Hessian alone leads astray
CANCELLED = 1e-10  # sum of terms, relative to the sum of their absolute values, that counts as zero


@dataclass
class Problem:
    """Data of group DRO, rows in the order of ``groups.order``.

    Parameters
    ----------
    X : ndarray of shape (n, p)
        With a last column of ones if there is an intercept.
    y : ndarray of shape (n,)
    loss : Loss
    groups : HardGroups or SoftGroups
    l2 : float
    intercept : bool
    """

    X: Array
    y: Array
    loss: Loss
    groups: Groups
    l2: float
    intercept: bool

    @cached_property
    def penalty(self) -> Array:
        """l2 for each row of w, 0 for the intercept: (p, 1)."""
        penalty = np.full((self.X.shape[1], 1), float(self.l2))
        if self.intercept:
            penalty[-1] = 0.0
        return penalty

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of w: (p, K)."""
        return self.X.shape[1], self.loss.n_outputs

    def ridge(self, w: Array) -> float:
        return 0.5 * float((self.penalty * w**2).sum())


@dataclass
class Point:
    """A value of w and what follows from it; derivatives are computed when asked for."""

    problem: Problem
    w: Array

    @cached_property
    def z(self) -> Array:
        return self.problem.X @ self.w

    @cached_property
    def losses(self) -> Array:
        """Loss of each row."""
        return self.problem.loss.value(self.problem.y, self.z)

    @cached_property
    def group_losses(self) -> Array:
        return self.problem.groups.means(self.losses)

    @cached_property
    def derivatives(self) -> tuple[Array, Array]:
        return self.problem.loss.derivatives(self.problem.y, self.z)

    @cached_property
    def jacobian(self) -> Array:
        """Gradients of the group losses: (m, p K)."""
        J = self.problem.groups.cross_means(self.problem.X, self.derivatives[0])
        return J.reshape(len(J), -1)

    @cached_property
    def penalty_gradient(self) -> Array:
        return (self.problem.penalty * self.w).ravel()

    def value(self, q: Array, offsets: Array) -> float:
        """F_q(w)."""
        return float(q @ (self.group_losses + offsets)) + self.problem.ridge(self.w)

    def gradient(self, q: Array) -> Array:
        """Gradient of F_q: (p K,)."""
        return q @ self.jacobian + self.penalty_gradient

    def moved(self, step: Array) -> Point:
        return Point(self.problem, self.w + step.reshape(self.w.shape))


@dataclass
class Solution:
    """A certified minimiser.

    Attributes
    ----------
    w : ndarray of shape (p, K)
    q : ndarray of shape (m,)
    point : Point
    primal, dual, gap : float
    n_iter : int
        Outer steps.
    converged : bool
    history : list of (primal, dual, gap)
        One entry an outer step.
    """

    w: Array
    q: Array
    point: Point
    primal: float
    dual: float
    gap: float
    n_iter: int
    converged: bool
    history: list[tuple[float, float, float]] = field(repr=False)


def solve(
    problem: Problem,
    offsets: Array,
    caps: Array,
    tol: float = 1e-8,
    max_iter: int = 100,
    w: Array | None = None,
    q: Array | None = None,
) -> Solution:
    """Minimise the largest weighted group loss.

    Parameters
    ----------
    problem : Problem
    offsets : ndarray of shape (m,)
        a, added to the group losses.
    caps : ndarray of shape (m,)
        Largest weight of each group.
    tol : float, default=1e-8
        Duality gap, relative to max(1, |objective|), at which to stop.
    max_iter : int, default=100
    w : ndarray of shape (p, K), optional
    q : ndarray of shape (m,), optional
        Where to start.

    Returns
    -------
    Solution
    """
    q = _feasible(np.minimum(caps, 1.0) if q is None else q, caps)
    point = Point(problem, np.zeros(problem.shape) if w is None else w)
    history: list[tuple[float, float, float]] = []
    best, polished, last_gain = None, False, 0
    while len(history) < min(max_iter, last_gain + PATIENCE):
        curvature = factorise(point, q)
        gap, spread = certificate(point, q, offsets, caps, curvature)
        primal = point.value(q, offsets) + spread
        history.append((primal, primal - gap, gap))
        if best is None or gap < best[0]:
            last_gain = last_gain if best is not None and gap > 0.9 * best[0] else len(history)
            best = gap, primal, point, q
        enough = tol * max(1.0, abs(primal))
        if best[0] <= enough:
            # Convergence is quadratic: one more step brings w from the root of tol to rounding.
            if polished or best[0] <= 1e-6 * enough:
                break
            polished = True
        for share in INNER_SHARES:
            step = _outer_step(point, q, offsets, caps, curvature, spread, enough, share)
            if step is not None:
                break
        else:
            break
        point, q = step
    gap, primal, point, q = best
    converged = gap <= tol * max(1.0, abs(primal))
    return Solution(point.w, q, point, primal, primal - gap, gap, len(history), converged, history)


def solve_any_shape(
    problem: Problem,
    offsets: Array,
    caps: Array,
    tol: float,
    max_iter: int,
    w: Array | None = None,
    q: Array | None = None,
) -> Solution:
    """`solve`; with more columns than rows, in the row space of X, which holds every penalised minimiser."""
    n, p = problem.X.shape
    if p <= n:
        return solve(problem, offsets, caps, tol, max_iter, w, q)
    features = problem.X[:, : p - problem.intercept]
    rotation, triangle = np.linalg.qr(features.T)  # features = triangle' rotation'
    reduced = triangle.T
    if problem.intercept:
        reduced = np.column_stack([reduced, problem.X[:, -1]])
    if w is not None:
        w = np.vstack([rotation.T @ w[: len(rotation)], w[len(rotation) :]])
    small = replace(problem, X=np.ascontiguousarray(reduced))
    solution = solve(small, offsets, caps, tol, max_iter, w, q)
    k = rotation.shape[1]
    w = np.vstack([rotation @ solution.w[:k], solution.w[k:]])
    return replace(solution, w=w, point=Point(problem, w))


def certificate(
    point: Point, q: Array, offsets: Array, caps: Array, curvature: Curvature
) -> tuple[float, float]:
    """Upper bound of P(w) minus the optimum, and its part max_Q q'(L + a) - q'(L + a).

    Far from a solution, where no dual point is at hand, it rests on the losses being at least zero.
    """
    problem, groups = point.problem, point.problem.groups
    adjusted = point.group_losses + offsets
    spread = max(float((greedy_weights(adjusted, caps) - q) @ adjusted), 0.0)
    v = groups.row_weights(q)
    gradient, hessian = point.derivatives
    step = curvature.solve(point.gradient(q)).reshape(point.w.shape)
    moved = problem.X @ step
    at_least_zero = spread + float(q @ point.group_losses) + problem.ridge(point.w)
    free = problem.penalty[:, 0] == 0
    magnitudes = np.abs(problem.X[:, free]).T
    for size in (1.0, 0.0):
        u = gradient - size * np.einsum("ijk,ik->ij", hessian, moved)
        if problem.intercept:
            u -= _balancing(u, hessian, v)
        fenchel_young = point.losses + problem.loss.conjugate(problem.y, u) - (u * point.z).sum(1)
        weighted = v[:, None] * u
        moment = problem.X.T @ weighted
        cancelled = np.abs(moment[free]) <= CANCELLED * (magnitudes @ np.abs(weighted))
        if np.isfinite(fenchel_young[v > 0]).all() and cancelled.all():
            break
    else:
        return max(at_least_zero, 0.0), spread
    rows = float(v[v > 0] @ np.maximum(fenchel_young[v > 0], 0.0))
    # What rounding left of the free moments could only be repaid by a w much larger than ours.
    residual = float(np.abs(moment[free] * point.w[free]).sum())
    if problem.l2 > 0:
        square = (point.w + moment / problem.l2)[~free] ** 2
        residual += 0.5 * problem.l2 * float(square.sum())
    return max(min(spread + rows + residual, at_least_zero), 0.0), spread


def minimum_over_w(point: Point, q: Array, offsets: Array) -> float:
    """A lower bound of d(q), tight to rounding: Newton's method from the point, then its certificate."""
    caps = np.ones_like(q)
    point, curvature, _ = _minimise(point, q, offsets, 1e-18, factorise(point, q), fresh=True)
    gap, spread = certificate(point, q, offsets, caps, curvature)
    return point.value(q, offsets) + spread - gap


def _balancing(u: Array, hessian: Array, v: Array) -> Array:
    """What to subtract of u so that sum_i v_i u_i = 0: a Newton step of the intercept alone."""
    total = np.einsum("i,ijk->jk", v, hessian)
    return hessian @ (np.linalg.pinv(total, hermitian=True) @ (v @ u))


# --- one outer step -------------------------------------------------------------------------------------


def _outer_step(
    point: Point,
    q: Array,
    offsets: Array,
    caps: Array,
    curvature: Curvature,
    spread: float,
    enough: float,
    share: float,
) -> tuple[Point, Array] | None:
    """A Newton step on d over the simplex, with w taken along; None if no step is seen to raise d."""
    goal = share * max(spread, 1e-3 * enough)
    point, curvature, decrement = _minimise(point, q, offsets, goal, curvature, fresh=True)
    J, gradient = point.jacobian, point.gradient(q)
    solved = curvature.solve(np.column_stack([J.T, gradient]))
    towards_q, residual = solved[:, :-1], solved[:, -1]
    M = J @ towards_q
    slope = point.group_losses + offsets - J @ residual  # of d at q, with w(q) to second order
    target = simplex_qp((M + M.T) / 2, slope + M @ q, caps, q)
    direction = target - q
    gain = float(slope @ direction)
    floor = 1e-15 * (1.0 + abs(point.value(q, offsets)))
    if gain <= floor:
        return point.moved(-residual - towards_q @ direction), target
    d = point.value(q, offsets) - decrement / 2
    length = 1.0
    shortest = SHORTEST if share == INNER_SHARES[-1] else 0.1
    while length > shortest:
        q_new = q + length * direction
        trial = point.moved(-residual - length * (towards_q @ direction))
        if not trial.value(q_new, offsets) <= point.value(q_new, offsets):
            trial = point
        goal = max(share * length * gain, floor * 1e-4)
        trial, _, decrement = _minimise(trial, q_new, offsets, goal, curvature, fresh=False)
        d_new = trial.value(q_new, offsets) - decrement / 2
        if d_new >= d + SUFFICIENT * length * gain - 10 * floor:
            return trial, q_new
        length /= 2
    return None


def _minimise(
    point: Point, q: Array, offsets: Array, goal: float, curvature: Curvature, fresh: bool
) -> tuple[Point, Curvature, float]:
    """Newton's method on F_q until its squared decrement is at most `goal`.

    The Hessian is only computed anew (`fresh` says whether the given one belongs to the point and q) when the old
    one does not already show that the point is near enough.
    """
    decrement = np.inf
    problem = point.problem
    for _ in range(INNER_STEPS):
        gradient = point.gradient(q)
        step = curvature.solve(gradient)
        decrement = float(gradient @ step)
        if decrement <= goal:
            break
        if not fresh:
            curvature = factorise(point, q)
            step = curvature.solve(gradient)
            decrement = float(gradient @ step)
            if decrement <= goal:
                break
        trial = _descent(point, q, offsets, step, decrement, 0.5)
        if trial is None and hasattr(problem.loss, "majoriser"):
            true, bound = point.derivatives[1], problem.loss.majoriser(problem.y, point.z)
            blend = true + DAMPING * (bound - true)
            step = _dense(problem, blend, problem.groups.row_weights(q)).solve(gradient)
            trial = _descent(point, q, offsets, step, float(gradient @ step), 1e-12)
        elif trial is None:
            trial = _descent(point, q, offsets, step / 4, decrement / 4, 1e-12)
        if trial is None:
            break
        point, fresh = trial, False
    return point, curvature, decrement


def _descent(
    point: Point, q: Array, offsets: Array, step: Array, decrement: float, shortest: float
) -> Point | None:
    """The point reached by the longest of the halved steps that Armijo's rule accepts; None if none is."""
    value, length = point.value(q, offsets), 1.0
    while length >= shortest:
        trial = point.moved(-length * step)
        enough = value - SUFFICIENT * length * decrement + 1e-15 * abs(value)
        if trial.value(q, offsets) <= enough:
            return trial
        length /= 2
    return None


def _feasible(q: Array, caps: Array) -> Array:
    """Scale start weights to sum to one within their caps."""
    q = np.minimum(q / q.sum(), caps)
    room = caps - q
    missing = 1.0 - q.sum()
    return q + room * (missing / room.sum()) if missing > 1e-15 else q


# --- systems with the Hessian ---------------------------------------------------------------------------


class DenseCurvature:
    """Cholesky factor of the Hessian, scaled to a unit diagonal.

    `reach` is what its diagonal can reach: a column without curvature here (a robust loss far from its data) is
    scaled by that.
    """

    def __init__(self, hessian: Array, reach: Array):
        diagonal = np.diag(hessian)
        diagonal = np.where(diagonal > 1e-14 * reach, diagonal, reach)
        self.size = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        scaled = hessian / self.size[:, None] / self.size
        for jitter in (0.0, 1e-14, 1e-11, 1e-8, 1e-4):  # collinear columns without a penalty
            try:
                shifted = scaled + jitter * np.eye(len(scaled)) if jitter else scaled
                self.factor = scipy.linalg.cho_factor(shifted, check_finite=False)
                pivots = np.diag(self.factor[0])
                if pivots.min() > 1e-8 * pivots.max() or jitter >= 1e-11:
                    return
            except np.linalg.LinAlgError:
                continue
        raise np.linalg.LinAlgError("the Hessian is not finite")

    def solve(self, b: Array) -> Array:
        size = self.size[:, None] if b.ndim == 2 else self.size
        return scipy.linalg.cho_solve(self.factor, b / size, check_finite=False) / size


class IterativeCurvature:
    """Conjugate gradients with the Hessian's diagonal, for many parameters."""

    def __init__(self, point: Point, q: Array):
        problem = point.problem
        self.X, self.shape = problem.X, problem.shape
        v = problem.groups.row_weights(q)
        self.weighted = v[:, None, None] * point.derivatives[1]
        self.penalty = problem.penalty
        diagonal = (self.X**2).T @ np.einsum("ijj->ij", self.weighted) + self.penalty
        self.diagonal = np.maximum(diagonal, 1e-12 * diagonal.max()).ravel()

    def product(self, b: Array) -> Array:
        step = b.reshape(self.shape)
        bent = np.einsum("ijk,ik->ij", self.weighted, self.X @ step)
        return (self.X.T @ bent + self.penalty * step).ravel()

    def solve(self, b: Array) -> Array:
        if b.ndim == 2:
            return np.column_stack([self.solve(column) for column in b.T])
        x, r = np.zeros_like(b), b.copy()
        z = r / self.diagonal
        p, rz = z, r @ z
        enough = 1e-20 * rz
        for _ in range(2 * len(b)):
            if rz <= enough or rz == 0:
                break
            product = self.product(p)
            curvature = p @ product
            if curvature <= 0:  # none left along p, but for rounding
                break
            length = rz / curvature
            x, r = x + length * p, r - length * product
            z = r / self.diagonal
            rz, old = r @ z, rz
            p = z + (rz / old) * p
        if self.shape[1] > 1:  # no part of the same shift of all classes, as with the dense factor
            x = (x.reshape(self.shape) - x.reshape(self.shape).mean(axis=1, keepdims=True)).ravel()
        return x


Curvature = DenseCurvature | IterativeCurvature


def factorise(point: Point, q: Array) -> Curvature:
    """The Hessian of F_q, ready to solve systems with."""
    problem = point.problem
    p, K = problem.shape
    if p * K > DENSE_UP_TO:
        return IterativeCurvature(point, q)
    return _dense(problem, point.derivatives[1], problem.groups.row_weights(q))


def _dense(problem: Problem, curvature: Array, v: Array) -> DenseCurvature:
    """From the curvature (n, K, K) and weight (n,) of each row."""
    p, K = problem.shape
    hessian = gram(problem.X, v[:, None, None] * curvature)
    hessian += np.diag(np.repeat(problem.penalty[:, 0], K))
    if K > 1:
        # The same shift of all classes changes nothing; gradients are orthogonal to it, so any
        # positive curvature there gives the same steps and makes the matrix invertible.
        hessian += np.kron(np.eye(p), np.full((K, K), np.trace(hessian) / len(hessian) / K))
    reach = problem.loss.steepness(problem.y) * ((problem.X**2).T @ v) + problem.penalty[:, 0]
    return DenseCurvature(hessian, np.repeat(reach, K))


def gram(X: Array, weight: Array) -> Array:
    """sum_i (x_i x_i') kron weight_i for X (n, p), weight (n, K, K): (p K, p K)."""
    (n, p), K = X.shape, weight.shape[1]
    result = np.zeros((p, K, p, K))
    for start in range(0, n, BLOCK):
        rows = X[start : start + BLOCK]
        part = weight[start : start + BLOCK]
        if K == 1:
            scaled = rows * np.sqrt(part[:, 0])
            result[:, 0, :, 0] += scaled.T @ scaled
            continue
        for j in range(K):
            for k in range(j, K):
                block = (rows * part[:, j, k, None]).T @ rows
                result[:, j, :, k] += block
                if j < k:
                    result[:, k, :, j] += block
    return result.reshape(p * K, p * K)
