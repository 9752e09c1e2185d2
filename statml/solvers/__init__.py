"""Linear systems in a curvature matrix: H^{-1} applied to many right-hand sides.

A `Curvature` is any object with ``n_params`` and ``matvec(V)``; the direct solver takes a `DenseCurvature`, which can be
written out. A solver has ``solve(V)``, H^{-1}v of every row v, and ``report_``, what it found out on the way.
"""

from ._curvature import Curvature, DenseCurvature
from .conjugate_gradient import ConjugateGradientSolver, conjugate_gradient
from .direct import MIN_RCOND, DirectSolver, scaled_cholesky

__all__ = [
    "MIN_RCOND",
    "ConjugateGradientSolver",
    "Curvature",
    "DenseCurvature",
    "DirectSolver",
    "conjugate_gradient",
    "scaled_cholesky",
]
