r"""Shares that sum to one (a day's time use, a budget), with a Dirichlet law.

.. math::  x_i \mid \theta \sim \mathrm{Dirichlet}(\theta), \quad \theta_k \sim \mathrm{Gamma}(a, b), \quad
           t_i = (\log \max(x_{i1}, c), \dots, \log \max(x_{iK}, c)),

with the curator's floor c (one minute of a day: 1/1440). The posterior given complete records has the density

.. math::  \propto \prod_k \theta_k^{a - 1} e^{-b \theta_k} \cdot \left\{\frac{\Gamma(\sum_k \theta_k)}{\prod_k \Gamma(\theta_k)}\right\}^n
           \exp\Bigl\{\sum_k (\theta_k - 1) \sum_i \log x_{ik}\Bigr\},

on which `N_ROUNDS` rounds of slice sampling move each :math:`\log \theta_k` and all of them together; they need only the K sums
of logarithms, so that they cost next to nothing beside the records.

**Sensitivity.** Replacing a record moves the sums of logarithms by at most
:math:`K |\log c| - r \log r - (K - r) \log(K - r)`, :math:`r = \lfloor K / 2 \rfloor`, in L1 (r shares of 1/r against the
K - r others); adding or removing one by :math:`(K - 1) |\log c| + |\log\{1 - (K - 1) c\}|`.

Cost: O(n K) a sweep.

Reference: Xiong, Y. and Ju, N. (2025). SOMA: a novel sampler for Bayesian inference from privatized data. arXiv 2505.00635 (the example
on the American Time Use Survey).
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import gamma

from ..._validation import check_integer, check_number
from ..compiled import CompiledModel, compiled_function, posterior_step, record_step
from ._base import CompiledDataModel, check_neighbours, vector
from .dirichlet_categorical import fill_dirichlet

Array = NDArray[np.float64]
N_ROUNDS = 3
WIDTH = 1.0  # of a slice of log theta
SMALLEST = 1e-300  # a share below is taken as this, so that its logarithm is finite


class DirichletData(CompiledDataModel):
    """Dirichlet law of shares; the statistics are the sums of the logarithms of the shares, clipped from below.

    A record is (x_1, ..., x_K), positive and summing to one.

    Parameters
    ----------
    n_shares : int
        K >= 2.
    prior_shape, prior_rate : float or array-like of shape (K,), default=1.0 and 0.1
        a and b of the gamma priors of theta_1, ..., theta_K.
    floor : float, default=1/1440
        c in (0, 1/K): the curator raised smaller shares to it.

    Notes
    -----
    A release of mean logarithms is one of the sums, divided by n: multiply it, and the scale of its noise, by n.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import models
    >>> model = models.DirichletData(3, floor=0.01)
    >>> model.statistic(np.array([[0.5, 0.499, 0.001]])).round(3)
    array([[-0.693, -0.695, -4.605]])
    >>> round(model.sensitivity(), 3)
    12.429
    """

    def __init__(
        self,
        n_shares: int,
        prior_shape: ArrayLike = 1.0,
        prior_rate: ArrayLike = 0.1,
        floor: float = 1 / 1440,
    ):
        K = self.n_shares = self.n_columns = check_integer("n_shares", n_shares, low=2)
        self.prior_shape = vector("prior_shape", prior_shape, K, positive=True)
        self.prior_rate = vector("prior_rate", prior_rate, K, positive=True)
        self.floor = check_number("floor", floor, 0, 1 / K, low_open=True, high_open=True)
        self.parameter_names = [f"theta[{k}]" for k in range(K)]
        self.statistic_names = [f"log x{k + 1}" for k in range(K)]

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """theta from its prior, shape (K,)."""
        return np.maximum(rng.standard_gamma(self.prior_shape) / self.prior_rate, SMALLEST)

    def log_prior(self, theta: Array) -> float:
        """Log density of the prior."""
        return float(gamma.logpdf(theta, self.prior_shape, scale=1 / self.prior_rate).sum())

    def statistic(self, x: Array) -> Array:
        """Logarithms of the clipped shares, shape (n, K)."""
        return np.log(np.maximum(x, self.floor))

    def draw_from_totals(self, S: Array, n: int, theta: Array, rng: np.random.Generator) -> Array:
        """The next theta given sums of logarithms, which may be noisy ones, taken as those of shares that were never clipped.

        What no shares can have (mean logarithms above 0, or whose exponentials sum to 1 or more) is moved to just inside.
        """
        mean = np.minimum(np.asarray(S, dtype=float) / n, 0.0)
        excess = np.log(np.exp(mean).sum())
        mean -= max(excess + 1e-6, 0.0)
        theta = np.array(theta, dtype=float)
        _draw_theta(n * mean, float(n), theta, self._constants, rng)
        return theta

    def sensitivity(self, neighbours: str = "replace", norm: int = 1) -> float:
        """How far one record can move the sums.

        Parameters
        ----------
        neighbours : {"replace", "add-remove"}, default="replace"
        norm : {1, 2}, default=1
            For L2 and replacing, the maximum over how many shares r and r' are large in the one record and in the other
            of the root of r log(r c)^2 + r' log(r' c)^2.
        """
        check_neighbours(neighbours, norm)
        K, low = self.n_shares, -np.log(self.floor)
        if neighbours == "add-remove":
            rest = -np.log1p(-(K - 1) * self.floor)
            return float(((K - 1) * low**norm + rest**norm) ** (1 / norm))
        moves = [
            sum(size * (low - np.log(size)) ** norm for size in (r, rest))
            for r in range(1, K)
            for rest in range(1, K - r + 1)
        ]
        return float(max(moves) ** (1 / norm))

    @property
    def _constants(self) -> Array:
        return np.concatenate([[self.floor], self.prior_shape, self.prior_rate])

    def compiled(self) -> CompiledModel:
        """Numba versions of the steps."""
        return CompiledModel(records=_records, posterior=_posterior, constants=self._constants)


# --- compiled steps; constants = (c, a_1, ..., a_K, b_1, ..., b_K) ----------------------------------------


@record_step
def _records(theta, constants, rng, x, t):
    for i in range(x.shape[0]):
        fill_dirichlet(theta, x[i], rng)
        for k in range(x.shape[1]):
            x[i, k] = max(x[i, k], SMALLEST)
            t[i, k] = np.log(max(x[i, k], constants[0]))


@posterior_step
def _posterior(x, theta, constants, rng):
    sums = np.zeros(x.shape[1])
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            sums[k] += np.log(x[i, k])
    _slice_rounds(sums, float(x.shape[0]), theta, constants, rng)


@compiled_function("void", "f x f f g")
def _draw_theta(sums, n, theta, constants, rng):
    _slice_rounds(sums, n, theta, constants, rng)


@numba.njit(cache=True, error_model="numpy")
def _log_posterior(log_theta, sums, n, c):
    """Of log theta, hence with the Jacobian sum of log theta."""
    K = log_theta.shape[0]
    total, value = 0.0, 0.0
    for k in range(K):
        theta = math.exp(log_theta[k])
        if not 0.0 < theta < 1e15:  # beyond, the difference of lgammas has no digits left
            return -np.inf
        total += theta
        value += c[1 + k] * log_theta[k] - c[1 + K + k] * theta
        value += theta * sums[k] - n * math.lgamma(theta)
    return value + n * math.lgamma(total)


@numba.njit(cache=True, error_model="numpy")
def _slice_rounds(sums, n, theta, c, rng):
    """Slices of each log theta_k, then of their common shift, N_ROUNDS times."""
    K = theta.shape[0]
    here, trial = np.log(theta), np.empty(K)
    density = _log_posterior(here, sums, n, c)
    for _ in range(N_ROUNDS):
        for k in range(K + 1):  # k = K shifts all
            level = density - rng.standard_exponential()
            low = -WIDTH * rng.random()
            high = low + WIDTH
            for side in range(2):
                while True:
                    step = high if side else low
                    for j in range(K):
                        trial[j] = here[j] + (step if k in (j, K) else 0.0)
                    if not _log_posterior(trial, sums, n, c) > level:
                        break
                    if side:
                        high += WIDTH
                    else:
                        low -= WIDTH
            while True:
                step = low + (high - low) * rng.random()
                for j in range(K):
                    trial[j] = here[j] + (step if k in (j, K) else 0.0)
                density = _log_posterior(trial, sums, n, c)
                if density > level:
                    break
                if step < 0.0:
                    low = step
                else:
                    high = step
                if high - low < 1e-14:  # rounding errors: stay
                    trial[:] = here
                    density = _log_posterior(here, sums, n, c)
                    break
            here[:] = trial
    theta[:] = np.exp(here)
