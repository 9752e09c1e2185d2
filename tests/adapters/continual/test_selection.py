"""What is kept and what is asked about: each rule by its definition, the band, and pools with foreign records."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statml.adapters.continual import (
    BoundFilter,
    ConformalBound,
    Pool,
    WeibullBound,
    choose_task,
    outlier_shares,
    query_pool,
    select_exemplars,
)
from statml.adapters.continual.selection import RULES, herding, k_center, k_means
from statml.adapters.continual.selection.exemplars import equal_shares

HERE = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [4.0, 4.0], [1.0, 1.0]])


def _rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def known():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 300)
    return 6 * np.eye(3, 8)[y] + rng.normal(size=(900, 8)), y


@pytest.fixture(scope="module")
def bound(known):
    return WeibullBound("euclidean").fit(*known)


@pytest.fixture(scope="module")
def polluted(known):
    """A pool of 600, half of them foreign: between the classes, so that a classifier is unsure, and far out beside them."""
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=300)
    inside = 6 * np.eye(3, 8)[y] + rng.normal(size=(300, 8))
    between = 2 + rng.normal(size=(300, 3))
    Z = np.concatenate([inside, np.column_stack([between, rng.normal(0, 9, (300, 5))])])
    near = -np.square(Z[:, None] - 6 * np.eye(3, 8)).sum(axis=2) / 40
    proba = np.exp(near - near.max(axis=1, keepdims=True))
    return Z, proba / proba.sum(axis=1, keepdims=True), np.arange(600) >= 300


# --- rules -------------------------------------------------------------------------------------------


def test_herding_takes_the_reference_order():
    assert herding.herding(Pool(HERE), 3, _rng()).tolist() == [4, 1, 2]


def test_herding_follows_the_mean_better_than_chance():
    Z = np.random.default_rng(2).gamma(1.0, size=(500, 5))
    gap = [
        np.linalg.norm(Z[RULES[name](Pool(Z), 20, _rng())].mean(axis=0) - Z.mean(axis=0))
        for name in ("herding", "random")
    ]
    assert gap[0] < gap[1] / 5


def test_herding_is_greedy_by_its_definition():
    Z = np.random.default_rng(3).normal(size=(30, 4))
    chosen = herding.herding(Pool(Z), 10, _rng())
    for k in range(1, 11):
        free = np.setdiff1d(np.arange(30), chosen[: k - 1])
        gap = [
            np.linalg.norm(Z.mean(axis=0) - (Z[chosen[: k - 1]].sum(axis=0) + Z[j]) / k)
            for j in free
        ]
        assert free[np.argmin(gap)] == chosen[k - 1]


def test_k_center_is_farthest_first_and_within_twice_the_best_radius():
    assert k_center.k_center(Pool(HERE), 2, _rng()).tolist() == [4, 3]
    assert k_center.k_center(Pool(HERE, labelled=HERE[3:4]), 1, _rng()).tolist() == [0]
    rng = np.random.default_rng(4)
    Z = rng.uniform(size=(12, 2))

    def radius(centres):
        return np.linalg.norm(Z[:, None] - Z[list(centres)], axis=2).min(axis=1).max()

    from itertools import combinations

    best = min(radius(c) for c in combinations(range(12), 3))
    assert radius(k_center.k_center(Pool(Z), 3, rng)) <= 2 * best + 1e-12


def test_k_means_takes_one_record_near_each_centre():
    rng = np.random.default_rng(5)
    centres = np.array([[0, 0], [20, 0], [0, 20], [20, 20]])
    Z = np.repeat(centres, 50, axis=0) + rng.normal(size=(200, 2))
    chosen = k_means.k_means(Pool(Z), 4, rng)
    assert sorted(chosen // 50) == [0, 1, 2, 3]
    assert (np.linalg.norm(Z[chosen] - np.repeat(centres, 50, axis=0)[chosen], axis=1) < 1).all()


def test_entropy_takes_the_least_certain():
    proba = np.array([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4], [1.0, 0.0]])
    pool = Pool(np.zeros((4, 1)), class_proba=proba)
    assert RULES["entropy"](pool, 3, _rng()).tolist() == [1, 2, 0]


def test_inverse_cdf_mimics_the_distances_of_the_class(bound):
    """Against the distribution that is asked for: distances of the chosen, for p uniform, have uniform w."""
    rng = np.random.default_rng(6)
    direction = rng.normal(size=(20_000, 8))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    shell = bound.means_[1] + direction * rng.uniform(
        0, 8, size=(20_000, 1)
    )  # candidates at all distances
    w = bound.outlier_proba(shell, np.ones(20_000, dtype=int))
    pool = Pool(shell, labels=np.ones(20_000, dtype=int), outlier_proba=w, bound=bound, hi=0.9)
    chosen = RULES["inverse_cdf"](pool, 200, rng)
    d = bound.distances(shell[chosen])[:, 1]
    # uniform on (0, 0.9): Kolmogorov's distance at the 0.1 % level; candidates leave gaps of 8 / 20000
    grid = np.sort(w[chosen]) / 0.9
    assert np.abs(grid - (np.arange(200) + 0.5) / 200).max() < 1.95 / np.sqrt(200)
    assert (w[chosen] <= 0.9).all()
    assert d.max() <= bound.inverse(0.9, 1) + 1e-9


def test_below_bound_takes_the_largest_w_in_the_band_and_breaks_ties_by_distance():
    w = np.array([0.0, 0.0, 0.96, 0.5, 0.0])
    d = np.array([1.0, 3.0, 9.0, 5.0, 2.0])

    class Flat:
        classes_ = np.array([0])

        def distances(self, Z):
            return d[Z[:, 0].astype(int), None]

    pool = Pool(np.arange(5.0)[:, None], np.zeros(5, dtype=int), w, bound=Flat())
    chosen = BoundFilter("below_bound", (0, 0.95))(pool, 5, _rng())
    assert chosen.tolist() == [3, 1, 4, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 25), st.integers(0, 30), st.integers(0, 2**31), st.booleans())
def test_every_rule_returns_different_candidates_and_as_many_as_there_are(n, ask, seed, flat):
    rng = np.random.default_rng(seed)
    Z = np.zeros((n, 3)) if flat else rng.normal(size=(n, 3))
    train = rng.normal(size=(100, 3))
    bound = WeibullBound("euclidean").fit(train, np.arange(100) % 1)
    labels = np.zeros(n, dtype=int)
    w = np.zeros(n) if flat else bound.outlier_proba(Z, labels)
    pool = Pool(Z, labels, w, np.full((n, 2), 0.5), bound)
    for name, rule in RULES.items():
        chosen = rule(pool, ask, np.random.default_rng(seed))
        assert len(set(chosen.tolist())) == len(chosen), name
        assert len(chosen) == min(ask, n), name
        again = rule(pool, ask, np.random.default_rng(seed))
        np.testing.assert_array_equal(again, chosen)


# --- exemplars ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["random", "k_center", "herding", "k_means", "inverse_cdf"])
def test_exemplars_are_balanced_over_classes(known, bound, method):
    Z, y = known
    chosen = select_exemplars(Z, y, 31, method, bound=bound, random_state=0)
    assert len(set(chosen.tolist())) == 31
    assert sorted(np.bincount(y[chosen])) == [10, 10, 11]
    np.testing.assert_array_equal(
        select_exemplars(Z, y, 31, method, bound=bound, random_state=0), chosen
    )


def test_exemplars_of_each_class_are_those_of_the_class_alone(known):
    Z, y = known
    chosen = select_exemplars(Z, y, 30)
    expected = [
        np.flatnonzero(y == c)[herding.herding(Pool(Z[y == c]), 10, _rng())] for c in range(3)
    ]
    np.testing.assert_array_equal(chosen, np.concatenate(expected))


def test_what_a_small_class_leaves_goes_to_the_others():
    assert equal_shares(100, np.array([3, 50, 80]), _rng()).tolist() == [3, 48, 49] or equal_shares(
        100, np.array([3, 50, 80]), _rng()
    ).tolist() == [3, 49, 48]
    assert equal_shares(5, np.array([1, 1]), _rng()).tolist() == [1, 1]


@pytest.mark.parametrize("method", ["herding", "k_means", "random", "inverse_cdf"])
def test_the_bound_keeps_foreign_records_with_random_labels_out(known, bound, polluted, method):
    Z, _, foreign = polluted
    label = np.where(foreign, np.arange(600) % 3, bound.distances(Z).argmin(axis=1))
    chosen = select_exemplars(Z, label, 60, method, bound=bound, band=(0, 0.95), random_state=0)
    assert len(chosen) == 60
    assert foreign[chosen].mean() < 0.05
    if method in ("random", "k_means"):
        assert foreign[select_exemplars(Z, label, 60, method, random_state=0)].mean() > 0.3


def test_bad_input_of_exemplars(known, bound):
    Z, y = known
    with pytest.raises(ValueError, match="method must be one of"):
        select_exemplars(Z, y, 5, "best")
    with pytest.raises(TypeError, match="method must be one of"):
        select_exemplars(Z, y, 5, 3)
    with pytest.raises(ValueError, match="needs a fitted bound"):
        select_exemplars(Z, y, 5, "inverse_cdf")
    with pytest.raises(ValueError, match="needs class_proba"):
        select_exemplars(Z, y, 5, "entropy")
    with pytest.raises(ValueError, match="m must be an integer >= 1"):
        select_exemplars(Z, y, 0)
    with pytest.raises(ValueError, match="y must hold labels from classes_"):
        select_exemplars(Z, y + 1, 5, bound=bound)


# --- queries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bound", [WeibullBound("euclidean"), ConformalBound("euclidean", random_state=0)], ids=repr
)
def test_queries_in_the_band_waste_less_than_random_and_random_less_than_entropy(
    known, polluted, bound
):
    Z, proba, foreign = polluted
    bound.fit(*known)
    wasted = {
        name: foreign[
            query_pool(
                Z, 100, bound, strategy=name, band=band, class_proba=proba, random_state=0
            ).indices
        ].mean()
        for name, band in [
            ("below_bound", (0, 0.95)),
            ("inverse_cdf", (0, 0.95)),
            ("random", None),
            ("entropy", None),
        ]
    }
    assert max(wasted["below_bound"], wasted["inverse_cdf"]) < 0.1
    assert 0.3 < wasted["random"] < 0.7
    assert wasted["entropy"] > wasted["random"]


def test_a_query_says_what_it_scored_and_rejected(bound, polluted):
    Z, _, foreign = polluted
    w = bound.outlier_proba(Z)
    result = query_pool(Z, 50, bound, random_state=0)
    np.testing.assert_allclose(result.scores, w[result.indices])
    assert (np.diff(result.scores) <= 0).all()
    assert set(result.rejected_) == set(np.flatnonzero(w > 0.95))
    assert (np.diff(w[result.rejected_]) <= 0).all()
    assert foreign[result.rejected_].mean() > 0.95
    unbounded = query_pool(Z, 50, bound, band=None, random_state=0)
    assert foreign[unbounded.indices].all()  # the farthest: nothing but noise
    assert len(unbounded.rejected_) == 0


def test_a_budget_is_not_spent_beyond_the_band(bound):
    Z = np.concatenate([bound.means_, np.full((20, 8), 90.0)])
    with pytest.warns(UserWarning, match="3 of 10 queries are used"):
        result = query_pool(Z, 10, bound)
    assert sorted(result.indices) == [0, 1, 2]
    with pytest.warns(UserWarning, match="0 of 10"):
        assert len(query_pool(Z[3:], 10, bound).indices) == 0


def test_rejected_records_that_are_foreign_in_the_same_way_form_a_group(bound):
    rng = np.random.default_rng(7)
    Z = np.concatenate(
        [bound.means_, rng.normal(40, 1, (30, 8)), rng.normal(-40, 1, (30, 8)), [[500.0] * 8]]
    )
    with pytest.warns(UserWarning, match="queries are used"):
        result = query_pool(Z, 5, bound)
    group = result.novel_(min_size=10)
    first, second = (
        (result.rejected_ >= a) & (result.rejected_ < b) for a, b in ((3, 33), (33, 63))
    )
    assert len(set(group[first])) == len(set(group[second])) == 1
    assert set(group[first]) != set(group[second])
    assert set(query_pool(Z[:20], 1, bound).novel_(min_size=30)) == {-1}


def test_bad_input_of_queries(bound, polluted):
    Z, _, _ = polluted
    with pytest.raises(ValueError, match="band must be a pair"):
        query_pool(Z, 5, bound, band=(0.9, 0.1))
    with pytest.raises(ValueError, match="band must be a pair"):
        query_pool(Z, 5, bound, band=0.9)
    with pytest.raises(ValueError, match="band must be a finite number"):
        query_pool(Z, 5, bound, band=(0, 2))
    with pytest.raises(ValueError, match="Z must have 8 columns"):
        query_pool(Z[:, :3], 5, bound)
    with pytest.raises(ValueError, match="strategy must be one of"):
        query_pool(Z, 5, bound, strategy="best")
    with pytest.raises(ValueError, match="'entropy' needs class_proba"):
        query_pool(Z, 5, bound, strategy="entropy")


# --- order of tasks ----------------------------------------------------------------------------------


def test_the_next_task_by_shares_of_outliers():
    candidates = {
        "near": [0.1, 0.99, 0.2, 0.3],
        "far": [1.0, 1.0, 0.99, 0.1],
        "even": [0.99, 0.0, 0.0, 0.9],
    }
    table = outlier_shares(candidates)
    assert table["share"].to_dict() == {"near": 0.25, "far": 0.75, "even": 0.25}
    assert ((table["conf_low"] < table["share"]) & (table["share"] < table["conf_high"])).all()
    assert choose_task(candidates, "dissimilar") == "far"
    assert (
        choose_task(candidates, "similar") == "near"
    )  # equal shares: by the mean, 0.3975 against 0.4725
    assert choose_task({"a": [0.2], "b": [0.1]}, "similar", by="mean") == "b"
    drawn = {choose_task(candidates, "random", random_state=seed) for seed in range(30)}
    assert drawn == set(candidates)


def test_bad_input_of_the_order():
    with pytest.raises(ValueError, match="at least one candidate"):
        choose_task({})
    with pytest.raises(ValueError, match="'a' has no record"):
        outlier_shares({"a": []})
    with pytest.raises(ValueError, match="'a' must lie in"):
        outlier_shares({"a": [np.nan]})
    with pytest.raises(ValueError, match="rule must be"):
        choose_task({"a": [0.1]}, "best")


def test_what_another_judge_refuses_is_not_kept():
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(200, 3)), np.repeat([0, 1], 100)
    bound = WeibullBound("euclidean").fit(Z, y)
    refused = np.arange(200) % 2 == 0
    chosen = select_exemplars(
        Z, y, 40, "k_means", bound=bound, band=(0, 0.95), refused=refused, random_state=0
    )
    assert len(chosen) == 40
    assert not refused[chosen].any()
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        select_exemplars(Z, y, 40, bound=bound, band=(0, 0.95), refused=refused[:5])
