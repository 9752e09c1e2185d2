"""What all policies have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from statml._validation import RandomState, check_integer

from ..scene import OBSERVATION_COLUMNS, Scene

if TYPE_CHECKING:
    from ..environment import ActiveClassificationEnv

COLUMN = {name: i for i, name in enumerate(OBSERVATION_COLUMNS)}


class Policy:
    """A policy: ``predict(observation)`` gives actions of the kind ``action``: displacements (E, 3), or the numbers of candidates (E,).

    Observations are ``{"targets": (E, N, F), "mask": (E, N)}``. A policy with memory forgets it in ``reset(episodes)``. A policy with
    ``needs_scene = True`` is called as ``predict(observation, scene)``: it knows the sensor, the field and the beliefs, which a learned
    policy does not.
    """

    action = "displacement"
    needs_scene = False

    def reset(self, episodes: int) -> None:
        """Forget, and be ready for `episodes` new ones."""

    def predict(
        self, observation: dict[str, np.ndarray] | None, scene: Scene | None = None
    ) -> np.ndarray:
        """Displacement actions.

        Parameters
        ----------
        observation : dict
            "targets" (E, N, F) and "mask" (E, N); or those of a single environment, (N, F) and (N,). None for a policy that needs the scene
            alone.
        scene : Scene, default=None
            For policies with ``needs_scene``: the scene that the observation is of, such as ``env.scene``.

        Returns
        -------
        array of shape (E, 3), or (3,) for a single environment
            In [-1, 1]; zero where nothing is left to do.
        """
        if self.needs_scene and scene is None:
            raise ValueError(
                f"scene must be given to {type(self).__name__}.predict, such as env.scene, got None"
            )
        if observation is not None and np.ndim(observation["targets"]) == 2:
            batch = {name: np.asarray(part)[None] for name, part in observation.items()}
            return self._act(batch, scene)[0]
        return self._act(observation, scene)

    def _act(self, observation: dict[str, np.ndarray] | None, scene: Scene | None) -> np.ndarray:
        """Actions (E, 3) for a batch."""
        raise NotImplementedError

    def score(
        self,
        env: ActiveClassificationEnv | Scene,
        n_episodes: int = 100,
        random_state: RandomState = 0,
    ) -> float:
        """Mean fraction of targets classified within the horizon, over fresh episodes of `env`.

        Parameters
        ----------
        env : ActiveClassificationEnv or Scene
            Whose settings are used; see `evaluate`.
        n_episodes : int, default=100
        random_state : int, SeedSequence, Generator, RandomState or None, default=0
            Of the episodes.

        Returns
        -------
        float
            In [0, 1], higher is better.
        """
        from ..evaluation import evaluate

        n = check_integer("n_episodes", n_episodes, low=1)
        results = evaluate({"self": self}, env, n, random_state=random_state, progress=False)
        return float(results.frame["fraction"].mean())

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({shown})"


def keep_or_choose(
    kept: np.ndarray, open_: np.ndarray, preference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Targets (E,) to pursue: the kept one while it is open, else the open one of the highest preference; and whether there is any."""
    episodes = np.arange(len(open_))
    still = (kept >= 0) & open_[episodes, np.maximum(kept, 0)]
    best = np.where(open_, preference, -np.inf).argmax(-1)
    return np.where(still, kept, best), open_.any(-1)
