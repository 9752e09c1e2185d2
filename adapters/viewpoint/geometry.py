"""Planar geometry of drone and targets. Metres and radians; x ahead and y to the left of the drone; angles counter-clockwise."""

from __future__ import annotations

import numpy as np

RADIUS = 0.6  # of a target's disc and of half its plate, m
SPACING = 2.3 * RADIUS  # smallest distance between two bodies at the start, m
EDGE = 0.05  # viewpoints that a policy flies to stay this far inside the walls, m
MAX_SPEED = 2.0  # of the drone along each of its axes, m/s
MAX_YAW_RATE = np.radians(60.0)  # rad/s


def wrap(angle: np.ndarray) -> np.ndarray:
    """The same angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def relative_poses(drone: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Poses of the targets in the drone's frame.

    Parameters
    ----------
    drone : array of shape (..., 3)
        x, y, yaw.
    targets : array of shape (..., N, 3)
        x, y, heading.

    Returns
    -------
    array of shape (..., N, 3)
        Metres ahead, metres to the left, heading minus yaw in [-pi, pi).

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.viewpoint.geometry import relative_poses
    >>> relative_poses(np.array([0.0, 0.0, np.pi / 2]), np.array([[0.0, 3.0, 0.0]])).round(3) + 0.0
    array([[ 3.   ,  0.   , -1.571]])
    """
    out = np.empty(np.broadcast_shapes(targets.shape, (*drone.shape[:-1], 1, 3)))
    cos, sin = np.cos(drone[..., None, 2]), np.sin(drone[..., None, 2])
    dx = targets[..., 0] - drone[..., None, 0]
    dy = targets[..., 1] - drone[..., None, 1]
    out[..., 0] = cos * dx + sin * dy
    out[..., 1] = cos * dy - sin * dx
    out[..., 2] = wrap(targets[..., 2] - drone[..., None, 2])
    return out


def distance_and_aspect(relative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each target (m), and the angle at the target between its heading and the line to the drone.

    Aspect 0: the drone sees it from the front; +-pi: from behind. `relative` as from :func:`relative_poses`.
    """
    x, y, heading = np.moveaxis(relative, -1, 0)
    return np.hypot(x, y), wrap(np.arctan2(-y, -x) - heading)


def viewpoint_before(targets: np.ndarray, distance, aspect=0.0) -> np.ndarray:
    """Poses (x, y, yaw) at `distance` from the targets and `aspect` to the left of their headings, looking at them.

    Leading axes of `targets` (..., 3), `distance` and `aspect` broadcast.
    """
    direction = targets[..., 2] + aspect
    x = targets[..., 0] + distance * np.cos(direction)
    y = targets[..., 1] + distance * np.sin(direction)
    return np.stack([x, y, wrap(direction + np.pi)], -1)


def steer(
    drone: np.ndarray, viewpoint: np.ndarray, dt: float, side: np.ndarray | None = None
) -> np.ndarray:
    """The displacement action that brings the drone nearest to a viewpoint within `dt` seconds.

    Each axis of the drone goes as far as it can; where that bent way would leave the field, and so not be flown at all, the drone
    keeps to the straight line.

    Parameters
    ----------
    drone, viewpoint : arrays of shape (E, 3)
        x, y, yaw in the world frame; viewpoints inside the field.
    dt : float
        Seconds.
    side : array of shape (E,), default=None
        Half the edge of the field, m. None: a field without walls.

    Returns
    -------
    array of shape (E, 3)
        In [-1, 1], in the drone's frame.
    """
    cos, sin = np.cos(drone[..., 2]), np.sin(drone[..., 2])
    dx, dy = viewpoint[..., 0] - drone[..., 0], viewpoint[..., 1] - drone[..., 1]
    way = np.stack([cos * dx + sin * dy, cos * dy - sin * dx], -1) / (MAX_SPEED * dt)
    turn = wrap(viewpoint[..., 2] - drone[..., 2])[..., None] / (MAX_YAW_RATE * dt)
    action = np.clip(np.concatenate([way, turn], -1), -1.0, 1.0)
    if side is not None:
        there = displace(drone, action, dt, np.inf)
        leaves = (np.abs(there[:, :2]) >= side[:, None]).any(-1, keepdims=True)
        straight = way / np.maximum(np.abs(way).max(-1, keepdims=True), 1.0)
        action[:, :2] = np.where(leaves, straight, action[:, :2])
    return action


def displace(drone: np.ndarray, action: np.ndarray, dt: float, side: np.ndarray) -> np.ndarray:
    """The viewpoint that a displacement action asks for: moved along the old yaw, then turned.

    Where the place would be outside the square |x|, |y| < `side` the place is kept, and only the yaw changes.

    Parameters
    ----------
    drone : array of shape (E, 3)
    action : array of shape (E, 3)
        In [-1, 1]: metres ahead and to the left in units of 2 m/s x `dt`, turn in units of 60 deg/s x `dt`.
    dt : float
        Seconds.
    side : array of shape (E,)
        Half the edge of the square, m.
    """
    cos, sin = np.cos(drone[:, 2]), np.sin(drone[:, 2])
    step = MAX_SPEED * dt
    x = drone[:, 0] + step * (cos * action[:, 0] - sin * action[:, 1])
    y = drone[:, 1] + step * (sin * action[:, 0] + cos * action[:, 1])
    inside = (np.abs(x) < side) & (np.abs(y) < side)
    yaw = wrap(drone[:, 2] + MAX_YAW_RATE * dt * action[:, 2])
    return np.stack([np.where(inside, x, drone[:, 0]), np.where(inside, y, drone[:, 1]), yaw], -1)
