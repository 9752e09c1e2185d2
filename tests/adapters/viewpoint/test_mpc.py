"""The flight controller: the regulator where no limit is active, the optimum where one is, and nothing ever entered."""

import copy
import pickle
import re
from functools import reduce
from operator import or_

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

pytest.importorskip("piqp")

from statml.adapters.viewpoint.flight_plans import LimitedPlan
from statml.adapters.viewpoint.mpc import Ellipsoid, ViewpointMPC
from statml.adapters.viewpoint.quadrotor import GRAVITY, MAX_TILT, flight_model

STEP = [3.2, 0.0, 1.5, np.pi / 2]  # metres and radians from the origin


def hover(mpc, *viewpoint):
    return mpc.model_.at(viewpoint or (0, 0, 1.5, 0))


# --- the drone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bebop", "point_mass"])
def test_discretisation_is_exact(name):
    model = flight_model(name)
    rng = np.random.default_rng(0)
    x, u = rng.normal(size=model.n_states), rng.normal(size=model.n_inputs)
    A, B = model.discretise(0.05)
    exact = solve_ivp(
        lambda _, x: model.drift @ x + model.control @ u, (0, 0.05), x, rtol=1e-11, atol=1e-12
    )
    np.testing.assert_allclose(A @ x + B @ u, exact.y[:, -1], atol=1e-9)


def test_the_bebop_obeys_its_equations():
    x = np.array([0, 0, 0, 1.0, -2.0, 0.5, 0.1, -0.2, 0.7])
    u = np.array([0.05, -0.1, 0.3, 0.4])
    expected = [
        1.0, -2.0, 0.5,
        GRAVITY * np.tan(-0.2) - 0.25 * 1.0,
        -GRAVITY * np.tan(0.1) - 0.33 * -2.0,
        (1.227 * 0.3 - 0.5) / 0.3367,
        (1.126 * 0.05 - 0.1) / 0.2368,
        (1.1075 * -0.1 + 0.2) / 0.2318,
        0.4,
    ]  # fmt: skip
    np.testing.assert_allclose(flight_model("bebop").derivative(x, u), expected, rtol=1e-12)


