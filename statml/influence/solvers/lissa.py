r"""LiSSA: the inverse as a Neumann series, with products on random batches.

.. math:: v_{k+1} = b + (I - H_B/s)\,v_k, \qquad v_k/s \to H^{-1}b.

It needs a scale s above the largest eigenvalue, else it diverges; the error falls as (1 − λ_min/s)^k, so that an
ill-conditioned curvature takes a number of steps of the order of its condition number. Here s is found by
power iteration, growth is refused, and the residual on all rows stops the series and is reported. Up to
`BATCH` rows every product is exact; beyond, each step takes a random batch, and the result keeps its noise.

Cost: one product on a batch a step.

Reference: Agarwal, N., Bullins, B. and Hazan, E. (2017). Second-order stochastic optimization for machine
learning in linear time. JMLR 18(116); Koh, P. W. and Liang, P. (2017). Understanding black-box predictions via
influence functions. ICML.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

BATCH = 1024
CHECK_EVERY = 50


class LiSSASolver:
    """H^{-1} by a truncated Neumann series.

    Parameters
    ----------
    curvature : Curvature
    tol : float
        Relative residual at which the series stops; it is measured on all rows.
    max_iter : int or None
        None: 5000.
    rng : numpy.random.Generator
    """

    def __init__(self, curvature, tol: float, max_iter: int | None, rng: np.random.Generator):
        self.curvature = curvature
        self.tol = tol
        self.max_iter = max_iter or 5000
        self.rng = rng
        self.scale_ = 1.1 * largest_eigenvalue(curvature.matvec, curvature.n_params, rng)
        self.report_ = {"lissa_scale": self.scale_, "lissa_residual": 0.0, "lissa_iterations": 0}

    def solve(self, V: NDArray) -> NDArray:
        """H^{-1}v of every row v of an array of shape (k, p)."""
        norm = np.linalg.norm(V, axis=1)
        safe = np.where(norm > 0, norm, 1.0)
        v = V.copy()
        for step in range(1, self.max_iter + 1):
            v = V + v - self.curvature.batch_matvec(v, BATCH, self.rng) / self.scale_
            if step % CHECK_EVERY == 0 or step == self.max_iter:
                residual = (
                    np.linalg.norm(self.curvature.matvec(v) / self.scale_ - V, axis=1) / safe
                ).max()
                if not residual < 1e6:
                    raise ValueError(
                        f"LiSSA diverged (relative residual {residual:.1e} after {step} steps): a direction has "
                        "negative curvature, or batches vary too much; pass a larger damping, "
                        'curvature="ggn", or solver="cg"'
                    )
                if residual <= self.tol:
                    break
        self.report_["lissa_iterations"] = max(self.report_["lissa_iterations"], step)
        self.report_["lissa_residual"] = max(self.report_["lissa_residual"], float(residual))
        if residual > max(0.01, self.tol):
            warnings.warn(
                f"LiSSA left a relative residual of {residual:.1e} after {step} steps; raise damping or max_iter, "
                'or take solver="cg"',
                stacklevel=2,
            )
        return v / self.scale_


def largest_eigenvalue(matvec, n_params: int, rng: np.random.Generator, n_iter: int = 30) -> float:
    """Largest absolute eigenvalue by power iteration on four starts; from below, by a few percent at most."""
    V = rng.normal(size=(4, n_params))
    for _ in range(n_iter):
        V = np.linalg.qr(V.T)[0].T
        product = matvec(V)
        # Rayleigh-Ritz on the four: much sharper than the norm of one
        ritz = np.abs(np.linalg.eigvalsh(V @ product.T)).max()
        V = product
    return float(ritz)
