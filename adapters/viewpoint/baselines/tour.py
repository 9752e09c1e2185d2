"""A tour: visit the targets in the order of a short round trip."""

from __future__ import annotations

import numpy as np

from ._policy import COLUMN
from .nearest_frontal import NearestFrontalPolicy


class TourPolicy(NearestFrontalPolicy):
    """Stand in front of every target, in the order of a short open tour from the drone.

    The tour is planned when a target is first needed and after each classification: starting from the nearest-neighbour order, two-opt moves
    shorten the path through the places of the open targets, and its first target is pursued until it is classified.

    Parameters
    ----------
    distance : float, default=2.7
        From the target, m.

    Examples
    --------
    >>> from statml.adapters import ActiveClassificationEnv, TourPolicy
    >>> env = ActiveClassificationEnv(n_targets=2, random_beliefs=False)
    >>> TourPolicy().score(env, n_episodes=20) > 0.8
    True
    """

    def _preference(self, rows: np.ndarray, open_: np.ndarray) -> np.ndarray:
        preference = -np.hypot(rows[..., COLUMN["ahead"]], rows[..., COLUMN["left"]])
        kept = np.maximum(self._target, 0)
        still = (self._target >= 0) & open_[np.arange(len(open_)), kept]
        for e in np.flatnonzero(~still & (open_.sum(-1) > 2)):  # few: once for each classification
            targets = np.flatnonzero(open_[e])
            places = rows[e, targets][:, [COLUMN["ahead"], COLUMN["left"]]]
            preference[e, targets[_first_of_tour(places)]] = np.inf
        return preference


def _first_of_tour(places: np.ndarray) -> int:
    """Which place (n, 2) comes first on a short open path from the origin through all."""
    points = np.vstack([np.zeros(2), places])
    length = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    path = [0]
    while len(path) < len(points):
        away = length[path[-1]].copy()
        away[path] = np.inf
        path.append(int(away.argmin()))
    improved = True
    while improved:
        improved = False
        for i in range(1, len(path) - 1):
            for j in range(i + 1, len(path)):
                # turn path[i..j] round; the path is open, so that its end has no edge to lose
                before, after = path[i - 1], path[j + 1] if j + 1 < len(path) else None
                old = length[before, path[i]] + (0 if after is None else length[path[j], after])
                new = length[before, path[j]] + (0 if after is None else length[path[i], after])
                if new < old - 1e-9:
                    path[i : j + 1] = path[i : j + 1][::-1]
                    improved = True
    return path[1] - 1
