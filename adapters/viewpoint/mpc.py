"""Model predictive control: flying a drone to a viewpoint within its limits, and around what is in the way.

Every tick of dt seconds, the controller plans the next N ticks from the state x_0 that the drone is in,

    minimise    sum_{k=0}^{N-1} u_k' R u_k + sum_{k=1}^{N-1} (x_k - r_k)' Q (x_k - r_k) + (x_N - r_N)' P (x_N - r_N)
    subject to  x_{k+1} = A x_k + B u_k,    |u_k| <= u_max,    |v_k| <= v_max,    |tilt_k| <= tilt_max,    p_k in the workspace,

flies the first input, and plans again. r is the viewpoint (position and yaw, at rest). P solves the discrete algebraic
Riccati equation, so that the plan is that of the linear-quadratic regulator wherever no limit is active.

An ellipsoid with centre m and semi-axes S is kept outside by one half-plane a tick. With z = S^-1 (p - m) and the
position of the last plan, whose direction from the centre is e, the plane e'z >= 1 touches the ellipsoid and leaves it
wholly on the other side: a plan that meets it is outside, whatever the last plan was. Only the planes are softened
(o_k >= 0 at a high price), so that a drone that is inside has a plan too.

If no plan keeps the limits (a start above the speed limit, or outside the workspace), they are softened in the same
way, and the plan with the least excess is flown; `Plan.excess` tells.

References
----------
Zhu, H. and Alonso-Mora, J. (2019). Chance-constrained collision avoidance for MAVs in dynamic environments. IEEE
Robotics and Automation Letters 4(2), 776-783.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.linalg import block_diag, solve_discrete_are

from statml._validation import check_choice, check_integer, check_number

from .qp import make_solver
from .quadrotor import FlightModel, flight_model

Array = NDArray[np.float64]

POSITION_COST, VELOCITY_COST, TILT_COST, YAW_COST = 1.0, 0.05, 0.05, 0.5  # at 1 m, m/s, rad, rad
INPUT_COST = 0.05  # at an input's limit
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


@dataclass(frozen=True)
class Plan:
    """One plan of the controller.

    Parameters
    ----------
    states : ndarray of shape (horizon + 1, n_x)
        From the start on.
    inputs : ndarray of shape (horizon, n_u)
    excess : float
        How far the states go beyond their limits, at most, in the state's own unit; 0 for a plan that keeps them.
    intrusion : float
        How deep the plan goes into an obstacle, in its semi-axes; 0 for a plan that keeps out.
    """

    states: Array
    inputs: Array
    excess: float
    intrusion: float


@dataclass(frozen=True)
class Flight:
    """What was flown.

    Parameters
    ----------
    states : ndarray of shape (ticks + 1, n_x)
    inputs : ndarray of shape (ticks, n_u)
    excess, intrusion : ndarray of shape (ticks,)
        Those of each tick's plan.
    dt : float
    names : tuple of str
        Of the states.
    """

    states: Array
    inputs: Array
    excess: Array
    intrusion: Array
    dt: float
    names: tuple[str, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """The states over time, one row a tick; yaw is not wrapped."""
        seconds = np.arange(len(self.states)) * self.dt
        return pd.DataFrame(self.states, pd.Index(seconds, name="seconds"), self.names)


class ViewpointMPC:
    """Fly to viewpoints by model predictive control.

    Parameters
    ----------
    model : {"bebop", "point_mass"} or FlightModel, default="bebop"
        The drone; see `quadrotor`.
    horizon : int, default=20
        Ticks that a plan looks ahead.
    dt : float, default=0.05
        Seconds a tick.
    solver : {"piqp", "osqp"}, default="piqp"
        Of the quadratic program. OSQP also steps in where PIQP is not installed.
    workspace : array-like of shape (3, 2) or None, default=None
        Lowest and highest x, y and z in metres; None for no walls.
    tol : float or None, default=None
        Of the solver; None for its default here (1e-6 for PIQP, 1e-5 for OSQP).

    Attributes
    ----------
    model_ : FlightModel
    A_, B_ : ndarray
        The system over one tick.
    Q_, R_, P_ : ndarray
        The costs of states, inputs and of the last state.
    gain_ : ndarray of shape (n_u, n_x)
        Of the linear-quadratic regulator, u = -K (x - r).

    Raises
    ------
    ValueError
        If an argument is not one of those above, or an interval of the workspace is empty.

    Examples
    --------
    >>> mpc = ViewpointMPC()
    >>> plan = mpc.solve(mpc.model_.at([0, 0, 1.5, 0]), [3, 0, 1.5, 1.57])
    >>> plan.states.shape, plan.inputs.shape
    ((21, 9), (20, 4))
    >>> flight = mpc.simulate([[3, 0, 1.5, 1.57]] * 80)
    >>> flight.frame[["x", "yaw"]].iloc[-1].round(2).tolist()
    [3.0, 1.57]
    """

    def __init__(
        self,
        model: str | FlightModel = "bebop",
        horizon: int = 20,
        dt: float = 0.05,
        solver: str = "piqp",
        workspace: ArrayLike | None = None,
        tol: float | None = None,
    ):
        self.model_ = model if isinstance(model, FlightModel) else flight_model(model)
        self.horizon = check_integer("horizon", horizon, low=1)
        self.dt = check_number("dt", dt, low=0, low_open=True)
        self.solver = check_choice("solver", solver, ("piqp", "osqp"))
        self.tol = None if tol is None else check_number("tol", tol, low=0, low_open=True)
        self.state_low_, self.state_high_ = _state_limits(self.model_, workspace)
        self.A_, self.B_ = self.model_.discretise(self.dt)
        self.Q_, self.R_ = _costs(self.model_)
        self.P_ = solve_discrete_are(self.A_, self.B_, self.Q_, self.R_)
        B, P = self.B_, self.P_
        self.gain_ = np.linalg.solve(self.R_ + B.T @ P @ B, B.T @ P @ self.A_)
        self._free = _FreePlan(self)
        self._programs: dict[tuple[bool, int], _Program] = {}

    def solve(
        self,
        x: ArrayLike,
        ref: ArrayLike,
        obstacles: Sequence[Ellipsoid] = (),
        last: Plan | None = None,
    ) -> Plan:
        """Plan from a state.

        Parameters
        ----------
        x : array-like of shape (n_x,)
            The state now.
        ref : array-like of shape (4,) or (horizon, 4)
            The viewpoint to fly to and to rest at: x, y, z in metres and the yaw in radians (any turn of it: the nearest is taken).
            Or one for each tick to come, with the velocities that lead from each to the next.
        obstacles : sequence of Ellipsoid, default=()
        last : Plan or None, default=None
            The plan of the tick before; the half-planes of the obstacles touch where it says the drone will be. None: the straight
            way to the viewpoint, and the plan is made a second time from the first.

        Returns
        -------
        Plan

        Raises
        ------
        ValueError
            If `x` or `ref` has the wrong shape or is not finite.
        RuntimeError
            If the solver fails.
        """
        x = _finite("x", x, [(self.model_.n_states,)])
        path = self._reference(x, ref)
        if last is not None:
            guess = np.vstack([last.states[2:, :3], last.states[-1:, :3]])
        else:
            guess = self._straight(x, path)
        plan = self._plan(x, path, obstacles, guess)
        if last is None and len(obstacles):
            plan = self._plan(x, path, obstacles, plan.states[1:, :3])
        return plan

    def act(self, states: Array, refs: Array) -> Array:
        """First inputs of the plans of many drones; those that meet no limit are made in one product of matrices.

        Parameters
        ----------
        states : ndarray of shape (E, n_x)
        refs : ndarray of shape (E, 4)
            The viewpoint of each.

        Returns
        -------
        ndarray of shape (E, n_u)
        """
        paths = self._rests(states, refs)
        _, plans, kept = self._free(states, paths)
        inputs = plans[:, 0]
        for e in np.flatnonzero(~kept):
            inputs[e] = self._plan(states[e], paths[e], (), paths[e]).inputs[0]
        return inputs

    def simulate(
        self,
        refs: ArrayLike,
        start: ArrayLike | None = None,
        obstacles: Sequence[Ellipsoid] = (),
    ) -> Flight:
        """Fly after viewpoints; the drone is the model that has not been linearised.

        Parameters
        ----------
        refs : array-like of shape (ticks, 4)
            The viewpoint of each tick.
        start : array-like of shape (n_x,) or None, default=None
            None: hovering at the origin at the height of the first viewpoint, yaw 0.
        obstacles : sequence of Ellipsoid, default=()
            Where they are at the start; they move on with their velocities.

        Returns
        -------
        Flight
        """
        refs = np.asarray(refs, dtype=float)
        if refs.ndim != 2 or refs.shape[1] != 4 or len(refs) == 0:
            raise ValueError(f"refs must have shape (ticks, 4), got {refs.shape}")
        x = self.model_.at([0, 0, refs[0, 2], 0]) if start is None else np.asarray(start, float)
        states, inputs, plan, plans = [x], [], None, []
        for tick, ref in enumerate(refs):
            now = [_moved(obstacle, tick * self.dt) for obstacle in obstacles]
            plan = self.solve(x, ref, now, last=plan)
            x = self.model_.step(x, plan.inputs[0], self.dt)
            states.append(x)
            inputs.append(plan.inputs[0])
            plans.append(plan)
        return Flight(
            np.array(states),
            np.array(inputs),
            np.array([plan.excess for plan in plans]),
            np.array([plan.intrusion for plan in plans]),
            self.dt,
            self.model_.state_names,
        )

    def _reference(self, x: Array, ref: ArrayLike) -> Array:
        """The states to be in at each tick, with the turn of the yaw that is nearest to the drone's."""
        ref = _finite("ref", ref, [(4,), (self.horizon, 4)])
        if ref.ndim == 1:
            return self._rests(x[None], ref[None])[0]
        path = self.model_.at(ref)
        path[:, 3:6] = np.gradient(ref[:, :3], self.dt, axis=0) if self.horizon > 1 else 0.0
        yaw = np.unwrap(path[:, -1])
        path[:, -1] = yaw + _turns(x[-1], yaw[0])
        return path

    def _rests(self, states: Array, viewpoints: Array) -> Array:
        """The same for rest at viewpoints (E, 4), for many drones: (E, horizon, n_x)."""
        rest = self.model_.at(viewpoints)
        rest[:, -1] += _turns(states[:, -1], rest[:, -1])
        return np.broadcast_to(rest[:, None], (len(rest), self.horizon, self.model_.n_states))

    def _straight(self, x: Array, path: Array) -> Array:
        """Positions on the straight way to the end of the path, at the speed limit."""
        way = path[-1, :3] - x[:3]
        step = self.model_.state_limit[3] * self.dt * np.arange(1, self.horizon + 1)
        share = np.minimum(step / max(np.linalg.norm(way), 1e-9), 1.0)
        return x[:3] + share[:, None] * way

    def _plan(self, x: Array, path: Array, obstacles: Sequence[Ellipsoid], guess: Array) -> Plan:
        if not obstacles:
            states, inputs, kept = self._free(x, path)
            if kept:
                return Plan(np.vstack([x, states]), inputs, 0.0, 0.0)
        for elastic in (False, True):
            key = (elastic, len(obstacles))
            if key not in self._programs:
                self._programs[key] = _Program(self, elastic, len(obstacles))
            plan = self._programs[key].solve(x, path, obstacles, guess)
            if plan is not None:
                return plan
        raise RuntimeError(f"the solver {self.solver!r} found no plan from x = {x}")


