"""How targets move: published speeds, walls, contacts; the same whatever the drone does."""

import numpy as np
import pytest
from scipy import stats
from statml.adapters.viewpoint import (
    BrownianMotion,
    ConstantVelocity,
    MixedMotion,
    Scenario,
    Scene,
    SocialForce,
    StaticTargets,
)
from statml.adapters.viewpoint.motion import make_motion
from statml.adapters.viewpoint.noise import Noise

MOTIONS = ["static", "constant_velocity", "brownian", "social_force"]
STILL = np.zeros(3)


def paths(scene, scenario, steps, policy=lambda e: np.zeros((e, 3))):
    scene.set_scenario(scenario)
    seen = [scene.targets.copy()]
    for _ in range(steps):
        scene.step(policy(scene.episodes))
        seen.append(scene.targets.copy())
    return np.array(seen)


@pytest.mark.parametrize("motion", [*MOTIONS, ("static", "brownian", "social_force")])
def test_targets_move_the_same_whatever_the_drone_does_and_however_they_are_batched(motion):
    scene = Scene(n_targets=(1, 5), target_motion=motion)
    scenario = scene.draw(np.arange(12))
    still = paths(scene, scenario, 40)
    rng = np.random.default_rng(0)
    flown = paths(scene, scenario, 40, lambda e: rng.uniform(-1, 1, (e, 3)))
    np.testing.assert_array_equal(still, flown)
    alone = paths(scene, scene.draw(np.array([7])), 40)
    np.testing.assert_array_equal(alone[:, 0], still[:, 7])


@pytest.mark.parametrize("motion", MOTIONS)
def test_targets_stay_in_the_square_and_padding_stays_put(motion):
    scene = Scene(n_targets=(2, 6), target_motion=motion, side=(5.0, 9.0))
    scenario = scene.draw(np.arange(40))
    seen = paths(scene, scenario, 100)
    assert (np.abs(seen[..., :2]).max(-1) <= scenario.side[None, :, None] + 1e-9).all()
    assert np.isfinite(seen).all()
    assert (seen[:, ~scenario.active][..., :2] == 0).all()


