"""Benchmarks of statml.adapters.group_robust: what a robust step costs, and what group labels and regularisation decide.

    python benchmarks/group_robust_networks.py            # all parts, about six minutes
    python benchmarks/group_robust_networks.py digits     # one part: step, absent, digits, width, stopping

`step` and `absent` run the group DRO loss of SpuCo (its file alone, from PyPI, without SpuCo's dependencies) beside statml in one
process. Everything is on one thread. Intervals are 95 % t-intervals over seeds: each draws data and initial weights.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student
from sklearn.datasets import load_digits
from statml.adapters import (
    MLP,
    AGRONet,
    GroupDRONet,
    JTTNet,
    LfFNet,
    NetClassifier,
    NetFeatures,
)
from statml.adapters.group_robust.online import GroupPlayer
from torch import nn

from statml.datasets import make_colored_digits, make_overparameterized_spurious
from statml.group_robust import DeepFeatureReweighting, worst_group_score
from statml.group_robust.dfr import balanced_subset

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[1]
SEEDS = 5


# --- a step ------------------------------------------------------------------------------------------


def spuco_loss() -> type[nn.Module]:
    """SpuCo's GroupWeightedLoss; its package imports transformers, torchvision and others, which the loss does not use."""
    folder = ROOT / ".venv-spuco"
    if not (folder / "spuco").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, "spuco==2.0.3"], check=True)
    for module in (
        "spuco",
        "spuco.datasets",
        "spuco.evaluate",
        "spuco.utils",
        "spuco.robust_train",
    ):
        stub = types.ModuleType(module)
        stub.__path__ = [str(folder / module.replace(".", "/"))]
        stub.__getattr__ = lambda name: object if name[0] != "_" else None
        sys.modules[module] = stub
    sys.modules["spuco.utils.random_seed"] = types.ModuleType("random_seed")
    sys.modules["spuco.utils.random_seed"].seed_randomness = None
    return import_module("spuco.robust_train.group_dro").GroupWeightedLoss


def step() -> None:
    """Difference of a long and a short call of fit, divided by the steps between; digits by class and darkness: 20 groups."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    dark = X.mean(axis=1) > np.median(X.mean(axis=1))
    groups = 2 * y + dark
    batch = 128
    weighted = spuco_loss()
    rows = []
    for hidden, short, long, repeats in (((128, 64), 2, 22, 7), ((1000, 1000), 1, 4, 4)):
        n_steps = (long - short) * -(-len(X) // batch)
        shared = {
            "module__hidden": hidden,
            "batch_size": batch,
            "optimizer": "sgd",
            "lr": 0.05,
            "optimizer__momentum": 0.9,
            "random_state": 0,
        }

        def plain(epochs, shared=shared):
            NetClassifier(**shared, epochs=epochs).fit(X, y)

        def robust(epochs, shared=shared, **options):
            GroupDRONet(**shared, **options, epochs=epochs).fit(X, y, groups=groups)

        def by_spuco(epochs, hidden=hidden):
            """A loop as one writes it by hand around SpuCo's loss."""
            module = MLP(64, 10, hidden=hidden)
            optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
            loss_of = weighted(nn.CrossEntropyLoss(reduction="none"), 20)
            A, b, g = torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(groups)
            chance = 1 / torch.bincount(g).double()[g]
            for _ in range(epochs):
                for part in torch.multinomial(chance, len(A), replacement=True).split(batch):
                    optimizer.zero_grad()
                    loss_of(module(A[part]), b[part], g[part]).backward()
                    optimizer.step()

        sides = [
            plain,
            robust,
            partial(robust, averaging=0.5),
            partial(robust, alpha=0.2),
            by_spuco,
        ]
        calls = [partial(side, epochs) for side in sides for epochs in (short, long)]
        seconds = np.reshape(in_turns(calls, repeats), (-1, 2))
        micro = 1e6 * (seconds[:, 1] - seconds[:, 0]) / n_steps
        names = [
            "NetClassifier",
            "GroupDRONet",
            "with averaging",
            "with alpha",
            "loop around SpuCo",
        ]
        row = {"network": "64-" + "-".join(map(str, hidden)) + "-10"}
        row |= {f"{name}, us": value for name, value in zip(names, micro, strict=True)}
        row["GroupDRONet / NetClassifier"] = micro[1] / micro[0]
        row["SpuCo / GroupDRONet"] = micro[4] / micro[1]
        rows.append(row)
    report("A training step, batch 128, 20 groups", rows)


