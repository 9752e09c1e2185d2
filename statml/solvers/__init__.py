"""Linear systems in a curvature matrix: H^{-1} applied to many right-hand sides.

A curvature is any object with ``n_params``, ``matvec(V)`` for rows V of shape (k, p), and, for the direct solver, ``dense()``,
``damping`` and ``kind`` ("hessian", "ggn", ...), which its error message speaks of. A solver has ``solve(V)``, H^{-1}v of every
row v, and ``report_``, what it found out on the way.
"""

from .conjugate_gradient import ConjugateGradientSolver, conjugate_gradient
from .direct import MIN_RCOND, DirectSolver, scaled_cholesky

__all__ = [
    "MIN_RCOND",
    "ConjugateGradientSolver",
    "DirectSolver",
    "conjugate_gradient",
    "scaled_cholesky",
]
