"""The exact solver: its certificate, and agreement with general-purpose solvers."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from statml.group_robust._estimator import group_caps
from statml.group_robust.losses import Huber, LogLoss, MultinomialLogLoss, Poisson, SquaredError
from statml.group_robust.membership import HardGroups, SoftGroups
from statml.group_robust.simplex import greedy_weights
from statml.group_robust.solver import (
    DenseCurvature,
    IterativeCurvature,
    Point,
    Problem,
    certificate,
    factorise,
    minimum_over_w,
    solve,
    solve_any_shape,
)

LOSSES = ["squared", "huber", "poisson", "log", "multinomial"]


def response(kind, eta, rng):
    """A loss, and responses around the predictor that it takes; no class is empty or separated for sure."""
    n = len(eta)
    if kind == "squared":
        return SquaredError(), eta + rng.normal(size=n)
    if kind == "huber":
        return Huber(1.0), 30 + eta + rng.standard_t(2, size=n)
    if kind == "poisson":
        return Poisson(), 1.0 + rng.poisson(np.exp(np.clip(eta, -3, 3)))
    if kind == "log":
        return LogLoss(), rng.permutation(np.arange(n) % 2).astype(float)
    return MultinomialLogLoss(3), rng.permutation(np.arange(n) % 3).astype(float)


def make(seed, kind, *, n=None, p=None, m=None, l2=None, soft=None, intercept=True):
    """A random problem, with an intercept unless told otherwise (Huber far from y has no curvature without)."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(12, 60)) if n is None else n
    p = int(rng.integers(1, 5)) if p is None else p
    m = int(rng.integers(1, 7)) if m is None else m
    X = rng.normal(size=(n, p)) * np.exp(rng.normal(size=p))
    loss, y = response(kind, rng.normal(size=n) + X[:, 0] / np.abs(X[:, 0]).max(), rng)
    if intercept:
        X = np.column_stack([X, np.ones(n)])
    weight = rng.choice([0.5, 1.0, 2.0], n)
    if rng.integers(2) if soft is None else soft:
        membership = rng.random((n, m)) * (rng.random((n, m)) < 0.6)
        membership[np.arange(m), np.arange(m)] += 0.2
        groups = SoftGroups(membership, weight)
    else:
        groups = HardGroups(np.r_[np.arange(m), rng.integers(0, m, n - m)], weight, m)
    if l2 is None:
        smallest = {"squared": 0.0, "huber": 1e-2}.get(kind, 1e-3)
        l2 = float(rng.choice([smallest, 1e-2, 1.0]))
    order = groups.order
    problem = Problem(np.ascontiguousarray(X[order]), y[order], loss, groups, l2, intercept)
    offsets = rng.normal(size=m) * rng.choice([0.0, 0.3])
    caps = group_caps(groups, rng.choice([None, 0.3, 0.7, 1.0]))
    return problem, offsets, caps, rng


def objective(problem, offsets, caps, w):
    """P(w), straight from its definition."""
    w = np.reshape(w, problem.shape)
    adjusted = Point(problem, w).group_losses + offsets
    return greedy_weights(adjusted, caps) @ adjusted + problem.ridge(w)


@pytest.mark.parametrize("kind", LOSSES)
@given(seed=st.integers(0, 2**32 - 1))
def test_bounds_enclose_the_optimum_at_every_iteration_and_meet(kind, seed):
    problem, offsets, caps, rng = make(seed, kind)
    solution = solve(problem, offsets, caps)
    primal, dual, gap = np.array(solution.history).T
    size = max(1.0, abs(solution.primal))
    assert solution.converged
    assert (gap >= 0).all()
    assert solution.gap <= 1e-8 * size
    assert solution.gap == gap.min()
    # any dual value is below any primal value, those of arbitrary w included
    others = [
        objective(problem, offsets, caps, solution.w + scale * rng.normal(size=problem.shape))
        for scale in (1e-6, 1e-4, 1e-2, 1.0)
    ]
    assert dual.max() <= min(primal.min(), *others) + 1e-13 * size
    assert objective(problem, offsets, caps, solution.w) == pytest.approx(
        solution.primal, abs=1e-12 * size
    )


@pytest.mark.parametrize("kind", LOSSES)
@given(seed=st.integers(0, 2**32 - 1))
def test_certificate_holds_at_any_point_and_weights(kind, seed):
    problem, offsets, caps, rng = make(seed, kind)
    best = solve(problem, offsets, caps, tol=1e-11)
    for scale in (0.01, 0.3, 3.0):
        w = best.w + scale * rng.normal(size=problem.shape)
        q = greedy_weights(rng.normal(size=len(offsets)), caps)
        q = 0.5 * q + 0.5 * best.q
        point = Point(problem, w)
        gap, spread = certificate(point, q, offsets, caps, factorise(point, q))
        primal = point.value(q, offsets) + spread
        size = max(1.0, abs(best.primal))
        assert primal == pytest.approx(objective(problem, offsets, caps, w), rel=1e-12)
        assert spread >= 0
        assert primal - gap <= best.primal + 1e-12 * size


