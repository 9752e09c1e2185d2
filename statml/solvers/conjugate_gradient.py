r"""Conjugate gradients for many right-hand sides at once.

Solves Hx = v for every row v of an array with products by H only (Hestenes and Stiefel 1952; Martens 2010 for
networks). All right-hand sides share a product a step; each stops by itself when its residual is below
tol·‖v‖, since one that is done early must neither stop the others nor be spoiled by them.

Cost: one product with H a step; O(√cond) steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ._curvature import Curvature


class ConjugateGradientSolver:
    """H^{-1} by conjugate gradients.

    Parameters
    ----------
    curvature : Curvature
    tol : float
        Relative residual at which a right-hand side is done.
    max_iter : int or None
        None: ten times the number of parameters, at most 10,000.
    """

    def __init__(self, curvature: Curvature, tol: float, max_iter: int | None):
        self.curvature = curvature
        self.tol = tol
        self.max_iter = max_iter or min(10 * curvature.n_params, 10_000)
        self.report_ = {"cg_iterations": 0, "cg_unconverged": 0}

    def solve(self, V: NDArray) -> NDArray:
        """H^{-1}v of every row v of an array of shape (k, p)."""
        X, residual, steps = conjugate_gradient(self.curvature.matvec, V, self.tol, self.max_iter)
        open_ = int(np.sum(residual > self.tol))
        self.report_["cg_iterations"] = max(self.report_["cg_iterations"], steps)
        self.report_["cg_unconverged"] += open_
        if open_:
            warnings.warn(
                f"conjugate gradients stopped after max_iter={self.max_iter} steps with {open_} of {len(V)} "
                f"right-hand sides unsolved (largest relative residual {residual.max():.1e}, tol={self.tol:g}); "
                "raise max_iter or damping",
                stacklevel=2,
            )
        return X


def conjugate_gradient(
    matvec: Callable[[NDArray], NDArray], B: NDArray, tol: float, max_iter: int
) -> tuple[NDArray, NDArray, int]:
    """Solve for every row of B; return solutions (k, p), relative residuals (k,) and the number of steps."""
    X = np.zeros_like(B)
    R = B.copy()
    P = R.copy()
    rho = np.einsum("ij,ij->i", R, R)
    norm = np.sqrt(rho)
    goal = (tol * norm) ** 2
    steps = 0
    active = np.flatnonzero(rho > goal)
    while len(active) and steps < max_iter:
        steps += 1
        direction = P[active]
        product = matvec(direction)
        bend = np.einsum("ij,ij->i", direction, product)
        if np.any(bend <= 0):
            raise ValueError(
                "the curvature matrix is not positive definite (conjugate gradients met a direction of "
                'curvature <= 0); pass a larger damping, or curvature="ggn"'
            )
        step = (rho[active] / bend)[:, None]
        X[active] += step * direction
        R[active] -= step * product
        new = np.einsum("ij,ij->i", R[active], R[active])
        P[active] = R[active] + (new / rho[active])[:, None] * direction
        rho[active] = new
        active = np.flatnonzero(rho > goal)
    return X, np.sqrt(rho) / np.where(norm > 0, norm, 1.0), steps
