"""Scores of a known matrix, rates against counting, and intervals against simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from statml.adapters.continual import (
    auroc_interval,
    continual_scores,
    open_set_scores,
    openness,
    rejection_threshold,
)

A = [[0.98, 0.50, 0.48], [0.70, 0.96, 0.51], [0.60, 0.80, 0.97]]


def test_scores_of_the_reference_matrix():
    scores = continual_scores(A, baseline=[0.50, 0.49, 0.50])
    expected = {
        "acc": 0.79,
        "bwt": -0.27,
        "fwt": 0.01,
        "forgetting": 0.27,
        "forgetting_since_learned": 0.27,
        "average_incremental": 0.866667,
        "base": 0.60,
        "new": 0.97,
    }
    assert {k: round(v, 6) for k, v in scores.as_dict().items()} == expected


def test_the_two_definitions_of_forgetting_differ_where_a_task_got_better_first():
    scores = continual_scores([[0.6, 0, 0], [0.9, 0.8, 0], [0.5, 0.7, 0.9]])
    assert scores.forgetting == pytest.approx((0.4 + 0.1) / 2)
    assert scores.forgetting_since_learned == pytest.approx((0.1 + 0.1) / 2)


def test_what_was_not_measured_is_nan_and_nothing_else():
    nan = np.nan
    scores = continual_scores([[0.9, nan], [0.4, 0.8]], baseline=[0.1, 0.1])
    assert np.isnan(scores.fwt)
    assert scores.forgetting == pytest.approx(0.5)
    one = continual_scores([[0.9]])
    assert (one.acc, one.base, one.new) == (0.9, 0.9, 0.9)
    assert np.isnan([one.bwt, one.fwt, one.forgetting]).all()


def test_weights_make_every_class_count_the_same():
    scores = continual_scores([[1.0, 0.0], [0.2, 0.8]], weights=[3, 1])
    assert scores.acc == pytest.approx((3 * 0.2 + 0.8) / 4)
    assert scores.average_incremental == pytest.approx((1.0 + (3 * 0.2 + 0.8) / 4) / 2)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5, 0.5]], "square matrix"),
        ([], "square matrix"),
        ([[np.nan]], "on and below the diagonal"),
        ([[0.5, 0.1], [98.0, 0.5]], r"lie in \[0, 1\], got 98"),
    ],
)
def test_bad_matrices_are_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        continual_scores(matrix)


def test_baseline_and_weights_are_one_a_task():
    with pytest.raises(ValueError, match=r"baseline must have shape \(3,\)"):
        continual_scores(A, baseline=[0.5])
    with pytest.raises(ValueError, match="weights must be positive"):
        continual_scores(A, weights=[1, 0, 1])


# --- open set ----------------------------------------------------------------------------------------


def test_reference_values_of_oscr_auroc_and_openness():
    scores = open_set_scores([0.1, 0.2, 0.3, 0.4], [1, 1, 0, 1], [0.25, 0.35, 0.5])
    assert scores.oscr == pytest.approx(0.583333, abs=5e-7)
    assert scores.auroc == 0.75
    assert openness(6, 10) == pytest.approx(0.133975, abs=5e-7)
    assert openness(6, 6) == 0


values = st.lists(st.integers(0, 6), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(values, values, st.integers(0, 2**31))
def test_rates_are_what_counting_gives(score_in, score_out, seed):
    score_in, score_out = np.array(score_in, float), np.array(score_out, float)
    correct = np.random.default_rng(seed).integers(2, size=len(score_in)).astype(bool)
    scores = open_set_scores(score_in, correct, score_out, inlier_rejection=0.25)
    truth = np.repeat([0, 1], [len(score_in), len(score_out)])
    assert scores.auroc == pytest.approx(
        roc_auc_score(truth, np.concatenate([score_in, score_out]))
    )
    pairs = (score_in[:, None] < score_out) + 0.5 * (score_in[:, None] == score_out)
    assert scores.oscr == pytest.approx((pairs * correct[:, None]).mean())
    assert scores.inlier_rate <= 0.25
    assert scores.outlier_rate == np.mean(score_out > scores.threshold)
    # the smallest of the scores that will do
    lower = score_in[score_in < scores.threshold]
    assert all(np.mean(score_in > t) > 0.25 for t in lower)
    all_right = open_set_scores(score_in, np.ones(len(score_in), bool), score_out)
    assert all_right.oscr == pytest.approx(all_right.auroc)


def test_a_threshold_from_other_records_is_kept():
    rng = np.random.default_rng(0)
    val, known, new = rng.normal(size=2000), rng.normal(size=2000), rng.normal(3, 1, 2000)
    scores = open_set_scores(known, np.ones(2000, bool), new, score_val=val)
    assert scores.threshold == rejection_threshold(val)
    assert scores.inlier_rate == np.mean(known > scores.threshold)
    assert scores.fpr95 == np.mean(new <= rejection_threshold(known))
    # two independent shares near 0.05, of 2,000 each
    assert abs(scores.inlier_rate - 0.05) < 5 * np.sqrt(2 * 0.05 * 0.95 / 2000)


def test_fpr95_is_the_share_of_unknown_that_pass():
    known = np.arange(100.0)
    scores = open_set_scores(known, np.ones(100, bool), [94.0, 94.5, 0.0, 200.0])
    assert scores.fpr95 == 0.5  # 95 of 100 known have at most 94


@pytest.mark.parametrize(("shift", "sizes"), [(0.5, (60, 60)), (2.0, (60, 30)), (3.0, (200, 50))])
def test_coverage_of_the_auroc_interval(shift, sizes):
    """Normal scores, true AUROC Phi(shift / sqrt 2), 1,500 samples in three seeds."""
    from scipy.stats import norm

    truth, covered = norm.cdf(shift / np.sqrt(2)), []
    for seed in range(3):
        rng = np.random.default_rng([seed, *sizes])
        for _ in range(500):
            low_scores, high_scores = rng.normal(size=sizes[0]), rng.normal(shift, 1, sizes[1])
            auroc = (low_scores[:, None] < high_scores).mean()
            low, high = auroc_interval(auroc, *sizes)
            covered.append(low <= truth <= high)
    # nominal 0.95; the variance formula is exact for exponential scores only, 0.015 allows for that
    assert abs(np.mean(covered) - 0.95) < 4 * np.sqrt(0.05 * 0.95 / len(covered)) + 0.015


def test_ends_of_the_auroc_interval_solve_its_equation():
    from scipy.stats import norm

    for auroc, n, m in [(0.8, 50, 30), (1.0, 50, 50), (0.0, 10, 10)]:
        low, high = auroc_interval(auroc, n, m, level=0.9)
        assert 0 <= low <= auroc <= high <= 1
        for theta in (low, high):
            if theta in (0.0, 1.0):
                continue
            spread = 1 + ((n + m) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
            error = np.sqrt(theta * (1 - theta) * spread / (n * m))
            assert abs(auroc - theta) == pytest.approx(norm.ppf(0.95) * error, rel=1e-6)
    table = open_set_scores(np.zeros(20), np.ones(20), np.ones(30)).conf_int(0.9)
    assert (table["conf_low"] <= table["estimate"]).all()
    assert table.loc["auroc", "conf_low"] < 1  # no certainty from 50 records


def test_bad_input_of_open_set_scores():
    good = ([0.1, 0.2], [1, 1], [0.3])
    for at, value, message in [
        (0, [np.nan, 0.2], "score_in must not hold NaN"),
        (0, [], "score_in must have shape"),
        (2, [[0.1]], "score_out must have shape"),
        (1, [1], "correct must have shape"),
        (1, [1, 7], "correct must hold booleans"),
    ]:
        bad = list(good)
        bad[at] = value
        with pytest.raises(ValueError, match=message):
            open_set_scores(*bad)
    for scores, share, message in (
        ([0.1, np.nan], 0.05, "scores must not hold NaN"),
        ([], 0.05, "scores must have shape"),
        ([0.1, 0.2], 1.0, "inlier_rejection must be a finite number in"),
    ):
        with pytest.raises(ValueError, match=message):
            rejection_threshold(scores, share)
    with pytest.raises(ValueError, match="n_test must be an integer >= 6"):
        openness(6, 5)
