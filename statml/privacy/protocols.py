r"""The three things that vary, and what each has to offer the others.

A private release s is noise on a sum over records, :math:`\eta(s \mid x) = g(s, S)` with
:math:`S = \sum_i t_i(x_i)`. The sampler draws from :math:`p(\theta, x \mid s)` by combining

- a `RecordModel`: prior, records given parameters, parameters given records, and the statistic t;
- a `Mechanism`: the density g of the release given the total S;
- a `Kernel`: how one sweep moves the chain (`ChainState` in, `ChainState` out).

None knows the others' kind. A new member of either is one new file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .compiled import CompiledDensity, separable_log_density, sum_of_totals

Array = NDArray[np.float64]


@runtime_checkable
class RecordModel(Protocol):
    """A Bayesian model of records that are independent given the parameters.

    Parameters travel as one flat array ``theta`` of shape (k,); `parameter_names` names its entries
    (``beta[0]``, ``beta[1]``, ...). Records are rows of an array of shape (n, d), unclamped: whatever
    the curator did to a record before summing (clamping, scaling, logarithms) is part of `statistic`.

    Optional, found by ``hasattr``:

    - ``log_prior(theta) -> float``;
    - ``to_ancillary(x, theta, rng) -> u`` and ``from_ancillary(u, theta) -> x``: records as a function of theta and of
      noise u (n, d_u) whose law is free of theta (for interweaving); where records are discrete, u is drawn given x;
    - ``prior_gaussian() -> (mean (k,), covariance (k, k))``, where the prior of theta is Gaussian: interweaving then
      moves by elliptical slices; else by slices of ``log_prior``, or by proposals from the prior where there is none;
    - ``compiled() -> CompiledModel | None`` (see `compiled`): numba versions of the same steps, with which a whole chain
      runs compiled;
    - ``prior_is_proper`` (bool, default True);
    - ``additive`` (bool, default True): where False, ``statistic(x)`` returns what was released of all records
      together, shape (m,), and every proposal computes it anew;
    - ``sensitivity(neighbours="replace" | "add-remove", norm=1 | 2) -> float``;
    - ``moments(theta, n) -> (mean (m,), covariance (m, m))`` of the statistic of one of n records, and
      ``draw_from_totals(S, n, theta, rng) -> theta`` (for the central-limit kernel);
    - ``draw_exact(release, mechanism, n_records, size, rng) -> theta of shape (size, k)``: independent draws from
      the exact posterior, where one is known; raises NotImplementedError for a mechanism it does not know.

    - ``chain_state`` (dict of arrays and numbers) and ``end_warmup()``, for a posterior step that tunes itself: every
      chain has its own dict, which is saved with the chain; after `end_warmup` it must not change the step any more;
    - ``alpha`` (K,), for a model whose parameters are the probabilities of K categories with this Dirichlet prior: Gibbs sampling
      on counts then runs compiled;
    - ``one_n_only`` (bool, default False): whether the number of records cannot vary within a chain;
    - ``exchangeable`` (bool, default True): whether all records have the same law and the same statistic.

    The statistic of a record may depend on how many there are (``x / len(x)`` makes their total a mean): kernels
    call `statistic` with all n records. Such a model is refused where n is unknown.
    """

    parameter_names: list[str]
    statistic_names: list[str]

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """One draw of theta, shape (k,)."""
        ...

    def sample_records(self, theta: Array, n: int, rng: np.random.Generator) -> Array:
        """n independent records given theta, shape (n, d)."""
        ...

    def statistic(self, x: Array) -> Array:
        """t(x_i) for every record, shape (n, m)."""
        ...

    def draw_posterior(self, x: Array, theta: Array, rng: np.random.Generator) -> Array:
        """The next theta given complete records: an exact draw, or a Markov step from theta that leaves
        p(theta | x) invariant."""
        ...


@dataclass(frozen=True)
class SeparableNoise:
    """log g(s, S) = constant - sum_j weight_j |s_j - S_j|^power_j, power 1 or 2: what the compiled sweep takes."""

    power: NDArray[np.int64]
    weight: Array


class Mechanism:
    """Base of the privacy mechanisms: how the released statistic was noised.

    A member supplies `log_density`, `randomise` and `check_release`, and overrides what else it knows.

    Attributes
    ----------
    factorises : bool
        Whether the density is a product over records (local privacy): then log g is the sum over records of
        the one column that `statistic` gives, and all records may be accepted or refused at once.
    needs_release : bool
        Whether `statistic` depends on the release. `randomise` then takes the records, not their totals.
    """

    factorises: bool = False
    needs_release: bool = False

    def log_density(self, release: Array, totals: Array) -> Array:
        """log g(s, S) for one release (m,) and totals of shape (..., m); normalised wherever possible."""
        raise NotImplementedError

    def log_ratio(self, release: Array, totals: Array, proposed: Array) -> Array:
        """log g(s, S*) - log g(s, S) for totals S and proposed totals S*, shapes (..., m)."""
        return self.log_density(release, proposed) - self.log_density(release, totals)

    def randomise(self, totals: Array, rng: np.random.Generator) -> Array:
        """A release given totals of shape (m,). For rehearsals, not for publishing (see each member)."""
        raise NotImplementedError

    def simulate(self, model: RecordModel, x: Array, rng: np.random.Generator) -> Array:
        """A release given complete records of a model, for rehearsals. What `check_release` takes."""
        return self.randomise(model.statistic(x).sum(axis=0), rng)

    def statistic(self, model: RecordModel, x: Array, release: Array | None) -> Array:
        """t_i per record, shape (n, m); mechanisms whose statistic depends on the release override it."""
        return model.statistic(x)

    def check_release(
        self, release: ArrayLike, statistic_names: list[str], n_records: int | None = None
    ) -> Array:
        """The release as a float array (m,), or a ValueError that names the expected entries in order."""
        raise NotImplementedError

    def n_totals(self, n_statistics: int) -> int:
        """Number of columns of `statistic`, for a model with n_statistics of its own."""
        return n_statistics

    def release_size(self, n_statistics: int) -> int | None:
        """Number of entries of a checked release; None where it is the number of records."""
        return n_statistics

    def separable(self, n_statistics: int) -> SeparableNoise | None:
        """The form that the compiled sweep takes, where there is one."""
        return None

    def compiled(self, n_statistics: int) -> CompiledDensity | None:
        """The compiled log density (up to a constant), else None: then `log_density` is called record by record."""
        if self.factorises:
            return CompiledDensity(sum_of_totals)
        noise = self.separable(n_statistics)
        if noise is None:
            return None
        constants = np.concatenate([np.asarray(noise.power, float), noise.weight])
        return CompiledDensity(separable_log_density, constants)

    def epsilon(self, sensitivity: ArrayLike | None = None) -> float:
        """The privacy loss: the largest absolute log g(s, S) - log g(s, S*) over neighbours; inf where unbounded."""
        raise NotImplementedError

    def acceptance_bound(
        self, sensitivity: ArrayLike | None = None, *, average: bool = False
    ) -> float:
        """Lower bound of every record's acceptance probability, or of its mean over releases.

        Without `average` it holds in every state of the chain: exp(-epsilon), 0 where epsilon is unbounded or
        the sensitivity is not known. With `average` it holds for each proposal on average over
        releases given the current records: 2 / (1 + exp(epsilon)), or what a member knows better.
        """
        try:
            epsilon = self.epsilon(sensitivity)
        except (NotImplementedError, UnknownSensitivity):
            return 0.0
        # 2 / (1 + e^eps) without overflow
        return float(2 * np.exp(-np.logaddexp(0.0, epsilon)) if average else np.exp(-epsilon))


class UnknownSensitivity(ValueError):
    """Neither the call nor the mechanism says how far one record can move the statistic."""


@dataclass
class ChainState:
    """Where a chain stands: parameters, latent records, their statistics and running total."""

    theta: Array
    x: Array
    t: Array
    S: Array
    log_eta: float


class Kernel(Protocol):
    """One way to move a chain. Everything random comes from ``rng``; the state that came in is used up.

    Optional, found by ``hasattr``: ``run(state, release, rng, n_sweeps, trace) -> ChainState``, many compiled sweeps at
    once (see `kernels.chain`); ``tune(...)``, called during warm-up only; ``start(state) -> ChainState``, for a first state that
    differs from that of records and their totals.
    """

    name: str

    def sweep(
        self, state: ChainState, release: Array, rng: np.random.Generator
    ) -> tuple[ChainState, dict[str, Any]]:
        """The next state, and what to record of the sweep (``accepted``: boolean or rate a record, ...)."""
        ...