def test_flying_is_integrating():
    model = flight_model("bebop")
    x, u = hover_like(model), np.array([0.1, -0.15, 0.5, 1.0])
    exact = solve_ivp(lambda _, x: model.derivative(x, u), (0, 0.05), x, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(model.step(x, u, 0.05), exact.y[:, -1], atol=1e-5)
    np.testing.assert_array_equal(
        model.step(x, 100 * u, 0.05), model.step(x, model.input_limit * np.sign(u), 0.05)
    )


def hover_like(model):
    return model.at([0.3, -0.2, 1.5, 0.4]) + 0.1 * np.arange(model.n_states) / model.n_states


# --- the plan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bebop", "point_mass"])
def test_without_limits_it_is_the_regulator(name):
    mpc = ViewpointMPC(name)
    rng = np.random.default_rng(1)
    for _ in range(20):
        x = hover(mpc) + 0.01 * rng.normal(size=mpc.model_.n_states)
        ref = np.array([0.02, -0.03, 1.5, 0.05])
        regulator = -mpc.gain_ @ (x - mpc.model_.at(ref))
        np.testing.assert_allclose(mpc.solve(x, ref).inputs[0], regulator, atol=3e-14)
        for part in mpc.parts_:
            program = LimitedPlan(mpc, part, elastic=False, n_obstacles=0)
            inputs = program.solve(x, mpc._reference(x, ref))[1]
            np.testing.assert_allclose(inputs[0], regulator[part.inputs], atol=1e-6)


def test_parts_planned_apart_are_the_whole_plan():
    mpc = ViewpointMPC()
    names = [[mpc.model_.state_names[j] for j in part.states] for part in mpc.parts_]
    assert names == [["x", "vx", "pitch"], ["y", "vy", "roll"], ["z", "vz"], ["yaw"]]
    whole = LimitedPlan(mpc, reduce(or_, mpc.parts_), elastic=False, n_obstacles=0)
    for ref in ([3, -2, 2.0, 3.0], [0.1, 5, 1.5, 0.1]):
        x = hover(mpc) + 0.1
        _, inputs, *_ = whole.solve(x, mpc._reference(x, np.array(ref, float)))
        np.testing.assert_allclose(mpc.solve(x, ref).inputs, inputs, atol=1e-5)


def test_the_two_solvers_agree():
    fast, slow = ViewpointMPC(), ViewpointMPC(solver="osqp", tol=1e-9)
    obstacle = Ellipsoid([1.5, 0.2, 1.5], [0.6, 0.6, 2.0])
    x = hover(fast)
    for tick in range(25):
        plan = fast.solve(x, STEP)
        np.testing.assert_allclose(slow.solve(x, STEP).inputs, plan.inputs, atol=1e-5)
        if tick % 5 == 0:
            around = fast.solve(x, STEP, [obstacle])
            np.testing.assert_allclose(
                slow.solve(x, STEP, [obstacle]).states, around.states, atol=1e-3
            )
        x = fast.model_.step(x, plan.inputs[0], 0.05)


def test_the_plan_is_the_optimum_by_a_general_solver():
    """With the inputs alone as variables and SLSQP as the solver."""
    mpc = ViewpointMPC(horizon=10)
    x0 = hover(mpc) + np.eye(9)[3] * 1.5
    plan = mpc.solve(x0, STEP)
    n_u, N = 4, 10
    target = mpc.model_.at(STEP)

    def states(u):
        x, all_x = x0, []
        for k in range(N):
            x = mpc.A_ @ x + mpc.B_ @ u[k * n_u : (k + 1) * n_u]
            all_x.append(x)
        return np.array(all_x)

    effect = np.array([states(e) - states(np.zeros(N * n_u)) for e in np.eye(N * n_u)])
    weights = [mpc.Q_] * (N - 1) + [mpc.P_]

    def cost(u):
        away = states(u) - target
        value = sum(d @ W @ d for d, W in zip(away, weights, strict=True))
        slope = sum(
            2 * effect[:, k] @ W @ d for k, (d, W) in enumerate(zip(away, weights, strict=True))
        )
        R = np.kron(np.eye(N), mpc.R_)
        return value + u @ R @ u, slope + 2 * R @ u

    limited = np.flatnonzero(np.isfinite(mpc.model_.state_limit))
    slopes = effect[:, :, limited].reshape(N * n_u, -1).T
    limit = np.tile(mpc.model_.state_limit[limited], N)
    offset = states(np.zeros(N * n_u))[:, limited].ravel()
    constraints = [
        {
            "type": "ineq",
            "fun": lambda u, s=s: limit - s * (slopes @ u + offset),
            "jac": lambda u, s=s: -s * slopes,
        }
        for s in (1, -1)
    ]
    bounds = np.tile(mpc.model_.input_limit, N)[:, None] * [-1, 1]
    best = minimize(
        cost, np.zeros(N * n_u), jac=True, bounds=bounds, constraints=constraints,
        method="SLSQP", options={"ftol": 1e-12, "maxiter": 500},
    )  # fmt: skip
    assert best.success
    np.testing.assert_allclose(plan.inputs.ravel(), best.x, atol=1e-4)
    assert abs(cost(plan.inputs.ravel())[0] / best.fun - 1) < 1e-7


def test_limits_are_reached_and_kept():
    mpc = ViewpointMPC()
    plan = mpc.solve(hover(mpc) + 1.2 * np.eye(9)[3], [50.0, 0, 1.5, 3.0])
    assert abs(plan.states[:, 3].max() - 2.0) < 1e-6
    assert abs(np.abs(plan.states[:, 7]).max() - MAX_TILT) < 1e-6
    assert abs(plan.inputs[0, 3] - np.pi / 2) < 1e-6
    assert plan.excess == plan.intrusion == 0
    flight = mpc.simulate([STEP] * 100)
    assert abs(flight.states[:, 3].max() - 2.0) < 1e-3  # of the drone that was not linearised
    assert np.abs(flight.inputs / mpc.model_.input_limit).max() < 1 + 1e-6


def test_it_settles():
    flight = ViewpointMPC().simulate([STEP] * 100)
    away = np.linalg.norm(flight.states[:, :3] - STEP[:3], axis=1)
    turned = np.abs(flight.states[:, -1] - STEP[3])
    settled = np.flatnonzero((away > 0.1) | (turned > 0.1))[-1] + 1
    assert settled * flight.dt <= 2.5
    assert away[-1] < 2e-3
    assert turned[-1] < 1e-3
    assert flight.frame.index[-1] == pytest.approx(5.0)


def test_yaw_takes_the_short_way():
    mpc = ViewpointMPC()
    flight = mpc.simulate([[0, 0, 1.5, -3.0]] * 60, hover(mpc, 0, 0, 1.5, 3.0))
    assert flight.states[-1, -1] == pytest.approx(2 * np.pi - 3.0, abs=1e-3)
    assert flight.states[:, -1].min() > 2.99
    turns = mpc.solve(hover(mpc, 0, 0, 1.5, 3.0 + 6 * np.pi), [0, 0, 1.5, -3.0])
    assert turns.states[-1, -1] > 3.0 + 6 * np.pi


def test_a_path_is_followed_without_lag():
    """Viewpoints that move at a constant speed, given ahead, are tracked with their velocity."""
    mpc = ViewpointMPC()
    x = hover(mpc)
    for tick in range(120):
        times = 0.05 * (tick + 1 + np.arange(20))[:, None]
        x = mpc.model_.step(
            x, mpc.solve(x, times * [0.8, -0.5, 0, 0] + [0, 0, 1.5, 0]).inputs[0], 0.05
        )
    np.testing.assert_allclose(x[3:5], [0.8, -0.5], atol=0.02)
    assert np.linalg.norm(x[:2] - 6.0 * np.array([0.8, -0.5])) < 0.05


def test_many_drones_at_once_are_each_alone():
    mpc = ViewpointMPC()
    rng = np.random.default_rng(2)
    states = mpc.model_.at(
        np.column_stack([rng.normal(size=(12, 2)), np.full(12, 1.5), rng.normal(size=12)])
    )
    refs = np.column_stack([states[:, :3], states[:, -1]])
    refs[:6] += 0.01 * rng.normal(size=(6, 4))
    refs[6:] += 2 * rng.normal(size=(6, 4))
    alone = [mpc.solve(x, ref).inputs[0] for x, ref in zip(states, refs, strict=True)]
    np.testing.assert_allclose(mpc.act(states, refs), alone, atol=1e-6)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda mpc: pickle.loads(pickle.dumps(mpc))])