@pytest.mark.parametrize("n_targets", [1, 12])
def test_starts_are_apart_inside_and_uniform(n_targets):
    scene = Scene(n_targets=n_targets)
    scenario = scene.draw(np.arange(2000))
    places = np.concatenate([scenario.drone[:, None, :2], scenario.targets[..., :2]], 1)
    gaps = np.hypot(*np.moveaxis(places[:, :, None] - places[:, None], -1, 0))
    gaps[:, np.eye(n_targets + 1, dtype=bool)] = np.inf
    assert gaps.min() >= 1.38
    assert np.abs(places).max() <= 6
    # of the drone, nobody else's place conditions the draw
    assert stats.kstest(scenario.drone[:, 0] / 12 + 0.5, "uniform").pvalue > 1e-3
    assert stats.kstest(scenario.drone[:, 2] / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3
    assert (
        stats.kstest(scenario.beliefs.argmax(-1).ravel() + 0.0, "norm").pvalue < 1e-3
    )  # not stuck


def test_numbers_of_targets_are_uniform():
    scenario = Scene(n_targets=(1, 6)).draw(np.arange(6000))
    counts = np.bincount(scenario.active.sum(-1), minlength=7)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3


def test_constant_velocity_starts_as_published():
    scenario = Scene(n_targets=6).draw(np.arange(3000))
    velocity = scenario.velocities.reshape(-1, 2)
    static = (velocity == 0).all(-1)
    n = len(velocity)
    assert abs(static.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / n)
    moving = velocity[~static]
    assert np.abs(moving).max() <= 1.5
    # E|v| = E U E clip(N(1, 0.2)) = 1/2 (clipping above 1.5 takes less than 0.001)
    mean = np.abs(moving).mean()
    assert abs(mean - 0.5) < 4 * np.abs(moving).std() / np.sqrt(moving.size) + 5e-4
    assert abs((moving > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(moving.size)
    heading = scenario.targets.reshape(-1, 3)[:, 2]
    np.testing.assert_allclose(heading[~static], np.arctan2(moving[:, 1], moving[:, 0]))
    # standing targets look anywhere
    assert stats.kstest(heading[static] / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3


def test_published_standing_targets_look_along_one_axis():
    scenario = Scene(n_targets=6, paper_compat=True).draw(np.arange(500))
    static = (scenario.velocities == 0).all(-1)
    heading = np.abs(scenario.targets[..., 2][static])
    assert set(np.unique(heading.round(12))) == {0.0, round(np.pi, 12)}


def placed(targets, velocities):
    return Scenario.placed(STILL - 7, targets, n_classes=6, velocities=velocities)


def test_two_that_meet_exchange_velocities_and_stay_put():
    scene = Scene(n_targets=2)
    seen = paths(scene, placed([[-1, 0, 0], [0.5, 0, np.pi]], [[0.5, 0], [-0.5, 0]]), 1)
    np.testing.assert_array_equal(seen[1][0, :, :2], seen[0][0, :, :2])
    np.testing.assert_array_equal(scene.velocities[0], [[-0.5, 0], [0.5, 0]])
    np.testing.assert_allclose(np.abs(scene.targets[0, :, 2]), [np.pi, 0])


def test_two_that_part_walk_on_and_as_published_hold_each_other():
    targets, velocities = [[-0.5, 0, np.pi], [0.5, 0, 0]], [[-0.2, 0], [0.2, 0]]
    free = paths(Scene(n_targets=2), placed(targets, velocities), 20)
    assert np.ptp(free[-1][0, :, 0]) == pytest.approx(1 + 20 * 0.25 * 0.4)
    held = paths(Scene(n_targets=2, paper_compat=True), placed(targets, velocities), 20)
    assert np.ptp(held[-1][0, :, 0]) == pytest.approx(1)


def test_walls_reflect():
    scene = Scene(n_targets=1)
    seen = paths(scene, placed([[7.9, 0, 0]], [[1.0, 0.4]]), 3)
    np.testing.assert_allclose(seen[1][0, 0, :2], [7.9, 0.1])
    np.testing.assert_allclose(seen[2][0, 0, :2], [7.65, 0.2])
    np.testing.assert_array_equal(scene.velocities[0, 0], [-1.0, 0.4])


def test_brownian_steps_are_uniform_jitter():
    scene = Scene(n_targets=1, target_motion="brownian", side=25.0)
    seen = paths(scene, scene.draw(np.arange(400)), 20)
    steps = np.diff(seen, axis=0).reshape(-1, 3)
    steps[:, 2] = (steps[:, 2] + np.pi) % (2 * np.pi) - np.pi
    moved = steps[(steps[:, :2] != 0).any(-1)]  # a start may be in the way of a wall
    assert len(moved) > 0.99 * len(steps)
    for column, width in zip(moved.T, [0.25, 0.25, np.radians(15)], strict=True):
        assert np.abs(column).max() <= width
        assert stats.kstest(column / (2 * width) + 0.5, "uniform").pvalue > 1e-3


def test_brownian_targets_never_come_too_near():
    scene = Scene(n_targets=8, target_motion="brownian", side=5.0)
    seen = paths(scene, scene.draw(np.arange(50)), 60)[..., :2]
    gaps = np.hypot(*np.moveaxis(seen[:, :, :, None] - seen[:, :, None], -1, 0))
    gaps[..., np.eye(8, dtype=bool)] = np.inf
    assert gaps.min() >= 1.38 - 1e-12


def test_walkers_keep_their_speed_limit_reach_goals_and_avoid_each_other():
    scene = Scene(n_targets=6, target_motion="social_force", horizon=400)
    scenario = scene.draw(np.arange(30))
    goals = scenario.motion["goals"].copy()
    limit = 1.3 * scenario.motion["desired"]
    scene.set_scenario(scenario)
    changed, nearest = np.zeros((30, 6), bool), np.inf
    for _ in range(120):
        scene.step(np.zeros((30, 3)))
        speed = np.hypot(scene.velocities[..., 0], scene.velocities[..., 1])
        assert (speed <= limit + 1e-9).all()
        changed |= (scene._motion_state["goals"] != goals).any(-1)
        gaps = np.hypot(
            *np.moveaxis(scene.targets[:, :, None, :2] - scene.targets[:, None, :, :2], -1, 0)
        )
        nearest = min(nearest, gaps[:, ~np.eye(6, dtype=bool)].min())
    assert changed.mean() > 0.8  # 30 s are enough to arrive almost anywhere
    assert nearest > 1.2  # two discs


def test_the_social_force_is_minus_the_potentials_gradient():
    """Against finite differences of V(b), for one pair."""
    from statml.adapters.viewpoint.motion.social_force import _repulsion

    places = np.array([[[0.3, 0.1], [1.2, -0.4]]])
    velocities = np.array([[[0.5, 0.2], [-0.8, 0.3]]])

    def potential(r, v):
        step = 2.0 * v
        b = 0.5 * np.sqrt((np.hypot(*r) + np.hypot(*(r - step))) ** 2 - step @ step)
        return 2.1 * np.exp(-b / 0.3)

    r, v = places[0, 0] - places[0, 1], velocities[0, 1]
    h = 1e-6
    gradient = [
        (potential(r + h * axis, v) - potential(r - h * axis, v)) / (2 * h) for axis in np.eye(2)
    ]
    ahead = -r / np.hypot(*r)  # walker 0 wants to go to where walker 1 is: it sees it
    direction = np.array([[ahead, -ahead]])
    force = _repulsion(places, velocities, direction, np.ones((1, 2), bool), 2.1, 0.3)
    np.testing.assert_allclose(force[0, 0], -np.array(gradient), rtol=1e-6)
    behind = _repulsion(places, velocities, -direction, np.ones((1, 2), bool), 2.1, 0.3)
    np.testing.assert_allclose(behind[0, 0], force[0, 0] / 2)


def test_each_episode_of_a_mixture_moves_by_its_own():
    scene = Scene(n_targets=2, target_motion=("static", "brownian", "social_force"))
    scenario = scene.draw(np.arange(900))
    kind = scenario.motion["kind"]
    assert stats.chisquare(np.bincount(kind, minlength=3)).pvalue > 1e-3
    seen = paths(scene, scenario, 3)
    moved = (seen[0] != seen[-1]).any(-1).any(-1)
    assert not moved[kind == 0].any()
    assert moved[kind > 0].all()
    assert (scenario.velocities[kind == 1] == 0).all()
    assert (scenario.velocities[kind == 2] != 0).any(-1).all()


def test_a_function_is_a_motion():
    def drift(targets, velocities, dt):
        targets[..., 0] += dt * 0.1
        return targets, velocities

    scene = Scene(n_targets=2, target_motion=drift)
    seen = paths(scene, scene.draw(np.arange(3)), 4)
    np.testing.assert_allclose(
        seen[-1] - seen[0], np.broadcast_to([0.1, 0, 0], (3, 2, 3)), atol=1e-12
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda t, v, dt: t, "must return (targets, velocities)"),
        (lambda t, v, dt: (t[:, :1], v), "must return (targets, velocities)"),
        (lambda t, v, dt: (t * np.nan, v), "NaN"),
    ],
)
def test_functions_that_move_wrongly_are_refused(function, message):
    scene = Scene(n_targets=2, target_motion=function)
    scene.reset(0)
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        scene.step(np.zeros((1, 3)))


def test_motions_by_name():
    kinds = [StaticTargets, ConstantVelocity, BrownianMotion, SocialForce]
    for name, kind in zip(MOTIONS, kinds, strict=True):
        assert isinstance(make_motion(name), kind)
    assert isinstance(make_motion(MOTIONS), MixedMotion)
    with pytest.raises(ValueError, match='target_motion must be one of "static"'):
        make_motion("ballistic")
    with pytest.raises(TypeError, match="target_motion must be one of"):
        make_motion(3)
    with pytest.raises(ValueError, match="at least one motion"):
        make_motion(())


# --- the generator beneath


def test_keyed_numbers_are_uniform_and_independent_across_keys_streams_and_steps():
    noise = Noise(np.arange(4000))
    draws = {
        (stream, step): noise.uniform(stream, step, (3,))
        for stream in ("a", "b")
        for step in (0, 1)
    }
    columns = np.column_stack(list(draws.values()))
    for column in columns.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    correlation = np.corrcoef(columns.T)[~np.eye(columns.shape[1], dtype=bool)]
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    # and from one key to the next
    assert abs(np.corrcoef(columns[:-1, 0], columns[1:, 0])[0, 1]) < 4 / np.sqrt(4000)
    assert stats.kstest(noise.normal("a", 2, (3,)).ravel(), "norm").pvalue > 1e-4


def test_rows_of_looks_are_their_own_whatever_the_batch():
    noise = Noise(np.arange(5))
    step = np.array([3, 1, 4, 1, 5])
    e, n = np.array([0, 2, 2, 4]), np.array([1, 0, 3, 2])
    all_, one = noise.rows(step, e, n), noise.rows(step, e[2:3], n[2:3])
    np.testing.assert_array_equal(all_.normal(size=(4, 6))[2], one.normal(size=(1, 6))[0])
    np.testing.assert_array_equal(all_.random((4,))[2:3], one.random((1,)))  # the second call
    later = noise.rows(step + 1, e, n)
    np.testing.assert_array_equal(all_.of_target("plate"), later.of_target("plate"))
    assert (all_.random((4,)) != later.random((4,))).all()
    assert set(all_.integers(2, 4, (4,))) <= {2, 3}
    assert (all_.uniform(2, 3, (4, 2)) > 2).all()
    with pytest.raises(ValueError, match="size must start with the number of rows, 4"):
        all_.random((3,))
