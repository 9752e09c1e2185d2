"""AGRONet: the adversary's objective, two players with an optimizer each, slices, yardsticks, checkpoints, files."""

import pickle

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from statml.adapters.group_robust import AGRONet  # noqa: E402
from statml.adapters.group_robust.agro import predicted_worst_judge  # noqa: E402
from statml.adapters.group_robust.out_of_fold import aligned  # noqa: E402
from statml.adapters.group_robust.slicer import (  # noqa: E402
    Adversary,
    adversary_objective,
    slice_losses,
)

from statml.datasets import make_spurious_gaussians  # noqa: E402
from statml.group_robust.soft_slicer import LinearSlicer  # noqa: E402

QUICK = {
    "module__hidden": (16,),
    "epochs": 6,
    "lr": 0.01,
    "cv": 2,
    "slicer_epochs": 3,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def spurious():
    return make_spurious_gaussians(n=600, random_state=0)


# --- the adversary ---------------------------------------------------------------------------------------


def test_the_objective_is_that_of_the_linear_slicer_of_the_convex_core():
    """Same formula, written twice: value and gradient in the slices' logits."""
    rng = np.random.default_rng(0)
    n, m, d = 40, 3, 4
    Z, losses, v = rng.normal(size=(n, d)), rng.random(n), rng.random(m)
    linear = LinearSlicer(m, by_class=False, min_mass=0.4, marginal_reg=0.3, entropy_reg=0.2)
    W = rng.normal(size=(d, m))
    value, gradient = linear._downhill(W.ravel(), Z, np.ones((n, m), bool), losses, v)
    weights = torch.tensor(W, requires_grad=True)
    P = (torch.tensor(Z) @ weights).softmax(1)
    ours = adversary_objective(torch.tensor(losses), P, torch.tensor(v), 0.4, 0.2, 0.3)
    ours.backward()
    ridge = 1e-3  # the linear slicer's own
    assert ours.item() == pytest.approx(-value + ridge / 2 * (W**2).sum(), rel=1e-12)
    np.testing.assert_allclose(
        weights.grad.numpy().ravel(), -gradient + ridge * W.ravel(), rtol=1e-10, atol=1e-14
    )


def test_to_shrink_below_the_smallest_mass_gains_nothing():
    losses = torch.tensor([0.0, 0.0, 0.0, 4.0])
    few = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    fewer = few / 2
    assert slice_losses(losses, few, 0.25) > slice_losses(losses, fewer, 0.25)
    assert slice_losses(losses, few, 0.1).item() == slice_losses(losses, fewer, 0.1).item() == 4.0


def test_the_adversary_gathers_large_losses_in_one_slice_and_its_reverse_form_in_several():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(400, 3))
    losses = 0.2 + 2.0 * (Z[:, 0] > 1)
    lifts = {}
    for form in ("worst", "greedy-reverse"):
        torch.manual_seed(0)
        adversary = Adversary(Z, 4, lr=1e-2, form=form, min_mass=0.05)
        adversary.imitate(np.eye(4)[rng.integers(0, 4, 400)])
        start = adversary.membership(adversary.Z)
        assert (start.T @ losses / start.sum(axis=0)).max() < 1.5 * losses.mean()
        adversary.train(torch.tensor(losses, dtype=torch.float32), 30, 100, torch.Generator())
        P = adversary.membership(adversary.Z)
        lifts[form] = np.sort(P.T @ losses / np.maximum(P.sum(axis=0), 0.05 * 400) / losses.mean())
    assert lifts["worst"][-1] > 3
    assert (lifts["greedy-reverse"] > 1.5).sum() >= 2


def test_imitation_comes_near_to_what_it_is_given():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(300, 2))
    target = np.eye(3)[np.digitize(Z[:, 0], [-0.5, 0.5])]
    torch.manual_seed(0)
    adversary = Adversary(Z, 3)
    adversary.imitate(0.8 * target + 0.2 / 3)
    P = adversary.membership(adversary.Z)
    assert (P.argmax(axis=1) == target.argmax(axis=1)).mean() > 0.95


