"""Deep feature reweighting: balanced subsets, their average, the choice of the penalty."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from statml.datasets import make_spurious_gaussians
from statml.group_robust import DeepFeatureReweighting, worst_group_score
from statml.group_robust.dfr import L1, balanced_subset


@parametrize_with_checks([DeepFeatureReweighting(Cs=(0.1,), n_retrains=2)])
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


@given(group=st.lists(st.integers(0, 4), min_size=1, max_size=50), seed=st.integers(0, 1000))
def test_a_balanced_subset_has_as_many_of_every_group_as_the_smallest_holds(group, seed):
    group = np.array(group)
    rows = balanced_subset(group, np.random.default_rng(seed))
    sizes = np.unique(group, return_counts=True)[1]
    assert len(set(rows.tolist())) == len(rows) == len(sizes) * sizes.min()
    np.testing.assert_array_equal(np.unique(group[rows], return_counts=True)[1], sizes.min())


def equal_groups(rng, n=160):
    groups = np.repeat(np.arange(4), n // 4)
    y = groups // 2
    return rng.normal(size=(n, 3)) * [1, 10, 0.1] + y[:, None] * [1, 5, 0.1], y, groups


def test_with_equal_groups_it_is_one_l1_logistic_regression_on_all_records():
    X, y, groups = equal_groups(np.random.default_rng(0))
    model = DeepFeatureReweighting(Cs=(0.3,), n_retrains=3, random_state=0).fit(X, y, groups)
    peer = LogisticRegression(C=0.3, solver="liblinear", random_state=0, **L1)
    Z = StandardScaler().fit_transform(X)
    peer.fit(Z, y)
    np.testing.assert_allclose(model.decision_function(X), peer.decision_function(Z), atol=1e-3)
    assert model.C_ == 0.3
    assert model.worst_group_accuracy_ == {}


def test_the_coefficients_are_the_mean_over_retrains():
    """Their variance over subsets falls as one over the number of retrains."""
    data = make_spurious_gaussians(n=600, random_state=0)

    def spread(n_retrains):
        coef = [
            DeepFeatureReweighting((0.3,), n_retrains, random_state=seed)
            .fit(data.X, data.y, data.groups)
            .coef_[0]
            for seed in range(25)
        ]
        return np.var(coef, axis=0, ddof=1).sum()

    ratio = spread(1) / spread(6)
    # the log of a variance over 25 draws in k directions has the error sqrt(2 / 24k); k = 2 at least
    assert abs(np.log(ratio / 6)) < 3 * np.sqrt(2 * 2 / 48)


def test_the_penalty_with_the_best_worst_group_is_taken():
    data = make_spurious_gaussians(n=1000, random_state=1)
    model = DeepFeatureReweighting(n_retrains=3, random_state=0).fit(data.X, data.y, data.groups)
    assert list(model.worst_group_accuracy_) == [1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01]
    assert model.worst_group_accuracy_[model.C_] == max(model.worst_group_accuracy_.values())


def test_a_far_too_strong_penalty_is_not_taken_and_zeroes_all_coefficients():
    data = make_spurious_gaussians(n=1000, random_state=1)
    model = DeepFeatureReweighting((1e-6, 0.3), 2, random_state=0)
    assert model.fit(data.X, data.y, data.groups).C_ == 0.3
    assert (DeepFeatureReweighting((1e-6,), 2).fit(data.X, data.y, data.groups).coef_ == 0).all()


def test_it_mends_the_worst_group():
    plain, mended = [], []
    for seed in range(3):
        train = make_spurious_gaussians(random_state=seed)
        test = make_spurious_gaussians(n=4000, agreement=0.5, random_state=100 + seed)
        model = DeepFeatureReweighting((0.3, 0.1), 5, random_state=seed)
        for found, fitted in (
            (plain, LogisticRegression().fit(train.X, train.y)),
            (mended, model.fit(train.X, train.y, groups=train.groups)),
        ):
            found.append(worst_group_score(test.y, fitted.predict(test.X), test.groups))
    assert np.mean(mended) > np.mean(plain) + 0.2


def test_features_in_other_units_give_the_same_predictions():
    data = make_spurious_gaussians(n=600, random_state=0)
    scale = np.geomspace(1e-3, 1e3, data.X.shape[1])
    fits = [
        DeepFeatureReweighting((0.3,), 3, random_state=0)
        .fit(X, data.y, data.groups)
        .decision_function(X)
        for X in (data.X, data.X * scale + 5)
    ]
    np.testing.assert_allclose(*fits, atol=1e-5)


def test_without_groups_the_classes_are_balanced():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 2)), np.repeat(["a", "b"], [80, 20])
    model = DeepFeatureReweighting((0.3,), 2, random_state=0).fit(X, y)
    assert model.groups_ == ["a", "b"]
    assert model.group_sizes_.tolist() == [80, 20]
    named = DeepFeatureReweighting((0.3,), 2, random_state=0).fit(X, y, groups=y)
    np.testing.assert_array_equal(model.coef_, named.coef_)


def test_three_classes_data_frames_and_a_group_of_one():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], 30)
    X = pd.DataFrame(rng.normal(size=(90, 2)) + (y == "a")[:, None] * 3, columns=["u", "v"])
    groups = pd.Series(y).where(np.arange(90) > 0, "a, alone")
    model = DeepFeatureReweighting((0.3, 0.1), 2, random_state=0).fit(X, y, groups)
    assert model.coef_.shape == (3, 2)
    assert set(model.predict(X)) <= set("abc")
    assert model.feature_names_in_.tolist() == ["u", "v"]
    again = DeepFeatureReweighting((0.3, 0.1), 2, random_state=0).fit(X, y, groups)
    np.testing.assert_array_equal(model.coef_, again.coef_)


def test_bad_input_is_refused_by_name():
    X, y, groups = equal_groups(np.random.default_rng(0))
    for options, message in [
        ({"n_retrains": 0}, "n_retrains must be an integer >= 1, got 0"),
        ({"Cs": ()}, r"Cs must be a sequence of numbers > 0, got \(\)"),
        ({"Cs": (1.0, -1.0)}, "Cs must be a finite number > 0, got -1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            DeepFeatureReweighting(**options).fit(X, y, groups)
    with pytest.raises(ValueError, match="groups"):
        DeepFeatureReweighting().fit(X, y, groups[:-1])
    with pytest.raises(ValueError, match="missing"):
        DeepFeatureReweighting().fit(X, y, np.where(groups == 0, None, groups))
    with pytest.raises(ValueError, match="must not overlap"):
        DeepFeatureReweighting().fit(X, y, pd.DataFrame({"a": np.ones(160, int), "b": y}))


def test_groups_whose_balanced_subset_lacks_a_class_are_refused():
    rng = np.random.default_rng(0)
    y = np.r_[np.zeros(98, dtype=int), 1, 1]
    groups = np.r_[np.zeros(95), np.ones(5)]
    with pytest.raises(ValueError, match=r"holds every class; one of 10 records did not"):
        DeepFeatureReweighting((0.3,), 50, random_state=0).fit(
            rng.normal(size=(100, 2)), y, np.roll(groups, 5)
        )
