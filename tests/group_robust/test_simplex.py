"""Group weights: the greedy rule, the entropic projection and the quadratic programme."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from statml.group_robust.simplex import entropic_projection, greedy_weights, simplex_qp


@st.composite
def problems(draw):
    """A generator, losses and caps that leave room for weights summing to one."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m = draw(st.integers(1, 8))
    share = rng.dirichlet(np.ones(m))
    alpha = draw(st.sampled_from([None, 1.0, 0.7, 0.2]))
    caps = np.ones(m) if alpha is None else np.minimum(share / alpha, 1.0)
    return rng, rng.normal(size=m).round(draw(st.sampled_from([0, 6]))), caps


def test_greedy_weights_of_a_known_case():
    share = np.array([0.5, 0.3, 0.15, 0.05])
    losses = np.array([0.2, 0.9, 0.5, 1.4])
    q = greedy_weights(losses, np.minimum(share / 0.2, 1))
    np.testing.assert_allclose(q, [0, 0.75, 0, 0.25], atol=1e-15)
    assert q @ losses == pytest.approx(1.025, abs=1e-15)


@given(problems())
def test_greedy_weights_solve_the_linear_programme(problem):
    _, losses, caps = problem
    q = greedy_weights(losses, caps)
    best = scipy.optimize.linprog(
        -losses,
        A_eq=np.ones((1, len(losses))),
        b_eq=[1],
        bounds=list(zip(np.zeros(len(caps)), caps * (1 + 1e-12), strict=True)),
    )
    assert q @ losses == pytest.approx(-best.fun, abs=1e-9)
    assert q.sum() == pytest.approx(1, abs=1e-14)
    assert (q >= 0).all()
    assert (q <= caps + 1e-12).all()


@given(problems())
def test_entropic_projection_is_the_nearest_in_divergence(problem):
    rng, _, caps = problem
    start = rng.dirichlet(np.ones(len(caps))) + 1e-3
    q = entropic_projection(start, caps)
    assert q.sum() == pytest.approx(1, abs=1e-12)
    assert (q <= caps + 1e-12).all()
    # optimality: log(q / start) is one number on the free groups and smaller on the capped ones
    ratio, free = q / start, q < caps - 1e-12
    if free.any():
        np.testing.assert_allclose(ratio[free], ratio[free][0], rtol=1e-9)
        assert (ratio[~free] <= ratio[free][0] * (1 + 1e-9)).all()


@given(problems(), st.integers(0, 3))
def test_simplex_qp_satisfies_its_optimality_conditions(problem, rank):
    rng, b, caps = problem
    m = len(b)
    root = rng.normal(size=(m, rank))
    M = root @ root.T  # singular if the rank is below m
    start = greedy_weights(rng.normal(size=m), caps)
    q = simplex_qp(M, b, caps, start)
    assert q.sum() == pytest.approx(1, abs=1e-12)
    assert (q >= 0).all()
    assert (q <= caps + 1e-12).all()
    slope = b - M @ q
    # no mass can be moved to a group of larger slope
    if (q < caps - 1e-9).any():
        assert slope[q < caps - 1e-9].max() <= slope[q > 1e-9].min() + 1e-7


def test_simplex_qp_agrees_with_a_general_solver():
    rng = np.random.default_rng(0)
    for _ in range(20):
        m = 5
        root = rng.normal(size=(m, m))
        M, b, caps = root @ root.T, rng.normal(size=m), np.full(m, 0.5)
        ours = simplex_qp(M, b, caps, np.full(m, 1 / m))
        theirs = scipy.optimize.minimize(
            lambda q, M=M, b=b: q @ M @ q / 2 - b @ q,
            np.full(m, 1 / m),
            jac=lambda q, M=M, b=b: M @ q - b,
            bounds=[(0, 0.5)] * m,
            constraints={"type": "eq", "fun": lambda q: q.sum() - 1, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert ours @ M @ ours / 2 - b @ ours <= theirs.fun + 1e-9
