"""GroupDRONet: the certified optimum, reweighting, early stopping, scikit-learn's contract, checkpoints, files."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

torch = pytest.importorskip("torch")

from statml.adapters.group_robust import AGRONet, GroupDRONet, JTTNet, LfFNet  # noqa: E402
from torch import nn  # noqa: E402

from statml.datasets import make_spurious_gaussians  # noqa: E402
from statml.group_robust import (  # noqa: E402
    GroupDROClassifier,
    make_worst_group_scorer,
    worst_group_score,
)
from statml.group_robust.simplex import greedy_weights  # noqa: E402

QUICK = {"module__hidden": (16,), "epochs": 8, "lr": 0.01, "random_state": 0}


@pytest.fixture(scope="module")
def spurious():
    return make_spurious_gaussians(n=1000, random_state=0)


def minibatches_are_random(estimator):
    why = "minibatches are random, a weight is no number of copies"
    return {
        "check_sample_weight_equivalence_on_dense_data": why,
        "check_sample_weight_equivalence_on_sparse_data": why,
    }


@parametrize_with_checks(
    [
        GroupDRONet(epochs=30, lr=0.02, random_state=0),
        GroupDRONet(epochs=20, lr=0.02, averaging=0.5, selection="worst-group", random_state=0),
        JTTNet(epochs=20, lr=0.02, upweight=2.0, random_state=0),
        LfFNet(epochs=30, lr=0.005, random_state=0),
        AGRONet(epochs=8, lr=0.03, cv=2, slicer_epochs=1, selection=None, random_state=0),
    ],
    expected_failed_checks=minibatches_are_random,
)
@pytest.mark.filterwarnings("ignore:no record is misclassified", "ignore:groups holds one label")
def test_scikit_learn_takes_it_as_its_own(estimator, check, in_single_precision):
    check(estimator)


# --- the optimum -----------------------------------------------------------------------------------------


class Linear(nn.Linear):
    """Two logits without intercepts: the ridge on both is half of that on their difference."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__(n_inputs, n_outputs, bias=False)


def linear_problem(spurious):
    return np.column_stack([spurious.X, np.ones(len(spurious.X))])


@pytest.mark.parametrize(("alpha", "soft"), [(None, False), (0.3, False), (None, True)])
def test_a_linear_module_comes_to_the_certified_optimum(spurious, alpha, soft):
    """Full batches: the averages of both players are within 1e-3 of the optimal objective (0.29 to 0.33)."""
    X, l2 = linear_problem(spurious), 0.05
    groups = {"groups": spurious.groups}
    if soft:
        P = pd.get_dummies(spurious.groups, dtype=float)
        groups = {"group_weights": 0.8 * P + 0.05}
    exact = GroupDROClassifier(l2=l2, fit_intercept=False, alpha=alpha).fit(X, spurious.y, **groups)
    net = GroupDRONet(
        Linear, epochs=1500, batch_size=1000, optimizer="sgd", lr=0.3, weight_decay=2 * l2,
        eg_step=0.2, balanced=False, averaging=0.5, alpha=alpha, random_state=0,
    ).fit(X, spurious.y, **groups)  # fmt: skip
    weights = net.module_.weight.detach().double().numpy()
    w = weights[1] - weights[0]
    worst = greedy_weights(net.group_losses_, exact._caps) @ net.group_losses_
    objective = worst + l2 / 2 * w @ w
    assert -1e-6 < objective - exact.objective_ < 1e-3
    assert np.abs(w - exact.coef_[0]).max() < 0.03
    assert net.group_sizes_ == pytest.approx(exact.group_sizes_)


def test_averages_over_minibatches_stay_within_the_bound_on_the_regret(spurious):
    """log m / (eta T), T the steps that are averaged, bounds what the group player can regret."""
    X, l2 = linear_problem(spurious), 0.05
    exact = GroupDROClassifier(l2=l2, fit_intercept=False).fit(
        X, spurious.y, groups=spurious.groups
    )
    epochs, step = 200, 0.05
    net = GroupDRONet(
        Linear, epochs=epochs, optimizer="sgd", lr=0.1, weight_decay=2 * l2, eg_step=step,
        averaging=0.5, random_state=0,
    ).fit(X, spurious.y, groups=spurious.groups)  # fmt: skip
    weights = net.module_.weight.detach().double().numpy()
    w = weights[1] - weights[0]
    gap = net.worst_group_loss_ + l2 / 2 * w @ w - exact.objective_
    assert -1e-6 < gap < np.log(4) / (step * epochs * 8 / 2)


