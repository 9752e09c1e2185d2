"""Benchmarks of statml.graphs: speed against NEMtropy, scaling to a million nodes, coverage and error rates.

    python benchmarks/graphs.py                 # everything (about ten minutes; NEMtropy takes most of it)
    python benchmarks/graphs.py scaling         # one part: peer, scaling, coverage or fdr

Both sides of a comparison run one after the other on the same machine with the same number of threads. NEMtropy
gets a virtual environment of its own, .venv-nemtropy, made on the first run. Each case of the scaling table
runs in a fresh process, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import os
import resource
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

from statml.datasets import make_signed_network
from statml.datasets._signed_networks import thinned_edges
from statml.graphs import DirectedBetaModel, SignedBetaModel
from statml.graphs.families import Trinomial, Unsigned
from statml.graphs.network import network_from_arrays
from statml.parallel import parallel_map

ROOT = Path(__file__).resolve().parents[1]


def simulate(family, n, rho, level, rng):
    """A network of the family with normal statuses of standard deviation 1/2, about 15 or 20 edges a node."""
    alpha, beta = rng.normal(0, 0.5, (2, n))
    alpha += level

    def bound(row_low, row_high, col_low, col_high):
        return np.maximum(
            family.density(row_low + col_low, rho), family.density(row_high + col_high, rho)
        )

    def probabilities(i, j):
        minus, _, plus = family.probabilities(alpha[i] + beta[j], rho)
        return minus, plus

    source, target, sign = thinned_edges(alpha, beta, bound, probabilities, rng)
    return network_from_arrays(source, target, sign, n), alpha, beta


# --- the unsigned model against NEMtropy ------------------------------------------------------------


def peer() -> None:
    print(
        "\n## Directed beta-model, same degrees: statml and NEMtropy 4.0.0 (second call, compiled, one thread)\n"
    )
    python = _nemtropy_environment()
    rows = []
    warm, *_ = simulate(Unsigned(), 200, None, np.log(5 / 200), np.random.default_rng(9))
    for n, methods in (
        (1000, ("newton", "quasinewton", "fixed-point")),
        (10_000, ("fixed-point",)),
    ):
        network, *_ = simulate(Unsigned(), n, None, np.log(15 / n) - 0.25, np.random.default_rng(0))
        out, into = network.degrees(1)
        with (
            warnings.catch_warnings()
        ):  # nodes of degree zero are reported as -inf, as they should be
            warnings.simplefilter("ignore")
            DirectedBetaModel().fit(network)
            start = time.process_time()
            model = DirectedBetaModel().fit(network)
            ours = time.process_time() - start
        for method in methods:
            theirs = _run_nemtropy(python, out, into, warm, method)
            finite = np.isfinite(model.out_status_), np.isfinite(model.in_status_)
            i = np.random.default_rng(1).choice(np.flatnonzero(finite[0]), 20_000)
            j = np.random.default_rng(2).choice(np.flatnonzero(finite[1]), 20_000)
            with np.errstate(divide="ignore"):
                difference = (model.out_status_[i] + model.in_status_[j]) - (
                    np.log(theirs["x"][i]) + np.log(theirs["y"][j])
                )
            rows.append(
                {
                    "nodes": n,
                    "edges": network.n_edges,
                    "NEMtropy method": method,
                    "statml CPU s": ours,
                    "statml max degree error": _degree_error(model, out, into),
                    "NEMtropy CPU s": float(theirs["seconds"]),
                    "NEMtropy max degree error": float(theirs["error"]),
                    "ratio": float(theirs["seconds"]) / ours,
                    "max difference in x_ij": np.abs(difference).max(),
                }
            )
            _print(rows[-1:])
    _print(rows)


def _degree_error(model, out, into) -> float:
    pairs, theta = model._solution.pairs, model._solution.theta
    expected = model._engine.sums(theta, pairs).sums(model._engine.kernel("mean", None))[:, 0]
    observed = pairs.edge_sums(np.ones(len(pairs.sign)))
    return float(np.abs(expected - observed).max())


def _nemtropy_environment() -> Path:
    folder = ROOT / ".venv-nemtropy"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run(
            [
                python,
                "-m",
                "pip",
                "install",
                "-q",
                "-c",
                ROOT / "constraints.txt",
                "NEMtropy==4.0.0",
            ],
            check=True,
        )
        (folder / "ready").touch()
    return python


def _run_nemtropy(python, out, into, warm, method) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "degrees.npz", Path(folder) / "result.npz"
        np.savez(source, out=out, into=into, warm=np.concatenate(warm.degrees(1)))
        subprocess.run(
            [python, Path(__file__).parent / "_nemtropy_worker.py", source, result, method],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return dict(np.load(result))


# --- scaling ----------------------------------------------------------------------------------------


def scaling() -> None:
    print("\n## Scaling: whole fit with log-likelihood, second call, one thread\n")
    rows = []
    for kind, sizes in (
        ("trinomial", (10_000, 100_000, 1_000_000)),
        ("unsigned", (10_000, 100_000, 1_000_000)),
        ("sparse-logit one-step", (10_000, 200_000)),
    ):
        for n in sizes:
            out = subprocess.run(
                [sys.executable, __file__, "case", kind, str(n)],
                check=True,
                capture_output=True,
                text=True,
            )
            rows.append(json.loads(out.stdout.splitlines()[-1]))
            _print(rows[-1:])
    _print(rows)


def case(kind: str, n: int) -> None:
    """One row of the scaling table, printed as JSON."""
    rng = np.random.default_rng(0)
    if kind == "trinomial":
        network, *_ = simulate(Trinomial(), n, 10 / n / np.exp(0.25), 0.0, rng)
        model = SignedBetaModel("trinomial")
    elif kind == "unsigned":
        network, *_ = simulate(Unsigned(), n, None, np.log(15 / n) - 0.25, rng)
        model = DirectedBetaModel()
    else:
        adjacency = make_signed_network(n, rho=100 / n, random_state=rng).adjacency.tocoo()
        network = network_from_arrays(*adjacency.coords, adjacency.data, n)
        model = SignedBetaModel()
    small = make_signed_network(1000, rho=0.2, random_state=1).adjacency
    warnings.simplefilter("ignore")
    type(model)(**model.get_params()).fit(abs(small) if kind == "unsigned" else small)  # compiles
    start = time.process_time()  # one thread: what a busy machine does not change
    model.fit(network)
    seconds = time.process_time() - start
    print(
        json.dumps(
            {
                "model": kind,
                "nodes": n,
                "edges": network.n_edges,
                "Newton steps": model.n_iter_,
                "CPU seconds": seconds,
                "microseconds a node": 1e6 * seconds / n,
                "peak GB (data, fit)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
                "infinite statuses": len(model.existence_),
                "converged": model.converged_,
            }
        )
    )


# --- coverage and false discoveries -----------------------------------------------------------------


def coverage() -> None:
    print(
        "\n## Coverage of 95 % intervals for differences, and rmse of in-statuses (sparse-logit)\n"
    )
    rows = []
    designs = [
        (100, 0.9, 1, 200), (200, 0.9, 1, 200), (200, 0.5, 1, 200), (200, 0.5, 2, 200),
        (200, 0.3, 1, 200), (400, 0.3, 1, 60), (200, 0.2, 1, 200),
    ]  # fmt: skip
    for n, rho, half, reps in designs:
        for estimator in ("ee", "one-step"):
            results = np.array(
                parallel_map(_coverage_once, [(n, rho, half, estimator)] * reps, random_state=1)
            )
            rows.append(
                {
                    "n": n,
                    "rho": rho,
                    "L": half,
                    "replicates": reps,
                    "estimator": estimator,
                    "rmse": np.sqrt(np.mean(results[:, 0] ** 2)),
                    "coverage": results[:, 1].mean(),
                    "Monte-Carlo error": results[:, 1].std(ddof=1) / np.sqrt(reps),
                    "mean length": results[:, 2].mean(),
                }
            )
    _print(rows)


def _coverage_once(design, rng) -> tuple[float, float, float]:
    n, rho, half, estimator = design
    data = make_signed_network(n, rho, half, half, random_state=rng)
    warnings.simplefilter("ignore")
    model = SignedBetaModel(estimator=estimator).fit(data.adjacency)
    i, j = rng.integers(0, n, (2, 400))
    i, j = i[i != j], j[i != j]
    difference = model.in_status_[i] - model.in_status_[j]
    se = np.hypot(model.in_status_se_[i], model.in_status_se_[j])
    inside = np.abs(difference - (data.beta[i] - data.beta[j])) <= 1.959964 * se
    rmse = np.sqrt(np.mean((model.in_status_ - data.beta) ** 2))
    return rmse, inside[np.isfinite(se)].mean(), 2 * 1.959964 * np.nanmean(se)


def fdr() -> None:
    print(
        "\n## False discovery rate of compare_many (n = 200, rho = 0.5, statuses in equal groups)\n"
    )
    rows = []
    layouts = {
        "5 groups, 0.5 apart": np.repeat(np.arange(5) * 0.5, 40),
        "2 groups, 2 apart": np.repeat([0.0, 2.0], 100),
    }
    for layout, beta in layouts.items():
        for q in (0.05, 0.1, 0.2):
            for pairs in ("all", "vs:0"):
                results = np.array(parallel_map(_fdr_once, [(beta, q, pairs)] * 60, random_state=2))
                rows.append(
                    {
                        "statuses": layout, "pairs": pairs, "q": q,
                        "FDR": results[:, 0].mean(),
                        "Monte-Carlo error": results[:, 0].std(ddof=1) / np.sqrt(len(results)),
                        "directional FDR": results[:, 1].mean(),
                        "power": np.nanmean(results[:, 2]),
                    }
                )  # fmt: skip
    _print(rows)


def _fdr_once(design, rng) -> tuple[float, float, float]:
    beta, q, pairs = design
    n = len(beta)
    data = make_signed_network(n, 0.5, 1.0, beta, random_state=rng)
    warnings.simplefilter("ignore")
    model = SignedBetaModel().fit(data.adjacency)
    table = model.compare_many(pairs, q=q).table
    truth = beta[table["higher"].to_numpy(dtype=int)] - beta[table["lower"].to_numpy(dtype=int)]
    found = max(len(table), 1)
    i, j = np.triu_indices(n, 1)
    different = np.sum(beta[i] != beta[j]) if pairs == "all" else np.sum(beta != beta[0])
    return np.sum(truth == 0) / found, np.sum(truth <= 0) / found, np.sum(truth > 0) / different


def _print(rows: list[dict]) -> None:
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4g"), flush=True)


PARTS = {"peer": peer, "scaling": scaling, "coverage": coverage, "fdr": fdr}

if __name__ == "__main__":
    if sys.argv[1:2] == ["case"]:
        case(sys.argv[2], int(sys.argv[3]))
    else:
        for part in sys.argv[1:] or PARTS:
            PARTS[part]()
