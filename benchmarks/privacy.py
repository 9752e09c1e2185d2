"""Benchmarks of statml.privacy: sweeps and effective draws a CPU-second, against R's dapper and against PyMC.

    python benchmarks/privacy.py                # everything (a few minutes; dapper takes most of it)
    python benchmarks/privacy.py linreg         # one part: mean, linreg, table, rr, naive_bayes or coverage

The problems are dapper's own: its help page (a normal mean), and the three examples of its article (arXiv 2412.14503): linear
regression, a table with discrete Gaussian noise, randomized response. Both sides run one after the other with
one thread; time is CPU time of the whole call (compiled before), and an effective draw is counted by ArviZ's bulk effective sample
size of the worst parameter, for both sides alike. dapper runs where Rscript and its library are found (R_LIBS is
respected); where they are not, published figures for it are quoted and marked.

The last part has no peer: how often 90 % intervals cover parameters drawn from the prior, with the noise in the model and with the
noise ignored.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd

from statml.parallel import parallel_map
from statml.privacy import PrivatePosterior, mechanisms, models

WORKER = Path(__file__).parent / "_dapper_worker.R"
MEAN_RELEASE = [-2.0979015254933864]
REGRESSION_RELEASE = {  # of clamp(v, -10, 10) / 10, noise scale 1.5
    "y": -17.15473134947, "x1 y": -5.22543192070, "x2 y": 1.62618334063, "y^2": 11.03130155684,
    "x1": 3.48271049549, "x1^2": 6.80892011490, "x2": -6.91095869216, "x1 x2": 1.07561643523,
    "x2^2": -2.07216429908,
}  # fmt: skip
TABLE_RELEASE = [131, 119, 47, 122]
ANSWER_COUNTS = [104, 120, 74, 102]  # of (1, 1), (1, 0), (0, 1), (0, 0)

# CPU milliseconds a sweep and effective draws a CPU-second of dapper 1.1, measured once on another machine.
QUOTED = {"mean": (0.90, 27), "linreg": (4.6, 1.1), "table": (74, 1.6), "rr": (10.5, 1.9)}


def mean() -> None:
    """Normal mean of 100 records, Gaussian noise of standard deviation 1/3."""
    print("\n## Normal mean, n = 100, Gaussian noise (dapper's help page)\n")
    model = models.NormalMean(sigma=1.0, prior_mean=0.0, prior_sd=2.0)
    noise = mechanisms.Gaussian(1 / 3)
    rows = [dapper("mean", MEAN_RELEASE, 100, 1 / 3, sweeps=20_000)]
    rows.append(ours("mwg", model, noise, 100, MEAN_RELEASE, 100_000))
    rows.append(ours("interweave", model, noise, 100, MEAN_RELEASE, 100_000))
    rows.append(ours("exact", model, noise, 100, MEAN_RELEASE, 100_000))
    user = ours("mwg", NumpyMean(), noise, 100, MEAN_RELEASE, 20_000)
    rows.append(user | {"sampler": "statml mwg, user's numpy model"})
    rows += [pymc_mean(centred) for centred in (True, False)]
    report(rows)


def linreg() -> None:
    """Linear regression on 50 records with two features, Laplace noise on nine moments."""
    print("\n## Linear regression, n = 50, epsilon = 10, Laplace noise (dapper's example 3)\n")
    release = list(REGRESSION_RELEASE.values())
    rows = [dapper("linreg", release, 50, 1.5, sweeps=6000)]
    model = models.LinearRegression(
        n_features=2,
        x_mean=[0.9, -1.17],
        x_cov=np.eye(2),
        sigma2=2.0,
        prior_scale=2.0,
        bounds=(-10, 10),
    )
    named = in_order(model.statistic_names)
    noise = mechanisms.Laplace(1.5)
    rows.append(ours("mwg", model, noise, 50, named, 200_000))
    rows.append(ours("interweave", model, noise, 50, named, 200_000))
    user = ours("mwg", NumpyRegression(), noise, 50, release, 20_000)
    rows.append(user | {"sampler": "statml mwg, user's numpy model"})
    report(rows)


def table() -> None:
    """Four cells of 400 records, discrete Gaussian noise."""
    print("\n## Table of four cells, N = 400, discrete Gaussian noise (dapper's example 2)\n")
    model, noise = models.DirichletCategorical(np.ones(4)), mechanisms.DiscreteGaussian(6.25)
    rows = [
        dapper("table", TABLE_RELEASE, 400, 6.25, sweeps=600),
        ours("mwg", model, noise, 400, TABLE_RELEASE, 20_000),
        ours("exact", model, noise, 400, TABLE_RELEASE, 20_000),
    ]
    report(rows)


def rr() -> None:
    """Two yes-no questions to 400 people, each answered truthfully with probability 3/4."""
    print("\n## Randomized response, n = 400, four categories (dapper's example 1)\n")
    bit = np.array([[0.75, 0.25], [0.25, 0.75]])
    answers = np.repeat(np.arange(4), ANSWER_COUNTS)
    model, noise = (
        models.DirichletCategorical(np.ones(4)),
        mechanisms.RandomizedResponse(np.kron(bit, bit)),
    )
    rows = [
        dapper("rr", answers, 400, 1.0, sweeps=6000),
        ours("mwg", model, noise, 400, answers, 20_000),
        ours("gibbs", model, noise, 400, answers, 20_000),
    ]
    report(rows)


def naive_bayes() -> None:
    """The example of Ju et al. (2022): 5 features of 3 levels, 5 classes, 100 records."""
    print("\n## Naive Bayes, N = 100, the paper's example: exact draws and the paper's sampler\n")
    model = models.NaiveBayesLogLinear(
        n_classes=5, n_levels=[3] * 5, prior_class=2.0, prior_level=2.0
    )
    rng = np.random.default_rng(2022)
    x = model.sample_records(model.sample_prior(rng), 100, rng)
    rows = []
    for epsilon in (10, 3, 1, 0.3, 0.1):
        noise = mechanisms.Laplace.from_epsilon(epsilon, sensitivity=10)
        release = noise.simulate(model, x, rng)
        model.draw_exact(release, noise, 100, 10, rng)
        start = time.process_time()
        model.draw_exact(release, noise, 100, 1, rng)
        first = time.process_time() - start
        start = time.process_time()
        draws = model.draw_exact(release, noise, 100, 10_000, rng)
        seconds = time.process_time() - start
        chain = ours("mwg", model, noise, 100, release, 20_000)
        rows.append(
            {
                "epsilon": epsilon,
                "ms to the first exact draw": 1e3 * first,
                "ms for 10,000": 1e3 * seconds,
                "exact draws / CPU-s": 10_000 / seconds,
                "mwg ESS / CPU-s": chain["min ESS / CPU-s"],
                "ratio": 10_000 / seconds / chain["min ESS / CPU-s"],
                "acceptance": chain["acceptance"],
                "largest difference of means in prior sd": np.abs(
                    draws.mean(axis=0) - chain["draws"].mean(axis=0)
                ).max() / np.std([model.sample_prior(rng) for _ in range(500)], axis=0).min(),
            }
        )  # fmt: skip
    print_rows(rows)


def coverage() -> None:
    """Regression on 100 records as in Ju et al. (2022), example B, with the least noise that gives epsilon."""
    print("\n## Coverage of 90 % intervals, linear regression, n = 100, three coefficients\n")
    model = models.LinearRegression(
        2, x_mean=[0.9, -1.17], x_cov=np.eye(2), sigma2=2.0, prior_scale=2.0, bounds=(-10, 10)
    )
    n_sims, rows = 240, []
    for seed, epsilon in enumerate((0.1, 0.3, 1, 3, 10)):
        noise = mechanisms.Laplace.from_epsilon(epsilon, model.sensitivity("replace"))
        task = partial(covered, model, noise)
        out = np.array(parallel_map(task, range(n_sims), random_state=seed, progress=False))
        inside, naive, sd, acceptance = out[:, 0], out[:, 1], out[:, 2], out[:, 3]
        # the three coefficients of one simulation are not independent: the error is over simulations
        rows.append(
            {
                "epsilon": epsilon,
                "coverage": inside.mean(),
                "Monte-Carlo error": inside.mean(axis=1).std(ddof=1) / np.sqrt(n_sims),
                "coverage, noise ignored": naive.mean(),
                "mean posterior sd": " ".join(f"{v:.2f}" for v in sd.mean(axis=0)),
                "acceptance": acceptance.mean(),
                "exp(-epsilon)": np.exp(-epsilon),
            }
        )
    print_rows(rows)


def covered(model, noise, _sim, rng):
    theta = model.sample_prior(rng)
    release = noise.simulate(model, model.sample_records(theta, 100, rng), rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = PrivatePosterior(
            model, noise, 100, draws=3000, tune=500, chains=1, random_state=rng, progress=False
        ).fit(release)
    out = []
    for draws in (posterior.draws_of(), posterior.naive_posterior(size=1000, random_state=rng)):
        low, high = np.quantile(draws, [0.05, 0.95], axis=0)
        out.append((low < theta) & (theta < high))
    return [*out, posterior.posterior_sd_, np.full(3, posterior.acceptance_rate_)]


# --- one side each ----------------------------------------------------------------------------------


def ours(kernel, model, mechanism, n, release, draws) -> dict:
    """One chain of PrivatePosterior; a short one before it compiles."""

    def fit(draws, seed):
        posterior = PrivatePosterior(
            model, mechanism, n, draws=draws, tune=draws // 5, chains=1, kernel=kernel,
            random_state=seed, progress=False,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return posterior.fit(release)

    fit(100, 0)
    start = time.process_time()
    posterior = fit(draws, 1)
    seconds = time.process_time() - start
    chain = np.concatenate(
        [v.values[0].reshape(draws, -1) for v in posterior.idata_.posterior.values()], axis=1
    )
    return row(f"statml {kernel}", draws + draws // 5, seconds, chain, posterior.acceptance_rate_)


def dapper(name, release, n, scale, sweeps) -> dict:
    """The same number of draws from R, or what was measured before."""
    if not has_dapper():
        milliseconds, ess = QUOTED[name]
        return {
            "sampler": "dapper (quoted)",
            "sweeps / CPU-s": 1e3 / milliseconds,
            "min ESS / CPU-s": ess,
        }
    with tempfile.TemporaryDirectory() as folder:
        problem, result = Path(folder) / "problem.txt", Path(folder) / "draws.csv"
        fields = {
            "name": name, "release": " ".join(repr(float(s)) for s in release), "n": n,
            "scale": scale, "sweeps": sweeps, "warmup": sweeps // 6, "seed": 1,
        }  # fmt: skip
        problem.write_text("".join(f"{key} {value}\n" for key, value in fields.items()))
        out = subprocess.run(
            ["Rscript", WORKER, problem, result], check=True, capture_output=True, text=True
        )
        seconds, acceptance = map(float, out.stdout.split()[-2:])
        chain = np.loadtxt(result, delimiter=",", ndmin=2)
    return row("dapper 1.1", sweeps, seconds, chain, acceptance)


def has_dapper() -> bool:
    if shutil.which("Rscript") is None:
        return False
    found = subprocess.run(["Rscript", "-e", "library(dapper)"], capture_output=True)
    return found.returncode == 0


def pymc_mean(centred: bool) -> dict:
    """All latent records and the mean in one NUTS."""
    import pymc as pm

    with pm.Model():
        mu = pm.Normal("mu", 0, 2)
        if centred:
            x = pm.Normal("x", mu, 1, shape=100)
        else:
            x = mu + pm.Normal("u", 0, 1, shape=100)
        pm.Normal("s", x.mean(), 1 / 3, observed=MEAN_RELEASE[0])
        options = {
            "chains": 1,
            "cores": 1,
            "progressbar": False,
            "compute_convergence_checks": False,
        }
        pm.sample(draws=10, tune=10, random_seed=0, **options)
        start = time.process_time()
        idata = pm.sample(draws=2000, tune=1000, random_seed=1, **options)
        seconds = time.process_time() - start
    chain = idata.posterior["mu"].values.reshape(-1, 1)
    kind = "centred" if centred else "non-centred"
    return row(f"PyMC, joint NUTS, {kind}", 3000, seconds, chain, np.nan)


def row(sampler, sweeps, seconds, chain, acceptance) -> dict:
    import arviz as az

    # constant columns, such as a known parameter, have no effective size
    moving = chain[:, chain.std(axis=0) > 0]
    ess = min(float(az.ess(column[None], method="bulk")) for column in moving.T)
    return {
        "sampler": sampler,
        "sweeps": sweeps,
        "CPU s": seconds,
        "sweeps / CPU-s": sweeps / seconds,
        "min ESS": ess,
        "min ESS / CPU-s": ess / seconds,
        "mean": " ".join(f"{v:.3f}" for v in chain.mean(axis=0)[:4]),
        "sd": " ".join(f"{v:.3f}" for v in chain.std(axis=0)[:4]),
        "acceptance": acceptance,
        "draws": chain,
    }


def report(rows: list[dict]) -> None:
    """Ratios to the first row, dapper's."""
    if "quoted" in rows[0]["sampler"]:
        print("R with dapper was not found: its figures are quoted, and so are the ratios.\n")
    for each in rows:
        each["sweeps ratio"] = each["sweeps / CPU-s"] / rows[0]["sweeps / CPU-s"]
        each["ESS ratio"] = each["min ESS / CPU-s"] / rows[0]["min ESS / CPU-s"]
    print_rows(rows)


