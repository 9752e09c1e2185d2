"""Solvers: ways to apply an inverse curvature matrix to gradients, each written once against `Curvature`.

Each has ``solve(V)``, H^{-1}v of every row v of V, and ``report_``, what it found out on the way.
"""

from __future__ import annotations

import numpy as np

from ...solvers import ConjugateGradientSolver, DirectSolver
from .datainf import DataInfSolver
from .ekfac import EKFACSolver
from .lanczos import LanczosSolver
from .lissa import LiSSASolver
from .logra import LoGraSolver
from .nystrom import NystromSolver

SOLVERS = ("direct", "cg", "lissa", "lanczos", "nystrom", "ekfac", "datainf", "logra")
# what estimates the curvature at its eigenvalues, rather than solving with it
EXACT = ("direct", "cg", "lissa")


def make_solver(
    name: str,
    curvature,
    *,
    damping: str | float,
    tol: float,
    max_iter: int | None,
    rank: int,
    rng: np.random.Generator,
):
    """The solver of that name."""
    if name == "direct":
        return DirectSolver(curvature)
    if name == "cg":
        return ConjugateGradientSolver(curvature, tol, max_iter)
    if name == "lissa":
        return LiSSASolver(curvature, tol, max_iter, rng)
    if name == "lanczos":
        return LanczosSolver(curvature, rank, rng)
    if name == "nystrom":
        return NystromSolver(curvature, rank, rng)
    if name == "ekfac":
        return EKFACSolver(curvature, rng)
    if name == "datainf":
        return DataInfSolver(curvature, damping)
    return LoGraSolver(curvature, rank)
