"""k-means: n clusters, and of each the candidate nearest to its centre.

The centres follow the density, and each is a real record. Lloyd's algorithm from k-means++ starts (scikit-learn's). Order: the
largest cluster first. Inputs instead of latents in ``Pool.Z`` give input k-means.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from .pool import Pool, register


@register("k_means")
def k_means(pool: Pool, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Reads ``Z``. Where there are fewer distinct candidates than n, duplicates fill up at random."""
    n = min(n, len(pool))
    if n == 0:
        return np.empty(0, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        model = KMeans(n, n_init=1, random_state=int(rng.integers(2**31))).fit(pool.Z)
    gap = np.square(pool.Z - model.cluster_centers_[model.labels_]).sum(axis=1)
    sizes = np.bincount(model.labels_, minlength=n)
    chosen = []
    for k in np.argsort(-sizes, kind="stable"):
        members = np.flatnonzero(model.labels_ == k)
        if len(members):
            chosen.append(int(members[gap[members].argmin()]))
    rest = np.setdiff1d(np.arange(len(pool)), chosen)
    fill = rng.permutation(rest)[: n - len(chosen)]
    return np.concatenate([np.array(chosen, dtype=np.int64), fill])
