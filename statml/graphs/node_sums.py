r"""Fast node sums: :math:`h_i = \sum_{j \ne i} g(\alpha_i + \beta_j)` for all i, in O(nK) instead of O(n^2).

All kernels g of the families are analytic in the strip :math:`|\mathrm{Im}\,x| < \pi`, so that

.. math::  g(\alpha_i + \beta_j) \approx \sum_{k,l} C_{kl}\, T_k(\tilde\alpha_i)\, T_l(\tilde\beta_j)

with Chebyshev polynomials T on the ranges of alpha and beta, and an error that falls like :math:`r^{-K}`,
:math:`r = \pi/L + \sqrt{1 + (\pi/L)^2}`, L the half-length of the range (Trefethen, *Approximation Theory and
Approximation Practice*, ch. 8). The nodes enter only through the moments :math:`\mu_l = \sum_j T_l(\tilde\beta_j)`,
which serve every kernel: the row sums are :math:`T(\tilde\alpha)\, C\mu`, the sum over all pairs is
:math:`\mu_\alpha' C \mu_\beta`, and the matrix :math:`[g(\alpha_i+\beta_j)]` has the low rank of C.

Three classes give the same answers: `DenseSums` (n^2, exact, for small networks and for tests),
`ChebyshevSums`, and `EdgeSums` (only the pairs with an edge, for families conditional on the edge).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
import scipy.sparse as sp
from numpy.typing import NDArray

from .node_system import DenseMatrix, LowRankMatrix, PairMatrix, SparseMatrix

Array = NDArray[np.float64]
Kernel = Callable[[Array], Array]

BLOCK = 256  # nodes handled at once, so that the recurrence stays in the first-level cache
PARALLEL_FROM = 50_000  # below this many nodes a thread costs more than it saves


@dataclass(frozen=True)
class Pairs:
    """The pairs (sender, receiver) that take part in a fit.

    Nodes whose status is infinite, or that have no data, are not among the rows (senders) or the columns
    (receivers); positions below are positions within `rows` and `cols`.

    Attributes
    ----------
    rows, cols : ndarray of int
        The nodes that have an out-status, and those that have an in-status, to be estimated.
    self_rows, self_cols : ndarray of int
        Positions of the nodes that are in both, whose pair with themselves does not count.
    source, target : ndarray of int
        Positions of the ends of each edge.
    sign : ndarray of int8
    only_edges : bool
        Whether only the pairs with an edge are observations.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    self_rows: NDArray[np.int64]
    self_cols: NDArray[np.int64]
    source: NDArray[np.int64]
    target: NDArray[np.int64]
    sign: NDArray[np.int8]
    only_edges: bool

    @property
    def n_pairs(self) -> int:
        if self.only_edges:
            return len(self.sign)
        return len(self.rows) * len(self.cols) - len(self.self_rows)

    def edge_sums(self, values: Array) -> Array:
        """Sum one value an edge over the edges of each row and of each column, one after the other."""
        return np.concatenate(
            [
                np.bincount(self.source, weights=values, minlength=len(self.rows)),
                np.bincount(self.target, weights=values, minlength=len(self.cols)),
            ]
        )


class DenseSums:
    """Node sums by the whole matrix of x_ij; exact, O(n^2) time and memory."""

    def __init__(self, theta: Array, pairs: Pairs):
        self.x = theta[: len(pairs.rows), None] + theta[None, len(pairs.rows) :]
        self._own = (pairs.self_rows, pairs.self_cols)

    def _values(self, kernel: Kernel) -> Array:
        values = kernel(self.x)
        values[self._own] = 0.0
        return values

    def sums(self, *kernels: Kernel) -> Array:
        """Row sums, then column sums, of each kernel: shape (n_rows + n_cols, n_kernels)."""
        out = []
        for kernel in kernels:
            values = self._values(kernel)
            out.append(np.concatenate([values.sum(axis=1), values.sum(axis=0)]))
        return np.column_stack(out)

    def totals(self, *kernels: Kernel) -> Array:
        """The sum of each kernel over all pairs."""
        return np.array([self._values(kernel).sum() for kernel in kernels])

    def matrix(self, kernel: Kernel, tol: float = 0.0) -> PairMatrix:
        """The matrix of kernel values, zero where a node meets itself."""
        return DenseMatrix(self._values(kernel))


class EdgeSums:
    """Node sums over the observed edges alone; O(edges)."""

    def __init__(self, theta: Array, pairs: Pairs):
        self._pairs = pairs
        self.x = theta[pairs.source] + theta[len(pairs.rows) + pairs.target]

    def sums(self, *kernels: Kernel) -> Array:
        return np.column_stack([self._pairs.edge_sums(kernel(self.x)) for kernel in kernels])

    def totals(self, *kernels: Kernel) -> Array:
        return np.array([kernel(self.x).sum() for kernel in kernels])

    def matrix(self, kernel: Kernel, tol: float = 0.0) -> PairMatrix:
        p = self._pairs
        shape = (len(p.rows), len(p.cols))
        return SparseMatrix(sp.csr_array((kernel(self.x), (p.source, p.target)), shape=shape))