class _FreePlan:
    """The plan without limits, which is linear in the state and the reference; it is the plan where it keeps them."""

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

    def __call__(self, x0: Array, path: Array) -> tuple[Array, Array, Array]:
        """States, inputs, and which of the plans are within the limits; over any leading axes."""
        given = np.concatenate([x0, path.reshape(*x0.shape[:-1], -1)], axis=-1)
        inputs, states = given @ self.inputs.T, given @ self.states.T
        inputs = inputs.reshape(*x0.shape[:-1], *self.shapes[1])
        states = states.reshape(*x0.shape[:-1], *self.shapes[0])
        kept = (np.abs(inputs) <= self.input_limit).all(axis=(-1, -2))
        kept &= ((states <= self.high) & (states >= self.low)).all(axis=(-1, -2))
        return states, inputs, kept


class _Program:
    """The quadratic program for a number of obstacles, with hard or elastic limits of the states.

    The variables of tick k stand together: u_k, x_{k+1}, one slack for the obstacles if there are any, and one for
    the limits if they are elastic.
    """

    def __init__(self, mpc: ViewpointMPC, elastic: bool, n_obstacles: int):
        self.mpc, self.elastic, self.n_obstacles = mpc, elastic, n_obstacles
        n_x, n_u, N = mpc.model_.n_states, mpc.model_.n_inputs, mpc.horizon
        n_slack = (n_obstacles > 0) + elastic
        width = n_u + n_x + n_slack
        first = width * np.arange(N)[:, None]
        self.u = first + np.arange(n_u)
        self.x = first + n_u + np.arange(n_x)
        self.slack = first + n_u + n_x + np.arange(n_slack)
        n = width * N

        prices = [OBSTACLE_PRICE] * (n_obstacles > 0) + [LIMIT_PRICE] * elastic
        soft = np.eye(n_slack)
        stage, end = block_diag(mpc.R_, mpc.Q_, soft), block_diag(mpc.R_, mpc.P_, soft)
        P = sparse.block_diag([2 * stage] * (N - 1) + [2 * end], "csc")
        self.linear = np.zeros(n)
        self.linear[self.slack] = prices

        # x_{k+1} - A x_k - B u_k = 0, with A x_0 on the right of the first
        block = np.hstack([-mpc.B_, np.eye(n_x), np.zeros((n_x, n_slack))])
        before = np.hstack([np.zeros((n_x, n_u)), -mpc.A_, np.zeros((n_x, n_slack))])
        A = sparse.kron(sparse.eye(N), block) + sparse.kron(sparse.eye(N, k=-1), before)
        self.right = np.zeros(n_x * N)

        low, high = np.full(n, -np.inf), np.full(n, np.inf)
        low[self.u], high[self.u] = -mpc.model_.input_limit, mpc.model_.input_limit
        low[self.slack] = 0.0
        rows, cols, values, self.h = [], [], [], np.zeros(0)
        if elastic:
            rows, cols, values, self.h = self._elastic_rows(rows, cols, values)
        else:
            low[self.x], high[self.x] = mpc.state_low_, mpc.state_high_
        self.low, self.high = low, high

        # the planes' rows come last, so that their numbers are the last ones of each array
        self.n_fixed = len(values)
        rows, cols = list(rows), list(cols)
        for i in range(n_obstacles):
            for k in range(N):
                row = len(self.h) + i * N + k
                rows += [row] * 4
                cols += [*self.x[k, :3], self.slack[k, 0]]
        values = np.concatenate([values, np.tile([1.0, 1.0, 1.0, -1.0], n_obstacles * N)])
        shape = (len(self.h) + n_obstacles * N, n)
        numbered = sparse.csc_matrix((np.arange(1.0, len(values) + 1), (rows, cols)), shape)
        self.order = numbered.data.astype(int) - 1
        self.values = values
        G = sparse.csc_matrix((values[self.order], numbered.indices, numbered.indptr), shape)
        self.solver = make_solver(mpc.solver, P, sparse.csc_matrix(A), G, mpc.tol)

    def _elastic_rows(self, rows, cols, values):
        """x <= high + s and -x <= -low + s for every state with a limit."""
        h = []
        for sign, limit in ((1.0, self.mpc.state_high_), (-1.0, -self.mpc.state_low_)):
            for j in np.flatnonzero(np.isfinite(limit)):
                for k in range(self.mpc.horizon):
                    rows += [len(h)] * 2
                    cols += [self.x[k, j], self.slack[k, -1]]
                    values += [sign, -1.0]
                    h.append(limit[j])
        return rows, cols, values, np.array(h)

    def solve(self, x0: Array, path: Array, obstacles, guess: Array) -> Plan | None:
        """The plan, or None if there is none."""
        mpc = self.mpc
        c = self.linear.copy()
        weighted = path @ mpc.Q_
        weighted[-1] = path[-1] @ mpc.P_
        c[self.x] = -2 * weighted
        self.right[: len(x0)] = mpc.A_ @ x0
        h = self.h
        if self.n_obstacles:
            normals, offsets = _planes(obstacles, x0[:3], path[-1, :3], guess, mpc.dt)
            planes = self.values[self.n_fixed :].reshape(-1, 4)
            planes[:, :3] = -normals.reshape(-1, 3)
            h = np.concatenate([self.h, -offsets.ravel()])
        z = self.solver.solve(c, self.right, self.values[self.order], h, self.low, self.high)
        if z is None:
            return None
        states = np.vstack([x0, z[self.x]])
        beyond = np.maximum(states[1:] - mpc.state_high_, mpc.state_low_ - states[1:])
        return Plan(
            states,
            z[self.u],
            float(max(beyond.max(), 0.0)) if self.elastic else 0.0,
            float(max(z[self.slack[:, 0]].max(), 0.0)) if self.n_obstacles else 0.0,
        )


