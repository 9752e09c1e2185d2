"""The hand-crafted policy of the paper: stand before the nearest target until it is classified."""

from __future__ import annotations

import numpy as np

from statml._validation import check_number

from ..geometry import MAX_YAW_RATE, wrap
from ._policy import COLUMN, Policy, keep_or_choose


class NearestFrontalPolicy(Policy):
    """Go to stand in front of the nearest open target, and keep to it until it is classified.

    a = (clip(ahead - d), clip(left), clip((theta - psi + pi) / 60 deg)): hold the target on the camera's axis at distance d while turning to
    face it. The paper's d = 3.375 m is outside the 2.94 m within which the analytic classifier is clearest, and costs one look of three.

    Parameters
    ----------
    distance : float, default=2.7
        d, m.

    Examples
    --------
    >>> from statml.adapters import ActiveClassificationEnv, NearestFrontalPolicy
    >>> env = ActiveClassificationEnv(n_targets=1, random_beliefs=False)
    >>> NearestFrontalPolicy().score(env, n_episodes=50) > 0.9
    True
    """

    def __init__(self, distance: float = 2.7):
        self.distance = check_number("distance", distance, 0, low_open=True)

    def reset(self, episodes: int) -> None:
        self._target = np.full(episodes, -1)

    def _act(self, observation, scene) -> np.ndarray:
        rows, mask = observation["targets"].astype(float), observation["mask"].astype(bool)
        if len(getattr(self, "_target", ())) != len(mask):
            self.reset(len(mask))
        open_ = mask & (rows[..., COLUMN["tracked"]] < 0.5)
        chosen, any_open = keep_or_choose(self._target, open_, self._preference(rows, open_))
        self._target = np.where(any_open, chosen, -1)
        row = rows[np.arange(len(rows)), chosen]
        action = np.stack(
            [
                row[:, COLUMN["ahead"]] - self.distance,
                row[:, COLUMN["left"]],
                wrap(row[:, COLUMN["heading"]] + np.pi) / MAX_YAW_RATE,
            ],
            -1,
        )
        return np.clip(action, -1, 1) * any_open[:, None]

    def _preference(self, rows: np.ndarray, open_: np.ndarray) -> np.ndarray:
        return -np.hypot(rows[..., COLUMN["ahead"]], rows[..., COLUMN["left"]])
