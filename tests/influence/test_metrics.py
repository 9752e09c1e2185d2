"""Evaluation of influence estimates: identities, baselines, intervals; functionals, subsets, displays, the auto method."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from statml.influence import NewtonStep
from statml.influence.metrics import (
    brittleness,
    linear_datamodeling_score,
    loo_correlation,
    mislabel_auc,
    removal_curve,
    row_spearman,
    stability,
    top_k_overlap,
)


@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_the_score_of_the_truth_is_one_and_ignores_the_scale_of_a_test_record(seed, scale):
    rng = np.random.default_rng(seed)
    tau, masks = rng.normal(size=(3, 20)), rng.random((30, 20)) < 0.5
    losses = 5 - masks @ tau.T
    assert linear_datamodeling_score(tau, masks, losses).score == pytest.approx(1)
    noisy = losses + rng.normal(size=losses.shape)
    row_scaled = tau * np.array([[scale], [1.0], [1 / scale]])
    assert linear_datamodeling_score(tau, masks, noisy).score == pytest.approx(
        linear_datamodeling_score(row_scaled, masks, noisy).score
    )
    margins = linear_datamodeling_score(tau, masks, -noisy, target="margin")
    assert margins.score == pytest.approx(linear_datamodeling_score(tau, masks, noisy).score)


def test_rank_correlations_are_scipys_also_with_ties():
    rng = np.random.default_rng(0)
    A, B = rng.integers(0, 4, size=(2, 6, 15)).astype(float)
    expected = [spearmanr(a, b).statistic for a, b in zip(A, B, strict=True)]
    np.testing.assert_allclose(row_spearman(A, B), expected)
    assert row_spearman(np.ones((1, 5)), A[:1, :5])[0] == 0


def test_the_noise_ceiling_is_what_the_truth_reaches():
    rng = np.random.default_rng(0)
    tau, masks = rng.normal(size=(30, 40)), rng.random((100, 40)) < 0.5
    truth = -(masks @ tau.T)
    noise = truth.std() * rng.normal(size=(3, *truth.shape))
    found = linear_datamodeling_score(tau, masks, truth + noise)
    assert found.noise_ceiling == pytest.approx(found.score, abs=0.02)
    assert found.conf_low < found.score < found.conf_high
    assert np.isnan(linear_datamodeling_score(tau, masks, truth).noise_ceiling)


def test_the_interval_of_an_auc_is_delongs_and_covers():
    """By simulation: normal scores one apart have AUC 0.7602; the interval covers at its rate."""
    from scipy.stats import norm

    truth = norm.cdf(1 / np.sqrt(2))
    rng = np.random.default_rng(0)
    replications, covered = 200, 0
    is_bad = np.arange(120) < 40
    for _ in range(replications):
        scores = rng.normal(size=120) + is_bad
        row = mislabel_auc(scores, is_bad).loc["score"]
        covered += row["conf_low"] <= truth <= row["conf_high"]
    assert row["auc"] == pytest.approx(roc_auc_score(is_bad, scores))
    rate = covered / replications
    assert rate == pytest.approx(0.95, abs=0.01 + 3 * np.sqrt(0.95 * 0.05 / replications))


def test_the_loss_baseline_stands_beside_the_score():
    rng = np.random.default_rng(0)
    is_bad = rng.random(200) < 0.2
    loss = rng.normal(size=200) + 2 * is_bad
    table = mislabel_auc(loss + 0.01 * rng.normal(size=200), is_bad, loss)
    assert list(table.index) == ["score", "loss", "difference"]
    assert table.loc["difference", "auc"] == pytest.approx(
        table.loc["score", "auc"] - table.loc["loss", "auc"]
    )
    assert table.loc["difference", "std_error"] < 0.2 * table.loc["score", "std_error"]  # paired


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    X, y = data.data / 16, data.target
    keep = y < 3
    return X[keep][:150], y[keep][:150], X[keep][150:190], y[keep][150:190]


def test_removing_helpful_records_hurts_more_than_random_ones(digits):
    X, y, X_test, y_test = digits
    model = LogisticRegression(C=10, max_iter=1000).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tau = NewtonStep().fit(model, X, y).influence(X_test, y_test)
    curve = removal_curve(
        tau.mean(axis=0), model, X, y, X_test, y_test, [0, 0.3], n_random=5, progress=False
    )
    assert curve["n_removed"].tolist() == [0, 45]
    assert curve["loss"][0] == pytest.approx(curve["random_loss"][0])
    assert curve["random_std_error"][0] == pytest.approx(0, abs=1e-12)
    assert curve["loss"][1] > curve["random_loss"][1] + 2 * curve["random_std_error"][1]
    falls = removal_curve(
        tau.mean(axis=0), model, X, y, X_test, y_test, [0, 0.1], order="lowest", n_random=2,
        progress=False,
    )  # fmt: skip
    assert falls["loss"][1] < falls["loss"][0]
    flips = brittleness(tau[:6], model, X, y, X_test[:6], y_test[:6], [60, 100], progress=False)
    assert flips["flipped"].is_monotonic_increasing
    noise = np.random.default_rng(0).normal(size=(6, 150))
    random = brittleness(noise, model, X, y, X_test[:6], y_test[:6], [100], progress=False)
    assert flips["flipped"].iloc[1] >= random["flipped"].iloc[0]


def test_overlap_and_stability():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(5, 40))
    assert top_k_overlap(a, -a, 7) == 1
    assert top_k_overlap(a, rng.normal(size=(5, 40)), 4) < 0.5
    assert stability([a, 2 * a, a]) == pytest.approx(1)
    assert stability([a, -a]) == pytest.approx(-1)


def test_slope_and_correlations_with_leave_one_out():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4, 30))
    found = loo_correlation(0.5 * truth, truth)
    assert found.tolist() == pytest.approx([1, 1, 0.5, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_datamodeling_score(np.ones((2, 3)), np.ones((4, 2)), np.ones((4, 2))), "fit together"),
        (lambda: linear_datamodeling_score(np.full((1, 2), np.nan), np.ones((4, 2)), np.ones((4, 1))), "tau holds NaN"),
        (lambda: mislabel_auc([1.0, 2.0], [1, 1]), "both bad and good"),
        (lambda: mislabel_auc([1.0, np.nan], [1, 0]), "finite number"),
        (lambda: loo_correlation([1.0], [1.0, 2.0]), "one shape"),
        (lambda: loo_correlation([1.0, np.nan], [1.0, 2.0]), "tau holds NaN"),
        (lambda: stability([[1.0, 2.0]]), "two or more"),
        (lambda: stability([[1.0, 2.0], [1.0, np.nan]]), "repeats holds NaN"),
        (lambda: row_spearman([[1.0, np.nan]], [[1.0, 2.0]]), "A holds NaN"),
        (lambda: row_spearman([1.0, 2.0], [1.0, 2.0]), "A and B must be matrices"),
        (lambda: top_k_overlap([1.0], [1.0], 3), "k must be"),
        (lambda: top_k_overlap([1.0, 2.0], [np.inf, 2.0], 1), "b holds NaN"),
        (
            lambda: removal_curve([1.0, 2.0], Ridge(), np.eye(3), np.ones(3), np.eye(3), np.ones(3)),
            "scores must hold",
        ),
        (
            lambda: brittleness(np.ones((2, 2)), LogisticRegression(), np.eye(4), [0, 1, 0, 1], np.eye(4), [0, 1, 0, 1]),
            "tau must have shape",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_brittleness_needs_classes():
    with pytest.raises(TypeError, match="classifiers"):
        brittleness(np.ones((1, 3)), LinearRegression(), np.eye(3), np.ones(3), np.eye(1, 3), [1.0])
