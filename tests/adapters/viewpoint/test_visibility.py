"""What the camera sees, and how well: published cases, closed forms, invariances, and a scalar program of its own."""

import math

import numpy as np
import pytest
from statml.adapters.viewpoint import (
    CANDIDATES,
    candidate_viewpoints,
    plate_quality,
    visible_targets,
)
from statml.adapters.viewpoint.geometry import (
    displace,
    distance_and_aspect,
    relative_poses,
    steer,
    viewpoint_before,
    wrap,
)

ORIGIN = np.zeros(3)
FACING = np.pi


def sees_first(*targets, drone=ORIGIN, **options):
    return bool(visible_targets(np.asarray(drone, float), np.array(targets), **options)[0])


@pytest.mark.parametrize(("lateral", "blocks"), [(0.59, True), (0.60, True), (0.61, False)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_disc_beside_the_line_of_sight_blocks_to_its_radius(lateral, blocks, sign):
    assert sees_first([6, 0, FACING], [3, sign * lateral, 0]) is not blocks


@pytest.mark.parametrize(
    ("place", "blocks"), [((6.61, 0), False), ((-0.61, 0), False), ((-0.59, 0), True)]
)
def test_discs_behind_the_target_or_the_drone(place, blocks):
    assert sees_first([6, 0, FACING], [*place, 0]) is not blocks


def test_padding_neither_is_seen_nor_hides():
    targets = np.array([[6, 0, FACING], [3, 0, FACING]])
    seen = visible_targets(ORIGIN, targets, active=np.array([True, False]))
    assert seen.tolist() == [True, False]


@pytest.mark.parametrize(
    ("degrees", "seen"), [(44.9, True), (45.1, False), (-44.9, True), (-45.1, False)]
)
def test_the_field_of_view_ends_at_45_degrees(degrees, seen):
    angle = math.radians(degrees)
    facing_drone = wrap(angle + np.pi)
    assert sees_first([4 * math.cos(angle), 4 * math.sin(angle), facing_drone]) is seen


@pytest.mark.parametrize(
    ("degrees", "seen"), [(89.9, False), (90.1, True), (-89.9, False), (-90.1, True)]
)
@pytest.mark.parametrize("facing", ["bearing", "yaw"])
def test_the_front_is_seen_from_90_degrees_of_heading(degrees, seen, facing):
    assert sees_first([4, 0, math.radians(degrees)], facing=facing) is seen


def test_the_published_test_takes_a_target_seen_from_behind_and_ours_does_not():
    # 40 degrees to the left, heading 100 degrees: the drone stands 120 degrees off the heading
    bearing = math.radians(40)
    target = [4 * math.cos(bearing), 4 * math.sin(bearing), math.radians(100)]
    _, aspect = distance_and_aspect(relative_poses(ORIGIN, np.array([target])))
    assert abs(math.degrees(aspect[0])) == pytest.approx(120)
    assert sees_first(target, facing="yaw")
    assert not sees_first(target, facing="bearing")


def random_scene(rng, n=7):
    drone = np.array([*rng.uniform(-5, 5, 2), rng.uniform(-np.pi, np.pi)])
    targets = np.column_stack([rng.uniform(-5, 5, (n, 2)), rng.uniform(-np.pi, np.pi, n)])
    return drone, targets


@pytest.mark.parametrize("facing", ["bearing", "yaw"])
def test_moving_the_whole_scene_rigidly_changes_nothing(facing):
    rng = np.random.default_rng(0)
    for _ in range(50):
        drone, targets = random_scene(rng)
        angle, shift = rng.uniform(-np.pi, np.pi), rng.uniform(-9, 9, 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

        def moved(poses, turn=turn, angle=angle, shift=shift):
            return np.concatenate([poses[..., :2] @ turn.T + shift, poses[..., 2:] + angle], -1)

        before = visible_targets(drone, targets, facing=facing)
        after = visible_targets(moved(drone), moved(targets), facing=facing)
        np.testing.assert_array_equal(before, after)
        q = plate_quality(relative_poses(drone, targets))
        np.testing.assert_allclose(
            plate_quality(relative_poses(moved(drone), moved(targets))), q, atol=1e-12
        )


def scalar_visible(drone, targets, i):
    """Point by point along the line of sight, with no closed form: True, False, or None too near the limit to tell."""
    p, q = drone[:2], targets[i, :2]
    x, y = q - p
    ahead = math.atan2(y, x) - drone[2]
    ahead = abs(math.atan2(math.sin(ahead), math.cos(ahead)))
    front = math.cos(targets[i, 2]) * -x + math.sin(targets[i, 2]) * -y
    line = p + np.linspace(0, 1, 400)[:, None] * (q - p)
    gaps = [np.hypot(*(line - targets[j, :2]).T).min() for j in range(len(targets)) if j != i]
    if abs(ahead - math.pi / 4) < 1e-6 or any(abs(gap - 0.6) < 1e-3 for gap in gaps):
        return None
    return ahead < math.pi / 4 and front > 0 and min(gaps) > 0.6


def test_agrees_with_a_scalar_program():
    rng = np.random.default_rng(1)
    compared = positives = 0
    for _ in range(60):
        drone, targets = random_scene(rng)
        seen = visible_targets(drone, targets)
        for i in range(len(targets)):
            expected = scalar_visible(drone, targets, i)
            if expected is not None:
                compared, positives = compared + 1, positives + expected
                assert seen[i] == expected
    assert compared > 350
    assert positives > 20


def test_a_batch_is_its_scenes_one_by_one():
    rng = np.random.default_rng(2)
    scenes = [random_scene(rng) for _ in range(20)]
    drones, targets = (np.array(part) for part in zip(*scenes, strict=True))
    active = rng.random(targets.shape[:2]) < 0.8
    one_by_one = [
        visible_targets(*scene, active=a) for scene, a in zip(scenes, active, strict=True)
    ]
    np.testing.assert_array_equal(visible_targets(drones, targets, active), one_by_one)


# --- the quality of a look


def look_from(distance, degrees=0.0):
    return np.array([distance, 0.0, np.pi - math.radians(degrees)])


@pytest.mark.parametrize("x", [1.7, 2.0, 2.9, 2.95, 3.375, 5.0, 8.0])
def test_quality_of_a_plate_that_faces_the_camera(x):
    assert plate_quality(look_from(x)) == pytest.approx(0.5 * min(1, 8.64 / x**2), abs=1e-12)


def test_quality_falls_to_a_tenth_where_the_plate_leaves_the_image():
    assert plate_quality(look_from(400 / 240 + 1e-6)) == pytest.approx(0.5)
    assert plate_quality(look_from(400 / 240 - 1e-6)) == pytest.approx(0.05)


@pytest.mark.parametrize(("degrees", "q"), [(5, 0.375), (15, 0.213), (30, 0.094), (60, 0.020)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_quality_is_sharp_in_the_aspect(degrees, q, sign):
    assert plate_quality(look_from(2.7, sign * degrees)) == pytest.approx(q, abs=6e-4)


def pinhole_quality(relative):
    """The four corners through a pinhole, one by one."""
    x, y, heading = relative
    corners = []
    for side in (-0.6, 0.6):
        px, py = x - side * math.sin(heading), y + side * math.cos(heading)
        corners.append([(320 - 400 * py / px, 240 - 400 * up / px, px) for up in (1.0, -0.8)])
    (top_a, low_a), (top_b, low_b) = corners
    if min(top_a[2], top_b[2]) <= 0:
        return None
    skew = abs(top_a[1] - top_b[1])
    area = abs(top_a[0] - top_b[0]) * max(low_a[1] - top_a[1], low_b[1] - top_b[1])
    inside = all(0 <= u <= 640 and 0 <= v <= 480 for u, v, _ in (top_a, low_a, top_b, low_b))
    return (0.5 * min(1, area / 40_000) if inside else 0.05) * math.exp(-skew / 20)


def test_quality_agrees_with_four_corners_through_a_pinhole():
    rng = np.random.default_rng(3)
    relative = np.column_stack(
        [rng.uniform(0.3, 9, 500), rng.uniform(-6, 6, 500), rng.uniform(-np.pi, np.pi, 500)]
    )
    expected = [pinhole_quality(row) for row in relative]
    known = np.array([q is not None for q in expected])
    assert known.sum() > 450
    np.testing.assert_allclose(
        plate_quality(relative[known]), [q for q in expected if q is not None], atol=1e-12
    )


def test_a_plate_through_the_camera_has_no_quality_and_is_finite():
    relative = np.array([[0.0, 0.0, 0.3], [0.2, 0.0, np.pi / 2], [-3.0, 1.0, 0.0]])
    q = plate_quality(relative)
    assert np.isfinite(q).all()
    assert (q <= 0.05).all()


# --- moves


def test_a_move_is_turned_by_the_old_yaw_and_limited_by_the_square():
    drone = np.array([[0.0, 0.0, np.pi / 2], [7.9, 0.0, 0.0]])
    there = displace(drone, np.array([[1.0, 0.5, 1.0], [1.0, 1.0, -1.0]]), 0.25, np.full(2, 8.0))
    np.testing.assert_allclose(there[0], [-0.25, 0.5, np.pi / 2 + np.radians(15)], atol=1e-12)
    # leaving the square: the place is kept, the yaw is not
    np.testing.assert_allclose(there[1], [7.9, 0.0, -np.radians(15)], atol=1e-12)


def test_steering_arrives_exactly_when_the_viewpoint_is_within_reach():
    rng = np.random.default_rng(4)
    drone = np.column_stack([rng.uniform(-6, 6, (200, 2)), rng.uniform(-np.pi, np.pi, 200)])
    goal = drone + np.column_stack([rng.uniform(-0.3, 0.3, (200, 2)), rng.uniform(-0.2, 0.2, 200)])
    side = np.full(200, 8.0)
    there = displace(drone, steer(drone, goal, 0.25, side), 0.25, side)
    np.testing.assert_allclose(there[:, :2], goal[:, :2], atol=1e-12)
    np.testing.assert_allclose(wrap(there[:, 2] - goal[:, 2]), 0, atol=1e-12)


def test_steering_at_the_wall_never_stops():
    """A drone at the wall that clipped each axis would be bent outwards, and stay for ever."""
    rng = np.random.default_rng(5)
    side = np.full(300, 8.0)
    drone = np.column_stack([np.full(300, 7.99), rng.uniform(-7, 7, 300), rng.uniform(-3, 3, 300)])
    goal = np.column_stack([np.full(300, 7.95), rng.uniform(-7, 7, 300), rng.uniform(-3, 3, 300)])
    for _ in range(40):
        drone = displace(drone, steer(drone, goal, 0.25, side), 0.25, side)
    np.testing.assert_allclose(drone[:, :2], goal[:, :2], atol=1e-9)


def test_viewpoints_look_at_their_targets():
    rng = np.random.default_rng(6)
    targets = np.column_stack([rng.uniform(-5, 5, (4, 2)), rng.uniform(-np.pi, np.pi, 4)])
    views = candidate_viewpoints(targets)
    assert views.shape == (4, len(CANDIDATES), 3)
    for target, several in zip(targets, views, strict=True):
        for view, (distance, aspect) in zip(several, CANDIDATES, strict=True):
            relative = relative_poses(view, target[None])
            np.testing.assert_allclose(relative[0, :2], [distance, 0], atol=1e-12)
            assert distance_and_aspect(relative)[1][0] == pytest.approx(aspect)
    one = viewpoint_before(np.array([1.0, 2.0, 0.0]), 2.7)
    np.testing.assert_allclose(one, [3.7, 2.0, -np.pi], atol=1e-12)
