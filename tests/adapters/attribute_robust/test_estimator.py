"""`AttributeAdversarialClassifier`: what its training is equal to, its files and checkpoints, bad input."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import parametrize_with_checks
from statml.adapters import NetClassifier
from statml.adapters.attribute_robust import (
    AttributeAdversarialClassifier,
    AugMix,
    Custom,
    Hue,
    Noise,
    PixelShift,
    RandomConv,
    Rotation,
    Scale,
    Translate,
    search,
)
from torch import nn

RTS = [Rotation(30), Translate(0.15), Scale(0.8, 1.2)]


def drift(x, a):
    return x + a


def broken(x, a):
    return x + a.detach()


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(8 * 16, 10),
    )  # fmt: skip


def without_batch_statistics():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.1),
        nn.Linear(8 * 16, 10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = (X / 16).reshape(-1, 1, 8, 8).astype(np.float32)
    return X[:320], y[:320], X[1000:1320], y[1000:1320]


def make(attributes=RTS, **options):
    options = {"epochs": 4, "n_steps": 2, "random_state": 0, "warmup_epochs": 1} | options
    return AttributeAdversarialClassifier(convolutions, attributes, **options)


def same_weights(one, two):
    a, b = one.module_.state_dict(), two.module_.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@parametrize_with_checks(
    [
        AttributeAdversarialClassifier(
            attributes=[Custom(drift, -0.2, 0.2)], n_steps=1, epochs=20, lr=0.01, random_state=0
        )
    ],
    expected_failed_checks=lambda estimator: {
        f"check_sample_weight_equivalence_on_{kind}_data": "minibatches are random"
        for kind in ("dense", "sparse")
    },
)
def test_scikit_learn_takes_it_as_its_own(estimator, check):
    check(estimator)


def test_a_box_without_width_is_ordinary_training_bit_for_bit(digits):
    X, y, *_ = digits
    parameters = {"epochs": 3, "batch_size": 64, "lr": 2e-3, "random_state": 5}
    plain = NetClassifier(convolutions, **parameters).fit(X, y)
    point = [Rotation(0), Translate(0), Scale(1, 1), Noise(0.0, 0.0)]
    for attributes, objective in ((point, "adversarial"), (RTS, "none"), ([], "adversarial")):
        robust = AttributeAdversarialClassifier(
            convolutions, attributes, objective=objective, warmup_epochs=0, **parameters
        ).fit(X, y)
        assert same_weights(plain, robust)


def test_without_steps_it_is_random_augmentation_and_one_of_one_is_too(digits):
    X, y, *_ = digits
    models = [
        make(objective="random").fit(X, y),
        make(objective="adversarial", n_starts=1, n_steps=0).fit(X, y),
        make(objective="worst_of_k", n_starts=1).fit(X, y),
    ]
    assert same_weights(models[0], models[1])
    assert same_weights(models[0], models[2])
    assert not same_weights(models[0], make(n_steps=1).fit(X, y))


def test_training_searches_the_network_and_leaves_it_in_training_mode(digits, monkeypatch):
    # the loop as written down: the first half of each batch replaced by what a search of it finds
    from statml.adapters.attribute_robust import training

    X, y, *_ = digits
    seen = []

    def watched(objective, chain, x, box, **options):
        seen.append((x.shape, options))
        assert not model_parts[-1].training
        return search(objective, chain, x, box, **options)

    model_parts = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = convolutions()
            model_parts.append(self)

        def forward(self, x):
            return self.body(x)

    monkeypatch.setattr(training, "search", watched)
    model = AttributeAdversarialClassifier(
        Watched, RTS, epochs=2, warmup_epochs=1, n_starts=3, n_steps=1, batch_size=64
    ).fit(X, y)
    assert [shape[0] for shape, _ in seen] == [32] * 5
    assert seen[0][1]["n_starts"] == 3
    assert model.history_["start_loss"].isna().tolist() == [True, False]
    assert (model.history_["inner_loss"] >= model.history_["start_loss"])[1]
    assert 0 <= model.history_["box_hit_rate"][1] <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "adversarial"},
        {"objective": "explore", "beta_feature": 0.5, "beta_attribute": 0.5},
        {"objective": "ada", "beta_feature": 0.1},
        {"objective": "agat_code", "beta_feature": 5.0, "beta_attribute": 5.0},
        {"objective": "worst_of_k", "n_starts": 3},
        {"curriculum_epochs": 2},
        {"mode": "pool", "pool_every": 1, "pool_fraction": 0.5},
        {"attributes": [PixelShift(0.1, (1, 8, 8))], "step_size": 4.0},
        {"attributes": [RandomConv()], "objective": "random"},
        {"attributes": [AugMix(RTS)], "objective": "random"},
    ],
    ids=str,
)
def test_every_kind_of_training_learns_and_repeats_itself(digits, options):
    X, y, X_test, y_test = digits
    options = {"epochs": 12, "lr": 0.01, **options}
    model = make(**options).fit(X, y)
    # a tenth by chance; 320 records of ten classes learned from
    assert model.score(X_test, y_test) > 0.6
    assert same_weights(model, make(**options).fit(X, y))
    assert len(model.history_) == 12
    assert np.isfinite(model.history_["clean_loss"]).all()
    if options.get("mode") != "pool":
        assert np.isfinite(model.history_["inner_loss"][1:]).all()


def test_robust_training_beats_clean_training_over_the_box(digits):
    X, y, X_test, y_test = digits
    wrong = {
        objective: np.concatenate(
            [
                make(objective=objective, epochs=12, lr=0.01, n_steps=3, random_state=seed)
                .fit(X, y)
                .attack(X_test, y_test, n_starts=5, n_steps=0)
                .success
                for seed in range(3)
            ]
        )
        for objective in ("none", "adversarial")
    }
    gain = wrong["none"].astype(float) - wrong["adversarial"]
    assert gain.mean() > 3 * gain.std() / np.sqrt(
        len(gain) / 3
    )  # a record counts once, not per seed


def test_the_pool_holds_what_the_schedule_says(digits, tmp_path):
    X, y, *_ = digits
    model = make(
        mode="pool", pool_every=2, pool_fraction=0.3, epochs=7, warmup_epochs=1,
        checkpoint_dir=tmp_path,
    ).fit(X, y)  # fmt: skip
    state = torch.load(tmp_path / "training.pt", weights_only=True)["adversary"]
    assert state["pool"]["x"].shape == (96, 1, 8, 8)  # three rounds: before epochs 1, 3, 5
    assert state["pool"]["y.y"].shape == (96,)
    # searches at the rounds only
    assert model.history_["inner_loss"].notna().tolist() == [False, *[True, False] * 3]


@pytest.mark.parametrize("mode", ["online", "pool"])
def test_an_interrupted_training_goes_on_bit_identically(digits, tmp_path, mode):
    X, y, *_ = digits
    options = {"mode": mode, "pool_every": 2, "curriculum_epochs": 3, "epochs": 6}
    whole = make(**options).fit(X, y)

    class Killed(Exception):
        pass

    def kill(self, net, **kwargs):
        original(self, net, **kwargs)
        if len(net.history) == 4:
            raise Killed

    from statml.adapters._net import Checkpoint

    original = Checkpoint.on_epoch_end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_end", kill)
        with pytest.raises(Killed):
            make(**options, checkpoint_dir=tmp_path).fit(X, y)
    resumed = make(**options, checkpoint_dir=tmp_path).fit(X, y)
    assert same_weights(whole, resumed)
    pd.testing.assert_frame_equal(whole.history_, resumed.history_)
    with pytest.raises(ValueError, match="another run"):
        make(**options, attributes=[Rotation(31)], checkpoint_dir=tmp_path).fit(X, y)


def test_it_is_saved_and_read_pickled_and_cloned(digits, tmp_path):
    X, y, X_test, _ = digits
    model = make().fit(X, y)
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="hand it over as"):
        AttributeAdversarialClassifier.load(tmp_path / "model.safetensors")
    read = AttributeAdversarialClassifier.load(
        tmp_path / "model.safetensors", convolutions, attributes=RTS
    )
    for other in (read, pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(model.predict_proba(X_test), other.predict_proba(X_test))
        pd.testing.assert_frame_equal(model.history_, other.history_)
        assert other.attribute_names_ == ["rotation", "right", "down", "scale"]
    assert same_weights(model, clone(model).fit(X, y))


def test_grey_images_may_come_without_their_channel(digits):
    X, y, X_test, y_test = digits
    model = make().fit(X[:, 0], y)
    assert same_weights(model, make().fit(X, y))
    assert model.predict(X_test[:, 0]).shape == (320,)
    assert model.attack(X_test[:5, 0], y_test[:5], 1, 1).images.shape == (5, 1, 8, 8)


def test_labels_of_any_kind_weights_and_known_attributes(digits):
    X, y, *_ = digits
    names = np.array([f"digit {d}" for d in y])
    known = np.tile([5.0, 0.0, 0.0, 1.0], (len(X), 1))
    model = make(curriculum_epochs=3).fit(
        X, names, attributes_clean=known, sample_weight=np.ones(len(X))
    )
    assert model.attack(X[:9], names[:9], 2, 1).success.shape == (9,)
    assert not same_weights(model, make(curriculum_epochs=3).fit(X, names))
    # integer weights of zero keep records out
    weight = (y < 5).astype(float)
    fitted = make(epochs=12, lr=0.01).fit(X, y, sample_weight=weight)
    assert (fitted.predict(X) < 5).mean() > 0.95


def test_an_attack_reports_what_belongs_together(digits):
    X, y, X_test, y_test = digits
    model = make(epochs=8, lr=0.01).fit(X, y)
    found = model.attack(X_test, y_test, n_starts=5, n_steps=5)
    assert list(found.attributes) == ["rotation", "right", "down", "scale"]
    assert found.attributes["scale"].between(0.8, 1.2).all()
    assert (found.loss >= found.start_loss).all()
    np.testing.assert_array_equal(model.predict(found.images) != y_test, found.success)
    p = model.predict_proba(found.images)[np.arange(len(y_test)), y_test]
    np.testing.assert_allclose(found.loss, -np.log(p), rtol=1e-4, atol=1e-5)
    assert found.success.mean() >= 1 - model.score(X_test, y_test)
    assert "misclassified" in repr(found)
    on_grid = model.attack(X_test[:50], y_test[:50], attributes=[Rotation(30)], grid=61)
    climbed = model.attack(X_test[:50], y_test[:50], attributes=[Rotation(30)])
    assert climbed.loss.mean() >= 0.98 * on_grid.loss.mean()
    assert (on_grid.gap >= 0).all()


def test_time_series_and_tables_are_taken():
    rng = np.random.default_rng(0)
    t = np.linspace(0, 1, 32)
    y = np.arange(120) % 2
    series = np.sin(2 * np.pi * (2 + y[:, None]) * t)[:, None] + 0.1 * rng.normal(size=(120, 1, 32))

    def network():
        return nn.Sequential(nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))

    gain = Custom(lambda x, a: x * a[..., None], 0.5, 1.5, clean=1.0, kind="series")
    model = AttributeAdversarialClassifier(network, [gain], epochs=10, lr=0.01, random_state=0)
    assert model.fit(series, y).score(series, y) > 0.9


@pytest.mark.parametrize(
    ("attributes", "X", "message"),
    [
        (
            RTS,
            np.full((20, 1, 8, 8), 255.0),
            r"X must lie in \[0, 1\], as value_range declares, got",
        ),
        (RTS, np.zeros((20, 8, 8, 1)), "channels seem to be last"),
        (RTS, np.zeros((20, 64)), r"takes images of shape \(n, channels, height, width\), got X"),
        ([Hue(30)], np.zeros((20, 1, 8, 8)), "3 channels"),
        ([Custom(drift, [-1, -1], [1, 1], kind="series")], np.zeros((20, 4)), "takes series"),
        ([PixelShift(0.1, (1, 4, 4))], np.zeros((20, 1, 8, 8)), "PixelShift has shape"),
        ([Custom(broken, -1, 1)], np.zeros((20, 6)), "differentiable=False"),
    ],
)
def test_records_that_do_not_fit_are_refused(attributes, X, message):
    model = AttributeAdversarialClassifier("mlp", attributes, epochs=1, warmup_epochs=0)
    with pytest.raises(ValueError, match=message):
        model.fit(X, np.arange(20) % 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Rotation(30, -30), "low must be at most high"),
        (lambda: Rotation(-30), "reach >= 0"),
        (lambda: Scale(0, 1), "takes values in"),
        (lambda: Translate([0.1, 0.2, 0.3]), "or 2 of them"),
        (lambda: Rotation(np.nan), "finite"),
        (lambda: Custom(drift, 0, 1, names=("a", "b")), "hold|names"),
    ],
)
def test_boxes_that_make_no_sense_are_refused(build, message):
    if message == "hold|names":  # two names, two parameters: broadcast
        assert build().n_parameters == 2
        return
    with pytest.raises(ValueError, match=message):
        build()


def test_a_box_that_can_change_the_class_is_warned_of(digits):
    X, y, *_ = digits
    with pytest.warns(UserWarning, match="may change the class"):
        make([Rotation(180)], epochs=0).fit(X, y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"objective": "minimax"}, ValueError, "objective must be"),
        ({"objective": "explore"}, ValueError, "needs beta_feature or beta_attribute > 0"),
        ({"objective": "ada", "beta_attribute": 1.0}, ValueError, "needs beta_feature > 0"),
        ({"mix": 1.5}, ValueError, "mix must be"),
        ({"mode": "offline"}, ValueError, "mode must be"),
        ({"n_starts": 0}, ValueError, "n_starts must be"),
        ({"n_steps": 1.5}, TypeError, "n_steps must be"),
        ({"step_size": 0}, ValueError, "step_size must be"),
        ({"attributes": Rotation(30)}, TypeError, "attributes must be a list"),
        ({"attributes": [30]}, TypeError, "attributes must hold attributes"),
        ({"value_range": (1, 0)}, ValueError, "value_range must be"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(digits, options, error, message):
    X, y, *_ = digits
    with pytest.raises(error, match=message):
        make(**options).fit(X, y)


def test_unknown_labels_and_shapes_are_refused_by_name(digits):
    X, y, *_ = digits
    model = make(epochs=0).fit(X, y)
    with pytest.raises(ValueError, match="classes of the fit, got 77"):
        model.attack(X[:3], [77, 1, 2])
    with pytest.raises(ValueError, match="3 labels"):
        model.attack(X[:3], [1, 2])
    with pytest.raises(ValueError, match=r"attributes_clean must have shape \(320, 4\)"):
        make().fit(X, y, attributes_clean=np.zeros((320, 3)))
