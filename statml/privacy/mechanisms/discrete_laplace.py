r"""The discrete Laplace (two-sided geometric) mechanism on integers.

.. math:: P(Z = z) = \frac{1 - a}{1 + a} a^{|z|} = \tanh(1 / 2t) \, e^{-|z| / t}, \qquad a = e^{-1/t}

with scale t, the same as ``make_laplace`` of OpenDP on integers. With L1 sensitivity :math:`\Delta` it is
:math:`\epsilon`-differentially private for :math:`t = \Delta / \epsilon` [1]_. Averaged over releases, a proposal that moves a
count by one is accepted with probability :math:`2a / (1 + a)`.

References
----------
.. [1] A. Ghosh, T. Roughgarden, M. Sundararajan (2012). Universally utility-maximizing privacy mechanisms. SIAM J. Comput. 41.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..._validation import check_number
from ..protocols import SeparableNoise
from ._additive import AdditiveNoise
from ._release import log1mexp, positive

Array = NDArray[np.float64]


class DiscreteLaplace(AdditiveNoise):
    """Discrete Laplace noise on every entry of an integer total.

    Parameters
    ----------
    scale : float or array-like of shape (m,)
        t > 0: P(z) is proportional to exp(-abs(z) / t).
    sensitivity : float, array-like of shape (m,), or None, default=None
        Largest L1 norm of the change of the total when one record is replaced, or a bound for each entry.

    Examples
    --------
    >>> from statml.privacy import mechanisms
    >>> noise = mechanisms.DiscreteLaplace(scale=2, sensitivity=1)
    >>> noise.epsilon(), round(noise.acceptance_bound(), 4)
    (0.5, 0.6065)
    >>> noise.check_release([3.5], ["count"])
    Traceback (most recent call last):
    ...
    ValueError: release[0] (count) is not an integer, which every release of DiscreteLaplace is: got 3.5
    """

    discrete = True
    kind = "laplace"

    @classmethod
    def from_epsilon(cls, epsilon: float, sensitivity: ArrayLike) -> DiscreteLaplace:
        """Noise for pure differential privacy: t = sensitivity / epsilon (summed over an array of sensitivities)."""
        epsilon = check_number("epsilon", epsilon, 0, low_open=True)
        sensitivity = positive("sensitivity", sensitivity)
        return cls(sensitivity.sum() / epsilon, sensitivity=sensitivity)

    def _log_noise(self, z: Array) -> Array:
        return np.log(np.tanh(0.5 / self.scale)) - np.abs(z) / self.scale

    def _log_tail(self, j: Array) -> Array:
        """log P(Z >= j) for j >= 1."""
        return -j / self.scale - np.log1p(np.exp(-1 / self.scale))

    def _log_interval(self, low: Array, high: Array) -> Array:
        near = np.where(low > 0, low, np.where(high < 0, -high, 0.0))
        with np.errstate(invalid="ignore"):
            width = np.where(near > 0, high - low, 0.0)
        one_side = self._log_tail(np.maximum(near, 1.0)) + log1mexp(-(width + 1) / self.scale)
        outside = np.exp(self._log_tail(1 - np.minimum(low, 0))) + np.exp(
            self._log_tail(1 + np.maximum(high, 0))
        )
        return np.where(near > 0, one_side, np.log1p(-outside))

    def randomise(self, totals: ArrayLike, rng: np.random.Generator) -> Array:
        """Totals plus noise (the difference of two geometric variables), reproducible from `rng`.

        For simulation, not for publishing: `release` draws from OpenDP's vetted sampler.
        """
        totals = np.asarray(totals, dtype=float)
        stop = np.broadcast_to(-np.expm1(-1 / self.scale), totals.shape)
        return totals + (rng.geometric(stop) - rng.geometric(stop))

    def separable(self, n_statistics: int) -> SeparableNoise:
        """log g = constant - sum_j abs(s_j - S_j) / t_j."""
        weight = np.broadcast_to(1 / self.scale, n_statistics).copy()
        return SeparableNoise(np.ones(n_statistics, dtype=np.int64), weight)

    def epsilon(self, sensitivity: ArrayLike | None = None) -> float:
        """The privacy loss given the L1 sensitivity, that of the constructor by default.

        With several scales and one sensitivity it is an upper bound: sensitivity / smallest scale.
        """
        return self._relative_sensitivity(sensitivity, norm=1)

    def mean_acceptance(self, difference: ArrayLike) -> Array:
        """Mean acceptance of a proposal that moves one statistic by the integer `difference`, entry by entry."""
        d = np.abs(np.asarray(difference, dtype=float))
        # min(p(k), p(k - d)) is p(k - d) up to k = d / 2, and p(k) from there on
        tails = np.exp(self._log_tail(np.ceil(d / 2))) + np.exp(self._log_tail(np.floor(d / 2) + 1))
        return np.where(d == 0, 1.0, tails)
