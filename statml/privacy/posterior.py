r"""The posterior of a model's parameters given a differentially private release.

The release is :math:`s \sim \eta(\cdot \mid x)`, noise on statistics of confidential records x. Given s, the parameters have the
posterior

.. math::  p(\theta \mid s) \propto p(\theta) \int \eta(s \mid x) \prod_i f(x_i \mid \theta)\, dx,

which `PrivatePosterior` draws from, exactly: by independent draws where the model allows it, else by Markov chains over theta and
latent records. It composes a model (`statml.privacy.models`), a mechanism (`statml.privacy.mechanisms`) and a kernel
(`statml.privacy.kernels`). No confidential record comes in; the latent ones are draws of the model.

"Exact" is said of the model and the mechanism as given: the noise scale, the clamping bounds and n must be the curator's.

Reference: Ju, N., Awan, J. A., Gong, R. and Rao, V. A. (2022). Data augmentation MCMC for Bayesian inference from
privatized data. NeurIPS.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import logsumexp
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from statsmodels.iolib.table import SimpleTable

from .._validation import RandomState, as_generator, check_integer, check_level
from ..inference import InferenceMixin
from ..parallel import parallel_map
from . import _results
from .kernels import exact_draws
from .kernels.chain import sums_the_model
from .planning import checked_release, make_plan
from .prediction import expected_response
from .protocols import Array, Mechanism, RecordModel
from .sampling import Plan, run_chains

if TYPE_CHECKING:
    from .design import ReleaseDesign
    from .diagnostics import CalibrationResult
    from .displays import PosteriorDisplay


class PrivatePosterior(InferenceMixin, BaseEstimator):
    """Bayesian inference from a differentially private release.

    Parameters
    ----------
    model : RecordModel
        Prior, law of the records and their statistic; see `statml.privacy.models`.
    mechanism : Mechanism
        How the release was noised; see `statml.privacy.mechanisms`.
    n_records : int or None, default=None
        Public number of records. With `n_prior` only the number that chains start with; None then takes the noisy
        number, or one from the prior.
    draws, tune : int, default=2000 and 1000
        Draws kept of each chain, and warm-up sweeps before them.
    chains : int, default=4
    kernel : {"auto", "mwg", "interweave", "block", "soma", "gibbs", "exact", "clt"}, default="auto"
        How chains move; "auto" takes the first line that applies of the table in `statml.privacy.kernels`.
    block_size : int, default=1
        Records that are proposed together; above 1, "auto" and "mwg" mean "block".
    n_prior : distribution with logpmf, callable, "flat" or None, default=None
        Prior of an unknown number of records: a frozen scipy.stats distribution, or a function from an array of numbers to
        log probabilities up to a constant. "flat" is improper, and needs `n_mechanism`.
    n_mechanism : Mechanism or None, default=None
        How the number of records was noised, where it was released: the last entry of the release, named "n".
    init : "prior" or array-like of shape (k,) or (chains, k), default="prior"
        Where chains start.
    store_records : bool, default=False
        Whether to keep the latent records (model draws) of every draw.
    allow_improper : bool, default=False
        Whether an improper prior is taken. The release holds little information, so that the posterior may be improper too;
        `init` must be given.
    n_jobs : int or None, default=None
        Workers; results do not depend on it.
    progress : "auto", True or False, default="auto"
    checkpoint_dir : path or None, default=None
        Folder from which a killed run goes on, with the same draws to the last bit.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Every chain has its own child.

    Attributes
    ----------
    idata_ : arviz.InferenceData
        Groups posterior, sample_stats (log_eta, accept_rate, S, n; latent records in group latent if stored) and observed_data.
    posterior_mean_, posterior_sd_ : ndarray of shape (k,)
    acceptance_rate_ : float
        Share of accepted proposals after warm-up; NaN without proposals.
    record_acceptance_ : ndarray of shape (n_records,)
        The same for each record; NaN where records are not proposed one by one.
    kernel_ : str
        The kernel used.
    diagnostics_ : DataFrame
        Rank-normalised r_hat, ess_bulk and ess_tail of theta, log_eta, S and n.
    converged_ : bool
        Whether every r_hat is at most 1.01 and every effective sample size at least 400.
    release_ : ndarray of shape (m,)
        The release in the order of the statistics.
    n_features_in_ : int
        Entries of the release.

    Notes
    -----
    The input is a release, not a table of records, so scikit-learn's pipelines and cross-validation do not apply; parameters,
    cloning and `get_params` work as usual.

    References
    ----------
    Ju, N., Awan, J. A., Gong, R. and Rao, V. A. (2022). Data augmentation MCMC for Bayesian inference from privatized
    data. NeurIPS.

    Examples
    --------
    A count of 17 among 30, released with discrete Laplace noise of scale 2 (epsilon 0.5).

    >>> from statml.privacy import PrivatePosterior, mechanisms, models
    >>> posterior = PrivatePosterior(
    ...     models.BetaBernoulli(2, 3), mechanisms.DiscreteLaplace(scale=2), n_records=30, random_state=0
    ... ).fit([17])
    >>> posterior.kernel_
    'exact'
    >>> posterior.tidy()[["term", "estimate", "std_error"]].round(2)
      term  estimate  std_error
    0    p      0.53       0.11
    """

    def __init__(
        self,
        model: RecordModel,
        mechanism: Mechanism,
        n_records: int | None = None,
        draws: int = 2000,
        tune: int = 1000,
        chains: int = 4,
        kernel: str = "auto",
        block_size: int = 1,
        n_prior: object = None,
        n_mechanism: Mechanism | None = None,
        init: str | ArrayLike = "prior",
        store_records: bool = False,
        allow_improper: bool = False,
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        random_state: RandomState = None,
    ):
        self.model = model
        self.mechanism = mechanism
        self.n_records = n_records
        self.draws = draws
        self.tune = tune
        self.chains = chains
        self.kernel = kernel
        self.block_size = block_size
        self.n_prior = n_prior
        self.n_mechanism = n_mechanism
        self.init = init
        self.store_records = store_records
        self.allow_improper = allow_improper
        self.n_jobs = n_jobs
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state

    def fit(self, release: ArrayLike | Mapping[str, float], y: None = None) -> Self:
        """Draw from the posterior given a release.

        Parameters
        ----------
        release : array-like of shape (m,) or dict
            The published numbers in the order of ``model.statistic_names``, or by these names; never confidential records.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the release has other entries than expected (the message names them in order) or could not have come from the
            mechanism, if the prior is improper, or if the kernel does not fit model and mechanism.

        Warns
        -----
        UserWarning
            If the chains have not converged, the kernel is approximate, or the statistic is no sum over records.
        """
        plan = self._plan(release)
        run = {
            "random_state": self.random_state,
            "n_jobs": self.n_jobs,
            "progress": self.progress,
            "checkpoint_dir": self.checkpoint_dir,
        }
        if plan.kernel == "exact":
            theta = np.array(parallel_map(_ExactChain(plan), range(self.chains), **run))
            results = _results.from_exact(plan, theta)
        else:
            results = _results.from_chains(
                plan, run_chains(plan, check_integer("chains", self.chains, low=1), **run)
            )
        self.release_ = plan.release
        self.n_features_in_ = len(plan.release)
        self.kernel_ = results.kernel
        self.acceptance_rate_ = results.acceptance_rate
        self.record_acceptance_ = results.record_acceptance
        self.idata_ = results.inference_data(plan)
        self.diagnostics_: pd.DataFrame = results.diagnostics(plan)
        self._theta = results.theta
        flat = results.theta.reshape(-1, results.theta.shape[-1])
        self.posterior_mean_: Array = flat.mean(axis=0)
        self.posterior_sd_: Array = (
            flat.std(axis=0, ddof=1) if len(flat) > 1 else np.full(flat.shape[1], np.nan)
        )
        self.converged_ = True if plan.kernel == "exact" else _results.report(self.diagnostics_)
        return self

    # --- results ------------------------------------------------------------------------------------

    def draws_of(self) -> pd.DataFrame:
        """All draws of theta, chain after chain: one column a parameter."""
        check_is_fitted(self)
        flat = self._theta.reshape(-1, self._theta.shape[-1])
        return pd.DataFrame(flat, columns=list(self.model.parameter_names))

    def tidy(self, level: float = 0.95) -> pd.DataFrame:
        """One row a parameter: posterior mean, standard deviation and credible interval.

        Parameters
        ----------
        level : float, default=0.95
            Posterior probability of each interval, whose ends are quantiles.

        Returns
        -------
        DataFrame of k rows
            Columns term, estimate (the mean), std_error (the posterior standard deviation), statistic and p_value (NaN: there is
            no test), conf_low, conf_high, median, r_hat, ess_bulk, ess_tail.
        """
        draws, level = self.draws_of(), check_level(level)
        low, median, high = draws.quantile([(1 - level) / 2, 0.5, (1 + level) / 2]).to_numpy()
        return pd.DataFrame(
            {
                "term": draws.columns,
                "estimate": self.posterior_mean_,
                "std_error": self.posterior_sd_,
                "statistic": np.nan,
                "p_value": np.nan,
                "conf_low": low,
                "conf_high": high,
                "median": median,
                **{
                    name: self.diagnostics_[name].to_numpy()[: draws.shape[1]]
                    for name in ("r_hat", "ess_bulk", "ess_tail")
                },
            }
        )

    def _glance(self) -> dict[str, object]:
        chains, draws = self._theta.shape[:2]
        n = self.idata_.sample_stats["n"].to_numpy()
        return {
            "model": type(self.model).__name__,
            "mechanism": type(self.mechanism).__name__,
            "kernel": self.kernel_,
            "n_records": int(n.flat[0]) if (n == n.flat[0]).all() else float(n.mean()),
            "chains": chains,
            "draws": draws,
            "acceptance_rate": self.acceptance_rate_,
            "acceptance_bound": float(self.mechanism.acceptance_bound()),
            "worst_r_hat": float(self.diagnostics_["r_hat"].max()),
            "least_ess": float(self.diagnostics_[["ess_bulk", "ess_tail"]].min().min()),
        }

    def _summary_title(self) -> str:
        return "Posterior given a private release"

    def _summary_table(self, table: pd.DataFrame, level: float) -> SimpleTable:
        return _results.printed_table(table, level)

    def _summary_notes(self) -> list[str]:
        notes = ["Intervals are quantiles of the posterior."]
        if self.kernel_ == "exact":
            notes.append("Draws are independent, from the exact posterior.")
        if self.kernel_ == "clt":
            notes.append("Approximate: totals are taken as normal (central limit theorem).")
        return notes

    def check_acceptance(self) -> pd.DataFrame:
        """Observed acceptance of proposals beside what privacy guarantees.

        Returns
        -------
        DataFrame of 1 row; see `statml.privacy.diagnostics.acceptance_check`
        """
        from .diagnostics import acceptance_check

        return acceptance_check(self)

    # --- comparison and prediction --------------------------------------------------------------------

    def naive_posterior(
        self,
        release: ArrayLike | Mapping[str, float] | None = None,
        size: int = 4000,
        random_state: RandomState = None,
    ) -> pd.DataFrame:
        """Draws from the posterior that takes the release for the true statistics: biased and over-confident, for comparison.

        Parameters
        ----------
        release : as in `fit`, or None, default=None
            None takes the release of `fit`.
        size : int, default=4000
        random_state : int, Generator or None, default=None

        Returns
        -------
        DataFrame of shape (size, k)

        Raises
        ------
        ValueError
            If the model cannot draw parameters given totals (`draw_from_totals`).
        """
        if not hasattr(self.model, "draw_from_totals"):
            raise ValueError(
                f"naive_posterior needs a model with draw_from_totals, which {type(self.model).__name__} does not have"
            )
        if release is None:
            check_is_fitted(self)
            s = self.release_
        else:
            s = checked_release(self, release)
        rng = as_generator(random_state)
        if self.n_mechanism is not None:
            n, s = max(round(s[-1]), 1), s[:-1]
        else:
            n = self._typical_n()
        if not sums_the_model(self.mechanism):
            raise ValueError(
                f"naive_posterior: a release by {type(self.mechanism).__name__} is no noisy total of the model's statistics"
            )
        theta = (
            self.posterior_mean_
            if hasattr(self, "posterior_mean_")
            else np.asarray(self.model.sample_prior(rng))
        )
        out = np.empty((check_integer("size", size, low=1), len(theta)))
        for row in out:
            theta = np.asarray(self.model.draw_from_totals(s, n, theta, rng), dtype=float)
            row[:] = theta
        return pd.DataFrame(out, columns=list(self.model.parameter_names))

    def nonprivate_posterior(
        self, records: ArrayLike, size: int = 4000, random_state: RandomState = None
    ) -> pd.DataFrame:
        """Draws from the posterior given complete records: what a release could tell at best.

        For simulated records, in tutorials and rehearsals. Nothing of them is kept.

        Parameters
        ----------
        records : array-like of shape (n, d)
            As the model's ``sample_records`` gives them.
        size : int, default=4000
        random_state : int, Generator or None, default=None

        Returns
        -------
        DataFrame of shape (size, k)
            Successive steps of the model's ``draw_posterior`` from a draw of the prior, after a tenth as many that are thrown away:
            independent draws where that step is exact.
        """
        x = np.asarray(records, dtype=float)
        if x.ndim != 2 or not len(x) or not np.isfinite(x).all():
            raise ValueError(
                f"records must be finite and of shape (n, d), one row a record; got shape {x.shape}"
            )
        rng = as_generator(random_state)
        size = check_integer("size", size, low=1)
        theta = np.asarray(self.model.sample_prior(rng), dtype=float)
        out = np.empty((size, len(theta)))
        for step in range(-(size // 10), size):
            theta = np.asarray(self.model.draw_posterior(x, theta, rng), dtype=float)
            if step >= 0:
                out[step] = theta
        return pd.DataFrame(out, columns=list(self.model.parameter_names))

    def compare(
        self,
        mechanisms: Mapping[Hashable, Mechanism] | Sequence[Mechanism],
        n_sims: int = 20,
        random_state: RandomState = None,
        **options: object,
    ) -> ReleaseDesign:
        """How wide the posterior would be under other mechanisms, for records like these.

        Parameters
        ----------
        mechanisms : dict or sequence of Mechanism
            Compared with each other and with this posterior's own, which comes first, labelled "this release".
        n_sims : int, default=20
            Data sets that are simulated at the posterior mean.
        random_state : int, Generator or None, default=None
        **options
            For `statml.privacy.design_release`.

        Returns
        -------
        ReleaseDesign

        Examples
        --------
        >>> from statml.privacy import PrivatePosterior, mechanisms, models
        >>> posterior = PrivatePosterior(
        ...     models.BetaBernoulli(2, 3), mechanisms.DiscreteLaplace(2.0), 30, random_state=0
        ... ).fit([17])
        >>> design = posterior.compare({"more noise": mechanisms.DiscreteLaplace(20.0)}, random_state=0)
        >>> design.table[["release", "posterior_sd"]].round(2)
                release  posterior_sd
        0  this release          0.11
        1    more noise          0.20
        """
        from .design import design_release

        check_is_fitted(self)
        if not isinstance(mechanisms, Mapping):
            mechanisms = {str(mechanism): mechanism for mechanism in mechanisms}
        mechanisms = {"this release": self.mechanism, **mechanisms}
        return design_release(
            self.model,
            mechanisms,
            self._typical_n(),
            theta=self.posterior_mean_,
            n_sims=n_sims,
            random_state=random_state,
            **options,
        )

    def sbc(self, n_sims: int = 200, **options: object) -> CalibrationResult:
        """Simulation-based calibration of this model, mechanism and kernel: see `simulation_based_calibration`."""
        from .diagnostics import simulation_based_calibration

        return simulation_based_calibration(self, n_sims, **options)

    def score(
        self,
        release: ArrayLike | Mapping[str, float],
        size: int = 2000,
        random_state: RandomState = 0,
    ) -> float:
        """Log predictive density of another release, about as many new records.

        Estimated from `size` data sets that are drawn from the posterior predictive; accurate where the release has few entries.

        Parameters
        ----------
        release : as in `fit`
        size : int, default=2000
        random_state : int, Generator or None, default=0

        Returns
        -------
        float
            Higher is better.
        """
        check_is_fitted(self)
        if self.n_prior is not None:
            raise ValueError("score needs a known number of records")
        s = checked_release(self, release)
        sets = self.synthetic_data(check_integer("size", size, low=1), random_state=random_state)
        log_eta = [
            float(
                self.mechanism.log_density(
                    s, self.mechanism.statistic(self.model, x, s).sum(axis=0)
                )
            )
            for x in sets
        ]
        return float(logsumexp(log_eta) - np.log(len(sets)))

    def predict(self, X: ArrayLike, return_std: bool = False) -> Array | tuple[Array, Array]:
        """Expected response of new cases, for models of a response given features.

        Parameters
        ----------
        X : array-like of shape (n, p)
            Features in the units of the records.
        return_std : bool, default=False
            Whether to give the posterior standard deviation of the expected response as well.

        Returns
        -------
        mean : ndarray of shape (n,)
        std : ndarray of shape (n,)
            Only with `return_std`.

        Raises
        ------
        ValueError
            If the model has no response; `sample_predictive` draws new records of any model.
        """
        check_is_fitted(self)
        response = expected_response(self.model, self.draws_of().to_numpy(), X)
        mean = response.mean(axis=0)
        return (mean, response.std(axis=0, ddof=1)) if return_std else mean

    def sample_predictive(self, n: int, random_state: RandomState = None) -> Array:
        """New records, each given its own posterior draw of theta.

        Parameters
        ----------
        n : int
        random_state : int, Generator or None, default=None

        Returns
        -------
        ndarray of shape (n, d)
        """
        rng = as_generator(random_state)
        theta = self.draws_of().to_numpy()
        rows = rng.integers(len(theta), size=check_integer("n", n, low=1))
        return np.concatenate([self.model.sample_records(theta[row], 1, rng) for row in rows])

    def synthetic_data(
        self, n_sets: int, n: int | None = None, random_state: RandomState = None
    ) -> Array:
        """Data sets from the posterior predictive: the records of one set share a draw of theta.

        Parameters
        ----------
        n_sets : int
        n : int or None, default=None
            Records a set; None takes `n_records`, or its posterior mean where it is unknown.
        random_state : int, Generator or None, default=None

        Returns
        -------
        ndarray of shape (n_sets, n, d)
        """
        rng = as_generator(random_state)
        theta = self.draws_of().to_numpy()
        n = self._typical_n() if n is None else check_integer("n", n, low=1)
        rows = rng.integers(len(theta), size=check_integer("n_sets", n_sets, low=1))
        return np.array([self.model.sample_records(theta[row], n, rng) for row in rows])

    # --- plots ------------------------------------------------------------------------------------------

    def plot_trace(self, **options: object) -> Array:
        """Densities and traces of the parameters, by ``arviz.plot_trace``, which takes `options`.

        Returns
        -------
        ndarray of matplotlib Axes
        """
        import arviz

        check_is_fitted(self)
        return arviz.plot_trace(self.idata_, **options)

    def plot_prior_posterior(self, term: str | None = None, **options: object) -> PosteriorDisplay:
        """Prior, private and naive posterior of a parameter: `PosteriorDisplay.from_estimator`, which takes `options`."""
        from .displays import PosteriorDisplay

        check_is_fitted(self)
        return PosteriorDisplay.from_estimator(self, term, **options)

    # --- what to run ----------------------------------------------------------------------------------

    def _typical_n(self) -> int:
        """The number of records, or its posterior mean."""
        if self.n_prior is None:
            return check_integer("n_records", self.n_records, low=1)
        check_is_fitted(self)
        return max(round(float(self.idata_.sample_stats["n"].mean())), 1)

    def _plan(self, release: ArrayLike | Mapping[str, float]) -> Plan:
        return make_plan(self, release)


class _ExactChain:
    """The independent draws of one chain, as a task of `parallel_map`."""

    def __init__(self, plan: Plan):
        self.plan = plan

    def __call__(self, _chain: int, rng: np.random.Generator) -> Array:
        plan = self.plan
        return exact_draws(
            plan.model, plan.mechanism, plan.release, plan.n_records, plan.draws, rng
        )
