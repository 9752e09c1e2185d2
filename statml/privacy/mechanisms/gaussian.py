r"""The Gaussian mechanism: :math:`s_j = S_j + Z_j`, :math:`Z_j \sim N(0, \sigma_j^2)`.

With L2 sensitivity :math:`\Delta_2` it is :math:`\mu`-GDP for :math:`\mu = \Delta_2 / \sigma` [1]_, :math:`\rho`-zCDP for
:math:`\rho = \mu^2 / 2` [2]_, and :math:`(\epsilon, \delta)`-DP exactly for [3]_

.. math:: \delta(\epsilon) = \Phi(\mu / 2 - \epsilon / \mu) - e^\epsilon \, \Phi(-\mu / 2 - \epsilon / \mu).

No epsilon bounds the ratio of its densities, so no acceptance probability of the sampler is bounded in every state; averaged
over releases it is at least :math:`2 \Phi(-\mu / 2)`, with equality for the largest move.

References
----------
.. [1] J. Dong, A. Roth, W. J. Su (2022). Gaussian differential privacy. J. R. Stat. Soc. B 84.
.. [2] M. Bun, T. Steinke (2016). Concentrated differential privacy. TCC.
.. [3] B. Balle, Y.-X. Wang (2018). Improving the Gaussian mechanism for differential privacy. ICML. Theorem 8.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from ..._validation import check_number
from ..protocols import SeparableNoise, UnknownSensitivity
from ._additive import AdditiveNoise
from ._release import log1mexp, positive

Array = NDArray[np.float64]


class Gaussian(AdditiveNoise):
    """Gaussian noise on every entry of the total.

    Parameters
    ----------
    scale : float or array-like of shape (m,)
        Standard deviation sigma, in the units of the statistic.
    sensitivity : float, array-like of shape (m,), or None, default=None
        Largest L2 norm of the change of the total when one record is replaced, or a bound for each entry.

    Examples
    --------
    >>> from statml.privacy import mechanisms
    >>> noise = mechanisms.Gaussian.from_epsilon(1.0, delta=1e-6, sensitivity=1.0)
    >>> noise
    Gaussian(scale=4.22468)
    >>> round(noise.epsilon(delta=1e-6), 6)
    1.0
    >>> noise.acceptance_bound(), round(noise.acceptance_bound(average=True), 4)
    (0.0, 0.9058)
    """

    kind = "gaussian"

    @classmethod
    def from_epsilon(cls, epsilon: float, delta: float, sensitivity: ArrayLike) -> Gaussian:
        """The least noise for (epsilon, delta)-differential privacy, by the exact formula.

        Parameters
        ----------
        epsilon : float > 0
        delta : float in (0, 1)
        sensitivity : float, or array-like of shape (m,)
            L2 sensitivity of the whole statistic, or a bound for each entry.
        """
        return cls.from_gdp(gdp_of(epsilon, delta), sensitivity)

    @classmethod
    def from_rho(cls, rho: float, sensitivity: ArrayLike) -> Gaussian:
        """Noise for rho-zCDP: sigma = sensitivity / sqrt(2 rho)."""
        rho = check_number("rho", rho, 0, low_open=True)
        return cls.from_gdp(np.sqrt(2 * rho), sensitivity)

    @classmethod
    def from_gdp(cls, mu: float, sensitivity: ArrayLike) -> Gaussian:
        """Noise for mu-Gaussian differential privacy: sigma = sensitivity / mu."""
        mu = check_number("mu", mu, 0, low_open=True)
        sensitivity = positive("sensitivity", sensitivity)
        return cls(np.linalg.norm(np.atleast_1d(sensitivity)) / mu, sensitivity=sensitivity)

    def _log_noise(self, z: Array) -> Array:
        return -0.5 * (z / self.scale) ** 2 - np.log(self.scale) - 0.5 * np.log(2 * np.pi)

    def _log_interval(self, low: Array, high: Array) -> Array:
        low, high = low / self.scale, high / self.scale
        flip = low > 0  # measured from the nearer tail, where nothing cancels
        low, high = np.where(flip, -high, low), np.where(flip, -low, high)
        upper, lower = log_ndtr(high), log_ndtr(low)
        return upper + log1mexp(np.minimum(lower - upper, 0.0))

    def randomise(self, totals: ArrayLike, rng: np.random.Generator) -> Array:
        """Totals plus noise, reproducible from `rng`.

        For simulation, not for publishing: floating-point noise leaks its input through the low bits. `release`
        draws from OpenDP's safe sampler.
        """
        totals = np.asarray(totals, dtype=float)
        return totals + self.scale * rng.standard_normal(totals.shape)

    def separable(self, n_statistics: int) -> SeparableNoise:
        """log g = constant - sum_j (s_j - S_j)^2 / 2 sigma_j^2."""
        weight = np.broadcast_to(0.5 / self.scale**2, n_statistics).copy()
        return SeparableNoise(np.full(n_statistics, 2, dtype=np.int64), weight)

    def gdp(self, sensitivity: ArrayLike | None = None) -> float:
        """mu of Gaussian differential privacy given the L2 sensitivity, that of the constructor by default."""
        return self._relative_sensitivity(sensitivity, norm=2)

    def rho(self, sensitivity: ArrayLike | None = None) -> float:
        """rho of zero-concentrated differential privacy given the L2 sensitivity."""
        return 0.5 * self.gdp(sensitivity) ** 2

    def epsilon(self, sensitivity: ArrayLike | None = None, *, delta: float | None = None) -> float:
        """The exact epsilon at a delta; infinite without one, since no epsilon holds at delta = 0."""
        mu = self.gdp(sensitivity)
        return np.inf if delta is None else epsilon_of(mu, delta)

    def acceptance_bound(
        self, sensitivity: ArrayLike | None = None, *, average: bool = False
    ) -> float:
        """0 in every state; on average over releases 2 Phi(-mu / 2), or 0 if the sensitivity is not known."""
        if not average:
            return 0.0
        try:
            return float(2 * ndtr(-0.5 * self.gdp(sensitivity)))
        except UnknownSensitivity:
            return 0.0

    def mean_acceptance(self, difference: ArrayLike) -> Array:
        """Mean acceptance of a proposal that moves one statistic by `difference`, entry by entry: 2 Phi(-d / 2 sigma).

        A move of several entries has the Euclidean norm of difference / scale in the place of d / sigma.
        """
        return 2 * ndtr(-0.5 * np.abs(np.asarray(difference, dtype=float)) / self.scale)


def log_delta(epsilon: float, mu: float) -> float:
    """log delta(epsilon) of a mu-GDP mechanism (Balle and Wang, Theorem 8)."""
    upper = log_ndtr(0.5 * mu - epsilon / mu)
    lower = epsilon + log_ndtr(-0.5 * mu - epsilon / mu)
    return float(upper + log1mexp(min(lower - upper, 0.0)))


def gdp_of(epsilon: float, delta: float) -> float:
    """mu for which (epsilon, delta)-DP holds exactly; delta grows with mu."""
    epsilon = check_number("epsilon", epsilon, 0, low_open=True)
    delta = check_number("delta", delta, 0, 1, low_open=True, high_open=True)
    high = 1.0
    while log_delta(epsilon, high) < np.log(delta):
        high *= 2
    low = high / 2
    while log_delta(epsilon, low) > np.log(delta):
        low /= 2
    return brentq(lambda mu: log_delta(epsilon, mu) - np.log(delta), low, high, xtol=1e-14)


def epsilon_of(mu: float, delta: float) -> float:
    """epsilon >= 0 for which a mu-GDP mechanism is (epsilon, delta)-DP."""
    delta = check_number("delta", delta, 0, 1, low_open=True, high_open=True)
    if log_delta(0.0, mu) <= np.log(delta):
        return 0.0
    high = 1.0
    while log_delta(high, mu) > np.log(delta):
        high *= 2
    return brentq(lambda eps: log_delta(eps, mu) - np.log(delta), 0.0, high, xtol=1e-12)