def test_rotated_features_are_turned_back_and_reflected_ones_too():
    rng = np.random.default_rng(0)
    F = rng.normal(size=(50, 6))
    Q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    for turn in (Q, Q * [-1, 1, 1, 1, 1, 1]):
        np.testing.assert_allclose(aligned(F @ turn + 3, F, np.arange(50) < 25), F, atol=1e-10)


# --- the judge -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [2, 4, 6])
def test_at_least_one_slice_is_judged(m):
    """int(0.2 m) is zero for m = 4; an empty merged slice would have accuracy zero whatever the network."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    yardstick = np.eye(m)[np.arange(60) % m]
    wrong = np.arange(60) % m == 1
    logits = 3.0 * np.eye(2)[np.where(wrong, 1 - y, y)]
    score, noted = predicted_worst_judge(y, yardstick, 0.2)(logits)
    assert score[0] == noted["predicted_worst"] == 0.0
    score, _ = predicted_worst_judge(y, yardstick, 0.2)(3.0 * np.eye(2)[y])
    assert score[0] == 1.0


# --- the game --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["two-stage", "alternate"])
@pytest.mark.parametrize("adversary", ["worst", "greedy-reverse"])
def test_all_schedules_and_adversaries_fit_and_tell_their_slices(spurious, schedule, adversary):
    model = AGRONet(**QUICK, schedule=schedule, adversary=adversary, init="confusion")
    model.fit(spurious.X, spurious.y)
    table = model.slices_
    assert table["mass"].sum() == pytest.approx(1)
    assert table["weight"].sum() == pytest.approx(1)
    P = model.slice_proba(spurious.X, spurious.y)
    assert P.shape == (600, len(table))
    np.testing.assert_allclose(P.sum(axis=1), 1)
    # the slices' losses, weighted by mass, are the mean out-of-fold loss: lifts average to one
    assert table["mass"] @ table["lift"] == pytest.approx(1)
    assert table["robust_loss"].notna().all()
    if schedule == "two-stage":
        assert (table["mass"] >= 0.02).all()
    assert (table["weight"] <= table["mass"] / 0.2 + 0.02).all() or schedule == "alternate"
    assert model.history_["predicted_worst"].between(0, 1).all()
    chosen = model.history_.query("selected")["predicted_worst"]
    assert chosen.iloc[0] == model.history_["predicted_worst"].max()
    assert model.n_val_ == pytest.approx(120, abs=1)


def test_the_frozen_player_does_not_move(spurious, monkeypatch):
    """Each has an optimizer: in stage two the slicer stays, weight decay and momentum or not."""
    from statml.adapters.group_robust import agro

    slicers = []
    find = AGRONet._find_slices

    def remembered(self, *args):
        adversary = find(self, *args)
        slicers.append({k: v.clone() for k, v in adversary.module.state_dict().items()})
        return adversary

    monkeypatch.setattr(agro.AGRONet, "_find_slices", remembered)
    for schedule in ("two-stage", "alternate"):
        model = AGRONet(**QUICK, schedule=schedule, weight_decay=0.1).fit(spurious.X, spurious.y)
        same = [
            torch.equal(value, model.slicer_.state_dict()[name])
            for name, value in slicers[-1].items()
        ]
        assert all(same) if schedule == "two-stage" else not any(same)


def test_the_classifier_starts_from_the_mean_loss_network(spurious):
    model = AGRONet(**{**QUICK, "lr": 0.0}, selection=None).fit(spurious.X, spurious.y)
    np.testing.assert_array_equal(
        model.predict_proba(spurious.X), model.erm_.predict_proba(spurious.X)
    )
    assert model.n_val_ == 0
    assert "predicted_worst" not in model.history_


def test_the_seed_fixes_everything_and_torchs_state_stays(spurious):
    before = torch.get_rng_state()
    fits = [
        AGRONet(**{**QUICK, "random_state": seed}).fit(spurious.X, spurious.y).slices_
        for seed in (0, 0, 1)
    ]
    pd.testing.assert_frame_equal(fits[0], fits[1])
    assert not fits[0]["robust_loss"].equals(fits[2]["robust_loss"])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_the_number_of_workers_does_not_matter(spurious):
    one, two = (AGRONet(**QUICK, n_jobs=n).fit(spurious.X, spurious.y) for n in (None, 2))
    np.testing.assert_array_equal(one.predict_proba(spurious.X), two.predict_proba(spurious.X))
    pd.testing.assert_frame_equal(one.slices_, two.slices_)


@pytest.mark.parametrize("schedule", ["two-stage", "alternate"])
def test_an_interrupted_run_goes_on_to_the_same_result(spurious, tmp_path, monkeypatch, schedule):
    from statml.adapters._net import Progress

    class Interrupted(Exception):
        pass

    parameters = {**QUICK, "schedule": schedule}
    whole = AGRONet(**parameters).fit(spurious.X, spurious.y)
    after, seen = Progress.on_epoch_end, []
    # in the mean-loss network, in the second fold's, in the classifier's training
    for stop in (4, 9, 14):

        def stopping(self, net, stop=stop, **kwargs):
            seen.append(1)
            if len(seen) == stop:
                raise Interrupted
            after(self, net, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "on_epoch_end", stopping)
            with pytest.raises(Interrupted):
                AGRONet(**parameters, checkpoint_dir=tmp_path).fit(spurious.X, spurious.y)
    rest = AGRONet(**parameters, checkpoint_dir=tmp_path).fit(spurious.X, spurious.y)
    np.testing.assert_array_equal(whole.predict_proba(spurious.X), rest.predict_proba(spurious.X))
    pd.testing.assert_frame_equal(whole.history_, rest.history_)
    pd.testing.assert_frame_equal(whole.slices_, rest.slices_)


@pytest.mark.parametrize("labels", ["numbers", "strings"])
def test_a_saved_network_and_a_pickled_one_slice_the_same(spurious, tmp_path, labels):
    y = spurious.y if labels == "numbers" else np.array(["no", "yes"])[spurious.y]
    model = AGRONet(**QUICK).fit(spurious.X, y)
    model.save(tmp_path / "model.safetensors")
    for again in (
        AGRONet.load(tmp_path / "model.safetensors"),
        pickle.loads(pickle.dumps(model)),
    ):
        np.testing.assert_array_equal(model.predict(spurious.X), again.predict(spurious.X))
        np.testing.assert_array_equal(
            model.slice_proba(spurious.X, y), again.slice_proba(spurious.X, y)
        )
        np.testing.assert_array_equal(
            model.erm_.predict_proba(spurious.X), again.erm_.predict_proba(spurious.X)
        )
        pd.testing.assert_frame_equal(model.slices_, again.slices_)
        pd.testing.assert_frame_equal(model.history_, again.history_)


# --- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_slices": 1}, "n_slices must be an integer >= 2"),
        ({"cv": 1}, "cv must be an integer >= 2"),
        ({"init": "kmeans"}, 'init must be "domino", "confusion" or "random"'),
        ({"schedule": "cutting-plane"}, 'schedule must be "two-stage" or "alternate"'),
        ({"adversary": "best"}, 'adversary must be "worst" or "greedy-reverse"'),
        ({"alpha": 0}, r"alpha must be a finite number in \(0, 1\]"),
        ({"min_mass": 1.0}, r"min_mass must be a finite number in \[0, 1\)"),
        ({"selection": "groups"}, 'selection must be "predicted-worst"'),
        ({"slicer_epochs": -1}, "slicer_epochs must be an integer >= 0"),
    ],
)
def test_unusable_parameters_are_refused_by_name(spurious, parameters, message):
    with pytest.raises(ValueError, match=message):
        AGRONet(**QUICK).set_params(**parameters).fit(spurious.X, spurious.y)


def test_labels_that_do_not_fit_are_refused(spurious):
    model = AGRONet(**QUICK).fit(spurious.X, spurious.y)
    with pytest.raises(ValueError, match="y holds the class 7"):
        model.slice_proba(spurious.X[:2], [0, 7])
    with pytest.raises(ValueError, match="one label for each of the 2 rows"):
        model.slice_proba(spurious.X[:2], [0])
    rare = np.where(np.arange(600) == 0, 5, spurious.y)
    with pytest.raises(ValueError, match="a class with too few records for cv=2"):
        AGRONet(**QUICK).fit(spurious.X, rare)
