"""The estimator: weights that tell right from wrong, found by the record and not by its place; and scikit-learn's contract."""

import re
import subprocess
import sys
import warnings
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

torch = pytest.importorskip("torch")

from statml.adapters import (  # noqa: E402
    MLP,
    AlignmentDisplay,
    AMALClassifier,
    Entropy,
    LambdaHistogramDisplay,
    LambdaPathDisplay,
    NetClassifier,
    RuleVotes,
    SoftTarget,
    Teacher,
)
from torch import nn  # noqa: E402

QUICK = {"epochs": 8, "module__hidden": (16,), "lr": 0.01, "random_state": 0}


def make_data(seed=0, n=400, n_val=80, noise=0.4):
    """Three Gaussian classes, labels of which a share is redrawn, and two teachers that are right on one part each."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + n_val, 6))
    y = (X[:, :3] + 0.3 * rng.normal(size=(n + n_val, 3))).argmax(axis=1)
    labels = np.where(rng.random(n) < noise, rng.integers(0, 3, n), y[:n])
    right = X[:n, 5] > 0
    truth, wrong = np.eye(3)[y[:n]], np.eye(3)[(y[:n] + 1) % 3]
    one, two = (np.where(part[:, None], truth, wrong) * 4 for part in (right, ~right))
    return {
        "X": X[:n], "y": labels, "clean": labels == y[:n], "right": right, "logits": (one, two),
        "aux": [Teacher(one, name="one"), Teacher(two, name="two")],
        "X_val": X[n:], "y_val": y[n:],
    }  # fmt: skip


def fit(data, **parameters):
    model = AMALClassifier(**(QUICK | parameters))
    return model.fit(data["X"], data["y"], data["aux"], data["X_val"], data["y_val"])


@pytest.fixture(scope="module")
def data():
    return make_data()


# --- scikit-learn's contract ------------------------------------------------------------------------


def known_failures(estimator):
    return {
        "check_classifiers_classes": "-1 marks unlabelled records, as in scikit-learn's semi-supervised methods",
        "check_sample_weight_equivalence_on_dense_data": "minibatches are random, a weight is no number of copies",
        "check_sample_weight_equivalence_on_sparse_data": "minibatches are random, a weight is no number of copies",
    }


@parametrize_with_checks(
    [
        AMALClassifier(epochs=25, lr=0.02, weight_decay=0.0, random_state=0),
        AMALClassifier("linear", epochs=25, lr=0.02, weight_decay=0.0, random_state=0),
    ],
    expected_failed_checks=known_failures,
)
def test_scikit_learn_takes_it_as_its_own(estimator, check, in_single_precision):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "more than 95%")
        check(estimator)


def test_predictions_of_a_part_are_those_of_the_whole(data):
    model = fit(data)
    whole, part = model.decision_function(data["X"]), model.decision_function(data["X"][:7])
    np.testing.assert_allclose(whole[:7], part, rtol=1e-5, atol=1e-5)


# --- what the weights learn -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"simplex": True},
        {"meta": "full"},
        {"meta": "implicit"},
        {"lookahead": 0.0},
        {"meta": "full", "lookahead": 0.0},
        {"optimizer": "sgd", "lr": 0.1, "optimizer__momentum": 0.9},
        {"module": "linear"},
        {"module": "linear", "meta": "implicit"},
        {"module": "linear", "lookahead": 0.0, "optimizer": "sgd", "lr": 0.1},
    ],
    ids=str,
)
def test_right_teachers_and_right_labels_get_more_weight(parameters):
    """Pooled over three data sets: the ratio of the mean weights, and the area under the curve of the label's weight."""
    parameters = {"epochs": 15} | parameters
    if parameters.get("module") == "linear":
        parameters["module__hidden"] = None
    right, wrong, areas = [], [], []
    for seed in range(3):
        data = make_data(seed)
        model = AMALClassifier(**(QUICK | parameters))
        if parameters.get("module") == "linear":
            del model.module__hidden
        model.fit(data["X"], data["y"], data["aux"], data["X_val"], data["y_val"])
        one = data["right"]
        right += [model.lambda_[one, 1].mean(), model.lambda_[~one, 2].mean()]
        wrong += [model.lambda_[~one, 1].mean(), model.lambda_[one, 2].mean()]
        areas.append(model.lambda_auc(data["clean"]))
    assert np.mean(right) > 1.5 * np.mean(wrong)
    assert np.mean(areas) > 0.65


def test_it_beats_equal_weights_where_teachers_conflict():
    gains = []
    for seed in range(5):
        data = make_data(seed)
        X, y = (
            make_data(seed + 100, n_val=1000)["X_val"],
            make_data(seed + 100, n_val=1000)["y_val"],
        )
        scores = [fit(data, epochs=20, lambda_lr=rate).score(X, y) for rate in (0.1, 0.0)]
        gains.append(scores[0] - scores[1])
    assert np.mean(gains) > 2 * np.std(gains, ddof=1) / np.sqrt(len(gains))
    assert np.mean(gains) > 0.03


