"""A sparse quadratic program whose structure stays while its numbers change, behind two solvers.

    minimise z'Pz / 2 + c'z    subject to    A z = b,   G z <= h,   lower <= z <= upper.

P, A and the sparsity of G are given once; c, b, the values of G, h and the bounds come with every solve.
"""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]


class QPSolver(Protocol):
    """What the controller asks of a solver."""

    def solve(
        self, c: Array, b: Array, G_values: Array, h: Array, lower: Array, upper: Array
    ) -> Array | None:
        """The minimiser, or None if no point meets the constraints (or the solver finds none)."""


class PIQP:
    """The interior-point method PIQP: accurate, and fast on small sparse programs.

    Parameters
    ----------
    P, A, G : sparse matrices
    tol : float, default=1e-11
        Largest residual and duality gap, absolute and relative.

    References
    ----------
    Schwan, R. et al. (2023). PIQP: a proximal interior-point quadratic programming solver. CDC.
    """

    def __init__(self, P: sparse.csc_matrix, A: sparse.csc_matrix, G: sparse.csc_matrix, tol=1e-11):
        import piqp

        self._solved = piqp.PIQP_SOLVED
        self._solver = piqp.SparseSolver()
        settings = self._solver.settings
        settings.eps_abs = settings.eps_rel = tol
        settings.eps_duality_gap_abs = settings.eps_duality_gap_rel = tol
        if P.shape[0] > 200:  # finds the ticks in the order of z; small programs do better without
            settings.kkt_solver = piqp.KKTSolver.sparse_multistage
        self._P, self._A, self._G = P, A, G
        self._is_set_up = False

    def solve(self, c, b, G_values, h, lower, upper):
        """See `QPSolver`."""
        self._G.data[:] = G_values
        G = self._G if self._G.shape[0] else None
        bounds = {"x_l": lower, "x_u": upper, **({"G": G, "h_u": h} if G is not None else {})}
        if self._is_set_up:
            self._solver.update(c=c, b=b, **bounds)
        else:
            self._solver.setup(self._P, c, self._A, b, **bounds)
            self._is_set_up = True
        if self._solver.solve() != self._solved:
            return None
        return np.array(self._solver.result.x)  # a copy: the next solve writes over result.x


class OSQP:
    """The splitting method OSQP, started from its last solution.

    Parameters
    ----------
    P, A, G : sparse matrices
    tol : float, default=1e-5
        Largest residual, absolute and relative.

    References
    ----------
    Stellato, B. et al. (2020). OSQP: an operator splitting solver for quadratic programs. Mathematical Programming
    Computation 12.
    """

    def __init__(self, P: sparse.csc_matrix, A: sparse.csc_matrix, G: sparse.csc_matrix, tol=1e-5):
        import osqp

        self._solved = osqp.SolverStatus.OSQP_SOLVED
        self._solver = osqp.OSQP()
        self._P = sparse.triu(P, format="csc")
        # one matrix for all constraints; G is on top, so that its entries keep their order in it
        self._rows = sparse.csc_matrix(sparse.vstack([G, A, sparse.eye(P.shape[0])]))
        self._rows.sort_indices()
        self._of_G = np.flatnonzero(self._rows.indices < G.shape[0])
        self._no_low = np.full(G.shape[0], -np.inf)
        self._settings = {"eps_abs": tol, "eps_rel": tol, "max_iter": 100_000, "verbose": False}
        self._is_set_up = False

    def solve(self, c, b, G_values, h, lower, upper):
        """See `QPSolver`."""
        self._rows.data[self._of_G] = G_values
        low = np.concatenate([self._no_low, b, lower])
        high = np.concatenate([h, b, upper])
        if self._is_set_up:
            self._solver.update(q=c, l=low, u=high)
            if len(G_values):
                self._solver.update(Ax=self._rows.data)
        else:
            self._solver.setup(self._P, c, self._rows, low, high, **self._settings)
            self._is_set_up = True
        result = self._solver.solve(raise_error=False)
        return np.array(result.x) if result.info.status_val == self._solved else None


def make_solver(
    name: str,
    P: sparse.csc_matrix,
    A: sparse.csc_matrix,
    G: sparse.csc_matrix,
    tol: float | None = None,
) -> QPSolver:
    """A solver by its name; OSQP where PIQP is asked for and not installed, with a warning.

    Parameters
    ----------
    name : {"piqp", "osqp"}
    P, A, G : sparse matrices
    tol : float or None, default=None
        None: the solver's own.

    Returns
    -------
    QPSolver
    """
    kinds = {"piqp": PIQP, "osqp": OSQP}
    options = {} if tol is None else {"tol": tol}
    try:
        return kinds[name](P, A, G, **options)
    except ModuleNotFoundError as error:
        if error.name != "piqp":
            raise
        warnings.warn("PIQP is not installed; OSQP solves instead, less accurately", stacklevel=3)
        return OSQP(P, A, G, **options)
