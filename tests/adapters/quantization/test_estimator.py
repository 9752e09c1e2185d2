"""GenieQuantizer: conventions, bad input, tables, files, displays."""

import copy
import pickle
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from statml.adapters import (
    AccuracyBitsDisplay,
    BNSLossDisplay,
    GenieQuantizer,
    LayerSQNRDisplay,
    SyntheticImagesDisplay,
)
from statml.adapters.quantization import Rounding, allocate_bits, storage
from statml.adapters.quantization.networks import resnet8
from statml.adapters.quantization.quantizers import QuantizedLayer
from torch import nn

QUICK = {
    "n_samples": 48,
    "distill_batch": 24,
    "distill_iter": 8,
    "generator_channels": (8, 4),
    "latent_dim": 16,
    "recon_iter": 12,
    "random_state": 0,
}
SHAPE = (1, 8, 8)


def fitted(net, X=None, **changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of so few iterations
        return GenieQuantizer(**QUICK | changes).fit(net, X, input_shape=SHAPE)


@pytest.fixture(scope="module")
def quantizer(small_net):
    return fitted(small_net)


def test_constructor_stores_and_clone_copies():
    quantizer = GenieQuantizer(3, n_bits_a=5, method="qdrop")
    assert clone(quantizer).get_params() == quantizer.get_params()
    assert quantizer.set_params(n_bits_w=2).n_bits_w == 2
    with pytest.raises(NotFittedError):
        quantizer.predict(np.zeros((1, *SHAPE)))


def test_a_fit_leaves_the_network_and_the_global_state_alone(small_net):
    before = copy.deepcopy(small_net.state_dict())
    state = torch.get_rng_state()
    fitted(small_net)
    assert torch.equal(torch.get_rng_state(), state)
    for name, t in small_net.state_dict().items():
        assert torch.equal(t, before[name])


def test_the_same_seed_gives_the_same_bits(small_net, quantizer, digits):
    again = fitted(small_net)
    X = digits[0][:50]
    assert np.array_equal(quantizer.decision_function(X), again.decision_function(X))
    assert np.array_equal(quantizer.synthetic_data_, again.synthetic_data_)
    other = fitted(small_net, random_state=1)
    assert not np.array_equal(quantizer.synthetic_data_, other.synthetic_data_)


def test_predictions_are_those_of_the_simulated_network(quantizer, digits):
    X, y = digits
    logits = quantizer.decision_function(X)
    assert logits.shape == (len(X), 10)
    assert np.array_equal(quantizer.predict(X), logits.argmax(1))
    p = quantizer.predict_proba(X)
    assert np.allclose(p.sum(1), 1)
    assert np.array_equal(p.argmax(1), logits.argmax(1))
    assert quantizer.score(X, y) == np.mean(quantizer.predict(X) == y)


@pytest.mark.parametrize(
    "method", ["rtn-minmax", "rtn-percentile", "rtn-mse", "adaround", "brecq", "qdrop", "genie"]
)
@pytest.mark.parametrize("placement", ["academic", "deployable"])
def test_at_eight_bits_every_method_keeps_the_decisions(small_net, digits, method, placement):
    X = digits[0][:200]
    quantizer = fitted(
        small_net, X, n_bits_w=8, n_bits_a=8, method=method, placement=placement, recon_iter=5
    )
    output = quantizer.compare(X).iloc[-1]
    assert output["agreement"] >= 0.97
    assert output["sqnr_db"] > 20


def test_no_iterations_are_rounding_to_nearest(small_net, digits):
    X = digits[0][:48]
    none, nearest = fitted(small_net, X, recon_iter=0), fitted(small_net, X, method="rtn-mse")
    assert np.array_equal(none.decision_function(X), nearest.decision_function(X))
    assert none.layers_["undecided"].isna().all()
    assert (none.layers_["flipped"] == 0).all()


def test_with_real_records_no_images_are_made(small_net, digits):
    quantizer = fitted(small_net, digits[0][:60])
    assert quantizer.synthetic_data_ is None
    assert not len(quantizer.distill_loss_)
    with pytest.raises(ValueError, match="X must be given"):
        quantizer.compare()
    assert 0 <= quantizer.compare(digits[0][:60]).iloc[-1]["kl"] < np.inf


def test_table_of_layers_is_complete_and_true(small_net, quantizer):
    table = quantizer.layers_
    layers = {n: m for n, m in small_net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert set(table["name"]) == set(layers)
    assert table["n_bits_w"].tolist() == [8] + [4] * 7 + [8]
    assert np.isnan(table["n_bits_a"].iloc[0])
    for row in table.itertuples():
        module = quantizer.model_.get_submodule(row.name)
        assert isinstance(module, QuantizedLayer)
        assert row.n_weights == layers[row.name].weight.numel()
        codes = module.quantizer.codes()
        assert row.flipped == pytest.approx(
            (codes.to(torch.uint8) != module.quantizer.nearest).double().mean().item()
        )
        assert row.step == pytest.approx(module.quantizer.step.mean().item())
        assert np.isfinite([row.soft_loss, row.hard_loss, row.start_loss]).all()
    assert quantizer.undecided_ == pytest.approx(
        np.average(table["undecided"], weights=table["n_weights"])
    )
    text = quantizer.summary().as_text()
    assert all(name in text for name in layers)
    assert str(quantizer.size_bytes_) in text


def test_losses_of_the_images_are_kept_for_every_iteration_and_normalisation(small_net, quantizer):
    table = quantizer.distill_loss_
    norms = [n for n, m in small_net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert set(norms) < set(table.columns)
    assert len(table) == 2 * 8
    assert np.allclose(table["total"], table[[*norms, "image"]].sum(axis=1))


def test_a_run_cut_short_is_warned_of(small_net, digits):
    with pytest.warns(ConvergenceWarning, match="of the roundings are undecided"):
        GenieQuantizer(**QUICK | {"lr_round": 1e-3}).fit(small_net, digits[0][:48])


def two_layers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, 3),
        )
        net.train()(torch.randn(300, *SHAPE))
    return net.eval()


def test_enough_iterations_give_no_warning(small_net, digits):
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        quantizer = GenieQuantizer(3, 4, **QUICK | {"recon_iter": 400}).fit(
            small_net, digits[0][:200]
        )
    assert quantizer.undecided_ < 0.05


def test_comparison_with_itself_would_be_perfect(small_net, digits):
    quantizer = fitted(small_net, digits[0][:48])
    quantizer.model_ = quantizer.float_model_
    output = quantizer.compare(digits[0][:48]).iloc[-1]
    assert output["agreement"] == 1
    assert output["conf_low"] < 1
    assert output["kl"] == 0
    assert output["sqnr_db"] == np.inf


def test_sensitivity_falls_with_the_bits_and_restores_the_network(quantizer, digits):
    X = digits[0][:64]
    before = quantizer._run(quantizer.float_model_, X)
    table = quantizer.sensitivity((2, 4, 8), X)
    assert np.array_equal(quantizer._run(quantizer.float_model_, X), before)
    wide = table.pivot(index="name", columns="n_bits", values="kl")
    assert (wide[2] > wide[8]).all()
    assert wide[4].sum() < wide[2].sum()
    sizes = table.pivot(index="name", columns="n_bits", values="bytes")
    assert (sizes[8] > sizes[2]).all()


def test_allocation_is_the_best_by_brute_force_and_keeps_the_budget():
    rng = np.random.default_rng(0)
    rows = [
        {"name": name, "n_bits": n, "bytes": int(n * size), "kl": float(rng.exponential() / n)}
        for name, size in (("a", 3), ("b", 10), ("c", 5), ("d", 1))
        for n in (2, 4, 8)
    ]
    table = pd.DataFrame(rows)
    parts = [table[table["name"] == name].to_dict("records") for name in "abcd"]
    for budget in (38, 60, 90, 152, 1000):
        best = min(
            sum(r["kl"] for r in choice)
            for choice in (
                (a, b, c, d) for a in parts[0] for b in parts[1] for c in parts[2] for d in parts[3]
            )
            if sum(r["bytes"] for r in choice) <= budget
        )
        chosen = allocate_bits(table, budget)
        picked = table[[chosen[r.name] == r.n_bits for r in table.itertuples(index=False)]]
        assert picked["bytes"].sum() <= budget
        assert picked["kl"].sum() == pytest.approx(best, rel=1e-6)
    with pytest.raises(ValueError, match="size_budget must be at least 38"):
        allocate_bits(table, 37)


def test_mixed_precision_is_taken_by_a_new_fit(small_net, quantizer, digits):
    X = digits[0][:64]
    least = quantizer.sensitivity((2,), X)["bytes"].sum()
    bits = quantizer.mixed_precision(int(1.5 * least), (2, 4, 8), X)
    assert len(set(bits.values())) > 1
    mixed = fitted(small_net, X, n_bits_w=bits)
    assert dict(zip(mixed.layers_["name"], mixed.layers_["n_bits_w"], strict=True)) == bits


def test_size_is_that_of_the_packed_file(quantizer, tmp_path):
    path = tmp_path / "small.safetensors"
    quantizer.save(path)
    assert quantizer.size_bytes_ < path.stat().st_size
    assert quantizer.size_bytes_ < 0.5 * storage.float_bytes(quantizer.float_model_)
    tensors = storage.as_tensors(quantizer.model_)
    assert tensors["codes.pointwise"].numel() == 16 * 24 // 2
    assert not any("layer.weight" in name for name in tensors)


def test_a_file_gives_the_same_network_back(small_net, quantizer, digits, tmp_path):
    path = tmp_path / "small.safetensors"
    quantizer.save(path)
    blank = copy.deepcopy(small_net)
    with torch.no_grad():
        for parameter in blank.parameters():
            parameter.zero_()
        for buffer in blank.buffers():
            buffer.zero_()
    loaded = GenieQuantizer.load(path, blank)
    X = digits[0][:60]
    assert np.array_equal(loaded.decision_function(X), quantizer.decision_function(X))
    pd.testing.assert_frame_equal(loaded.layers_, quantizer.layers_, check_dtype=False)
    assert np.array_equal(loaded.synthetic_data_, quantizer.synthetic_data_)
    assert loaded.size_bytes_ == quantizer.size_bytes_
    assert "GenieQuantizer" in loaded.summary().as_text()
    one, other = quantizer.to_graph(), loaded.to_graph()
    assert [node.name for node in one.nodes] == [node.name for node in other.nodes]


def test_a_changed_or_foreign_file_is_refused(small_net, quantizer, tmp_path):
    path = tmp_path / "small.safetensors"
    quantizer.save(path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    (tmp_path / "changed").write_bytes(content)
    with pytest.raises(ValueError, match="was changed after it was written"):
        GenieQuantizer.load(tmp_path / "changed", small_net)
    (tmp_path / "other").write_bytes(b"no network at all")
    with pytest.raises(ValueError, match="no safetensors file"):
        GenieQuantizer.load(tmp_path / "other", small_net)
    with pytest.raises(ValueError, match="does not fit the network given"):
        GenieQuantizer.load(path, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def test_a_fitted_quantizer_is_pickled_and_copied(quantizer, digits):
    X = digits[0][:20]
    expected = quantizer.decision_function(X)
    for other in (pickle.loads(pickle.dumps(quantizer)), copy.deepcopy(quantizer)):
        assert np.array_equal(other.decision_function(X), expected)


def test_networks_with_annotations_in_strings_are_pickled_too():
    X = np.random.default_rng(0).standard_normal((4, 1, 28, 28)).astype(np.float32)
    quantizer = GenieQuantizer(8, 8, method="rtn-mse").fit(resnet8("fashion-mnist"), X)
    restored = pickle.loads(pickle.dumps(quantizer))
    assert np.array_equal(restored.decision_function(X), quantizer.decision_function(X))


def test_a_killed_fit_goes_on_from_its_folder(small_net, tmp_path, monkeypatch, digits):
    from statml.adapters.quantization import chaining

    X = digits[0][:40]
    whole = fitted(small_net)
    original, count = chaining.reconstruct_unit, []

    def killed(*arguments, **named):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(chaining, "reconstruct_unit", killed)
    with pytest.raises(KeyboardInterrupt):
        fitted(small_net, checkpoint_dir=tmp_path)
    resumed = fitted(small_net, checkpoint_dir=tmp_path)
    assert np.array_equal(resumed.decision_function(X), whole.decision_function(X))
    pd.testing.assert_frame_equal(resumed.layers_, whole.layers_)
    with pytest.raises(ValueError, match="holds another run"):
        fitted(small_net, checkpoint_dir=tmp_path, n_bits_w=3)
    with pytest.raises(ValueError, match="random_state"):
        fitted(small_net, checkpoint_dir=tmp_path, random_state=None)


def test_more_images_can_be_made(quantizer):
    images, info = quantizer.synthesize(5, random_state=3, return_info=True)
    assert images.shape == (5, *SHAPE)
    assert len(info) == 8
    assert np.array_equal(images, quantizer.synthesize(5, random_state=3))


def test_histogram_counts_every_image(quantizer, digits):
    table = quantizer.class_histogram()
    assert table["n"].sum() == 48
    assert 0 <= table.attrs["entropy"] <= 1
    X = digits[0][:100]
    expected = np.bincount(quantizer._run(quantizer.float_model_, X).argmax(1), minlength=10)
    assert quantizer.class_histogram(X)["n"].tolist() == expected.tolist()


def test_integers_agree_with_the_simulation(small_net, digits):
    quantizer = fitted(small_net, digits[0][:48], placement="deployable", n_bits_w=4)
    X = digits[0][:100]
    exact = quantizer.to_integer()(X)
    assert np.mean(exact.argmax(1) == quantizer.predict(X)) > 0.95


class Custom(Rounding):
    """A method of one's own."""


def test_a_method_of_ones_own_is_taken(small_net, digits, tmp_path):
    quantizer = fitted(small_net, digits[0][:48], method=Custom())
    assert "Custom" in quantizer.summary().as_text()
    with pytest.raises(TypeError, match="method is a Custom"):
        quantizer.save(tmp_path / "custom")


def test_displays_draw(quantizer, digits):
    X, y = digits[0][:60], digits[1][:60]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        accuracy = AccuracyBitsDisplay.from_estimator(quantizer, X, y, bits=(2, 8))
    assert accuracy.table["accuracy"].iloc[1] >= accuracy.table["accuracy"].iloc[0] - 0.1
    for display in (
        SyntheticImagesDisplay.from_estimator(quantizer, n=10),
        BNSLossDisplay.from_estimator(quantizer),
        LayerSQNRDisplay.from_estimator(quantizer),
        LayerSQNRDisplay.from_estimator(quantizer, X),
        accuracy,
    ):
        display.figure_.canvas.draw()
        assert display.ax_.has_data()
    plt.close("all")


def test_displays_of_what_is_not_there_are_refused(small_net, digits):
    quantizer = fitted(small_net, digits[0][:48], method="rtn-mse")
    with pytest.raises(ValueError, match="made no images"):
        SyntheticImagesDisplay.from_estimator(quantizer)
    with pytest.raises(ValueError, match="no losses to show"):
        BNSLossDisplay.from_estimator(quantizer)


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_bits_w": 1}, ValueError, "n_bits_w must be an integer in"),
        ({"n_bits_w": 16}, ValueError, "n_bits_w must be an integer in"),
        ({"n_bits_a": 9}, ValueError, "n_bits_a must be an integer in"),
        ({"n_bits_w": 4.0}, TypeError, "n_bits_w must be an integer"),
        ({"n_bits_w": {"nothing": 4}}, ValueError, "'nothing', which is no layer"),
        ({"n_bits_w": {"stem": 4}}, ValueError, "must name every layer"),
        ({"first_last_bits": 1}, ValueError, "first_last_bits must be"),
        ({"method": "gptq"}, ValueError, "method must be"),
        ({"data": "dreams"}, ValueError, "data must be"),
        ({"preset": "slow"}, ValueError, "preset must be"),
        ({"placement": "anywhere"}, ValueError, "placement must be"),
        ({"granularity": "network"}, ValueError, "granularity must be"),
        ({"n_samples": 1}, ValueError, "n_samples must be"),
        ({"swing": -1}, ValueError, "swing must be"),
        ({"lr_round": 0}, ValueError, "lr_round must be"),
        ({"warmup": 1.0}, ValueError, "warmup must be"),
        ({"drop_prob": 2}, ValueError, "drop_prob must be"),
        ({"progress": "yes"}, ValueError, "progress must be"),
        ({"input_stats": "unknown"}, ValueError, "input_stats must be"),
    ],
)
def test_bad_parameters_are_refused_by_name(small_net, changes, error, message):
    with pytest.raises(error, match=message):
        GenieQuantizer(**QUICK | changes).fit(small_net, input_shape=SHAPE)


def test_a_network_without_normalisation_needs_real_records(digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match=r"fit\(model, X=...\)"):
        fitted(net)
    assert fitted(net, digits[0][:48]).predict(digits[0][:3]).shape == (3,)
    assert fitted(net, data="noise").synthetic_data_.shape == (48, *SHAPE)


def test_a_shape_that_cannot_be_known_is_asked_for(small_net, digits):
    with pytest.raises(ValueError, match="give it, such as input_shape"):
        GenieQuantizer(**QUICK).fit(small_net)
    with pytest.raises(ValueError, match="does not take records of shape"):
        GenieQuantizer(**QUICK).fit(small_net, input_shape=(3, 8, 8))
    with pytest.raises(ValueError, match="must hold records of input_shape"):
        GenieQuantizer(**QUICK).fit(small_net, digits[0][:48], input_shape=(1, 9, 9))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.full((4, *SHAPE), np.nan), "X.* holds NaN or infinite values, 256 of 256"),
        (np.full((4, *SHAPE), 1e300), "X, in single precision, holds NaN or infinite values"),
        (np.full((4, *SHAPE), 1e30), "diverged"),
        (np.zeros((0, *SHAPE)), "must hold records"),
        (np.zeros(5), "must hold records"),
        (np.full((4, *SHAPE), "a"), "must hold numbers"),
    ],
)
def test_bad_records_are_refused(small_net, X, message):
    with pytest.raises(ValueError, match=message):
        fitted(small_net, X)


def test_records_outside_the_declared_range_are_refused(small_net, digits):
    with pytest.raises(ValueError, match="within the range of input_stats, -1 to 1"):
        fitted(small_net, digits[0][:48], input_stats=(0.0, 1.0, -1.0, 1.0))


def test_other_networks_are_refused(quantizer):
    with pytest.raises(TypeError, match="model must be a trained torch Module"):
        fitted("resnet18")
    with pytest.raises(TypeError, match="32-bit floats"):
        fitted(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).half())
    with pytest.raises(ValueError, match="X must hold records of shape"):
        quantizer.predict(np.zeros((2, 3, 8, 8)))
    with pytest.raises(ValueError, match="one output a class"):
        fitted(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)))
