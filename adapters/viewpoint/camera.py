"""How well a pinhole camera resolves a target: the quality q of the published analytic classifier.

A target is a vertical plate of half width 0.6 m, from 1 m above to 0.8 m below the camera. Its image (focal length 400, 640 x 480 pixels) has
area w h, with w the width and h the larger side's height, and skew |v_a - v_b| of the upper corners. Then

    q = 0.5 exp(-skew / 20) min(1, area / 40000)   if the plate is wholly inside the image,
        0.05 exp(-skew / 20)                       else.
"""

from __future__ import annotations

import numpy as np

from .geometry import RADIUS

FOCAL = 400.0  # pixels
HALF_WIDTH, HALF_HEIGHT = 320.0, 240.0  # pixels
ABOVE, BELOW = 1.0, 0.8  # the plate's extent about the camera's height, m
FULL_AREA = 40_000.0  # pixels^2
SKEW_SCALE = 20.0  # pixels
_NEAREST = 1e-3  # a plate's edge nearer than this, or behind the camera, is taken as this far, m


def plate_quality(relative: np.ndarray) -> np.ndarray:
    """Quality of a look at each target, were it seen.

    Parameters
    ----------
    relative : array of shape (..., 3)
        Metres ahead, metres to the left and relative heading (rad), as from ``relative_poses``.

    Returns
    -------
    array of shape (...)
        q in [0, 0.5]: 0.5 for a plate that faces the camera at 1.667 to 2.939 m.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.viewpoint import plate_quality
    >>> looks = np.array([[2.7, 0.0, np.pi], [3.375, 0.0, np.pi], [1.6, 0.0, np.pi]])
    >>> plate_quality(looks).round(3)
    array([0.5  , 0.379, 0.05 ])
    """
    x, y, heading = relative[..., 0], relative[..., 1], relative[..., 2]
    along_x, along_y = -RADIUS * np.sin(heading), RADIUS * np.cos(heading)
    x_a, x_b = x - along_x, x + along_x
    near_a, near_b = 1.0 / np.maximum(x_a, _NEAREST), 1.0 / np.maximum(x_b, _NEAREST)
    u_a, u_b = FOCAL * (y - along_y) * near_a, FOCAL * (y + along_y) * near_b
    nearest = np.maximum(near_a, near_b)
    skew = FOCAL * ABOVE * np.abs(near_a - near_b)
    area = np.abs(u_b - u_a) * (FOCAL * (ABOVE + BELOW)) * nearest
    inside = (
        (np.maximum(np.abs(u_a), np.abs(u_b)) <= HALF_WIDTH)
        & (FOCAL * max(ABOVE, BELOW) * nearest <= HALF_HEIGHT)
        & (np.minimum(x_a, x_b) > 0)
    )
    scale = np.where(inside, 0.5 * np.minimum(1.0, area / FULL_AREA), 0.05)
    return scale * np.exp(-skew / SKEW_SCALE)
