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
from functools import reduce
from operator import or_

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_discrete_are

from statml._validation import check_choice, check_integer, check_number

from .flight_plans import Ellipsoid, FreePlan, LimitedPlan, Part, independent_parts, planes
from .quadrotor import FlightModel, flight_model

Array = NDArray[np.float64]

POSITION_COST, VELOCITY_COST, TILT_COST, YAW_COST = 1.0, 0.05, 0.05, 0.5  # at 1 m, m/s, rad, rad
INPUT_COST = 0.05  # at an input's limit


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
        Of the solver; None for its default here (1e-11 for PIQP, 1e-5 for OSQP).

    Attributes
    ----------
    model_ : FlightModel
    A_, B_ : ndarray
        The system over one tick.
    Q_, R_, P_ : ndarray
        The costs of states, inputs and of the last state.
    gain_ : ndarray of shape (n_u, n_x)
        Of the linear-quadratic regulator, u = -K (x - r).
    parts_ : list of Part
        What can be planned apart.

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
        self.parts_ = independent_parts(self.A_, self.B_, self.Q_, self.R_, self.P_)
        self._place = reduce(or_, (part for part in self.parts_ if part.states[0] <= 2))
        self._free = FreePlan(self)
        self._programs: dict[tuple, LimitedPlan] = {}

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
        for e, k in np.argwhere(~kept):
            part = self.parts_[k]
            inputs[e, part.inputs] = self._limited(part, states[e], paths[e])[1][0]
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
            now = [obstacle.after(tick * self.dt) for obstacle in obstacles]
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

    def __getstate__(self) -> dict:
        # solvers live in compiled code; a copy sets its own up
        return {**self.__dict__, "_programs": {}}

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
        states, inputs, kept = self._free(x, path)
        excess = intrusion = 0.0
        broken = [part for part, keeps in zip(self.parts_, kept, strict=True) if not keeps]
        for part in broken:
            *planned, beyond, _ = self._limited(part, x, path)
            states[:, part.states], inputs[:, part.inputs] = planned
            excess = max(excess, beyond)
        if obstacles:
            normals, offsets = planes(obstacles, x[:3], path[-1, :3], guess, self.dt)
            # a plan that meets the planes without being told to is the best with them, too
            if (np.sum(normals * states[:, :3], axis=-1) < offsets).any():
                part = self._place
                *planned, beyond, intrusion = self._limited(part, x, path, normals, offsets)
                states[:, part.states], inputs[:, part.inputs] = planned
                excess = max(excess, beyond)
        return Plan(np.vstack([x, states]), inputs, excess, intrusion)

    def _limited(self, part: Part, x: Array, path: Array, normals=(), offsets=()):
        """States and inputs of a part, its excess and its intrusion."""
        for elastic in (False, True):
            key = (*part.states, elastic, len(normals))
            if key not in self._programs:
                self._programs[key] = LimitedPlan(self, part, elastic, len(normals))
            plan = self._programs[key].solve(x, path, normals, offsets)
            if plan is not None:
                return plan if elastic else (*plan[:2], 0.0, plan[3])
        raise RuntimeError(f"the solver {self.solver!r} found no plan from x = {x}")


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
