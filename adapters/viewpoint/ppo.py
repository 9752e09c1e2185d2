"""stable-baselines3 as the engine: its PPO over the batched scene, with the networks over sets.

Three parts join the two: `SceneVecEnv` (batched environments as its `VecEnv`), `SetPolicy` (an `ActorCritic` as its policy) and
`Training` (a callback: history, progress bar, checkpoints, and the critic's head start). A time-out is no end of the task: the
last observation's value is added to the reward, which stable-baselines3 does when it is told of the truncation.

A run is made of stretches of `STRETCH` iterations. Each begins with a reset of the environments and of all random numbers, from a
seed of its own; so that a run that goes on from the checkpoint at the end of one is the run that was never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from .networks import ActorCritic

ALGORITHMS = {"ppo": PPO, "a2c": A2C}
VALUE_FIRST = 8  # iterations in which the critic learns and a warm-started actor does not
STRETCH = 32  # iterations from one checkpoint to the next
TRACKED = 5  # column of an observation


class SceneVecEnv(VecEnv):
    """Batched environments side by side, as stable-baselines3 takes them.

    Parameters
    ----------
    parts : sequence of gymnasium VectorEnv
        Of the same observation columns and actions; they may differ in the number of targets, the motion, the size of the field, ... An
        ended episode is reset in the same step, with its last observation in ``infos["final_obs"]``.
    reward_scale : float, default=1.0
        Rewards are multiplied by it.

    Attributes
    ----------
    ended : list of (bool, int, float)
        Of every episode that has ended: whether all targets were classified, its steps, the share of targets that were classified.
    """

    def __init__(self, parts: Sequence[Any], reward_scale: float = 1.0):
        self.parts, self.reward_scale = list(parts), reward_scale
        self.ended: list[tuple[bool, int, float]] = []
        self._rows = np.cumsum([0, *(part.num_envs for part in self.parts)])
        largest = max(
            (part.single_observation_space for part in self.parts),
            key=lambda space: (space["targets"].shape[0], space["targets"].high.max()),
        )
        self._n = max(part.single_observation_space["targets"].shape[0] for part in self.parts)
        super().__init__(int(self._rows[-1]), largest, self.parts[0].single_action_space)

    def reset(self) -> dict[str, NDArray]:
        """New episodes; after `seed`, the same ones again."""
        seeds = self._seeds if self._seeds[0] is not None else [None] * len(self.parts)
        observations = [
            part.reset(seed=seed)[0] for part, seed in zip(self.parts, seeds, strict=True)
        ]
        self._reset_seeds()
        self._age = np.zeros(self.num_envs, dtype=int)
        return self._joined(observations)

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seeds of the next reset, one for each part."""
        root = np.random.SeedSequence(seed)
        self._seeds = [int(s) for s in root.generate_state(len(self.parts))]
        return self._seeds

    def step_async(self, actions: NDArray) -> None:
        self._actions = actions

    def step_wait(self):
        observations, rewards, dones = [], [], []
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._age += 1
        for part, first, actions in zip(
            self.parts, self._rows, self.split(self._actions), strict=False
        ):
            obs, reward, terminated, truncated, info = part.step(actions)
            observations.append(obs)
            rewards.append(reward)
            dones.append(terminated | truncated)
            for i in np.flatnonzero(dones[-1]):
                final = info["final_obs"][i]
                infos[first + i] = {
                    "terminal_observation": self._padded(final),
                    "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
                }
                classified = final["targets"][final["mask"].astype(bool), TRACKED]
                self.ended.append(
                    (bool(terminated[i]), int(self._age[first + i]), float(classified.mean()))
                )
                self._age[first + i] = 0
        return (
            self._joined(observations),
            np.concatenate(rewards) * self.reward_scale,
            np.concatenate(dones),
            infos,
        )

    def split(self, values: NDArray) -> list[NDArray]:
        """What belongs to each part, of an array over all episodes."""
        return np.split(values, self._rows[1:-1])

    def _joined(self, observations: list[dict[str, NDArray]]) -> dict[str, NDArray]:
        padded = [self._padded(obs) for obs in observations]
        return {name: np.concatenate([obs[name] for obs in padded]) for name in padded[0]}

    def _padded(self, obs: dict[str, NDArray]) -> dict[str, NDArray]:
        """Rows of zeros up to the number of targets of the largest part; of a batch or of one episode."""
        missing = self._n - obs["mask"].shape[-1]
        if not missing:
            return {name: obs[name] for name in ("targets", "mask")}
        lead = [(0, 0)] * (obs["mask"].ndim - 1)
        return {
            "targets": np.pad(obs["targets"], [*lead, (0, missing), (0, 0)]),
            "mask": np.pad(obs["mask"], [*lead, (0, missing)]),
        }

    def close(self) -> None:
        for part in self.parts:
            part.close()

    def get_attr(self, attr_name: str, indices=None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(f"batched episodes have no attribute {attr_name!r} each")
        return [None for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices=None) -> None:
        raise AttributeError(f"batched episodes have no attribute {attr_name!r} each")

    def env_method(self, method_name: str, *args, indices=None, **kwargs) -> list[Any]:
        raise AttributeError(f"batched episodes have no method {method_name!r} each")

    def env_is_wrapped(self, wrapper_class, indices=None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


class SetPolicy(ActorCriticPolicy):
    """An `ActorCritic` behind stable-baselines3's interface of a policy.

    Actions are normal about the actor's mean with a standard deviation that does not depend on the state; or, of
    candidates, categorical.
    """

    def __init__(
        self, observation_space, action_space, lr_schedule, *, network: ActorCritic, **kwargs: Any
    ):
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        self.network = network
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    def _build(self, lr_schedule) -> None:
        """Nothing: the network is handed over."""

    def get_distribution(self, obs: dict[str, Tensor]) -> Distribution:
        out = self.network.actor(*_tensors(obs))
        if isinstance(self.action_space, gym.spaces.Discrete):
            return self.action_dist.proba_distribution(action_logits=out)
        return self.action_dist.proba_distribution(out, self.network.log_std)

    def predict_values(self, obs: dict[str, Tensor]) -> Tensor:
        return self.network.critic(*_tensors(obs))

    def forward(self, obs: dict[str, Tensor], deterministic: bool = False):
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)

    def evaluate_actions(self, obs: dict[str, Tensor], actions: Tensor):
        distribution = self.get_distribution(obs)
        log_prob = distribution.log_prob(actions)
        return self.predict_values(obs), log_prob, distribution.entropy()


def _tensors(obs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return obs["targets"].float(), obs["mask"].bool()


class Training(BaseCallback):
    """What happens between the iterations of a run.

    Parameters
    ----------
    seeds : SeedSequence
        Child k seeds stretch k.
    value_first : int
        Iterations in which the actor does not learn.
    dt : float
        Seconds a step.
    on_iteration : callable
        (row of the history) -> None, after each iteration.
    on_stretch : callable
        (training) -> None, at the end of each stretch and of the run.

    Attributes
    ----------
    history : list of dict
        One row an iteration: steps, cpu_s (seconds of CPU time of this process), episodes (that ended), success (share of these that
        classified all), fraction (of the targets), time (mean seconds of the successes), entropy, kl, value_loss, explained_variance.
    """

    def __init__(
        self,
        seeds: Sequence[np.random.SeedSequence],
        value_first: int,
        dt: float,
        on_iteration: Callable[[dict[str, Any]], None],
        on_stretch: Callable[[Training], None],
        history: Sequence[dict[str, Any]] = (),
    ):
        super().__init__()
        self.seeds, self.value_first, self.dt = seeds, value_first, dt
        self.on_iteration, self.on_stretch = on_iteration, on_stretch
        self.history = list(history)
        self._cpu_before = self.history[-1]["cpu_s"] if self.history else 0.0

    def _on_training_start(self) -> None:
        self._started = time.process_time()
        self._iteration = len(self.history)

    def _on_rollout_start(self) -> None:
        if self._iteration > len(self.history):
            self._record()
        if self._iteration % STRETCH == 0:
            self._begin_stretch()
        frozen = self._iteration < self.value_first
        network = self.model.policy.network
        for parameter in (*network.actor.parameters(), *_own_parameters(network)):
            parameter.requires_grad_(not frozen)
        self._iteration += 1

    def _on_training_end(self) -> None:
        self._record()
        self.on_stretch(self)

    def _on_step(self) -> bool:
        return True

    def _begin_stretch(self) -> None:
        if self.history:
            self.on_stretch(self)
        seed, env_seed = (int(s) for s in self.seeds[self._iteration // STRETCH].generate_state(2))
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - stable-baselines3 shuffles with the global generator
        env = self.model.get_env()
        env.seed(env_seed)
        self.model._last_obs = env.reset()
        self.model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        env.ended.clear()

    def _record(self) -> None:
        env, said = self.model.get_env(), self.model.logger.name_to_value
        ended = np.array(env.ended, dtype=float).reshape(-1, 3)
        success = ended[:, 0] == 1
        row = {
            "steps": self.model.num_timesteps,
            "cpu_s": self._cpu_before + time.process_time() - self._started,
            "episodes": len(ended),
            "success": success.mean() if len(ended) else np.nan,
            "fraction": ended[:, 2].mean() if len(ended) else np.nan,
            "time": ended[success, 1].mean() * self.dt if success.any() else np.nan,
            "entropy": -said.get("train/entropy_loss", np.nan),
            "kl": said.get("train/approx_kl", np.nan),
            "value_loss": said.get("train/value_loss", np.nan),
            "explained_variance": said.get("train/explained_variance", np.nan),
        }
        row = {
            name: value if isinstance(value, int) else float(value) for name, value in row.items()
        }
        env.ended.clear()
        self.history.append(row)
        self.on_iteration(row)


def _own_parameters(network: ActorCritic) -> list[torch.nn.Parameter]:
    """The standard deviation, where actions have one."""
    return list(network.parameters(recurse=False))
