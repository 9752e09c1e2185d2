"""Decisions that are flown: the same alone and in a batch, within the drone's limits and the field's walls."""

import numpy as np
import pytest

pytest.importorskip("piqp")

from statml.adapters.viewpoint import Scene
from statml.adapters.viewpoint.dynamics.tracked import TrackedDynamics
from statml.adapters.viewpoint.mpc import ViewpointMPC


def scene(episodes, actions, **options):
    scene = Scene(n_targets=2, dynamics="mpc", **options)
    scene.reset(np.arange(episodes, dtype=np.uint64), episodes)
    path = [scene.drone]
    for action in actions:
        scene.step(action[:episodes])
        path.append(scene.drone)
    return scene, np.array(path)


def test_a_batch_is_its_episodes():
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 5, 3)).round(1)
    _, together = scene(5, actions)
    _, fewer = scene(2, actions)
    np.testing.assert_allclose(fewer, together[:, :2], atol=1e-5)


def test_the_drone_keeps_its_limits():
    actions = np.tile([1.0, 0.0, 0.0], (10, 4, 1))
    flown, path = scene(4, actions, side=25.0)
    speed = np.diff(path[..., :2], axis=0) / 0.25
    assert np.abs(speed).max() < 2.002
    assert np.abs(speed[0]).max() < 0.3  # it starts from rest
    state = flown._dynamics_state["flight"]
    assert np.abs(state[:, 3:5]).max() > 1.9  # and gets to the speed that was asked for
    assert np.degrees(np.abs(state[:, 6:8])).max() < 12.01


def test_it_comes_to_rest_at_a_viewpoint():
    dynamics = TrackedDynamics()
    pose = np.array([[0.0, 0.0, 3.0]])
    goal = np.array([[0.2, -0.3, -3.1]])
    state = dynamics.start(pose, np.array([8.0]))
    for _ in range(32):
        pose, state = dynamics.move(pose, state, goal, 0.25)
    np.testing.assert_allclose(pose, goal, atol=0.02)
    assert -np.pi <= pose[0, 2] < np.pi


@pytest.mark.parametrize("turn", [-0.2, 0.1, np.radians(15)])
def test_the_yaw_is_where_it_was_asked_for(turn):
    actions = np.tile([0.0, 0.0, turn / np.radians(15)], (3, 2, 1))
    _, path = scene(2, actions)
    turned = np.mod(np.diff(path[..., 2], axis=0) + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(turned, turn, atol=1e-3)


def test_it_stays_within_the_walls():
    actions = np.tile([1.0, 0.3, 0.1], (60, 6, 1))
    _, path = scene(6, actions, side=4.0)
    assert np.abs(path[..., :2]).max() > 3.5
    assert np.abs(path[..., :2]).max() < 4.1


def test_a_point_mass_flies_too():
    options = {"n_targets": 2, "dynamics": TrackedDynamics(ViewpointMPC("point_mass"))}
    flown = Scene(**options)
    flown.reset(0, 3)
    start = flown.drone
    flown.step(np.tile([1.0, 0, 0], (3, 1)))
    assert np.linalg.norm(flown.drone - start, axis=1).min() > 0.03


def test_decisions_are_whole_ticks():
    dynamics = TrackedDynamics()
    pose = np.zeros((1, 3))
    with pytest.raises(ValueError, match="dt must be a whole number of the controller's ticks"):
        dynamics.move(pose, dynamics.start(pose, np.array([8.0])), pose, 0.12)


def test_environments_fly():
    """One environment alone does what it does among others, through the start of new episodes."""
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env
    from statml.adapters.viewpoint import ActiveClassificationEnv

    env = ActiveClassificationEnv(n_targets=2, dynamics="mpc", horizon=4)
    check_env(env, skip_render_check=True)
    envs = ActiveClassificationEnv(n_targets=2, dynamics="mpc", horizon=4).vector(3)
    assert envs.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.SAME_STEP
    seen, _ = env.reset(seed=1)
    many, _ = envs.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(10):
        np.testing.assert_allclose(many["targets"][1], seen["targets"], atol=1e-4)
        action = rng.uniform(-1, 1, 3).astype(np.float32)
        many, *_ = envs.step(np.tile(action, (3, 1)))
        seen, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            seen, _ = env.reset()