@pytest.mark.parametrize("kind", LOSSES)
@given(seed=st.integers(0, 2**32 - 1))
def test_solution_satisfies_the_kkt_conditions(kind, seed):
    problem, offsets, caps, _ = make(seed, kind)
    solution = solve(problem, offsets, caps, tol=1e-10)
    q, adjusted = solution.q, solution.point.group_losses + offsets
    size = max(1.0, np.abs(adjusted).max())
    assert q.sum() == pytest.approx(1, abs=1e-12)
    assert (q >= 0).all()
    assert (q <= caps + 1e-12).all()
    # stationary in w
    scale = np.abs(solution.point.jacobian).max() + 1e-3
    assert np.abs(solution.point.gradient(q)).max() <= 1e-5 * scale
    # complementary: mass only where the loss is largest, as far as the caps allow
    if (q < caps - 1e-7).any():
        assert adjusted[q < caps - 1e-7].max() <= adjusted[q > 1e-7].min() + 1e-6 * size


def epigraph(problem, offsets, caps, w):
    """Minimise (w, t, s): t + sum_g caps_g s_g + ridge with s_g >= L_g + a_g - t, s >= 0, by SLSQP.

    The dual form of the CVaR over groups; with all caps 1 it is the largest group loss.
    """
    shape, m = problem.shape, len(caps)
    d = shape[0] * shape[1]

    def value(x):
        return x[d] + caps @ x[d + 1 :] + problem.ridge(x[:d].reshape(shape))

    def gradient(x):
        return np.r_[Point(problem, x[:d].reshape(shape)).penalty_gradient, 1.0, caps]

    def slack(x):
        point = Point(problem, x[:d].reshape(shape))
        return x[d] + x[d + 1 :] - point.group_losses - offsets

    def slack_gradient(x):
        J = Point(problem, x[:d].reshape(shape)).jacobian
        return np.column_stack([-J, np.ones(m), np.eye(m)])

    start = Point(problem, w).group_losses + offsets
    return scipy.optimize.minimize(
        value,
        np.r_[w.ravel(), start.max(), np.zeros(m)],
        jac=gradient,
        constraints={"type": "ineq", "fun": slack, "jac": slack_gradient},
        bounds=[(None, None)] * (d + 1) + [(0, None)] * m,
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 1000},
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_optimum_is_that_of_the_epigraph_form(kind):
    for seed in range(8):
        problem, offsets, caps, rng = make(seed, kind, n=40, p=2, m=3, l2=0.05)
        solution = solve(problem, offsets, caps, tol=1e-10)
        start = solution.w + 0.3 * rng.normal(size=problem.shape)
        theirs = epigraph(problem, offsets, caps, start)
        assert theirs.fun == pytest.approx(solution.primal, rel=1e-7)
        assert theirs.fun >= solution.dual - 1e-9
        w = theirs.x[: solution.w.size].reshape(solution.w.shape)
        if w.shape[1] > 1:  # a shift of all classes is not identified
            w = w - w.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(w, solution.w, atol=2e-3)


def test_squared_error_is_the_quadratic_programme_of_its_dual():
    """d(q) of ridge regression in closed form, maximised over a grid of two groups."""
    problem, offsets, _, _ = make(3, "squared", n=30, p=3, m=2, l2=0.1, soft=False)
    X, y, D = problem.X, problem.y, np.diag(problem.penalty[:, 0])

    def d(q):
        v = problem.groups.row_weights(q)
        w = np.linalg.solve(2 * X.T @ (v[:, None] * X) + D, 2 * X.T @ (v * y))
        return v @ (y - X @ w) ** 2 + 0.5 * w @ D @ w + q @ offsets

    best = scipy.optimize.minimize_scalar(
        lambda s: -d(np.array([s, 1 - s])), bounds=(0, 1), method="bounded",
        options={"xatol": 1e-12},
    )  # fmt: skip
    solution = solve(problem, offsets, np.ones(2), tol=1e-12)
    assert solution.primal == pytest.approx(-best.fun, abs=1e-10)
    assert solution.q[0] == pytest.approx(best.x, abs=1e-5)
    assert d(solution.q) == pytest.approx(solution.primal, abs=1e-12)