def test_robust_training_serves_the_worst_group_better_than_plain_training():
    """Three draws pooled: about 0.6 against 0.85, with standard errors over draws of 0.02."""
    from statml.adapters import NetClassifier

    plain, robust = [], []
    for seed in range(3):
        train = make_spurious_gaussians(n=1000, random_state=seed)
        test = make_spurious_gaussians(n=4000, agreement=0.5, random_state=100 + seed)
        erm = NetClassifier(**QUICK).fit(train.X, train.y)
        dro = GroupDRONet(**QUICK).fit(train.X, train.y, groups=train.groups)
        for model, scores in ((erm, plain), (dro, robust)):
            scores.append(worst_group_score(test.y, model.predict(test.X), test.groups))
    assert np.mean(robust) > np.mean(plain) + 0.1


# --- groups ----------------------------------------------------------------------------------------------


def test_without_groups_classes_are_groups(spurious):
    model = GroupDRONet(**QUICK).fit(spurious.X, spurious.y)
    same = GroupDRONet(**QUICK).fit(spurious.X, spurious.y, groups=spurious.y)
    assert model.groups_.tolist() == [0, 1]
    np.testing.assert_array_equal(model.predict_proba(spurious.X), same.predict_proba(spurious.X))


def test_one_hot_memberships_give_the_same_network_as_labels(spurious):
    hot = pd.get_dummies(spurious.groups, dtype=float)
    for balanced in (True, False):
        model = GroupDRONet(**QUICK, balanced=balanced)
        hard = clone(model).fit(spurious.X, spurious.y, groups=spurious.groups)
        soft = clone(model).fit(spurious.X, spurious.y, group_weights=hot)
        assert hard.groups_.tolist() == soft.groups_.tolist()
        np.testing.assert_allclose(hard.group_losses_, soft.group_losses_, rtol=1e-4)
        np.testing.assert_allclose(
            hard.predict_proba(spurious.X), soft.predict_proba(spurious.X), atol=1e-4
        )


def test_a_step_of_zero_reweights_and_alpha_1_is_plain_training(spurious):
    from statml.adapters import NetClassifier

    reweighted = GroupDRONet(**QUICK, eg_step=0).fit(spurious.X, spurious.y, groups=spurious.groups)
    np.testing.assert_allclose(reweighted.group_weights_, 0.25)
    plain = NetClassifier(**{**QUICK, "batch_size": 1000}).fit(spurious.X, spurious.y)
    erm = GroupDRONet(**{**QUICK, "batch_size": 1000}, alpha=1.0, balanced=False)
    erm.fit(spurious.X, spurious.y, groups=spurious.groups)
    np.testing.assert_allclose(
        plain.predict_proba(spurious.X), erm.predict_proba(spurious.X), atol=1e-4
    )
    np.testing.assert_allclose(erm.group_weights_, erm.group_sizes_ / 1000, rtol=1e-5)


def test_the_adjustment_turns_to_small_groups(spurious):
    fits = [
        GroupDRONet(**QUICK, adjustment=C).fit(spurious.X, spurious.y, groups=spurious.groups)
        for C in (0.0, 5.0)
    ]
    small = fits[0].group_sizes_ < 100
    assert fits[1].group_weights_[small].sum() > fits[0].group_weights_[small].sum() + 0.1
    assert fits[1].group_losses_[small].max() < fits[0].group_losses_[small].max()


def test_weights_of_records_count_within_their_group(spurious):
    """Records of weight zero do not count: their labels may be wrong."""
    X, y, groups = spurious.X, spurious.y, spurious.groups
    spoiled = np.arange(len(y)) % 3 > 0
    labels, weight = np.where(spoiled, 1 - y, y), np.where(spoiled, 0.0, 2.0)
    for balanced in (True, False):
        model = GroupDRONet(**QUICK, balanced=balanced).fit(X, labels, groups, sample_weight=weight)
        assert (model.predict(X) == y).mean() > 0.75
        clean = group_losses_of(model, X, y, groups, ~spoiled)
        np.testing.assert_allclose(model.group_losses_, clean, rtol=1e-5)
        assert model.group_sizes_.sum() == (~spoiled).sum()
    heavier = GroupDRONet(**QUICK).fit(X, y, groups, sample_weight=np.full(len(y), 7.0))
    np.testing.assert_array_equal(
        heavier.predict_proba(X), GroupDRONet(**QUICK).fit(X, y, groups).predict_proba(X)
    )


def group_losses_of(model, X, y, groups, rows):
    p = model.predict_proba(X)[np.arange(len(y)), y]
    return [-np.log(p[rows & (groups == g)]).mean() for g in model.groups_]


# --- the choice of an epoch ------------------------------------------------------------------------------


