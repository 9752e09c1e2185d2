"""Benchmarks of statml.group_robust: exact group DRO against one logistic regression, cvxpy, fairlearn and dro.

    python benchmarks/group_robust.py                 # everything (a few minutes; the peers take most of it)
    python benchmarks/group_robust.py logistic        # one part: logistic, peers or agro

Both sides of a comparison run one after the other on the same machine with the same number of threads, and
seconds are of CPU, without imports. Peers get a virtual environment of their own, .venv-group-robust, made on the first
run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from statml.datasets import fetch_adult, make_spurious_gaussians
from statml.group_robust import (
    AGROClassifier,
    CVaRClassifier,
    GroupDROClassifier,
    GroupDRORegressor,
    JTTClassifier,
    worst_group_score,
)

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("cvxpy==1.9.3", "clarabel==0.11.1", "fairlearn==0.15.0", "dro==0.4.3")
L2 = 1e-3


def adult():
    """Standardised design, income, and the groups income x sex and sex."""
    data = fetch_adult()
    table = data.data.drop(columns=["fnlwgt", "education"])
    table["native-country"] = (table["native-country"] == "United-States").astype(float)
    X = pd.get_dummies(table, drop_first=True, dtype=float)
    X = ((X - X.mean()) / X.std()).to_numpy()
    y, sex = data.target.to_numpy(), (table["sex"] == "Male").to_numpy().astype(int)
    return X, y, 2 * y + sex, sex, table


def seconds_of(function, repeats=3):
    """The least CPU time of some runs, and the last result."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        result = function()
        times.append(time.process_time() - started)
    return min(times), result


# --- one logistic regression ------------------------------------------------------------------------


def logistic() -> None:
    print(
        f"\n## Adult, exact group DRO (gap 1e-8) and one logistic regression (tol 1e-8), l2 = {L2}\n"
    )
    X, y, cells, _, table = adult()
    C = 1 / (L2 * len(y))
    theirs = {
        solver: seconds_of(
            lambda solver=solver: LogisticRegression(
                C=C, tol=1e-8, solver=solver, max_iter=10_000
            ).fit(X, y)
        )[0]
        for solver in ("lbfgs", "newton-cholesky")
    }
    by_work = table["occupation"].astype(str) + table["sex"].astype(str)
    rows = []
    for label, groups in (("income x sex", cells), ("occupation x sex", by_work)):
        ours, model = seconds_of(lambda groups=groups: GroupDROClassifier(l2=L2).fit(X, y, groups))
        rows.append(
            {
                "rows": len(y), "columns": X.shape[1], "groups": f"{len(model.groups_)} ({label})",
                "statml s": ours, "gap": model.duality_gap_, "Newton steps": model.n_iter_,
                "lbfgs s": theirs["lbfgs"], "newton-cholesky s": theirs["newton-cholesky"],
                "times lbfgs": ours / theirs["lbfgs"],
                "times newton-cholesky": ours / theirs["newton-cholesky"],
            }
        )  # fmt: skip
    _print(rows)


# --- peers that minimise over the worst group -------------------------------------------------------


def peers() -> None:
    print("\n## The same optimum from peers, random parts of Adult\n")
    python = _peer_environment()
    X, y, cells, sex, _ = adult()
    rng = np.random.default_rng(0)
    rows = []
    for n in (2000, 5000):
        part = rng.choice(len(y), n, replace=False)
        varying = X[part].std(axis=0) > 0
        rows.append(against_cvxpy(python, X[part][:, varying], y[part], cells[part]))
        rows.append(against_fairlearn(python, X[part][:, varying], y[part] * 1.0, sex[part]))
    part = rng.choice(len(y), 3000, replace=False)
    # the numeric columns: dro has no penalty, and without one rare categories separate
    with_sex = np.column_stack([sex[part], X[part, :6]])
    rows.append(against_dro(python, with_sex, y[part], sex[part]))
    _print([row for row in rows if row])


def against_cvxpy(python, X, y, groups) -> dict:
    ours, model = seconds_of(lambda: GroupDROClassifier(l2=L2).fit(X, y, groups))
    theirs = _run(python, "cvxpy", X=X, y=y, groups=groups, l2=L2)
    loss = _log_losses(X, y, theirs["first"], theirs["second"])
    value = _worst(loss, groups) + L2 / 2 * (theirs["first"] ** 2).sum()
    return _row("cvxpy epigraph, log loss", len(y), ours, model.objective_, theirs, value)


def against_fairlearn(python, X, y, groups) -> dict:
    """fairlearn takes a bound: it is told the optimum, plus a thousandth."""
    ours, model = seconds_of(lambda: GroupDRORegressor(l2=0).fit(X, y, groups))
    bound = 1.001 * model.objective_
    for max_iter in (10, 30, 100):
        theirs = _run(python, "fairlearn", X=X, y=y, groups=groups, bound=bound, max_iter=max_iter)
        coefs, weights = theirs["first"], theirs["second"]
        value = _worst((X @ coefs[:, :-1].T + coefs[:, -1] - y[:, None]) ** 2 @ weights, groups)
        if value <= 1.002 * model.objective_:
            break
    name = "fairlearn exponentiated gradient, squared error"
    return _row(name, len(y), ours, model.objective_, theirs, value)