def test_gap_of_an_unpenalised_fit_is_not_taken_for_zero_far_from_the_optimum():
    """At w = 0 the linearised gradients leave the domain, and no other dual point is at hand."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = (X @ [3, -2, 1] + rng.logistic(size=200) > 0).astype(float)
    groups = HardGroups(np.zeros(200, dtype=int), np.ones(200), 1)
    problem = Problem(np.column_stack([X, np.ones(200)]), y, LogLoss(), groups, 0.0, True)
    solution = solve(problem, np.zeros(1), np.ones(1))
    dual = np.array(solution.history)[:, 1]
    assert dual.max() <= solution.primal
    assert solution.converged


def test_minimum_over_w_is_the_dual_value():
    problem, offsets, _, _ = make(5, "log", n=50, p=3, m=3, l2=0.01, soft=False)
    solution = solve(problem, offsets, np.ones(3), tol=1e-12)
    start = Point(problem, np.zeros(problem.shape))
    assert minimum_over_w(start, solution.q, offsets) == pytest.approx(solution.primal, abs=1e-10)
    other = np.array([0.2, 0.3, 0.5])
    assert minimum_over_w(start, other, offsets) <= solution.primal


@pytest.mark.parametrize("kind", ["squared", "log", "multinomial"])
def test_more_columns_than_rows_give_the_same_as_all_columns(kind):
    problem, offsets, caps, _ = make(1, kind, n=24, p=40, m=3, l2=0.1)
    direct = solve(problem, offsets, caps, tol=1e-11)
    reduced = solve_any_shape(problem, offsets, caps, 1e-11, 100)
    np.testing.assert_allclose(reduced.w, direct.w, atol=1e-7)
    again = solve_any_shape(problem, offsets, caps, 1e-11, 100, w=reduced.w, q=reduced.q)
    np.testing.assert_allclose(again.w, reduced.w, atol=1e-9)
    assert again.n_iter <= 2


@pytest.mark.parametrize("kind", ["squared", "log", "multinomial"])
def test_conjugate_gradients_solve_what_cholesky_solves(kind):
    problem, _, _, rng = make(2, kind, n=50, p=6, m=3, l2=0.1)
    point, q = Point(problem, rng.normal(size=problem.shape)), np.full(3, 1 / 3)
    # gradients, which for several classes are orthogonal to a common shift
    b = point.jacobian.T
    np.testing.assert_allclose(
        IterativeCurvature(point, q).solve(b), factorise(point, q).solve(b), atol=1e-8
    )


def test_many_parameters_are_solved_by_conjugate_gradients(monkeypatch):
    problem, offsets, caps, _ = make(4, "log", n=80, p=8, m=4, l2=0.1)
    direct = solve(problem, offsets, caps, tol=1e-10)
    monkeypatch.setattr("statml.group_robust.solver.DENSE_UP_TO", 4)
    assert isinstance(factorise(direct.point, direct.q), IterativeCurvature)
    iterative = solve(problem, offsets, caps, tol=1e-10)
    assert iterative.gap <= 1e-10
    np.testing.assert_allclose(iterative.w, direct.w, atol=1e-6)


def test_collinear_columns_without_a_penalty_are_solved():
    problem, offsets, _, _ = make(6, "squared", n=40, p=3, m=3, l2=0.0, soft=False)
    simple = solve(problem, offsets, np.ones(3))
    twice = Problem(
        np.column_stack([problem.X[:, :1], problem.X]), problem.y, problem.loss, problem.groups,
        0.0, True,
    )  # fmt: skip
    solution = solve(twice, offsets, np.ones(3))
    assert solution.converged
    assert solution.primal == pytest.approx(simple.primal, abs=1e-9)


def test_units_of_the_columns_do_not_matter_without_a_penalty():
    problem, offsets, _, _ = make(7, "squared", n=60, p=4, m=3, l2=0.0, soft=False)
    plain = solve(problem, offsets, np.ones(3))
    units = np.array([1e-6, 1e6, 1.0, 1e3, 1.0])
    scaled = Problem(
        problem.X * units, problem.y, problem.loss, problem.groups, 0.0, problem.intercept
    )
    solution = solve(scaled, offsets, np.ones(3))
    assert solution.converged
    np.testing.assert_allclose(solution.w[:, 0] * units, plain.w[:, 0], atol=1e-6)


def test_huber_without_curvature_at_the_start_converges():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=(80, 2)), np.ones(80)])
    y = 1000 + X[:, 0] + rng.standard_t(2, size=80)
    groups = HardGroups(rng.integers(0, 3, 80), np.ones(80), 3)
    solution = solve(
        Problem(X, y[groups.order], Huber(0.5), groups, 0.0, True), np.zeros(3), np.ones(3)
    )
    assert solution.converged


def test_a_constant_column_of_zeros_gets_no_coefficient():
    hessian = np.diag([2.0, 0.0])
    solved = DenseCurvature(hessian, np.array([2.0, 0.0])).solve(np.array([1.0, 0.0]))
    np.testing.assert_allclose(solved, [0.5, 0.0], rtol=1e-8)


def test_start_does_not_change_the_solution():
    problem, offsets, caps, rng = make(8, "log", n=60, p=3, m=4, l2=0.05)
    cold = solve(problem, offsets, caps, tol=1e-10)
    warm = solve(
        problem, offsets, caps, tol=1e-10,
        w=rng.normal(size=problem.shape), q=rng.dirichlet(np.ones(4)),
    )  # fmt: skip
    np.testing.assert_allclose(warm.w, cold.w, atol=1e-5)
    assert warm.primal == pytest.approx(cold.primal, abs=2e-10)
