r"""Extreme-value sampling: candidates spread over the distances that the bound says a class has.

Draw p uniformly in (0, hi), invert the bound of the class c, :math:`d = w_c^{-1}(p)`, and take the candidate of the class, not yet
taken, whose distance to the mean is nearest to d. For the Weibull bound :math:`d = \tau_c + \lambda_c (-\log(1 - p))^{1/\kappa_c}`.
The set mimics the tail distribution of the class and never aims beyond the bound. Candidates with w > hi are not taken at all.

Classes take turns, so that the set is balanced as long as each has candidates left. O(n) a draw.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .pool import Pool, register


@register("inverse_cdf")
def inverse_cdf(pool: Pool, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Reads ``Z``, ``labels``, ``outlier_proba``, ``bound`` and ``hi``; fewer than n come back where no more lie inside."""
    pool.need("inverse_cdf", "labels", "outlier_proba", "bound")
    own = pool.own_distances()
    free = pool.outlier_proba <= pool.hi
    chosen: list[int] = []
    while len(chosen) < n and free.any():
        for c in rng.permutation(np.unique(pool.labels[free])):
            if len(chosen) == n:
                break
            candidates = np.flatnonzero(free & (pool.labels == c))
            p = rng.uniform(0, min(pool.hi, 1 - 1e-9))
            target = pool.bound.inverse(p, c)
            gap = np.abs(own[candidates] - target) if np.isfinite(target) else -own[candidates]
            new = int(candidates[gap.argmin()])
            chosen.append(new)
            free[new] = False
    return np.array(chosen, dtype=np.int64)
