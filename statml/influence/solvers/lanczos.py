r"""Lanczos (Arnoldi for a symmetric matrix): the inverse on the directions of largest curvature.

k steps from a random start give an orthonormal Krylov basis Q and a tridiagonal T = QHQᵀ; of the eigenpairs of T
the r of largest absolute eigenvalue are kept:

.. math:: H^{-1} \approx U\Lambda^{-1}U^\top, \qquad U = Q^\top S \ (p \times r).

Directions of low curvature are dropped, and it is they that carry most of H^{-1}: a ranking may survive this, the
values are too small. With k = r = p it is exact.

Cost: k products with H and O(k²p) for full reorthogonalisation once; O(rp) a right-hand side.

Reference: Schioppa, A., Zablotskaia, P., Vilar, D. and Sokolov, A. (2022). Scaling up influence functions. AAAI.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal


class LanczosSolver:
    """H^{-1} restricted to the leading eigenvectors of a Krylov space.

    Parameters
    ----------
    curvature : Curvature
    rank : int
        Number of eigenvectors kept; the Krylov space has four times as many dimensions, as far as there are.
    rng : numpy.random.Generator
    """

    def __init__(self, curvature, rank: int, rng: np.random.Generator):
        p = curvature.n_params
        Q, diagonal, off = lanczos(curvature.matvec, p, min(p, 4 * rank), rng)
        values, S = eigh_tridiagonal(diagonal, off)
        # zero directions have no inverse; what is left of them is rounding
        usable = np.abs(values) > 1e-12 * np.abs(values).max()
        kept = np.argsort(-np.abs(values))[: min(rank, int(usable.sum()))]
        self.values_, self.vectors_ = values[kept], S[:, kept].T @ Q
        self.report_ = {
            "rank": len(kept),
            "smallest_kept_eigenvalue": float(np.abs(values[kept]).min()),
        }

    def solve(self, V: NDArray) -> NDArray:
        """H^{-1}v of every row v of an array of shape (k, p), approximately."""
        return (V @ self.vectors_.T / self.values_) @ self.vectors_


def lanczos(
    matvec: Callable[[NDArray], NDArray], n_params: int, n_steps: int, rng: np.random.Generator
) -> tuple[NDArray, NDArray, NDArray]:
    """Orthonormal basis (n_steps, n_params), diagonal and off-diagonal of the tridiagonal matrix.

    A Krylov space that closes early (repeated eigenvalues) goes on from a new random vector orthogonal to it, with
    an off-diagonal zero, so that n_steps = n_params always spans everything.
    """
    Q = np.zeros((n_steps, n_params))
    diagonal, off = np.zeros(n_steps), np.zeros(n_steps - 1)
    Q[0] = _orthogonal_unit(rng.normal(size=n_params), Q[:0])
    for k in range(n_steps):
        w = matvec(Q[k : k + 1])[0]
        diagonal[k] = Q[k] @ w
        if k + 1 == n_steps:
            break
        size = np.linalg.norm(w)
        for _ in range(2):  # twice is enough (Kahan)
            w = w - Q[: k + 1].T @ (Q[: k + 1] @ w)
        beta = np.linalg.norm(w)
        if beta > 1e-10 * max(size, np.abs(diagonal[: k + 1]).max()):
            off[k], Q[k + 1] = beta, w / beta
        else:
            Q[k + 1] = _orthogonal_unit(rng.normal(size=n_params), Q[: k + 1])
    return Q, diagonal, off


def _orthogonal_unit(vector: NDArray, Q: NDArray) -> NDArray:
    for _ in range(2):
        vector = vector - Q.T @ (Q @ vector)
    return vector / np.linalg.norm(vector)
