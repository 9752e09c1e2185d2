r"""Rate of Poisson counts.

.. math::  \lambda \sim \mathrm{Gamma}(a, b), \quad x_i \mid \lambda \sim \mathrm{Poisson}(\lambda), \quad t_i = \min(x_i, c),

with the curator's cap c. Given complete records the posterior is Gamma(a + sum of x, b + n). For interweaving a count is the
Poisson quantile at a uniform variable; the distribution function is tabulated once for each rate.

Cost: O(n log sqrt(lambda)) a sweep.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.stats import gamma, poisson

from ..._validation import check_integer, check_number
from ..compiled import (
    CompiledModel,
    from_ancillary_step,
    log_prior_step,
    posterior_step,
    record_step,
    to_ancillary_step,
)
from ._base import AncillaryDataModel, check_neighbours
from ._bounds import needs_bounds

Array = NDArray[np.float64]


class PoissonGamma(AncillaryDataModel):
    """Rate of Poisson counts; the statistic is the sum of the capped counts.

    Parameters
    ----------
    shape, rate : float, default=1.0
        a and b of the gamma prior, whose mean is a / b.
    upper : int or None, default=None
        c >= 1, the largest count that the curator let stand; None: nothing was capped.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import models
    >>> model = models.PoissonGamma(shape=2, rate=0.5, upper=10)
    >>> model.statistic(np.array([[3.0], [12.0]])).sum(axis=0), model.sensitivity()
    (array([13.]), 10.0)
    """

    parameter_names = ["lambda"]  # noqa: RUF012
    statistic_names = ["sum"]  # noqa: RUF012
    n_columns = 1

    def __init__(self, shape: float = 1.0, rate: float = 1.0, upper: int | None = None):
        self.shape = check_number("shape", shape, 0, low_open=True)
        self.rate = check_number("rate", rate, 0, low_open=True)
        self.upper = None if upper is None else check_integer("upper", upper, low=1)

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """lambda from its prior, shape (1,)."""
        return np.array([rng.standard_gamma(self.shape) / self.rate])

    def log_prior(self, theta: Array) -> float:
        """Log density of the prior."""
        return float(gamma.logpdf(theta[0], self.shape, scale=1 / self.rate))

    def statistic(self, x: Array) -> Array:
        """The capped count, shape (n, 1)."""
        return np.minimum(x, np.inf if self.upper is None else self.upper)

    def draw_from_totals(self, S: Array, n: int, theta: Array, rng: np.random.Generator) -> Array:
        """lambda given the sum, which may be a noisy one (a negative one is 0), taken as not capped."""
        return np.array([rng.standard_gamma(self.shape + max(S[0], 0.0)) / (self.rate + n)])

    def moments(self, theta: Array, n: int) -> tuple[Array, Array]:
        """Mean (1,) and covariance (1, 1) of a capped count."""
        if self.upper is None:
            return theta.copy(), theta[:, None].copy()
        k = np.arange(self.upper)
        p = poisson.pmf(k, theta[0])
        above = poisson.sf(self.upper - 1, theta[0])
        mean = k @ p + self.upper * above
        return np.array([mean]), np.array([[k**2 @ p + self.upper**2 * above - mean**2]])

    def sensitivity(self, neighbours: str = "replace", norm: int = 1) -> float:
        """How far one record can move the sum: `upper`, for every norm and kind of neighbours.

        Raises
        ------
        UnknownSensitivity
            Without `upper`.
        """
        check_neighbours(neighbours, norm)
        needs_bounds(self.upper, "PoissonGamma", "upper")
        return float(self.upper)

    def compiled(self) -> CompiledModel:
        """Numba versions of the steps."""
        return CompiledModel(
            records=_records,
            posterior=_posterior,
            constants=[self.shape, self.rate, np.inf if self.upper is None else self.upper],
            to_ancillary=_to_ancillary,
            from_ancillary=_from_ancillary,
            log_prior=_log_prior,
        )


# --- compiled steps; constants = (a, b, c) ----------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy")
def poisson_table(rate):
    """The first count of a table, and P(X <= count) for the counts from there on; what is left out has less than 1e-20."""
    reach = 10.0 * math.sqrt(rate) + 50.0
    first = int(max(rate - reach, 0.0))
    table = np.empty(int(rate + reach) + 1 - first)
    total = 0.0
    for i in range(table.shape[0]):
        k = first + i
        log_p = -rate - math.lgamma(k + 1.0) + (k * math.log(rate) if k > 0 else 0.0)
        total += math.exp(log_p)
        table[i] = total
    return first, table


@record_step
def _records(theta, constants, rng, x, t):
    for i in range(x.shape[0]):
        x[i, 0] = rng.poisson(theta[0])
        t[i, 0] = min(x[i, 0], constants[2])


@posterior_step
def _posterior(x, theta, constants, rng):
    total = 0.0
    for i in range(x.shape[0]):
        total += x[i, 0]
    theta[0] = rng.standard_gamma(constants[0] + total) / (constants[1] + x.shape[0])


@to_ancillary_step
def _to_ancillary(x, theta, constants, rng, u):
    first, table = poisson_table(theta[0])
    last = table.shape[0] - 1
    for i in range(x.shape[0]):
        position = min(max(int(x[i, 0]) - first, 0), last)
        low = table[position - 1] if position > 0 else 0.0
        u[i, 0] = low + (table[position] - low) * rng.random()


@from_ancillary_step
def _from_ancillary(u, theta, constants, x, t):
    first, table = poisson_table(theta[0])
    last = table.shape[0] - 1
    for i in range(u.shape[0]):
        # the first count whose distribution function exceeds u
        position = min(np.searchsorted(table, u[i, 0], side="right"), last)
        x[i, 0] = first + position
        t[i, 0] = min(x[i, 0], constants[2])


@log_prior_step
def _log_prior(theta, constants):
    if not theta[0] > 0.0:
        return -np.inf
    return (constants[0] - 1.0) * np.log(theta[0]) - constants[1] * theta[0]
