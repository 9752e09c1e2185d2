"""Kinematic dynamics: each viewpoint is reached exactly."""

from __future__ import annotations

import numpy as np


class KinematicDynamics:
    """The drone is where it was asked to be, after every decision.

    The viewpoints that actions can ask for are within the drone's speed limits, so that nothing is left to limit here.
    """

    def start(self, drone: np.ndarray, side: np.ndarray) -> dict[str, np.ndarray]:
        """No state beyond the pose."""
        return {}

    def move(
        self, drone: np.ndarray, state: dict[str, np.ndarray], goal: np.ndarray, dt: float
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The goal itself."""
        return goal, state

    def __repr__(self) -> str:
        return "KinematicDynamics()"
