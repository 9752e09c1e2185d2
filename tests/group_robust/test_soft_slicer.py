"""Soft slices, the adversary's weights, and why slices without a restriction are the CVaR."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, linprog

from statml.group_robust.cvar import cvar
from statml.group_robust.slicers import permutation_p_values
from statml.group_robust.soft_slicer import LinearSlicer, adversary_weights, soft_slices


def records(seed, n=120):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, 2)), rng.integers(0, 2, n)
    p = 1 / (1 + np.exp(-(X[:, 0] + 2 * y - 1)))
    proba = np.column_stack([1 - p, p])
    return X, y, proba, -np.log(proba[np.arange(n), y]), rng


@given(
    losses=st.lists(st.floats(0, 10), min_size=2, max_size=20),
    alpha=st.floats(0.02, 1.0),
)
def test_the_worst_soft_slice_of_a_mass_is_the_conditional_value_at_risk(losses, alpha):
    """max sum u l / sum u, 0 <= u <= 1, mean u >= alpha, as a linear programme in u t and t = 1 / sum u."""
    losses, n = np.array(losses), len(losses)
    result = linprog(
        np.r_[-losses, 0],
        A_ub=np.column_stack([np.eye(n), -np.ones(n)]),
        b_ub=np.zeros(n),
        A_eq=[np.r_[np.ones(n), 0]],
        b_eq=[1],
        bounds=[(0, None)] * n + [(0, 1 / (alpha * n))],
    )
    assert result.status == 0
    np.testing.assert_allclose(-result.fun, cvar(losses, alpha), atol=1e-8)


@given(seed=st.integers(0, 10**6), m=st.integers(1, 8))
def test_the_adversarys_weights_solve_their_linear_programme(seed, m):
    rng = np.random.default_rng(seed)
    losses, mass = rng.exponential(size=m), rng.dirichlet(np.ones(m))
    v = adversary_weights(losses, mass, "worst")
    result = linprog(-losses, A_eq=[np.ones(m)], b_eq=[1], bounds=[(0, cap) for cap in mass / 0.2])
    np.testing.assert_allclose(v @ losses, -result.fun, rtol=1e-7)
    assert (v <= mass / 0.2 + 1e-12).all()


def test_greedy_weights_of_the_specification():
    losses, mass = np.array([0.2, 0.9, 0.5, 1.4]), np.array([0.5, 0.3, 0.15, 0.05])
    v = adversary_weights(losses, mass, "worst")
    np.testing.assert_allclose(v, [0, 0.75, 0, 0.25])
    assert v @ losses == pytest.approx(1.025)
    # the reverse: 1 but for the worst slices, and (1 - 0.2 * 0.05) * 0.3 where their mass is used up
    v = adversary_weights(losses, mass, "greedy-reverse")
    np.testing.assert_allclose(v, [1, 0.99 * 0.3, 1, 0.2])


@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize(("marginal", "entropy"), [(0, 0), (0.7, 0), (0, 0.4), (0.3, 0.2)])
def test_the_gradient_of_the_adversary_is_right(by_class, marginal, entropy):
    X, y, proba, losses, rng = records(0, n=30)
    slicer = LinearSlicer(3, by_class, "random", 0.2, marginal, entropy, n_looks=1)
    slicer.fit_membership(X, y, proba, losses, rng)
    Z, allowed = slicer._inputs(X, y, proba), slicer._allowed(y)
    w = rng.normal(size=slicer.weights.size)
    v = rng.random(slicer.weights.shape[1])
    mass = soft_slices(Z, w.reshape(slicer.weights.shape), allowed).mean(axis=0)
    assert mass.min() < 0.2 < mass.max()  # both branches of the floor
    numeric = approx_fprime(w, lambda u: slicer._downhill(u, Z, allowed, losses, v)[0], 1e-7)
    np.testing.assert_allclose(
        slicer._downhill(w, Z, allowed, losses, v)[1], numeric, atol=2e-6, rtol=1e-5
    )


@pytest.mark.parametrize("init", ["confusion", "domino", "random"])
@pytest.mark.parametrize("adversary", ["worst", "greedy-reverse"])
@pytest.mark.parametrize("by_class", [True, False])
def test_memberships_sum_to_one_and_respect_classes(init, adversary, by_class):
    X, y, proba, losses, rng = records(1)
    slicer = LinearSlicer(3, by_class, init, adversary=adversary, n_looks=2)
    P = slicer.fit_membership(X, y, proba, losses, rng)
    np.testing.assert_allclose(P.sum(axis=1), 1)
    np.testing.assert_array_equal(P, slicer.membership(X, y, proba))
    if by_class:
        assert P.shape == (len(y), 6)
        assert (P[y == 0, 3:] == 0).all()
        assert (P[y == 1, :3] == 0).all()
    rules = slicer.rules(["a", "b"], ["no", "yes"])
    assert len(set(rules)) == P.shape[1]
    assert all(rule.endswith(" & y = yes") == (by_class and g >= 3) for g, rule in enumerate(rules))


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("min_mass", [0.1, 0.2])
def test_with_the_probability_as_input_almost_nothing_restricts_the_adversary(seed, min_mass):
    """Within a class the loss is a function of the probability: the worst slice is nearly that of the CVaR."""
    X, y, proba, losses, rng = records(seed, n=400)
    P = LinearSlicer(2, min_mass=min_mass).fit_membership(X, y, proba, losses, rng)
    floor = min_mass * 400
    worst = (P.T @ losses / np.maximum(P.sum(axis=0), floor)).max()
    bound = max(cvar(losses[y == c], floor / (y == c).sum()) for c in (0, 1))
    assert 0.95 * bound < worst <= bound + 1e-9


def test_the_regularisers_do_what_they_say():
    X, y, proba, losses, _ = records(3)

    def fitted(**options):
        slicer = LinearSlicer(4, by_class=False, **options)
        return slicer.fit_membership(X, y, proba, losses, np.random.default_rng(0))

    def divergence(P):
        share = P.mean(axis=0)
        return (share * np.log(np.maximum(share, 1e-300) * len(share))).sum()

    def entropy(P):
        return -(P * np.log(np.maximum(P, 1e-300))).sum(axis=1).mean()

    plain = fitted()
    assert divergence(fitted(marginal_reg=10.0)) < 0.2 * divergence(plain)
    assert entropy(fitted(entropy_reg=10.0)) > 2 * entropy(plain)
    assert entropy(fitted(entropy_reg=10.0)) > 0.9 * np.log(4)


def test_no_smallest_mass_gives_no_division_by_zero():
    X, y, proba, losses, rng = records(4)
    P = LinearSlicer(6, min_mass=0.0).fit_membership(X, y, proba, losses, rng)
    assert np.isfinite(P).all()


def test_a_warm_start_goes_on_from_the_slices_there_are():
    X, y, proba, losses, rng = records(5)
    slicer = LinearSlicer(3, warm_start=True, n_looks=1)
    slicer.fit_membership(X, y, proba, losses, rng)
    before = slicer.weights.copy()
    slicer.fit_membership(X, y, proba, losses, np.random.default_rng(99))
    again = LinearSlicer(3, warm_start=True, n_looks=1, weights=before)
    again.n_classes, again.centre, again.scale = slicer.n_classes, slicer.centre, slicer.scale
    again.fit_membership(X, y, proba, losses, np.random.default_rng(7))
    np.testing.assert_array_equal(again.weights, slicer.weights)


def test_slices_that_see_the_probability_are_significant_whatever_the_losses_are_due_to():
    """What the documentation warns of: the labels follow the probabilities exactly, so that nobody is neglected."""
    X, _, proba, _, rng = records(6, n=300)
    y = (rng.random(300) < proba[:, 1]).astype(int)
    losses = -np.log(proba[np.arange(300), y])
    slicer = LinearSlicer(3, n_looks=2, n_permutations=9)
    P = slicer.fit_membership(X, y, proba, losses, rng)
    assert permutation_p_values(slicer, P, X, y, proba, losses, True, rng).min() == 0.1
