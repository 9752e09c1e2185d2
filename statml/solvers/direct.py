r"""Direct solver: the dense curvature matrix and its Cholesky factor.

.. math:: H = LL^\top, \qquad H^{-1}v = L^{-\top}L^{-1}v.

Exact. Cost: O(np² + p³) time and O(p²) memory once, O(p²) a right-hand side; right up to a few thousand
parameters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigvalsh, lapack

from ._curvature import DenseCurvature

MIN_RCOND = 1e-13  # below it a solution has hardly a digit left


class DirectSolver:
    """H^{-1} through a Cholesky factor of the dense matrix.

    Parameters
    ----------
    curvature : DenseCurvature
    """

    def __init__(self, curvature: DenseCurvature):
        matrix = curvature.dense()
        self.scale_, self.factor_, rcond = scaled_cholesky(matrix)
        if rcond < MIN_RCOND:
            raise ValueError(_advice(matrix, curvature))
        self.report_ = {"condition_number": 1 / rcond}

    def solve(self, V: NDArray) -> NDArray:
        """H^{-1}v of every row v of an array of shape (k, p)."""
        return cho_solve(self.factor_, (V * self.scale_).T, check_finite=False).T * self.scale_


def scaled_cholesky(matrix: NDArray) -> tuple[NDArray, tuple[NDArray, bool] | None, float]:
    """Scales s (p,), Cholesky factor of diag(s) M diag(s), and its reciprocal condition number (0: none exists).

    Scaled to unit diagonal, so that units of measurement neither cost digits nor look like singularity.
    """
    diagonal = np.diag(matrix)
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = matrix * scale[:, None] * scale
    try:
        factor = cho_factor(scaled, lower=True)
    except LinAlgError:
        return scale, None, 0.0
    norm = np.abs(scaled).sum(axis=0).max()
    return scale, factor, float(lapack.dpocon(factor[0], norm, uplo="L")[0])


def _advice(matrix: NDArray, curvature) -> str:
    eigenvalues = eigvalsh(matrix)
    low, high = eigenvalues[0], eigenvalues[-1]
    enough = curvature.damping + 1e-6 * high + max(0.0, -2 * low)
    what = (
        "the curvature matrix is not positive definite"
        if low < -1e-10 * high
        else "the curvature matrix is near-singular"
    )
    remedy = f"pass damping={enough:.1g} or more"
    if curvature.kind == "hessian" and low < 0:
        remedy += ', or curvature="ggn", which is never negative'
    return f"{what}: its eigenvalues reach from {low:.2g} to {high:.2g}; {remedy}"
