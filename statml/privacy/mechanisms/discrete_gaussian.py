r"""The discrete Gaussian mechanism on integers [1]_.

.. math:: P(Z = z) = e^{-z^2 / 2 \sigma^2} \Big/ \sum_{k \in \mathbb{Z}} e^{-k^2 / 2 \sigma^2}

With L2 sensitivity :math:`\Delta_2` it is :math:`\rho`-zCDP for :math:`\rho = \Delta_2^2 / 2 \sigma^2`, the same as ``make_gaussian`` of
OpenDP on integers. As with the Gaussian mechanism no acceptance probability is bounded in every state. Averaged
over releases it is at least :math:`1 - \mathrm{TV}`, and the total variation distance is at most
:math:`\min(\sqrt{\rho / 2}, \sqrt{1 - e^{-\rho}})` since the Kullback-Leibler divergence is at most :math:`\rho` (Pinsker;
Bretagnolle and Huber). The bound :math:`2 \Phi(-\Delta_2 / 2 \sigma)` of continuous noise does not hold here: at small
:math:`\sigma` nearly all mass sits on one integer.

References
----------
.. [1] C. Canonne, G. Kamath, T. Steinke (2020). The discrete Gaussian for differential privacy. NeurIPS. Algorithm 3, Corollary 13.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import logsumexp

from ..._validation import check_number
from ..protocols import SeparableNoise, UnknownSensitivity
from ._additive import AdditiveNoise
from ._release import log1mexp, positive

Array = NDArray[np.float64]


class DiscreteGaussian(AdditiveNoise):
    """Discrete Gaussian noise on every entry of an integer total.

    Parameters
    ----------
    scale : float or array-like of shape (m,)
        sigma > 0: P(z) is proportional to exp(-z^2 / 2 sigma^2).
    sensitivity : float, array-like of shape (m,), or None, default=None
        Largest L2 norm of the change of the total when one record is replaced, or a bound for each entry.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import mechanisms
    >>> noise = mechanisms.DiscreteGaussian.from_rho(0.5, sensitivity=2)
    >>> noise
    DiscreteGaussian(scale=2)
    >>> noise.randomise([10, 20], np.random.default_rng(0))
    array([12., 20.])
    """

    discrete = True
    kind = "gaussian"

    def __init__(self, scale: ArrayLike, sensitivity: ArrayLike | None = None):
        super().__init__(scale, sensitivity)
        self._log_normaliser = np.reshape(
            [log_normaliser(sigma) for sigma in self.scale.ravel()], self.scale.shape
        )

    @classmethod
    def from_epsilon(cls, epsilon: float, delta: float, sensitivity: ArrayLike) -> DiscreteGaussian:
        """Noise for (epsilon, delta)-differential privacy, through zCDP (a little more than the least).

        Parameters
        ----------
        epsilon : float > 0
        delta : float in (0, 1)
        sensitivity : float, or array-like of shape (m,)
            L2 sensitivity of the whole statistic, or a bound for each entry.
        """
        epsilon = check_number("epsilon", epsilon, 0, low_open=True)
        delta = check_number("delta", delta, 0, 1, low_open=True, high_open=True)
        high = epsilon
        while zcdp_epsilon(high, delta) < epsilon:
            high *= 2
        rho = brentq(lambda rho: zcdp_epsilon(rho, delta) - epsilon, 1e-12 * epsilon, high)
        return cls.from_rho(rho, sensitivity)

    @classmethod
    def from_rho(cls, rho: float, sensitivity: ArrayLike) -> DiscreteGaussian:
        """Noise for rho-zCDP: sigma = sensitivity / sqrt(2 rho)."""
        rho = check_number("rho", rho, 0, low_open=True)
        sensitivity = positive("sensitivity", sensitivity)
        norm = np.linalg.norm(np.atleast_1d(sensitivity))
        return cls(norm / np.sqrt(2 * rho), sensitivity=sensitivity)

    def _log_noise(self, z: Array) -> Array:
        return -0.5 * (z / self.scale) ** 2 - self._log_normaliser

    def _log_tail(self, j: Array) -> Array:
        """log P(Z >= j) for j >= 0: a sum over as many terms as can matter."""
        terms = np.arange(int(np.ceil(9 * self.scale.max())) + 2)
        sigma = np.broadcast_to(self.scale, j.shape)[..., None]
        finite = np.where(np.isfinite(j), j, 0.0)[..., None]
        log_sum = logsumexp(-0.5 * ((finite + terms) / sigma) ** 2, axis=-1)
        return np.where(np.isfinite(j), log_sum - self._log_normaliser, -np.inf)

    def _log_interval(self, low: Array, high: Array) -> Array:
        flip = high < 0
        low, high = np.where(flip, -high, low), np.where(flip, -low, high)
        beyond = self._log_tail(np.maximum(high, 0) + 1)
        first = self._log_tail(np.maximum(low, 0))
        outside = np.exp(beyond) + np.exp(self._log_tail(1 - np.minimum(low, 0)))
        # at one single integer, the difference of two tails would lose digits
        point = self._log_noise(np.where(low == high, low, 0.0))
        one_side = np.where(low == high, point, first + log1mexp(np.minimum(beyond - first, 0.0)))
        return np.where(low > 0, one_side, np.log1p(-np.minimum(outside, 1 - 1e-16)))

    def randomise(self, totals: ArrayLike, rng: np.random.Generator) -> Array:
        """Totals plus noise (rejection from discrete Laplace noise), reproducible from `rng`.

        For simulation, not for publishing: `release` draws from OpenDP's exact sampler.
        """
        totals = np.asarray(totals, dtype=float)
        sigma = np.broadcast_to(self.scale, totals.shape).ravel()
        return totals + draw(sigma, rng).reshape(totals.shape)

    def separable(self, n_statistics: int) -> SeparableNoise:
        """log g = constant - sum_j (s_j - S_j)^2 / 2 sigma_j^2."""
        weight = np.broadcast_to(0.5 / self.scale**2, n_statistics).copy()
        return SeparableNoise(np.full(n_statistics, 2, dtype=np.int64), weight)

    def rho(self, sensitivity: ArrayLike | None = None) -> float:
        """rho of zero-concentrated differential privacy given the L2 sensitivity."""
        return 0.5 * self._relative_sensitivity(sensitivity, norm=2) ** 2

    def epsilon(self, sensitivity: ArrayLike | None = None, *, delta: float | None = None) -> float:
        """An epsilon that holds at a delta (through zCDP); infinite without one."""
        rho = self.rho(sensitivity)
        return np.inf if delta is None else zcdp_epsilon(rho, delta)

    def acceptance_bound(
        self, sensitivity: ArrayLike | None = None, *, average: bool = False
    ) -> float:
        """0 in every state; on average over releases 1 - min(sqrt(rho / 2), sqrt(1 - exp(-rho)))."""
        if not average:
            return 0.0
        try:
            rho = self.rho(sensitivity)
        except UnknownSensitivity:
            return 0.0
        return float(1 - min(np.sqrt(rho / 2), np.sqrt(-np.expm1(-rho))))

    def mean_acceptance(self, difference: ArrayLike) -> Array:
        """Mean acceptance of a proposal that moves one statistic by the integer `difference`, entry by entry."""
        d = np.abs(np.asarray(difference, dtype=float))
        tails = np.exp(self._log_tail(np.ceil(d / 2))) + np.exp(self._log_tail(np.floor(d / 2) + 1))
        return np.where(d == 0, 1.0, tails)


def log_normaliser(sigma: float) -> float:
    """log sum_k exp(-k^2 / 2 sigma^2), by the faster of the two sums that Poisson's formula equates."""
    k = np.arange(1, 12)
    if sigma < 1:
        return float(np.log1p(2 * np.exp(-0.5 * (k / sigma) ** 2).sum()))
    dual = np.log1p(2 * np.exp(-2 * (np.pi * sigma * k) ** 2).sum())
    return float(np.log(sigma) + 0.5 * np.log(2 * np.pi) + dual)