def against_dro(python, X, y, groups) -> dict | None:
    ours, model = seconds_of(lambda: GroupDROClassifier(l2=0).fit(X, y, groups))
    try:
        theirs = _run(python, "dro", X=X, y=y, groups=groups)
    except subprocess.CalledProcessError:
        print("dro cannot be imported here")
        return None
    value = _worst(_log_losses(X, y, theirs["first"], theirs["second"]), groups)
    name = "dro (its linear part), log loss, groups in X"
    return _row(name, len(y), ours, model.objective_, theirs, value)


def _row(peer, n, ours, optimum, theirs, value) -> dict:
    return {
        "peer": peer, "rows": n, "statml s": ours, "peer s": float(theirs["seconds"]),
        "ratio": float(theirs["seconds"]) / ours, "statml objective": optimum,
        "peer's excess over it": value - optimum,
    }  # fmt: skip


def _log_losses(X, y, w, b):
    z = X @ w + b
    return np.logaddexp(0, z) - y * z


def _worst(losses, groups) -> float:
    return max(losses[groups == g].mean() for g in np.unique(groups))


def _run(python, method, **arguments) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "data.npz", Path(folder) / "result.npz"
        np.savez(source, **arguments)
        worker = Path(__file__).parent / "_group_robust_worker.py"
        subprocess.run([python, worker, source, result, method], check=True)
        return dict(np.load(result))


def _peer_environment() -> Path:
    folder = ROOT / ".venv-group-robust"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        pip = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([*pip, *PEERS[:-1]], check=True)
        # dro asks for torch and torchvision, which its linear part does not need
        subprocess.run([*pip, "--no-deps", PEERS[-1]], check=True)
        (folder / "ready").touch()
    return python


def _print(rows: list[dict]) -> None:
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"), flush=True)


# --- AGRO and the oracle ----------------------------------------------------------------------------


def agro_on_spurious_gaussians(n_seeds: int = 10) -> pd.DataFrame:
    """Test accuracy of the worst group over seeds, and its distance from the oracle, draw by draw.

    2,000 training records with agreement 0.95 and 20,000 test records with 0.5 a seed. Only the last two methods see
    group labels. The errors are standard errors over seeds; CPU seconds are those of one fit.
    """
    methods = {
        "mean loss": lambda d, s: LogisticRegression().fit(d.X, d.y),
        "CVaR, 20 %": lambda d, s: CVaRClassifier(alpha=0.2).fit(d.X, d.y),
        "just train twice": lambda d, s: JTTClassifier(random_state=s).fit(d.X, d.y),
        "AGRO, soft slices": lambda d, s: AGROClassifier(
            slicer="linear", schedule="two-stage", random_state=s
        ).fit(d.X, d.y),
        "AGRO, tree, two-stage": lambda d, s: AGROClassifier(
            schedule="two-stage", random_state=s
        ).fit(d.X, d.y),
        "AGRO, tree (default)": lambda d, s: AGROClassifier(random_state=s).fit(d.X, d.y),
        "reweighted by group (labels)": _reweighted,
        "group DRO (labels: the oracle)": lambda d, s: GroupDROClassifier().fit(
            d.X, d.y, groups=d.groups
        ),
    }
    worst = pd.DataFrame(index=range(n_seeds), columns=list(methods), dtype=float)
    seconds = worst.copy()
    for seed in range(n_seeds):
        train = make_spurious_gaussians(n=2000, random_state=seed)
        test = make_spurious_gaussians(n=20_000, agreement=0.5, random_state=1000 + seed)
        for name, fit in methods.items():
            start = time.process_time()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "no slice was found")
                model = fit(train, seed)
            seconds.loc[seed, name] = time.process_time() - start
            worst.loc[seed, name] = worst_group_score(test.y, model.predict(test.X), test.groups)
    to_oracle = worst.sub(worst.iloc[:, -1], axis=0)
    table = pd.DataFrame(
        {
            "method": list(methods),
            "worst group": worst.mean().to_numpy(),
            "error": (worst.std() / np.sqrt(n_seeds)).to_numpy(),
            "minus oracle": to_oracle.mean().to_numpy(),
            "error ": (to_oracle.std() / np.sqrt(n_seeds)).to_numpy(),
            "CPU s": seconds.mean().to_numpy(),
        }
    )
    print("\n## Spurious Gaussians: AGRO without group labels and the oracle with them\n")
    print(table.to_markdown(index=False, floatfmt=".3f"), flush=True)
    return table


def _reweighted(d, seed):
    _, group, size = np.unique(d.groups, return_inverse=True, return_counts=True)
    weight = len(d.y) / size[group] / len(size)
    return LogisticRegression().fit(d.X, d.y, sample_weight=weight)


PARTS = {"logistic": logistic, "peers": peers, "agro": agro_on_spurious_gaussians}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
