"""Just train twice: the error set and the second fit."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from statml.datasets import make_spurious_gaussians
from statml.group_robust import JTTClassifier


@parametrize_with_checks([JTTClassifier()])
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def data():
    return make_spurious_gaussians(n=600, random_state=0)


def test_without_folds_the_error_set_is_that_of_the_model_stopped_half_way(data):
    model = JTTClassifier(cv=None).fit(data.X, data.y)
    full = LogisticRegression(max_iter=1000).fit(data.X, data.y)
    steps = -(-int(full.n_iter_[0]) // 2)
    assert model.identification_steps_ == steps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        early = LogisticRegression(max_iter=steps).fit(data.X, data.y)
    np.testing.assert_array_equal(model.error_set_, early.predict(data.X) != data.y)


@pytest.mark.parametrize("cv", [None, 5])
def test_the_second_fit_gives_the_errors_their_weight(data, cv):
    model = JTTClassifier(upweight=7.0, cv=cv, random_state=0).fit(data.X, data.y)
    weight = np.where(model.error_set_, 7.0, 1.0)
    peer = LogisticRegression(max_iter=1000).fit(data.X, data.y, sample_weight=weight)
    np.testing.assert_allclose(model.estimator_.coef_, peer.coef_)
    # lambda times the loss of the errors plus that of the others: repeating the errors seven times
    rows = np.repeat(np.arange(600), weight.astype(int))
    peer = LogisticRegression(max_iter=1000).fit(data.X[rows], data.y[rows])
    np.testing.assert_allclose(model.estimator_.coef_, peer.coef_, atol=1e-3)


def test_out_of_fold_errors_are_those_of_models_that_did_not_see_the_record(data):
    """One nearest neighbour reproduces its training labels, and errs on others."""
    forest = RandomForestClassifier(20, bootstrap=False, random_state=0)
    with pytest.warns(UserWarning, match="no record is misclassified"):
        in_sample = JTTClassifier(forest, stop=None, cv=None).fit(data.X, data.y)
    assert in_sample.error_set_.sum() == 0
    out_of_fold = JTTClassifier(forest, stop=None, random_state=0).fit(data.X, data.y)
    minority = data.y != data.attribute
    assert out_of_fold.error_set_[minority].mean() > 0.5
    assert out_of_fold.error_set_[~minority].mean() < 0.1


def test_upweight_one_is_the_plain_fit(data):
    model = JTTClassifier(upweight=1.0).fit(data.X, data.y)
    peer = LogisticRegression(max_iter=1000).fit(data.X, data.y)
    np.testing.assert_array_equal(model.predict_proba(data.X), peer.predict_proba(data.X))


def test_pipelines_are_stopped_and_weighted_at_their_last_step(data):
    pipe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    frame = pd.DataFrame(data.X, columns=data.feature_names)
    labels = np.where(data.y == 1, "b", "a")
    model = JTTClassifier(pipe, random_state=0).fit(frame, labels)
    weight = np.where(model.error_set_, 10.0, 1.0)
    peer = pipe.fit(data.X, data.y, logisticregression__sample_weight=weight)
    np.testing.assert_allclose(model.predict_proba(frame), peer.predict_proba(data.X))
    np.testing.assert_array_equal(model.predict(frame) == "b", peer.predict(data.X) == 1)


def test_random_state_fixes_folds_and_estimator(data):
    forest = RandomForestClassifier(5)
    fits = [JTTClassifier(forest, stop=None, random_state=1).fit(data.X, data.y) for _ in range(2)]
    np.testing.assert_array_equal(*(fit.error_set_ for fit in fits))
    np.testing.assert_array_equal(*(fit.predict_proba(data.X) for fit in fits))
    assert forest.random_state is None


def test_what_cannot_be_stopped_or_weighted_is_refused(data):
    with pytest.raises(
        ValueError, match=r"stop=0.5 needs an estimator with max_iter and n_iter_, which GaussianNB"
    ):
        JTTClassifier(GaussianNB()).fit(data.X, data.y)
    with pytest.raises(
        TypeError, match="estimator must take sample_weight in fit, which KNeighbors"
    ):
        JTTClassifier(KNeighborsClassifier(), stop=None).fit(data.X, data.y)
    JTTClassifier(GaussianNB(), stop=None).fit(data.X, data.y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upweight": 0}, "upweight must be a finite number > 0, got 0"),
        ({"stop": 1.5}, r"stop must be a finite number in \(0, 1\], got 1.5"),
        ({"cv": 1}, "cv must be an integer >= 2, got 1"),
    ],
)
def test_bad_parameters_are_refused_by_name(data, options, message):
    with pytest.raises(ValueError, match=message):
        JTTClassifier(**options).fit(data.X, data.y)


def test_one_class_is_refused(data):
    with pytest.raises(ValueError, match="at least two classes, got one class"):
        JTTClassifier().fit(data.X, np.zeros(600))
