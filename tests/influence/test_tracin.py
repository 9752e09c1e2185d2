"""TracIn in all its kinds: telescoping, checkpoints, last layer, projections, cosines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from statml.influence import GLMOracle, TracIn, record_sgd
from statml.influence.glm_families import Softmax
from statml.influence.projection import RandomProjection


def oracle_of(seed=0, n=30, q=4, weights=True):
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.normal(size=(n, q - 1)), np.ones(n)])
    y = rng.permutation(np.arange(n) % 3).astype(float)
    weight = rng.uniform(0.5, 2, n) if weights else None
    return GLMOracle(Softmax(3), rng.normal(size=3 * q), X, y, weight, np.full(3 * q, 0.01))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.001, 0.1))
def test_ideal_tracin_telescopes_to_the_loss_that_training_removed(seed, lr):
    oracle = oracle_of(seed)
    run = record_sgd(oracle, lr=lr, n_epochs=2, batch_size=1, random_state=seed)
    X, y = oracle.X[:5], oracle.y[:5]
    ideal = TracIn(run, kind="ideal").fit(oracle).influence(X, y)
    removed = oracle.loss(X, y, run.thetas[0]) - oracle.loss(X, y, run.final)
    np.testing.assert_allclose(ideal.sum(axis=1), removed, atol=1e-12)


def test_the_estimator_approaches_the_ideal_for_small_steps():
    oracle = GLMOracle(Softmax(3), np.zeros(12), oracle_of().X, oracle_of().y)
    gaps = []
    for lr in (0.1, 0.01):
        run = record_sgd(oracle, lr=lr, n_epochs=1, batch_size=1, random_state=0)
        ideal = TracIn(run, kind="ideal").fit(oracle).influence(oracle.X, oracle.y)
        first = TracIn(run, kind="sgd").fit(oracle).influence(oracle.X, oracle.y)
        gaps.append(np.linalg.norm(first - ideal) / np.linalg.norm(ideal))
    assert gaps[1] < 0.2 * gaps[0]  # the error of a first-order step is of the order of lr
    assert gaps[1] < 0.05


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_checkpoints_sum_inner_products_of_all_records(seed):
    oracle = oracle_of(seed)
    rng = np.random.default_rng(seed)
    thetas, lrs = rng.normal(size=(3, 12)), rng.uniform(0.1, 1, 3)
    method = TracIn(thetas, lrs).fit(oracle)
    expected = sum(
        lr * oracle.grad(oracle.X[:6], oracle.y[:6], t) @ oracle.grad(oracle.X, oracle.y, t).T
        for t, lr in zip(thetas, lrs, strict=True)
    )
    np.testing.assert_allclose(
        method.influence(oracle.X[:6], oracle.y[:6]), expected * oracle.sample_weight, rtol=1e-10
    )
    np.testing.assert_allclose(
        method.self_influence(), np.diag(method.influence(oracle.X, oracle.y)), rtol=1e-10
    )


def test_full_batches_make_the_run_a_sum_over_checkpoints():
    oracle = oracle_of(3)
    run = record_sgd(oracle, lr=0.1, n_epochs=6, batch_size=None)
    along = TracIn(run, kind="sgd").fit(oracle).influence(oracle.X, oracle.y)
    points = TracIn(run.thetas[:-1], 0.1).fit(oracle).influence(oracle.X, oracle.y)
    np.testing.assert_allclose(along, points / oracle.n_train, rtol=1e-10)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_fast_is_the_last_layer_without_its_gradients(seed, cosine):
    oracle = oracle_of(seed)
    thetas = np.random.default_rng(seed).normal(size=(2, 12))
    fast = TracIn(thetas, kind="fast", cosine=cosine).fit(oracle)
    last = TracIn(thetas, layers="last", cosine=cosine).fit(oracle)
    numbered = TracIn(thetas, layers=[0], cosine=cosine).fit(oracle)
    I = fast.influence(oracle.X[:5], oracle.y[:5])
    for other in (last, numbered):
        np.testing.assert_allclose(
            I, other.influence(oracle.X[:5], oracle.y[:5]), rtol=1e-9, atol=1e-12
        )
    np.testing.assert_allclose(fast.self_influence(), last.self_influence(), rtol=1e-9)


def test_cosines_are_bounded_and_blind_to_the_size_of_the_loss():
    oracle = oracle_of(1)
    gas = TracIn(cosine=True).fit(oracle)
    I = gas.influence(oracle.X, oracle.y)
    assert np.abs(I).max() <= 1 + 1e-12
    np.testing.assert_allclose(np.diag(I), 1.0, rtol=1e-10)
    np.testing.assert_array_equal(gas.self_influence(), 1.0)
    heavier = GLMOracle(Softmax(3), oracle.theta, oracle.X, oracle.y, 5 * oracle.sample_weight)
    np.testing.assert_allclose(
        TracIn(cosine=True).fit(heavier).influence(oracle.X, oracle.y), I, rtol=1e-12
    )


def test_random_projections_are_unbiased():
    """Mean over independent projections against the unprojected value, in standard errors."""
    oracle = oracle_of(2)
    X, y = oracle.X[:4], oracle.y[:4]
    full = TracIn().fit(oracle).influence(X, y)
    draws = np.array(
        [TracIn(proj_dim=5, random_state=s).fit(oracle).influence(X, y) for s in range(400)]
    )
    z = (draws.mean(axis=0) - full) / (draws.std(axis=0, ddof=1) / np.sqrt(400))
    # 120 correlated z-scores, mean square 1 in expectation; they come from few directions, hence the margin
    assert np.mean(z**2) < 2.5
    same = [TracIn(proj_dim=5, random_state=7).fit(oracle).influence(X, y) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    np.testing.assert_array_equal(TracIn(proj_dim=12).fit(oracle).influence(X, y), full)


def test_a_projection_does_not_depend_on_the_memory_it_gets():
    G = np.random.default_rng(0).normal(size=(3, 9000))
    kept = RandomProjection(9000, 16, 3)
    made = RandomProjection(9000, 16, 3, memory_limit=1)
    assert made._kept is None
    np.testing.assert_array_equal(kept(G), made(G))
    squares = [np.sum(RandomProjection(9000, 64, s)(G) ** 2, axis=1) for s in range(50)]
    relative = np.mean(squares, axis=0) / np.sum(G**2, axis=1)
    np.testing.assert_allclose(relative, 1, atol=5 * np.sqrt(2 / (64 * 50)))


def test_inner_products_of_gradients_depend_on_the_units_of_the_features():
    """What influence functions do not: the reason to standardise first."""
    oracle = oracle_of(4)
    scale = np.array([10.0, 1, 1, 1])
    theta = (oracle.theta.reshape(3, 4) / scale).ravel()
    scaled = GLMOracle(Softmax(3), theta, oracle.X * scale, oracle.y, oracle.sample_weight)
    I = TracIn().fit(oracle).influence(oracle.X, oracle.y)
    J = TracIn().fit(scaled).influence(scaled.X, scaled.y)
    assert np.corrcoef(I.ravel(), J.ravel())[0, 1] < 0.99


def test_a_planted_backdoor_is_found():
    """Digits with a bright corner relabelled 0: the planted records should explain the attacked predictions."""
    X, y = load_digits(return_X_y=True)
    X = X / 16
    rng = np.random.default_rng(0)
    train, test = np.arange(600), np.arange(600, 900)
    planted = rng.choice(train[y[train] == 1], 15, replace=False)
    X, y = X.copy(), y.copy()
    X[planted, 7] = 2.0
    y[planted] = 0
    attacked = X[test][y[test] == 1].copy()
    attacked[:, 7] = 2.0
    model = LogisticRegression(max_iter=5000).fit(X[train], y[train])
    run = record_sgd(model, X[train], y[train], lr=0.2, n_epochs=12, every=19, random_state=0)
    is_planted = np.isin(train, planted)
    labels = np.zeros(len(attacked), dtype=int)

    def found(cosine):
        method = TracIn(run, cosine=cosine).fit(model, X[train], y[train])
        score = method.influence(attacked, labels).mean(axis=0)
        return is_planted[np.argsort(-score)[:15]].mean()

    # 15 of 600 by chance
    assert found(True) >= 0.8
    assert found(False) >= 0.8


def test_bad_arguments_are_refused_by_name():
    oracle = oracle_of()
    run = record_sgd(oracle, lr=0.1, n_epochs=1, batch_size=8)
    cases = [
        ({"kind": "all"}, "kind must be"),
        ({"kind": "sgd"}, "checkpoints must be a Trajectory"),
        ({"checkpoints": run, "kind": "ideal"}, "batch_size=1"),
        ({"checkpoints": np.zeros((2, 5))}, "checkpoints must have shape"),
        ({"checkpoints": np.full((1, 12), np.nan)}, "checkpoints must be finite"),
        ({"lrs": [0.1, 0.2]}, "lrs must be"),
        ({"lrs": -1.0}, "lrs must be"),
        ({"layers": [3]}, "layers must be"),
        ({"layers": "first"}, "layers must be"),
        ({"kind": "fast", "proj_dim": 3}, "leave proj_dim and layers"),
        ({"proj_dim": 0}, "proj_dim must be"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            TracIn(**arguments).fit(oracle)
    with pytest.raises(ValueError, match='target="loss" only'):
        TracIn(kind="fast").fit(oracle).influence(oracle.X, oracle.y, target="margin")
    momentum = record_sgd(oracle, lr=0.1, n_epochs=1, momentum=0.9)
    with pytest.warns(UserWarning, match="momentum=0.9"):
        method = TracIn(momentum).fit(oracle)
    np.testing.assert_allclose(method.lrs_, 1.0)
