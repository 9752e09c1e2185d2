"""The simulator keeps its promises about coverage, accuracy and dependence; the loaders give the published sizes."""

import os
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from statml.datasets import (
    fetch_mit_restaurants,
    fetch_sms_spam,
    fetch_trec_questions,
    fetch_youtube_spam,
    make_weak_labels,
)

LOADERS = [fetch_sms_spam, fetch_trec_questions, fetch_mit_restaurants, fetch_youtube_spam]
DATA = Path(os.environ.get("STATML_DATA") or "/nowhere") / "weak_supervision"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="STATML_DATA holds no folder weak_supervision"
)


def _within(share, expected, n, multiple=4.5):
    return np.abs(share - expected) <= multiple * np.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_rules_have_the_coverage_and_accuracy_asked_for_whatever_their_correlation(correlation):
    n = 40_000
    coverage, accuracy = np.array([0.1, 0.2, 0.3]), np.array([0.7, 0.8, 0.9])
    data = make_weak_labels(
        n, 3, coverage, accuracy, correlation, class_prior=[0.6, 0.4], random_state=0
    )
    fired = data.votes != -1
    assert _within(fired.mean(axis=0), coverage, n).all()
    right = (data.votes == data.y[:, None]) & fired
    assert _within(right.sum(axis=0) / fired.sum(axis=0), accuracy, fired.sum(axis=0)).all()
    assert _within((data.y == 1).mean(), 0.4, n)
    assert [np.unique(v[v >= 0]).tolist() for v in data.votes.T] == [[0], [1], [0]]


def test_rules_are_independent_given_the_class_without_correlation_and_dependent_with_it():
    def correlation(rho):
        data = make_weak_labels(20_000, 2, 0.3, 0.8, rho, random_state=1)
        fired = (data.votes != -1)[data.y == 0]
        return np.corrcoef(fired.T)[0, 1]

    assert abs(correlation(0.0)) < 4.5 / np.sqrt(9_500)
    assert correlation(0.7) > 0.2


def test_confusion_is_that_of_the_votes():
    n = 60_000
    for kind in ("rules", "annotators"):
        accuracy = 0.6 if kind == "rules" else [[0.9, 0.5, 0.7]] * 4
        data = make_weak_labels(
            n, 4, 0.2, accuracy, n_classes=3, class_prior=[0.5, 0.3, 0.2], kind=kind, random_state=2
        )
        np.testing.assert_allclose(data.confusion.sum(axis=2), 1, rtol=1e-12)
        for c in range(3):
            votes = data.votes[data.y == c]
            share = np.stack([(votes == v).mean(axis=0) for v in (0, 1, 2, -1)], axis=1)
            assert _within(share, data.confusion[:, c], len(votes)).all()


def test_random_state_fixes_the_simulation():
    one, same, other = (make_weak_labels(50, random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.votes, same.votes)
    np.testing.assert_array_equal(one.X, same.X)
    assert not np.array_equal(one.X, other.X)


def test_rules_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="cannot both hold"):
        make_weak_labels(10, 2, 0.9, 0.9)
    with pytest.raises(ValueError, match="class_prior must hold 2 positive"):
        make_weak_labels(10, class_prior=[0.5, 0.6])
    with pytest.raises(ValueError, match=r"coverage must be in \[0, 1\]"):
        make_weak_labels(10, coverage=1.2)
    with pytest.raises(ValueError, match="accuracy must be a number or have shape"):
        make_weak_labels(10, 3, accuracy=[0.5, 0.5])
    with pytest.raises(ValueError, match="kind must be"):
        make_weak_labels(10, kind="experts")


@needs_data
@pytest.mark.parametrize(
    ("fetch", "sizes", "n_rules", "n_classes"),
    [
        (fetch_sms_spam, (4502, 500, 500), 73, 2),
        (fetch_trec_questions, (4965, 500, 500), 68, 6),
        (fetch_youtube_spam, (1586, 120, 250), 7, 2),
    ],
)
def test_texts_have_the_published_sizes_and_no_label_in_them(fetch, sizes, n_rules, n_classes):
    data = fetch()
    assert tuple(len(data[f"texts{s}"]) for s in ("", "_valid", "_test")) == sizes
    assert tuple(len(data[f"y{s}"]) for s in ("", "_valid", "_test")) == sizes
    assert len(data.rules) == n_rules
    assert set(np.unique(data.y)) == set(range(n_classes)) == set(range(len(data.classes)))
    everything = data.texts + data.texts_valid + data.texts_test
    assert all(text == text.lower() for text in everything)
    assert not any(text.split(" ")[0].endswith((":dist", ":ind", ":def")) for text in everything)


@needs_data
def test_exemplars_are_matched_by_their_own_rules():
    import re

    for data in (fetch_sms_spam(), fetch_trec_questions()):
        pairs = zip(data.rules, data.texts_labelled, data.y_labelled, strict=True)
        hits = [bool(re.search(regex, text)) and label == y for (label, regex), text, y in pairs]
        assert np.mean(hits) > 0.95


@needs_data
def test_every_word_about_restaurants_has_a_tag():
    data = fetch_mit_restaurants()
    assert (len(data.words), len(data.words_test)) == (7644, 1521)
    assert len(data.classes) == 9
    assert "O" in data.classes
    for words, tags in zip(data.words_test, data.tags_test, strict=True):
        assert len(words) == len(tags)


@pytest.mark.parametrize("fetch", LOADERS)
def test_without_data_and_connection_the_error_says_where_to_put_the_file(
    fetch, tmp_path, monkeypatch
):
    def no_network(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.delenv("STATML_DATA", raising=False)
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(OSError, match=r"by hand and put it at .*weak_supervision_"):
        fetch(data_home=tmp_path)


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "weak_supervision" / "sms"
    folder.mkdir(parents=True)
    (folder / "rule.txt").write_text("spam\tfree\tfree")
    monkeypatch.setenv("STATML_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="wrong content"):
        fetch_sms_spam()
