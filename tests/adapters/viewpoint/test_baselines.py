"""Policies that are not learned: optimal where the optimum is known, and as good as was measured on another program."""

import numpy as np
import pytest
from statml.adapters import ActiveClassificationEnv
from statml.adapters.viewpoint import (
    GreedyInformationPolicy,
    NearestFrontalPolicy,
    OrbitPolicy,
    RandomPolicy,
    Scenario,
    Scene,
    TourPolicy,
    plate_quality,
)
from statml.adapters.viewpoint.baselines.tour import _first_of_tour
from statml.adapters.viewpoint.evaluation import evaluate
from statml.adapters.viewpoint.geometry import displace, relative_poses
from statml.adapters.viewpoint.visibility import seen


def in_front(distance):
    return Scenario.placed([0, 0, 0], [[distance, 0, np.pi]], 6)


def flown(policy, scene, scenario):
    return evaluate([policy], scene, scenario).frame


def steps_of(policy, distance):
    scene = Scene(n_targets=1, target_motion="static")
    return round(flown(policy, scene, in_front(distance))["seconds"][0] / scene.dt)


def fewest_steps(distance, limit=6):
    """Breadth-first search over 5 x 5 x 5 actions; states merge on a grid of 0.1 m and 2.5 degrees, keeping the best evidence."""
    axis = np.linspace(-1, 1, 5)
    actions = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    target = np.array([[distance, 0.0, np.pi]])
    poses, evidence = np.zeros((1, 3)), np.zeros(1)
    for step in range(1, limit + 1):
        here = np.repeat(poses, len(actions), 0)
        there = displace(here, np.tile(actions, (len(poses), 1)), 0.25, np.full(len(here), 8.0))
        relative = relative_poses(there, target)
        visible = seen(relative, np.ones((len(there), 1), bool))
        p = np.where(visible, plate_quality(relative), 0)[:, 0] + 1 / 6
        total = np.repeat(evidence, len(actions)) + np.log(p * 5 / (1 - p))
        if total.max() >= np.log(19 * 5):
            return step
        order = np.argsort(-total)
        cells = np.rint(there[order] / [0.1, 0.1, np.radians(2.5)]).astype(int)
        keep = order[np.unique(cells, axis=0, return_index=True)[1]]
        poses, evidence = there[keep], total[keep]
    raise AssertionError("no plan found")


@pytest.mark.parametrize(("distance", "optimum", "heuristic"), [(3, 2, 3), (5, 4, 4)])
def test_the_expert_needs_as_few_steps_as_any_plan(distance, optimum, heuristic):
    assert fewest_steps(distance) == optimum
    assert steps_of(GreedyInformationPolicy(), distance) == optimum
    assert steps_of(NearestFrontalPolicy(distance=3.375), distance) == heuristic


# success and mean seconds of successes on 16 x 16 m, constant velocities, uniform beliefs, over 200 episodes of an independent program
MEASURED = {
    ("random", 1): (0.20, None),
    ("random", 6): (0.0, None),
    ("frontal", 1): (0.985, 4.7),
    ("frontal", 3): (0.95, 13.3),
    ("frontal", 6): (0.48, 19.3),
    ("greedy", 1): (1.0, 3.7),
    ("greedy", 3): (1.0, 9.6),
    ("greedy", 6): (0.945, 17.0),
}


@pytest.fixture(scope="module")
def runs():
    policies = {
        "random": RandomPolicy(),
        "frontal": NearestFrontalPolicy(distance=3.375),
        "greedy": GreedyInformationPolicy(),
    }
    found = {}
    for n in (1, 3, 6):
        scene = Scene(n_targets=n, random_beliefs=False)
        scenario = scene.draw(np.arange(120) + 31_000)
        for name, policy in policies.items():
            found[name, n] = flown(policy, scene, scenario)
    return found


@pytest.mark.parametrize("case", MEASURED)
def test_the_table_of_baselines_is_reproduced(runs, case):
    success, seconds = MEASURED[case]
    run = runs[case]
    n = len(run["success"])
    share = run["success"].mean()
    pooled = (share * n + success * 200) / (n + 200)
    error = np.sqrt(max(pooled * (1 - pooled), 1 / (n + 200)) * (1 / n + 1 / 200))
    assert abs(share - success) < 3.5 * error
    if seconds is not None:
        times = run["seconds"][run["success"]]
        error = times.std() * np.sqrt(1 / len(times) + 1 / (200 * success))
        assert (
            abs(times.mean() - seconds) < 3.5 * error + 0.25
        )  # and a step, since the programs are two


def test_policies_rank_as_they_should_on_the_same_scenarios(runs):
    for better, worse in (("greedy", "frontal"), ("frontal", "random")):
        difference = runs[better, 6]["fraction"] - runs[worse, 6]["fraction"]
        assert difference.mean() > 4 * difference.std() / np.sqrt(len(difference))


