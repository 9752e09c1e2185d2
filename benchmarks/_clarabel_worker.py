"""Solves a sequence of quadratic programs with Clarabel; run by viewpoint.py in an environment of its own.

Usage: _clarabel_worker.py PROGRAMS.npz RESULT.npz
"""

import sys
import time

import clarabel
import numpy as np
from scipy import sparse

source, result = sys.argv[1:]
data = np.load(source)


def matrix(name):
    return sparse.csc_matrix(
        (data[f"{name}_data"], data[f"{name}_indices"], data[f"{name}_indptr"]),
        shape=tuple(data[f"{name}_shape"]),
    )


P, A, c, b = sparse.triu(matrix("P"), format="csc"), matrix("A"), data["c"], data["b"]
lower, upper = data["lower"], data["upper"]
eye = sparse.eye(P.shape[0], format="csc")
low, high = np.isfinite(lower), np.isfinite(upper)
rows = sparse.vstack([A, eye[high], -eye[low]], "csc")
cones = [clarabel.ZeroConeT(A.shape[0]), clarabel.NonnegativeConeT(int(high.sum() + low.sum()))]
settings = clarabel.DefaultSettings()
settings.verbose = False
settings.presolve_enable = False  # allows to update the numbers
exact = clarabel.DefaultSettings()
exact.verbose = False
for some, tol in (
    (settings, 1e-10),
    (exact, 1e-13),
):  # the first is the tolerance of the other side
    some.tol_gap_abs = some.tol_gap_rel = some.tol_feas = tol


def right(k):
    return np.concatenate([b[k], upper[high], -lower[low]])


solver = clarabel.DefaultSolver(P, c[0], rows, right(0), cones, settings)
rebuilt, updated, solutions = [], [], []
for k in range(len(c)):
    start = time.process_time()
    clarabel.DefaultSolver(P, c[k], rows, right(k), cones, settings).solve()
    rebuilt.append(time.process_time() - start)
    start = time.process_time()
    solver.update(q=c[k], b=right(k))
    solver.solve()
    updated.append(time.process_time() - start)
    solutions.append(clarabel.DefaultSolver(P, c[k], rows, right(k), cones, exact).solve().x)
np.savez(result, rebuilt=rebuilt, updated=updated, solutions=solutions)