def test_without_steps_the_fit_is_the_fixed_mixture_bit_for_bit(data):
    fixed = fit(data, lambda_lr=0.0)
    for parameters in ({"update_every": 9}, {"warmup": 8}):
        np.testing.assert_array_equal(
            fit(data, **parameters).decision_function(data["X"]), fixed.decision_function(data["X"])
        )
    assert (
        np.abs(fit(data).decision_function(data["X"]) - fixed.decision_function(data["X"])).max()
        > 1e-3
    )
    assert len(fixed.val_loss_path_) == 0
    assert np.isnan(fixed.alignment_).all()


def test_one_loss_with_weight_one_is_plain_training(data):
    """The same seed, the same records, the same numbers as the base's classifier."""
    parameters = QUICK | {"weight_decay": 0.0}
    plain = NetClassifier(**parameters).fit(data["X"], data["y"])
    mixed = AMALClassifier(**parameters, lambda_lr=0, lambda_init=1.0).fit(
        data["X"], data["y"], X_val=data["X_val"], y_val=data["y_val"]
    )
    np.testing.assert_allclose(
        mixed.decision_function(data["X"]), plain._outputs(data["X"]), rtol=1e-4, atol=1e-5
    )


def test_the_linear_path_is_the_network_without_torch(data):
    """One full batch an epoch from zero weights: the same steps, the same weights of the losses."""

    def from_zero(n_inputs, n_outputs):
        module = MLP(n_inputs, n_outputs, hidden=())
        nn.init.zeros_(module.layers[-1].weight)
        nn.init.zeros_(module.layers[-1].bias)
        return module

    for optimizer in (
        {"optimizer": "adam", "lr": 0.02},
        {"optimizer": "adamw", "lr": 0.02, "weight_decay": 0.1},
        {"optimizer": "sgd", "lr": 0.1, "optimizer__momentum": 0.9, "optimizer__nesterov": True},
        {"optimizer": "sgd", "lr": 0.1, "meta": "implicit", "lr_schedule": "cosine"},
    ):
        shared = optimizer | {"batch_size": 400, "epochs": 10, "random_state": 0}
        aux = [*data["aux"], Entropy()]
        arguments = (data["X"].astype(np.float32), data["y"], aux, data["X_val"], data["y_val"])
        numpy = AMALClassifier("linear", **shared).fit(*arguments)
        network = AMALClassifier(from_zero, **shared).fit(*arguments)
        np.testing.assert_allclose(numpy.lambda_, network.lambda_, atol=2e-4)
        np.testing.assert_allclose(
            numpy.coef_, network.module_.layers[-1].weight.detach(), atol=2e-4
        )
        np.testing.assert_allclose(numpy.loss_curve_, network.loss_curve_, rtol=1e-4)
        np.testing.assert_allclose(numpy.val_loss_path_, network.val_loss_path_, rtol=1e-4)


def test_a_linear_model_takes_sparse_data_and_needs_no_torch_loop(data):
    X, X_val = np.maximum(data["X"], 0), np.maximum(data["X_val"], 0)
    arguments = (data["y"], data["aux"])
    model = AMALClassifier("linear", epochs=5, random_state=0)
    dense = clone(model).fit(X, *arguments, X_val, data["y_val"])
    sparse = clone(model).fit(sp.csr_array(X), *arguments, sp.csr_array(X_val), data["y_val"])
    np.testing.assert_allclose(sparse.lambda_, dense.lambda_, rtol=1e-8)
    np.testing.assert_allclose(sparse.predict_proba(sp.csr_array(X)), dense.predict_proba(X))


def test_the_numpy_path_runs_where_there_is_no_torch():
    code = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "skorch", "safetensors"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoTorch())
import numpy as np
from statml.adapters.loss_mixing.auxiliary import SoftTarget, Teacher, bind_losses
from statml.adapters.loss_mixing.linear import fit_linear
from statml.adapters.loss_mixing.mixing_weights import MixingWeights, check_init
from statml.adapters.loss_mixing.plan import Plan, Trace, learning_rate
from statml.adapters import DistillationLoss, RuleVotes, head_meta_gradient
rng = np.random.default_rng(0)
X = rng.normal(size=(60, 2)); y = (X[:, 0] > 0).astype(int)
losses = bind_losses(y, [Teacher(np.c_[-X[:, 0], X[:, 0]])], np.arange(2), X, 2.0)
mask = losses.mask.copy(); mask[40:] = False
mixing, trace = MixingWeights(mask, check_init(0.5, mask, 60), None, (1e-4, 2), False), Trace(y, 2)
plan = Plan(0.1, "rms", 1, 1, 1.0, "implicit", 0.0, 16, 0.1, 0.01, learning_rate("cosine"), 6, 0)
coef, _, curve = fit_linear(X, y, losses, mixing, trace, plan, np.arange(40), np.arange(40, 60))
assert coef[1, 0] > coef[0, 0] and curve[-1] < curve[0] and len(trace.val_losses) == 5
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_go_with_the_record_whatever_the_order():
    """Shuffle the records of a run in one batch: each keeps its weights."""
    data = make_data(3, n=100)
    order = np.random.default_rng(0).permutation(100)
    one, two = data["logits"]
    arguments = {"X_val": data["X_val"], "y_val": data["y_val"]}
    model = AMALClassifier("linear", epochs=8, batch_size=100, random_state=0)
    first = clone(model).fit(data["X"], data["y"], [Teacher(one), Teacher(two)], **arguments)
    second = clone(model).fit(
        data["X"][order], data["y"][order], [Teacher(one[order]), Teacher(two[order])], **arguments
    )
    np.testing.assert_allclose(second.lambda_, first.lambda_[order], rtol=1e-6)
    assert first.lambda_.std() > 0.05


