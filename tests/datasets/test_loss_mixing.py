"""Simulated teachers that know different classes."""

import numpy as np
import pytest

from statml.datasets import make_conflicting_teachers


def test_a_teacher_is_the_bayes_rule_on_its_own_classes_and_wrong_on_all_others():
    data = make_conflicting_teachers(n=4000, n_teachers=3, n_classes=6, random_state=0)
    assert (data.knows.sum(axis=1) == 1).all()
    for t, logits in enumerate(data.teachers):
        guess = logits.argmax(axis=1)
        assert (guess % 3 == t).all()
        known = data.knows[:, t]
        distances = ((data.X[:, None] - data.means[t::3]) ** 2).sum(axis=2)
        np.testing.assert_array_equal(guess, t + 3 * distances.argmin(axis=1))
        assert (guess[known] == data.y_true[known]).mean() > 0.9
        assert not (guess[~known] == data.y_true[~known]).any()


def test_labels_are_as_noisy_as_asked():
    shares = [
        make_conflicting_teachers(2000, noise=0.5, random_state=s).clean.mean() for s in range(20)
    ]
    expected = 0.5 + 0.5 / 6
    assert abs(np.mean(shares) - expected) < 4 * np.sqrt(expected * (1 - expected) / 40_000)
    assert make_conflicting_teachers(100, noise=0, random_state=0).clean.all()


def test_a_seed_fixes_the_data_and_nonsense_is_refused():
    one, two = (make_conflicting_teachers(50, random_state=3) for _ in range(2))
    np.testing.assert_array_equal(one.X, two.X)
    np.testing.assert_array_equal(one.y, two.y)
    with pytest.raises(ValueError, match="n_classes"):
        make_conflicting_teachers(n_classes=2, n_teachers=3)
    with pytest.raises(ValueError, match="noise"):
        make_conflicting_teachers(noise=2)
