r"""Mean of a normal sample with known standard deviation.

.. math::  \mu \sim N(m_0, \tau^2), \quad x_i \mid \mu \sim N(\mu, \sigma^2), \quad t_i = x_i / n,

so that the total :math:`S = \bar x` is the sample mean. Given complete records the posterior is normal with precision
:math:`1/\tau^2 + n/\sigma^2`. Under Laplace or Gaussian noise, and without clamping, so is the posterior given the release:
normal for Gaussian noise, a normal mixture of two truncated normals for Laplace noise (`draw_exact`).

Cost: O(n) a sweep; O(1) an exact draw.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr
from scipy.stats import norm, truncnorm

from ..._validation import check_integer, check_number
from ..compiled import (
    CompiledModel,
    from_ancillary_step,
    posterior_step,
    record_step,
    to_ancillary_step,
)
from ..protocols import Mechanism
from ._base import DataModel, check_neighbours, refuse_improper
from ._bounds import check_bounds, clipped_normal_moments, needs_bounds

Array = NDArray[np.float64]


class NormalMean(DataModel):
    """Mean of a normal sample with known standard deviation; the statistic is the sample mean.

    Parameters
    ----------
    sigma : float
        Known standard deviation of a record, > 0.
    prior_mean : float, default=0.0
    prior_sd : float, default=1.0
        Infinity makes the prior flat, hence improper.
    bounds : (lower, upper) or None, default=None
        What the curator clamped the records to; None: nothing was clamped.

    Notes
    -----
    ``statistic`` divides by the number of records it is given, so it has to be given all of them.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import models
    >>> model = models.NormalMean(sigma=1.0, prior_sd=2.0)
    >>> model.statistic(np.array([[1.0], [4.0]])).sum(axis=0)
    array([2.5])
    """

    parameter_names = ["mu"]  # noqa: RUF012
    statistic_names = ["mean"]  # noqa: RUF012

    def __init__(
        self,
        sigma: float,
        prior_mean: float = 0.0,
        prior_sd: float = 1.0,
        bounds: ArrayLike | None = None,
    ):
        self.sigma = check_number("sigma", sigma, 0, low_open=True)
        self.prior_mean = check_number("prior_mean", prior_mean)
        self.prior_is_proper = prior_sd != np.inf
        self.prior_sd = (
            check_number("prior_sd", prior_sd, 0, low_open=True)
            if self.prior_is_proper
            else float("inf")
        )
        self.bounds = check_bounds(bounds, ["x"])

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """mu from its prior, shape (1,)."""
        refuse_improper(self, "prior_sd")
        return np.array([rng.normal(self.prior_mean, self.prior_sd)])

    def log_prior(self, theta: Array) -> float:
        """Log density of the prior; 0 where it is flat."""
        if not self.prior_is_proper:
            return 0.0
        return float(norm.logpdf(theta[0], self.prior_mean, self.prior_sd))

    def prior_gaussian(self) -> tuple[Array, Array] | None:
        """Mean (1,) and covariance (1, 1) of the prior."""
        if not self.prior_is_proper:
            return None
        return np.array([self.prior_mean]), np.array([[self.prior_sd**2]])

    def sample_records(self, theta: Array, n: int, rng: np.random.Generator) -> Array:
        """Records, shape (n, 1)."""
        return theta[0] + self.sigma * rng.standard_normal((n, 1))

    def statistic(self, x: Array) -> Array:
        """x_i / n after clamping, shape (n, 1)."""
        if self.bounds is not None:
            x = np.clip(x, *self.bounds[0])
        return x / len(x)

    def draw_posterior(self, x: Array, theta: Array, rng: np.random.Generator) -> Array:
        """mu given complete records."""
        return self.draw_from_totals(x.mean(axis=0), len(x), theta, rng)

    def draw_from_totals(self, S: Array, n: int, theta: Array, rng: np.random.Generator) -> Array:
        """mu given the mean of n records, taken as not clamped."""
        precision = n / self.sigma**2 + self.prior_sd**-2
        centre = (n * S[0] / self.sigma**2 + self.prior_mean * self.prior_sd**-2) / precision
        return np.array([rng.normal(centre, precision**-0.5)])

    def moments(self, theta: Array, n: int) -> tuple[Array, Array]:
        """Mean (1,) and covariance (1, 1) of the statistic of one of n records."""
        mean, variance = theta[0], self.sigma**2
        if self.bounds is not None:
            mean, variance = clipped_normal_moments(theta[0], self.sigma, *self.bounds[0])
        return np.array([mean / n]), np.array([[variance / n**2]])

    def to_ancillary(self, x: Array, theta: Array, rng: np.random.Generator) -> Array:
        """Standardised records."""
        return (x - theta[0]) / self.sigma

    def from_ancillary(self, u: Array, theta: Array) -> Array:
        """Records from standardised ones."""
        return theta[0] + self.sigma * u

    def sensitivity(
        self, neighbours: str = "replace", norm: int = 1, *, n_records: int | None = None
    ) -> float:
        """How far one record can move the mean: (upper - lower) / n, for every norm.

        Parameters
        ----------
        neighbours : {"replace"}, default="replace"
            The mean has no finite sensitivity to adding a record unless n is fixed.
        norm : {1, 2}, default=1
        n_records : int
            Number of records.

        Raises
        ------
        UnknownSensitivity
            Without `bounds`.
        """
        check_neighbours(neighbours, norm)
        needs_bounds(self.bounds, "NormalMean")
        if neighbours != "replace":
            raise ValueError('neighbours must be "replace" for a mean, whose n is public')
        if n_records is None:
            raise ValueError("n_records must be given: a mean moves by (upper - lower) / n_records")
        low, high = self.bounds[0]
        return float((high - low) / check_integer("n_records", n_records, low=1))

    def draw_exact(
        self,
        release: Array,
        mechanism: Mechanism,
        n_records: int,
        size: int,
        rng: np.random.Generator,
    ) -> Array:
        """Independent draws of mu given a release with Laplace or Gaussian noise, shape (size, 1).

        Raises
        ------
        NotImplementedError
            For other noise, clamped records or an improper prior.
        """
        noise = None if mechanism.needs_release else mechanism.separable(1)
        if noise is None or self.bounds is not None or not self.prior_is_proper:
            raise NotImplementedError(
                "exact draws of a normal mean need Laplace or Gaussian noise, no bounds and a proper prior"
            )
        variance = self.sigma**2 / n_records
        marginal = self.prior_sd**2 + variance
        mean = _mean_given_release(
            release[0], self.prior_mean, marginal, noise.power[0], noise.weight[0], size, rng
        )
        shrink = self.prior_sd**2 / marginal
        mu = self.prior_mean + shrink * (mean - self.prior_mean)
        return (mu + np.sqrt(shrink * variance) * rng.standard_normal(size))[:, None]

    def compiled(self) -> CompiledModel:
        """Numba versions of the steps."""
        low, high = (-np.inf, np.inf) if self.bounds is None else self.bounds[0]
        return CompiledModel(
            records=_records,
            posterior=_posterior,
            constants=np.array([self.sigma, self.prior_mean, self.prior_sd**-2, low, high]),
            to_ancillary=_to_ancillary,
            from_ancillary=_from_ancillary,
        )


def _mean_given_release(s, centre, variance, power, weight, size, rng):
    """Draws of S with prior N(centre, variance) and log density -weight |s - S|^power of the release."""
    if power == 2:
        precision = 1 / variance + 2 * weight
        mean = (centre / variance + 2 * weight * s) / precision
        return rng.normal(mean, precision**-0.5, size)
    # On either side of s the exponential tilts the normal: a mixture of two truncated normals.
    sd = np.sqrt(variance)
    below, above = centre + weight * variance, centre - weight * variance
    log_below = weight * (centre - s) + log_ndtr((s - below) / sd)
    log_above = weight * (s - centre) + log_ndtr((above - s) / sd)
    is_below = np.log(rng.random(size)) < log_below - np.logaddexp(log_below, log_above)
    return np.where(
        is_below,
        truncnorm.rvs(-np.inf, (s - below) / sd, below, sd, size=size, random_state=rng),
        truncnorm.rvs((s - above) / sd, np.inf, above, sd, size=size, random_state=rng),
    )


# --- compiled steps; constants = (sigma, prior mean, prior precision, lower, upper) -----------------------


@record_step
def _records(theta, constants, rng, x, t):
    n = x.shape[0]
    for i in range(n):
        x[i, 0] = theta[0] + constants[0] * rng.standard_normal()
        t[i, 0] = min(max(x[i, 0], constants[3]), constants[4]) / n


@posterior_step
def _posterior(x, theta, constants, rng):
    total = 0.0
    for i in range(x.shape[0]):
        total += x[i, 0]
    precision = x.shape[0] / constants[0] ** 2 + constants[2]
    centre = (total / constants[0] ** 2 + constants[1] * constants[2]) / precision
    theta[0] = centre + rng.standard_normal() / np.sqrt(precision)


@to_ancillary_step
def _to_ancillary(x, theta, constants, rng, u):
    for i in range(x.shape[0]):
        u[i, 0] = (x[i, 0] - theta[0]) / constants[0]


@from_ancillary_step
def _from_ancillary(u, theta, constants, x, t):
    n = u.shape[0]
    for i in range(n):
        x[i, 0] = theta[0] + constants[0] * u[i, 0]
        t[i, 0] = min(max(x[i, 0], constants[3]), constants[4]) / n
