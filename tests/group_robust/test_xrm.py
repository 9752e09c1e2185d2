"""Cross-risk minimisation: the flips, and the groups on which either twin errs."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from statml.datasets import make_spurious_gaussians
from statml.group_robust import XRMPartition
from statml.group_robust.xrm import flip_labels


@parametrize_with_checks([XRMPartition(n_rounds=3)])
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "proba", [[0.5, 0.5], [0.3, 0.7], [1.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.6, 0.3]]
)
def test_labels_move_to_the_prediction_with_the_chance_of_the_paper(proba):
    """(p - 1/K) K / (K - 1): never for a guess, always for a certainty."""
    n, K = 20_000, len(proba)
    for label in range(K):
        flipped = flip_labels(
            np.full(n, label), np.tile(proba, (n, 1)), np.random.default_rng(label)
        )
        chance = (max(proba) - 1 / K) * K / (K - 1)
        predicted = int(np.argmax(proba))
        assert set(flipped) <= {label, predicted}
        if label != predicted:
            error = np.sqrt(chance * (1 - chance) / n)
            assert abs((flipped == predicted).mean() - chance) <= 4 * error


class Constant(ClassifierMixin, BaseEstimator):
    """Certain of one class for the records it was fitted to, and of the other for all others."""

    def fit(self, X, y):
        self.seen_, self.classes_ = set(X[:, 0]), np.array([0, 1])
        return self

    def predict_proba(self, X):
        known = np.array([x in self.seen_ for x in X[:, 0]], dtype=float)
        return np.column_stack([1 - known, known])


def test_a_record_is_judged_by_the_twin_that_was_not_fitted_to_it():
    X, y = np.arange(40.0)[:, None], np.repeat([0, 1], 20)
    xrm = XRMPartition(Constant(), n_rounds=1, random_state=0).fit(X, y)
    # every label would go to class 0, which leaves one class, so that they stay as they are
    assert xrm.flip_rate_ == 0
    halves = [set(twin.seen_) for twin in xrm.twins_]
    assert not halves[0] & halves[1]
    assert len(halves[0]) == len(halves[1]) == 20
    # one twin says 1, the other 0: one of them errs on every record
    assert (xrm.environments_ == 1).all()


def test_a_record_is_in_environment_one_if_either_twin_errs_on_its_first_label():
    data = make_spurious_gaussians(n=600, random_state=0)
    xrm = XRMPartition(random_state=0).fit(data.X, data.y)
    errs = [twin.predict(data.X) != data.y for twin in xrm.twins_]
    np.testing.assert_array_equal(xrm.environments_ == 1, errs[0] | errs[1])
    fresh = make_spurious_gaussians(n=100, random_state=1)
    errs = [twin.predict(fresh.X) != fresh.y for twin in xrm.twins_]
    expected = [
        f"y={c}, environment {int(e)}" for c, e in zip(fresh.y, errs[0] | errs[1], strict=True)
    ]
    assert xrm.predict_groups(fresh.X, fresh.y).tolist() == expected
    assert xrm.labels_.tolist() == xrm.predict_groups(data.X, data.y).tolist()


def test_one_round_is_two_plain_fits_with_balanced_classes():
    data = make_spurious_gaussians(n=400, random_state=0)
    xrm = XRMPartition(n_rounds=1, random_state=0).fit(data.X, data.y)
    twin = xrm.twins_[0]
    assert twin.class_weight == "balanced"
    # a class of weight one half, whatever its size: mean probability one half on the half it was fitted to
    np.testing.assert_allclose(twin.intercept_.shape, (1,))
    peer = LogisticRegression(class_weight="balanced", max_iter=1000)
    assert {k: v for k, v in twin.get_params().items() if k != "random_state"} == {
        k: v for k, v in peer.get_params().items() if k != "random_state"
    }


def test_flips_spread_the_easy_rule_over_rounds():
    """Where the spurious feature is much the easier one, twins that teach each other see nothing else."""
    rates = {1: [], 10: []}
    shares = []
    for seed in range(4):
        data = make_spurious_gaussians(n=1000, core_sd=4, spurious_sd=0.4, random_state=seed)
        minority = data.y != data.attribute
        for n_rounds, found in rates.items():
            xrm = XRMPartition(n_rounds=n_rounds, random_state=seed).fit(data.X, data.y)
            found.append(xrm.flip_rate_)
        shares.append([xrm.environments_[minority].mean(), xrm.environments_[~minority].mean()])
    assert np.mean(rates[10]) > np.mean(rates[1])
    caught, false = np.mean(shares, axis=0)
    assert caught > 0.75
    assert false < 0.15


def test_random_state_fixes_everything():
    data = make_spurious_gaussians(n=300, random_state=0)
    forest = RandomForestClassifier(5)
    fits = [XRMPartition(forest, 2, random_state=5).fit(data.X, data.y) for _ in range(2)]
    np.testing.assert_array_equal(*(fit.labels_ for fit in fits))


def test_bad_input_is_refused():
    data = make_spurious_gaussians(n=100, random_state=0)
    with pytest.raises(ValueError, match="n_rounds must be an integer >= 1, got 0"):
        XRMPartition(n_rounds=0).fit(data.X, data.y)
    with pytest.raises(ValueError, match="at least two classes with two records"):
        XRMPartition().fit(data.X[:10], [0] * 9 + [1])
    with pytest.raises(ValueError, match="one class"):
        XRMPartition().fit(data.X, np.zeros(100))
