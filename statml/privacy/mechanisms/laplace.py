r"""The Laplace mechanism: :math:`s_j = S_j + Z_j`, density :math:`\exp(-|z| / b_j) / 2 b_j`.

With sensitivity :math:`\Delta_1 = \max \lVert S - S' \rVert_1` over neighbours it is :math:`\epsilon`-differentially private
for :math:`b = \Delta_1 / \epsilon` [1]_.

In the sampler every acceptance probability is at least :math:`e^{-\epsilon}`; averaged over releases, a record
whose proposal moves one statistic by d is accepted with probability :math:`e^{-d / 2b}` (one minus the total
variation distance of the two noise laws).

References
----------
.. [1] C. Dwork, F. McSherry, K. Nissim, A. Smith (2006). Calibrating noise to sensitivity in private data analysis. TCC.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..._validation import check_number
from ..protocols import SeparableNoise
from ._additive import AdditiveNoise
from ._release import log1mexp, positive

Array = NDArray[np.float64]


class Laplace(AdditiveNoise):
    """Laplace noise on every entry of the total.

    Parameters
    ----------
    scale : float or array-like of shape (m,)
        b, in the units of the statistic (sensitivity / epsilon; the standard deviation is 1.414 b).
    sensitivity : float, array-like of shape (m,), or None, default=None
        Largest L1 norm of the change of the total when one record is replaced, or a bound for each entry.

    Examples
    --------
    >>> from statml.privacy import mechanisms
    >>> noise = mechanisms.Laplace.from_epsilon(1.0, sensitivity=13)
    >>> noise
    Laplace(scale=13)
    >>> noise.epsilon()
    1.0
    >>> noise.check_release({"sum_y": 3.5, "sum_x": 1.0}, ["sum_x", "sum_y"])
    array([1. , 3.5])
    """

    kind = "laplace"

    @classmethod
    def from_epsilon(cls, epsilon: float, sensitivity: ArrayLike) -> Laplace:
        """Noise for pure differential privacy.

        Parameters
        ----------
        epsilon : float > 0
        sensitivity : float, or array-like of shape (m,)
            L1 sensitivity of the whole statistic. An array bounds each entry; their sum is used.
        """
        epsilon = check_number("epsilon", epsilon, 0, low_open=True)
        sensitivity = positive("sensitivity", sensitivity)
        return cls(sensitivity.sum() / epsilon, sensitivity=sensitivity)

    def _log_noise(self, z: Array) -> Array:
        return -np.abs(z) / self.scale - np.log(2 * self.scale)

    def _log_interval(self, low: Array, high: Array) -> Array:
        low, high = low / self.scale, high / self.scale
        near = np.where(low > 0, low, np.where(high < 0, -high, 0.0))
        with np.errstate(invalid="ignore", divide="ignore"):
            one_side = np.log(0.5) - near + log1mexp(np.where(near > 0, low - high, -1.0))
            both = np.log(-0.5 * (np.expm1(np.minimum(low, 0)) + np.expm1(-np.maximum(high, 0))))
        return np.where(near > 0, one_side, both)

    def randomise(self, totals: ArrayLike, rng: np.random.Generator) -> Array:
        """Totals plus noise, reproducible from `rng`.

        For simulation, not for publishing: floating-point Laplace noise leaks its input through the low bits. `release`
        draws from OpenDP's safe sampler.
        """
        totals = np.asarray(totals, dtype=float)
        return totals + rng.laplace(scale=np.broadcast_to(self.scale, totals.shape))

    def separable(self, n_statistics: int) -> SeparableNoise:
        """log g = constant - sum_j abs(s_j - S_j) / b_j."""
        weight = np.broadcast_to(1 / self.scale, n_statistics).copy()
        return SeparableNoise(np.ones(n_statistics, dtype=np.int64), weight)

    def epsilon(self, sensitivity: ArrayLike | None = None) -> float:
        """The privacy loss given the L1 sensitivity, that of the constructor by default.

        With several scales and one sensitivity it is an upper bound: sensitivity / smallest scale.
        """
        return self._relative_sensitivity(sensitivity, norm=1)

    def mean_acceptance(self, difference: ArrayLike) -> Array:
        """Mean acceptance of a proposal that moves one statistic by `difference`, entry by entry: exp(-d / 2b)."""
        return np.exp(-np.abs(np.asarray(difference, dtype=float)) / (2 * self.scale))
