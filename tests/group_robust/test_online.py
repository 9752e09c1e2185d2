"""The online algorithm reaches what the exact solver certifies."""

import numpy as np
import pytest

from statml.group_robust import GroupDROClassifier, GroupDRORegressor
from statml.group_robust.online import _sampler


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [600, 250, 50])
    X = rng.normal(size=(900, 3))
    slopes = np.array([[1.0, 0.5, 0], [-1, 0.5, 0], [0, 0, 1.5]])[groups]
    z = (X * slopes).sum(axis=1)
    return X, z, groups, rng.logistic(size=900)


def classes(data):
    X, z, groups, noise = data
    return X, (z + noise > 0).astype(int), groups


def test_averaged_iterate_converges_to_the_certified_optimum(data):
    X, y, groups = classes(data)
    exact = GroupDROClassifier(l2=0.01).fit(X, y, groups)
    excess = []
    for passes in (10, 60, 360):
        fits = [
            GroupDROClassifier(l2=0.01, solver="eg", max_iter=passes, random_state=r).fit(
                X, y, groups
            )
            for r in range(2)
        ]
        excess.append(np.mean([fit.objective_ - exact.objective_ for fit in fits]))
        for fit in fits:
            assert fit.objective_ >= exact.dual_objective_ - 1e-12
            assert fit.dual_objective_ <= exact.objective_ + 1e-12
            assert fit.duality_gap_ == pytest.approx(
                fit.objective_ - fit.dual_objective_, abs=1e-12
            )
    # the rate is the inverse root of the number of steps: six times as many, 2.4 times as near
    assert excess[0] > excess[1] > excess[2]
    assert excess[2] < excess[0] / 3
    assert excess[2] < 3e-3
    np.testing.assert_allclose(fits[0].group_weights_, exact.group_weights_, atol=0.1)


@pytest.mark.parametrize("loss", ["squared_error", "huber", "poisson"])
def test_other_losses_converge_too(data, loss):
    X, z, groups, noise = data
    y = np.random.default_rng(1).poisson(np.exp(0.5 * z)) if loss == "poisson" else z + noise
    exact = GroupDRORegressor(loss=loss, l2=0.01).fit(X, y, groups)
    fit = GroupDRORegressor(loss=loss, l2=0.01, solver="eg", max_iter=150, random_state=0)
    fit.fit(X, y, groups)
    assert 0 <= fit.objective_ - exact.objective_ < 0.02 * exact.objective_


def test_three_classes_overlapping_groups_and_caps_converge_too(data):
    X, y, groups = classes(data)
    y = y + (groups == 2)
    member = np.column_stack([groups == 0, groups > 0, X[:, 0] > 0]).astype(float)
    exact = GroupDROClassifier(l2=0.01, alpha=0.6).fit(X, y, group_weights=member)
    fit = GroupDROClassifier(l2=0.01, alpha=0.6, solver="eg", max_iter=150, random_state=0)
    fit.fit(X, y, group_weights=member)
    assert 0 <= fit.objective_ - exact.objective_ < 0.02
    share = exact.group_sizes_ / exact.group_sizes_.sum()
    assert (fit.group_weights_ <= share / 0.6 + 1e-9).all()


def test_random_state_fixes_the_result(data):
    X, y, groups = classes(data)

    def coef(seed):
        model = GroupDROClassifier(solver="eg", max_iter=3, random_state=seed)
        return model.fit(X, y, groups).coef_

    np.testing.assert_array_equal(coef(1), coef(1))
    assert np.abs(coef(1) - coef(2)).max() > 0


def test_batches_hold_every_group_with_equal_chance_and_rows_by_weight(data):
    X, y, groups = classes(data)
    weight = np.where(np.arange(900) % 2 == 0, 3.0, 1.0)
    fit = GroupDROClassifier().fit(X, y, groups, sample_weight=weight)
    draw = _sampler(fit._problem, np.random.default_rng(0))
    drawn = [draw() for _ in range(400)]
    group = np.concatenate([g for g, _ in drawn])
    rows = np.concatenate([r for _, r in drawn])
    n = len(group)
    shares = np.bincount(group) / n
    assert np.abs(shares - 1 / 3).max() < 4 * np.sqrt(2 / 9 / n)
    order = fit._problem.groups.order
    assert (groups[order][rows] == group).all()
    even = np.mean(order[rows] % 2 == 0)  # weight 3 of 4
    assert abs(even - 0.75) < 4 * np.sqrt(3 / 16 / n)
