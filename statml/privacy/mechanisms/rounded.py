r"""Rounded releases: noisy totals published to a number of digits, or in thousands.

A release s on a grid of width w tells that the noisy total lay within half a width of it: its density is replaced by
:math:`P(s_j - w/2 \le S_j + Z_j \le s_j + w/2)`. Ties (possible with discrete noise and an even width) go to the even
multiple, as numpy, R and IEEE arithmetic round. Rounding is post-processing and costs no privacy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..protocols import Mechanism
from ._additive import shown
from ._release import positive, refuse

Array = NDArray[np.float64]


class Rounded(Mechanism):
    """A mechanism whose noisy totals were rounded to multiples of a width.

    Parameters
    ----------
    base : Laplace, Gaussian, DiscreteLaplace, DiscreteGaussian, or Censored of one
        The noise before rounding.
    width : float or array-like of shape (m,), default=1
        The grid: 1 for whole numbers, 1000 for thousands, 0.01 for two decimals.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import mechanisms
    >>> rounded = mechanisms.Rounded(mechanisms.Laplace(2.0), width=1)
    >>> np.exp(rounded.log_density([3.0], [[3.0], [2.2]])).round(4)
    array([0.2212, 0.1693])
    """

    def __init__(self, base: Any, width: ArrayLike = 1.0):
        if not hasattr(base, "log_interval"):
            raise TypeError(
                f"base must be additive noise (Laplace, Gaussian, DiscreteLaplace, DiscreteGaussian) or Censored, got {base!r}"
            )
        self.base = base
        self.discrete = base.discrete
        self.width = positive("width", width)

    def _bounds(self, first: Array, last: Array) -> tuple[Array, Array]:
        """What rounds to the multiples first..last of the width: ends, where they are possible, belong to even ones."""
        low, high = (first - 0.5) * self.width, (last + 0.5) * self.width
        if not self.discrete:
            return low, high
        nudge = 1e-6  # far below one, far above rounding errors of totals
        return (
            low + np.where(np.mod(first, 2) == 1, nudge, -nudge),
            high + np.where(np.mod(last, 2) == 1, -nudge, nudge),
        )

    def log_density_terms(self, release: Array, totals: Array) -> Array:
        """The log probability entry by entry, shape (..., m)."""
        multiple = np.rint(np.asarray(release, dtype=float) / self.width)
        return self.base.log_interval(*self._bounds(multiple, multiple), totals)

    def log_density(self, release: Array, totals: Array) -> Array:
        """log P(s | S) for a release (m,) and totals (..., m); the shape of the result is (...)."""
        return self.log_density_terms(release, totals).sum(axis=-1)

    def log_interval(self, low: ArrayLike, high: ArrayLike, totals: Array) -> Array:
        """log P(low <= s <= high | S) entry by entry, shape (..., m)."""
        # 0.3 / 0.1 is a little less than 3: a bound that is a multiple must count as one
        first = np.ceil(np.asarray(low, dtype=float) / self.width - 1e-9)
        last = np.floor(np.asarray(high, dtype=float) / self.width + 1e-9)
        with np.errstate(invalid="ignore"):
            lower, upper = self._bounds(first, last)
        lower = np.where(np.isinf(first), first, lower)
        upper = np.where(np.isinf(last), last, upper)
        return self.base.log_interval(lower, upper, totals)

    def randomise(self, totals: ArrayLike, rng: np.random.Generator) -> Array:
        """A rounded release, reproducible from `rng`. For simulation, not for publishing."""
        return self._round(self.base.randomise(totals, rng))

    def release(self, totals: ArrayLike) -> Array:
        """A release to publish: OpenDP's noise, then rounding. See the base's `release`."""
        return self._round(self.base.release(totals))

    def _round(self, values: Array) -> Array:
        return np.rint(values / self.width) * self.width

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
            As the base does, or if an entry is no multiple of the width.
        """
        values = self.base.check_release(release, statistic_names, n_records)
        off = ~np.isclose(values / self.width, np.rint(values / self.width), rtol=1e-9, atol=1e-6)
        refuse(f"is no multiple of width {shown(self.width)}", off, values, statistic_names)
        return values

    def epsilon(self, sensitivity: ArrayLike | None = None, **options: Any) -> float:
        """The privacy loss of the base: rounding costs nothing."""
        return self.base.epsilon(sensitivity, **options)

    def acceptance_bound(
        self, sensitivity: ArrayLike | None = None, *, average: bool = False
    ) -> float:
        """The bound of the base: rounding only brings laws closer to each other."""
        return self.base.acceptance_bound(sensitivity, average=average)

    def __repr__(self) -> str:
        return f"Rounded({self.base}, width={shown(self.width)})"