def test_copies(copied):
    mpc = ViewpointMPC()
    plan = mpc.solve(hover(mpc), STEP)
    np.testing.assert_array_equal(copied(mpc).solve(hover(mpc), STEP).inputs, plan.inputs)


# --- what is in the way ---------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 0.01, -0.3, 0.8])
@pytest.mark.parametrize("name", ["bebop", "point_mass"])
def test_an_obstacle_is_never_entered(name, offset):
    mpc = ViewpointMPC(name)
    obstacle = Ellipsoid([3.0, offset, 1.5], [1.0, 0.8, 2.0])
    flight = mpc.simulate([[6.0, 0, 1.5, 0]] * 160, obstacles=[obstacle])
    assert obstacle.level(flight.states[:, :3]).min() > 0.999
    assert flight.intrusion.max() < 0.01
    np.testing.assert_allclose(flight.states[-1, :2], [6.0, 0], atol=0.01)


def test_a_moving_obstacle_is_never_entered():
    mpc = ViewpointMPC()
    velocity = np.array([-0.4, -0.6, 0.0])
    flight = mpc.simulate(
        [[6.0, 0, 1.5, 0]] * 160, obstacles=[Ellipsoid([4.0, 1.2, 1.5], [0.8, 0.8, 2], velocity)]
    )
    for tick, x in enumerate(flight.states):
        at = np.array([4.0, 1.2, 1.5]) + tick * 0.05 * velocity
        assert Ellipsoid(at, [0.8, 0.8, 2]).level(x[:3]) > 0.999
    np.testing.assert_allclose(flight.states[-1, :2], [6.0, 0], atol=0.01)


def test_a_drone_inside_an_obstacle_gets_out():
    mpc = ViewpointMPC()
    obstacle = Ellipsoid([0, 0, 1.5], [1, 1, 2])
    flight = mpc.simulate([[3.0, 0, 1.5, 0]] * 80, hover(mpc, 0.2, 0, 1.5, 0), [obstacle])
    level = obstacle.level(flight.states[:, :3])
    assert flight.intrusion[0] > 0.5
    out = np.argmax(level > 1)
    assert (np.diff(level[: out + 1]) > 0).all()
    assert level[-1] > 1


# --- what cannot be ---------------------------------------------------------------------------------------