def _planes(
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


def _costs(model: FlightModel) -> tuple[Array, Array]:
    tilts = model.n_states - 7
    Q = [POSITION_COST] * 3 + [VELOCITY_COST] * 3 + [TILT_COST] * tilts + [YAW_COST]
    return np.diag(Q), np.diag(INPUT_COST / model.input_limit**2)


def _state_limits(model: FlightModel, workspace: ArrayLike | None) -> tuple[Array, Array]:
    low, high = -model.state_limit, model.state_limit.copy()
    if workspace is not None:
        workspace = np.asarray(workspace, dtype=float)
        if workspace.shape != (3, 2) or not (workspace[:, 0] < workspace[:, 1]).all():
            raise ValueError(
                "workspace must have shape (3, 2), the lowest and the highest x, y and z, got "
                f"{workspace.tolist()}"
            )
        low[:3], high[:3] = workspace.T
    return low, high


def _turns(yaw: Array, ref: Array) -> Array:
    """Whole turns, in radians, that bring `ref` nearest to `yaw`."""
    return 2 * np.pi * np.round((yaw - ref) / (2 * np.pi))


def _finite(name: str, value: ArrayLike, shapes: list[tuple[int, ...]]) -> Array:
    value = np.asarray(value, dtype=float)
    if value.shape not in shapes or not np.isfinite(value).all():
        taken = " or ".join(map(str, shapes))
        raise ValueError(f"{name} must be finite and of shape {taken}, got {value.tolist()}")
    return value


def _moved(obstacle: Ellipsoid, seconds: float) -> Ellipsoid:
    velocity = np.asarray(obstacle.velocity)
    return Ellipsoid(obstacle.centre + seconds * velocity, obstacle.semi_axes, velocity)
