r"""Mean and variance of a normal sample.

.. math::  \sigma^2 \sim \mathrm{IG}(a, b), \quad \mu \mid \sigma^2 \sim N(m_0, \sigma^2 / \kappa_0), \quad
           x_i \mid \mu, \sigma^2 \sim N(\mu, \sigma^2), \quad t_i = (\tilde x_i, \tilde x_i^2),

where :math:`\tilde x = 2 (x - l) / (r - l) - 1` for x clamped to [l, r]. Given complete records the posterior is of the same form
with :math:`\kappa_n = \kappa_0 + n`, :math:`m_n = (\kappa_0 m_0 + n \bar x) / \kappa_n`, :math:`a_n = a + n / 2` and
:math:`b_n = b + \tfrac12 \sum (x_i - \bar x)^2 + \tfrac12 \kappa_0 n (\bar x - m_0)^2 / \kappa_n`.

Cost: O(n) a sweep.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import invgamma, norm

from ..._validation import check_number
from ..compiled import (
    CompiledModel,
    compiled_function,
    from_ancillary_step,
    log_prior_step,
    posterior_step,
    record_step,
    to_ancillary_step,
)
from ._base import AncillaryDataModel, check_neighbours
from ._bounds import check_bounds, clamp_to_unit, needs_bounds
from .linear_regression import moment_sensitivity

Array = NDArray[np.float64]
N_NODES = 400  # of the quadrature behind `moments`


class NormalMeanVariance(AncillaryDataModel):
    """Mean and variance of a normal sample; the statistics are the sums of the records and of their squares.

    Parameters
    ----------
    prior_mean : float, default=0.0
        m_0.
    prior_n : float, default=1.0
        kappa_0, how many records the prior mean is worth.
    prior_shape, prior_rate : float, default=2.0 and 1.0
        a and b of the inverse gamma prior of the variance, whose mean is b / (a - 1).
    bounds : (lower, upper) or None, default=None
        What the curator clamped the records to before mapping them to [-1, 1]; None: sums of the raw records were released.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import models
    >>> model = models.NormalMeanVariance(bounds=(0, 10))
    >>> model.statistic(np.array([[5.0], [12.0]]))
    array([[0., 0.],
           [1., 1.]])
    >>> model.sensitivity("replace")
    2.25
    """

    parameter_names = ["mu", "sigma2"]  # noqa: RUF012
    statistic_names = ["x", "x^2"]  # noqa: RUF012
    n_columns = 1

    def __init__(
        self,
        prior_mean: float = 0.0,
        prior_n: float = 1.0,
        prior_shape: float = 2.0,
        prior_rate: float = 1.0,
        bounds: ArrayLike | None = None,
    ):
        self.prior_mean = check_number("prior_mean", prior_mean)
        self.prior_n = check_number("prior_n", prior_n, 0, low_open=True)
        self.prior_shape = check_number("prior_shape", prior_shape, 0, low_open=True)
        self.prior_rate = check_number("prior_rate", prior_rate, 0, low_open=True)
        self.bounds = check_bounds(bounds, ["x"])

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """(mu, sigma2) from the prior."""
        sigma2 = self.prior_rate / rng.standard_gamma(self.prior_shape)
        return np.array([rng.normal(self.prior_mean, np.sqrt(sigma2 / self.prior_n)), sigma2])

    def log_prior(self, theta: Array) -> float:
        """Log density of the prior."""
        mu, sigma2 = theta
        if not sigma2 > 0:
            return -np.inf
        return float(
            invgamma.logpdf(sigma2, self.prior_shape, scale=self.prior_rate)
            + norm.logpdf(mu, self.prior_mean, np.sqrt(sigma2 / self.prior_n))
        )

    def statistic(self, x: Array) -> Array:
        """The clamped and mapped record and its square, shape (n, 2)."""
        v = clamp_to_unit(np.asarray(x, dtype=float), self.bounds)
        return np.concatenate([v, v**2], axis=1)

    def draw_from_totals(self, S: Array, n: int, theta: Array, rng: np.random.Generator) -> Array:
        """(mu, sigma2) given totals, which may be noisy ones, taken as those of records that were never clamped.

        Where the totals imply a negative sum of squares about the mean, it is taken as 0.
        """
        low, high = (-1.0, 1.0) if self.bounds is None else self.bounds[0]
        slope = (high - low) / 2
        mean = (low + high) / 2 + slope * S[0] / n
        squares = slope**2 * max(S[1] - S[0] ** 2 / n, 0.0)
        theta = np.empty(2)
        _draw_theta(mean, squares, float(n), theta, self.constants, rng)
        return theta

    def moments(self, theta: Array, n: int) -> tuple[Array, Array]:
        """Mean (2,) and covariance (2, 2) of the statistic of a record, by quadrature."""
        nodes, weights = np.polynomial.legendre.leggauss(N_NODES)
        z = 9 * nodes  # standard deviations
        weights = weights * np.exp(-(z**2) / 2)
        weights /= weights.sum()
        t = self.statistic((theta[0] + np.sqrt(theta[1]) * z)[:, None])
        mean = weights @ t
        return mean, (weights[:, None] * (t - mean)).T @ (t - mean)

    def sensitivity(self, neighbours: str = "replace", norm: int = 1) -> float:
        """How far one record can move the totals: 9/4 (L1) or 2 (L2) if replaced; 2 or 1.414 if added or removed.

        Raises
        ------
        UnknownSensitivity
            Without `bounds`.
        """
        check_neighbours(neighbours, norm)
        needs_bounds(self.bounds, "NormalMeanVariance")
        return moment_sensitivity(1, neighbours, norm)

    @property
    def constants(self) -> Array:
        """Prior (m_0, kappa_0, a, b), then lower, upper, slope, shift of the map."""
        low, high, slope, shift = -np.inf, np.inf, 1.0, 0.0
        if self.bounds is not None:
            low, high = self.bounds[0]
            slope, shift = 2 / (high - low), -2 * low / (high - low) - 1
        return np.array(
            [
                self.prior_mean, self.prior_n, self.prior_shape, self.prior_rate,
                low, high, slope, shift,
            ]
        )  # fmt: skip

    def compiled(self) -> CompiledModel:
        """Numba versions of the steps."""
        return CompiledModel(
            records=_records,
            posterior=_posterior,
            constants=self.constants,
            to_ancillary=_to_ancillary,
            from_ancillary=_from_ancillary,
            log_prior=_log_prior,
        )


# --- compiled steps ---------------------------------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy")
def _fill(u, theta, c, x, t):
    sigma = np.sqrt(theta[1])
    for i in range(u.shape[0]):
        x[i, 0] = theta[0] + sigma * u[i, 0]
        v = min(max(x[i, 0], c[4]), c[5]) * c[6] + c[7]
        t[i, 0] = v
        t[i, 1] = v * v


@record_step
def _records(theta, constants, rng, x, t):
    for i in range(x.shape[0]):
        x[i, 0] = rng.standard_normal()
    _fill(x, theta, constants, x, t)


@from_ancillary_step
def _from_ancillary(u, theta, constants, x, t):
    _fill(u, theta, constants, x, t)


@to_ancillary_step
def _to_ancillary(x, theta, constants, rng, u):
    for i in range(x.shape[0]):
        u[i, 0] = (x[i, 0] - theta[0]) / np.sqrt(theta[1])


@posterior_step
def _posterior(x, theta, constants, rng):
    n = x.shape[0]
    mean, squares = 0.0, 0.0
    for i in range(n):
        mean += x[i, 0] / n
    for i in range(n):
        squares += (x[i, 0] - mean) ** 2
    _draw(mean, squares, float(n), theta, constants, rng)


@compiled_function("void", "x x x f f g")
def _draw_theta(mean, squares, n, theta, constants, rng):
    _draw(mean, squares, n, theta, constants, rng)


@numba.njit(cache=True, error_model="numpy")
def _draw(mean, squares, n, theta, c, rng):
    kappa = c[1] + n
    rate = c[3] + 0.5 * squares + 0.5 * c[1] * n * (mean - c[0]) ** 2 / kappa
    theta[1] = rate / rng.standard_gamma(c[2] + 0.5 * n)
    centre = (c[1] * c[0] + n * mean) / kappa
    theta[0] = centre + rng.standard_normal() * np.sqrt(theta[1] / kappa)


@log_prior_step
def _log_prior(theta, constants):
    if not theta[1] > 0.0:
        return -np.inf
    return (
        -(constants[2] + 1.5) * np.log(theta[1])
        - (constants[3] + 0.5 * constants[1] * (theta[0] - constants[0]) ** 2) / theta[1]
    )
