"""The estimators around a skorch net: scikit-learn's contract, seeds, weights, checkpoints, files."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from skorch.callbacks import Callback

torch = pytest.importorskip("torch")

from statml.adapters import MLP, NetClassifier, NetRegressor  # noqa: E402
from statml.adapters._net import Batches, Records  # noqa: E402
from torch import nn  # noqa: E402

QUICK = {"epochs": 40, "lr": 0.01, "module__hidden": (16,)}


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def minibatches_are_random(estimator):
    return {
        "check_sample_weight_equivalence_on_dense_data": "minibatches are random, a weight is no number of copies",
        "check_sample_weight_equivalence_on_sparse_data": "minibatches are random, a weight is no number of copies",
    }


@parametrize_with_checks(
    [
        NetClassifier(epochs=30, lr=0.02, random_state=0),
        NetRegressor(epochs=30, lr=0.02, random_state=0),
    ],
    expected_failed_checks=minibatches_are_random,
)
def test_scikit_learn_takes_it_as_its_own(estimator, check, in_single_precision):
    check(estimator)


def test_module_and_optimizer_are_reached_by_nested_parameters(iris):
    model = NetClassifier(**QUICK, optimizer="sgd", optimizer__momentum=0.9, random_state=0).fit(
        *iris
    )
    assert [
        layer.out_features for layer in model.module_.layers if isinstance(layer, nn.Linear)
    ] == [16, 3]
    assert model.net_.optimizer_.defaults["momentum"] == 0.9
    other = clone(model).set_params(module__hidden=(8, 8))
    assert other.get_params()["module__hidden"] == (8, 8)
    assert model.get_params()["module__hidden"] == (16,)


def test_a_name_that_means_nothing_survives_cloning_and_is_refused_by_fit(iris):
    model = clone(NetClassifier(epoch=3))
    with pytest.raises(TypeError, match="NetClassifier has no parameter 'epoch'"):
        model.fit(*iris)


def test_it_is_tuned_inside_a_pipeline(iris):
    pipeline = make_pipeline(StandardScaler(), NetClassifier(**QUICK, random_state=0))
    search = GridSearchCV(pipeline, {"netclassifier__module__hidden": [(), (16,)]}, cv=3).fit(*iris)
    assert search.best_score_ > 0.9


def test_labels_of_any_kind_and_frames_are_taken(iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=list("abcd"))
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = NetClassifier(**QUICK, random_state=0).fit(frame, names)
    assert model.score(frame, names) > 0.9
    assert set(model.predict(frame)) == set(names)
    assert list(model.feature_names_in_) == list("abcd")
    same = NetClassifier(**QUICK, random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(frame), same.predict_proba(X))


def test_probabilities_are_the_softmax_of_the_module(iris):
    X, y = iris
    model = NetClassifier(**QUICK, random_state=0).fit(X, y)
    with torch.no_grad():
        logits = model.module_(torch.tensor(X, dtype=torch.float32)).double()
    np.testing.assert_allclose(model.predict_proba(X), logits.softmax(1).numpy(), atol=1e-6)


def test_a_seed_fixes_everything_and_leaves_the_state_of_torch_alone(iris):
    X, y = iris
    before = torch.get_rng_state()
    one, two = (
        NetClassifier(**QUICK, module__dropout=0.3, random_state=3).fit(X, y).predict_proba(X)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    three = NetClassifier(**QUICK, module__dropout=0.3, random_state=3).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(one, three)
    other = NetClassifier(**QUICK, module__dropout=0.3, random_state=4).fit(X, y).predict_proba(X)
    assert np.abs(one - other).max() > 1e-6


def test_a_linear_net_in_one_batch_finds_the_logistic_regression(iris):
    """The loop minimises the mean loss: its minimum is known where the module is linear."""
    from sklearn.linear_model import LogisticRegression

    X, y = iris
    weight = np.linspace(0.2, 3, len(y))
    penalty = 0.02
    model = NetClassifier(
        module__hidden=(),
        epochs=2000,
        batch_size=150,
        lr=0.05,
        weight_decay=penalty,
        random_state=0,
    )
    model.fit(X, y, sample_weight=weight)
    # torch's decay acts on the intercepts too: a column of ones in place of an intercept does the same.
    design = np.column_stack([X, np.ones(len(X))])
    exact = LogisticRegression(
        C=1 / (penalty * weight.sum()), fit_intercept=False, tol=1e-10, max_iter=10_000
    )
    exact.fit(design, y, sample_weight=weight)
    np.testing.assert_allclose(model.predict_proba(X), exact.predict_proba(design), atol=1e-4)


def test_records_of_weight_zero_do_not_count(iris):
    X, y = iris
    spoiled = np.arange(len(y)) % 3 > 0
    labels = np.where(spoiled, 2 - y, y)
    model = NetClassifier(**QUICK, random_state=0)
    assert model.fit(X, labels, sample_weight=(~spoiled).astype(float)).score(X, y) > 0.85
    assert model.fit(X, labels).score(X, y) < 0.5


def test_a_regressor_returns_as_many_outputs_as_it_was_given():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = np.column_stack([X[:, 0] - X[:, 1], X[:, 2] * 2])
    model = NetRegressor(epochs=120, lr=0.01, random_state=0).fit(X, y)
    assert model.predict(X).shape == (200, 2)
    assert model.score(X, y) > 0.95
    one = NetRegressor(epochs=120, lr=0.01, random_state=0).fit(X, y[:, 0])
    assert one.predict(X).shape == (200,)


def test_an_image_goes_through_a_module_of_ones_own():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 120)
    X = rng.normal(size=(120, 1, 8, 8)) + y[:, None, None, None]

    def convolutions(n_outputs, channels):
        return nn.Sequential(
            nn.Conv2d(1, channels, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(channels, n_outputs),
        )  # fmt: skip

    model = NetClassifier(convolutions, module__channels=4, epochs=60, lr=0.02, random_state=0).fit(
        X, y
    )
    assert model.module_[0].out_channels == 4
    assert model.score(X, y) > 0.95


def test_a_module_that_is_handed_over_is_copied_and_its_weights_are_the_start(iris):
    X, y = iris
    module = MLP(4, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    untrained = NetClassifier(module, epochs=0).fit(X, y)
    for name, value in untrained.module_.state_dict().items():
        assert torch.equal(value, before[name])
    NetClassifier(module, **{k: v for k, v in QUICK.items() if "__" not in k}).fit(X, y)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_pickling_keeps_the_predictions(iris):
    model = NetClassifier(**QUICK, random_state=0).fit(*iris)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model.predict_proba(iris[0]), again.predict_proba(iris[0]))


def test_mixed_precision_through_accelerate_trains_and_pickles(iris):
    pytest.importorskip("accelerate")
    model = NetClassifier(
        **QUICK, accelerate={"mixed_precision": "bf16", "cpu": True}, random_state=0
    )
    model.fit(*iris)
    assert model.score(*iris) > 0.9
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model.predict_proba(iris[0]), again.predict_proba(iris[0]))


# --- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epochs": -1}, "epochs must be an integer >= 0"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"lr": -1.0}, "lr must be a finite number >= 0"),
        ({"optimizer": "newton"}, 'optimizer must be "adam", "adamw" or "sgd"'),
        ({"module": "cnn"}, 'module must be "mlp"'),
        ({"progress": "yes"}, 'progress must be "auto", True or False'),
    ],
)
def test_unusable_parameters_are_refused_by_name(iris, parameters, message):
    with pytest.raises(ValueError, match=message):
        NetClassifier(**parameters).fit(*iris)


def test_unusable_data_are_refused_by_name(iris):
    X, y = iris
    with pytest.raises(ValueError, match="y holds one class only, 1"):
        NetClassifier().fit(X, np.ones(len(X), dtype=int))
    with pytest.raises(ValueError, match="infinity or a value too large for dtype"):
        NetClassifier().fit(X * 1e40, y)
    with pytest.raises(ValueError, match="Sample weights must contain at least one non-zero"):
        NetClassifier().fit(X, y, sample_weight=np.zeros(len(X)))
    with pytest.raises(TypeError, match="module must be"):
        NetClassifier(module=3).fit(X, y)
    with pytest.raises(NotFittedError):
        NetClassifier().module_  # noqa: B018


# --- the loop --------------------------------------------------------------------------------------------


def test_every_record_comes_once_an_epoch_in_an_order_that_the_generator_fixes():
    data = Records(torch.arange(10.0), {"y": torch.arange(10)})
    batches = Batches(data, 4, shuffle=True, generator=torch.Generator().manual_seed(0))
    first, second = (torch.cat([y["y"] for _, y in batches]) for _ in range(2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()
    assert [len(X) for X, _ in batches] == [4, 4, 2]
    again = Batches(data, 4, shuffle=True, generator=torch.Generator().manual_seed(0))
    assert torch.cat([y["y"] for _, y in again]).tolist() == first.tolist()
    chosen = Batches(data, 4, sampler=[3, 3, 5, 0, 1, 9])
    assert torch.cat([X for X, _ in chosen]).tolist() == [3, 3, 5, 0, 1, 9]
    assert len(chosen) == 2


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, [1]), (4, [4]), (5, [5]), (6, [4, 2]), (9, [4, 5]), (8, [4, 4])]
)
def test_a_lone_record_at_the_end_joins_the_batch_before(n, sizes):
    data = Records(torch.arange(float(n)), {})
    batches = Batches(data, 4, shuffle=True)
    assert [len(X) for X, _ in batches] == sizes
    assert len(batches) == len(sizes)
    in_order = Batches(data, 4)
    assert len(in_order) == len(list(in_order))


def test_a_bar_is_shown_if_asked_for(iris, capsys):
    NetClassifier(**QUICK, progress=True).fit(*iris)
    assert "NetClassifier" in capsys.readouterr().err
    NetClassifier(**QUICK).fit(*iris)
    assert capsys.readouterr().err == ""


# --- checkpoints -----------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_to_the_same_result(iris, tmp_path):
    X, y = iris
    whole = NetClassifier(**QUICK, module__dropout=0.2, random_state=0).fit(X, y)
    part = NetClassifier(**QUICK, module__dropout=0.2, random_state=0, checkpoint_dir=tmp_path)
    part.set_params(epochs=11).fit(X, y)
    rest = part.set_params(epochs=QUICK["epochs"]).fit(X, y)
    np.testing.assert_array_equal(whole.predict_proba(X), rest.predict_proba(X))
    assert rest.loss_curve_ == whole.loss_curve_


def test_fewer_epochs_than_were_run_are_refused(iris, tmp_path):
    NetClassifier(**QUICK, random_state=0, checkpoint_dir=tmp_path).fit(*iris)
    with pytest.raises(
        ValueError, match="epochs is 11, but the run in checkpoint_dir .* has had 40"
    ):
        NetClassifier(**{**QUICK, "epochs": 11}, random_state=0, checkpoint_dir=tmp_path).fit(*iris)


def test_a_module_made_by_a_function_is_the_same_run_in_another_process(iris, tmp_path):
    """A new process gives the function, and a Generator, another address."""
    X, y = iris

    def made_anew():
        def network(n_inputs, n_outputs):
            return nn.Linear(n_inputs, n_outputs)

        return NetClassifier(
            network, epochs=4, random_state=np.random.default_rng(0), checkpoint_dir=tmp_path
        )

    first, again = made_anew().fit(X, y), made_anew().fit(X, y)
    np.testing.assert_array_equal(first.predict_proba(X), again.predict_proba(X))


def test_a_checkpoint_of_other_data_or_parameters_is_refused(iris, tmp_path):
    X, y = iris
    NetClassifier(**QUICK, random_state=0, checkpoint_dir=tmp_path).fit(X, y)
    with pytest.raises(ValueError, match="holds another run: its data or parameters differ"):
        NetClassifier(**QUICK, random_state=0, checkpoint_dir=tmp_path).fit(X, y[::-1])
    with pytest.raises(ValueError, match="holds another run"):
        NetClassifier(**{**QUICK, "lr": 0.5}, random_state=0, checkpoint_dir=tmp_path).fit(X, y)


def test_a_training_that_diverges_is_refused_and_so_are_records_beyond_the_network(iris):
    X, y = iris
    with pytest.raises(ValueError, match="the training has diverged, its weights are no finite"):
        NetRegressor(epochs=20, random_state=0).fit(1e30 * X, y)
    model = NetRegressor(epochs=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="X holds values for which the network's outputs are no"):
        model.predict(np.full_like(X, 3e38))


def test_only_ratios_of_weights_count_however_large_they_are(iris):
    X, y = iris
    weight = np.random.default_rng(0).uniform(1, 3, size=len(y))
    one, other = (
        NetClassifier(**QUICK, random_state=0).fit(X, y, sample_weight=2.0**power * weight)
        for power in (0, 900)
    )
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))


# --- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["numbers", "strings"])
def test_a_saved_network_predicts_the_same(iris, tmp_path, labels):
    X, y = iris
    y = y if labels == "numbers" else np.array(["a", "b", "c"], dtype=object)[y]
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = NetClassifier(**QUICK, random_state=0).fit(frame, y)
    model.save(tmp_path / "model.safetensors")
    again = NetClassifier.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(model.predict_proba(frame), again.predict_proba(frame))
    np.testing.assert_array_equal(model.predict(frame), again.predict(frame))
    assert again.get_params()["module__hidden"] == (16,)
    assert again.loss_curve_ == model.loss_curve_
    with pytest.raises(ValueError, match="feature names"):
        again.predict(frame[list("dcba")])


def test_a_saved_regressor_predicts_the_same(tmp_path):
    X = np.linspace(-1, 1, 50)[:, None]
    model = NetRegressor(epochs=20, random_state=0).fit(X, X[:, 0])
    model.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(
        model.predict(X), NetRegressor.load(tmp_path / "model.safetensors").predict(X)
    )


def test_a_file_that_was_changed_or_is_of_another_kind_is_refused(iris, tmp_path):
    path = tmp_path / "model.safetensors"
    NetClassifier(**QUICK, random_state=0).fit(*iris).save(path)
    with pytest.raises(ValueError, match="holds a NetClassifier, not a NetRegressor"):
        NetRegressor.load(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="was changed after it was written"):
        NetClassifier.load(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="is no safetensors file"):
        NetClassifier.load(path)
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="was not written by statml"):
        NetClassifier.load(path)


def test_a_module_of_ones_own_is_handed_to_load(iris, tmp_path):
    def module(n_inputs, n_outputs):
        return nn.Sequential(nn.Linear(n_inputs, 5), nn.Tanh(), nn.Linear(5, n_outputs))

    X, y = iris
    path = tmp_path / "model.safetensors"
    model = NetClassifier(module, epochs=5, random_state=0).fit(X, y)
    model.save(path)
    again = NetClassifier.load(path, module=module)
    np.testing.assert_array_equal(model.predict_proba(X), again.predict_proba(X))
    with pytest.raises(ValueError, match="hand it over as `module`"):
        NetClassifier.load(path)
    with pytest.raises(ValueError, match="do not fit the module"):
        NetClassifier.load(path, module=MLP)


def test_every_parameter_that_is_code_is_handed_to_load(iris, tmp_path):
    X, y = iris
    path = tmp_path / "model.safetensors"
    model = NetClassifier(**QUICK, optimizer=torch.optim.NAdam, random_state=0).fit(X, y)
    model.save(path)
    with pytest.raises(ValueError, match="hand it over as `optimizer`"):
        NetClassifier.load(path)
    again = NetClassifier.load(path, optimizer=torch.optim.NAdam)
    np.testing.assert_array_equal(model.predict_proba(X), again.predict_proba(X))


TWO_PROCESSES = """
import os
import numpy as np
from sklearn.datasets import load_iris
from statml.adapters import NetClassifier
X, y = load_iris(return_X_y=True)
model = NetClassifier(epochs=40, lr=0.01, accelerate={"cpu": True}, random_state=0).fit(X - X.mean(0), y)
weights = np.concatenate([p.detach().numpy().ravel() for p in model.module_.parameters()])
np.savez(f"rank{os.environ['RANK']}.npz", weights=weights, score=model.score(X - X.mean(0), y))
"""


def test_two_processes_train_one_network(tmp_path):
    pytest.importorskip("accelerate")
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    run = subprocess.run(
        [*launch, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    first, second = (np.load(tmp_path / f"rank{rank}.npz") for rank in (0, 1))
    np.testing.assert_array_equal(first["weights"], second["weights"])
    assert first["score"] > 0.9


class CountEpochs(Callback):
    """A callback that knows something after the training."""

    def on_epoch_end(self, net, **kwargs):
        self.n_epochs = getattr(self, "n_epochs", 0) + 1


def test_callbacks_of_ones_own_take_part(iris, tmp_path):
    X, y = iris
    given = CountEpochs()
    model = NetClassifier(**QUICK, random_state=0, callbacks__count=given).fit(X, y)
    assert dict(model.net_.callbacks_)["count"].n_epochs == model.n_iter_
    assert not hasattr(given, "n_epochs")  # a parameter stays as it was given
    assert clone(model).get_params()["callbacks__count"] is not None
    model.save(tmp_path / "model.safetensors")  # a file needs them no more
    again = NetClassifier.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    with pytest.raises(ValueError, match="callbacks__count cannot go with checkpoint_dir"):
        NetClassifier(**QUICK, callbacks__count=given, checkpoint_dir=tmp_path).fit(X, y)
