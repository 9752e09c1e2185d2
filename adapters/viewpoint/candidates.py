"""Candidate viewpoints around every target: the discrete, pointer-like action space.

Choice ``target * len(CANDIDATES) + candidate`` means: move for one decision, at the speed limits, towards that place before that target.
"""

from __future__ import annotations

import numpy as np

from .geometry import EDGE, steer, viewpoint_before

# distance (m) and aspect (rad, to the left of the target's heading): both distances are within full information
CANDIDATES = np.array(
    [[distance, np.radians(aspect)] for distance in (2.0, 2.7) for aspect in (-20.0, 0.0, 20.0)]
)


def candidate_viewpoints(targets: np.ndarray) -> np.ndarray:
    """The candidate poses of every target.

    Parameters
    ----------
    targets : array of shape (..., N, 3)

    Returns
    -------
    array of shape (..., N, m, 3)
        x, y, yaw in the world frame, the camera pointed at the target.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.viewpoint import candidate_viewpoints
    >>> candidate_viewpoints(np.zeros((1, 3)))[0, 1].round(3)
    array([ 2.   ,  0.   , -3.142])
    """
    return viewpoint_before(targets[..., None, :], CANDIDATES[:, 0], CANDIDATES[:, 1])


def candidate_action(
    choice: np.ndarray, drone: np.ndarray, targets: np.ndarray, dt: float, side: np.ndarray
) -> np.ndarray:
    """The displacement action (E, 3) that a choice (E,) stands for; viewpoints outside the field are moved to its edge."""
    target, candidate = np.divmod(choice, len(CANDIDATES))
    chosen = targets[np.arange(len(drone)), target]
    viewpoint = viewpoint_before(chosen, CANDIDATES[candidate, 0], CANDIDATES[candidate, 1])
    edge = side[:, None] - EDGE
    viewpoint[:, :2] = np.clip(viewpoint[:, :2], -edge, edge)
    return steer(drone, viewpoint, dt, side)
