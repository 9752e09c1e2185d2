"""The bound as a filter in front of any other rule: only candidates in a band of outlier probabilities are offered to it.

It keeps foreign and mislabelled records out of a core set, and leaves what to do with the rest to herding, k-means or entropy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from statml._validation import check_number

from .pool import Pool, Rule, find_rule


@dataclass(frozen=True)
class BoundFilter:
    """A rule that offers the candidates with lo <= w <= hi to another rule.

    Parameters
    ----------
    rule : str or function
        As "herding", "k_means", "entropy".
    band : (float, float), default=(0.0, 0.95)
        Smallest and largest w.

    Examples
    --------
    >>> import numpy as np
    >>> pool = Pool(np.array([[0.0], [1.0], [9.0]]), outlier_proba=np.array([0.0, 0.2, 1.0]))
    >>> BoundFilter("k_center")(pool, 3, np.random.default_rng(0))
    array([0, 1])
    """

    rule: str | Rule
    band: tuple[float, float] = (0.0, 0.95)

    def __call__(self, pool: Pool, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Reads ``outlier_proba`` and what the inner rule reads; fewer than n come back where no more lie inside."""
        pool.need("bound filter", "outlier_proba")
        inside = np.flatnonzero(in_band(pool.outlier_proba, self.band))
        if len(inside) == 0:
            return inside
        offered = replace(pool.subset(inside), hi=float(self.band[1]))
        return inside[find_rule("rule", self.rule)(offered, min(n, len(inside)), rng)]


def in_band(outlier_proba: NDArray[np.float64], band: tuple[float, float]) -> NDArray[np.bool_]:
    """Which w lie in the closed band.

    Raises
    ------
    ValueError
        If the band is not 0 <= lo <= hi <= 1.
    """
    lo, hi = check_band(band)
    return (outlier_proba >= lo) & (outlier_proba <= hi)


def check_band(band: tuple[float, float]) -> tuple[float, float]:
    """The two ends, or an error."""
    if np.shape(band) != (2,):
        raise ValueError(f"band must be a pair (lo, hi) with 0 <= lo <= hi <= 1, got {band!r}")
    lo, hi = (check_number("band", end, 0, 1) for end in band)
    if lo > hi:
        raise ValueError(f"band must be a pair (lo, hi) with 0 <= lo <= hi <= 1, got {band!r}")
    return lo, hi
