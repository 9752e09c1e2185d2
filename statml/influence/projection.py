r"""Random projections of gradients, made block by block so that the (p, d) matrix need not be held.

Entries are ±1/√d (Rademacher), so that E[(Pg)ᵀ(Pg')] = gᵀg'; the relative error of an inner product is of the order
1/√d. Where d ≥ p nothing is gained, and gradients pass as they are.

Reference: Johnson, W. B. and Lindenstrauss, J. (1984); Achlioptas, D. (2003). Database-friendly random projections. JCSS
66, 671-687.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._validation import RandomState, as_seed_sequence

Array = NDArray[np.float64]

BLOCK = 4096  # parameters that share one seed


class RandomProjection:
    """G ↦ GP for G of shape (m, p), P of shape (p, dim).

    Parameters
    ----------
    n_params : int
    dim : int or None
        None, or at least `n_params`: no projection.
    random_state : int, SeedSequence, Generator or None
    memory_limit : int
        P is kept if it takes no more bytes than this, else made anew for every use.
    """

    def __init__(
        self,
        n_params: int,
        dim: int | None,
        random_state: RandomState = None,
        memory_limit: int = 2**28,
    ):
        self.identity = dim is None or dim >= n_params
        self.dim = n_params if self.identity else int(dim)
        self.n_params = n_params
        self._blocks = [slice(a, min(a + BLOCK, n_params)) for a in range(0, n_params, BLOCK)]
        self._seeds = as_seed_sequence(random_state).spawn(len(self._blocks))
        self._kept: list[Array] | None = None
        if not self.identity and 8 * n_params * self.dim <= memory_limit:
            self._kept = [self._matrix(k) for k in range(len(self._blocks))]

    def __call__(self, G: Array) -> Array:
        if self.identity:
            return G
        out = np.zeros((len(G), self.dim))
        for k, block in enumerate(self._blocks):
            out += G[:, block] @ (self._kept[k] if self._kept else self._matrix(k))
        return out

    def _matrix(self, k: int) -> Array:
        rng = np.random.default_rng(self._seeds[k])
        rows = self._blocks[k].stop - self._blocks[k].start
        signs = rng.integers(0, 2, size=(rows, self.dim), dtype=np.int8)
        return (2.0 * signs - 1.0) / np.sqrt(self.dim)
