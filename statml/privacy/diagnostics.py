r"""Is the sampler right? Simulation-based calibration, the joint distribution test, and what privacy says of acceptance.

**Simulation-based calibration.** Draw theta from the prior, records, a release; draw from the posterior given that release. The rank of
theta among L (nearly) independent posterior draws is uniform on 0, ..., L if the sampler is right. Ranks of theta alone miss errors
that keep the prior; so the rank of :math:`\log \eta`, which depends on the data, is tested as well.

**Joint distribution test.** Alternate sweeps of the kernel with new releases given the latent records. The chain then has the joint
law of (theta, x, s), so that theta must have the prior's moments, and log eta those of a fresh release. Any error in a kernel, a model's posterior step or a
mechanism's density shows. Standard errors come from independent chains.

**Acceptance.** Under epsilon-differential privacy every proposal is accepted at least with probability :math:`e^{-\epsilon}`.

References: Talts, S., Betancourt, M., Simpson, D., Vehtari, A. and Gelman, A. (2018). Validating Bayesian inference algorithms with
simulation-based calibration. arXiv 1804.06788. Geweke, J. (2004). Getting it right. Journal of the American Statistical
Association 99, 799-804.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from .._validation import RandomState, check_integer
from ..parallel import parallel_map
from .kernels import exact_draws
from .kernels.chain import Trace, as_matrix, run_sweeps, state_of
from .protocols import Array
from .sampling import Chain, Plan

if TYPE_CHECKING:
    from .posterior import PrivatePosterior


@dataclass(frozen=True)
class CalibrationResult:
    """Ranks of true values among posterior draws.

    Parameters
    ----------
    ranks : DataFrame of n_sims rows
        One column for each parameter, and log_eta (not for exact draws); integers 0, ..., n_draws.
    n_draws : int
        Posterior draws a simulation.
    """

    ranks: pd.DataFrame
    n_draws: int

    @property
    def table(self) -> pd.DataFrame:
        """Test of uniformity of each quantity's ranks: chi-squared statistic, degrees of freedom, p_value, and the mean
        rank scaled to 0-1 (1/2 if calibrated)."""
        rows = {}
        for name, ranks in self.ranks.items():
            statistic, df = _chi_squared(ranks.to_numpy(), self.n_draws)
            rows[name] = {
                "statistic": statistic,
                "df": df,
                "p_value": float(stats.chi2.sf(statistic, df)),
                "mean_rank": float(ranks.mean() / self.n_draws),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("term")

    def __str__(self) -> str:
        worst = self.table["p_value"].idxmin()
        return (
            f"{len(self.ranks)} simulations, {self.n_draws} draws each; smallest of {len(self.table)} p-values "
            f"{self.table['p_value'].min():.3g} ({worst})"
        )


def simulation_based_calibration(
    posterior: PrivatePosterior,
    n_sims: int = 200,
    n_draws: int = 99,
    thin: int = 20,
    *,
    n_jobs: int | None = None,
    progress: bool | str = "auto",
    random_state: RandomState = None,
) -> CalibrationResult:
    """Ranks of the true parameters, and of log eta, under simulated releases.

    Parameters
    ----------
    posterior : PrivatePosterior
        Model, mechanism, n_records, kernel and tune are taken from it; it need not be fitted.
    n_sims : int, default=200
    n_draws : int, default=99
        Posterior draws a simulation, after thinning.
    thin : int, default=20
        Sweeps from one draw to the next: large enough to make them nearly independent, else ranks are not uniform for a right
        sampler either.
    n_jobs, progress, random_state
        As everywhere.

    Returns
    -------
    CalibrationResult

    Examples
    --------
    >>> from statml.privacy import PrivatePosterior, mechanisms, models, simulation_based_calibration
    >>> posterior = PrivatePosterior(models.BetaBernoulli(2, 3), mechanisms.DiscreteLaplace(2.0), 20, kernel="exact")
    >>> result = simulation_based_calibration(posterior, n_sims=50, random_state=0)
    >>> result.ranks.shape
    (50, 1)
    """
    check_integer("n_sims", n_sims, low=2)
    check_integer("n_draws", n_draws, low=1)
    check_integer("thin", thin, low=1)
    simulate = partial(_calibration_ranks, posterior, n_draws, thin)
    ranks = parallel_map(
        simulate,
        range(n_sims),
        n_jobs=n_jobs,
        progress=progress,
        random_state=random_state,
        description="simulations",
    )
    return CalibrationResult(pd.DataFrame(ranks), n_draws)


def _calibration_ranks(posterior, n_draws: int, thin: int, _sim: int, rng) -> dict[str, int]:
    model, mechanism = posterior.model, posterior.mechanism
    theta = np.asarray(model.sample_prior(rng), dtype=float)
    x = model.sample_records(theta, posterior.n_records, rng)
    plan = posterior._plan(mechanism.simulate(model, x, rng))
    release = plan.release
    names = list(model.parameter_names)
    if plan.kernel == "exact":
        drawn = exact_draws(model, mechanism, release, posterior.n_records, n_draws, rng)
        return _ranks(names, theta, drawn, rng)
    chain = Chain(replace(plan, draws=n_draws * thin), rng)
    chain.advance(chain.plan.n_sweeps)
    rows = slice(plan.tune + thin - 1, None, thin)
    ranks = _ranks(names, theta, chain.trace.theta[rows], rng)
    if plan.kernel != "gibbs":  # whose log eta is that of counts, on another scale
        truth = np.array([state_of(model, mechanism, release, theta, as_matrix(x)).log_eta])
        # rounded, since the same total gives values that differ in their last digits, which would hide ties
        drawn = chain.trace.log_eta[rows][:, None]
        ranks |= _ranks(["log_eta"], truth.round(9), drawn.round(9), rng)
    return ranks


def _ranks(names, truth: Array, draws: Array, rng: np.random.Generator) -> dict[str, int]:
    """Ranks of the truth; ties, which discrete quantities have, are broken at random."""
    below, equal = (draws < truth).sum(axis=0), (draws == truth).sum(axis=0)
    return {
        name: int(b + rng.integers(e + 1)) for name, b, e in zip(names, below, equal, strict=True)
    }


def _chi_squared(ranks: NDArray[np.int64], n_draws: int) -> tuple[float, int]:
    """Pearson's statistic over bins of ranks that expect at least five simulations each."""
    n_bins = int(np.clip(len(ranks) // 10, 2, 20))
    edges = np.linspace(0, n_draws + 1, n_bins + 1).round()
    counts = np.histogram(ranks, bins=edges)[0]
    expected = len(ranks) * np.diff(edges) / (n_draws + 1)
    return float(((counts - expected) ** 2 / expected).sum()), n_bins - 1


def geweke_joint_test(
    posterior: PrivatePosterior,
    n_chains: int = 100,
    n_sweeps: int = 200,
    *,
    n_jobs: int | None = None,
    progress: bool | str = "auto",
    random_state: RandomState = None,
) -> pd.DataFrame:
    """Whether sweeps that alternate with new releases keep the joint law of parameters, records and release.

    Every chain starts at a draw of (theta, x, s) from the joint law, so that no burn-in is needed: each state has the joint law if,
    and only if, the sweep keeps it.

    Parameters
    ----------
    posterior : PrivatePosterior
        Model, mechanism, n_records and kernel are taken from it; it need not be fitted.
    n_chains : int, default=100
        Independent chains, over which standard errors are computed.
    n_sweeps : int, default=200
        Sweeps a chain, each followed by a new release.
    n_jobs, progress, random_state
        As everywhere.

    Returns
    -------
    DataFrame
        One row for the mean and one for the square of each parameter, and one for the log density of the release, which moments of
        theta alone may not show to be wrong: columns expected (over independent draws of the joint law), observed, std_error, z and
        p_value. Small p-values say that something is wrong.
    """
    check_integer("n_chains", n_chains, low=5)
    check_integer("n_sweeps", n_sweeps, low=1)
    task = partial(_joint_chain, posterior, n_sweeps)
    out = np.array(
        parallel_map(
            task,
            range(n_chains),
            n_jobs=n_jobs,
            progress=progress,
            random_state=random_state,
            description="joint chains",
        )
    )  # (n_chains, 2, 2k + 1): means along the chain, and over as many independent draws of the joint law
    names = list(posterior.model.parameter_names)
    labels = [*names, *(f"{name}^2" for name in names), "log_eta"]
    observed, expected = out[:, 0], out[:, 1]
    difference = observed - expected
    std_error = difference.std(axis=0, ddof=1) / np.sqrt(n_chains)
    z = difference.mean(axis=0) / std_error
    return pd.DataFrame(
        {
            "expected": expected.mean(axis=0),
            "observed": observed.mean(axis=0),
            "std_error": std_error,
            "z": z,
            "p_value": 2 * stats.t(n_chains - 1).sf(np.abs(z)),
        },
        index=pd.Index(labels, name="term"),
    )


def _joint_chain(posterior, n_sweeps: int, _chain: int, rng) -> Array:
    model, mechanism, n = posterior.model, posterior.mechanism, posterior.n_records
    names = list(model.statistic_names)

    def new_release(x: Array) -> Array:
        return mechanism.check_release(mechanism.simulate(model, x, rng), names, n)

    theta = np.asarray(model.sample_prior(rng), dtype=float)
    x = as_matrix(model.sample_records(theta, n, rng))
    plan: Plan = replace(posterior._plan(mechanism.simulate(model, x, rng)), tune=0, draws=1)
    release = plan.release
    if plan.kernel in ("exact", "gibbs", "clt"):
        raise ValueError(
            f'the joint test needs a kernel with latent records ("mwg", "interweave", "block" or "soma"), got {plan.kernel!r}'
        )
    kernel = Chain(plan, rng, theta).kernel
    state = state_of(model, mechanism, release, theta, x)
    trace = Trace.empty(state, 1, 0, False)
    k = len(theta)
    moments = np.zeros((2, 2 * k + 1))
    for _ in range(n_sweeps):
        state = run_sweeps(kernel, state, release, rng, trace, range(1))
        moments[0] += np.concatenate([state.theta, state.theta**2, [state.log_eta]])
        release = new_release(state.x)
        state = state_of(model, mechanism, release, state.theta, state.x)
        # an independent draw of the joint law
        theta = np.asarray(model.sample_prior(rng), dtype=float)
        x = as_matrix(model.sample_records(theta, n, rng))
        log_eta = state_of(model, mechanism, new_release(x), theta, x).log_eta
        moments[1] += np.concatenate([theta, theta**2, [log_eta]])
    return moments / n_sweeps


def acceptance_check(posterior: PrivatePosterior) -> pd.DataFrame:
    """Observed acceptance of a fitted posterior beside the bounds that privacy gives.

    Parameters
    ----------
    posterior : PrivatePosterior
        Fitted.

    Returns
    -------
    DataFrame of 1 row
        Columns mean_acceptance; least_record_acceptance (NaN where records are not proposed one by one); bound, below which no
        record's acceptance may fall (to the block_size-th power for blocks; 0 where the mechanism does not know its
        epsilon); average_bound, which holds on average over releases; and ok: False says that the mechanism's
        sensitivity is not the model's, or that something is wrong.
    """
    bound = float(posterior.mechanism.acceptance_bound())
    average = float(posterior.mechanism.acceptance_bound(average=True))
    if posterior.kernel_ == "block":
        bound, average = bound**posterior.block_size, np.nan
    if posterior.kernel_ == "soma":
        n = posterior._typical_n()
        bound, average = (n / (n + 1 / bound - 1) if bound > 0 else 0.0), np.nan
    records = posterior.record_acceptance_
    least = float(records.min()) if np.isfinite(records).all() else posterior.acceptance_rate_
    # the observed rate of a record is a mean over correlated sweeps; the allowance is that of a tenth as many
    n_sweeps = posterior.chains * posterior.draws
    slack = 4 * np.sqrt(bound * (1 - bound) / max(n_sweeps / 10, 1))
    return pd.DataFrame(
        {
            "mean_acceptance": [posterior.acceptance_rate_],
            "least_record_acceptance": [least],
            "bound": [bound],
            "average_bound": [average],
            "ok": [bool(np.isnan(least) or least >= bound - slack)],
        }
    )
