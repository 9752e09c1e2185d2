"""DAgger: a warm start by imitation of an expert that knows more than the policy may.

    for round j = 0, 1, ...:
        fly on, each decision by the expert with probability 2^-j, else by the learner
        label every visited state with the expert's action, and add both to the data
        fit the learner to minibatches of all data

The expert may use the sensor's model and the beliefs; the learner sees observations alone. Since the learner's own states are
among the data, it learns to come back from its own mistakes.

The loss is the squared error of a displacement, or the cross-entropy of a candidate. Half of the records of a minibatch of displacements are
seen in a mirror (`networks.mirrored`): the task has that symmetry, which doubles the data at no cost.

References
----------
Ross, Gordon, Bagnell (2011), A reduction of imitation learning and structured prediction to no-regret online learning, AISTATS.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .baselines._policy import Policy
from .candidates import CANDIDATES, candidate_action
from .networks import PointerHead, SetNetwork, act, mirrored
from .ppo import WARM_START, SceneVecEnv, summary
from .scene import Scene

ROUND = 64  # steps of every environment a round
PASSES = 8  # how often a record of a round is used in that round, on average, were it the only one
BATCH = 1024
LEARNING_RATE = 3e-3  # at the start; it falls linearly to a twentieth


def imitate(
    actor: SetNetwork,
    env: SceneVecEnv,
    expert: Policy,
    n_steps: int,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """Fit an actor to an expert, in place.

    Parameters
    ----------
    actor : SetNetwork
    env : SceneVecEnv
    expert : Policy
    n_steps : int
        Decisions to visit, over all environments; rounded to rounds of `ROUND` steps.
    rng : numpy Generator
        Draws who flies, and the minibatches.

    Yields
    ------
    dict
        A row of the history, after each round.
    """
    n_rounds = max(1, round(n_steps / (ROUND * env.num_envs)))
    optimizer = torch.optim.Adam(actor.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, n_rounds)
    started = time.process_time()
    data: list[tuple[Tensor, Tensor, Tensor]] = []
    obs = env.reset()
    for j in range(n_rounds):
        for _ in range(ROUND):
            wanted = _asked(expert, env, obs)
            observed = torch.as_tensor(obs["targets"]), torch.as_tensor(obs["mask"]).bool()
            data.append((*observed, torch.as_tensor(wanted)))
            by_expert = rng.random(env.num_envs) < 0.5**j
            flown = act(actor, *observed)
            flown[by_expert] = wanted[by_expert]
            obs, *_ = env.step(flown)
        columns = [torch.cat(column) for column in zip(*data, strict=True)]
        loss = _fit(actor, optimizer, columns, PASSES * ROUND * env.num_envs // BATCH, rng)
        schedule.step()
        yield {
            "stage": WARM_START,
            "steps": (j + 1) * ROUND * env.num_envs,
            "cpu_s": time.process_time() - started,
            "loss": loss,
            **summary(env.ended, env.env.scene.dt),
        }
        env.ended.clear()


def _asked(expert: Policy, env: SceneVecEnv, obs: dict[str, NDArray]) -> NDArray:
    """What the expert would do; where choices are flown, the choice that comes nearest to its displacement."""
    scene = env.env.scene
    wanted = expert.predict(obs, scene) if expert.needs_scene else expert.predict(obs)
    if scene.action == "candidate" and wanted.ndim == 2:
        wanted = nearest_candidate(scene, wanted)
    return wanted


def nearest_candidate(scene: Scene, displacement: NDArray) -> NDArray[np.int64]:
    """The candidate viewpoints (E,) of open targets, towards which the drone would fly most nearly by `displacement` (E, 3).

    At its full speed the drone flies alike to many of them: among equals, the one of the nearest target is taken.
    """
    e, n = scene.active.shape
    moves = np.stack(
        [
            candidate_action(np.full(e, choice), scene.drone, scene.targets, scene.dt, scene.side)
            for choice in range(n * len(CANDIDATES))
        ],
        axis=1,
    )
    gap = ((moves - displacement[:, None]) ** 2).sum(-1).reshape(e, n, -1)
    gap += 1e-3 * np.hypot(scene.relative[..., 0], scene.relative[..., 1])[..., None]
    gap[~scene.active | scene.tracked] = np.inf
    return gap.reshape(e, -1).argmin(1)


def _fit(
    actor: SetNetwork,
    optimizer: torch.optim.Optimizer,
    data: list[Tensor],
    n_batches: int,
    rng: np.random.Generator,
) -> float:
    """Minibatches of all data, drawn with replacement; returns the mean loss."""
    losses = []
    for _ in range(max(1, n_batches)):
        rows = torch.as_tensor(rng.integers(len(data[0]), size=BATCH))
        targets, mask, wanted = (column[rows] for column in data)
        if isinstance(actor.head, PointerHead):
            loss = F.cross_entropy(actor(targets, mask), wanted)
        else:
            half, sign = len(rows) // 2, torch.tensor([1.0, -1.0, -1.0])
            targets = torch.cat([mirrored(targets[:half]), targets[half:]])
            wanted = torch.cat([wanted[:half] * sign, wanted[half:]]).float()
            loss = F.mse_loss(actor(targets, mask), wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(actor.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))
