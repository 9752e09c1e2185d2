"""Folds, and predictions by models that did not see the record."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from statml.group_robust.out_of_fold import (
    aligned_proba,
    log_losses,
    out_of_fold_proba,
    seeded,
    stratified_folds,
)


class Memory(ClassifierMixin, BaseEstimator):
    """Predicts class 1 for the records it was fitted to, and class 0 for all others."""

    def fit(self, X, y, tag=None):
        self.seen_ = {tuple(x) for x in X}
        self.classes_ = np.array([0, 1])
        self.tag_ = tag
        return self

    def predict_proba(self, X):
        known = np.array([tuple(x) in self.seen_ for x in X], dtype=float)
        return np.column_stack([1 - known, known])


@given(
    y=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    n_folds=st.integers(2, 7),
    seed=st.integers(0, 1000),
)
def test_folds_are_of_one_size_in_all_and_in_every_class(y, n_folds, seed):
    y = np.array(y)
    fold = stratified_folds(y, n_folds, np.random.default_rng(seed))
    for part in [np.ones(len(y), dtype=bool), *(y == c for c in np.unique(y))]:
        sizes = np.bincount(fold[part], minlength=n_folds)
        assert np.ptp(sizes) <= 1
        assert len(sizes) == n_folds


def test_no_record_is_predicted_by_a_model_that_saw_it():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 2)), rng.integers(0, 2, 50)
    fold = stratified_folds(y, 5, rng)
    proba = out_of_fold_proba(Memory(), X, y, fold)
    np.testing.assert_array_equal(proba[:, 1], 0)


def test_further_arguments_of_fit_are_those_of_the_training_records():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 2)), rng.integers(0, 2, 90)
    weight = rng.exponential(size=90)
    fold = stratified_folds(y, 3, rng)
    found = out_of_fold_proba(
        LogisticRegression(), X, y, fold, lambda train: {"sample_weight": weight[train]}
    )
    for k in range(3):
        train = fold != k
        model = LogisticRegression().fit(X[train], y[train], sample_weight=weight[train])
        np.testing.assert_allclose(found[~train], model.predict_proba(X[~train]))


def test_a_class_that_the_other_folds_lack_gets_laplaces_share():
    X = np.arange(21.0)[:, None]
    y = np.r_[np.repeat([0, 1], 10), 2]
    fold = stratified_folds(y, 3, np.random.default_rng(0))
    proba = out_of_fold_proba(LogisticRegression(), X, y, fold)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    mine = fold == fold[20]
    np.testing.assert_allclose(proba[mine, 2], 1 / ((~mine).sum() + 3))
    assert np.isfinite(log_losses(proba, y)).all()


def test_aligned_probabilities_keep_the_order_of_the_classes():
    X = np.arange(20.0)[:, None]
    model = LogisticRegression().fit(X, np.repeat([0, 2], 10))
    proba = aligned_proba(model, X, 3, 20)
    np.testing.assert_allclose(proba[:, 1], 1 / 23)
    np.testing.assert_allclose(proba[:, [0, 2]] * 23 / 22, model.predict_proba(X))


def test_too_few_records_for_the_folds_are_refused():
    y = np.r_[np.zeros(5, dtype=int), 1]
    fold = stratified_folds(y, 5, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"too few records of all but one class for 5 folds"):
        out_of_fold_proba(LogisticRegression(), np.zeros((6, 1)), y, fold)


def test_seeding_fills_open_random_states_only_and_leaves_the_original_alone():
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    first, again = (seeded(pipe, np.random.default_rng(1)) for _ in range(2))
    assert first[-1].random_state == again[-1].random_state is not None
    assert pipe[-1].random_state is None
    assert seeded(LogisticRegression(random_state=3), np.random.default_rng(1)).random_state == 3


def test_log_loss_of_an_impossible_class_is_finite():
    assert log_losses(np.array([[1.0, 0.0]]), np.array([1]))[0] == pytest.approx(708, abs=1)