def test_a_viewpoint_behind_the_wall_is_approached():
    mpc = ViewpointMPC(workspace=[[-2, 2], [-2, 2], [1, 2]])
    flight = mpc.simulate([[5.0, 0.5, 1.5, 0]] * 120)
    assert flight.states[:, 0].max() < 2 + 1e-3
    np.testing.assert_allclose(flight.states[-1, :2], [2.0, 0.5], atol=2e-3)


@pytest.mark.parametrize(
    ("change", "limit"), [({3: 3.0}, 2.0), ({7: 0.4}, MAX_TILT), ({3: 2.5, 7: 0.3}, 2.0)]
)
def test_a_start_beyond_a_limit_is_brought_back(change, limit):
    mpc = ViewpointMPC()
    x = hover(mpc)
    for state, value in change.items():
        x[state] = value
    plan = mpc.solve(x, STEP)
    assert plan.excess > 0.01
    assert np.abs(plan.inputs / mpc.model_.input_limit).max() < 1 + 1e-6
    flight = mpc.simulate([STEP] * 100, x)
    assert flight.excess[-50:].max() == 0
    np.testing.assert_allclose(flight.states[-1, :2], STEP[:2], atol=0.01)


def test_a_start_outside_the_workspace_is_brought_back():
    mpc = ViewpointMPC(workspace=[[-2, 2], [-2, 2], [1, 2]])
    flight = mpc.simulate([[0, 0, 1.5, 0]] * 100, hover(mpc, 3.0, 0, 1.5, 0))
    assert flight.excess[0] == pytest.approx(1.0, abs=0.05)
    assert flight.excess[-1] == 0
    np.testing.assert_allclose(flight.states[-1, :2], 0, atol=0.01)


def test_there_is_always_a_plan():
    """From states far beyond the limits, outside the workspace, inside obstacles."""
    mpc = ViewpointMPC(workspace=[[-8, 8], [-8, 8], [0.5, 3]])
    rng = np.random.default_rng(3)
    reach = np.minimum(mpc.model_.state_limit, 3)
    excess = []
    for _ in range(150):
        x = hover(mpc, *rng.uniform(-9, 9, 2), 1.5, rng.uniform(-9, 9)) + rng.normal(size=9) * reach
        centres = np.column_stack([rng.uniform(-8, 8, (2, 2)), [1.5, 1.5]])
        obstacles = [Ellipsoid(centre, [1, 0.8, 2]) for centre in centres]
        plan = mpc.solve(x, [*rng.uniform(-12, 12, 2), 1.5, rng.uniform(-9, 9)], obstacles)
        assert np.abs(plan.inputs / mpc.model_.input_limit).max() < 1 + 1e-6
        excess.append(plan.excess)
    assert np.median(excess) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda mpc: mpc.solve(np.zeros(8), STEP), "x must be finite and of shape (9,)"),
        (lambda mpc: mpc.solve(np.full(9, np.nan), STEP), "x must be finite"),
        (
            lambda mpc: mpc.solve(np.zeros(9), STEP[:3]),
            "ref must be finite and of shape (4,) or (20, 4)",
        ),
        (lambda mpc: mpc.solve(np.zeros(9), [0, 0, np.inf, 0]), "ref must be finite"),
        (lambda mpc: mpc.simulate(STEP), "refs must have shape (ticks, 4)"),
        (lambda _: ViewpointMPC("parrot"), 'model must be "bebop" or "point_mass"'),
        (lambda _: ViewpointMPC(solver="simplex"), 'solver must be "piqp" or "osqp"'),
        (lambda _: ViewpointMPC(horizon=0), "horizon must be an integer >= 1"),
        (lambda _: ViewpointMPC(dt=0), "dt must be a finite number > 0"),
        (
            lambda _: ViewpointMPC(workspace=[[1, -1], [0, 1], [0, 1]]),
            "workspace must have shape (3, 2)",
        ),
        (lambda _: Ellipsoid([0, 0, 0], [1, 0, 1]), "semi_axes must be positive"),
        (lambda _: Ellipsoid([0, 0], [1, 1, 1]), "centre must be three finite numbers"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(ViewpointMPC())


def test_without_piqp_osqp_solves(monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("no piqp", name="piqp")

    exact = ViewpointMPC().solve(np.zeros(9), STEP)
    monkeypatch.setattr("statml.adapters.viewpoint.qp.PIQP.__init__", missing)
    with pytest.warns(UserWarning, match="PIQP is not installed"):
        plan = ViewpointMPC().solve(np.zeros(9), STEP)
    np.testing.assert_allclose(plan.inputs, exact.inputs, atol=0.01)