def test_unlabelled_records_and_records_without_a_loss(data):
    y = data["y"].copy()
    y[:200] = -1
    mask = np.arange(400) % 4 > 0
    aux = [SoftTarget(np.eye(3)[data["y"]], mask)]
    model = AMALClassifier(**QUICK).fit(data["X"], y, aux, data["X_val"], data["y_val"])
    nothing = (y == -1) & ~mask
    assert (model.lambda_[:200][~nothing[:200], 0] == 0).all()
    assert np.isnan(model.lambda_[nothing]).all()
    assert not np.isnan(model.lambda_[~nothing]).any()
    assert (model.lambda_[~mask & (y != -1), 1] == 0).all()
    assert (model.loss_mask_ == np.c_[y != -1, mask]).all()
    other = data["X"].copy()
    other[nothing] = 99.0
    same = AMALClassifier(**QUICK).fit(other, y, aux, data["X_val"], data["y_val"])
    np.testing.assert_array_equal(
        same.decision_function(data["X"]), model.decision_function(data["X"])
    )


def test_no_label_at_all_but_those_for_validation(data):
    y = np.full(400, -1)
    model = AMALClassifier(**QUICK).fit(
        data["X"], y, [RuleVotes(data["y"][:, None])], data["X_val"], data["y_val"]
    )
    assert model.score(data["X_val"], data["y_val"]) > 0.6
    assert model.loss_names_ == ["ce", "rules"]


def test_labels_of_any_kind(data):
    names = np.array(["a", "b", "c"])
    model = AMALClassifier(**QUICK).fit(
        pd.DataFrame(data["X"]), names[data["y"]], data["aux"],
        pd.DataFrame(data["X_val"]), names[data["y_val"]],
    )  # fmt: skip
    same = fit(data)
    np.testing.assert_array_equal(model.lambda_, same.lambda_)
    assert (model.predict(data["X"]) == names[same.predict(data["X"])]).all()


# --- the other choices ------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", ["class", "loss", "label"])
def test_records_of_a_group_share_their_weights(data, groups):
    given = data["right"].astype(str) if groups == "label" else groups
    model = fit(data, lambda_groups=given, epochs=15)
    index = {"class": data["y"], "loss": np.zeros(400), "label": data["right"]}[groups]
    for g in np.unique(index):
        assert (model.lambda_[index == g].std(axis=0) < 1e-12).all()
    if groups == "label":  # each teacher is right in one of the groups
        one = model.lambda_[data["right"]][0]
        two = model.lambda_[~data["right"]][0]
        assert one[1] > 1.5 * one[2]
        assert two[2] > 1.5 * two[1]


def test_each_rule_can_have_a_weight_of_its_own():
    """WISDOM as a special case: of four rules two are right, and come out ahead."""
    rng = np.random.default_rng(0)
    data = make_data(5, noise=0.0)
    votes = np.full((400, 4), -1)
    for j in range(4):
        fires = rng.random(400) < 0.5
        votes[fires, j] = (data["y"][fires] + (j % 2)) % 3
    model = AMALClassifier(**(QUICK | {"epochs": 15}), lambda_groups="loss").fit(
        data["X"],
        np.full(400, -1),
        [RuleVotes(votes, aggregate=False)],
        data["X_val"],
        data["y_val"],
    )
    weights = np.array([model.lambda_[model.loss_mask_[:, k], k].mean() for k in range(1, 5)])
    assert weights[[0, 2]].min() > 1.5 * weights[[1, 3]].max()


def test_on_the_simplex_the_weights_of_a_record_sum_to_one(data):
    model = fit(data, simplex=True)
    np.testing.assert_allclose(model.lambda_.sum(axis=1), 1)
    assert model.lambda_.min() >= 0


