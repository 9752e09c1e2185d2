"""Policies compared on the same scenarios.

Every policy flies the same starts, and meets the same target motions and sensor noise, so that differences between two
policies are differences within scenarios: most of the variance, how hard a scenario is, cancels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from statml._validation import RandomState, check_integer
from statml.parallel import progress_bar

from .information import entropy
from .results import ViewpointResults
from .scenario import Scenario, draw_keys
from .scene import Scene, StepResult

if TYPE_CHECKING:
    from .environment import ActiveClassificationEnv


def evaluate(
    policies: Mapping[str, Any] | Sequence[Any],
    env: ActiveClassificationEnv | Scene,
    scenarios: int | Scenario = 300,
    *,
    random_state: RandomState = 0,
    progress: bool | str = "auto",
) -> ViewpointResults:
    """Fly policies through common scenarios, each until all targets are classified or the horizon is reached.

    Parameters
    ----------
    policies : dict of str to policy, or sequence of policies
        A sequence is named by the classes. A policy has ``predict(observation)``; see `Policy`.
    env : ActiveClassificationEnv or Scene
        Whose settings are used (among them whether beliefs start at random or uniform), except for ``action``: every policy flies its own kind.
        Its episode stays as it is.
    scenarios : int or Scenario, default=300
        How many to draw, or the scenarios themselves.
    random_state : int, SeedSequence, Generator, RandomState or None, default=0
        Of the draw.
    progress : "auto", True or False, default="auto"
        A bar over policies.

    Returns
    -------
    ViewpointResults

    Raises
    ------
    ValueError
        If there is no policy, or two have one name.
    TypeError
        If one has no ``predict``.

    Examples
    --------
    >>> from statml.adapters.viewpoint import NearestFrontalPolicy, RandomPolicy, Scene, evaluate
    >>> scene = Scene(n_targets=2, random_beliefs=False)
    >>> results = evaluate([RandomPolicy(), NearestFrontalPolicy()], scene, scenarios=40)
    >>> results.frame.shape[0]
    80
    >>> bool(results.paired("NearestFrontalPolicy", "RandomPolicy").loc["success", "conf_low"] > 0)
    True
    """
    named = _named(policies)
    scene = getattr(env, "scene", env)
    if not isinstance(scenarios, Scenario):
        n = check_integer("scenarios", scenarios, low=1)
        scenarios = scene.draw(draw_keys(random_state, n))
    frames, targets = [], []
    with progress_bar(len(named), progress, "policies") as bar:
        for name, policy in named.items():
            by_scenario, by_target = _measured(policy, copy.copy(scene), scenarios)
            by_scenario.insert(0, "policy", name)
            by_target.insert(0, "policy", name)
            frames.append(by_scenario)
            targets.append(by_target)
            bar.update()
    return ViewpointResults(
        pd.concat(frames, ignore_index=True),
        pd.concat(targets, ignore_index=True),
        horizon=scene.horizon * scene.dt,
    )


def play(policy: Any, scene: Scene, scenario: Scenario) -> Iterator[StepResult]:
    """Fly a policy through a scenario, step by step, until every episode is finished.

    Parameters
    ----------
    policy : policy
    scene : Scene
        Is advanced, by actions of the policy's kind.
    scenario : Scenario

    Yields
    ------
    StepResult
    """
    scene.set_scenario(scenario)
    scene.action = getattr(policy, "action", scene.action)
    if hasattr(policy, "reset"):
        policy.reset(scene.episodes)
    knows_scene = getattr(policy, "needs_scene", False)
    while not scene.finished.all():
        observation = scene.observe()
        action = policy.predict(observation, scene) if knows_scene else policy.predict(observation)
        yield scene.step(action)


def _measured(policy: Any, scene: Scene, scenario: Scenario) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a scenario, and one row a target."""
    horizon = scene.horizon * scene.dt
    E = len(scenario)
    seconds, reward, way = np.full(E, horizon), np.zeros(E), np.zeros(E)
    nearest = np.full(E, np.inf)
    success, running = np.zeros(E, bool), np.ones(E, bool)
    declared_at = np.full(scenario.active.shape, np.nan)
    before = scenario.drone
    for result in play(policy, scene, scenario):
        now = scene.time * scene.dt
        reward += result.reward
        way += running * np.linalg.norm(scene.drone[:, :2] - before[:, :2], axis=-1)
        gap = np.hypot(*np.moveaxis(scene.relative[..., :2], -1, 0))
        gap = np.where(scene.active, gap, np.inf).min(-1)
        nearest = np.where(running, np.minimum(nearest, gap), nearest)
        declared_at = np.where(result.newly, now[:, None], declared_at)
        finished = running & result.done_all
        seconds[finished], success = now[finished], success | finished
        running, before = ~scene.finished, scene.drone
    declared_at[scene.tracked & np.isnan(declared_at)] = 0.0  # the start was classified already
    right = scene.declared_right()
    by_scenario = pd.DataFrame(
        {
            "scenario": np.arange(E),
            "n_targets": scene.active.sum(-1),
            "success": success,
            "seconds": seconds,
            "censored": ~success,
            "fraction": scene.fraction_classified(),
            "declared": scene.tracked.sum(-1),
            "declared_right": right.sum(-1),
            "entropy": np.where(scene.active, entropy(scene.beliefs), 0.0).sum(-1),
            "min_distance": nearest,
            "path_length": way,
            "reward": reward,
        }
    )
    episode, target = np.nonzero(scene.active)
    by_target = pd.DataFrame(
        {
            "scenario": episode,
            "target": target,
            "declared": scene.tracked[episode, target],
            "seconds": declared_at[episode, target],
            "belief": scene.beliefs.max(-1)[episode, target],
            "right": (scene.beliefs.argmax(-1) == scene.classes)[episode, target],
        }
    )
    return by_scenario, by_target


def _named(policies: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if not isinstance(policies, Mapping):
        names = [type(policy).__name__ for policy in policies]
        if len(set(names)) < len(names):
            raise ValueError(f"policies must have different names, got {names}; name them: a dict")
        policies = dict(zip(names, policies, strict=True))
    if not policies:
        raise ValueError("policies must hold at least one policy, got none")
    for name, policy in policies.items():
        if not callable(getattr(policy, "predict", None)):
            raise TypeError(f"policies must have a method predict, got {policy!r} for {name!r}")
    return {str(name): policy for name, policy in policies.items()}
