"""How the drone gets to the viewpoint that was asked for.

A dynamics has ``start(drone, side)``, which gives the arrays that it carries along (first axis: episodes), and
``move(drone, state, goal, dt)``, which flies for `dt` seconds towards `goal` and gives the new pose and the new state. All poses are (E, 3):
x, y in metres, yaw in radians, world frame. A dynamics keeps nothing in itself, so that one object serves any number of scenes.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from .kinematic import KinematicDynamics

State = dict[str, np.ndarray]


@runtime_checkable
class Dynamics(Protocol):
    """What a scene needs of a dynamics."""

    def start(self, drone: np.ndarray, side: np.ndarray) -> State: ...

    def move(
        self, drone: np.ndarray, state: State, goal: np.ndarray, dt: float
    ) -> tuple[np.ndarray, State]: ...


def make_dynamics(value: str | Dynamics) -> Dynamics:
    """A dynamics from its name, "kinematic" or "mpc"; an object is taken as it is.

    Examples
    --------
    >>> from statml.adapters.viewpoint.dynamics import make_dynamics
    >>> make_dynamics("kinematic")
    KinematicDynamics()
    """
    if value == "kinematic":
        return KinematicDynamics()
    if value == "mpc":
        from .tracked import TrackedDynamics  # needs a solver of quadratic programs

        return TrackedDynamics()
    if isinstance(value, Dynamics):
        return value
    problem = f'dynamics must be "kinematic", "mpc" or have start and move, got {value!r}'
    raise ValueError(problem) if isinstance(value, str) else TypeError(problem)


__all__ = ["Dynamics", "KinematicDynamics", "make_dynamics"]