def test_rms_steps_do_not_depend_on_the_scale_and_raw_ones_do(data):
    """A linear model in one batch, without look-ahead: the first step at half the learning rate."""
    shared = {"batch_size": 400, "epochs": 3, "warmup": 2, "optimizer": "sgd", "random_state": 0}
    shared |= {"module": "linear", "lookahead": 0.0, "weight_decay": 0.0}
    arguments = (data["X"], data["y"], data["aux"], data["X_val"], data["y_val"])

    def moves(factor, **parameters):
        # the same two steps first, then another rate
        def schedule(done):
            return 1.0 if done < 0.5 else factor

        model = AMALClassifier(**shared, lr=0.1, lr_schedule=schedule, **parameters)
        return model.fit(*arguments).lambda_ - 0.5

    np.testing.assert_allclose(moves(1.0), moves(0.5), rtol=1e-10)
    raw = {"lambda_update": "raw", "lambda_lr": 10.0}
    np.testing.assert_allclose(moves(1.0, **raw), 2 * moves(0.5, **raw), rtol=1e-10)


def test_large_raw_steps_with_a_long_look_ahead_overshoot_and_rms_steps_do_not():
    """Specialists, clean labels, weights from .1/.9/.9, five raw steps of 1500 at once: wrong teachers go to the bound too."""
    ratios = {"raw": [], "rms": []}
    start = {
        "epochs": 40, "optimizer": "sgd", "lr": 0.1, "optimizer__momentum": 0.9, "weight_decay": 5e-4,
        "lambda_init": [0.1, 0.9, 0.9],
    }  # fmt: skip
    raw = {
        "lambda_update": "raw",
        "lambda_lr": 7500,
        "lookahead": 15,
        "update_every": 5,
        "warmup": 5,
    }
    at_bound = []
    for seed in range(3):
        data = make_data(seed, noise=0.0)
        one = data["right"]
        for name, parameters in (("raw", raw), ("rms", {})):
            model = fit(data, **start, **parameters)
            right = model.lambda_[one, 1].sum() + model.lambda_[~one, 2].sum()
            ratios[name].append(
                right / (model.lambda_[one, 2].sum() + model.lambda_[~one, 1].sum())
            )
            if name == "raw":
                at_bound.append(model.lambda_[~one, 1] > 1.999)
    assert np.mean(ratios["rms"]) > 2 * np.mean(ratios["raw"])
    assert np.mean(np.concatenate(at_bound)) > 0.2


def test_a_collapse_of_all_weights_is_said(data):
    """Validation labels that are coded otherwise: every training label pulls against them."""
    model = AMALClassifier(**QUICK, lambda_groups="loss", lambda_lr=0.5)
    with pytest.warns(UserWarning, match="more than 95% of the weights of 'ce' are at the lower"):
        model.fit(data["X"], data["y"], None, data["X_val"], (data["y_val"] + 1) % 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(data)


def test_weights_go_on_from_an_earlier_fit(data):
    first = fit(data)
    second = fit(data, lambda_init=first.lambda_, lambda_lr=0.0)
    np.testing.assert_allclose(second.lambda_, first.lambda_)


def test_teachers_are_dropped_at_random(data):
    one, two, none = (
        fit(data, lambda_lr=0.0, teacher_dropout=p).decision_function(data["X"])
        for p in (0.5, 0.5, 0.0)
    )
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - none).max() > 1e-3


def test_sample_weight_multiplies_the_losses_of_a_record(data):
    arguments = {"aux": data["aux"], "X_val": data["X_val"], "y_val": data["y_val"]}
    model = AMALClassifier(**QUICK)
    plain = clone(model).fit(data["X"], data["y"], **arguments)
    same = clone(model).fit(data["X"], data["y"], **arguments, sample_weight=np.full(400, 3.0))
    np.testing.assert_allclose(same.lambda_, plain.lambda_, atol=1e-5)
    weight = np.where(np.arange(400) < 200, 1.0, 0.0)
    half = clone(model).fit(data["X"], data["y"], **arguments, sample_weight=weight)
    other = data["y"].copy()
    other[200:] = 0  # what has no weight is not learned from
    again = clone(model).fit(data["X"], other, **arguments, sample_weight=weight)
    np.testing.assert_allclose(
        half.decision_function(data["X"]), again.decision_function(data["X"]), atol=1e-5
    )


# --- validation -------------------------------------------------------------------------------------


def test_a_share_is_set_aside_from_every_class_and_is_not_trained_on():
    X, y = load_iris(return_X_y=True)
    y = np.where(np.arange(150) % 3 == 0, -1, y)
    model = AMALClassifier(**QUICK, validation=0.2).fit(X, y, [Entropy()])
    val = model.validation_indices_
    assert np.bincount(y[val]).tolist() == [7, 7, 7]
    assert (y[val] >= 0).all()
    assert np.isnan(model.lambda_[val]).all()
    assert not np.isnan(np.delete(model.lambda_, val, axis=0)).any()