def test_more_aspects_help_where_static_targets_hide_each_other():
    scene = Scene(n_targets=6, target_motion="static", random_beliefs=False)
    scenario = scene.draw(np.arange(120) + 32_000)
    front = flown(GreedyInformationPolicy(), scene, scenario)
    around = flown(GreedyInformationPolicy(aspects=(-20, -10, 0, 10, 20)), scene, scenario)
    gain = around["fraction"] - front["fraction"]
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))


def test_a_target_is_kept_until_it_is_classified():
    scene = Scene(n_targets=2, target_motion="static")
    # the first is nearer at first; on the way round to its front the second comes nearer
    scene.set_scenario(Scenario.placed([0, 0, 0], [[3, 0, 0], [5, 0, np.pi]], 6))
    policy = NearestFrontalPolicy()
    policy.reset(1)
    kept = []
    for _ in range(60):
        scene.step(policy.predict(scene.observe()))
        kept.append(policy._target[0])
        if scene.tracked[0].any():
            break
    assert set(kept) == {0}


def test_policies_stand_still_when_all_is_classified():
    scene = Scene(n_targets=2, target_motion="static")
    start = Scenario.placed([0, 0, 0], [[3, 0, 0], [5, 2, np.pi]], 6)
    start.beliefs[:] = np.eye(6)[0] * 0.994 + 0.001
    scene.set_scenario(start)
    observation = scene.observe()
    for policy in (NearestFrontalPolicy(), TourPolicy()):
        np.testing.assert_array_equal(policy.predict(observation), 0)
    np.testing.assert_array_equal(GreedyInformationPolicy().predict(observation, scene), 0)


@pytest.mark.parametrize(
    "policy",
    [
        RandomPolicy(),
        NearestFrontalPolicy(),
        TourPolicy(),
        GreedyInformationPolicy(),
        OrbitPolicy(),
    ],
)
def test_every_policy_acts_within_bounds_repeats_itself_and_scores(policy):
    env = ActiveClassificationEnv(n_targets=(1, 5), target_motion=("brownian", "social_force"))
    env.reset(seed=0)
    before = env.scene.drone.copy()
    score = policy.score(env, n_episodes=12, random_state=3)
    assert 0 <= score <= 1
    assert policy.score(env, n_episodes=12, random_state=3) == score
    np.testing.assert_array_equal(env.scene.drone, before)  # the caller's episode is its own
    assert type(policy).__name__ in repr(policy)


def test_a_single_environment_is_a_batch_of_one():
    env = ActiveClassificationEnv(n_targets=3)
    observation, _ = env.reset(seed=2)
    batch = {name: part[None] for name, part in observation.items()}
    for policy in (NearestFrontalPolicy(), TourPolicy(), GreedyInformationPolicy(), OrbitPolicy()):
        one = policy.predict(observation, env.scene)
        assert one.shape == (3,)
        np.testing.assert_array_equal(one, policy.predict(batch, env.scene)[0])
    with pytest.raises(ValueError, match="scene must be given to GreedyInformationPolicy"):
        GreedyInformationPolicy().predict(observation)


def test_an_orbit_circles_the_field():
    scene = Scene(n_targets=1)
    scene.reset(0, episodes=20)
    policy = OrbitPolicy()
    for _ in range(60):
        scene.step(policy.predict(None, scene))
    radius = np.hypot(scene.drone[:, 0], scene.drone[:, 1])
    np.testing.assert_allclose(radius, 0.6 * 8, atol=0.5)
    inwards = np.arctan2(-scene.drone[:, 1], -scene.drone[:, 0])
    off = np.abs((scene.drone[:, 2] - inwards + np.pi) % (2 * np.pi) - np.pi)
    assert off.max() < np.radians(20)


def test_tours_are_as_short_as_exhaustive_ones_or_nearly():
    from itertools import permutations

    rng = np.random.default_rng(0)
    shortest = found = 0
    for _ in range(60):
        places = rng.uniform(-8, 8, (5, 2))

        def length(order, places=places):
            path = np.vstack([np.zeros(2), places[list(order)]])
            return np.hypot(*np.diff(path, axis=0).T).sum()

        best = min(permutations(range(5)), key=length)
        shortest, found = shortest + 1, found + (_first_of_tour(places) == best[0])
    assert found / shortest > 0.8


def test_scoring_needs_episodes():
    with pytest.raises(ValueError, match="n_episodes must be"):
        NearestFrontalPolicy().score(ActiveClassificationEnv(), n_episodes=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NearestFrontalPolicy(distance=0), "distance must be"),
        (lambda: GreedyInformationPolicy(stick=0.5), "stick must be"),
        (lambda: GreedyInformationPolicy(tau=-1), "tau must be"),
        (lambda: GreedyInformationPolicy(aspects=()), "aspects must name at least one"),
        (lambda: GreedyInformationPolicy(aspects=(270,)), "aspects must be"),
        (lambda: OrbitPolicy(radius=1), "radius must be"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