def absent() -> None:
    """Weights of groups when batches are drawn as they come: every group's loss is 1, so that weights should stay equal."""
    sizes = np.array([900, 80, 15, 5])
    codes = np.repeat(np.arange(4), sizes)
    theirs = spuco_loss()(lambda outputs, labels: outputs, 4, group_weight_lr=0.01)
    ours = GroupPlayer(np.zeros(4), None, 0.01)
    rng = np.random.default_rng(0)
    for _ in range(1000):
        group = torch.from_numpy(rng.choice(codes, 32))
        losses = torch.ones(32)
        theirs(losses, None, group)
        ours.play(losses, {"group": group})
    rows = [
        {"group's share": share, "SpuCo's loss": a, "GroupDRONet": b}
        for share, a, b in zip(
            sizes / 1000, theirs.group_weights.tolist(), ours.q.tolist(), strict=True
        )
    ]
    report(
        "Weights of four groups of the same loss after 1,000 batches of 32, drawn as they come",
        rows,
    )


# --- coloured digits ---------------------------------------------------------------------------------


def coloured(seed: int):
    """3,500 digits to train on, coloured by class in 95 %; 1,500 others in random colours; 14 x 14 pixels in two colours."""
    train = make_colored_digits(agreement=0.95, random_state=seed)
    test = make_colored_digits(agreement=0.5, random_state=1000 + seed)
    order = np.random.default_rng(seed).permutation(5000)

    def part(data, rows):
        images = data.images[rows].reshape(-1, 2, 14, 2, 14, 2).mean(axis=(3, 5))
        X = images.reshape(len(rows), -1).astype(np.float32)
        return X, data.y[rows], data.groups[rows], data.attribute[rows]

    return part(train, order[:3500]), part(test, order[3500:])