def print_rows(rows: list[dict]) -> None:
    shown = pd.DataFrame(rows).drop(columns="draws", errors="ignore")
    print(shown.to_markdown(index=False, floatfmt=".4g"), flush=True)


def in_order(names: list[str]) -> list[float]:
    """dapper's release in the order of the model's statistics, which are products of y, x1 and x2."""
    return [REGRESSION_RELEASE[name] for name in names]


# --- what a user would write ------------------------------------------------------------------------


class NumpyMean:
    """A normal mean in plain numpy."""

    parameter_names, statistic_names = ["mu"], ["mean"]

    def sample_prior(self, rng):
        return rng.normal(0, 2, 1)

    def sample_records(self, theta, n, rng):
        return rng.normal(theta[0], 1, (n, 1))

    def statistic(self, x):
        return x / len(x)

    def draw_posterior(self, x, theta, rng):
        precision = 1 / 4 + len(x)
        return rng.normal(x.sum() / precision, precision**-0.5, 1)


class NumpyRegression:
    """dapper's third example in plain numpy."""

    parameter_names = ["b0", "b1", "b2"]  # noqa: RUF012
    statistic_names = list(REGRESSION_RELEASE)  # noqa: RUF012

    def sample_prior(self, rng):
        return rng.normal(0, 2, 3)

    def sample_records(self, theta, n, rng):
        x = np.array([0.9, -1.17]) + rng.standard_normal((n, 2))
        y = theta[0] + x @ theta[1:] + np.sqrt(2) * rng.standard_normal(n)
        return np.column_stack([x, y])

    def statistic(self, x):
        x1, x2, y = np.clip(x, -10, 10).T / 10
        return np.column_stack([y, x1 * y, x2 * y, y * y, x1, x1 * x1, x2, x1 * x2, x2 * x2])

    def draw_posterior(self, x, theta, rng):
        X = np.column_stack([np.ones(len(x)), x[:, :2]])
        precision = X.T @ X / 2 + np.eye(3) / 4
        half = np.linalg.cholesky(precision)
        noise = np.linalg.solve(half.T, rng.standard_normal(3))
        return np.linalg.solve(precision, X.T @ x[:, 2] / 2) + noise


PARTS = {
    "mean": mean, "linreg": linreg, "table": table, "rr": rr, "naive_bayes": naive_bayes, "coverage": coverage,
}  # fmt: skip

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
