"""Zero-shot quantization: rounding methods and image sources on one network, and what peers make of it at eight bits.

    python benchmarks/quantization.py                 # all of it
    python benchmarks/quantization.py accuracy        # ResNet-8 on Fashion-MNIST, 2-bit weights and activations
    python benchmarks/quantization.py sources         # the same on images of other sources
    python benchmarks/quantization.py peer            # model-compression-toolkit, torchao and onnxruntime; the first two in an
                                                      # environment of their own (made on first use)
    python benchmarks/quantization.py accuracy --keep FOLDER --seeds 0 1
                                                      # results of single runs are kept in FOLDER, and taken from there

A seed changes everything random: which real images there are, the synthetic ones, and the reconstruction. Intervals are
Student's over seeds, those of differences over paired seeds. Accuracy is that on the 10,000 test images. Nothing was chosen by it: all
rows that were run are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
import torch
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from statml.adapters import GenieQuantizer
from statml.adapters.quantization.networks import as_input, resnet8

from statml.datasets import fetch_fashion_mnist

torch.set_num_threads(1)
warnings.simplefilter("ignore", ConvergenceWarning)  # the share is printed
ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2, 3)
N_IMAGES = 256
# name of the row: rounding method, images
ROWS = {
    "RTN min-max, real": {"method": "rtn-minmax", "data": "real"},
    "RTN p=2.4, real": {"method": "rtn-mse", "data": "real"},
    "AdaRound, real": {"method": "adaround", "data": "real"},
    "BRECQ, real": {"method": "brecq", "data": "real"},
    "QDrop, real": {"method": "qdrop", "data": "real"},
    "GENIE-M, real": {"method": "genie", "data": "real"},
    "GENIE-M, noise": {"method": "genie", "data": "noise"},
    "GENIE-M, GENIE-D": {"method": "genie", "data": "genie"},
    "QDrop, GENIE-D": {"method": "qdrop", "data": "genie"},
}
SOURCES = {  # what the ingredients of the images are worth
    "GENIE-M, GENIE-D": ROWS["GENIE-M, GENIE-D"],
    "GENIE-M, GENIE-D without swing": {"method": "genie", "data": "genie", "swing": 0},
    "GENIE-M, GBA": {"method": "genie", "data": "gba"},
    "GENIE-M, DBA": {"method": "genie", "data": "dba"},
    "GENIE-M, ZeroQ": {"method": "genie", "data": "zeroq"},
}
PAIRS = [
    ("BRECQ, real", "AdaRound, real"),
    ("QDrop, real", "BRECQ, real"),
    ("GENIE-M, real", "QDrop, real"),
    ("GENIE-M, GENIE-D", "GENIE-M, real"),
    ("QDrop, GENIE-D", "QDrop, real"),
    ("GENIE-M, GENIE-D", "GENIE-M, noise"),
    *((name, "GENIE-M, GENIE-D") for name in SOURCES if name != "GENIE-M, GENIE-D"),
    ("AdaRound, real", "RTN p=2.4, real"),
]


class Bench:
    """The data, the network, and images that are made once a source and seed."""

    def __init__(self, n_test: int = 10_000):
        images, labels = fetch_fashion_mnist("test")
        self.X, self.y = as_input(images[:n_test], "fashion-mnist").numpy(), labels[:n_test]
        self.train = fetch_fashion_mnist("train")[0]
        self.network = resnet8("fashion-mnist").eval()
        self.made: dict[tuple, np.ndarray] = {}

    def images(self, data: str, seed: int, swing: int) -> np.ndarray:
        """256 real or synthetic images."""
        key = (data, seed, swing)
        if key not in self.made:
            if data == "real":
                chosen = np.random.default_rng(seed).choice(len(self.train), N_IMAGES, False)
                self.made[key] = as_input(self.train[chosen], "fashion-mnist").numpy()
            else:
                maker = GenieQuantizer(
                    data=data, swing=swing, method="rtn-mse", random_state=seed, n_samples=N_IMAGES
                )
                maker.fit(self.network, input_shape=(1, 28, 28))
                self.made[key] = maker.synthetic_data_
        return self.made[key]

    def run(self, seed: int, method: str, data: str, swing: int = 1) -> dict:
        """One row for one seed."""
        images = self.images(data, seed, swing)
        cpu = time.process_time()
        quantizer = GenieQuantizer(2, 2, method=method, n_samples=N_IMAGES, random_state=seed)
        quantizer.fit(self.network, images)
        cpu = time.process_time() - cpu  # of the fit alone, neither images nor predictions
        return {
            "accuracy": 100 * float(np.mean(quantizer.predict(self.X) == self.y)),
            "undecided": 100 * quantizer.undecided_,
            "cpu": cpu,
        }


def accuracy(keep: Path | None, seeds, rows: dict) -> None:
    """All rows, seed by seed."""
    bench, results = None, []
    for seed in seeds:
        for name, arguments in rows.items():
            file = None if keep is None else keep / f"{name.replace(' ', '_')}_{seed}.json"
            if file is not None and file.exists():
                result = json.loads(file.read_text())
            else:
                bench = bench or Bench()
                result = bench.run(seed, **arguments)
                if file is not None:
                    file.write_text(json.dumps(result))
                print(f"{name}, seed {seed}: {result}", file=sys.stderr, flush=True)
            results.append({"row": name, "seed": seed, **result})
    report(pd.DataFrame(results), list(rows))


def report(results: pd.DataFrame, rows: list[str]) -> None:
    """Means with intervals, and differences over paired seeds."""
    bench = Bench()
    with torch.no_grad():
        outputs = torch.cat([bench.network(p) for p in torch.from_numpy(bench.X).split(500)])
    right = (outputs.argmax(1).numpy() == bench.y).mean()
    print(f"\nResNet-8, Fashion-MNIST, W2A2; float {100 * right:.2f} %")
    print("| rounding, images | accuracy % | sd | 95 % interval | undecided % | CPU s |")
    print("|---|---|---|---|---|---|")
    table = results.pivot(index="seed", columns="row", values="accuracy")
    for name in rows:
        part = results[results["row"] == name]
        mean, half = _interval(part["accuracy"])
        print(
            f"| {name} | {mean:.2f} | {part['accuracy'].std():.2f} | {mean - half:.2f} to {mean + half:.2f} | "
            f"{part['undecided'].mean():.2f} | {part['cpu'].median():.0f} |"
        )
    print("\n| difference | points | 95 % interval |\n|---|---|---|")
    for first, second in PAIRS:
        if first in table and second in table:
            mean, half = _interval(table[first] - table[second])
            print(
                f"| {first} - {second} | {mean:+.2f} | {mean - half:+.2f} to {mean + half:+.2f} |"
            )


def _interval(values: pd.Series) -> tuple[float, float]:
    """Mean, and half the width of Student's interval."""
    n = len(values)
    if n < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(stats.t.ppf(0.975, n - 1) * values.std() / n**0.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "part", nargs="?", choices=("accuracy", "sources", "peer", "all"), default="all"
    )
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--only", nargs="+", help="words that the names of rows begin or end with")
    given = parser.parse_args()
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    rows = {"accuracy": ROWS, "sources": SOURCES}.get(given.part, ROWS | SOURCES)
    if given.only:
        rows = {
            n: r
            for n, r in rows.items()
            if n.startswith(tuple(given.only)) or n.endswith(tuple(given.only))
        }
    if given.part in ("accuracy", "sources", "all"):
        accuracy(given.keep, given.seeds, rows)
    if given.part in ("peer", "all"):
        subprocess.run(
            [sys.executable, str(ROOT / "benchmarks" / "_quantization_peer.py")], check=True
        )


if __name__ == "__main__":
    main()
