"""ViewpointPolicy: where to look next, learnt by reinforcement.

The policy pi(a | s) sees, of every target, what `scene.OBSERVATION_COLUMNS` name, and neither the sensor's model nor the classes. It maximises

    E sum_t gamma^t r_t,

r the reward of `reward` (information gained, targets classified, motion paid for), in two stages:

1. DAgger (`dagger`): imitation of a greedy expert that knows the sensor;
2. PPO (`ppo`), first the critic alone, then both.

The actor is a set transformer (`networks`): any number of targets, in any order.

References
----------
Serra-Gomez, Montijano, Boehmer, Alonso-Mora (2023), Active classification of moving targets with learned control policies, IEEE RA-L
8(6). Schulman, Wolski, Dhariwal, Radford, Klimov (2017), Proximal policy optimization algorithms, arXiv:1707.06347.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from statml._validation import (
    RandomState,
    as_seed_sequence,
    check_choice,
    check_integer,
    check_number,
)
from statml.parallel import check_progress, progress_bar

from .baselines import GreedyInformationPolicy
from .baselines._policy import Policy
from .networks import ENCODERS, ActorCritic, act
from .scene import ACTIONS
from .storage import Checkpoint, read_policy, write_policy

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback

    from .environment import ActiveClassificationEnv

EXPERT_ASPECTS = (-20.0, 0.0, 20.0)  # degrees: where targets hide each other, one of them is free


class ViewpointPolicy(BaseEstimator, Policy):
    """Learnt policy of a drone that has to classify moving targets.

    Parameters
    ----------
    arch : {"set_transformer", "deepsets", "mlp", "lstm"}, default="set_transformer"
        What reads the targets: attention among them; their mean; all in one vector (a fixed number of them); one after the other.
    d_model : int, default=64
        Width of the layers.
    n_heads : int, default=4
        Attention heads; divides `d_model`.
    algorithm : {"ppo", "a2c"}, default="ppo"
        stable-baselines3's algorithm of the second stage. "a2c" uses neither `n_epochs`, `batch_size` nor `clip`.
    total_steps : int, default=2_000_000
        Decisions of the second stage, over all environments; rounded up to whole iterations of ``n_envs * n_steps``.
        0 leaves the imitation.
    warm_start : {"greedy", None} or policy, default="greedy"
        The expert of the first stage: `GreedyInformationPolicy` that looks at a target from the front and from 20 degrees to either side; or a policy with
        its interface. None starts from random weights.
    warm_start_steps : int, default=140_000
        Decisions of the first stage.
    n_envs : int, default=128
        Episodes flown at a time.
    n_steps : int, default=64
        Decisions an episode flies between two updates.
    n_epochs, batch_size : int, default=4, 1024
        Passes over the decisions of an iteration, and the size of their minibatches.
    learning_rate : float, default=3e-4
        Of Adam at the start of the second stage; it falls linearly to a tenth.
    gamma : float, default=0.99
        Discount a step.
    gae_lambda : float, default=0.95
        Of the generalised advantage estimate.
    clip : float, default=0.2
        Range of PPO's ratio of probabilities about one.
    ent_coef : float, default=1e-3
        Weight of the entropy in the objective.
    reward_scale : float, default=0.1
        Rewards are multiplied by it, so that the critic's values are of order ten.
    n_threads : int or None, default=None
        Threads of torch while it trains; None leaves them as they are. One is best for networks of this size.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Fixes the result, given the number of threads.
    verbose : int, default=0
        stable-baselines3's tables, from 1.
    progress : "auto", True or False, default="auto"
        A bar.
    checkpoint_dir : path or None, default=None
        Folder in which the state of the training is kept, after the first stage and every 32 iterations of the second. The same
        call goes on from there, and its result is that of an uninterrupted run. A run that has ended goes on with larger `total_steps`, at
        the learning rate that these give it then.

    Attributes
    ----------
    network_ : torch Module
        ``network_.actor`` and ``network_.critic``.
    history_ : DataFrame
        One row a round of the first stage ("warm start") and an iteration of the second: stage, steps, cpu_s, loss, episodes (that ended),
        success (share of these in which all targets were classified), fraction (of the targets), time (mean seconds of the successes),
        entropy, kl, value_loss, explained_variance. Actions are noisy in training: `score` tells what the policy does without.
    n_features_in_ : int
        Columns of an observation.
    env_spec_ : dict
        Of the environment in training: n_targets (the most), n_columns, n_candidates (a target; None for displacements).

    Notes
    -----
    What is fitted to is an environment, not arrays, so that scikit-learn's checks of estimators do not apply; parameters,
    cloning and ``random_state`` keep its conventions.

    Examples
    --------
    >>> from statml.adapters.viewpoint import ActiveClassificationEnv, ViewpointPolicy
    >>> policy = ViewpointPolicy.pretrained("displacement")
    >>> env = ActiveClassificationEnv(n_targets=(1, 3), side=8.0, horizon=100)
    >>> observation, _ = env.reset(seed=0)
    >>> policy.predict([observation["targets"][observation["mask"].astype(bool)]]).shape
    (1, 3)
    >>> ViewpointPolicy.pretrained().score(env, n_episodes=20) > 0.9
    True
    """

    def __init__(
        self,
        arch: str = "set_transformer",
        *,
        d_model: int = 64,
        n_heads: int = 4,
        algorithm: str = "ppo",
        total_steps: int = 2_000_000,
        warm_start: Any = "greedy",
        warm_start_steps: int = 140_000,
        n_envs: int = 128,
        n_steps: int = 64,
        n_epochs: int = 4,
        batch_size: int = 1024,
        learning_rate: float = 3e-4,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip: float = 0.2,
        ent_coef: float = 1e-3,
        reward_scale: float = 0.1,
        n_threads: int | None = None,
        random_state: RandomState = None,
        verbose: int = 0,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
    ):
        self.arch = arch
        self.d_model = d_model
        self.n_heads = n_heads
        self.algorithm = algorithm
        self.total_steps = total_steps
        self.warm_start = warm_start
        self.warm_start_steps = warm_start_steps
        self.n_envs = n_envs
        self.n_steps = n_steps
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.clip = clip
        self.ent_coef = ent_coef
        self.reward_scale = reward_scale
        self.n_threads = n_threads
        self.random_state = random_state
        self.verbose = verbose
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir

    # --- fitting ----------------------------------------------------------------------------------------

    def fit(self, env: ActiveClassificationEnv, callback: BaseCallback | None = None) -> Self:
        """Train in an environment.

        Parameters
        ----------
        env : ActiveClassificationEnv
            Ranges for ``n_targets`` and ``side``, and several motions, make a policy that generalises.
        callback : stable-baselines3 BaseCallback, optional
            For the second stage.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For parameters out of range, or if `checkpoint_dir` holds another run.
        """
        self._check(env)
        self.env_spec_ = _specification(env)
        self.n_features_in_ = self.env_spec_["n_columns"]
        checkpoint = Checkpoint(self.checkpoint_dir, self._identity(env))
        state = checkpoint.read() or {"history": [], "weights": None, "optimizer": None}
        if self.random_state is None and "entropy" in state:  # a run that goes on
            root = np.random.SeedSequence(int(state["entropy"]))
        else:
            root = as_seed_sequence(self.random_state)
        checkpoint.constant["entropy"] = str(root.entropy)
        with _private_randomness(self.n_threads):
            self._train(env, root, checkpoint, state, callback)
        return self

    def _train(
        self, env, root: np.random.SeedSequence, checkpoint: Checkpoint, state: dict, callback
    ):
        from .dagger import imitate
        from .ppo import STRETCH, VALUE_FIRST, SceneVecEnv, Training, n_iterations_done, train

        n_iterations = -(-self.total_steps // (self.n_envs * self.n_steps))
        weights, imitation, *stretches = root.spawn(2 + -(-n_iterations // STRETCH))
        torch.manual_seed(int(weights.generate_state(1)[0]))
        network, history = self._make_network(), state["history"]
        done = n_iterations_done(history)
        if done > n_iterations:
            raise ValueError(
                f"total_steps is {self.total_steps}, but the run in checkpoint_dir {str(self.checkpoint_dir)!r} has had "
                f"{done * self.n_envs * self.n_steps}. Ask for at least as many, or name another folder."
            )
        if history:
            network.load_state_dict(state["weights"])
        vector = SceneVecEnv(env.vector(self.n_envs), self.reward_scale)
        total = n_iterations * self.n_envs * self.n_steps
        if self.warm_start is not None:
            total += self.warm_start_steps
        steps = history[-1]["steps"] if history else 0
        with progress_bar(total, self.progress, "ViewpointPolicy", steps) as bar:

            def show(row: dict[str, Any]) -> None:
                bar.set_postfix(success=f"{row['success']:.2f}", refresh=False)
                bar.update(row["steps"] - bar.n)

            if self.warm_start is not None and not history:
                seed, rng = int(imitation.generate_state(1)[0]), np.random.default_rng(imitation)
                vector.seed(seed)
                for row in imitate(
                    network.actor, vector, self._expert(), self.warm_start_steps, rng
                ):
                    history.append(row)
                    show(row)
                checkpoint.write(history=history, weights=network.state_dict(), optimizer=None)
            training = Training(
                history,
                stretches,
                VALUE_FIRST if self.warm_start is not None else 0,
                env.scene.dt,
                on_row=show,
                on_stretch=lambda model: checkpoint.write(
                    history=history,
                    weights=network.state_dict(),
                    optimizer=model.policy.optimizer.state_dict(),
                ),
            )
            train(
                network,
                vector,
                training,
                self.algorithm,
                n_iterations,
                learning_rate=self.learning_rate,
                optimizer=state["optimizer"],
                callback=callback,
                verbose=self.verbose,
                **self._algorithm_settings(),
            )
        self.network_, self.history_ = network.eval(), pd.DataFrame(history)

    def _check(self, env) -> None:
        if not (callable(getattr(env, "vector", None)) and hasattr(env, "parameters")):
            raise TypeError(f"env must be an ActiveClassificationEnv, got {type(env).__name__}")
        check_choice("arch", self.arch, ENCODERS)
        check_choice("algorithm", self.algorithm, ("ppo", "a2c"))
        n_heads = check_integer("n_heads", self.n_heads, low=1)
        if check_integer("d_model", self.d_model, low=1) % n_heads:
            raise ValueError(
                f"d_model must be a multiple of n_heads, got d_model={self.d_model} and n_heads={n_heads}"
            )
        for name in ("total_steps", "warm_start_steps"):
            check_integer(name, getattr(self, name), low=0)
        for name in ("n_envs", "n_steps", "n_epochs", "batch_size"):
            check_integer(name, getattr(self, name), low=1)
        check_number("learning_rate", self.learning_rate, 0, low_open=True)
        check_number("gamma", self.gamma, 0, 1)
        check_number("gae_lambda", self.gae_lambda, 0, 1)
        check_number("clip", self.clip, 0, low_open=True)
        check_number("ent_coef", self.ent_coef, 0)
        check_number("reward_scale", self.reward_scale, 0, low_open=True)
        if self.n_threads is not None:
            check_integer("n_threads", self.n_threads, low=1)
        if isinstance(self.warm_start, str):
            check_choice("warm_start", self.warm_start, ("greedy",))
        elif self.warm_start is not None and not callable(
            getattr(self.warm_start, "predict", None)
        ):
            raise TypeError(
                f'warm_start must be "greedy", None or a policy, got {type(self.warm_start).__name__}'
            )
        check_progress(self.progress)

    def _expert(self) -> Policy:
        if self.warm_start == "greedy":
            return GreedyInformationPolicy(aspects=EXPERT_ASPECTS)
        return self.warm_start

    def _make_network(self) -> ActorCritic:
        spec = self.env_spec_
        return ActorCritic(
            self.arch,
            spec["n_columns"],
            spec["n_candidates"],
            self.d_model,
            self.n_heads,
            spec["n_targets"],
        )

    def _algorithm_settings(self) -> dict[str, Any]:
        settings = {
            "n_steps": self.n_steps,
            "gamma": self.gamma,
            "gae_lambda": self.gae_lambda,
            "ent_coef": self.ent_coef,
        }
        if self.algorithm == "ppo":
            settings |= {
                "n_epochs": self.n_epochs,
                "batch_size": min(self.batch_size, self.n_steps * self.n_envs),
                "clip_range": self.clip,
            }
        return settings

    def _identity(self, env) -> dict[str, str]:
        """What makes a training this training."""
        identity = {name: _described(value) for name, value in self.get_params(deep=False).items()}
        for name in ("total_steps", "n_threads", "verbose", "progress", "checkpoint_dir"):
            del identity[name]
        if self.random_state is not None:
            root = as_seed_sequence(self.random_state)
            identity["random_state"] = f"{root.entropy} {root.spawn_key}"
        parts = {f"env.{name}": _described(value) for name, value in env.parameters.items()}
        return {**identity, **parts}

    # --- decisions --------------------------------------------------------------------------------------

    @property
    def action(self) -> str:
        """The kind of action that it was trained to: "displacement" or "candidate"."""
        check_is_fitted(self, "network_")
        return "displacement" if self.env_spec_["n_candidates"] is None else "candidate"

    def predict(self, obs: dict[str, NDArray] | Sequence[NDArray]) -> NDArray:
        """The best action in each episode, without exploration.

        Parameters
        ----------
        obs : dict or list of array
            Observations of E episodes as the batched environment gives them: "targets" (E, N, F) and "mask" (E, N); or, for
            each episode, an array (n_targets, F), with F as in ``n_features_in_``.

        Returns
        -------
        array of shape (E, 3) or (E,)
            Displacements in [-1, 1], in the drone's frame: ahead and left in units of 2 m/s, turn in units of 60 degrees/s; or the numbers of
            candidate viewpoints.
        """
        targets, mask = self._tensors(obs)
        return act(self.network_.actor, targets, mask)

    def predict_value(self, obs: dict[str, NDArray] | Sequence[NDArray]) -> NDArray[np.float64]:
        """The critic's estimate of the discounted sum of rewards to come, shape (E,)."""
        targets, mask = self._tensors(obs)
        with torch.no_grad():
            return self.network_.critic(targets, mask)[:, 0].double().numpy() / self.reward_scale

    def _tensors(self, obs) -> tuple[torch.Tensor, torch.Tensor]:
        check_is_fitted(self, "network_")
        if not isinstance(obs, dict):
            obs = stack_tables(obs)
        targets, mask = np.asarray(obs["targets"], np.float32), np.asarray(obs["mask"], bool)
        if targets.ndim != 3 or targets.shape[2] != self.n_features_in_:
            raise ValueError(
                f"obs must have targets of shape (episodes, targets, {self.n_features_in_}), got {targets.shape}"
            )
        if mask.shape != targets.shape[:2]:
            raise ValueError(f"obs must have a mask of shape {targets.shape[:2]}, got {mask.shape}")
        if not mask.any(1).all():
            raise ValueError("obs must show at least one target in every episode")
        if not np.isfinite(targets).all():
            raise ValueError("obs must be finite, got NaN or infinite numbers in targets")
        return torch.from_numpy(targets), torch.from_numpy(mask)

    # --- files ------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> None:
        """Write the policy into one safetensors file: weights, parameters, history; nothing in it is code."""
        check_is_fitted(self, "network_")
        parameters = self.get_params(deep=False)
        for name in ("random_state", "progress", "checkpoint_dir"):
            del parameters[name]
        if not (self.warm_start is None or isinstance(self.warm_start, str)):
            parameters["warm_start"] = None  # another policy, which is no plain data
        header = {
            "parameters": parameters,
            "env_spec": self.env_spec_,
            "history": self.history_.astype(object)
            .where(self.history_.notna(), None)
            .to_dict("list"),
        }
        write_policy(path, self.network_.state_dict(), header)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file holds something else, or was changed after it was written.
        """
        weights, header = read_policy(path)
        policy = cls(**header["parameters"])
        policy.env_spec_ = header["env_spec"]
        policy.n_features_in_ = policy.env_spec_["n_columns"]
        policy.history_ = pd.DataFrame(header["history"])
        network = policy._make_network()
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"the weights in {str(path)!r} do not fit its parameters: {error}"
            ) from error
        policy.network_ = network.eval()
        return policy

    @classmethod
    def pretrained(cls, action: str = "candidate") -> Self:
        """A policy that ships with the package: set transformer, trained on up to six targets.

        `history_` shows its training, ``benchmarks/viewpoint_policies.py`` repeats it and says what it is worth.

        Parameters
        ----------
        action : {"candidate", "displacement"}, default="candidate"
            What it decides: which viewpoint to make for, the better of the two; or how to move next.
        """
        return cls.load(shipped(action))


def shipped(action: str) -> Path:
    """The file of the policy that ships."""
    check_choice("action", action, ACTIONS)
    return Path(__file__).parent / "weights" / f"viewpoint_policy_{action}.safetensors"


def stack_tables(tables: Sequence[NDArray]) -> dict[str, NDArray]:
    """Tables of targets (n_e, n_columns), one an episode, as one padded observation."""
    tables = [np.asarray(table, np.float32) for table in tables]
    if not tables or any(table.ndim != 2 or not len(table) for table in tables):
        raise ValueError(
            "obs must be a dict of arrays, or a list of tables with a row for each target and at least one, got shapes "
            f"{[table.shape for table in tables]}"
        )
    widths = {table.shape[1] for table in tables}
    if len(widths) > 1:
        raise ValueError(f"the tables in obs must have equally many columns, got {sorted(widths)}")
    n = max(len(table) for table in tables)
    targets = np.zeros((len(tables), n, widths.pop()), np.float32)
    mask = np.zeros((len(tables), n), bool)
    for row, table in enumerate(tables):
        targets[row, : len(table)], mask[row, : len(table)] = table, True
    return {"targets": targets, "mask": mask}


def _specification(env) -> dict[str, Any]:
    """What a policy has to know of the environment that it was trained in."""
    n_targets, n_columns = env.observation_space["targets"].shape
    candidates = env.action_space.shape == ()
    return {
        "n_targets": n_targets,
        "n_columns": n_columns,
        "n_candidates": int(env.action_space.n) // n_targets if candidates else None,
    }


def _described(value: Any) -> str:
    """A parameter as any process writes it."""
    plain = type(value).__repr__ is not object.__repr__ and not callable(value)
    return repr(value) if plain else getattr(value, "__qualname__", type(value).__qualname__)


@contextlib.contextmanager
def _private_randomness(n_threads: int | None) -> Iterator[None]:
    """Global random numbers and torch's threads are afterwards what they were before."""
    python, numpy, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()  # noqa: NPY002
    try:
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(numpy)  # noqa: NPY002
        random.setstate(python)
