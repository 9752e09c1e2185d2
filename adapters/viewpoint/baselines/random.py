"""Random actions."""

from __future__ import annotations

import numpy as np

from statml._validation import RandomState, as_generator

from ._policy import Policy


class RandomPolicy(Policy):
    """Uniform actions: what any policy must beat.

    Parameters
    ----------
    random_state : int, SeedSequence, Generator, RandomState or None, default=0

    Examples
    --------
    >>> from statml.adapters import ActiveClassificationEnv, RandomPolicy
    >>> 0 <= RandomPolicy().score(ActiveClassificationEnv(n_targets=2), n_episodes=5) < 1
    True
    """

    def __init__(self, random_state: RandomState = 0):
        self.random_state = random_state

    def reset(self, episodes: int) -> None:
        self._generator = as_generator(self.random_state)

    def _act(self, observation, scene) -> np.ndarray:
        if not hasattr(self, "_generator"):
            self.reset(len(observation["mask"]))
        return self._generator.uniform(-1, 1, (len(observation["mask"]), 3))
