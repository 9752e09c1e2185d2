"""The candidates with the largest outlier probability that a band still takes: new, but not foreign.

Without an upper end this is the rule of the farthest, which buys nothing but noise. Ties, as the many w of exactly 0 that a
Weibull bound gives, are broken by the distance to the class's mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .pool import Pool, register


@register("below_bound")
def below_bound(pool: Pool, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Reads ``outlier_proba``, ``hi``, and for ties ``bound`` and ``labels``."""
    pool.need("below_bound", "outlier_proba")
    shuffled = rng.permutation(len(pool))
    shuffled = shuffled[pool.outlier_proba[shuffled] <= pool.hi]
    keys = [-pool.outlier_proba[shuffled]]
    if pool.bound is not None and pool.labels is not None:
        keys.insert(0, -pool.own_distances()[shuffled])
    return shuffled[np.lexsort(keys)][:n]
