"""Benchmarks of statml.adapters.pruning: what masking costs a step, accuracy of sparse networks, errors of one-shot pruning.

    python benchmarks/pruning.py                # everything
    python benchmarks/pruning.py steps          # some parts: steps, layers, saliencies, rewinding,
                                                #   channels, sparse_kernels, files

Both sides of a comparison run in turn on the same machine, in CPU time, with the same number of threads. Accuracies are of
Fashion-MNIST (its test set, 10,000 images), which is downloaded on the first run.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from functools import cache

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
import torch
from _pruning_deployment import TITLES, channels, files, sparse_kernels
from statml.adapters import MLP, NetClassifier, PruningClassifier
from statml.adapters._net import Batches, Records
from statml.adapters.pruning import (
    SALIENCIES,
    apply_masks,
    gradient_factors,
    mask_gradients,
    prunable_weights,
    prune,
)
from statml.adapters.pruning.schedule.iterative import Iterative
from statml.adapters.pruning.training import Masking, PruningNet
from torch import nn
from torch.nn.utils import prune as torch_prune

from statml.datasets import fetch_fashion_mnist

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


# --- what masking costs a training step -------------------------------------------------------------

NETWORKS = {
    "MLP 64-128-64-10": (lambda: MLP(64, 10, hidden=(128, 64)), (64,)),
    "MLP 784-300-100-10": (lambda: MLP(784, 10, hidden=(300, 100)), (784,)),
    "small convnet, 14x14": (lambda: convnet(), (1, 14, 14)),
}


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 9, 10),
    )


def steps() -> None:
    """A step dense, with masks, and with torch.nn.utils.prune, in the same loop."""
    rows = []
    for name, (make, shape) in NETWORKS.items():
        torch.manual_seed(0)
        X, y = torch.randn(128 * 16, *shape), torch.randint(0, 10, (128 * 16,))
        loops = {
            "plain loop": {
                "dense": _plain_loop(make(), X, y, None),
                "statml": _plain_loop(make(), X, y, "masks"),
                "torch.nn.utils.prune": _plain_loop(make(), X, y, "torch"),
            },
            "skorch loop": {
                "dense": _skorch_loop(make(), X, y, False),
                "statml": _skorch_loop(make(), X, y, True),
            },
        }
        for loop, sides in loops.items():
            times = {side: [] for side in sides}
            for _ in range(15):  # interleaved, so that all sides meet the same load
                for side, run in sides.items():
                    start = time.process_time()
                    run()
                    times[side].append(time.process_time() - start)
            dense = np.array(times["dense"])
            row = {"network": name, "loop": loop, "dense us/step": np.median(dense) / 16 * 1e6}
            for side in sides:
                if side != "dense":
                    row[f"{side} / dense"] = float(np.median(np.array(times[side]) / dense))
            rows.append(row)
    _print(
        "A training step (batch 128, momentum, 90 % sparse): CPU time over that of the dense network",
        rows,
    )


def _plain_loop(net, X, y, masking):
    if masking == "torch":
        layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][:-1]
        torch_prune.global_unstructured(
            [(m, "weight") for m in layers], torch_prune.L1Unstructured, amount=0.9
        )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    weights, factors = [], []
    if masking == "masks":
        _, masks = prune(net, 0.9, scope="layer")
        apply_masks(net, masks)
        weights = list(prunable_weights(net).values())
        factors = gradient_factors(weights, masks.values())

    def epoch():
        for Xi, yi in zip(X.split(128), y.split(128), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(Xi), yi).backward()
            if factors:
                mask_gradients(weights, factors)
            optimizer.step()

    epoch()
    return epoch


def _skorch_loop(net, X, y, masking):
    model = PruningNet(
        net,
        criterion=nn.CrossEntropyLoss(reduction="none"),
        optimizer=torch.optim.SGD,
        optimizer__lr=0.01,
        optimizer__momentum=0.9,
        optimizer__weight_decay=1e-4,
        batch_size=128,
        max_epochs=1,
        iterator_train=Batches,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks__print_log=None,
    ).initialize()
    if masking:
        weights = prunable_weights(net)
        _, masks = prune(net, 0.9, scope="layer")
        model.callbacks_.append(("masking", Masking(net, list(weights), masks).initialize()))
    data = Records(X, {"y": y})
    model.partial_fit(data, epochs=1)
    return lambda: model.partial_fit(data, epochs=1)


# --- one layer, one shot ----------------------------------------------------------------------------


def layers() -> None:
    """Relative output error of a 64 x 32 layer with correlated inputs, without any training."""
    rng, repeats = np.random.default_rng(0), 10
    methods = {
        "random": ("random", "row", None),
        "magnitude": ("magnitude", "row", None),
        "wanda": ("wanda", "row", None),
        "sparsegpt": ("sparsegpt", "layer", None),
        "wanda + ls": ("wanda", "row", "ls"),
        "obc": ("obc", "layer", None),
    }
    found = {}
    for structure in ("unstructured", "2:4"):
        for _ in range(repeats):
            layer, X = ar_layer(rng)
            X, fresh = X.chunk(2)
            for name, (criterion, scope, compensate) in methods.items():
                if structure == "2:4" and scope == "row":
                    scope = "layer"
                sparse, _ = prune(
                    layer,
                    0.5,
                    criterion,
                    (X, torch.zeros(len(X), 32)),
                    scope=scope,
                    structure=structure,
                    compensate=compensate,
                    loss="mse",
                    prune_output=True,
                    random_state=rng,
                )
                with torch.no_grad():
                    error = (sparse(fresh) - layer(fresh)).square().sum() / layer(
                        fresh
                    ).square().sum()
                found.setdefault(name, {}).setdefault(structure, []).append(float(error))
    rows = [
        {"method": name, **{f"{s}, error": np.mean(v) for s, v in both.items()}}
        for name, both in found.items()
    ]
    _print(
        f"One layer at 50 %, inputs AR(0.8): relative error of its output on fresh inputs, mean of {repeats}",
        rows,
    )


def ar_layer(rng: np.random.Generator, n: int = 4000, d: int = 64, rho: float = 0.8):
    """A linear layer with normal weights, and inputs that are an autoregressive process along the features."""
    noise = rng.standard_normal((n, d))
    X = np.empty((n, d))
    X[:, 0] = noise[:, 0]
    for j in range(1, d):
        X[:, j] = rho * X[:, j - 1] + np.sqrt(1 - rho**2) * noise[:, j]
    X *= np.exp(rng.normal(0, 0.5, d))  # features of different scale
    layer = nn.Linear(d, 32, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(rng.standard_normal((32, d)) / 8))
    return layer, torch.from_numpy(X).float()


# --- every saliency beside random -------------------------------------------------------------------


@cache
def fashion(n: int):
    X, y = fetch_fashion_mnist("train")
    X_test, y_test = fetch_fashion_mnist("test")
    chosen = np.random.default_rng(0).permutation(len(X))[:n]
    scale = lambda images: ((images.reshape(len(images), -1) / 255 - 0.286) / 0.353).astype("f4")  # noqa: E731
    return scale(X[chosen]), y[chosen], scale(X_test), y_test


def saliencies() -> None:
    """One-shot pruning of one trained network by every saliency, then as many epochs for all."""
    X, y, X_test, y_test = fashion(5000)
    dense = NetClassifier(
        module__hidden=(100, 50),
        optimizer="sgd",
        optimizer__momentum=0.9,
        lr=0.05,
        epochs=15,
        random_state=0,
    ).fit(X, y)
    longer = NetClassifier(
        dense.module_, optimizer="sgd", optimizer__momentum=0.9, lr=0.05, epochs=20, random_state=0
    )
    longer.fit(X, y)
    print(
        f"\ndense: test accuracy {dense.score(X_test, y_test):.4f}, trained 20 epochs more {longer.score(X_test, y_test):.4f}"
    )
    rows = []
    for criterion in [
        "random",
        *(
            c
            for c in SALIENCIES.names()
            if c not in ("random", "woodfisher", "variational_dropout")
        ),
    ]:
        row = {"saliency": criterion}
        solver = criterion in ("sparsegpt", "obc")
        row["scope"] = "layer" if solver else "row" if criterion == "wanda" else "global"
        for sparsity in (0.9, 0.98):
            accuracy = []
            start = time.process_time()
            for seed in range(2):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # collapse is part of the answer
                    model = PruningClassifier(
                        dense.module_,
                        criterion=criterion,
                        scope=row["scope"],
                        sparsity=sparsity,
                        schedule="one-shot",
                        epochs=10,
                        lr=0.05,
                        validation_fraction=0.0,
                        random_state=seed,
                    ).fit(X, y)
                accuracy.append(model.score(X_test, y_test))
            row[f"accuracy at {sparsity:.0%}"] = np.mean(accuracy)
            row["CPU s"] = row.get("CPU s", 0.0) + time.process_time() - start
        rows.append(row)
    _print(
        "Fashion-MNIST, 5,000 images, MLP 784-100-50-10: one shot, then 10 epochs; mean of 2 seeds",
        rows,
    )


# --- iterative pruning ------------------------------------------------------------------------------


def rewinding() -> None:
    """Iterative magnitude pruning to 90 %, against dense networks trained once and as long."""
    X, y, X_test, y_test = fashion(5000)
    for hidden in ((100, 50), (300, 100)):
        rows = []
        for seed in range(3):
            common = {
                "module__hidden": hidden,
                "epochs": 15,
                "lr": 0.05,
                "weight_decay": 5e-4,
                "validation_fraction": 0.0,
                "random_state": seed,
            }
            runs = {
                "LRR": {"sparsity": 0.9, "rewind": "lr"},
                "dense, trained as long": {"sparsity": 0.0, "schedule": Iterative(11)},
                "weight rewinding": {"sparsity": 0.9, "rewind": "weight", "rewind_epoch": 1},
                "random masks, LRR": {"sparsity": 0.9, "criterion": "random"},
            }
            row = {"seed": seed}
            for name, changes in runs.items():
                model = PruningClassifier(**common, **changes).fit(X, y)
                if name == "LRR":
                    row["dense"] = 100 * model.at_sparsity(0.0).score(X_test, y_test)
                row[name] = 100 * model.score(X_test, y_test)
            rows.append(row)
        shape = "-".join(map(str, (784, *hidden, 10)))
        _print(
            f"Fashion-MNIST, 5,000 images, MLP {shape}, 15 epochs a cycle, 90 % sparse: test accuracy in %",
            rows,
        )
        table = pd.DataFrame(rows).drop(columns="seed")
        for name in table.columns.drop("dense"):
            difference = table[name] - table["dense"]
            half = 4.303 * difference.std(ddof=1) / np.sqrt(len(table))  # t, 2 degrees of freedom
            print(
                f"{name} minus dense: {difference.mean():+.2f} points, 95 % interval +- {half:.2f}"
            )


# --- tables -----------------------------------------------------------------------------------------


def _print(title: str, rows: list[dict]) -> None:
    table = pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4g")
    print(f"\n## {title}\n\n{table}\n", flush=True)


def _deployment(part):
    return lambda: _print(TITLES[part.__name__], part())


PARTS = {part.__name__: part for part in (steps, layers, saliencies, rewinding)}
PARTS |= {part.__name__: _deployment(part) for part in (channels, sparse_kernels, files)}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