def test_cross_fitted_weights_come_from_the_labels_of_other_folds(data):
    """Each record's weights are the mean over the trainings that it was not set aside in; then all are trained on."""
    model = AMALClassifier(**QUICK, validation=3).fit(data["X"], data["y"], data["aux"])
    assert model.lambda_.shape == (400, 3)
    assert not np.isnan(model.lambda_).any()
    assert len(model.validation_indices_) == 0
    assert np.isnan(model.val_loss_)
    assert model.score(data["X_val"], data["y_val"]) > 0.7
    assert model.n_iter_ == 8
    assert model.lambda_path_.shape == (6, 4, 3)


def test_refit_trains_on_the_validation_records_with_the_weights_found(data):
    first, second = fit(data), fit(data, refit_with_validation=True)
    np.testing.assert_array_equal(first.lambda_, second.lambda_)
    assert np.isnan(second.val_loss_)
    assert second._mean_loss(data["X_val"], data["y_val"]) < first.val_loss_
    inside = AMALClassifier(**QUICK, refit_with_validation=True).fit(
        data["X"], data["y"], data["aux"]
    )
    assert len(inside.validation_indices_) == 40


def test_the_gap_between_fresh_and_validation_data(data):
    model = fit(data)
    fresh = make_data(9)
    gap = model.validation_gap(fresh["X_val"], fresh["y_val"])
    assert gap == pytest.approx(model._mean_loss(fresh["X_val"], fresh["y_val"]) - model.val_loss_)
    assert model.validation_gap(data["X_val"], data["y_val"]) == pytest.approx(0)
    with pytest.raises(ValueError, match="classes that were not seen"):
        model.validation_gap(fresh["X_val"], fresh["y_val"] + 5)


# --- files, checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["mlp", "linear"])
def test_what_is_saved_comes_back(data, tmp_path, module):
    parameters = {} if module == "mlp" else {"module": "linear"}
    model = AMALClassifier(
        **({k: v for k, v in QUICK.items() if module == "mlp" or "hidden" not in k} | parameters)
    )
    model.fit(data["X"], data["y"], data["aux"], data["X_val"], data["y_val"])
    model.comparison_ = model.diagnostics()  # a table with names, as `compare` leaves one
    model.save(tmp_path / "model.safetensors")
    before = torch.get_rng_state()
    other = AMALClassifier.load(tmp_path / "model.safetensors")
    assert torch.equal(before, torch.get_rng_state())
    pd.testing.assert_frame_equal(other.comparison_, model.comparison_)
    np.testing.assert_array_equal(
        other.decision_function(data["X"]), model.decision_function(data["X"])
    )
    np.testing.assert_array_equal(other.lambda_, model.lambda_)
    np.testing.assert_array_equal(other.lambda_path_, model.lambda_path_)
    assert other.loss_names_ == model.loss_names_
    assert other.summary().as_text() == model.summary().as_text()
    LambdaPathDisplay.from_estimator(other)


def test_validation_data_do_not_go_into_the_file(data, tmp_path):
    model = AMALClassifier(**QUICK, validation=(data["X_val"], data["y_val"]))
    model.fit(data["X"], data["y"], data["aux"])
    same = fit(data)
    np.testing.assert_array_equal(model.lambda_, same.lambda_)
    model.save(tmp_path / "a.safetensors")
    same.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size == (
        tmp_path / "b.safetensors"
    ).stat().st_size
    assert model.validation[0] is data["X_val"]


