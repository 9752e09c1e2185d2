"""stable-baselines3 as the engine: its PPO over the batched scene, with the networks over sets.

Three parts join the two: `SceneVecEnv` (a batched environment as its `VecEnv`), `SetPolicy` (an `ActorCritic` as its policy) and
`Training` (a callback: history, progress bar, checkpoints, and the critic's head start). A time-out is no end of the task: the
last observation's value is added to the reward, which stable-baselines3 does when it is told of the truncation.

A run is made of stretches of `STRETCH` iterations. Each begins with a reset of the environments and of all random numbers, from a
seed of its own; so that a run that goes on from the checkpoint at the end of one is the run that was never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from .networks import ActorCritic

if TYPE_CHECKING:
    from .environment import ActiveClassificationEnv

ALGORITHMS = {"ppo": PPO, "a2c": A2C}
VALUE_FIRST = 8  # iterations in which the critic learns and a warm-started actor does not
STRETCH = 32  # iterations from one checkpoint to the next
TRACKED = 5  # column of an observation
WARM_START, TRAINING = "warm start", "training"  # stages of a history


def train(
    network: ActorCritic,
    env: SceneVecEnv,
    training: Training,
    algorithm: str,
    n_iterations: int,
    *,
    learning_rate: float,
    optimizer: dict[str, Any] | None,
    callback: BaseCallback | None,
    **settings: Any,
) -> OnPolicyAlgorithm:
    """Train a network in place.

    Parameters
    ----------
    network : ActorCritic
    env : SceneVecEnv
    training : Training
    algorithm : {"ppo", "a2c"}
    n_iterations : int
        In all, with those that `training.history` tells of.
    learning_rate : float
        At the start; it falls linearly to a tenth.
    optimizer : dict or None
        State of the optimizer, of a run that is resumed.
    callback : BaseCallback or None
        One more.
    **settings
        Of the algorithm.

    Returns
    -------
    OnPolicyAlgorithm
        stable-baselines3's model.
    """
    model = ALGORITHMS[algorithm](
        SetPolicy,
        env,
        learning_rate=lambda left: learning_rate * (0.1 + 0.9 * left),
        policy_kwargs={"network": network},
        device="cpu",
        **settings,
    )
    if optimizer is not None:
        model.policy.optimizer.load_state_dict(optimizer)
    steps = model.n_steps * env.num_envs
    done = n_iterations_done(training.history)
    if done < n_iterations:
        model.num_timesteps = done * steps
        model.learn(
            (n_iterations - done) * steps,
            callback=[training] if callback is None else [training, callback],
            log_interval=1,
            reset_num_timesteps=False,
        )
    return model


class SceneVecEnv(VecEnv):
    """A batched environment as stable-baselines3 takes it.

    Parameters
    ----------
    env : gymnasium VectorEnv
        Resets an ended episode in the same step, and shows its last observation in ``info["final_obs"]``.
    reward_scale : float
        Rewards are multiplied by it.

    Attributes
    ----------
    ended : list of (bool, int, float)
        Of every episode that has ended: whether all targets were classified, its steps, the share of its targets that were classified.
    """

    def __init__(self, env: gym.vector.VectorEnv, reward_scale: float = 1.0):
        self.env, self.reward_scale = env, reward_scale
        self.ended: list[tuple[bool, int, float]] = []
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> dict[str, NDArray]:
        """New episodes; after `seed`, those of the seed."""
        seed = self._seeds[0]
        self._reset_seeds()
        self._age = np.zeros(self.num_envs, dtype=int)
        return self.env.reset(seed=seed)[0]

    def step_async(self, actions: NDArray) -> None:
        self._actions = actions

    def step_wait(self):
        obs, reward, terminated, truncated, info = self.env.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._age += 1
        done = terminated | truncated
        for i in np.flatnonzero(done):
            final = info["final_obs"][i]
            infos[i] = {
                "terminal_observation": final,
                "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
            }
            classified = final["targets"][final["mask"].astype(bool), TRACKED]
            self.ended.append((bool(terminated[i]), int(self._age[i]), float(classified.mean())))
            self._age[i] = 0
        return obs, reward * self.reward_scale, done, infos

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices=None) -> list[Any]:
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices=None) -> None:
        raise AttributeError(f"batched episodes have no attribute {attr_name!r} each")

    def env_method(self, method_name: str, *args, indices=None, **kwargs) -> list[Any]:
        raise AttributeError(f"batched episodes have no method {method_name!r} each")

    def env_is_wrapped(self, wrapper_class, indices=None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


def export_sb3_env(env: ActiveClassificationEnv, num_envs: int = 128) -> SceneVecEnv:
    """An environment for stable-baselines3, over one batched scene: for its other algorithms, or a network of one's own.

    Parameters
    ----------
    env : ActiveClassificationEnv
    num_envs : int, default=128
        Episodes at a time.

    Returns
    -------
    SceneVecEnv

    Examples
    --------
    >>> from stable_baselines3 import A2C
    >>> from statml.adapters.viewpoint import ActiveClassificationEnv, export_sb3_env
    >>> env = export_sb3_env(ActiveClassificationEnv(n_targets=2), num_envs=16)
    >>> model = A2C("MultiInputPolicy", env, n_steps=5, device="cpu").learn(80)
    >>> model.num_timesteps
    80
    """
    return SceneVecEnv(env.vector(num_envs))


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
    history : list of dict
        Rows of what was done before (of the warm start, of a run that is resumed); a row is added for each iteration.
    seeds : sequence of SeedSequence
        One for each stretch.
    value_first : int
        Iterations in which the actor does not learn.
    dt : float
        Seconds a step.
    on_row : callable
        (row) -> None, after each iteration.
    on_stretch : callable
        (model) -> None, after each stretch and at the end.
    """

    def __init__(
        self,
        history: list[dict[str, Any]],
        seeds: Sequence[np.random.SeedSequence],
        value_first: int,
        dt: float,
        on_row: Callable[[dict[str, Any]], None],
        on_stretch: Callable[[OnPolicyAlgorithm], None],
    ):
        super().__init__()
        self.history, self.seeds, self.value_first, self.dt = history, seeds, value_first, dt
        self.on_row, self.on_stretch = on_row, on_stretch

    def _on_training_start(self) -> None:
        self._n_done = self._iteration = n_iterations_done(self.history)
        self._started = time.process_time() - (self.history[-1]["cpu_s"] if self.history else 0.0)
        earlier = [row["steps"] for row in self.history if row["stage"] == WARM_START]
        self._steps_before = earlier[-1] if earlier else 0

    def _on_rollout_start(self) -> None:
        if self._iteration > self._n_done:
            self._end_iteration()
        if self._iteration % STRETCH == 0 or self._iteration == self._n_done:
            if self._iteration > self._n_done:
                self.on_stretch(self.model)
            self._begin_stretch()
        _let_learn(self.model.policy.network, self._iteration >= self.value_first)
        self._iteration += 1

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._end_iteration()
        _let_learn(self.model.policy.network, True)
        self.on_stretch(self.model)

    def _begin_stretch(self) -> None:
        stretch, after = divmod(self._iteration, STRETCH)
        seeds = self.seeds[stretch]
        if after:  # a run that had ended is made longer
            seeds = seeds.spawn(after)[-1]
        seed, env_seed = (int(s) for s in seeds.generate_state(2))
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - stable-baselines3 shuffles with the global generator
        env = self.model.get_env()
        env.seed(env_seed)
        self.model._last_obs = env.reset()
        self.model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        env.ended.clear()

    def _end_iteration(self) -> None:
        env, said = self.model.get_env(), self.model.logger.name_to_value
        row = {
            "stage": TRAINING,
            "steps": self._steps_before + self.model.num_timesteps,
            "cpu_s": time.process_time() - self._started,
            "loss": float(said.get("train/loss", np.nan)),
            **summary(env.ended, self.dt),
            "entropy": -float(said.get("train/entropy_loss", np.nan)),
            "kl": float(said.get("train/approx_kl", np.nan)),
            "value_loss": float(said.get("train/value_loss", np.nan)),
            "explained_variance": float(said.get("train/explained_variance", np.nan)),
        }
        env.ended.clear()
        self.history.append(row)
        self.on_row(row)


def summary(ended: list[tuple[bool, int, float]], dt: float) -> dict[str, float]:
    """Episodes that ended; the share of them in which all targets were classified, and the mean seconds of these; the share of the targets."""
    success, steps, fraction = np.array(ended, dtype=float).reshape(-1, 3).T
    whole = steps[success == 1]
    return {
        "episodes": len(ended),
        "success": float(success.mean()) if ended else np.nan,
        "fraction": float(fraction.mean()) if ended else np.nan,
        "time": float(whole.mean() * dt) if len(whole) else np.nan,
    }


def n_iterations_done(history: list[dict[str, Any]]) -> int:
    """Iterations of the second stage that a history tells of."""
    return sum(row["stage"] == TRAINING for row in history)


def _let_learn(network: ActorCritic, actor_learns: bool) -> None:
    critic = {id(parameter) for parameter in network.critic.parameters()}
    for parameter in network.parameters():
        parameter.requires_grad_(actor_learns or id(parameter) in critic)
