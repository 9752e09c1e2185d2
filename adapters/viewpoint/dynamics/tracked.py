"""Tracked dynamics: every decision is flown by the model predictive controller, with a quadrotor's inertia."""

from __future__ import annotations

import numpy as np

from ..geometry import MAX_SPEED, wrap
from ..mpc import ViewpointMPC

HEIGHT = 1.5  # m; the scene is flat


class TrackedDynamics:
    """The drone flies towards the viewpoint for the time of one decision, and is then where it is.

    A decision asks for at most 0.5 m along each axis, and a controller that means to rest there would crawl. The longest way that a
    decision can ask for is therefore continued over the controller's whole horizon, within the field; shorter ones less, in proportion, so
    that the drone comes to rest at a viewpoint within reach. The yaw has no inertia, and is as asked for when the decision ends.

    Parameters
    ----------
    mpc : ViewpointMPC or None, default=None
        None: ``ViewpointMPC()``, of whose ticks five make a decision of 0.25 s.

    Examples
    --------
    >>> import numpy as np
    >>> dynamics = TrackedDynamics()
    >>> pose = np.zeros((1, 3))
    >>> state = dynamics.start(pose, side=np.array([8.0]))
    >>> for _ in range(4):
    ...     pose, state = dynamics.move(pose, state, pose + [0.5, 0, 0], dt=0.25)
    >>> bool(0.5 < pose[0, 0] < 1.5)  # a kinematic drone is at 2
    True
    """

    def __init__(self, mpc: ViewpointMPC | None = None):
        self.mpc = ViewpointMPC() if mpc is None else mpc

    def start(self, drone: np.ndarray, side: np.ndarray) -> dict[str, np.ndarray]:
        """Hovering at the poses (E, 3), in fields of half the edge `side` (E,)."""
        return {
            "flight": self.mpc.model_.at(_viewpoints(drone)),
            "side": np.array(side, dtype=float),
        }

    def move(
        self, drone: np.ndarray, state: dict[str, np.ndarray], goal: np.ndarray, dt: float
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Poses (E, 3) after `dt` seconds of flight towards `goal` (E, 3), and the new state.

        Raises
        ------
        ValueError
            If `dt` is no whole number of the controller's ticks.
        """
        ticks = round(dt / self.mpc.dt)
        if ticks < 1 or abs(ticks * self.mpc.dt - dt) > 1e-9:
            raise ValueError(
                f"dt must be a whole number of the controller's ticks of {self.mpc.dt:g} s, got {dt:g}"
            )
        way, turn = goal[:, :2] - drone[:, :2], wrap(goal[:, 2] - drone[:, 2])
        asked = np.minimum(np.linalg.norm(way, axis=1, keepdims=True) / (MAX_SPEED * dt), 1.0)
        decisions = 1.0 + asked * max(self.mpc.horizon / ticks - 1.0, 0.0)
        side = state["side"][:, None]
        place = np.clip(drone[:, :2] + decisions * way, -side, side)
        # so far ahead that the regulator, which takes a share of what is left each tick, has turned by `turn` in the end
        share = self.mpc.gain_[-1, -1] * self.mpc.dt
        yaw = drone[:, 2] + turn / (1 - (1 - share) ** ticks)
        flight, refs = state["flight"], _viewpoints(np.column_stack([place, yaw]))
        for _ in range(ticks):
            flight = self.mpc.model_.step(flight, self.mpc.act(flight, refs), self.mpc.dt)
        return np.column_stack([flight[:, :2], wrap(flight[:, -1])]), {**state, "flight": flight}

    def __repr__(self) -> str:
        return f"TrackedDynamics({self.mpc.model_.name!r})"


def _viewpoints(poses: np.ndarray) -> np.ndarray:
    """x, y, z, yaw of poses (E, 3)."""
    return np.column_stack([poses[:, :2], np.full(len(poses), HEIGHT), poses[:, 2]])
