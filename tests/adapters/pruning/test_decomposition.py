"""Pruning's effect split into training time and size: identities, exact agreement of ways to compute, known patterns."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

torch = pytest.importorskip("torch")

from statml.adapters import MLP  # noqa: E402
from statml.adapters.pruning.decomposition import (  # noqa: E402
    PruningEffectDisplay,
    decompose_pruning_effect,
    effects_of,
    noisy_labels,
)
from statml.adapters.pruning.decomposition.effects import (  # noqa: E402
    effects_table,
    optimal_levels,
    paired_interval,
    simultaneous_critical_value,
)
from statml.adapters.pruning.decomposition.stacks import (  # noqa: E402
    Recipe,
    Stack,
    evaluate,
    full_masks,
    keep_largest,
    train,
)
from torch import nn  # noqa: E402


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order] / 16, y[order]
    return X[:600], y[:600], X[600:], y[600:]


SMALL = {"fraction": 0.5, "levels": 3, "n_replicates": 3, "epochs": 6, "random_state": 0}


@pytest.fixture(scope="module")
def result(digits):
    return decompose_pruning_effect((32, 16), *digits, **SMALL, influence_top=0.1, n_subgroups=5)


# --- effects ---------------------------------------------------------------------------------------------


def test_time_and_size_add_up_to_the_total(result):
    wide = result.effects.pivot(index=["noise", "level"], columns="effect", values="estimate")
    np.testing.assert_allclose(wide["time"] + wide["size"], wide["total"], atol=1e-12)
    np.testing.assert_allclose(wide["time_dense"] + wide["size_long"], wide["total"], atol=1e-12)
    np.testing.assert_allclose(wide["size_short"] + wide["time_sparse"], wide["total"], atol=1e-12)


def test_effects_are_differences_of_the_errors_of_the_runs(result):
    runs = result.runs.query("noise == 0.2")
    mean = runs.groupby(["arm", "level"])["test_error"].mean()
    total = result.effects.query("noise == 0.2 and effect == 'total'").set_index("level")[
        "estimate"
    ]
    for k in (1, 2, 3):
        assert total[k] == pytest.approx(mean["dense", 0] - mean["lrr", k])


def test_paired_intervals_are_those_of_the_t_test():
    from scipy.stats import ttest_1samp

    values = np.random.default_rng(0).normal(0.3, 1, (8, 4))
    interval = paired_interval(values, 0.9)
    reference = ttest_1samp(values, 0).confidence_interval(0.9)
    np.testing.assert_allclose(interval["conf_low"], reference.low)
    np.testing.assert_allclose(interval["conf_high"], reference.high)


def test_bands_hold_for_all_levels_at_once_and_are_no_wider_than_bonferroni():
    rng = np.random.default_rng(1)
    n, columns, reps = 8, 6, 150
    root = np.linalg.cholesky(0.7 + 0.3 * np.eye(columns))
    covered, critical = [], []
    for _ in range(reps):
        values = rng.normal(size=(n, columns)) @ root.T
        c = simultaneous_critical_value(values, 0.9)
        t = values.mean(axis=0) / values.std(axis=0, ddof=1) * np.sqrt(n)
        covered.append(np.abs(t).max() <= c)
        critical.append(c)
    from scipy.stats import t as student

    assert np.mean(covered) >= 0.9 - 4 * np.sqrt(0.09 / reps)
    assert student.ppf(0.95, n - 1) <= min(critical)
    assert np.mean(critical) <= student.ppf(1 - 0.05 / columns, n - 1) + 0.05


def test_regimes_follow_from_the_intervals():
    """Four made-up experiments whose answer is known."""

    def runs(lrr_error, lrr_loss, memorised):
        rows = []
        for r in range(5):
            jitter = 0.001 * r
            for arm, k, error, loss, fitted in (
                ("dense", 0, 0.2, 0.5, 0.9), ("edt", 1, 0.2, 0.5, 0.9), ("sparse_short", 1, 0.2, 0.5, 0.9),
                ("lrr", 1, lrr_error, lrr_loss, memorised),
            ):  # fmt: skip
                rows.append(
                    (0.2, k, 0.8**k, arm, r, error + jitter * (arm == "lrr"), loss + jitter, fitted)
                )
        names = [
            "noise",
            "level",
            "density",
            "arm",
            "replicate",
            "test_error",
            "train_loss",
            "memorised",
        ]
        return pd.DataFrame(rows, columns=names)

    for arguments, regime in (
        ((0.1, 0.3, 0.9), "better training"),
        ((0.1, 0.9, 0.5), "regularisation"),
        ((0.3, 0.3, 0.9), "damage"),
        ((0.199, 0.3, 0.9), "neutral"),
    ):
        assert set(effects_table(runs(*arguments), "test_error", 0.95)["regime"]) == {regime}


def test_the_chosen_level_is_judged_on_other_data_than_it_was_chosen_on():
    """No arm differs from the dense net: the best of twenty levels must not look better than it."""
    rng = np.random.default_rng(0)
    rows = []
    for r in range(200):
        for arm, levels in (("dense", [0]), ("lrr", range(1, 21))):
            for k in levels:
                validation, test = 0.2 + 0.02 * rng.normal(size=2)
                rows.append((0.0, k, 0.8**k, arm, r, validation, test))
    names = ["noise", "level", "density", "arm", "replicate", "validation_error", "test_error"]
    best = optimal_levels(pd.DataFrame(rows, columns=names), ("lrr",), 0.95).iloc[0]
    assert abs(best["change"]) < 4 * best["std_error"]
    assert best["mean_level"] > 5


# --- stacks ----------------------------------------------------------------------------------------------


def _data(n=90, p=5, classes=3):
    rng = np.random.default_rng(0)
    X = torch.tensor(rng.normal(size=(n, p)), dtype=torch.float32)
    return X, torch.tensor(rng.integers(0, classes, n))


def _modules(count, hidden=(7,)):
    torch.manual_seed(0)
    return [MLP(5, 3, hidden=hidden) for _ in range(count)]


def test_a_stack_trains_each_network_as_torch_would_alone():
    X, y = _data()
    modules, recipe = _modules(3), Recipe(epochs=4, batch_size=16, lr=0.2)
    stack = Stack.of(modules, prune_output=False)
    train(
        stack,
        None,
        X,
        y,
        torch.arange(90).expand(3, -1),
        [np.random.default_rng(b) for b in range(3)],
        recipe,
    )
    for b, module in enumerate(modules):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4)
        rng = np.random.default_rng(b)
        for epoch in range(4):
            optimizer.param_groups[0]["lr"] = recipe.lr_at(epoch)
            for batch in torch.from_numpy(rng.permutation(90)).split(16):
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(X[batch]), y[batch]).backward()
                optimizer.step()
        for name, value in module.named_parameters():
            torch.testing.assert_close(
                stack.parameters[name][b], value.detach(), atol=1e-5, rtol=1e-5
            )


def test_batched_and_looped_networks_agree():
    X, y = _data()
    stacks = []
    for looped in (False, True):
        stack = Stack.of(_modules(4), False, looped)
        masks = keep_largest(
            {n: stack.parameters[n].abs() for n in stack.prunable}, full_masks(stack), 20
        )
        orders = [np.random.default_rng(0) for _ in range(4)]
        train(stack, masks, X, y, torch.arange(90).expand(4, -1), orders, Recipe(5, 32))
        stacks.append(stack)
    for name, value in stacks[0].parameters.items():
        torch.testing.assert_close(value, stacks[1].parameters[name], atol=1e-5, rtol=1e-5)
    losses = [evaluate(stack, X, y).loss for stack in stacks]
    np.testing.assert_allclose(*losses, atol=1e-5)


def test_pruned_weights_are_exactly_zero_after_training():
    X, y = _data()
    stack = Stack.of(_modules(2), False)
    masks = keep_largest(
        {n: stack.parameters[n].abs() for n in stack.prunable}, full_masks(stack), 11
    )
    assert [int(m.flatten(1).sum(1)[0]) for m in masks.values()] == [11]
    train(
        stack,
        masks,
        X,
        y,
        torch.arange(90).expand(2, -1),
        [np.random.default_rng(0)] * 2,
        Recipe(3, 16),
    )
    for name, keep in masks.items():
        assert (stack.parameters[name][~keep] == 0).all()
        assert (stack.parameters[name][keep] != 0).all()


def test_ties_do_not_change_the_count_and_masks_are_nested():
    stack = Stack.of(_modules(2, hidden=(6, 4)), False)
    scores = {n: torch.ones_like(stack.parameters[n]) for n in stack.prunable}
    before = full_masks(stack)
    for n_keep in (40, 17, 3):
        after = keep_largest(scores, before, n_keep)
        assert sum(m[0].sum() for m in after.values()) == n_keep
        assert all((~before[n] & after[n]).sum() == 0 for n in after)
        before = after


def test_normalisations_keep_their_statistics_network_by_network():
    def module():
        return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))

    X, y = _data()
    stack = Stack.of([module(), module()], False)
    assert stack.looped
    records = torch.stack([torch.arange(90), torch.arange(90).flip(0)])
    train(stack, None, X, y, records, [np.random.default_rng(b) for b in range(2)], Recipe(2, 30))
    assert stack.buffers["1.num_batches_tracked"].tolist() == [6, 6]
    assert (stack.buffers["1.running_mean"].abs().sum(1) > 0).all()


# --- the experiment --------------------------------------------------------------------------------------


def test_without_pruning_learning_rate_rewinding_is_extended_training_bit_for_bit(digits):
    """A fraction so small that no weight goes."""
    runs = (
        decompose_pruning_effect(
            (16,),
            *digits,
            noise=(0.1,),
            fraction=1e-9,
            levels=2,
            n_replicates=2,
            epochs=3,
            random_state=0,
        )
        .runs.set_index(["arm", "level", "replicate"])
        .sort_index()
    )
    columns = ["train_loss", "test_loss", "test_error", "memorised"]
    pd.testing.assert_frame_equal(runs.loc["lrr"][columns], runs.loc["edt"][columns])
    pd.testing.assert_frame_equal(runs.loc["lrr"][columns], runs.loc["random"][columns])
    # and what starts anew is the dense net again
    dense = runs.loc["dense", 0][columns]
    for arm in ("wr", "sparse_short", "narrow"):
        for k in (1, 2):
            pd.testing.assert_frame_equal(runs.loc[arm, k][columns], dense)


def test_every_arm_has_the_size_and_the_epochs_that_it_should(result):
    runs = result.runs
    assert set(runs["arm"]) == {"dense", "lrr", "edt", "sparse_short", "wr", "random", "narrow"}
    n_prunable = 64 * 32 + 32 * 16
    for arm in ("lrr", "wr", "random", "sparse_short"):
        own = runs[runs["arm"] == arm]
        np.testing.assert_allclose(
            own["density"], np.round(0.5 ** own["level"] * n_prunable) / n_prunable
        )
    assert (runs.loc[runs["arm"] == "edt", "density"] == 1).all()
    narrow = runs[runs["arm"] == "narrow"]
    np.testing.assert_allclose(narrow["density"], 0.5 ** narrow["level"], rtol=0.1)
    long = runs["arm"].isin(["lrr", "edt", "random"])
    np.testing.assert_array_equal(runs["epochs_total"], np.where(long, 6 * (runs["level"] + 1), 6))


def test_results_do_not_depend_on_the_workers_and_survive_an_interruption(digits, tmp_path):
    call = {**SMALL, "levels": 1, "n_replicates": 2, "epochs": 2, "noise": (0.0, 0.3)}
    one = decompose_pruning_effect((8,), *digits, **call)
    two = decompose_pruning_effect((8,), *digits, **call, n_jobs=2, checkpoint_dir=tmp_path)
    pd.testing.assert_frame_equal(one.runs, two.runs)
    (tmp_path / "task_000001.zip").unlink()  # as if it had been killed before
    again = decompose_pruning_effect((8,), *digits, **call, checkpoint_dir=tmp_path)
    pd.testing.assert_frame_equal(one.runs, again.runs)
    pd.testing.assert_frame_equal(one.effects, again.effects)


def test_a_module_of_ones_own_goes_through_the_loop(digits):
    def convolutions(n_outputs):
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
            nn.Linear(144, n_outputs),
        )  # fmt: skip

    result = decompose_pruning_effect(
        convolutions, *(d[:200] for d in digits), noise=(0.0,), fraction=0.5, levels=1, n_replicates=2,
        epochs=2, random_state=0,
    )  # fmt: skip
    assert set(result.runs["arm"]) == {"dense", "lrr", "edt", "sparse_short", "wr", "random"}
    assert set(result.runs.loc[result.runs["arm"] == "lrr", "density"]) == {0.5}


def test_a_looped_perceptron_gives_the_experiment_of_the_batched_one(digits):
    call = {**SMALL, "levels": 1, "n_replicates": 2, "epochs": 2, "noise": (0.2,)}
    batched = decompose_pruning_effect((8,), *digits, **call)
    looped = decompose_pruning_effect((8,), *digits, **call, looped=True)
    np.testing.assert_allclose(batched.runs["train_loss"], looped.runs["train_loss"], atol=1e-5)


@pytest.mark.slow
def test_the_pilot_on_digits_shows_the_known_patterns():
    """Extended training leaves clean test error alone; chosen masks beat random ones; sparsity forgets noisy labels."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order] / 16, y[order]
    result = decompose_pruning_effect(
        (128, 64),
        X[:1100],
        y[:1100],
        X[1100:],
        y[1100:],
        fraction=0.36,
        levels=9,
        epochs=25,
        random_state=0,
    )
    mean = result.runs.groupby(["noise", "arm", "level"])[["test_error", "memorised"]].mean()
    dense = mean.loc[(0.0, "dense", 0), "test_error"]
    assert abs(mean.loc[(0.0, "edt")]["test_error"] - dense).max() < 0.01
    sparse = range(5, 10)  # density 0.11 and less
    clean = mean.loc[0.0]["test_error"]
    assert all(clean["random", k] > clean["lrr", k] for k in sparse)
    fitted = mean.loc[0.2]["memorised"]
    assert fitted["edt", 9] > 0.95
    assert fitted["lrr", 9] < 0.5 < fitted["edt", 9]


