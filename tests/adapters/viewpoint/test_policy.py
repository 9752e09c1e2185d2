"""ViewpointPolicy: training that can be repeated, stopped and resumed; decisions; files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.base import clone

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

from statml.adapters.viewpoint import (  # noqa: E402
    ActiveClassificationEnv,
    NearestFrontalPolicy,
    RandomPolicy,
    ViewpointPolicy,
    evaluate,
    ppo,
)
from statml.adapters.viewpoint.dagger import nearest_candidate  # noqa: E402
from statml.adapters.viewpoint.networks import ENCODERS  # noqa: E402
from statml.adapters.viewpoint.policy import shipped  # noqa: E402
from statml.adapters.viewpoint.ppo import SceneVecEnv  # noqa: E402
from statml.adapters.viewpoint.scene import ACTIONS  # noqa: E402

TINY = {
    "d_model": 8,
    "n_heads": 2,
    "warm_start_steps": 512,
    "n_envs": 8,
    "n_steps": 16,
    "batch_size": 64,
    "n_epochs": 2,
    "random_state": 0,
    "progress": False,
    "n_threads": 1,
}
ITERATION = TINY["n_envs"] * TINY["n_steps"]


def env(**parameters):
    return ActiveClassificationEnv(**{"n_targets": (1, 3), "horizon": 30, **parameters})


def weights(policy):
    return torch.cat([values.flatten() for values in policy.network_.state_dict().values()])


@pytest.fixture(scope="module")
def fitted():
    return ViewpointPolicy(total_steps=ITERATION, **TINY).fit(env())


@pytest.fixture(scope="module")
def observation():
    vector = env().vector(6)
    return vector.reset(seed=1)[0]


# --- training -----------------------------------------------------------------------------------------


def test_a_seed_fixes_the_result_and_global_random_numbers_stay(fitted):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - it is the global one that must stay
    expected = torch.rand(1), np.random.random()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    again = clone(fitted).fit(env())
    assert (torch.rand(1), np.random.random()) == expected  # noqa: NPY002
    torch.testing.assert_close(weights(again), weights(fitted), rtol=0, atol=0)
    other = clone(fitted).set_params(random_state=1).fit(env())
    assert not torch.equal(weights(other), weights(fitted))


class _Stop(Exception):
    pass


def _stop_at(iteration):
    from stable_baselines3.common.callbacks import BaseCallback

    class Stop(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            if self.num_timesteps == iteration * ITERATION:
                raise _Stop

    return Stop()


@pytest.mark.parametrize("random_state", [0, None])
def test_a_run_that_was_stopped_goes_on_to_the_same_result(tmp_path, monkeypatch, random_state):
    monkeypatch.setattr(ppo, "STRETCH", 2)
    policy = ViewpointPolicy(total_steps=5 * ITERATION, **TINY, checkpoint_dir=tmp_path / "stopped")
    with pytest.raises(_Stop):
        policy.set_params(random_state=random_state).fit(env(), _stop_at(4))
    assert not hasattr(policy, "network_")
    resumed = clone(policy).fit(env())
    assert list(resumed.history_["steps"]) == [512 + k * ITERATION for k in range(6)]
    if random_state is not None:
        whole = clone(policy).set_params(checkpoint_dir=None).fit(env())
        torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
        same = [name for name in resumed.history_ if name != "cpu_s"]
        np.testing.assert_array_equal(
            resumed.history_[same].drop(columns="stage"), whole.history_[same].drop(columns="stage")
        )
    finished = clone(policy).fit(env())  # nothing is left to do
    torch.testing.assert_close(weights(finished), weights(resumed), rtol=0, atol=0)


def test_a_run_that_has_ended_is_made_longer_and_not_shorter(tmp_path):
    policy = ViewpointPolicy(total_steps=ITERATION, **TINY, checkpoint_dir=tmp_path).fit(env())
    first = weights(policy)
    longer = clone(policy).set_params(total_steps=2 * ITERATION).fit(env())
    assert list(longer.history_["steps"]) == [512, 512 + ITERATION, 512 + 2 * ITERATION]
    assert not torch.equal(weights(longer), first)
    with pytest.raises(
        ValueError, match=rf"total_steps is {ITERATION}, but .* has had {2 * ITERATION}"
    ):
        clone(policy).fit(env())


def test_the_folder_of_another_run_is_refused(tmp_path):
    policy = ViewpointPolicy(total_steps=0, **TINY, checkpoint_dir=tmp_path).fit(env())
    with pytest.raises(ValueError, match=r"holds another run: gamma was 0.99, now is 0.9"):
        clone(policy).set_params(gamma=0.9).fit(env())
    with pytest.raises(ValueError, match=r"holds another run: env.side was 8.0, now is 9.0"):
        clone(policy).fit(env(side=9.0))


def test_the_critic_learns_before_a_warm_started_actor_moves(fitted):
    imitation = clone(fitted).set_params(total_steps=0).fit(env())
    for name, before in imitation.network_.state_dict().items():
        after = fitted.network_.state_dict()[name]
        assert torch.equal(before, after) == (not name.startswith("critic")), name
    assert all(parameter.requires_grad for parameter in fitted.network_.parameters())


def test_without_a_warm_start_the_actor_learns_from_the_first_iteration():
    policy = ViewpointPolicy(total_steps=ITERATION, **TINY).set_params(warm_start=None)
    start = clone(policy).set_params(total_steps=0).fit(env())
    after = policy.fit(env())
    assert not torch.equal(after.network_.log_std, start.network_.log_std)
    assert set(after.history_["stage"]) == {"training"}


def test_imitation_learns_what_the_expert_does():
    """Of one target that stands still, 30 times better than chance: 4 standard errors of 100 episodes are 0.2."""
    scene = env(n_targets=1, horizon=60, target_motion="static")
    policy = ViewpointPolicy(
        total_steps=0,
        d_model=32,
        warm_start_steps=16_384,
        n_envs=64,
        random_state=0,
        progress=False,
    ).fit(scene)
    loss = policy.history_["loss"]
    assert loss.iloc[-1] < 0.5 * loss.iloc[0]
    assert policy.score(scene) > RandomPolicy().score(scene) + 0.4


@pytest.mark.parametrize("arch", ENCODERS)
@pytest.mark.parametrize("action", ["displacement", "candidate"])
def test_every_architecture_trains_on_either_kind_of_action(arch, action, observation):
    policy = ViewpointPolicy(arch, total_steps=ITERATION, **TINY).fit(env(action=action))
    actions = policy.predict(observation)
    if action == "displacement":
        assert actions.shape == (6, 3)
        assert np.abs(actions).max() <= 1
    else:
        n_candidates = policy.env_spec_["n_candidates"]
        assert (actions // n_candidates < observation["mask"].sum(1)).all()
    assert 0 <= policy.score(env(action=action), n_episodes=3) <= 1
    assert torch.isfinite(weights(policy)).all()


def test_other_algorithms_and_the_published_columns():
    policy = ViewpointPolicy(algorithm="a2c", total_steps=ITERATION, **TINY).fit(
        env(paper_compat=True)
    )
    assert policy.n_features_in_ == 8
    assert policy.history_["entropy"].notna().iloc[-1]


def test_the_choice_nearest_to_a_displacement_is_of_an_open_target():
    vector = env(action="candidate", n_targets=3).vector(20)
    vector.reset(seed=0)
    scene = vector.scene
    scene.tracked[:10, 0] = True
    from statml.adapters.viewpoint.candidates import CANDIDATES, candidate_action

    rng = np.random.default_rng(0)
    choice = rng.integers(3 * len(CANDIDATES), size=20)
    wanted = candidate_action(choice, scene.drone, scene.targets, scene.dt, scene.side)
    nearest = nearest_candidate(scene, wanted)
    assert (nearest[:10] // len(CANDIDATES) != 0).all()
    open_ = ~scene.tracked[np.arange(20), choice // len(CANDIDATES)]
    flown = candidate_action(nearest, scene.drone, scene.targets, scene.dt, scene.side)
    np.testing.assert_allclose(flown[open_], wanted[open_], atol=0.15)


# --- the engine ---------------------------------------------------------------------------------------


def test_a_time_out_is_told_with_the_observation_at_which_it_happened():
    vector = SceneVecEnv(env(horizon=5, n_targets=3).vector(4), reward_scale=0.1)
    vector.seed(0)
    vector.reset()
    for _ in range(4):
        _, _, done, infos = vector.step(np.zeros((4, 3), np.float32))
        assert not done.any()
    before = vector.env.scene.observe()["targets"]
    first, _, done, infos = vector.step(np.zeros((4, 3), np.float32))
    assert done.all()
    for i, info in enumerate(infos):
        assert info["TimeLimit.truncated"]
        last = info["terminal_observation"]["targets"]
        moved = np.abs(last[..., 1:3] - before[i, :, 1:3]).max()
        assert moved < 1.5  # the same targets a step later,
        assert (
            np.abs(first["targets"][i, :, 1:3] - last[:, 1:3]).max() > 1.5
        )  # and not the next ones
    assert [row[:2] for row in vector.ended] == [(False, 5)] * 4


def test_the_value_of_what_a_time_out_cut_off_is_added_to_the_reward():
    from stable_baselines3 import PPO
    from statml.adapters.viewpoint.networks import ActorCritic

    torch.manual_seed(0)
    network = ActorCritic("deepsets", 9, d_model=8)
    network.critic.head.linear.bias.data.fill_(100.0)  # values of about 100 everywhere
    network.critic.head.linear.weight.data.zero_()
    vector = SceneVecEnv(env(horizon=5, n_targets=3).vector(4), reward_scale=0.1)
    model = PPO(
        ppo.SetPolicy, vector, n_steps=6, batch_size=24, gamma=0.9, device="cpu",
        policy_kwargs={"network": network},
    )  # fmt: skip
    model.learn(24)
    rewards = model.rollout_buffer.rewards
    assert (rewards[4] > 85).all()  # 0.9 * 100 and a reward of order one
    assert (np.abs(rewards[[0, 1, 2, 3, 5]]) < 15).all()


# --- decisions ----------------------------------------------------------------------------------------


def test_tables_of_targets_are_taken_as_the_padded_arrays_are(fitted, observation):
    tables = [t[m > 0] for t, m in zip(observation["targets"], observation["mask"], strict=True)]
    assert len({len(table) for table in tables}) > 1
    np.testing.assert_allclose(fitted.predict(tables), fitted.predict(observation), atol=1e-6)
    values = fitted.predict_value(observation)
    assert values.shape == (6,)
    np.testing.assert_allclose(fitted.predict_value(tables), values, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t, m: {"targets": t[..., :8], "mask": m},
            r"targets of shape \(episodes, targets, 9\)",
        ),
        (lambda t, m: {"targets": t, "mask": m[:, :1]}, r"mask of shape \(6, 3\), got \(6, 1\)"),
        (lambda t, m: {"targets": t, "mask": 0 * m}, "at least one target in every episode"),
        (lambda t, m: {"targets": t * np.nan, "mask": m}, "must be finite"),
        (lambda t, m: [t[0], t[0][:0]], r"at least one, got shapes"),
        (lambda t, m: [t[0], t[0][:, :8]], r"equally many columns, got \[8, 9\]"),
        (lambda t, m: [], "got shapes"),
    ],
)
def test_observations_that_make_no_sense_are_refused(fitted, observation, change, message):
    with pytest.raises(ValueError, match=message):
        fitted.predict(change(observation["targets"], observation["mask"]))


@pytest.mark.parametrize(
    ("parameter", "value", "error"),
    [
        ("arch", "transformer", ValueError),
        ("algorithm", "sac", ValueError),
        ("n_heads", 3, ValueError),
        ("total_steps", -1, ValueError),
        ("n_envs", 0, ValueError),
        ("learning_rate", 0.0, ValueError),
        ("gamma", 1.5, ValueError),
        ("clip", 0.0, ValueError),
        ("reward_scale", -1.0, ValueError),
        ("warm_start", "optimal", ValueError),
        ("warm_start", 3, TypeError),
        ("progress", "yes", ValueError),
        ("n_threads", 0, ValueError),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(parameter, value, error):
    with pytest.raises(error, match=parameter):
        ViewpointPolicy(**{**TINY, parameter: value}).fit(env())


def test_what_is_no_environment_is_refused():
    with pytest.raises(TypeError, match="env must be an ActiveClassificationEnv, got list"):
        ViewpointPolicy(**TINY).fit([])


# --- files --------------------------------------------------------------------------------------------


def test_a_saved_policy_decides_as_before(fitted, observation, tmp_path):
    fitted.save(tmp_path / "policy.safetensors")
    loaded = ViewpointPolicy.load(tmp_path / "policy.safetensors")
    np.testing.assert_array_equal(loaded.predict(observation), fitted.predict(observation))
    np.testing.assert_array_equal(
        loaded.predict_value(observation), fitted.predict_value(observation)
    )
    parameters = loaded.get_params()
    assert {n: v for n, v in fitted.get_params().items() if parameters[n] != v} == {
        "random_state": 0,
        "progress": False,
    }
    assert list(loaded.history_.columns) == list(fitted.history_.columns)
    np.testing.assert_array_equal(loaded.history_["loss"], fitted.history_["loss"])


def test_a_file_that_was_changed_is_refused(fitted, tmp_path):
    path = tmp_path / "policy.safetensors"
    fitted.save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="changed after it was written"):
        ViewpointPolicy.load(path)
    fitted.save(path)
    path.write_bytes(path.read_bytes().replace(b'\\"gamma\\": 0.99', b'\\"gamma\\": 0.98'))
    with pytest.raises(ValueError, match="changed after it was written"):
        ViewpointPolicy.load(path)
    path.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="no safetensors file"):
        ViewpointPolicy.load(path)


def test_a_safetensors_file_of_something_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors", {"format": json.dumps(1)})
    with pytest.raises(ValueError, match="was not written by ViewpointPolicy.save"):
        ViewpointPolicy.load(tmp_path / "other.safetensors")


# --- the policy that ships ----------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
def test_the_shipped_policy_beats_the_hand_crafted_one_on_common_scenarios(action):
    """By a paired 99.9 % interval, on 100 scenarios of six targets (trained on one to six)."""
    results = evaluate(
        {"trained": ViewpointPolicy.pretrained(action), "frontal": NearestFrontalPolicy()},
        env(n_targets=6, horizon=100, random_beliefs=False),
        100,
        random_state=11,
        progress=False,
    )
    paired = results.paired("trained", "frontal", level=0.999)
    assert paired.loc["success", "conf_low"] > 0
    assert paired.loc["seconds", "conf_high"] < 0


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("n_targets", [1, 12])
def test_the_shipped_policy_takes_any_number_of_targets(n_targets, action):
    policy = ViewpointPolicy.pretrained(action)
    assert policy.action == action
    scene = env(n_targets=n_targets, side=15.0, action=action).vector(3)
    observed = scene.reset(seed=0)[0]
    assert np.isfinite(scene.step(policy.predict(observed))[1]).all()
    assert np.isfinite(policy.predict_value(observed)).all()


def test_the_shipped_files_are_small():
    assert sum(shipped(action).stat().st_size for action in ACTIONS) < 1_000_000
    with pytest.raises(ValueError, match="action must be"):
        shipped("hover")
