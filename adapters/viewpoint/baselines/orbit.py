"""An orbit: fly round the field with the camera to the middle."""

from __future__ import annotations

import numpy as np

from statml._validation import check_number

from ..geometry import MAX_SPEED, steer
from ._policy import Policy


class OrbitPolicy(Policy):
    """Circle the middle of the field and look inwards, whatever the targets do: a surveillance flight without feedback.

    Parameters
    ----------
    radius : float, default=0.6
        Of the circle, as a share of half the field's edge, in (0, 1).

    Examples
    --------
    >>> from statml.adapters import ActiveClassificationEnv, OrbitPolicy
    >>> 0 <= OrbitPolicy().score(ActiveClassificationEnv(n_targets=2), n_episodes=5) <= 1
    True
    """

    needs_scene = True  # an observation does not say where in the field the drone is

    def __init__(self, radius: float = 0.6):
        self.radius = check_number("radius", radius, 0, 1, low_open=True, high_open=True)

    def _act(self, observation, scene) -> np.ndarray:
        radius = self.radius * scene.side
        # aim a full step ahead on the circle, counter-clockwise
        angle = np.arctan2(scene.drone[:, 1], scene.drone[:, 0]) + MAX_SPEED * scene.dt / radius
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        goal = np.column_stack([x, y, angle + np.pi])
        return steer(scene.drone, goal, scene.dt, scene.side)