# --- labels, displays, bad input ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "changed"), [("uniform", 0.9), ("symmetric", 1.0)])
def test_noise_changes_the_stated_share_of_labels(kind, changed):
    y = np.random.default_rng(0).integers(0, 10, 5000)
    noisy = noisy_labels(y, 0.3, 10, kind, np.random.default_rng(1))
    share = 0.3 * changed
    assert (
        abs((noisy != y).mean() - share)
        <= 4 * np.sqrt(0.3 * changed * (1 - changed) / 5000) + 1e-12
    )
    assert noisy.min() >= 0
    assert noisy.max() <= 9


def test_the_summary_names_every_level_and_its_regime(result):
    text = result.summary().as_text()
    assert text == str(result)
    assert "label noise 0.2" in text
    assert text.count("[") >= 6
    row = result.influence.iloc[0]
    assert row["n_removed"] == 54
    assert row["estimate"] == pytest.approx(row["error_without_top"] - row["error_without_random"])


@pytest.mark.parametrize("kind", ["error", "train_loss", "memorised", "decomposition", "subgroups"])
def test_every_kind_of_plot_draws(result, kind):
    display = PruningEffectDisplay.from_result(result, kind, noise=0.2)
    assert display.ax_.has_data()
    import matplotlib.pyplot as plt

    plt.close(display.ax_.figure)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": (1.0,)}, "noise must be a finite number in"),
        ({"noise": ()}, "noise must hold different shares"),
        ({"fraction": 1.0}, "fraction must be a finite number in"),
        ({"levels": 0}, "levels must be an integer >= 1"),
        ({"arms": ("lrr", "edt")}, "sparse_short is missing"),
        ({"arms": ("lrr", "edt", "sparse_short", "lottery")}, "arms must be"),
        ({"noise_type": "flip"}, 'noise_type must be "uniform" or "symmetric"'),
        ({"rewind_epoch": 99}, "rewind_epoch must be an integer in"),
        ({"influence_top": 0.0}, "influence_top must be a finite number in"),
        ({"level": 95}, "did you mean 0.95"),
    ],
)
def test_unusable_arguments_are_refused_by_name(digits, arguments, message):
    with pytest.raises(ValueError, match=message):
        decompose_pruning_effect((8,), *digits, **{**SMALL, **arguments})


