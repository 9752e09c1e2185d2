"""Nearest-neighbour values against enumeration of every coalition."""

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from statml.influence import KNNShapley
from statml.influence.semivalues import log_weights, size_log_weights

SEMIVALUES = ["shapley", "banzhaf", "loo", ("beta", 4, 1), ("beta", 1, 16)]


def enumerate_semivalue(utility, n, weights):
    values = np.zeros(n)
    for i in range(n):
        rest = [j for j in range(n) if j != i]
        for size in range(n):
            for members in itertools.combinations(rest, size):
                values[i] += weights[size] * (utility((*members, i)) - utility(members))
    return values


def utility_of(kind, K, distance, y, y_test, n_classes=None):
    def utility(members):
        nearest = sorted(members, key=lambda j: distance[j])[:K]
        if kind == "regression":
            return -((sum(y[j] for j in nearest) / K - y_test) ** 2)
        right = sum(y[j] == y_test for j in nearest)
        if kind == "hard":
            return right / K
        return right / min(K, len(members)) if members else 1 / n_classes

    return utility


@pytest.mark.parametrize("semivalue", SEMIVALUES)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), K=st.integers(1, 8))
def test_hard_label_values_equal_enumeration(semivalue, seed, n, K):
    rng = np.random.default_rng(seed)
    X, x = rng.normal(size=(n, 2)), rng.normal(size=2)
    y = rng.integers(0, 3, n)
    utility = utility_of("hard", K, ((X - x) ** 2).sum(axis=1), y, y[0])
    expected = enumerate_semivalue(utility, n, np.exp(log_weights(semivalue, n)))
    found = KNNShapley(K, semivalue=semivalue).fit(None, X, y).influence(x[None], y[:1])[0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["soft", "regression"])
@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), K=st.integers(1, 8))
def test_soft_label_and_regression_values_equal_enumeration(kind, seed, n, K):
    rng = np.random.default_rng(seed)
    X, x = rng.normal(size=(n, 2)), rng.normal(size=2)
    y = rng.normal(size=n) if kind == "regression" else rng.integers(0, 3, n)
    y_test = 0.7 if kind == "regression" else y[-1]
    distance = ((X - x) ** 2).sum(axis=1)
    utility = utility_of(kind, K, distance, y, y_test, len(np.unique(y)))
    expected = enumerate_semivalue(utility, n, np.exp(log_weights("shapley", n)))
    found = KNNShapley(K, kind=kind).fit(None, X, y).influence(x[None], [y_test])[0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_tied_records_get_the_mean_over_their_orders(kind):
    position = np.array([0.0, 1, 1, 1, 2, 2])
    y = np.array([0, 1, 0, 0, 1, 0])
    found = KNNShapley(3, kind=kind).fit(None, position[:, None], y).influence([[-1.0]], [1])[0]
    orders = []
    for tie_break in itertools.permutations(range(6)):
        order = sorted(range(6), key=lambda j: (position[j], tie_break[j]))
        untied = np.empty((6, 1))
        untied[order, 0] = np.arange(6)
        orders.append(KNNShapley(3, kind=kind).fit(None, untied, y).influence([[-1.0]], [1])[0])
    np.testing.assert_allclose(found, np.mean(orders, axis=0), atol=1e-12)
    assert found[1] > found[2] == found[3]  # of the tied three, the right one is worth more


def test_tied_pairs_of_a_regression_get_the_mean_of_both_orders():
    X, y = np.array([[0.0], [1.0], [1.0], [3.0]]), np.array([1.0, 2.0, -1.0, 0.5])
    found = KNNShapley(2, kind="regression").fit(None, X, y).influence([[0.0]], [0.3])[0]
    both = []
    for shift in ([0, 0, 1e-3, 0], [0, 1e-3, 0, 0]):
        moved = X + np.array(shift)[:, None]
        both.append(KNNShapley(2, kind="regression").fit(None, moved, y).influence([[0.0]], [0.3]))
    np.testing.assert_allclose(found, np.mean(both, axis=0)[0], atol=1e-12)


def test_published_values_of_digits():
    data = load_digits()
    X, y = data.data / 16, data.target
    knn = KNNShapley(5, ties="order").fit(None, X[:1200], y[:1200])
    values = knn.influence(X[1200:], y[1200:])
    mean = values.mean(axis=0)
    np.testing.assert_allclose(
        mean[:5], [0.00071736, 0.00150554, 0.00015251, 0.00091733, 0.00130178], atol=5e-9
    )
    assert mean.sum() == pytest.approx(0.9477386934, abs=1e-9)


@given(st.integers(0, 10**6), st.sampled_from(["hard", "soft", "regression"]))
def test_efficiency_symmetry_and_bounds(seed, kind):
    """Values add up to the utility of all minus that of none; duplicates share; records far away matter little."""
    rng = np.random.default_rng(seed)
    n, K = 30, int(rng.integers(1, 7))
    X = rng.normal(size=(n, 2))
    X[1] = X[0]
    y = rng.normal(size=n) if kind == "regression" else rng.integers(0, 3, n)
    y[1], x = y[0], rng.normal(size=(1, 2))
    y_test = y[2]
    values = KNNShapley(K, kind=kind).fit(None, X, y).influence(x, [y_test])[0]
    utility = utility_of(kind, K, ((X - x) ** 2).sum(axis=1), y, y_test, len(np.unique(y)))
    assert values.sum() == pytest.approx(utility(tuple(range(n))) - utility(()), abs=1e-10)
    assert values[0] == pytest.approx(values[1], abs=1e-14)
    if kind == "hard":
        rank = np.argsort(np.argsort(((X - x) ** 2).sum(axis=1))) + 1
        assert (
            np.abs(values) <= 1 / np.maximum(rank - 1, K) + 1e-12
        ).all()  # a tie moves a rank by one


@given(st.integers(0, 10**6))
def test_the_order_of_the_training_records_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 3, size=(25, 2)).astype(float)  # many ties
    y = rng.integers(0, 2, size=25)
    order = rng.permutation(25)
    a = KNNShapley(3).fit(None, X, y).influence(X[:5], y[:5])
    b = KNNShapley(3).fit(None, X[order], y[order]).influence(X[:5], y[:5])
    np.testing.assert_allclose(a[:, order], b, atol=1e-13)


