"""The plans behind the controller: without limits a product of matrices, with limits a quadratic program.

Roll moves the drone along y, pitch along x, the climb rate along z, and the yaw turns alone: parts of the system that do
not act on one another, and can be planned apart. Only what meets a limit needs a quadratic program, and a small one. Obstacles
tie the parts together that have a place in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.linalg import block_diag
from scipy.sparse.csgraph import connected_components

from .qp import make_solver

if TYPE_CHECKING:
    from .mpc import ViewpointMPC

Array = NDArray[np.float64]

SIDESTEP = 0.1  # how far the planes of obstacles turn to the side
OBSTACLE_PRICE, LIMIT_PRICE = 1e3, 1e4  # of one semi-axis inside; of one unit beyond a limit


@dataclass(frozen=True)
class Ellipsoid:
    """Something to keep out of: an ellipsoid with axes along the world's.

    Parameters
    ----------
    centre : array-like of shape (3,)
        In metres, now.
    semi_axes : array-like of shape (3,)
        In metres, all positive; the drone's own size is to be in them.
    velocity : array-like of shape (3,), default=(0, 0, 0)
        In m/s, taken as constant over the horizon.

    Raises
    ------
    ValueError
        If a number is not finite or a semi-axis not positive.
    """

    centre: ArrayLike
    semi_axes: ArrayLike
    velocity: ArrayLike = (0.0, 0.0, 0.0)

    def __post_init__(self):
        for name in ("centre", "semi_axes", "velocity"):
            value = np.asarray(getattr(self, name), dtype=float)
            if value.shape != (3,) or not np.isfinite(value).all():
                raise ValueError(f"{name} must be three finite numbers, got {value}")
            object.__setattr__(self, name, value)
        if (self.semi_axes <= 0).any():
            raise ValueError(f"semi_axes must be positive, got {self.semi_axes}")

    def level(self, position: ArrayLike) -> Array:
        """How far out a position is: 1 on the surface, less inside.

        Parameters
        ----------
        position : array-like of shape (..., 3)

        Returns
        -------
        ndarray of shape (...)
        """
        return np.linalg.norm((np.asarray(position) - self.centre) / self.semi_axes, axis=-1)

    def after(self, seconds: float) -> Ellipsoid:
        """Where it is some seconds later."""
        return Ellipsoid(self.centre + seconds * self.velocity, self.semi_axes, self.velocity)


@dataclass(frozen=True)
class Part:
    """States and inputs that no other state or input acts on, by index."""

    states: NDArray[np.int64]
    inputs: NDArray[np.int64]

    def __or__(self, other: Part) -> Part:
        return Part(np.union1d(self.states, other.states), np.union1d(self.inputs, other.inputs))


def independent_parts(A: Array, B: Array, Q: Array, R: Array, P: Array) -> list[Part]:
    """The smallest parts into which a system with its costs falls.

    Parameters
    ----------
    A, Q, P : ndarray of shape (n_x, n_x)
    B : ndarray of shape (n_x, n_u)
    R : ndarray of shape (n_u, n_u)

    Returns
    -------
    list of Part
        In the order of their first state.
    """
    n = len(A)
    tied = np.abs(A) + np.abs(Q) + np.where(np.abs(P) > 1e-9 * np.abs(P).max(), 1.0, 0.0)
    graph = np.block([[tied, np.abs(B)], [np.abs(B).T, np.abs(R)]])
    _, labels = connected_components(graph, directed=False)
    order = dict.fromkeys(labels)
    return [
        Part(np.flatnonzero(labels[:n] == part), np.flatnonzero(labels[n:] == part))
        for part in order
    ]


class FreePlan:
    """The plan without limits, which is linear in the state and the reference; it is the plan where it keeps the limits.

    Parameters
    ----------
    mpc : ViewpointMPC
    """

    def __init__(self, mpc: ViewpointMPC):
        n_x, n_u, N = mpc.model_.n_states, mpc.model_.n_inputs, mpc.horizon
        # with the inputs alone as variables, the states are powers x_0 + effects u
        powers = np.zeros((N, n_x, n_x))
        effects = np.zeros((N, n_x, N, n_u))
        power = np.eye(n_x)
        for k in range(N):
            for later in range(k, N):
                effects[later, :, later - k] = power @ mpc.B_
            power = powers[k] = mpc.A_ @ power
        powers, effects = powers.reshape(N * n_x, n_x), effects.reshape(N * n_x, N * n_u)
        weights = block_diag(*[mpc.Q_] * (N - 1), mpc.P_)
        R = np.kron(np.eye(N), mpc.R_)
        factor = np.linalg.solve(R + effects.T @ weights @ effects, effects.T @ weights)
        # u = factor (r - powers x_0)
        self.inputs = np.hstack([-factor @ powers, factor])
        self.states = effects @ self.inputs
        self.states[:, :n_x] += powers
        self.shapes = (N, n_x), (N, n_u)
        self.low, self.high = mpc.state_low_, mpc.state_high_
        self.input_limit = mpc.model_.input_limit
        self.parts = mpc.parts_

    def __call__(self, x0: Array, path: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """States, inputs, and whether each part keeps its limits; over any leading axes.

        Parameters
        ----------
        x0 : ndarray of shape (..., n_x)
        path : ndarray of shape (..., N, n_x)

        Returns
        -------
        states : ndarray of shape (..., N, n_x)
        inputs : ndarray of shape (..., N, n_u)
        kept : ndarray of bool of shape (..., n_parts)
        """
        given = np.concatenate([x0, path.reshape(*x0.shape[:-1], -1)], axis=-1)
        inputs, states = given @ self.inputs.T, given @ self.states.T
        inputs = inputs.reshape(*x0.shape[:-1], *self.shapes[1])
        states = states.reshape(*x0.shape[:-1], *self.shapes[0])
        beyond = ((states > self.high) | (states < self.low)).any(-2)
        over = (np.abs(inputs) > self.input_limit).any(-2)
        broken = [beyond[..., p.states].any(-1) | over[..., p.inputs].any(-1) for p in self.parts]
        return states, inputs, ~np.stack(broken, axis=-1)


class LimitedPlan:
    """The quadratic program of one part, for a number of obstacles, with hard or elastic limits of the states.

    The variables of tick k stand together: u_k, x_{k+1}, one slack for the obstacles if there are any, and one for
    the limits if they are elastic.

    Parameters
    ----------
    mpc : ViewpointMPC
    part : Part
    elastic : bool
    n_obstacles : int
        With obstacles the part must hold the position.
    """

    def __init__(self, mpc: ViewpointMPC, part: Part, elastic: bool, n_obstacles: int):
        self.part, self.n_obstacles, N = part, n_obstacles, mpc.horizon
        among = np.ix_(part.states, part.states)
        A, Q, self.P = mpc.A_[among], mpc.Q_[among], mpc.P_[among]
        B, R = mpc.B_[np.ix_(part.states, part.inputs)], mpc.R_[np.ix_(part.inputs, part.inputs)]
        self.A, self.Q = A, Q
        self.state_low, self.state_high = mpc.state_low_[part.states], mpc.state_high_[part.states]
        n_x, n_u = B.shape
        n_slack = (n_obstacles > 0) + elastic
        width = n_u + n_x + n_slack
        first = width * np.arange(N)[:, None]
        self.u = first + np.arange(n_u)
        self.x = first + n_u + np.arange(n_x)
        self.slack = first + n_u + n_x + np.arange(n_slack)
        n = width * N

        soft = np.eye(n_slack)
        stage, end = block_diag(R, Q, soft), block_diag(R, self.P, soft)
        hessian = sparse.block_diag([2 * stage] * (N - 1) + [2 * end], "csc")
        self.linear = np.zeros(n)
        self.linear[self.slack] = [OBSTACLE_PRICE] * (n_obstacles > 0) + [LIMIT_PRICE] * elastic

        # x_{k+1} - A x_k - B u_k = 0, with A x_0 on the right of the first
        block = np.hstack([-B, np.eye(n_x), np.zeros((n_x, n_slack))])
        before = np.hstack([np.zeros((n_x, n_u)), -A, np.zeros((n_x, n_slack))])
        motion = sparse.kron(sparse.eye(N), block) + sparse.kron(sparse.eye(N, k=-1), before)
        self.right = np.zeros(n_x * N)

        self.low, self.high = np.full(n, -np.inf), np.full(n, np.inf)
        limit = mpc.model_.input_limit[part.inputs]
        self.low[self.u], self.high[self.u] = -limit, limit
        self.low[self.slack] = 0.0
        entries, self.h = [], np.zeros(0)
        if elastic:
            entries, self.h = self._elastic_rows()
        else:
            self.low[self.x], self.high[self.x] = self.state_low, self.state_high

        # the planes' rows come last, so that their values are the last ones
        self.n_fixed = len(entries)
        for row in range(n_obstacles * N):
            k = row % N
            entries += [(len(self.h) + row, self.x[k, j], 1.0) for j in range(3)]
            entries.append((len(self.h) + row, self.slack[k, 0], -1.0))
        rows, cols, values = np.array(entries).reshape(-1, 3).T
        shape = (len(self.h) + n_obstacles * N, n)
        places = (rows.astype(int), cols.astype(int))
        numbered = sparse.csc_matrix((np.arange(1.0, len(values) + 1), places), shape)
        self.order = numbered.data.astype(int) - 1
        self.values = values.copy()
        G = sparse.csc_matrix((values[self.order], numbered.indices, numbered.indptr), shape)
        self.solver = make_solver(mpc.solver, hessian, sparse.csc_matrix(motion), G, mpc.tol)

    def _elastic_rows(self) -> tuple[list, Array]:
        """x <= high + s and -x <= -low + s for every state with a limit."""
        entries, h = [], []
        for sign, limit in ((1.0, self.state_high), (-1.0, -self.state_low)):
            for j in np.flatnonzero(np.isfinite(limit)):
                for x, slack in zip(self.x[:, j], self.slack[:, -1], strict=True):
                    entries += [(len(h), x, sign), (len(h), slack, -1.0)]
                    h.append(limit[j])
        return entries, np.array(h)

    def solve(
        self,
        x0: Array,
        path: Array,
        normals: Array | tuple = (),
        offsets: Array | tuple = (),
    ) -> tuple[Array, Array, float, float] | None:
        """The plan of the part, or None if there is none within the limits.

        Parameters
        ----------
        x0 : ndarray of shape (n_x,)
            The whole state.
        path : ndarray of shape (N, n_x)
        normals : ndarray of shape (n_obstacles, N, 3)
        offsets : ndarray of shape (n_obstacles, N)
            Half-planes of the obstacles; see `planes`.

        Returns
        -------
        states, inputs : ndarray
            Of the part.
        excess, intrusion : float
            See `Plan`.
        """
        x0, path = x0[self.part.states], path[:, self.part.states]
        c = self.linear.copy()
        weighted = path @ self.Q
        weighted[-1] = path[-1] @ self.P
        c[self.x] = -2 * weighted
        self.right[: len(x0)] = self.A @ x0
        h = self.h
        if self.n_obstacles:
            self.values[self.n_fixed :].reshape(-1, 4)[:, :3] = -normals.reshape(-1, 3)
            h = np.concatenate([self.h, -offsets.ravel()])
        z = self.solver.solve(c, self.right, self.values[self.order], h, self.low, self.high)
        if z is None:
            return None
        states, inputs = z[self.x], z[self.u]
        excess = np.maximum(states - self.state_high, self.state_low - states).max()
        intrusion = z[self.slack[:, 0]].max() if self.n_obstacles else 0.0
        return states, inputs, max(float(excess), 0.0), max(float(intrusion), 0.0)


def planes(
    obstacles: Sequence[Ellipsoid], start: Array, goal: Array, guess: Array, dt: float
) -> tuple[Array, Array]:
    """Half-planes n'p >= d that touch each obstacle at each tick: arrays (obstacles, ticks, 3), (obstacles, ticks).

    They touch where the guess is, turned a little to the side on which the obstacle is passed: a drone that flies
    straight at the centre would stop before it for good.
    """
    seconds = dt * np.arange(1, len(guess) + 1)[:, None]
    left = np.array([start[1] - goal[1], goal[0] - start[0], 0.0])
    left /= max(np.linalg.norm(left), 1e-9)
    normals, offsets = [], []
    for obstacle in obstacles:
        centre = obstacle.centre + seconds * obstacle.velocity
        side = 1.0 if np.sum((guess - centre) @ left) >= 0 else -1.0
        e = (guess - centre) / obstacle.semi_axes
        e /= np.maximum(np.linalg.norm(e, axis=1, keepdims=True), 1e-9)
        e += SIDESTEP * side * left
        e /= np.linalg.norm(e, axis=1, keepdims=True)
        normals.append(e / obstacle.semi_axes)
        offsets.append(1.0 + np.sum(normals[-1] * centre, axis=1))
    return np.array(normals), np.array(offsets)
