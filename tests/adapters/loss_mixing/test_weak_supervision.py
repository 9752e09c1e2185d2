"""From votes to a classifier: rules, a label model, its soft target, and weights learned on a few clean records."""

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from statml.adapters import (  # noqa: E402
    CAGE,
    AMALClassifier,
    DawidSkene,
    MajorityVote,
    RuleSet,
    RuleVotes,
)

from statml.datasets import fetch_sms_spam, make_weak_labels  # noqa: E402

DATA = Path(os.environ.get("STATML_DATA") or "/nowhere") / "weak_supervision"


def _split(seed, **parameters):
    data = make_weak_labels(n=1500, random_state=seed, **parameters)
    train, val, test = np.split(np.arange(1500), [800, 1000])
    y = np.full(800, -1)
    y[:20] = data.y[:20]
    return data, train, val, test, y


@pytest.mark.parametrize(
    "label_model",
    [MajorityVote(), CAGE(), DawidSkene("informative")],
    ids=lambda m: type(m).__name__,
)
def test_the_soft_target_of_a_label_model_goes_straight_into_a_fit(label_model):
    data, train, val, test, y = _split(0, coverage=0.15, accuracy=0.85)
    votes = data.votes[train]
    target = label_model.fit(votes).soft_target(votes)
    model = AMALClassifier("linear", epochs=10, random_state=0)
    model.fit(data.X[train], y, [target], data.X[val], data.y[val])
    silent = (votes == -1).all(axis=1)
    assert silent.sum() > 100
    assert not model.loss_mask_[silent, 1].any()
    assert model.loss_mask_[target.mask, 1].all()
    unused = silent & (y == -1)
    assert np.isnan(model.lambda_[unused]).all()
    assert (model.predict(data.X[test]) == data.y[test]).mean() > 0.8


def test_what_the_records_without_votes_hold_does_not_matter():
    data, train, val, test, y = _split(1, coverage=0.15, accuracy=0.85)
    votes = data.votes[train]
    target = MajorityVote().fit(votes).soft_target(votes)
    predictions = []
    for filler in (np.nan, 0.5):
        target.probs = np.where(target.mask[:, None], target.probs, filler)
        model = AMALClassifier("linear", epochs=5, random_state=0)
        model.fit(data.X[train], y, [target], data.X[val], data.y[val])
        predictions.append(model.predict_proba(data.X[test]))
    np.testing.assert_array_equal(*predictions)


def test_weights_are_larger_where_the_vote_is_right():
    areas = []
    for seed in range(5):
        data, train, val, _, y = _split(
            seed, n_rules=6, coverage=0.3, accuracy=[0.9, 0.9, 0.55, 0.55, 0.55, 0.9]
        )
        votes = data.votes[train]
        target = MajorityVote().fit(votes).soft_target(votes)
        model = AMALClassifier("linear", random_state=0)
        model.fit(data.X[train], y, [target], data.X[val], data.y[val])
        right = target.probs.argmax(axis=1) == data.y[train]
        lam = model.lambda_[:, 1]
        one, other = lam[target.mask & right], lam[target.mask & ~right]
        areas.append((one[:, None] > other).mean() + 0.5 * (one[:, None] == other).mean())
    assert np.mean(areas) > 0.7


def test_one_weight_a_rule_finds_the_bad_rules():
    gaps = []
    for seed in range(5):
        accuracy = np.array([0.95, 0.95, 0.95, 0.95, 0.2, 0.2])
        data, train, val, _, y = _split(seed, n_rules=6, coverage=0.3, accuracy=accuracy)
        model = AMALClassifier("linear", lambda_groups="loss", random_state=0)
        model.fit(
            data.X[train],
            y,
            [RuleVotes(data.votes[train], aggregate=False)],
            data.X[val],
            data.y[val],
        )
        weights = np.array(
            [np.nanmax(model.lambda_[model.loss_mask_[:, k], k]) for k in range(1, 7)]
        )
        gaps.append(weights[accuracy > 0.5].min() - weights[accuracy < 0.5].max())
    assert np.mean(gaps) > 3 * np.std(gaps, ddof=1) / np.sqrt(5)


@pytest.mark.skipif(not DATA.is_dir(), reason="STATML_DATA holds no folder weak_supervision")
def test_label_models_on_real_rules_reach_the_known_figures():
    sms = fetch_sms_spam()
    votes = RuleSet(sms.rules).apply(sms.texts)
    assert votes.coverage() == pytest.approx(0.396, abs=5e-4)
    for model, least in ((MajorityVote(), 0.965), (CAGE(), 0.965)):
        predicted = model.fit(votes).predict(votes)
        assert (predicted == sms.y)[votes.covered].mean() > least
