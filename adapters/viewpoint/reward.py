"""The reward of one step.

r = -0.01 |(2 a_1, 2 a_2)| - 0.01 |a_3| + 5 (newly classified)
    + 100                                        if now all are classified,
    + sum_t [H2(b_t) before - after] - 0.3       else.

The entropy terms telescope: over an episode they sum to the entropy that was removed. Running out of time is no part of the reward.
"""

from __future__ import annotations

import numpy as np

MOVE_COST, TURN_COST = 0.01, 0.01
CLASSIFIED, COMPLETED, STEP_COST = 5.0, 100.0, 0.3


def step_reward(
    action: np.ndarray, newly: np.ndarray, gain: np.ndarray, completed: np.ndarray
) -> np.ndarray:
    """Rewards (E,) of the displacement actions (E, 3).

    `newly` (E,) counts the targets classified by this step, `gain` (E,) is the entropy removed in bits, `completed` (E,) says whether
    no target is left.
    """
    move = np.sqrt(action[:, 0] ** 2 + action[:, 1] ** 2)
    effort = 2 * MOVE_COST * move + TURN_COST * np.abs(action[:, 2])
    return CLASSIFIED * newly - effort + np.where(completed, COMPLETED, gain - STEP_COST)
