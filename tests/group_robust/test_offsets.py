"""Offsets: maximin effects, minimax regret, the adjustment."""

import numpy as np
import pytest
import scipy.optimize

from statml.group_robust import GroupDROClassifier, GroupDRORegressor


@pytest.fixture
def equal_designs():
    """Five groups with the same rows of X, and their least-squares coefficients (5, 3)."""
    rng = np.random.default_rng(0)
    X, slopes = rng.normal(size=(60, 3)), rng.normal(1.0, 1.0, (5, 3))
    y = (slopes @ X.T + rng.normal(size=(5, 60))).ravel()
    slopes = np.linalg.lstsq(X, y.reshape(5, 60).T, rcond=None)[0].T
    return X, np.tile(X, (5, 1)), y, np.repeat(np.arange(5), 60), slopes


def test_null_offset_gives_maximin_effects(equal_designs):
    """Meinshausen and Bühlmann (2015), Theorem 1: the point of the hull that is nearest to zero in the design's norm."""
    X, stacked, y, groups, slopes = equal_designs
    gram = X.T @ X / 60
    nearest = scipy.optimize.minimize(
        lambda q: q @ slopes @ gram @ slopes.T @ q,
        np.full(5, 0.2),
        jac=lambda q: 2 * slopes @ gram @ slopes.T @ q,
        bounds=[(0, 1)] * 5,
        constraints={"type": "eq", "fun": lambda q: q.sum() - 1, "jac": lambda q: np.ones(5)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    fit = GroupDRORegressor(l2=0, fit_intercept=False, offset="null").fit(stacked, y, groups)
    np.testing.assert_allclose(fit.coef_, nearest.x @ slopes, atol=1e-6)
    np.testing.assert_allclose(fit.coef_, fit.group_weights_ @ slopes, atol=1e-9)
    # the least variance explained in a group is the squared norm of that point
    explained = (y.reshape(5, 60) ** 2).mean(axis=1) - fit.group_losses_
    assert explained.min() == pytest.approx(fit.coef_ @ gram @ fit.coef_, abs=1e-8)
    np.testing.assert_allclose(fit.group_offsets_, -(y.reshape(5, 60) ** 2).mean(axis=1))


def test_null_offset_with_an_intercept_is_the_loss_of_the_best_constant(equal_designs):
    _, X, y, groups, _ = equal_designs
    fit = GroupDRORegressor(offset="null").fit(X, y, groups)
    np.testing.assert_allclose(fit.group_offsets_, -y.reshape(5, 60).var(axis=1), rtol=1e-12)
    labels = (y > 0).astype(int)
    share = labels.reshape(5, 60).mean(axis=1)
    fit = GroupDROClassifier(offset="null").fit(X, labels, groups)
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    np.testing.assert_allclose(fit.group_offsets_, -entropy, rtol=1e-12)


def test_excess_offset_is_what_the_group_loses_alone(equal_designs):
    _, X, y, groups, _ = equal_designs
    fit = GroupDRORegressor(l2=0.1, offset="excess").fit(X, y, groups)
    for g in range(5):
        alone = GroupDRORegressor(l2=0.1).fit(X[groups == g], y[groups == g])
        assert fit.group_offsets_[g] == pytest.approx(-alone.objective_, abs=1e-10)
    # nobody regrets more than the optimum says, and with equal noise the regrets of active groups are equal
    regret = fit.group_losses_ + fit.group_offsets_
    active = fit.group_weights_ > 0
    np.testing.assert_allclose(regret[active], regret.max(), atol=1e-8)


def test_regret_does_not_follow_the_noisiest_group():
    rng = np.random.default_rng(1)
    X, groups = rng.normal(size=(900, 2)), np.repeat([0, 1, 2], 300)
    slope = np.array([[1.0, 0], [-1.0, 0], [0, 1.0]])[groups]
    y = (X * slope).sum(axis=1) + rng.normal(size=900) * np.array([1, 1, 6])[groups]
    plain = GroupDRORegressor(l2=0).fit(X, y, groups)
    regret = GroupDRORegressor(l2=0, offset="excess").fit(X, y, groups)
    assert plain.active_groups_.tolist() == [2]
    assert len(regret.active_groups_) > 1


def test_adjustment_is_added_to_any_offset(equal_designs):
    _, X, y, groups, _ = equal_designs
    given = np.arange(5.0)
    fit = GroupDRORegressor(offset=given, adjustment=2.0).fit(X, y, groups)
    np.testing.assert_allclose(fit.group_offsets_, given + 2 / np.sqrt(60))
