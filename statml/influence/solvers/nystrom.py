r"""Nyström: a low-rank approximation of the data's curvature, with the ridge kept exactly.

With Y = HΩ for a random orthonormal Ω (p × r), H̃ = Y(ΩᵀY)⁻¹Yᵀ = BBᵀ never exceeds H, and Woodbury's identity inverts
D + BBᵀ, D the diagonal of ridge and damping. Parameters without ridge (an intercept) join Ω as unit vectors: H̃ is
then exact on them, and a shift of D there is taken back as a negative part of the low-rank term,

.. math:: (D^+ + U C U^\top)^{-1} = E - EU(C^{-1} + U^\top E U)^{-1}U^\top E, \quad E = (D^+)^{-1},\
          U = [B, I_Z],\ C = \mathrm{diag}(I, -\tau I).

Cost: r products with H and O(r²p) once; O(rp) a right-hand side. It needs a ridge or damping on nearly all
parameters: where there is none, low rank leaves nothing to invert.

Reference: Hataya, R. and Yamada, M. (2023). Nyström method for accurate and scalable implicit differentiation.
AISTATS; Frangella, Z., Tropp, J. A. and Udell, M. (2023). Randomized Nyström preconditioning. SIMAX 44, 718-752.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh


class NystromSolver:
    """(D + low rank)^{-1}.

    Parameters
    ----------
    curvature : Curvature
    rank : int
    rng : numpy.random.Generator
    """

    def __init__(self, curvature, rank: int, rng: np.random.Generator):
        p = curvature.n_params
        ridge = curvature.ridge
        free = np.flatnonzero(ridge <= 0)
        if len(free) > max(1, p // 4) and rank < p:
            raise ValueError(
                f'solver="nystrom" needs a ridge or damping > 0: {len(free)} of {p} parameters have none; '
                f"pass damping={0.01 * curvature.mean_eigenvalue():.1g} or so"
            )
        sketch = np.hstack([np.eye(p)[:, free], rng.normal(size=(p, min(rank, p - len(free))))])
        B = nystrom_factor(curvature.data_matvec, np.linalg.qr(sketch)[0])
        tau = float(ridge[ridge > 0].mean()) if np.any(ridge > 0) else curvature.mean_eigenvalue()
        shifted = ridge.copy()
        shifted[free] = tau
        self.E_ = 1 / shifted
        self.U_ = np.hstack([B, np.eye(p)[:, free]])
        C_inverse = np.concatenate([np.ones(B.shape[1]), np.full(len(free), -1 / tau)])
        core = np.diag(C_inverse) + self.U_.T @ (self.E_[:, None] * self.U_)
        self.core_ = np.linalg.inv(core)
        self.report_ = {"rank": B.shape[1]}

    def solve(self, V: NDArray) -> NDArray:
        """H^{-1}v of every row v of an array of shape (k, p), approximately."""
        W = V * self.E_
        return W - ((W @ self.U_) @ self.core_ @ self.U_.T) * self.E_


def nystrom_factor(matvec, sketch: NDArray) -> NDArray:
    """B of shape (p, r) with BBᵀ = HΩ(ΩᵀHΩ)⁺ΩᵀH, for an orthonormal Ω of shape (p, r)."""
    Y = matvec(np.ascontiguousarray(sketch.T)).T
    values, S = eigh(sketch.T @ Y)
    usable = values > 1e-13 * values[-1]
    return Y @ (S[:, usable] / np.sqrt(values[usable]))
