"""Environment inference: the closed form against brute force."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from statml.datasets import make_spurious_gaussians
from statml.group_robust import EIILPartition, JTTClassifier
from statml.group_robust.eiil import invariance_penalty, scale_slopes


@parametrize_with_checks([EIILPartition()])
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 9))
def test_no_split_breaks_invariance_more(seed, n):
    rng = np.random.default_rng(seed)
    slope = rng.normal(size=n)
    reached = invariance_penalty(slope > 0, slope)
    best = max(invariance_penalty(u, slope) for u in product((0, 1), repeat=n))
    assert reached == pytest.approx(best)
    for _ in range(20):  # nor does a soft one
        assert invariance_penalty(rng.random(n), slope) <= reached + 1e-12


def test_the_penalty_is_the_squared_gradient_of_the_scale():
    """Numerically, from the losses of scaled logits, the mean over all records in both environments."""
    rng = np.random.default_rng(0)
    f, y, u = rng.normal(size=12), rng.integers(0, 2, 12), rng.random(12)

    def risk(member, s):
        return np.mean(member * (np.logaddexp(0, s * f) - y * s * f))

    h = 1e-5
    grad = [(risk(m, 1 + h) - risk(m, 1 - h)) / (2 * h) for m in (u, 1 - u)]
    p = 1 / (1 + np.exp(-f))
    slope = scale_slopes(np.column_stack([1 - p, p]), y)
    np.testing.assert_allclose(invariance_penalty(u, slope), np.mean(np.square(grad)), rtol=1e-6)


@given(seed=st.integers(0, 10**6), K=st.integers(2, 5))
def test_slopes_are_derivatives_in_the_scale_of_the_logits(seed, K):
    rng = np.random.default_rng(seed)
    f, y = rng.normal(size=(8, K)), rng.integers(0, K, 8)

    def loss(s):
        return -np.log(softmax(s * f, axis=1)[np.arange(8), y])

    h = 1e-5
    numeric = (loss(1 + h) - loss(1 - h)) / (2 * h)
    np.testing.assert_allclose(scale_slopes(softmax(f, axis=1), y), numeric, atol=1e-8)


def test_the_environments_are_the_errors_that_just_train_twice_finds():
    data = make_spurious_gaussians(n=500, random_state=0)
    eiil = EIILPartition(random_state=3).fit(data.X, data.y)
    jtt = JTTClassifier(stop=None, random_state=3).fit(data.X, data.y)
    # the same folds, since both draw a seed for the estimator and then the folds
    np.testing.assert_array_equal(eiil.environments_ == 1, jtt.error_set_)


def test_in_sample_the_environments_are_the_errors_of_the_reference():
    data = make_spurious_gaussians(n=500, random_state=0)
    eiil = EIILPartition(cv=None).fit(data.X, data.y)
    wrong = LogisticRegression(max_iter=1000).fit(data.X, data.y).predict(data.X) != data.y
    np.testing.assert_array_equal(eiil.environments_, wrong)
    np.testing.assert_array_equal(eiil.labels_, eiil.predict_groups(data.X, data.y))


def test_a_flexible_reference_needs_folds():
    data = make_spurious_gaussians(n=300, random_state=0)
    forest = RandomForestClassifier(15)
    assert (
        EIILPartition(forest, cv=None, random_state=0).fit(data.X, data.y).environments_.mean()
        < 0.02
    )
    fits = [EIILPartition(forest, random_state=0).fit(data.X, data.y) for _ in range(2)]
    assert fits[0].environments_.mean() > 0.04
    np.testing.assert_array_equal(
        *(fit.environments_ for fit in fits)
    )  # random_state fixes the forest


def test_groups_name_class_and_environment():
    X = np.arange(40.0)[:, None]
    y = np.where(np.arange(40) < 20, "no", "yes")
    y[5] = "yes"
    eiil = EIILPartition(random_state=0).fit(X, y)
    assert eiil.labels_[5] == "y=yes, environment 1"
    assert set(eiil.groups_) == set(eiil.labels_) == set(eiil.fit_predict(X, y))
    assert eiil.predict_groups([[5.0]], ["no"]).tolist() == ["y=no, environment 0"]


def test_bad_input_is_refused():
    data = make_spurious_gaussians(n=100, random_state=0)
    with pytest.raises(ValueError, match="cv must be an integer >= 2, got 1"):
        EIILPartition(cv=1).fit(data.X, data.y)
    with pytest.raises(ValueError, match="at least two classes"):
        EIILPartition().fit(data.X, np.ones(100))
    with pytest.raises(ValueError, match=r"y holds the class 2, which was not there in fit"):
        EIILPartition().fit(data.X, data.y).predict_groups(data.X[:2], [0, 2])
