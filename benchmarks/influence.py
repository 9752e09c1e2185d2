"""Benchmarks of statml.influence against its peers: speed of influence functions, and scores on a network.

    python benchmarks/influence.py              # everything (about five minutes, after the environment is made)
    python benchmarks/influence.py linear       # one part

Both sides of a comparison run one after the other in one process, on one thread. Peers that need torch, and statml beside
them, live in a virtual environment of their own, .venv-dattri, made on the first run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from statml.influence import DataShapley, KNNShapley, LeaveOneOut

ROOT = Path(__file__).resolve().parents[1]


def linear() -> None:
    print("\n## Influence functions of linear models: statml, pyinfluence 0.5.0 and dattri 0.3.0\n")
    _print(_in_environment("dattri", "_linear_peers.py"))


def network() -> None:
    print(
        "\n## Linear datamodeling scores on a 64-32-10 network, 800 digits: statml and dattri 0.3.0\n"
    )
    _print(_in_environment("dattri", "_network_peers.py"))


def removal() -> None:
    print("\n## Exact leave-one-out and KNN-Shapley: statml, pyinfluence 0.5.0 and dattri 0.3.0\n")
    _print(_in_environment("dattri", "_removal_peers.py"))


def retraining() -> None:
    """pyDVL 0.10 needs numpy < 2, so each side runs in its own environment, one after the other, on the same arrays."""
    print("\n## Leave-one-out, permutation Shapley and KNN-Shapley: statml and pyDVL 0.10.0\n")
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit(X[:400]).transform(X)
    D, d = load_digits(return_X_y=True)
    D, n_permutations = D / 16, 2
    train, test = (X[:400], y[:400]), (X[400:], y[400:])
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "data.npz", Path(folder) / "result.npz"
        np.savez(
            source, X=train[0], y=train[1], X_test=test[0], y_test=test[1],
            D=D[:1200], d=d[:1200], D_test=D[1200:], d_test=d[1200:], permutations=n_permutations,
        )  # fmt: skip
        worker = Path(__file__).parent / "_pydvl_worker.py"
        subprocess.run(
            [_environment("pydvl"), worker, source, result], check=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        theirs = dict(np.load(result))
    model = LogisticRegression(tol=1e-8, max_iter=1000).fit(*train)
    loo, loo_seconds = _timed(lambda: LeaveOneOut().fit(model, *train).influence(*test), 5)
    shapley, shapley_seconds = _timed(
        lambda: (
            DataShapley("permutation", max_permutations=n_permutations, stop=0, random_state=0)
            .fit(model, *train, X_val=test[0], y_val=test[1])
            .values_
        ),
        2,
    )
    knn = KNNShapley(5, ties="order").fit(None, D[:1200], d[:1200])
    neighbours, knn_seconds = _timed(lambda: knn.influence(D[1200:], d[1200:]), 5)

    def sorting():
        distance = (D[1200:] ** 2).sum(axis=1)[:, None] + (D[:1200] ** 2).sum(axis=1)
        distance -= 2 * D[1200:] @ D[:1200].T
        return np.argsort(distance, axis=1, kind="stable")

    _, floor = _timed(sorting, 5)
    rows = []
    for task, ours, seconds, name in (
        ("leave-one-out, breast cancer, all 400 records", loo.mean(axis=0), loo_seconds, "loo"),
        (f"{n_permutations} permutations of 400, log-loss", shapley, shapley_seconds, "shapley"),
        ("KNN-Shapley, digits 1200 x 597", neighbours.mean(axis=0), knn_seconds, "knn"),
        ("distances and sorting alone", None, floor, None),
    ):
        peer = float(theirs[f"{name}_seconds"]) if name else float("nan")
        rows.append(
            {
                "task": task,
                "statml s": seconds,
                "pyDVL s": peer,
                "ratio": peer / seconds,
                "correlation": np.corrcoef(ours, theirs[name])[0, 1] if name else float("nan"),
            }
        )
    _print(rows)


def _timed(function, repeats: int):
    """The result and the least CPU time of some calls."""
    best, result = np.inf, None
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return result, best


ENVIRONMENTS = {
    "pydvl": ["pyDVL==0.10.0", "numpy<2", "zarr<3.1", "scikit-learn<1.7"],
    "dattri": ["torch==2.13.0", "dattri==0.3.0", "pyinfluence==0.5.0", "-e", f"{ROOT}[torch]"],
}


def _environment(name: str) -> Path:
    """The Python of an environment with a peer, made at need."""
    folder = ROOT / f".venv-{name}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "-q"]
        if name != "pydvl":  # which wants older versions than ours
            install += ["-c", ROOT / "constraints.txt"]
        subprocess.run([*install, *ENVIRONMENTS[name]], check=True)
        (folder / "ready").touch()
    return python


def _in_environment(name: str, script: str) -> list[dict]:
    """Run a helper script in an environment with the peers; the table it prints last, as JSON."""
    python = _environment(name)
    out = subprocess.run(
        [python, Path(__file__).parent / script], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(out.stdout.splitlines()[-1])


def _print(rows: list[dict]) -> None:
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4g"), flush=True)


PARTS = {"linear": linear, "removal": removal, "retraining": retraining, "network": network}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