def test_the_epoch_with_the_best_worst_group_is_kept(spurious):
    model = GroupDRONet(**{**QUICK, "epochs": 12}, selection="worst-group", validation_fraction=0.3)
    model.fit(spurious.X, spurious.y, groups=spurious.groups)
    worst = model.history_.groupby("epoch")["val_accuracy"].min()
    assert worst[model.best_epoch_] == worst.max()
    ties = model.history_.groupby("epoch")["val_loss"].max()[worst == worst.max()]
    assert ties[model.best_epoch_] == ties.min()
    assert model.history_["selected"].sum() == 4
    # the epoch that is kept is the network of a run that was stopped there
    early = clone(model).set_params(epochs=model.best_epoch_ + 1)
    early.fit(spurious.X, spurious.y, groups=spurious.groups)
    np.testing.assert_array_equal(model.predict_proba(spurious.X), early.predict_proba(spurious.X))
    np.testing.assert_allclose(
        model.group_weights_,
        model.history_.query("selected")["weight"]
        / model.history_.query("selected")["weight"].sum(),
        rtol=1e-6,
    )


def test_patience_ends_the_training(spurious):
    model = GroupDRONet(**{**QUICK, "epochs": 200}, selection="worst-group", patience=3)
    model.fit(spurious.X, spurious.y, groups=spurious.groups)
    assert model.n_iter_ == model.best_epoch_ + 1 + 3 < 200
    assert model.n_val_ == round(0.1 * len(spurious.y)) or abs(model.n_val_ - 100) <= 2


def test_held_out_records_take_no_part(spurious):
    model = GroupDRONet(**QUICK, selection="worst-group", validation_fraction=0.25)
    model.fit(spurious.X, spurious.y, groups=spurious.groups)
    assert model.group_sizes_.sum() + model.n_val_ == len(spurious.y)
    sizes = pd.Series(spurious.groups).value_counts().sort_index().to_numpy()
    np.testing.assert_allclose(model.group_sizes_ / sizes, 0.75, atol=0.03)


# --- scikit-learn ----------------------------------------------------------------------------------------


def test_groups_are_routed_through_a_pipeline_and_a_search(spurious):
    with config_context(enable_metadata_routing=True):
        net = GroupDRONet(**{**QUICK, "epochs": 3}).set_fit_request(groups=True)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), net),
            {"groupdronet__eg_step": [0.0, 0.05]},
            scoring=make_worst_group_scorer(),
            cv=2,
        ).fit(spurious.X, spurious.y, groups=spurious.groups)
    fitted = search.best_estimator_[-1]
    assert fitted.groups_.tolist() == sorted(set(spurious.groups))
    assert 0 < search.best_score_ <= 1


def test_the_same_seed_gives_the_same_network_and_torchs_state_stays(spurious):
    before = torch.get_rng_state()
    fits = [
        GroupDRONet(**{**QUICK, "random_state": seed}, selection="worst-group")
        .fit(spurious.X, spurious.y, groups=spurious.groups)
        .predict_proba(spurious.X)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert np.abs(fits[0] - fits[2]).max() > 1e-4
    assert torch.equal(before, torch.get_rng_state())


def test_mixed_precision_through_accelerate(spurious):
    pytest.importorskip("accelerate")
    model = GroupDRONet(**QUICK, accelerate={"mixed_precision": "bf16", "cpu": True})
    model.fit(spurious.X, spurious.y, groups=spurious.groups)
    assert model.worst_group_loss_ < 0.6
    assert model.history_["train_loss"].notna().all()
    pickle.loads(pickle.dumps(model)).predict(spurious.X)


# --- checkpoints and files -------------------------------------------------------------------------------

OPTIONS = [
    {},
    {"averaging": 0.6},
    {"selection": "worst-group", "averaging": 0.5},
    {"selection": "worst-group", "patience": 3, "epochs": 40},
    {"balanced": False, "alpha": 0.3, "module__dropout": 0.2},
]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("options", OPTIONS)
def test_an_interrupted_run_goes_on_to_the_same_result(spurious, tmp_path, monkeypatch, options):
    from statml.adapters._net import Progress

    parameters = {**QUICK, **options}
    fit = {"y": spurious.y, "groups": spurious.groups}
    whole = GroupDRONet(**parameters).fit(spurious.X, **fit)
    after = Progress.on_epoch_end
    for stop in (1, 2):

        def stopping(self, net, stop=stop, **kwargs):
            if len(net.history) == stop + 1:
                raise Interrupted
            after(self, net, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "on_epoch_end", stopping)
            with pytest.raises(Interrupted):
                GroupDRONet(**parameters, checkpoint_dir=tmp_path).fit(spurious.X, **fit)
    for _ in range(2):  # and a run that had ended stays as it is
        rest = GroupDRONet(**parameters, checkpoint_dir=tmp_path).fit(spurious.X, **fit)
        np.testing.assert_array_equal(
            whole.predict_proba(spurious.X), rest.predict_proba(spurious.X)
        )
        np.testing.assert_array_equal(whole.group_weights_, rest.group_weights_)
        assert rest.loss_curve_ == whole.loss_curve_
        pd.testing.assert_frame_equal(rest.history_, whole.history_)


def test_a_checkpoint_of_other_groups_is_refused(spurious, tmp_path):
    model = GroupDRONet(**QUICK, checkpoint_dir=tmp_path)
    model.fit(spurious.X, spurious.y, groups=spurious.groups)
    with pytest.raises(ValueError, match="holds another run"):
        model.fit(spurious.X, spurious.y, groups=spurious.attribute)


@pytest.mark.parametrize("labels", ["strings", "numbers"])
def test_a_saved_network_and_a_pickled_one_know_what_was_learnt(spurious, tmp_path, labels):
    groups = spurious.groups if labels == "strings" else spurious.attribute
    model = GroupDRONet(**QUICK, selection="worst-group").fit(spurious.X, spurious.y, groups=groups)
    model.save(tmp_path / "model.safetensors")
    for again in (
        GroupDRONet.load(tmp_path / "model.safetensors"),
        pickle.loads(pickle.dumps(model)),
    ):
        np.testing.assert_array_equal(
            model.predict_proba(spurious.X), again.predict_proba(spurious.X)
        )
        pd.testing.assert_frame_equal(model.history_, again.history_)
        assert again.groups_.tolist() == model.groups_.tolist()
        np.testing.assert_array_equal(again.group_weights_, model.group_weights_)
        assert again.best_epoch_ == model.best_epoch_
    assert len(pickle.dumps(model)) < 100_000  # the records are not in it


# --- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"eg_step": -1}, "eg_step must be a finite number >= 0"),
        ({"alpha": 0.0}, r"alpha must be a finite number in \(0, 1\]"),
        ({"adjustment": -1.0}, "adjustment must be a finite number >= 0"),
        ({"averaging": 1.5}, r"averaging must be a finite number in \[0, 1\]"),
        ({"selection": "best"}, 'selection must be "worst-group"'),
        ({"selection": "worst-group", "validation_fraction": 0.0}, "validation_fraction must be"),
        ({"patience": 3}, 'patience needs selection="worst-group"'),
        ({"selection": "worst-group", "patience": 0}, "patience must be an integer >= 1"),
    ],
)
def test_unusable_parameters_are_refused_by_name(spurious, parameters, message):
    with pytest.raises(ValueError, match=message):
        GroupDRONet(**QUICK).set_params(**parameters).fit(spurious.X, spurious.y)


