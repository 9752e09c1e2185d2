"""EM of Dawid and Skene's model agrees with a slow one, climbs, and finds known error rates."""

import itertools

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from statml.adapters.loss_mixing.dawid_skene import DawidSkene, log_joint
from statml.adapters.loss_mixing.majority_vote import MajorityVote
from statml.adapters.loss_mixing.rule_set import LabelMatrix

from statml.datasets import make_weak_labels


def slow_em(votes, n_classes, abstain, smoothing, steps):
    """The equations of the module, one record, annotator and class at a time."""
    n, m = votes.shape
    values = list(range(n_classes)) + ([-1] if abstain == "informative" else [])
    q = np.zeros((n, n_classes))
    for i in range(n):
        given = [v for v in votes[i] if v >= 0]
        for c in range(n_classes):
            q[i, c] = given.count(c) / len(given) if given else np.mean(votes[votes >= 0] == c)
    path = []
    for _ in range(steps):
        prior = (smoothing + q.sum(axis=0)) / (n_classes * smoothing + n)
        theta = np.zeros((m, n_classes, len(values)))
        for j, c in itertools.product(range(m), range(n_classes)):
            count = [smoothing + sum(q[i, c] for i in range(n) if votes[i, j] == v) for v in values]
            theta[j, c] = np.array(count) / sum(count)
        total = smoothing * (np.log(prior).sum() + np.log(theta).sum()) if smoothing else 0.0
        for i in range(n):
            joint = prior.copy()
            for j, c in itertools.product(range(m), range(n_classes)):
                if votes[i, j] in values:
                    joint[c] *= theta[j, c, values.index(votes[i, j])]
            q[i] = joint / joint.sum()
            total += np.log(joint.sum())
        path.append(total)
    return prior, theta, q, path


@pytest.mark.parametrize("abstain", ["missing", "informative"])
def test_it_agrees_with_the_equations_written_as_loops(abstain):
    data = make_weak_labels(40, 4, 0.7, 0.75, n_classes=3, kind="annotators", random_state=0)
    votes = data.votes[(data.votes != -1).any(axis=1)]
    with pytest.warns(ConvergenceWarning, match="max_iter=7"):
        model = DawidSkene(abstain, smoothing=0.1, max_iter=7, tol=0).fit(votes)
    prior, theta, q, path = slow_em(votes, 3, abstain, 0.1, 7)
    np.testing.assert_allclose(model.class_prior_, prior, rtol=1e-10)
    np.testing.assert_allclose(model.confusion_, theta, rtol=1e-9)
    np.testing.assert_allclose(model.predict_proba(votes), q, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(model.log_likelihood_path_, path, rtol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("abstain", ["missing", "informative"])
def test_no_step_lowers_the_log_likelihood(abstain, smoothing):
    for seed in range(5):
        data = make_weak_labels(300, 6, 0.5, 0.6, n_classes=3, kind="annotators", random_state=seed)
        y = np.where(np.arange(300) < 20, data.y, -1) if seed % 2 else None
        model = DawidSkene(abstain, smoothing, max_iter=3000).fit(data.votes, y)
        steps = np.diff(model.log_likelihood_path_)
        assert len(steps) > 3
        assert steps.min() > -1e-9 * abs(model.log_likelihood_path_[-1])


def test_the_joint_probabilities_of_all_patterns_of_votes_sum_to_one():
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(3))
    confusion = rng.dirichlet(np.ones(4), size=(2, 3))
    patterns = np.array(list(itertools.product([0, 1, 2, -1], repeat=2)))
    votes = LabelMatrix.from_dense(patterns, classes=[0, 1, 2])
    total = np.exp(log_joint(votes.indicators(), prior, confusion)).sum(axis=0)
    np.testing.assert_allclose(total, prior, rtol=1e-12)


def test_error_rates_are_recovered_and_the_vote_of_a_contrary_annotator_is_turned_round():
    accuracy = np.array([[0.9, 0.8], [0.7, 0.9], [0.8, 0.8], [0.1, 0.2], [0.6, 0.95]])
    n = 8000
    data = make_weak_labels(
        n, 5, 0.8, accuracy, class_prior=[0.6, 0.4], kind="annotators", random_state=0
    )
    model = DawidSkene(smoothing=0).fit(data.votes)
    # each rate is a share of about n * 0.4 * 0.8 votes; the unknown classes make it some 2 times less certain
    error = 2 * np.sqrt(0.25 / (n * 0.4 * 0.8))
    diagonal = model.confusion_[:, [0, 1], [0, 1]]
    assert np.abs(diagonal - accuracy).max() < 4 * error
    assert abs(model.class_prior_[0] - 0.6) < 4 * error
    covered = (data.votes != -1).any(axis=1)

    def right(m):
        return (m.fit(data.votes).predict(data.votes) == data.y)[covered].mean()

    assert right(DawidSkene()) > right(MajorityVote()) + 0.02


def test_for_rules_silence_is_informative():
    data = make_weak_labels(4000, 8, 0.3, 0.8, random_state=0)
    with pytest.raises(ValueError, match="vote for one label each"):
        DawidSkene().fit(data.votes)
    model = DawidSkene("informative").fit(data.votes)
    fires = 1 - model.confusion_[:, :, -1]
    truth = 1 - data.confusion[:, :, -1]
    assert np.abs(fires - truth).max() < 4 * 2 * np.sqrt(0.25 / 2000)


def test_known_labels_are_held_to():
    data = make_weak_labels(500, 5, 0.5, 0.3, kind="annotators", random_state=0)
    y = np.where(np.arange(500) < 100, data.y, -1)
    covered = (data.votes != -1).any(axis=1)
    blind = DawidSkene().fit(data.votes).predict(data.votes)
    seeing = DawidSkene().fit(data.votes, y).predict(data.votes)
    late = covered & (np.arange(500) >= 100)
    # most annotators are contrary here, so that the votes alone give the classes each other's names
    assert (blind == data.y)[late].mean() < 0.4
    assert (seeing == data.y)[late].mean() > 0.7


def test_labels_keep_their_names_and_records_without_votes_have_none():
    votes = np.array([[3, 3, 7], [7, 7, 3], [3, -1, 7], [-1, -1, -1], [7, 7, -1]])
    model = DawidSkene().fit(votes)
    assert model.classes_.tolist() == [3, 7]
    assert model.predict(votes).tolist() == [3, 7, 3, -1, 7]
    assert np.isnan(model.predict_proba(votes)[3]).all()
    target = model.soft_target(votes)
    assert target.mask.tolist() == [True, True, True, False, True]


def test_the_order_of_records_and_annotators_does_not_matter():
    data = make_weak_labels(200, 5, 0.6, 0.7, kind="annotators", random_state=3)
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(200), rng.permutation(5)
    one = DawidSkene().fit(data.votes).predict_proba(data.votes)
    shuffled = data.votes[rows][:, columns]
    np.testing.assert_allclose(
        DawidSkene().fit(shuffled).predict_proba(shuffled), one[rows], atol=1e-8
    )


def test_bad_parameters_are_refused_by_name():
    votes = [[0, 1], [1, 1]]
    for parameters, message in (
        ({"abstain": "ignored"}, "abstain must be"),
        ({"smoothing": -1}, "smoothing must be"),
        ({"max_iter": 0}, "max_iter must be"),
        ({"tol": -1.0}, "tol must be"),
    ):
        with pytest.raises(ValueError, match=message):
            DawidSkene(**parameters).fit(votes)
    with pytest.raises(ValueError, match="y holds 5"):
        DawidSkene().fit(votes, [5, -1])
