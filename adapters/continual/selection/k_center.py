r"""Greedy k-center (farthest-first traversal): always the candidate farthest from all that were chosen.

The largest distance of any candidate to its nearest centre is at most twice the smallest possible (Gonzalez). That covers the
pool with its outliers first, so that on real data it takes what is least like anything else. O(n k d).

References
----------
Gonzalez, T. F. (1985). Clustering to minimize the maximum intercluster distance. Theoretical Computer Science 38, 293-306.
Sener, O. and Savarese, S. (2018). Active learning for convolutional neural networks: a core-set approach. ICLR.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .pool import Pool, register


@register("k_center")
def k_center(pool: Pool, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Reads ``Z``, and ``labelled`` as centres that are there already; else the first is the nearest to the mean."""
    if pool.labelled is not None and len(pool.labelled):
        nearest = np.min([_squared(pool.Z, centre) for centre in pool.labelled], axis=0)
    else:
        nearest = np.full(len(pool), np.inf)
    chosen: list[int] = []
    for _ in range(min(n, len(pool))):
        if np.isinf(nearest).all():
            new = int(_squared(pool.Z, pool.Z.mean(axis=0)).argmin())
        else:
            new = int(nearest.argmax())
        chosen.append(new)
        nearest = np.minimum(nearest, _squared(pool.Z, pool.Z[new]))
        nearest[chosen] = -1.0  # also among duplicates, none is taken twice
    return np.array(chosen, dtype=np.int64)


def _squared(Z, centre):
    return np.square(Z - centre).sum(axis=1)