def test_unusable_groups_are_refused_by_name(spurious):
    X, y = spurious.X, spurious.y
    model = GroupDRONet(**QUICK)
    with pytest.raises(ValueError, match="one label for each of the 1000 rows"):
        model.fit(X, y, groups=[1, 2])
    missing = np.where(np.arange(1000) < 3, np.nan, spurious.attribute)
    with pytest.raises(ValueError, match="groups must not hold missing labels, got 3"):
        model.fit(X, y, groups=missing)
    with pytest.raises(ValueError, match="give one"):
        model.fit(X, y, groups=y, group_weights=np.ones((1000, 2)))
    with pytest.raises(ValueError, match="are empty: 1"):
        model.fit(X, y, group_weights=np.column_stack([np.ones(1000), np.zeros(1000)]))
    with pytest.raises(ValueError, match="are empty: 1"):
        model.fit(X, y, groups=spurious.attribute, sample_weight=1.0 - spurious.attribute)
    with pytest.raises(ValueError, match="sample_weight leaves no row of class 1"):
        model.fit(X, y, sample_weight=1.0 - y)
    with pytest.raises(ValueError, match="finite memberships >= 0"):
        model.fit(X, y, group_weights=-np.ones((1000, 2)))
    with pytest.raises(ValueError, match="must not be negative"):
        model.fit(X, y, sample_weight=-np.ones(1000))


def test_groups_that_call_for_a_warning(spurious):
    X, y = spurious.X, spurious.y
    with pytest.warns(UserWarning, match="groups holds one label only"):
        GroupDRONet(**QUICK).fit(X, y, groups=np.zeros(1000))
    leaky = np.column_stack([X, 2 * y + spurious.attribute])
    with pytest.warns(UserWarning, match="the class can be read off"):
        GroupDRONet(**QUICK).fit(leaky, y, groups=spurious.groups)
    with pytest.raises(ValueError, match="the training has diverged"):
        GroupDRONet(**{**QUICK, "optimizer": "sgd", "lr": 1e20, "epochs": 20}).fit(X, y)


def test_a_group_of_one_record_stays_in_training(spurious):
    groups = np.where(np.arange(1000) == 17, 9, spurious.attribute)
    model = GroupDRONet(**QUICK, selection="worst-group").fit(spurious.X, spurious.y, groups=groups)
    assert model.group_sizes_[-1] == 1
    assert model.history_.query("group == 9")["val_accuracy"].isna().all()
