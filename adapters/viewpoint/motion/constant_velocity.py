"""Constant velocity: straight walks, reflected at the walls, velocities exchanged on contact. The training motion of the paper."""

from __future__ import annotations

import numpy as np

from ..geometry import SPACING
from ._motion import Crowd, Motion, Moved, squared_distances

SPEED_SPREAD, SPEED_LIMIT = 0.2, 1.5
STATIC_SHARE = 0.25


class ConstantVelocity(Motion):
    """Targets that walk straight on.

    Each component of a velocity is uniform on (0, 1) with a random sign, times the target's scale, clip(N(1, 0.2), -1.5, 1.5) m/s; a
    quarter of the targets stands still. Headings follow velocities; a target that stands keeps its heading. Two targets whose next
    places are nearer than 1.38 m, and that come nearer to each other, exchange their velocities and stay put for one step.

    Parameters
    ----------
    paper_compat : bool, default=False
        As published: a standing target's heading is the arctangent of two signed zeros, that is 0 or 180 degrees, never random; and contacts
        count whether or not the two come nearer, so that two can hold each other for long.
    """

    def __init__(self, paper_compat: bool = False):
        self.paper_compat = paper_compat

    def start(self, crowd: Crowd) -> Moved:
        shape = crowd.active.shape[1:]
        scale = np.clip(
            1 + SPEED_SPREAD * crowd.noise.normal("scale", 0, shape), -SPEED_LIMIT, SPEED_LIMIT
        )
        size = crowd.noise.uniform("velocity", 0, (*shape, 2))
        sign = np.where(crowd.noise.uniform("sign", 0, (*shape, 2)) < 0.5, -1.0, 1.0)
        moving = crowd.noise.uniform("static", 0, shape) >= STATIC_SHARE
        velocities = sign * size * (scale * (moving & crowd.active))[..., None]
        return self._headed(crowd.targets, velocities), velocities, {}

    def move(self, crowd: Crowd) -> Moved:
        places = crowd.targets[..., :2]
        ahead = places + crowd.dt * crowd.velocities
        hit = np.abs(ahead) > crowd.side[:, None, None]
        velocities = np.where(hit, -crowd.velocities, crowd.velocities)
        ahead = np.where(hit, places, ahead)

        squared = squared_distances(ahead, ahead, crowd.active)
        touching = squared < SPACING**2
        if touching.any():
            if not self.paper_compat:
                touching[touching] = _approaching(places, velocities, *np.nonzero(touching))
            other = np.where(touching, squared, np.inf).argmin(-1)
            stopped = touching.any(-1)[..., None]
            exchanged = np.take_along_axis(velocities, other[..., None], axis=1)
            velocities = np.where(stopped, exchanged, velocities)
            ahead = np.where(stopped, places, ahead)
        targets = np.concatenate([ahead, crowd.targets[..., 2:]], -1)
        return self._headed(targets, velocities), velocities, {}

    def _headed(self, targets: np.ndarray, velocities: np.ndarray) -> np.ndarray:
        heading = np.arctan2(velocities[..., 1], velocities[..., 0])
        if not self.paper_compat:
            walking = (velocities[..., 0] != 0) | (velocities[..., 1] != 0)
            heading = np.where(walking, heading, targets[..., 2])
        return np.concatenate([targets[..., :2], heading[..., None]], -1)

    def __repr__(self) -> str:
        return f"ConstantVelocity({'paper_compat=True' if self.paper_compat else ''})"


def _approaching(
    places: np.ndarray, velocities: np.ndarray, e: np.ndarray, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """Whether i and j of episode e come nearer to each other: (p_i - p_j) . (v_i - v_j) < 0."""
    apart, drift = places[e, i] - places[e, j], velocities[e, i] - velocities[e, j]
    return (apart * drift).sum(-1) < 0
