"""The gymnasium face of many episodes at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from statml._validation import check_integer

from .environment import action_space, counts, observation_space
from .scenario import draw_keys
from .scene import Scene


class ActiveClassificationVectorEnv(VectorEnv):
    """`num_envs` environments that a single batched scene advances.

    Parameters
    ----------
    num_envs : int
        E.
    **parameters
        As of ``ActiveClassificationEnv``.

    Attributes
    ----------
    scene : Scene

    Notes
    -----
    ``metadata["autoreset_mode"]`` is SAME_STEP: an episode that ends is replaced within the step, the returned observation is the next episode's
    first, and ``infos["final_obs"]`` holds, for the environments in ``infos["_final_obs"]``, the last observation of what ended: learners
    bootstrap cut episodes from that. ``infos["final_info"]`` holds the counts of classified and rightly classified targets at that moment.

    Environment i, seeded with ``seed + i``, runs the same episodes as a scalar environment with that seed. Next episodes are drawn
    for all environments at once and handed out as needed.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters import ActiveClassificationEnv
    >>> envs = ActiveClassificationEnv(n_targets=2).vector(4)
    >>> observations, infos = envs.reset(seed=0)
    >>> observations, rewards, terminated, truncated, infos = envs.step(np.zeros((4, 3)))
    >>> rewards.shape
    (4,)
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, num_envs: int, **parameters: Any):
        self.num_envs = check_integer("num_envs", num_envs, 1)
        self.scene = Scene(**parameters)
        self.single_observation_space = observation_space(self.scene)
        self.single_action_space = action_space(self.scene)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] | None = None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode in every environment.

        Parameters
        ----------
        seed : int or sequence of int, default=None
            ``seed + i`` seeds environment i, or one each. None: every stream goes on.
        options : dict, default=None
            ``{"scenario": scenario}`` starts that ``Scenario`` of `num_envs` episodes.

        Returns
        -------
        observations : dict of arrays, first axis `num_envs`
        infos : dict
            Arrays `n_targets`, `n_classified`, `n_right`, and gymnasium's masks of the same names with an underscore.
        """
        if seed is not None or self._generators is None:
            self._generators = [seeding.np_random(one)[0] for one in self._seeds(seed)]
        scenario = (options or {}).get("scenario")
        if scenario is None:
            scenario = self.scene.draw(self._next_keys())
        elif len(scenario) != self.num_envs:
            raise ValueError(
                f"options['scenario'] must be of {self.num_envs} episodes, got {len(scenario)}"
            )
        self.scene.set_scenario(scenario)
        self._next, self._unused = None, np.zeros(self.num_envs, bool)
        return self._observation(), self._infos()

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Fly one decision everywhere; see ``ActiveClassificationEnv.step``, and the notes above on endings."""
        result = self.scene.step(actions)
        ended = result.done_all | result.timed_out
        if not ended.any():
            infos = self._infos()
        else:
            final = self._ending(ended)
            self._restart(np.flatnonzero(ended))
            infos = {**self._infos(), **final}
        return self._observation(), result.reward, result.done_all, result.timed_out, infos

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"seed must be one for each of {self.num_envs}, got {len(seed)}")
        return seed

    def _next_keys(self) -> np.ndarray:
        return np.concatenate([draw_keys(generator, 1) for generator in self._generators])

    def _restart(self, rows: np.ndarray) -> None:
        if not self._unused[rows].all():
            # drawing starts is slow for one and fast for many: draw for all who have none waiting
            missing = np.flatnonzero(~self._unused)
            keys = np.concatenate([draw_keys(self._generators[i], 1) for i in missing])
            drawn = self.scene.draw(keys)
            if self._next is None:
                self._next = drawn  # the first time all are missing
            else:
                self._next.put(missing, drawn)
            self._unused[missing] = True
        self.scene.replace(rows, self._next.take(rows))
        self._unused[rows] = False

    def _ending(self, ended: np.ndarray) -> dict[str, Any]:
        """The last observations and counts, in the form of gymnasium's own vector environments."""
        observation = self._observation()
        final = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(ended):
            final[i] = {name: array[i] for name, array in observation.items()}
        info: dict[str, Any] = {}
        for name, count in counts(self.scene).items():
            info[name], info[f"_{name}"] = np.where(ended, count, 0), ended.copy()
        return {
            "final_obs": final,
            "_final_obs": ended.copy(),
            "final_info": info,
            "_final_info": ended.copy(),
        }

    def _observation(self) -> dict[str, np.ndarray]:
        observation = self.scene.observe()
        return {"targets": observation["targets"], "mask": observation["mask"].astype(np.int8)}

    def _infos(self) -> dict[str, np.ndarray]:
        every = np.ones(self.num_envs, bool)
        infos = {}
        for name, count in counts(self.scene).items():
            infos[name], infos[f"_{name}"] = count, every
        return infos