def draw(sigma: Array, rng: np.random.Generator) -> Array:
    """One discrete Gaussian number for each sigma (Canonne et al., Algorithm 3, in floating point)."""
    t = np.floor(sigma) + 1
    out = np.empty(len(sigma))
    todo = np.arange(len(sigma))
    while len(todo):
        scale = t[todo]
        stop = -np.expm1(-1 / scale)
        z = rng.geometric(stop) - rng.geometric(stop)
        log_accept = -0.5 * ((np.abs(z) - sigma[todo] ** 2 / scale) / sigma[todo]) ** 2
        accepted = np.log(rng.random(len(todo))) < log_accept
        out[todo[accepted]] = z[accepted]
        todo = todo[~accepted]
    return out


def zcdp_epsilon(rho: float, delta: float) -> float:
    """An epsilon that rho-zCDP implies at delta: Canonne et al., Corollary 13, minimised over the order."""
    delta = check_number("delta", delta, 0, 1, low_open=True, high_open=True)

    def at(log_order: float) -> float:
        order = 1 + np.exp(log_order)
        return (
            rho * order
            + (np.log1p(-1 / order) * order - np.log(order - 1) - np.log(delta)) / (order - 1)
        )  # fmt: skip

    best = minimize_scalar(at, bounds=(-15, 25), method="bounded", options={"xatol": 1e-10})
    return max(float(best.fun), 0.0)
