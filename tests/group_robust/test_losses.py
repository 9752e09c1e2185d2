"""Every loss agrees with its derivatives, its conjugate and its best constant."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from statml.group_robust.losses import Huber, LogLoss, MultinomialLogLoss, Poisson, SquaredError

LOSSES = [SquaredError(), Huber(0.7), Poisson(), LogLoss(), MultinomialLogLoss(4)]


def sample(loss, rng, n=200):
    """Responses that the loss takes, and linear predictors on both sides of them."""
    z = rng.normal(0, 2, (n, loss.n_outputs))
    if isinstance(loss, Poisson):
        return rng.poisson(2.0, n).astype(float), z
    if isinstance(loss, LogLoss):
        return rng.integers(0, 2, n).astype(float), z
    if isinstance(loss, MultinomialLogLoss):
        return rng.integers(0, loss.n_outputs, n).astype(float), z
    return rng.normal(0, 2, n), z


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradient_and_curvature_are_those_of_the_value(loss):
    y, z = sample(loss, np.random.default_rng(0))
    if isinstance(loss, Huber):  # no second derivative exactly at the bend
        away = np.abs(np.abs(z[:, 0] - y) - loss.epsilon) > 1e-3
        y, z = y[away], z[away]
    gradient, curvature = loss.derivatives(y, z)
    h = 1e-5
    for k, e in enumerate(h * np.eye(loss.n_outputs)):
        slope = (loss.value(y, z + e) - loss.value(y, z - e)) / (2 * h)
        np.testing.assert_allclose(gradient[:, k], slope, atol=1e-8, rtol=1e-8)
        bend = (loss.derivatives(y, z + e)[0] - loss.derivatives(y, z - e)[0]) / (2 * h)
        np.testing.assert_allclose(curvature[:, :, k], bend, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_fenchel_young_holds_with_equality_exactly_at_the_gradient(loss):
    rng = np.random.default_rng(1)
    y, z = sample(loss, rng)
    gradient, _ = loss.derivatives(y, z)
    conjugate = loss.conjugate(y, gradient)
    assert np.isfinite(conjugate).all()
    gap = loss.value(y, z) + conjugate - (gradient * z).sum(axis=1)
    np.testing.assert_allclose(gap, 0, atol=1e-12 * (1 + np.abs(z).max() ** 2))
    # gradients elsewhere are feasible, and there the inequality may be strict
    elsewhere, _ = loss.derivatives(y, z + rng.normal(size=z.shape))
    gap = loss.value(y, z) + loss.conjugate(y, elsewhere) - (elsewhere * z).sum(axis=1)
    assert (gap >= -1e-12).all()
    assert gap.max() > 0.1


def test_conjugate_is_the_supremum():
    for loss in (SquaredError(), Huber(0.7), Poisson(), LogLoss()):
        y, z = sample(loss, np.random.default_rng(2), n=20)
        u = 0.9 * loss.derivatives(y, z)[0]
        for k in range(20):
            best = scipy.optimize.minimize_scalar(
                lambda s, k=k, loss=loss, y=y, u=u: (
                    loss.value(y[k : k + 1], np.array([[s]]))[0] - u[k, 0] * s
                ),
                bounds=(-30, 30),
                method="bounded",
                options={"xatol": 1e-10},
            )
            assert loss.conjugate(y, u)[k] == pytest.approx(-best.fun, abs=1e-7)


def test_conjugates_are_infinite_outside_their_domain():
    zero, one = np.zeros(1), np.ones(1)
    assert Huber(1.0).conjugate(zero, np.array([[2.1]])) == np.inf
    assert Poisson().conjugate(one, np.array([[-1.1]])) == np.inf
    assert LogLoss().conjugate(one, np.array([[0.1]])) == np.inf
    assert MultinomialLogLoss(3).conjugate(zero, np.array([[0.5, 0.0, 0.0]])) == np.inf


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_best_constant_is_the_best(loss):
    rng = np.random.default_rng(3)
    y, _ = sample(loss, rng)
    weight = rng.random(len(y))
    weight /= weight.sum()
    found = weight @ loss.constant(y, weight)
    best = scipy.optimize.minimize(
        lambda c: weight @ loss.value(y, np.broadcast_to(c, (len(y), loss.n_outputs))),
        np.zeros(loss.n_outputs),
        method="Nelder-Mead",
        options={"fatol": 1e-13, "xatol": 1e-9, "maxiter": 4000},
    ).fun
    assert found == pytest.approx(best, abs=1e-9)


def test_constants_of_one_value_lose_nothing():
    one, weight = np.ones(4), np.full(4, 0.25)
    for loss in (SquaredError(), Huber(), Poisson(), LogLoss()):
        np.testing.assert_allclose(loss.constant(one, weight), 0, atol=1e-15)


def test_huber_majoriser_touches_and_lies_above():
    loss, rng = Huber(0.7), np.random.default_rng(4)
    y, z = sample(loss, rng)
    gradient, bend = loss.derivatives(y, z)[0][:, 0], loss.majoriser(y, z)[:, 0, 0]
    for step in np.linspace(-6, 6, 41):
        parabola = loss.value(y, z) + gradient * step + 0.5 * bend * step**2
        assert (loss.value(y, z + step) <= parabola + 1e-12).all()


@given(st.floats(-700, 700), st.integers(0, 1))
def test_log_loss_does_not_overflow(z, y):
    y, z = np.array([float(y)]), np.array([[z]])
    value = LogLoss().value(y, z)[0]
    gradient, curvature = LogLoss().derivatives(y, z)
    assert value == pytest.approx(np.logaddexp(0, z[0, 0]) - y[0] * z[0, 0], abs=1e-12)
    assert -1 <= gradient[0, 0] <= 1
    assert 0 <= curvature[0, 0, 0] <= 0.25 + 1e-15


def test_multinomial_of_two_classes_is_the_binary_loss():
    rng = np.random.default_rng(5)
    y, z = rng.integers(0, 2, 50).astype(float), rng.normal(size=50)
    two = MultinomialLogLoss(2).value(y, np.column_stack([0 * z, z]))
    np.testing.assert_allclose(two, LogLoss().value(y, z[:, None]), atol=1e-14)


def test_huber_refuses_a_negative_epsilon():
    with pytest.raises(ValueError, match="epsilon must be a finite number > 0, got -1"):
        Huber(-1)
