"""The likelihood of CAGE is that of brute force, its gradients are exact, and the guide gives the classes their names."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import approx_fprime
from scipy.special import expit
from statml.adapters.loss_mixing.cage import (
    CAGE,
    guide_penalty,
    log_agreement,
    negative_log_likelihood,
    objective,
)
from statml.adapters.loss_mixing.majority_vote import MajorityVote

from statml.datasets import make_weak_labels

RNG = np.random.default_rng(0)
M, C = 4, 3
THETA = RNG.normal(size=(M, C))
PATTERNS = np.array(list(itertools.product([0, 1], repeat=M)))
LABELS = np.array([0, 1, 2, 0])


def enumerated():
    """P(l, y) of all patterns and classes, shape (2^m, C), by enumeration."""
    weight = np.exp([[(THETA[:, y] * pattern).sum() for y in range(C)] for pattern in PATTERNS])
    return weight / weight.sum()


def test_the_likelihood_is_that_of_enumeration():
    joint = enumerated()
    fired = sp.csr_array(PATTERNS.astype(float))
    unknown = np.full(len(PATTERNS), -1)
    value, _ = negative_log_likelihood(THETA, fired, unknown)
    assert value == pytest.approx(-np.log(joint.sum(axis=1)).mean(), rel=1e-12)
    truth = RNG.integers(-1, C, size=len(PATTERNS))
    expected = [
        -np.log(row.sum() if y < 0 else row[y]) for row, y in zip(joint, truth, strict=True)
    ]
    value, _ = negative_log_likelihood(THETA, fired, truth)
    assert value == pytest.approx(np.mean(expected), rel=1e-12)


def test_the_quality_of_a_rule_is_its_precision_in_the_enumerated_distribution():
    joint = enumerated()
    for j in range(M):
        fires = joint[PATTERNS[:, j] == 1].sum(axis=0)
        np.testing.assert_allclose(np.exp(log_agreement(THETA))[j], fires / fires.sum(), rtol=1e-12)


def test_the_guide_is_least_where_the_precision_is_the_quality():
    a = np.exp(log_agreement(THETA))[np.arange(M), LABELS]
    value, gradient = guide_penalty(THETA, LABELS, a)
    np.testing.assert_allclose(gradient, 0, atol=1e-14)
    assert value == pytest.approx(-(a * np.log(a) + (1 - a) * np.log(1 - a)).sum())
    assert guide_penalty(THETA, LABELS, np.clip(a + 0.05, 0, 1))[0] != pytest.approx(value)


@pytest.mark.parametrize("quality", [0.0, 0.3, 0.9, 1.0])
def test_gradients_are_exact(quality):
    fired = sp.csr_array((RNG.random((30, M)) < 0.4).astype(float))
    truth = RNG.integers(-1, C, size=30)
    q = np.full(M, quality)

    def value(flat):
        return objective(flat.reshape(M, C), fired, truth, LABELS, q, 0.7, 0.1)[0]

    gradient = objective(THETA, fired, truth, LABELS, q, 0.7, 0.1)[1]
    h = 1e-6
    central = [
        (value(THETA.ravel() + h * e) - value(THETA.ravel() - h * e)) / (2 * h)
        for e in np.eye(M * C)
    ]
    np.testing.assert_allclose(gradient, central, atol=1e-8)
    np.testing.assert_allclose(gradient, approx_fprime(THETA.ravel(), value, 1e-7), atol=1e-5)


def test_extreme_parameters_give_finite_values():
    theta = np.array([[800.0, -800.0], [-800.0, 800.0]])
    fired = sp.csr_array(np.eye(2))
    value, gradient = objective(
        theta, fired, np.array([-1, 1]), np.array([0, 1]), np.array([0.9, 1.0]), 1.0, 0.0
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_the_posterior_is_that_of_enumeration():
    votes = np.where(PATTERNS == 1, LABELS, -1)
    model = CAGE().fit(votes)
    score = np.exp([[(model.theta_[:, y] * p).sum() for y in range(C)] for p in PATTERNS])
    expected = score / score.sum(axis=1, keepdims=True)
    expected[0] = np.nan  # no rule fires
    np.testing.assert_allclose(model.predict_proba(votes), expected, rtol=1e-10)


def test_data_of_the_model_give_its_parameters_back():
    # with labels the maximum is unique, and firing rates and class shares are means of many records
    rng = np.random.default_rng(0)
    theta = np.array([[0.5, -2.0], [-1.5, 0.3], [0.0, -1.0], [-2.0, -0.5]])
    size = np.logaddexp(0, theta).sum(axis=0)
    prior = np.exp(size - np.logaddexp.reduce(size))
    n = 20_000
    y = (rng.random(n) < prior[1]).astype(int)
    fires = rng.random((n, 4)) < expit(theta).T[y]
    votes = np.where(fires, [0, 1, 0, 1], -1)
    model = CAGE(guide=0, l2=0).fit(votes, y)
    # the model is of the exponential family: the standard error of a firing rate is at most that of a share
    error = np.sqrt(0.25 / (n * prior.min()))
    assert np.abs(expit(model.theta_) - expit(theta)).max() < 4.5 * error
    unlabelled = CAGE(quality=np.exp(log_agreement(theta))[np.arange(4), [0, 1, 0, 1]]).fit(votes)
    assert np.abs(expit(unlabelled.theta_) - expit(theta)).max() < 0.05


def test_the_guide_names_the_classes_and_a_wrong_guide_swaps_them():
    shares = []
    for quality in (0.85, 0.15):
        right = []
        for seed in range(4):
            data = make_weak_labels(1500, 10, 0.3, 0.85, random_state=seed)
            covered = (data.votes != -1).any(axis=1)
            model = CAGE(quality=quality).fit(data.votes)
            right.append((model.predict(data.votes) == data.y)[covered].mean())
        shares.append(min(right) if quality > 0.5 else max(right))
    assert shares[0] > 0.85
    assert shares[1] < 0.15


def test_qualities_that_differ_make_it_better_than_the_majority():
    gain = []
    for seed in range(5):
        accuracy = np.tile([0.95, 0.95, 0.6, 0.6, 0.55], 2)
        data = make_weak_labels(3000, 10, 0.35, accuracy, random_state=seed)
        covered = (data.votes != -1).any(axis=1)
        y = np.where(np.arange(3000) < 150, data.y, -1)
        rest = covered & (np.arange(3000) >= 150)
        ours = CAGE(quality="labelled").fit(data.votes, y).predict(data.votes)
        majority = MajorityVote().fit(data.votes).predict(data.votes)
        gain.append((ours == data.y)[rest].mean() - (majority == data.y)[rest].mean())
    assert np.mean(gain) > 3 * np.std(gain, ddof=1) / np.sqrt(5)
    assert np.mean(gain) > 0.02


def test_the_quality_from_labels_is_right_votes_over_votes_of_the_rule():
    votes = np.array([[0, -1, 1], [0, 1, -1], [-1, 1, -1], [0, -1, -1], [0, 1, -1]])
    y = np.array([0, 1, 0, 1, -1])
    model = CAGE(quality="labelled").fit(votes, y)
    # with one vote of quality 0.9 added: 1 of 3 right, 1 of 2, 0 of 1
    np.testing.assert_allclose(model.quality_, [(1 + 0.9) / 4, (1 + 0.9) / 3, 0.9 / 2])


def test_a_rule_that_never_fires_has_no_effect():
    data = make_weak_labels(300, 4, 0.3, 0.8, random_state=0)
    padded = np.insert(data.votes, 2, -1, axis=1)
    one, two = CAGE().fit(data.votes), CAGE().fit(padded)
    np.testing.assert_allclose(np.delete(two.theta_, 2, axis=0), one.theta_)
    assert two.rule_labels_[2] == -1
    assert np.isnan(two.quality_[2])
    np.testing.assert_allclose(two.predict_proba(padded), one.predict_proba(data.votes))


def test_rows_without_votes_are_masked_in_the_soft_target():
    data = make_weak_labels(300, 4, 0.2, 0.8, random_state=1)
    model = CAGE().fit(data.votes)
    target = model.soft_target(data.votes)
    np.testing.assert_array_equal(target.mask, (data.votes != -1).any(axis=1))
    assert 0 < target.mask.mean() < 1
    block = target.bind(300, np.arange(2))
    assert (block.targets[~target.mask] == 0).all()


def test_unusable_input_is_refused_by_name():
    votes = [[0, 1], [0, -1], [-1, 1]]
    for make, message in (
        (lambda: CAGE().fit([[0, 1], [1, 1]]), "vote for one label each, but 'rule 0' votes for"),
        (lambda: CAGE(guide=0).fit(votes), "guide must be > 0 without labels"),
        (lambda: CAGE(quality=1.5).fit(votes), "quality must be in"),
        (lambda: CAGE(quality=[0.9]).fit(votes), "one for each of the 2 rules"),
        (lambda: CAGE(quality="good").fit(votes), "quality must be a number"),
        (lambda: CAGE(quality="labelled").fit(votes), "needs labels"),
        (lambda: CAGE(l2=-1).fit(votes), "l2 must be"),
        (lambda: CAGE().fit(votes).predict([[1, 1]]), "votes for 1, but voted for 0 in the fit"),
        (lambda: CAGE().fit([[1, 1]]), "at least two classes"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