def test_unusable_data_and_modules_are_refused_by_name(digits):
    X, y, X_test, y_test = digits
    with pytest.raises(ValueError, match="Input X contains NaN"):
        decompose_pruning_effect((8,), X * np.nan, y, X_test, y_test)
    with pytest.raises(ValueError, match="X_test must have records of shape"):
        decompose_pruning_effect((8,), X, y, X_test[:, :5], y_test)
    with pytest.raises(ValueError, match="y holds one class only"):
        decompose_pruning_effect((8,), X, y * 0, X_test, y_test)
    with pytest.raises(ValueError, match="y_test holds classes that y does not"):
        decompose_pruning_effect((8,), X, y, X_test, y_test + 20)
    with pytest.raises(TypeError, match="every replicate needs new weights"):
        decompose_pruning_effect(MLP(64, 10), X, y, X_test, y_test)
    with pytest.raises(ValueError, match='"narrow" only where module is hidden widths'):
        decompose_pruning_effect(
            MLP, X, y, X_test, y_test, arms=("lrr", "edt", "sparse_short", "narrow")
        )


def test_effects_of_one_table_are_those_written_out():
    e = effects_of(*(np.array([v]) for v in (0.30, 0.25, 0.28, 0.20)))
    assert e["total"][0] == pytest.approx(0.10)
    assert e["time"][0] == pytest.approx((0.05 + 0.08) / 2)
    assert e["interaction"][0] == pytest.approx(0.03)
