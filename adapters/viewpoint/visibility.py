"""Which targets the drone's camera sees: facing it, in the field of view, and not hidden by another.

With d_i the vector from the drone to target i and the one Gram matrix G_ij = d_i . d_j, the point of the segment drone-i nearest to
target j lies at tau = clip(G_ij / G_ii, 0, 1), at squared distance tau^2 G_ii - 2 tau G_ij + G_jj: all occlusions at once.
"""

from __future__ import annotations

import numpy as np

from .geometry import RADIUS, relative_poses

_TAN_HALF_ANGLE = 1.0  # field of view of +-45 degrees
_SLACK = 1e-9  # so that a disc that touches the line of sight blocks it whatever the rounding


def visible_targets(
    drone: np.ndarray,
    targets: np.ndarray,
    active: np.ndarray | None = None,
    facing: str = "bearing",
) -> np.ndarray:
    """Whether the camera sees each target.

    Parameters
    ----------
    drone : array of shape (..., 3)
        x, y (m) and yaw (rad); the camera looks along the yaw.
    targets : array of shape (..., N, 3)
        x, y (m) and heading (rad); the class is written on the front.
    active : array of bool of shape (..., N), default=None
        False for padding, which neither is seen nor hides others. None: all are real.
    facing : {"bearing", "yaw"}, default="bearing"
        "bearing": the front is seen from where the drone stands, within 90 degrees of the target's heading. "yaw" is the published
        test: heading and *yaw* differ by at least 90 degrees, wherever in the image the target is; at the rim of the image this takes
        targets that are seen from as far as 135 degrees, that is from behind.

    Returns
    -------
    array of bool of shape (..., N)

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.viewpoint import visible_targets
    >>> front, back, hidden = [3.0, 0.0, np.pi], [3.0, 2.0, 0.0], [6.0, 0.0, np.pi]
    >>> visible_targets(np.zeros(3), np.array([front, back, hidden]))
    array([ True, False, False])
    """
    targets = np.asarray(targets, float)
    if active is None:
        active = np.ones(targets.shape[:-1], bool)
    return seen(relative_poses(np.asarray(drone, float), targets), active, facing)


def seen(relative: np.ndarray, active: np.ndarray, facing: str = "bearing") -> np.ndarray:
    """As :func:`visible_targets`, from poses in the drone's frame."""
    x, y = relative[..., 0], relative[..., 1]
    cos = np.cos(relative[..., 2])
    if facing == "bearing":
        front = x * cos + y * np.sin(relative[..., 2]) <= 0  # heading . (drone - target) >= 0
    else:
        front = cos <= 0
    in_view = np.abs(y) <= _TAN_HALF_ANGLE * x
    return front & in_view & active & ~occluded(relative, active)


def occluded(relative: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Whether the disc of another active target touches the segment from drone to target; shape (..., N)."""
    x, y = relative[..., 0], relative[..., 1]
    gram = x[..., :, None] * x[..., None, :] + y[..., :, None] * y[..., None, :]
    squared = np.maximum(x * x + y * y, 1e-12)
    tau = np.clip(gram / squared[..., :, None], 0.0, 1.0)
    gap = tau * (tau * squared[..., :, None] - 2 * gram) + squared[..., None, :]
    blocks = (gap <= RADIUS**2 + _SLACK) & active[..., None, :]
    n = blocks.shape[-1]
    blocks.reshape(*blocks.shape[:-2], n * n)[..., :: n + 1] = False  # none hides itself
    return blocks.any(-1)
