r"""Herding: an ordered set of records whose running mean follows the mean of all.

With :math:`\mu` the mean of the pool, the k-th is

.. math:: \arg\min_{z} \Big\lVert \mu - \frac1k \Big(z + \sum_{j < k} z_j\Big) \Big\rVert ,

over those that were not taken yet. iCaRL takes it on normalised features; here it acts on the latents as they are. O(n k d).

References
----------
Welling, M. (2009). Herding dynamical weights to learn. ICML.
Rebuffi, S.-A., Kolesnikov, A., Sperl, G. and Lampert, C. H. (2017). iCaRL: incremental classifier and representation learning.
CVPR. Algorithm 4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .pool import Pool, register


@register("herding")
def herding(pool: Pool, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Reads ``Z``; deterministic, the first of equals.

    Examples
    --------
    >>> import numpy as np
    >>> Z = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [4.0, 4.0], [1.0, 1.0]])
    >>> herding(Pool(Z), 3, np.random.default_rng(0))
    array([4, 1, 2])
    """
    Z = pool.Z
    mean, total = Z.mean(axis=0), np.zeros(Z.shape[1])
    free = np.ones(len(Z), dtype=bool)
    chosen = []
    for k in range(1, min(n, len(Z)) + 1):
        gap = np.square(mean - (total + Z) / k).sum(axis=1)
        # equal up to rounding is equal: the first of them, on every machine
        best = gap[free].min()
        new = int(np.flatnonzero(free & (gap <= best * (1 + 1e-12)))[0])
        chosen.append(new)
        free[new] = False
        total += Z[new]
    return np.array(chosen, dtype=np.int64)