@given(st.integers(2, 12), st.floats(0.5, 20), st.floats(0.5, 20))
def test_semivalue_weights_are_distributions_over_sizes(n, a, b):
    for semivalue in ("shapley", "banzhaf", "loo", ("beta", a, b)):
        w = np.exp(log_weights(semivalue, n))
        total = sum(comb(n - 1, s) * w[s] for s in range(n))
        assert total == pytest.approx(1, rel=1e-9)
        np.testing.assert_allclose(np.exp(size_log_weights(semivalue, n)).sum(), 1, rtol=1e-9)
    np.testing.assert_allclose(log_weights(("beta", 1, 1), n), log_weights("shapley", n), atol=1e-9)


def test_beta_16_1_favours_small_sets():
    sizes = np.exp(size_log_weights(("beta", 16, 1), 6))
    np.testing.assert_allclose(sizes[:3], [0.76, 0.19, 0.04], atol=0.005)


@pytest.mark.parametrize(
    ("costs", "expected"),
    [((1, 3, 4, 7, 11, 12), (1 / 6, 0.56667, 0.81667, 1.81667, 3.81667, 4.81667))],
)
def test_the_airport_game(costs, expected):
    utility = lambda members: max((costs[j] for j in members), default=0)  # noqa: E731
    values = enumerate_semivalue(utility, 6, np.exp(log_weights("shapley", 6)))
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_unanimity_and_majority_games():
    team = {0, 2, 3}
    unanimity = lambda members: float(team <= set(members))  # noqa: E731
    majority = lambda members: float(len(members) >= 3)  # noqa: E731
    shapley, banzhaf = (np.exp(log_weights(kind, 5)) for kind in ("shapley", "banzhaf"))
    in_team = np.isin(np.arange(5), list(team))
    np.testing.assert_allclose(enumerate_semivalue(unanimity, 5, shapley), in_team / 3)
    np.testing.assert_allclose(enumerate_semivalue(unanimity, 5, banzhaf), in_team / 4)
    np.testing.assert_allclose(enumerate_semivalue(majority, 5, banzhaf), comb(4, 2) / 2**4)


def test_pipelines_and_estimators_set_the_neighbours():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)) * [1, 10, 100], rng.integers(0, 2, 40)
    pipe = make_pipeline(StandardScaler(), KNeighborsClassifier(3)).fit(X, y)
    Z = StandardScaler().fit_transform(X)
    np.testing.assert_allclose(
        KNNShapley().fit(pipe, X, y).influence(X[:4], y[:4]),
        KNNShapley(3).fit(None, Z, y).influence(Z[:4], y[:4]), atol=1e-12,
    )  # fmt: skip


def test_blocks_and_ranking_give_the_same_numbers():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(60, 3)), rng.integers(0, 2, 60)
    small = KNNShapley(3).fit(None, X, y, memory_limit=6 * 8 * 60 * 4)
    whole = KNNShapley(3).fit(None, X, y)
    np.testing.assert_allclose(small.influence(X, y), whole.influence(X, y), atol=1e-15)
    best = whole.rank(X, y, k=2, by="helpful")["row"].tolist()
    assert best == np.argsort(-whole.influence(X, y).mean(axis=0), kind="stable")[:2].tolist()
    np.testing.assert_allclose(whole.self_influence(), np.diag(whole.influence(X, y)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda X, y: KNNShapley(0).fit(None, X, y), ValueError, "n_neighbors must be"),
        (lambda X, y: KNNShapley(kind="any").fit(None, X, y), ValueError, "kind must be"),
        (lambda X, y: KNNShapley(semivalue="x").fit(None, X, y), ValueError, "semivalue must be"),
        (
            lambda X, y: KNNShapley(kind="soft", semivalue="banzhaf").fit(None, X, y),
            ValueError, 'must be "shapley"',
        ),
        (lambda X, y: KNNShapley().fit(None, X, y + 0.5), ValueError, "class labels"),
        (lambda X, y: KNNShapley().fit(KNeighborsRegressor(), X, y), TypeError, "takes a KNeighborsC"),
        (lambda X, y: KNNShapley().fit(None, X, y).influence(X, y + 7), ValueError, "not in the training"),
        (lambda X, y: KNNShapley().fit(None, X * np.nan, y), ValueError, "NaN"),
        (lambda X, y: KNNShapley().fit(None, X, y).influence(X[:, :1], y), ValueError, "features"),
        (lambda X, y: KNNShapley().fit(None, X, y, np.ones(8)), ValueError, "sample_weight"),
        (
            lambda X, y: KNNShapley().fit(None, X, y).influence(X, y, target="margin"),
            ValueError, "target must be",
        ),
        (lambda X, y: log_weights(("beta", 0, 1), 3), ValueError, "a of the beta"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(call, error, message):
    rng = np.random.default_rng(0)
    with pytest.raises(error, match=message):
        call(rng.normal(size=(8, 2)), np.arange(8) % 2)
