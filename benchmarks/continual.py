"""Benchmarks of statml.adapters.continual.

    python benchmarks/continual.py                          # everything
    python benchmarks/continual.py forgetting weibull       # some parts
    python benchmarks/continual.py queries --seeds 10 11    # other draws of data, weights and orders
    python benchmarks/continual.py forgetting --keep DIR    # keeps finished seeds in DIR, and goes on from there

The studies (`_continual_studies`) are repeated over seeds, and their tables hold means with 95 % t-intervals over these. Both sides of a
comparison run in turn in one process, in CPU time on one thread. Peers live in virtual environments of their own, .venv-weibull (libMR
is compiled there, which takes a C++ compiler) and .venv-continual, made on the first run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import pandas as pd
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
SEEDS = [10, 11, 12, 13, 14]  # settings were chosen on 0, 1 and 2


# --- studies over seeds ------------------------------------------------------------------------------

TITLES = {
    "forgetting": "R1. Digits in five tasks: accuracy over all ten at the end, of the first two, of the last two",
    "known_rejected": "Share of known records called unknown, nominally at most 5 %",
    "queries": "R3. 300 questions to a pool of which half is foreign",
    "exemplars": "R4. 200 exemplars out of 2,000 records",
    "orders": "R5. Order of tasks: accuracy over the classes seen, at the end and on average over tasks",
    "speech": "Spoken digits in five tasks, tested on two speakers who were not heard",
}


def study(name: str, seeds: list[int], keep: Path | None) -> None:
    """Run a study for every seed and print what came out."""
    import _continual_studies

    frame = _over_seeds(name, getattr(_continual_studies, name), seeds, keep)
    _print_study(TITLES[name], frame)
    if name == "forgetting":
        _paired_steps(frame)


def _over_seeds(name: str, function, seeds: list[int], keep: Path | None) -> pd.DataFrame:
    """Rows of all seeds; those of finished seeds are kept, and taken, in a folder if one is given."""
    frames = []
    for seed in seeds:
        kept = None if keep is None else keep / f"{name}-{seed}.json"
        if kept is not None and kept.exists():
            rows = json.loads(kept.read_text())
        else:
            rows = function(seed)
            if kept is not None:
                keep.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps(rows))
        frames.append(pd.DataFrame(rows).assign(seed=seed))
    return pd.concat(frames)


def _with_interval(values: pd.Series) -> str:
    if values.isna().all():
        return ""
    if len(values) < 2:
        return f"{values.mean():.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():.3f} ± {half:.3f}"


def _paired_steps(frame: pd.DataFrame) -> None:
    """From each replay to the next better: differences within seeds."""
    acc = frame.pivot(index="seed", columns="replay", values="acc")
    order = ["none", "prior", "openset", "aggregate", "joint"]
    rows = [
        {"from": a, "to": b, "gain": _with_interval(acc[b] - acc[a])}
        for a, b in itertools.pairwise(order)
    ]
    _print("R1. What each replay gains over the one before, within seeds", pd.DataFrame(rows))


# --- fits of the bound -------------------------------------------------------------------------------


def weibull() -> None:
    """The Weibull fits of all classes by statml, libMR and pytorch-ood."""
    worker = Path(__file__).parent / "_weibull_worker.py"
    out = subprocess.run(
        [_weibull_environment(), worker], check=True, stdout=subprocess.PIPE, text=True
    )
    _print(
        "Weibull fits of all classes, one thread, CPU time", json.loads(out.stdout.splitlines()[-1])
    )


def _weibull_environment() -> Path:
    """The Python of an environment with libMR and pytorch-ood, made at need."""
    folder = ROOT / ".venv-weibull"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
        for packages in (
            [
                "cython<3",
                "numpy",
                "setuptools",
                "wheel",
            ],  # what libMR 0.1.9 is built with, but does not say
            ["--no-build-isolation", "libmr==0.1.9"],
            ["--no-deps", "pytorch-ood==0.4.0"],  # one file of it, which needs scipy alone
            ["-e", str(ROOT)],
        ):
            subprocess.run([*install, *packages], check=True)
        (folder / "ready").touch()
    return python


# --- peers over seeds --------------------------------------------------------------------------------

PEER_TITLES = {
    "open_set": "R2. Share called unknown where 5 % of the known may be, by pytorch-ood and by statml",
    "learners": "Digits in five tasks, 500 steps a task, by Avalanche and by statml",
    "steps": "CPU time of a training step against a bare torch loop on the same network",
}
PACKAGES = (  # torchvision's binary wants another build of torch: the worker goes round it
    ["-e", f"{ROOT}[torch]", "mlxtend"],
    ["--no-deps", "torchvision==0.28.0", "avalanche-lib==0.6.0", "pytorch-ood==0.4.0"],
    ["dill", "gdown", "GPUtil", "pytorchcv", "qpsolvers", "tensorboard", "torchmetrics", "wandb"],
)


def peers(name: str, seeds: list[int], keep: Path | None) -> None:
    """Run a part of the worker for every seed and print what came out."""
    worker = Path(__file__).parent / "_continual_peers_worker.py"

    def rows_of(seed: int) -> list[dict]:
        command = [_peers_environment(), "-W", "ignore", worker, name, str(seed)]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(out.stdout.splitlines()[-1])

    _print_study(PEER_TITLES[name], _over_seeds(name, rows_of, seeds, keep))


def _peers_environment() -> Path:
    """The Python of an environment with Avalanche and pytorch-ood, made at need."""
    folder = ROOT / ".venv-continual"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for packages in PACKAGES:
            install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
            subprocess.run([*install, *packages], check=True)
        (folder / "ready").touch()
    return python


def _print_study(title: str, frame: pd.DataFrame) -> None:
    """Means and intervals over seeds of every measure, by the columns that hold names."""
    labels = [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]
    measures = [c for c in frame if c not in (*labels, "seed")]
    table = frame.groupby(labels, sort=False)[measures].agg(_with_interval).reset_index()
    _print(f"{title} (seeds {', '.join(map(str, frame['seed'].unique()))})", table)


def _print(title: str, rows) -> None:
    print(f"\n{title}\n")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4g"), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = [*TITLES, *PEER_TITLES, "weibull"]
    parser.add_argument("parts", nargs="*", choices=parts, default=parts)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--keep", type=Path)
    chosen = parser.parse_args()
    for name in chosen.parts:
        if name == "weibull":
            weibull()
        elif name in PEER_TITLES:
            peers(name, chosen.seeds, chosen.keep)
        else:
            study(name, chosen.seeds, chosen.keep)


if __name__ == "__main__":
    main()
