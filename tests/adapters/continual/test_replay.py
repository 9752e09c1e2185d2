"""Replay on a latent space whose classes are known Gaussians: what is kept, how much of each class, and that it ends."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from statml.adapters.continual import WeibullBound  # noqa: E402
from statml.adapters.continual.replay import REPLAYS, Past, openset  # noqa: E402
from statml.adapters.continual.replay.aggregate import aggregate_posterior  # noqa: E402

CENTRES = np.array([[4.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 4.0, 0]])


def past(scale=0.6, centres=CENTRES, weights=None, stored=None):
    rng = np.random.default_rng(0)
    Z = np.concatenate([c + scale * rng.standard_normal((600, 4)) for c in centres])
    codes = np.repeat(np.arange(len(centres)), 600)
    regions = [aggregate_posterior(Z[codes == c]) for c in range(len(centres))]
    return Past(
        decode=lambda Z: Z.astype(np.float32),
        weights=centres if weights is None else weights,
        bound=WeibullBound("euclidean").fit(Z, codes),
        omega=0.01,
        means=np.stack([m for m, _ in regions]),
        covariances=np.stack([s for _, s in regions]),
        stored=(np.empty((0, 4), np.float32), np.empty(0, int)) if stored is None else stored,
    )


@pytest.mark.parametrize("name", ["openset", "aggregate"])
def test_every_draw_lies_within_the_bound_and_classes_are_balanced(name):
    state = past()
    found = REPLAYS[name](state, 301, np.random.default_rng(1))
    assert np.bincount(found.y).tolist() == [101, 100, 100]
    w = state.bound.outlier_proba(found.X.astype(float), found.y)
    assert w.max() < 0.01 + 1e-5  # decoded in single precision
    assert found.starved == []
    assert ((found.acceptance > 0) & (found.acceptance < 1)).all()


def test_the_aggregate_posterior_is_drawn_with_less_waste_than_the_prior():
    state = past(scale=0.4)
    waste = [
        1 - REPLAYS[name](state, 90, np.random.default_rng(1)).acceptance.mean()
        for name in ("aggregate", "openset")
    ]
    assert waste[0] < 0.9 < waste[1]


def test_draws_from_the_aggregate_posterior_have_its_mean_and_spread():
    state = past()
    state.bound.params_[:, 2] = 3.0  # a bound so wide that everything is kept
    found = REPLAYS["aggregate"](state, 6000, np.random.default_rng(2))
    assert found.acceptance.tolist() == [1, 1, 1]
    for c in range(3):
        own = found.X[found.y == c]
        np.testing.assert_allclose(own.mean(0), state.means[c], atol=4 * 0.6 / np.sqrt(2000))
        np.testing.assert_allclose(
            np.cov(own.T), state.covariances[c], atol=4 * 0.36 * np.sqrt(2 / 2000)
        )


def test_the_prior_is_labelled_by_the_classifier_and_not_balanced():
    state = past()
    found = REPLAYS["prior"](state, 5000, np.random.default_rng(3))
    assert len(found.X) == 5000
    np.testing.assert_array_equal(found.y, (found.X @ CENTRES.T).argmax(1))
    # a standard normal prior: mean 0 and variance 1, within four standard errors
    np.testing.assert_allclose(found.X.mean(0), 0, atol=4 / np.sqrt(5000))
    np.testing.assert_allclose(found.X.var(0), 1, atol=4 * np.sqrt(2 / 5000))


def test_the_loop_ends_where_a_class_is_never_drawn(monkeypatch):
    monkeypatch.setattr(openset, "MAX_DRAWS", 3 * openset.BLOCK)
    state = past(weights=np.vstack([CENTRES[:2], [[0, 0, 0, 0]]]))  # never called 2
    found = REPLAYS["openset"](state, 300, np.random.default_rng(4))
    counts = np.bincount(found.y, minlength=3)
    assert counts[:2].tolist() == [100, 100]
    assert 2 in found.starved


def test_a_class_that_the_bound_refuses_is_filled_up_with_what_is_least_far_out(monkeypatch):
    monkeypatch.setattr(openset, "MAX_DRAWS", 60 * openset.BLOCK)
    state = past()
    state.bound.params_[0] = [1e-9, 1.0, -1.0]  # nothing of class 0 is within
    for name in ("openset", "aggregate"):
        found = REPLAYS[name](state, 300, np.random.default_rng(5))
        assert found.starved == [0]
        assert np.bincount(found.y).tolist() == [100, 100, 100]


def test_stored_records_are_repeated_to_balance_old_and_new():
    X = np.arange(20, dtype=np.float32).reshape(5, 4)
    state = past(stored=(X, np.array([0, 0, 1, 2, 2])))
    found = REPLAYS["exemplar"](state, 30, np.random.default_rng(6))
    assert np.bincount(found.y).tolist() == [10, 10, 10]
    assert np.isin(found.X[found.y == 1], X[2]).all()
    assert len(REPLAYS["joint"](state, 30, np.random.default_rng(6)).X) == 5
    assert len(REPLAYS["none"](state, 30, np.random.default_rng(6)).X) == 0