class ChebyshevSums:
    """Node sums by Chebyshev interpolation in both indices; O(nK) time, no n x K array.

    Parameters
    ----------
    theta : ndarray of shape (n_rows + n_cols,)
        Out-statuses of the rows, then in-statuses of the columns.
    pairs : Pairs
    tol : float
        Error of a node sum, relative to the largest value of the kernel times the number of nodes.
    """

    def __init__(self, theta: Array, pairs: Pairs, tol: float = 1e-10):
        alpha, beta = theta[: len(pairs.rows)], theta[len(pairs.rows) :]
        self.x_self = alpha[pairs.self_rows] + beta[pairs.self_cols]
        self._pairs = pairs
        self._row_axis, self._col_axis = _Axis.of(alpha, tol), _Axis.of(beta, tol)
        self._row_moments = self._row_axis.moments()
        self._col_moments = self._col_axis.moments()

    def _coefficients(self, kernel: Kernel) -> Array:
        """C in the expansion above, by two cosine transforms of the kernel on the Chebyshev grid."""
        values = kernel(self._row_axis.grid[:, None] + self._col_axis.grid[None, :])
        coefficients = scipy.fft.dctn(values, type=2) / values.size
        coefficients[0] /= 2
        coefficients[:, 0] /= 2
        return coefficients

    def sums(self, *kernels: Kernel) -> Array:
        coefs = [self._coefficients(kernel) for kernel in kernels]
        rows = self._row_axis.evaluate(np.column_stack([c @ self._col_moments for c in coefs]))
        cols = self._col_axis.evaluate(np.column_stack([self._row_moments @ c for c in coefs]))
        for k, kernel in enumerate(kernels):
            own = kernel(self.x_self)
            rows[self._pairs.self_rows, k] -= own
            cols[self._pairs.self_cols, k] -= own
        return np.concatenate([rows, cols])

    def totals(self, *kernels: Kernel) -> Array:
        return np.array(
            [
                self._row_moments @ self._coefficients(kernel) @ self._col_moments
                - kernel(self.x_self).sum()
                for kernel in kernels
            ]
        )

    def matrix(self, kernel: Kernel, tol: float = 1e-13) -> PairMatrix:
        """The matrix of kernel values as a product of two thin ones, truncated at relative size tol."""
        u, s, vt = np.linalg.svd(self._coefficients(kernel))
        rank = max(1, int((s > tol * s[0]).sum()))
        half = np.sqrt(s[:rank])
        return LowRankMatrix(
            left=self._row_axis.evaluate(u[:, :rank] * half),
            right=self._col_axis.evaluate(vt[:rank].T * half),
            self_rows=self._pairs.self_rows,
            self_cols=self._pairs.self_cols,
            self_values=kernel(self.x_self),
        )


def chebyshev_degree(half_length: float, tol: float) -> int:
    """Number of terms that interpolate a kernel with poles at distance pi to relative error tol."""
    reach = np.pi / half_length
    ratio = reach + np.sqrt(1 + reach**2)
    return int(np.ceil(1.15 * np.log(1 / tol) / np.log(ratio))) + 6


@dataclass(frozen=True)
class _Axis:
    """One side's statuses, scaled to [-1, 1], and the Chebyshev grid of their range."""

    scaled: Array
    grid: Array

    @classmethod
    def of(cls, values: Array, tol: float) -> _Axis:
        low, high = values.min(), values.max()
        middle, half = (
            (low + high) / 2,
            max((high - low) / 2, 0.1),
        )  # equal values still span a range
        degree = chebyshev_degree(half, tol)
        nodes = np.cos(np.pi * (np.arange(degree) + 0.5) / degree)
        return cls(scaled=(values - middle) / half, grid=middle + half * nodes)

    def moments(self) -> Array:
        """sum_i T_k(t_i) for k < K."""
        t, degree = self.scaled, len(self.grid)
        parts = _in_chunks(lambda lo, hi: _moments(t[lo:hi], degree), len(t))
        return np.sum(parts, axis=0)

    def evaluate(self, coefficients: Array) -> Array:
        """sum_k c_kq T_k(t_i), shape (n, q)."""
        out = np.empty((len(self.scaled), coefficients.shape[1]))
        coefficients = np.ascontiguousarray(coefficients)
        _in_chunks(lambda lo, hi: _clenshaw(self.scaled[lo:hi], coefficients, out[lo:hi]), len(out))
        return out


def _in_chunks(work: Callable[[int, int], object], n: int) -> list:
    """Run work(lo, hi) over the nodes, in threads where that pays; the kernels release the GIL."""
    threads = (
        int(os.environ.get("NUMBA_NUM_THREADS", os.cpu_count() or 1)) if n >= PARALLEL_FROM else 1
    )
    if threads == 1:
        return [work(0, n)]
    edges = np.linspace(0, n, threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, edges[:-1], edges[1:]))


@numba.njit(cache=True, nogil=True, fastmath=True)
def _moments(t, degree):
    out = np.zeros(degree)
    now, before = np.empty(BLOCK), np.empty(BLOCK)
    for start in range(0, len(t), BLOCK):
        size = min(BLOCK, len(t) - start)
        for i in range(size):
            before[i] = 1.0
            now[i] = t[start + i]
        out[0] += size
        for k in range(1, degree):
            total = 0.0
            for i in range(size):
                value = now[i]
                total += value
                now[i] = 2.0 * t[start + i] * value - before[i]
                before[i] = value
            out[k] += total
    return out


@numba.njit(cache=True, nogil=True, fastmath=True)
def _clenshaw(t, coefficients, out):
    degree, n_columns = coefficients.shape
    b1, b2 = np.empty(BLOCK), np.empty(BLOCK)
    for start in range(0, len(t), BLOCK):
        size = min(BLOCK, len(t) - start)
        for q in range(n_columns):
            for i in range(size):
                b1[i] = 0.0
                b2[i] = 0.0
            for k in range(degree - 1, 0, -1):
                c = coefficients[k, q]
                for i in range(size):
                    value = c + 2.0 * t[start + i] * b1[i] - b2[i]
                    b2[i] = b1[i]
                    b1[i] = value
            c = coefficients[0, q]
            for i in range(size):
                out[start + i, q] = c + t[start + i] * b1[i] - b2[i]