def digits() -> None:
    shared = {"module__hidden": (64,), "epochs": 10}

    def dfr(X, y, groups, seed):
        """The last layer on a fifth of the training records, which the network has not seen."""
        order = np.random.default_rng(seed).permutation(len(y))
        few, rest = order[: len(y) // 5], order[len(y) // 5 :]
        network = NetClassifier(**shared, random_state=seed).fit(X[rest], y[rest])
        features = NetFeatures(network)
        features.estimator_ = network
        head = DeepFeatureReweighting(n_retrains=10, random_state=seed)
        head.fit(features.transform(X[few]), y[few], groups[few])
        return types.SimpleNamespace(predict=lambda A: head.predict(features.transform(A)))

    def agro(**options):
        return lambda X, y, g, seed: AGRONet(**shared, **options, random_state=seed).fit(X, y)

    def dro(**options):
        return lambda X, y, g, seed: GroupDRONet(**shared, **options, random_state=seed).fit(
            X, y, groups=g
        )

    methods = {
        "mean loss": lambda X, y, g, s: NetClassifier(**shared, random_state=s).fit(X, y),
        "JTT (T = 3, 20 times)": lambda X, y, g, s: JTTNet(
            **shared, stop=0.3, upweight=20, random_state=s
        ).fit(X, y),
        "LfF": lambda X, y, g, s: LfFNet(**shared, random_state=s).fit(X, y),
        "AGRO two-stage, DOMINO start": agro(),
        "AGRO two-stage, confusion start": agro(init="confusion"),
        "AGRO alternate, confusion start": agro(init="confusion", schedule="alternate"),
        "AGRO two-stage, greedy-reverse": agro(adversary="greedy-reverse"),
        "labels: deep feature reweighting": dfr,
        "labels: reweighting": dro(eg_step=0.0),
        "labels: group DRO": dro(),
        "labels: group DRO, epoch by worst group": dro(selection="worst-group"),
    }
    found = []
    for seed in range(SEEDS):
        (X, y, groups, attribute), (X_test, y_test, groups_test, _) = coloured(seed)
        for name, fit in methods.items():
            started = time.process_time()
            model = fit(X, y, groups, seed)
            seconds = time.process_time() - started
            predicted = model.predict(X_test)
            row = {
                "method": name,
                "seed": seed,
                "worst group": worst_group_score(y_test, predicted, groups_test),
                "all": (predicted == y_test).mean(),
                "CPU s": seconds,
            }
            if hasattr(model, "slices_"):  # how much of a slice is the minority, in the purest
                P = model.slice_proba(X, y)
                row["minority in purest slice"] = (P.T @ (y != attribute) / P.sum(axis=0)).max()
            found.append(row)
            print(row, file=sys.stderr, flush=True)
    table = pd.DataFrame(found).set_index("seed")
    rows = []
    for name in methods:
        own = table[table["method"] == name]
        oracle = table[table["method"] == "labels: group DRO, epoch by worst group"]["worst group"]
        rows.append(
            {
                "method": name,
                **interval("worst group", own["worst group"]),
                **interval("minus oracle", own["worst group"] - oracle),
                **interval("all", own["all"]),
                "minority in purest slice": own.get("minority in purest slice").mean(),
                "CPU s": own["CPU s"].mean(),
            }
        )
    report(f"Coloured digits, test accuracy, {SEEDS} seeds", rows)


# --- more parameters than records --------------------------------------------------------------------


def width() -> None:
    """A linear layer on N random features, full batches: past N = n, reweighting does not act any more."""
    n, rows = 1000, []
    for N in (30, 100, 300, 1000):
        errors = {}
        for seed in range(SEEDS):
            train = make_overparameterized_spurious(n=n, n_features=N, random_state=seed)
            test = make_overparameterized_spurious(
                n=4000, p_majority=0.5, n_features=N, projection=train.projection,
                random_state=1000 + seed,
            )  # fmt: skip
            centre = train.X.mean(axis=0)
            scale = np.linalg.norm(train.X - centre, 2) / np.sqrt(n)
            X, X_test = ((d.X - centre) / scale for d in (train, test))
            codes = np.unique(train.groups, return_inverse=True)[1]
            keep = balanced_subset(codes, np.random.default_rng(seed))
            weight = 1 / np.bincount(codes)[codes]
            shared = {
                "module__hidden": (), "epochs": 500, "batch_size": n, "optimizer": "sgd",
                "optimizer__momentum": 0.9, "lr": 1.0, "random_state": seed,
            }  # fmt: skip
            fits = {
                "mean loss": NetClassifier(**shared).fit(X, train.y),
                "reweighted": NetClassifier(**shared).fit(X, train.y, sample_weight=weight),
                "subsampled": NetClassifier(**shared).fit(X[keep], train.y[keep]),
            }
            for name, model in fits.items():
                rest = keep if name == "subsampled" else np.arange(n)
                for part, error in (
                    ("train", worst_error(model, X[rest], train.y[rest], train.groups[rest])),
                    ("test", worst_error(model, X_test, test.y, test.groups)),
                ):
                    errors.setdefault(f"{name}, {part}", []).append(error)
        row = {"N": N}
        for name, values in errors.items():
            row |= interval(name, values) if "test" in name else {name: np.mean(values)}
        rows.append(row)
    report(f"Worst-group error, n = {n} (a tenth minority), {SEEDS} seeds", rows)


def noisy_toy(n: int, agreement: float, noise: float, rng: np.random.Generator):
    """A core and a spurious feature, blobs of sd 0.15 at -1 and 1, times 1 and 4; 1,200 noise features of norm `noise` in all."""
    y = rng.integers(0, 2, n)
    a = np.where(rng.random(n) < agreement, y, 1 - y)
    signal = 2.0 * np.column_stack([y, a]) - 1 + 0.15 * rng.standard_normal((n, 2))
    X = np.hstack([signal * [1, 4], noise / np.sqrt(1200) * rng.standard_normal((n, 1200))])
    return X.astype(np.float32), y, 2 * y + a


def stopping() -> None:
    """An over-parameterised network: the last epoch against one chosen by held-out worst groups, by weight decay."""
    rows = []
    for noise in (20.0,):
        for decay in (0.0, 0.1, 0.3):
            accuracy: dict[str, list[float]] = {}
            for seed in range(SEEDS):
                rng = np.random.default_rng(seed)
                X, y, groups = noisy_toy(1000, 0.9, noise, rng)
                X_test, y_test, groups_test = noisy_toy(4000, 0.5, noise, rng)
                keep = balanced_subset(groups, rng)
                shared = {
                    "module__hidden": (100,), "epochs": 30, "batch_size": 100, "optimizer": "sgd",
                    "lr": 0.01, "optimizer__momentum": 0.9, "weight_decay": decay, "random_state": seed,
                }  # fmt: skip
                for name, options, part in (
                    ("mean loss", {"alpha": 1.0, "balanced": False}, slice(None)),
                    ("reweighted", {"eg_step": 0.0}, slice(None)),
                    ("subsampled", {"eg_step": 0.0}, keep),
                    ("group DRO", {}, slice(None)),
                ):
                    for selection in (None, "worst-group"):
                        model = GroupDRONet(**shared, **options, selection=selection)
                        if selection:
                            model.set_params(validation_fraction=0.2)
                        model.fit(X[part], y[part], groups=groups[part])
                        key = f"{name}, {'last' if selection is None else 'chosen'}"
                        error = worst_error(model, X_test, y_test, groups_test)
                        accuracy.setdefault(key, []).append(1 - error)
            for name, values in accuracy.items():
                rows.append(
                    {"noise": noise, "method": name, "decay": decay}
                    | interval("worst group", values)
                )
    table = pd.DataFrame(rows)
    table["cell"] = [
        f"{m:.3f} +- {h:.3f}"
        for m, h in zip(table["worst group"], table["worst group +-"], strict=True)
    ]
    wide = table.pivot(index=["noise", "method"], columns="decay", values="cell")
    wide.columns = [f"weight decay {c:g}" for c in wide.columns]
    report(
        f"Worst-group test accuracy of a 1202-100-2 network, n = 1,000, {SEEDS} seeds",
        wide.reset_index(),
    )


# --- tables ------------------------------------------------------------------------------------------


def worst_error(model, X, y, groups) -> float:
    return 1 - worst_group_score(y, model.predict(X), groups)


def interval(name: str, values) -> dict[str, float]:
    values = np.asarray(values, dtype=float)
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return {name: values.mean(), f"{name} +-": half}


def in_turns(functions: list[Callable[[], None]], repeats: int) -> list[float]:
    """Smallest CPU time of each, the sides in turns."""
    times = np.empty((repeats, len(functions)))
    for repeat in range(repeats):
        for k, function in enumerate(functions):
            started = time.process_time()
            function()
            times[repeat, k] = time.process_time() - started
    return times.min(axis=0).tolist()


def report(title: str, rows) -> None:
    print(f"\n## {title}\n")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4g"), flush=True)


PARTS = {"step": step, "absent": absent, "digits": digits, "width": width, "stopping": stopping}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for chosen in sys.argv[1:] or PARTS:
        PARTS[chosen]()