def test_a_teacher_fitted_on_a_frame_is_asked_with_a_frame(data):
    frame, frame_val = (pd.DataFrame(X, columns=list("abcdef")) for X in (data["X"], data["X_val"]))
    teacher = LogisticRegression().fit(frame, data["y"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = AMALClassifier(**QUICK)
        model.fit(frame, data["y"], [Teacher(teacher)], frame_val, data["y_val"])
        table = model.compare(
            frame, data["y"], [Teacher(teacher)], X_test=frame_val, y_test=data["y_val"],
            n_boot=10,
        )  # fmt: skip
    logits = np.log(teacher.predict_proba(frame))
    same = AMALClassifier(**QUICK).fit(
        data["X"], data["y"], [Teacher(logits)], data["X_val"], data["y_val"]
    )
    np.testing.assert_allclose(model.lambda_, same.lambda_, atol=1e-5)
    assert "teachers dropped" not in " ".join(table.index)


class Interruption(RuntimeError):
    """Stands for a killed process."""


@pytest.mark.parametrize("parameters", [{}, {"meta": "full"}, {"teacher_dropout": 0.3}], ids=str)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(data, tmp_path, monkeypatch, parameters):
    from statml.adapters.loss_mixing.training import MetaStep

    whole = fit(data, **parameters)
    step, count = MetaStep.on_epoch_begin, []

    def stopped(self, net, **kwargs):
        count.append(1)
        if len(count) == 6:
            raise Interruption
        step(self, net, **kwargs)

    monkeypatch.setattr(MetaStep, "on_epoch_begin", stopped)
    with pytest.raises(Interruption):
        fit(data, **parameters, checkpoint_dir=tmp_path)
    monkeypatch.setattr(MetaStep, "on_epoch_begin", step)
    resumed = fit(data, **parameters, checkpoint_dir=tmp_path)
    np.testing.assert_array_equal(resumed.lambda_, whole.lambda_)
    np.testing.assert_array_equal(resumed.lambda_path_, whole.lambda_path_)
    np.testing.assert_array_equal(resumed.alignment_, whole.alignment_)
    np.testing.assert_array_equal(
        resumed.decision_function(data["X"]), whole.decision_function(data["X"])
    )
    assert resumed.loss_curve_ == whole.loss_curve_


def test_the_checkpoint_of_other_losses_or_other_validation_data_is_refused(data, tmp_path):
    fit(data, checkpoint_dir=tmp_path)
    other = data | {"aux": data["aux"][::-1]}
    with pytest.raises(ValueError, match="holds another run"):
        fit(other, checkpoint_dir=tmp_path)
    other = data | {"X_val": data["X_val"] + 1}
    with pytest.raises(ValueError, match="holds another run"):
        fit(other, checkpoint_dir=tmp_path)
    longer = fit(data, checkpoint_dir=tmp_path, epochs=10)
    np.testing.assert_array_equal(longer.lambda_, fit(data, epochs=10).lambda_)


def test_every_stage_has_a_checkpoint_of_its_own(data, tmp_path):
    whole = fit(data, refit_with_validation=True)
    kept = fit(data, refit_with_validation=True, checkpoint_dir=tmp_path)
    again = fit(data, refit_with_validation=True, checkpoint_dir=tmp_path)
    for model in (kept, again):
        np.testing.assert_array_equal(
            model.decision_function(data["X"]), whole.decision_function(data["X"])
        )


def test_the_state_of_torch_and_the_running_statistics_stay_as_they_were(data):
    """Dropout and normalisation: the meta-steps see neither the one nor touch the other."""

    def factory(n_inputs, n_outputs):
        return nn.Sequential(
            nn.Linear(n_inputs, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(8, n_outputs),
        )

    parameters = {k: v for k, v in QUICK.items() if k != "module__hidden"} | {"module": factory}
    before = torch.get_rng_state()
    models = []
    for meta in ("head", "full"):  # rate so small that only the sweep itself could matter
        model = AMALClassifier(**parameters, meta=meta, lambda_lr=1e-300)
        models.append(model.fit(data["X"], data["y"], data["aux"], data["X_val"], data["y_val"]))
    fixed = AMALClassifier(**parameters, lambda_lr=0.0).fit(
        data["X"], data["y"], data["aux"], data["X_val"], data["y_val"]
    )
    for model in models:
        assert len(model.val_loss_path_) == 5
        for one, two in zip(
            model.module_.state_dict().values(), fixed.module_.state_dict().values(), strict=True
        ):
            assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())


def test_mixed_precision_through_accelerate(data):
    pytest.importorskip("accelerate")
    from accelerate.state import AcceleratorState

    try:
        model = fit(data, accelerate={"mixed_precision": "bf16", "cpu": True})
        plain = fit(data)
        assert np.corrcoef(model.lambda_[:, 0], plain.lambda_[:, 0])[0, 1] > 0.8
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


# --- reports ----------------------------------------------------------------------------------------


def test_diagnostics_and_summary(data):
    model = fit(data)
    table = model.diagnostics()
    assert list(table.index) == ["ce", "one", "two"]
    lam = model.lambda_[:, 1]
    assert table.loc["one", "n_effective"] == pytest.approx(lam.sum() ** 2 / (lam**2).sum())
    assert table.loc["one", "mean_weight"] == pytest.approx(lam.mean())
    assert table.loc["one", "pulls_along"] == pytest.approx((model.alignment_[:, 1] > 0).mean())
    text = model.summary().as_text()
    for fact in (r"losses: +3\b", r"epochs: +8\b", r"steps of the weights: +5\b"):
        assert re.search(fact, text)
    np.testing.assert_allclose(np.sqrt(np.mean(model.alignment_**2)), 1)
    assert model.lambda_auc(data["right"], "one") > 0.6
    with pytest.raises(ValueError, match='loss must be "ce", "one" or "two", got \'three\''):
        model.lambda_auc(data["right"], "three")
    with pytest.raises(ValueError, match="clean must hold both True and False"):
        model.lambda_auc(np.ones(400, bool))


def test_the_comparison_has_the_honest_rows(data):
    fresh = make_data(11, n_val=500)
    model = AMALClassifier(**QUICK)
    table = model.compare(
        data["X"], data["y"], data["aux"], data["X_val"], data["y_val"],
        X_test=fresh["X_val"], y_test=fresh["y_val"], n_boot=50,
    )  # fmt: skip
    assert list(table.index) == [
        "cross-entropy", "fixed mixture", "fixed mixture, teachers dropped", "AMAL", "AMAL + V",
        "supervised, L + V",
    ]  # fmt: skip
    assert (table["conf_low"] <= table["score"]).all()
    assert (table["score"] <= table["conf_high"]).all()
    np.testing.assert_allclose(table["difference"], table["score"] - table.loc["AMAL", "score"])
    both = np.concatenate([data["y"], data["y_val"]])
    stacked = np.vstack([data["X"], data["X_val"]])
    expected = LogisticRegression().fit(stacked, both).score(fresh["X_val"], fresh["y_val"])
    assert abs(table.loc["supervised, L + V", "score"] - expected) < 0.1
    fit_too = fit(data)
    fit_too.comparison_ = table
    assert "supervised, L + V" in fit_too.summary().as_text()
    with pytest.raises(ValueError, match='metric must be "accuracy", '):
        model.compare(data["X"], data["y"], X_test=1, y_test=1, metric="auc")


class CountingAdam(torch.optim.Adam):
    """Notes how many steps each training took."""

    taken: ClassVar[list[int]] = []

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.place = len(self.taken)
        self.taken.append(0)

    def step(self, *args, **kwargs):
        self.taken[self.place] += 1
        return super().step(*args, **kwargs)


@pytest.mark.parametrize(("labelled", "epochs"), [(40, 32), (200, 16), (0, 32)])
def test_plain_trainings_of_the_comparison_take_as_many_steps(data, labelled, epochs):
    """400 records in batches of 128 are 4 steps an epoch; the labelled ones, with 80 for validation or without, are 1, or 2 and 3."""
    y = np.where(np.arange(400) < labelled, data["y"], -1)
    model = AMALClassifier(**QUICK | {"optimizer": CountingAdam})
    CountingAdam.taken.clear()
    table = model.compare(
        data["X"], y, data["aux"], data["X_val"], data["y_val"],
        X_test=data["X_val"], y_test=data["y_val"], n_boot=5,
    )  # fmt: skip
    assert table.loc["AMAL", "epochs"] == 8
    with_v = round(32 / np.ceil((labelled + 80) / 128))
    assert table.loc["supervised, L + V", "epochs"] == with_v
    steps = [n for n in CountingAdam.taken if n]  # one only counts the losses
    if labelled:
        assert table.loc["cross-entropy", "epochs"] == epochs
    else:
        assert "cross-entropy" not in table.index
    if labelled == 200:  # 2 batches in 16 epochs; 11 epochs of 3 batches, after 11 of 2 without V
        assert set(steps) == {32, 33, 22}
    else:
        assert set(steps) == {32}


def test_the_supervised_row_is_plain_training_on_both_sets_of_labels(data):
    """With no label but those for validation it is the fit of these alone, to the digit."""
    fresh = make_data(11, n_val=500)
    table = AMALClassifier(**QUICK).compare(
        data["X"], np.full(400, -1), data["aux"], data["X_val"], data["y_val"],
        X_test=fresh["X_val"], y_test=fresh["y_val"], n_boot=5,
    )  # fmt: skip
    seed = int(np.random.SeedSequence(0).generate_state(1)[0])
    alone = AMALClassifier(
        **QUICK | {"epochs": 32, "random_state": seed}, lambda_lr=0.0, lambda_init=1.0
    ).fit(data["X_val"], data["y_val"], None, data["X_val"], data["y_val"])
    assert table.loc["supervised, L + V", "score"] == alone.score(fresh["X_val"], fresh["y_val"])


def test_displays(data):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    model = fit(data)
    path = LambdaPathDisplay.from_estimator(model)
    np.testing.assert_allclose(path.curves["one"][-1], model.lambda_[:, 1].mean())
    assert list(path.epochs) == [0, 3, 4, 5, 6, 7]
    by_class = LambdaPathDisplay.from_estimator(model, by="class", loss="two")
    assert list(by_class.curves) == ["class 0", "class 1", "class 2"]
    np.testing.assert_allclose(
        by_class.curves["class 1"][-1], model.lambda_[data["y"] == 1, 2].mean()
    )
    histogram = LambdaHistogramDisplay.from_estimator(model, "one", data["right"])
    assert sum(patch.get_height() for patch in histogram.ax_.patches) == 400
    shown = AlignmentDisplay.from_estimator(model)
    assert len(shown.alignments["ce"]) == 400
    with pytest.raises(ValueError, match="took no step"):
        AlignmentDisplay.from_estimator(fit(data, lambda_lr=0.0))
    matplotlib.pyplot.close("all")


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lambda_update": "adam"}, "lambda_update must be"),
        ({"meta": "fast"}, "meta must be"),
        ({"lambda_bounds": (1, 0)}, "lambda_bounds"),
        ({"lambda_lr": -1}, "lambda_lr"),
        ({"update_every": 0}, "update_every"),
        ({"lambda_init": [1.0, 1.0]}, "lambda_init must be a number, one number for each of the 3"),
        ({"lambda_init": -1.0}, "lambda_init must hold finite numbers"),
        ({"lambda_groups": "rows"}, "lambda_groups must be"),
        ({"lambda_groups": np.zeros(3)}, "lambda_groups must be .* got shape"),
        ({"teacher_dropout": 1.0}, "teacher_dropout"),
        ({"lr_schedule": "step"}, "lr_schedule must be"),
        ({"temperature": 0}, "temperature"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_parameters_are_refused_by_name(data, parameters, message):
    with pytest.raises(ValueError, match=message):
        fit(data, **parameters)


def test_bad_data_are_refused_by_name(data):
    X, y, aux = data["X"], data["y"], data["aux"]
    model = AMALClassifier(**QUICK)
    with pytest.raises(ValueError, match="there are no validation data"):
        clone(model).set_params(validation=0).fit(X, y, aux)
    with pytest.raises(ValueError, match="there are no validation data"):
        clone(model).fit(
            X, np.full(400, -1) + 2 * (np.arange(400) < 1) + 1 * (np.arange(400) == 1), aux[:0]
        )
    with pytest.raises(ValueError, match="X_val and y_val go together"):
        clone(model).fit(X, y, aux, data["X_val"])
    with pytest.raises(ValueError, match="y_val must have one label for each"):
        clone(model).fit(X, y, aux, data["X_val"], data["y_val"][:3])
    with pytest.raises(ValueError, match="y_val must hold labels only"):
        clone(model).fit(X, y, aux, data["X_val"], np.full(80, -1))
    with pytest.raises(ValueError, match="one class only, 0.*-1 marks unlabelled"):
        clone(model).fit(X, np.where(np.arange(400) < 200, 0, -1), aux[:0])
    with pytest.raises(ValueError, match="NaN"):
        clone(model).fit(np.where(X > 2, np.nan, X), y, aux)
    with pytest.raises(ValueError, match="NaN"):
        clone(model).fit(X, y, aux, np.full((80, 6), np.nan), data["y_val"])
    with pytest.raises(ValueError, match=r"must return one loss a record.*a mean\?"):
        clone(model).fit(X, y, [lambda z, i: z.mean()])
    with pytest.raises(ValueError, match="no record is left"):
        clone(model).fit(X, np.full(400, -1), None, data["X_val"], data["y_val"])
    with pytest.raises(ValueError, match="folds need as many"):
        clone(model).set_params(validation=300).fit(X, y, aux)
    with pytest.raises(ValueError, match="Sample weights must contain at least one non-zero"):
        clone(model).fit(X, y, aux, sample_weight=np.zeros(400))
    with pytest.raises(TypeError, match="AMALClassifier has no parameter 'epoch'"):
        AMALClassifier("linear", epoch=3).fit(X, y)


def test_a_module_without_a_linear_end_is_told_what_to_do(data):
    def factory(n_inputs, n_outputs):
        return nn.Sequential(nn.Linear(n_inputs, n_outputs), nn.Hardtanh(-5, 5))

    parameters = {k: v for k, v in QUICK.items() if k != "module__hidden"}
    arguments = (data["X"], data["y"], data["aux"], data["X_val"], data["y_val"])
    with pytest.raises(ValueError, match='use meta="full" for this one'):
        AMALClassifier(factory, **parameters).fit(*arguments)
    model = AMALClassifier(factory, **parameters, meta="full").fit(*arguments)
    assert model.lambda_auc(data["right"], "one") > 0.6


def test_training_that_diverges_is_said_to():
    data = make_data()
    with pytest.raises(ValueError, match="diverged"):
        AMALClassifier("linear", optimizer="sgd", lr=1e200, epochs=5, random_state=0).fit(
            data["X"], data["y"], data["aux"], data["X_val"], data["y_val"]
        )


def test_intervals_of_the_comparison_cover_the_true_scores_and_differences():
    """Two classifiers with known accuracies whose errors coincide in part; 400 test sets of 300 records."""
    from statml.adapters.loss_mixing.report import _compared

    rng = np.random.default_rng(0)
    true = {"AMAL": 0.85, "other": 0.80}
    hits = []
    for seed in range(400):
        u = rng.random(300)
        shared = rng.random(300) < 0.7
        v = np.where(shared, u, rng.random(300))
        predictions = {
            "AMAL": (u > true["AMAL"]).astype(int),
            "other": (v > true["other"]).astype(int),
        }
        table = _compared(
            predictions, np.zeros(300, int), lambda y, p: float(np.mean(y == p)), 0.95, 200, seed
        )
        row = table.loc["other"]
        hits.append(
            [
                row["conf_low"] <= true["other"] <= row["conf_high"],
                row["difference_low"] <= -0.05 <= row["difference_high"],
            ]
        )
    coverage = np.mean(hits, axis=0)
    # percentile intervals of 200 draws lose about half a percent; 4 Monte-Carlo errors of 0.011
    assert (coverage > 0.945 - 4 * 0.011).all()
    assert (coverage < 0.995).all()
