"""OpenVAEClassifier: tasks one after another, remembered, refused, asked about; on scikit-learn's 8 x 8 digits."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

torch = pytest.importorskip("torch")
# small data: that is what these tests are about
pytestmark = pytest.mark.filterwarnings("ignore:too few:UserWarning")

from statml.adapters.continual import (  # noqa: E402
    ConformalBound,
    ContinualEvaluator,
    OpenVAEClassifier,
    PeaksOverThresholdBound,
    WeibullBound,
)

SMALL = {"hidden": (64,), "latent_dim": 10, "max_steps": 120, "batch_size": 64, "random_state": 0}
TASKS = ((0, 1, 2), (3, 4, 5))


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    return X[::2], y[::2], X[1::2], y[1::2]


def learn(digits, tasks=TASKS, **parameters):
    X, y, *_ = digits
    model = OpenVAEClassifier(**SMALL | parameters)
    for task in tasks:
        chosen = np.isin(y, task)
        model.partial_fit(X[chosen], y[chosen])
    return model


@pytest.fixture(scope="module")
def learned(digits):
    return learn(digits)


def why_not(estimator):
    random = "minibatches are random, a weight is no number of copies"
    return {
        "check_sample_weight_equivalence_on_dense_data": random,
        "check_sample_weight_equivalence_on_sparse_data": random,
    }


@parametrize_with_checks(
    [
        OpenVAEClassifier(
            hidden=(16,),
            latent_dim=4,
            likelihood="gaussian",
            lr=0.01,
            max_steps=150,
            random_state=0,
        )
    ],
    expected_failed_checks=why_not,
)
def test_scikit_learn_takes_it_as_its_own(estimator, check, in_single_precision):
    check(estimator)


def test_classes_come_in_the_order_of_their_arrival_and_are_remembered(digits, learned):
    *_, X, y = digits
    assert learned.classes_.tolist() == [0, 1, 2, 3, 4, 5]
    assert learned.n_tasks_ == 2
    assert learned.n_seen_.sum() == np.isin(digits[1], range(6)).sum()
    for task in TASKS:
        chosen = np.isin(y, task)
        assert learned.score(X[chosen], y[chosen]) > 0.8
    backwards = learn(digits, TASKS[::-1])
    assert backwards.classes_.tolist() == [3, 4, 5, 0, 1, 2]
    chosen = np.isin(y, range(6))
    assert backwards.score(X[chosen], y[chosen]) > 0.8


def test_without_replay_the_first_task_is_forgotten(digits):
    *_, X, y = digits
    model = learn(digits, replay="none")
    first = np.isin(y, TASKS[0])
    assert model.score(X[first], y[first]) < 0.1


@pytest.mark.parametrize(
    ("replay", "memory"), [("prior", 0), ("openset", 0), ("exemplar", 60), ("joint", 0)]
)
def test_every_replay_remembers_more_than_none(digits, replay, memory):
    *_, X, y = digits
    model = learn(digits, replay=replay, memory_size=memory)
    first = np.isin(y, TASKS[0])
    assert model.score(X[first], y[first]) > 0.5
    if replay == "exemplar":
        assert len(model.exemplars_[0]) == 60
        assert np.bincount(model.exemplars_[1]).tolist() == [10] * 6


def test_all_in_one_task_is_fit(digits):
    X, y, *_ = digits
    one = OpenVAEClassifier(**SMALL).fit(X, y)
    other = OpenVAEClassifier(**SMALL).partial_fit(X, y)
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    again = one.fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), other.predict_proba(X))


def test_names_of_classes_do_not_matter(digits, learned):
    X, y, X_test, _ = digits
    names = np.array(["nought", "one", "two", "three", "four", "five"] + ["-"] * 4)
    # sorted within a task: the same order of arrival needs tasks in which names sort as numbers do
    order = {c: f"{c} {names[c]}" for c in range(6)}
    model = OpenVAEClassifier(**SMALL)
    for task in TASKS:
        chosen = np.isin(y, task)
        model.partial_fit(X[chosen], [order[c] for c in y[chosen]])
    expected = [order[c] for c in learned.predict(X_test)]
    assert model.predict(X_test).tolist() == expected


def test_one_class_at_a_time(digits):
    *_, X_test, y_test = digits
    model = learn(digits, tasks=((0,), (1,)))
    chosen = y_test < 2
    assert model.score(X_test[chosen], y_test[chosen]) > 0.9
    only = learn(digits, tasks=((7,),))
    assert set(only.predict(X_test[:5])) == {7}


# --- rejection ----------------------------------------------------------------------------------------


def test_known_records_are_rejected_at_the_stated_rate(digits):
    """Of each score: mean over seeds within four standard errors of alpha, from below up to the grid of p-values."""
    X, y, X_test, y_test = digits
    known, chosen = y < 5, y_test < 5
    rates = {score: [] for score in ("combined", "latent", "reconstruction", "entropy", "softmax")}
    for seed in range(4):
        # any split of exchangeable records will do: training and test halves are drawn anew
        rng = np.random.default_rng(seed)
        pooled, labels = (
            np.concatenate([X[known], X_test[chosen]]),
            np.concatenate([y[known], y_test[chosen]]),
        )
        order = rng.permutation(len(pooled))
        train, test = order[:500], order[500:]
        model = OpenVAEClassifier(
            **SMALL | {"calibration": 0.4, "random_state": seed, "max_steps": 60}
        )
        model.fit(pooled[train], labels[train])
        for score, rate in rates.items():
            rate.append((model.outlier_proba(pooled[test], score) >= 0.9).mean())
    n_test, n_calibration = 400, 100  # of which the combination uses half
    error = np.sqrt(0.1 * 0.9 * (1 / n_test + 1 / n_calibration) / 4)
    for score, rate in rates.items():
        assert np.mean(rate) < 0.1 + 4 * error, score
        assert np.mean(rate) > 0.1 - 1 / n_calibration - 4 * error, score


def test_what_is_no_digit_is_called_unknown(digits):
    X, y, X_test, _ = digits
    model = OpenVAEClassifier(**SMALL, calibration=0.3).fit(X, y)
    noise = np.random.default_rng(0).random((200, 64))
    for foreign in (noise, 1 - X_test[:200]):
        assert (model.predict(foreign, reject=True) == -1).mean() > 0.9
        assert (model.predict(foreign) >= 0).all()
    named = OpenVAEClassifier(**SMALL, calibration=0.3).fit(X, y.astype(str))
    assert (named.predict(noise, reject=True) == "unknown").mean() > 0.9


@pytest.mark.parametrize(
    "bound", [WeibullBound("euclidean"), PeaksOverThresholdBound(), ConformalBound(random_state=0)]
)
def test_every_bound_can_be_the_judge(digits, bound):
    X, y, X_test, _ = digits
    model = OpenVAEClassifier(**SMALL, calibration=0.3, bound=bound, reject_by="bound").fit(X, y)
    w = model.outlier_proba(X_test)
    assert ((w >= 0) & (w <= 1)).all()
    assert (w > 0.95).mean() < 0.25
    assert type(model.bound_) is type(bound)
    assert not hasattr(bound, "means_")


def test_nothing_held_out_leaves_only_the_bound(digits):
    X, y, *_ = digits
    model = OpenVAEClassifier(**SMALL, calibration=0).fit(X, y)
    assert model.n_stored_ == 0
    with pytest.raises(ValueError, match="calibrated on held-out records, of which there are 0"):
        model.predict(X, reject=True)
    assert model.outlier_proba(X, "bound").shape == (len(X),)


# --- asking, remembering, and the other methods --------------------------------------------------------


def test_queries_avoid_what_is_foreign(digits):
    learned = learn(digits, calibration=0.3)
    *_, X, y = digits
    rng = np.random.default_rng(0)
    known = X[np.isin(y, range(6))]
    pool = np.concatenate([known, rng.random((len(known), 64))])
    wasted = {}
    for band in ((0, 0.95), None):
        found = learned.query(pool, 100, band=band, random_state=0)
        wasted[band] = (found.indices >= len(known)).mean()
        assert (len(found.rejected_) > 0) == (band is not None)
    # half of the pool is foreign: farthest first buys little else, the bound less than chance
    assert wasted[0, 0.95] < 0.5 < wasted[None]


def test_exemplars_and_the_next_task(digits, learned):
    *_, X, y = digits
    known = np.isin(y, range(6))
    chosen = learned.select_exemplars(X[known], y[known], 30, random_state=0)
    assert np.bincount(y[known][chosen]).tolist() == [5] * 6
    noise = np.random.default_rng(0).random((50, 64))
    candidates = {"digits": X[known][:50], "noise": noise}
    assert learned.next_task(candidates) == "noise"
    assert learned.next_task(candidates, "similar") == "digits"


def test_replayed_records_look_like_their_class(digits, learned):
    X, y, *_ = digits
    found = learned.sample(120, random_state=0)
    assert np.bincount(found.y).tolist() == [20] * 6
    from sklearn.neighbors import KNeighborsClassifier

    known = np.isin(y, range(6))
    judge = KNeighborsClassifier().fit(X[known], y[known])
    assert judge.score(found.X, found.y) > 0.8
    assert found.X.min() >= 0
    assert found.X.max() <= 1


def test_reconstructions_are_closer_than_the_mean_image_and_the_evidence_prefers_digits(
    digits, learned
):
    *_, X, y = digits
    X = X[np.isin(y, range(6))]
    assert ((learned.reconstruct(X) - X) ** 2).mean() < 0.8 * ((X.mean(0) - X) ** 2).mean()
    noise = np.random.default_rng(0).random(X.shape)
    assert learned.score_samples(X).min() > np.median(learned.score_samples(noise))
    assert learned.transform(X).shape == (len(X), 10)


def test_probabilities_of_a_record_do_not_depend_on_its_company(digits, learned):
    *_, X, _ = digits
    whole = learned.predict_proba(X)
    np.testing.assert_allclose(whole.sum(1), 1)
    np.testing.assert_allclose(learned.predict_proba(X[5:8]), whole[5:8], atol=1e-5)


def test_the_evaluator_reports_its_facts(digits):
    X, y, X_test, y_test = digits
    chosen, there = y < 4, y_test < 4
    evaluator = ContinualEvaluator.from_classes(X[chosen], y[chosen], X_test[there], y_test[there])
    report = evaluator.run(OpenVAEClassifier(**SMALL | {"max_steps": 60}))
    assert report.scores()["acc"][0] > 0.6
    facts = report.runs[0]["facts"]
    assert facts["generated_data"] == np.isin(y, (0, 1)).sum()
    assert facts["optimization_steps"] >= 120


def test_images_with_channels_and_convolutions(digits):
    X, y, X_test, y_test = digits
    X, X_test = X.reshape(-1, 8, 8), X_test.reshape(-1, 8, 8)
    model = OpenVAEClassifier("conv", **SMALL | {"hidden": (8, 16), "max_steps": 300}).fit(X, y)
    assert model.score(X_test, y_test) > 0.8
    assert model.reconstruct(X_test[:3]).shape == (3, 8, 8)


def test_modules_of_ones_own(digits):
    X, y, X_test, y_test = digits
    encoder = torch.nn.Sequential(torch.nn.Linear(64, 30), torch.nn.Tanh())
    decoder = torch.nn.Linear(10, 64)
    model = OpenVAEClassifier(**SMALL | {"max_steps": 300}, encoder=encoder, decoder=decoder)
    model.fit(X, y)
    assert model.score(X_test, y_test) > 0.7
    assert model.module_.encoder is not encoder


# --- baselines ----------------------------------------------------------------------------------------


def test_elastic_weights_hold_on_to_what_they_knew(digits):
    """With a penalty beyond all measure the encoder stays; without one it moves."""
    model = learn(digits, tasks=TASKS[:1], replay="none", regularization="ewc")
    X, y, *_ = digits
    second = np.isin(y, TASKS[1])
    held = pickle.loads(pickle.dumps(model)).set_params(regularization_strength=1e6)
    start = model.transform(X)
    held.partial_fit(X[second], y[second])
    free = model.set_params(regularization_strength=0.0).partial_fit(X[second], y[second])
    moved = [np.abs(m.transform(X) - start).mean() for m in (held, free)]
    assert moved[0] < 0.5 * moved[1]


def test_learning_without_forgetting_forgets_less(digits):
    *_, X, y = digits
    first = np.isin(y, TASKS[0])
    plain, lwf = (
        learn(digits, replay="none", regularization=name, regularization_strength=s)
        for name, s in ((None, 0.0), ("lwf", 5.0))
    )
    # its word on old classes: how much of the old classes' order is kept among them
    among = [m.predict_proba(X[first])[:, :3].argmax(1) == y[first] for m in (plain, lwf)]
    assert among[1].mean() > among[0].mean()


# --- seeds, files, checkpoints --------------------------------------------------------------------------


def test_a_seed_fixes_everything(digits, learned):
    *_, X, _ = digits
    again = learn(digits)
    np.testing.assert_array_equal(again.predict_proba(X), learned.predict_proba(X))
    other = learn(digits, random_state=1)
    assert np.abs(other.predict_proba(X) - learned.predict_proba(X)).max() > 1e-3


@pytest.mark.parametrize("bound", [None, ConformalBound("euclidean")])
def test_a_file_keeps_everything_and_learning_goes_on(digits, bound, tmp_path):
    X, y, X_test, _ = digits
    model = learn(digits, tasks=TASKS[:1], bound=bound, calibration=0.4)
    model.save(tmp_path / "model.safetensors")
    again = OpenVAEClassifier.load(tmp_path / "model.safetensors")
    assert repr(again.bound) == repr(bound)
    for name in ("combined", "latent", "bound"):
        np.testing.assert_array_equal(
            model.outlier_proba(X_test, name), again.outlier_proba(X_test, name)
        )
    chosen = np.isin(y, TASKS[1])
    for m in (model, again):
        m.partial_fit(X[chosen], y[chosen])
    np.testing.assert_array_equal(model.predict_proba(X_test), again.predict_proba(X_test))


def test_a_pickle_and_a_clone(digits, learned):
    *_, X, _ = digits
    copy = pickle.loads(pickle.dumps(learned))
    np.testing.assert_array_equal(copy.predict_proba(X), learned.predict_proba(X))
    with pytest.raises(NotFittedError):
        clone(learned).predict(X)


def test_a_run_goes_on_from_its_checkpoint(digits, tmp_path):
    *_, X, _ = digits
    learned = learn(digits, epochs=8, max_steps=None)
    learn(digits, tasks=TASKS[:1], epochs=8, max_steps=None, checkpoint_dir=tmp_path)
    # the second task stops half way, then both are asked for again
    half = learn(digits, tasks=TASKS[:1], epochs=8, max_steps=None, checkpoint_dir=tmp_path)
    half.set_params(epochs=4).partial_fit(*(a[np.isin(digits[1], TASKS[1])] for a in digits[:2]))
    resumed = learn(digits, epochs=8, max_steps=None, checkpoint_dir=tmp_path)
    np.testing.assert_array_equal(resumed.predict_proba(X), learned.predict_proba(X))
    assert {folder.name for folder in tmp_path.iterdir()} == {"task_0", "task_1"}


# --- bad input ----------------------------------------------------------------------------------------


def test_bad_input_is_refused_by_name(digits, learned):
    X, y, *_ = digits
    with pytest.raises(ValueError, match=r"X must lie in \[0, 1\]"):
        OpenVAEClassifier(**SMALL).fit(16 * X, y)
    copy = pickle.loads(pickle.dumps(learned))
    with pytest.raises(ValueError, match="labels of earlier tasks are numbers"):
        copy.partial_fit(X, y.astype(str))
    with pytest.raises(ValueError, match="features"):
        copy.partial_fit(X[:, :32], y)
    with pytest.raises(ValueError, match="NaN"):
        copy.partial_fit(np.full_like(X, np.nan), y)
    with pytest.raises(ValueError, match="features"):
        copy.query(X[:, :32], 5)
    with pytest.raises(ValueError, match="no task has shown"):
        copy.select_exemplars(X, y, 5)
    with pytest.raises(ValueError, match="stands for unknown records"):
        OpenVAEClassifier(**SMALL).fit(X, np.where(y == 0, -1, y)).predict(X, reject=True)
    with pytest.raises(ValueError, match="memory_size"):
        OpenVAEClassifier(**SMALL, replay="exemplar").fit(X, y)
    with pytest.raises(ValueError, match="takes images"):
        OpenVAEClassifier("conv", **SMALL).fit(X, y)
    with pytest.raises(NotFittedError):
        OpenVAEClassifier().predict(X, reject=True)
    for name, value in {
        "replay": "dream",
        "reject_by": "gut",
        "likelihood": "poisson",
        "omega_replay": 0.0,
        "calibration": 1.0,
        "latent_dim": 0,
        "beta": -1.0,
        "regularization": "l2",
    }.items():
        with pytest.raises(ValueError, match=name):
            OpenVAEClassifier(**SMALL | {name: value}).fit(X, y)


def test_a_class_with_too_few_records_leans_on_the_others(digits):
    X, y, *_ = digits
    few = np.flatnonzero(y == 0)[:4]
    chosen = np.concatenate([few, np.flatnonzero(np.isin(y, (1, 2)))])
    with pytest.warns(UserWarning, match="too few correctly classified records of class 0"):
        OpenVAEClassifier(**SMALL).fit(X[chosen], y[chosen])


def test_a_first_task_that_broke_off_can_be_begun_again(digits, monkeypatch):
    X, y, *_ = digits
    chosen = y < 3
    model = OpenVAEClassifier(**SMALL | {"max_steps": 10})

    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OpenVAEClassifier, "_train", broken)
        with pytest.raises(KeyboardInterrupt):
            model.partial_fit(X[chosen], y[chosen])
    again = model.partial_fit(X[chosen], y[chosen])
    fresh = OpenVAEClassifier(**SMALL | {"max_steps": 10}).partial_fit(X[chosen], y[chosen])
    np.testing.assert_array_equal(again.predict_proba(X), fresh.predict_proba(X))
