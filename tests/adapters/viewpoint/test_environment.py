"""The gymnasium faces: the checker is silent, seeds fix everything, and the batch is its scalars."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from statml.adapters import ActiveClassificationEnv
from statml.adapters.viewpoint import (
    CANDIDATES,
    ActiveClassificationVectorEnv,
    GreedyInformationPolicy,
    Scenario,
)

PARAMETERS = {
    "n_targets": (1, 4),
    "target_motion": ("constant_velocity", "brownian"),
    "horizon": 30,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"action": "candidate", "n_targets": 3},
        {"paper_compat": True},
        {"side": (5.0, 25.0), "target_motion": "social_force", "n_targets": 10},
    ],
)
def test_the_checker_is_silent(parameters):
    check_env(gymnasium.make("statml/ActiveClassification-v0", **parameters).unwrapped)


def test_spaces_are_finite_and_hold_what_comes():
    env = ActiveClassificationEnv(**PARAMETERS)
    box = env.observation_space["targets"]
    assert np.isfinite(box.low).all()
    assert np.isfinite(box.high).all()
    observation, info = env.reset(seed=1)
    assert observation in env.observation_space
    assert info["n_targets"] == observation["mask"].sum()
    for _ in range(30):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert observation in env.observation_space
        if terminated or truncated:
            break


def test_a_time_out_is_a_truncation_and_completion_a_termination():
    env = ActiveClassificationEnv(n_targets=1, target_motion="static", horizon=3)
    env.reset(options={"scenario": Scenario.placed([0, 0, 0], [[-3, 0, 0]], 6)})
    ends = [env.step(np.zeros(3))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    env.reset(options={"scenario": Scenario.placed([0, 0, 0], [[2.5, 0, np.pi]], 6)})
    _, first, *ends = env.step(np.zeros(3))[:4]
    assert ends == [False, False]
    _, last, *ends, info = env.step(np.zeros(3))
    assert ends == [True, False]
    assert last == pytest.approx(105)
    assert first < 3
    assert info == {"n_targets": 1, "n_classified": 1, "n_right": 1}


def test_seeds_fix_the_episode_and_the_ones_after():
    runs = []
    for _ in range(2):
        env = ActiveClassificationEnv(**PARAMETERS)
        first, _ = env.reset(seed=4)
        second, _ = env.reset()
        runs.append((first["targets"], second["targets"]))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert runs[0][0].shape == runs[0][1].shape
    assert (runs[0][0] != runs[0][1]).any()


@pytest.mark.parametrize("bad", [np.full(3, np.nan), np.array([0, 0, 1.2]), np.zeros(2), 4])
def test_bad_actions_are_refused(bad):
    env = ActiveClassificationEnv(n_targets=2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must"):
        env.step(bad)


def test_choices_of_padding_are_masked_and_refused():
    env = ActiveClassificationEnv(n_targets=(1, 4), action="candidate")
    env.reset(options={"scenario": Scenario.placed([0, 0, 0], [[3, 0, 0], [0, 3, 0]], 6)})
    mask = env.action_masks()
    assert mask.shape == (env.action_space.n,)
    assert mask.sum() == 2 * len(CANDIDATES)
    env.step(np.flatnonzero(mask)[-1])
    with pytest.raises(ValueError, match="a target that exists"):
        env.step(np.flatnonzero(~mask)[0])
    with pytest.raises(ValueError, match="action masks"):
        ActiveClassificationEnv().action_masks()


def test_scenarios_of_another_number_are_refused():
    two = Scenario.placed(np.zeros((2, 3)), [[3, 0, 0]], 6)
    with pytest.raises(ValueError, match="must be of 1 episode, got 2"):
        ActiveClassificationEnv().reset(options={"scenario": two})
    with pytest.raises(ValueError, match="must be of 3 episodes, got 2"):
        ActiveClassificationEnv().vector(3).reset(options={"scenario": two})


# --- many at once


def expert_actions(envs, scene):
    return GreedyInformationPolicy().predict(None, scene).astype(np.float32)


def test_the_batch_is_gymnasiums_loop_over_scalars():
    """Observations, rewards, endings and infos, over several episodes each, some completed and some cut."""
    e = 6
    batch = ActiveClassificationEnv(**PARAMETERS).vector(e)
    loop = SyncVectorEnv(
        [lambda: ActiveClassificationEnv(**PARAMETERS)] * e, autoreset_mode=AutoresetMode.SAME_STEP
    )
    one, infos = batch.reset(seed=7)
    two, others = loop.reset(seed=7)
    completed = cut = 0
    for _ in range(120):
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
            assert one[name].dtype == two[name].dtype
        assert set(infos) == set(others)
        for name in ("n_targets", "n_classified", "n_right"):
            np.testing.assert_array_equal(infos[name], others[name])
        if "final_obs" in others:
            ended = others["_final_obs"]
            np.testing.assert_array_equal(infos["_final_obs"], ended)
            for i in np.flatnonzero(ended):
                for name in one:
                    np.testing.assert_array_equal(
                        infos["final_obs"][i][name], others["final_obs"][i][name]
                    )
            assert set(infos["final_info"]) == set(others["final_info"])
            for name in infos["final_info"]:
                np.testing.assert_array_equal(infos["final_info"][name], others["final_info"][name])
        action = expert_actions(batch, batch.scene)
        one, rewards, ends, cuts, infos = batch.step(action)
        two, other_rewards, other_ends, other_cuts, others = loop.step(action)
        np.testing.assert_allclose(rewards, other_rewards, atol=1e-9)
        np.testing.assert_array_equal(ends, other_ends)
        np.testing.assert_array_equal(cuts, other_cuts)
        completed, cut = completed + ends.sum(), cut + cuts.sum()
    assert completed >= 5
    assert cut >= 5


def test_the_last_observation_is_of_the_episode_that_ended():
    envs = ActiveClassificationEnv(n_targets=1, horizon=4, target_motion="static").vector(2)
    far = Scenario.placed(np.zeros((2, 3)), [[-3, 0, 0]], 6)
    envs.reset(seed=0, options={"scenario": far})
    for _ in range(4):
        observation, _, ends, cuts, infos = envs.step(np.zeros((2, 3)))
    assert cuts.all()
    assert not ends.any()
    assert infos["final_obs"][0]["targets"][0, 1] == -3
    assert infos["final_info"]["n_classified"].tolist() == [0, 0]
    assert observation["targets"][0, 0, 1] != -3
    assert envs.scene.time.tolist() == [0, 0]


def test_the_batch_declares_how_it_resets_and_is_found_by_name():
    envs = gymnasium.make_vec(
        "statml/ActiveClassification-v0",
        num_envs=3,
        vectorization_mode="vector_entry_point",
        n_targets=2,
    )
    assert isinstance(envs, ActiveClassificationVectorEnv)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    observation, _ = envs.reset(seed=[1, None, 3])
    assert observation in envs.observation_space
    assert envs.action_space.shape == (3, 3)
    with pytest.raises(ValueError, match="seed must be one for each of 3, got 2"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ValueError, match="num_envs must be an integer >= 1"):
        ActiveClassificationEnv().vector(0)


def test_resetting_without_a_seed_goes_on_in_the_stream():
    envs = ActiveClassificationEnv(n_targets=2).vector(2)
    first = envs.reset(seed=5)[0]["targets"]
    second = envs.reset()[0]["targets"]
    assert (first != second).any()
    np.testing.assert_array_equal(envs.reset(seed=5)[0]["targets"], first)
    np.testing.assert_array_equal(envs.reset()[0]["targets"], second)
