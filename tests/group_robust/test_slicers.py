"""Tree and regressor slicers, their rules, and the permutation test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from statml.group_robust.slicers import (
    EstimatorSlicer,
    TreeSlicer,
    permutation_p_values,
    slice_statistics,
)


def planted(rng, n=600, low=0.2, high=2.0, noise=0.3):
    """Losses that are high for x1 > 5 in class 1 only; integer features, so that cuts are k + 1/2."""
    X = rng.integers(0, 10, (n, 3)).astype(float)
    y = rng.integers(0, 2, n)
    hard = (X[:, 1] > 5) & (y == 1)
    return X, y, np.where(hard, high, low) + noise * rng.exponential(size=n), hard


def holds(rule, X, y):
    """Which records a rule describes, read from its text."""
    inside = np.ones(len(X), dtype=bool)
    for condition in rule.split(" & "):
        words = condition.split(" ")
        value = {f"x{j}": X[:, j] for j in range(X.shape[1])} | {"y": y.astype(float)}
        if len(words) == 5:
            inside &= (float(words[0]) < value[words[2]]) & (value[words[2]] <= float(words[4]))
            continue
        name, sign, number = words[0], words[1], float(words[2])
        inside &= {
            "<=": value[name] <= number,
            ">": value[name] > number,
            "=": value[name] == number,
            "!=": value[name] != number,
        }[sign]
    return inside


def rules_of(slicer, X):
    return slicer.rules([f"x{j}" for j in range(X.shape[1])], [0, 1])


# --- trees ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_class", [True, False])
def test_a_tree_finds_the_planted_slice_and_nothing_else(by_class):
    rng = np.random.default_rng(0)
    X, y, losses, hard = planted(rng)
    slicer = TreeSlicer(max_leaves=3, by_class=by_class)
    P = slicer.fit_membership(X, y, None, losses, rng)
    worst = (P.T @ losses / P.sum(axis=0)).argmax()
    np.testing.assert_array_equal(P[:, worst] == 1, hard)
    assert P.shape[1] == 3
    if by_class:  # class 0 has no slices
        np.testing.assert_array_equal(P[:, 0] == 1, y == 0)


@given(
    seed=st.integers(0, 10**6),
    by_class=st.booleans(),
    prune=st.booleans(),
    max_leaves=st.integers(1, 6),
    min_mass=st.sampled_from([0.0, 0.02, 0.1, 0.3]),
)
def test_slices_are_a_partition_into_large_enough_parts_and_the_rules_describe_it(
    seed, by_class, prune, max_leaves, min_mass
):
    rng = np.random.default_rng(seed)
    X, y, losses, _ = planted(rng, n=150)
    slicer = TreeSlicer(max_leaves, min_mass, by_class, prune)
    P = slicer.fit_membership(X, y, None, losses, rng)
    rules = rules_of(slicer, X)
    assert len(set(rules)) == P.shape[1] == len(rules)
    np.testing.assert_array_equal(P.sum(axis=1), 1)
    assert P.shape[1] <= max_leaves * (2 if by_class else 1)
    whole_class = [np.array_equal(p == 1, y == c) for p in P.T for c in (0, 1)]
    assert (P.mean(axis=0) >= min_mass).all() or any(whole_class)
    for rule, member in zip(rules, P.T, strict=True):
        np.testing.assert_array_equal(holds(rule, X, y) if rule != "all" else True, member == 1)
    np.testing.assert_array_equal(slicer.membership(X, y, None), P)


def test_cuts_that_agree_in_three_digits_are_shown_with_more():
    X = 1000 + np.repeat([0.1, 0.2, 0.3, 0.4], 30)[:, None]
    y = np.zeros(120, dtype=int)
    losses = np.repeat([0.0, 5.0, 1.0, 9.0], 30)
    slicer = TreeSlicer(max_leaves=4, prune=False)
    slicer.fit_membership(X, y, None, losses, np.random.default_rng(0))
    rules = slicer.rules(["x"], ["a"])
    assert len(set(rules)) == 4
    assert all(rule.count("1000.") >= 1 for rule in rules)


def test_losses_without_structure_mostly_give_no_slices():
    counts = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X, y = rng.normal(size=(300, 5)), np.zeros(300, dtype=int)
        P = TreeSlicer(max_leaves=3).fit_membership(X, y, None, rng.exponential(size=300), rng)
        counts.append(P.shape[1])
    # a cross-validated gain happens by chance in one case of eight or so
    assert np.mean(np.array(counts) > 1) < 0.15 + 3 * np.sqrt(0.15 * 0.85 / 40)


def test_features_too_large_for_single_precision_are_taken():
    rng = np.random.default_rng(0)
    X, y, losses, hard = planted(rng)
    X[:, 1] = np.where(X[:, 1] > 5, 1e300, -1e300)
    P = TreeSlicer(max_leaves=2).fit_membership(X, y, None, losses, rng)
    np.testing.assert_array_equal(P[:, -1] == 1, hard)


def test_a_tree_of_the_users_keeps_its_settings_and_the_smallest_mass():
    rng = np.random.default_rng(0)
    X, y, losses, hard = planted(rng)
    slicer = TreeSlicer(min_mass=0.1, template=DecisionTreeRegressor(max_depth=1, random_state=0))
    P = slicer.fit_membership(X, y, None, losses, rng)
    assert P.shape[1] == 4
    assert P.mean(axis=0).min() >= 0.1
    np.testing.assert_array_equal(P[:, 3] == 1, hard)


# --- regressors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize(
    "regressor", [LinearRegression(), RandomForestRegressor(10, random_state=0)]
)
def test_levels_of_predicted_loss_separate_hard_records_from_easy_ones(regressor, by_class):
    rng = np.random.default_rng(0)
    X, y, losses, hard = planted(rng)
    slicer = EstimatorSlicer(regressor, 2, 0.02, by_class)
    P = slicer.fit_membership(X, y, None, losses, rng)
    means = P.T @ losses / P.sum(axis=0)
    assert P[:, means.argmax()][hard].mean() > 0.8
    assert means.max() > 2 * losses.mean()
    fresh = planted(rng)
    Q = slicer.membership(*fresh[:2], None)
    np.testing.assert_array_equal(Q.sum(axis=1), 1)
    assert Q[:, means.argmax()][fresh[3]].mean() > 0.8


def test_a_flexible_regressor_does_not_find_its_own_noise():
    rng = np.random.default_rng(0)
    X, y, losses = rng.normal(size=(300, 5)), np.zeros(300, dtype=int), rng.exponential(size=300)
    forest = RandomForestRegressor(20, random_state=0)
    slicer = EstimatorSlicer(forest, 2)
    P = slicer.fit_membership(X, y, None, losses, rng)
    if P.shape[1] > 1:
        worst = (P.T @ losses / P.sum(axis=0)).max()
        assert worst < 1.6
    # in sample, the same forest separates pure noise almost perfectly
    fitted = forest.fit(X, losses).predict(X)
    assert losses[fitted > np.quantile(fitted, 0.8)].mean() > 2


def test_a_class_too_rare_for_a_regressor_is_one_slice():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 2)), np.r_[np.zeros(192, dtype=int), np.ones(8, dtype=int)]
    slicer = EstimatorSlicer(LinearRegression(), 2)
    P = slicer.fit_membership(X, y, None, rng.exponential(size=200), rng)
    np.testing.assert_array_equal(P[:, -1], y)


# --- permutation p-values ---------------------------------------------------------------------------


def smallest_p_values(slicer, n_replications, losses_of, by_class=True, n=80):
    p = []
    for seed in range(n_replications):
        rng = np.random.default_rng(seed)
        X, y = rng.normal(size=(n, 3)), rng.integers(0, 2, n)
        losses = losses_of(X, y, rng)
        P = slicer.fit_membership(X, y, None, losses, rng)
        p.append(permutation_p_values(slicer, P, X, y, None, losses, by_class, rng).min())
    return np.array(p)


def noise(X, y, rng):
    return rng.exponential(size=len(y)) * (1 + 3 * y)  # classes may differ: that is no slice


def test_without_structure_the_smallest_p_value_of_a_stump_is_uniform():
    p = smallest_p_values(TreeSlicer(2, prune=False, n_permutations=9), 120, noise)
    # uniform on 0.1, 0.2, ..., 1
    error = np.sqrt((10**2 - 1) / 12) / 10 / np.sqrt(len(p))
    assert abs(p.mean() - 0.55) < 4 * error
    for a in (0.1, 0.3, 0.5):
        assert abs((p <= a).mean() - a) < 4 * np.sqrt(a * (1 - a) / len(p))


def test_the_p_values_of_pruned_trees_keep_the_level():
    p = smallest_p_values(TreeSlicer(3, n_permutations=9), 60, noise)
    for a in (0.1, 0.2, 0.3):
        assert (p <= a).mean() <= a + 4 * np.sqrt(a * (1 - a) / len(p))


def test_a_real_slice_has_the_smallest_p_value_that_there_is():
    def losses(X, y, rng):
        return noise(X, y, rng) + 6 * (X[:, 0] > 0.5) * y

    p = smallest_p_values(TreeSlicer(2, n_permutations=19), 10, losses, n=200)
    assert (p == 0.05).mean() >= 0.9


def test_a_leaf_is_never_more_extreme_than_the_nodes_of_the_tree_before_pruning():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X, y, losses, _ = planted(rng, n=120, high=0.8)
        slicer = TreeSlicer(4)
        P = slicer.fit_membership(X, y, None, losses, rng)
        Q = slicer.null().fit_membership(X, y, None, losses, rng)
        leaves, nodes = (slice_statistics(M, y, losses, True) for M in (P, Q))
        assert leaves.max() <= nodes.max() + 1e-12


def test_a_whole_class_has_statistic_zero_and_p_value_one():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 2)), rng.integers(0, 2, 100)
    losses = noise(X, y, rng)
    slicer = TreeSlicer(1, n_permutations=9)
    P = slicer.fit_membership(X, y, None, losses, rng)
    np.testing.assert_allclose(slice_statistics(P, y, losses, True), 0, atol=1e-12)
    assert (permutation_p_values(slicer, P, X, y, None, losses, True, rng) == 1).all()


def test_the_statistic_is_the_mean_of_standardised_losses_times_the_root_of_the_size():
    losses = np.array([1.0, 2.0, 3.0, 6.0])
    P = np.array([[1, 0], [1, 0], [0, 1], [0, 1.0]])
    z = (losses - 3) / losses.std()
    expected = [z[:2].mean() * np.sqrt(2), z[2:].mean() * np.sqrt(2)]
    found = slice_statistics(P, np.zeros(4, dtype=int), losses, True)
    np.testing.assert_allclose(found, expected)
    assert slice_statistics(P, np.zeros(4, dtype=int), np.ones(4), True).tolist() == [0, 0]
