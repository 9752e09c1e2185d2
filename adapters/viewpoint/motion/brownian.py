"""Brownian targets: jitter of place and heading."""

from __future__ import annotations

import numpy as np

from ..geometry import SPACING, wrap
from ._motion import Crowd, Motion, Moved, squared_distances

JITTER = 0.25  # m a step, each way along each axis
TURN = np.radians(15.0)


class BrownianMotion(Motion):
    """Targets that jitter.

    Every step, a uniform move of up to 0.25 m along each axis and a uniform turn of up to 15 degrees. Moves out of the square, or to
    within 1.38 m of where another target is or would be, do not happen. The velocity is reported as zero: the jitter has no drift, and its
    last move says nothing about the next.
    """

    def start(self, crowd: Crowd) -> Moved:
        return crowd.targets, crowd.velocities, {}

    def move(self, crowd: Crowd) -> Moved:
        jitter = 2 * crowd.noise.uniform("jitter", crowd.time, (*crowd.active.shape[1:], 3)) - 1
        places = crowd.targets[..., :2]
        ahead = places + JITTER * jitter[..., :2]
        outside = (np.abs(ahead) >= crowd.side[:, None, None]).any(-1)
        near = np.minimum(
            squared_distances(ahead, ahead, crowd.active),
            squared_distances(ahead, places, crowd.active),
        ).min(-1)
        stays = outside | (near < SPACING**2) | ~crowd.active
        heading = wrap(crowd.targets[..., 2] + TURN * jitter[..., 2])
        moved = np.where(stays[..., None], places, ahead)
        return np.concatenate([moved, heading[..., None]], -1), crowd.velocities, {}

    def __repr__(self) -> str:
        return "BrownianMotion()"
