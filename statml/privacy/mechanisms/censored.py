r"""Censored releases: noisy totals that were clipped before they were published, such as counts set to 0 when negative.

.. math:: s_j = \min(\max(S_j + Z_j, l_j), h_j)

A release at a bound tells only that the noisy total lay at it or beyond: its density is replaced by
:math:`P(S_j + Z_j \le l_j)` or :math:`P(S_j + Z_j \ge h_j)`. Clipping is post-processing and costs no privacy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..protocols import Mechanism
from ._additive import shown
from ._release import numbers, refuse

Array = NDArray[np.float64]


class Censored(Mechanism):
    """A mechanism whose noisy totals were clipped to bounds.

    Counts that were suppressed because their noisy value lay below a threshold are censored too: with discrete
    noise and threshold 5, ``low=4``, and every suppressed count is entered as 4.

    Parameters
    ----------
    base : Laplace, Gaussian, DiscreteLaplace, DiscreteGaussian, or Rounded of one
        The noise before clipping.
    low, high : float, array-like of shape (m,), or None, default=None
        Bounds; None (at most one of them) or infinite where there is none.

    Examples
    --------
    >>> from statml.privacy import mechanisms
    >>> counts = mechanisms.Censored(mechanisms.DiscreteLaplace(2), low=0)
    >>> counts.log_density([0.0], [3.0]).round(4), counts.log_density([0.0], [-40.0]).round(4)
    (np.float64(-1.9741), np.float64(-0.0))
    """

    def __init__(self, base: Any, low: ArrayLike | None = None, high: ArrayLike | None = None):
        if not hasattr(base, "log_interval"):
            raise TypeError(
                f"base must be additive noise (Laplace, Gaussian, DiscreteLaplace, DiscreteGaussian) or Rounded, got {base!r}"
            )
        if low is None and high is None:
            raise ValueError("low or high must be given")
        self.base = base
        self.discrete = base.discrete
        self.low = np.float64(-np.inf) if low is None else numbers("low", low)
        self.high = np.float64(np.inf) if high is None else numbers("high", high)
        if not (self.low < self.high).all():  # also refuses NaN
            raise ValueError(f"low must be less than high, got low={low!r}, high={high!r}")

    def log_density_terms(self, release: Array, totals: Array) -> Array:
        """Entry by entry, shape (..., m): a density between the bounds, a probability at them."""
        s = np.asarray(release, dtype=float)
        at_low, at_high = s <= self.low, s >= self.high
        low = np.where(at_low, -np.inf, s)
        high = np.where(at_high, np.inf, s)
        return np.where(
            at_low | at_high,
            self.base.log_interval(low, high, totals),
            self.base.log_density_terms(s, totals),
        )

    def log_density(self, release: Array, totals: Array) -> Array:
        """log g(s, S) for a release (m,) and totals (..., m); the shape of the result is (...)."""
        return self.log_density_terms(release, totals).sum(axis=-1)

    def log_interval(self, low: ArrayLike, high: ArrayLike, totals: Array) -> Array:
        """log P(low <= s <= high | S) entry by entry, shape (..., m)."""
        low, high = np.broadcast_arrays(np.asarray(low, dtype=float), np.asarray(high, dtype=float))
        outside = (low > self.high) | (high < self.low)
        beyond_low = np.where(low <= self.low, -np.inf, low)
        beyond_high = np.where(high >= self.high, np.inf, high)
        # an empty interval is handed on as the whole line, and its probability replaced
        inside = self.base.log_interval(
            np.where(outside, -np.inf, beyond_low), np.where(outside, np.inf, beyond_high), totals
        )
        return np.where(outside, -np.inf, inside)

    def randomise(self, totals: ArrayLike, rng: np.random.Generator) -> Array:
        """A clipped release, reproducible from `rng`. For simulation, not for publishing."""
        return np.clip(self.base.randomise(totals, rng), self.low, self.high)

    def release(self, totals: ArrayLike) -> Array:
        """A release to publish: OpenDP's noise, then clipping. See the base's `release`."""
        return np.clip(self.base.release(totals), self.low, self.high)

    def check_release(
        self,
        release: ArrayLike | Mapping[str, float],
        statistic_names: list[str],
        n_records: int | None = None,
    ) -> Array:
        """The release as an array.

        Raises
        ------
        ValueError
            As the base does, or if an entry lies outside the bounds.
        """
        values = self.base.check_release(release, statistic_names, n_records)
        what = f"lies outside the bounds [{shown(self.low)}, {shown(self.high)}] of this mechanism"
        refuse(what, (values < self.low) | (values > self.high), values, statistic_names)
        return values

    def epsilon(self, sensitivity: ArrayLike | None = None, **options: Any) -> float:
        """The privacy loss of the base: clipping costs nothing."""
        return self.base.epsilon(sensitivity, **options)

    def acceptance_bound(
        self, sensitivity: ArrayLike | None = None, *, average: bool = False
    ) -> float:
        """The bound of the base: clipping only brings laws closer to each other."""
        return self.base.acceptance_bound(sensitivity, average=average)

    def __repr__(self) -> str:
        return f"Censored({self.base}, low={shown(self.low)}, high={shown(self.high)})"
