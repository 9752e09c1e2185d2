r"""The linear system behind every step and every standard error of the beta-models.

One index :math:`x_{ij} = \alpha_i + \beta_j` a pair gives the information matrix

.. math::  F = \begin{pmatrix} \mathrm{diag}(W1) & W \\ W' & \mathrm{diag}(W'1) \end{pmatrix}
           + \lambda \begin{pmatrix} I - 11'/n & \\ & I - 11'/n \end{pmatrix},

W the matrix of pair weights (zero where a node meets itself), lambda the ridge on deviations from the
mean status of each side. Adding c to all alpha and taking it from all beta changes nothing, so g = (1, -1)
is in the null space; :math:`\gamma g g'` is added, which leaves every solution for a right-hand side
orthogonal to g as it is, and makes F positive definite.

`NodeSystem.solve` is conjugate gradients with a preconditioner that is exact for a dense W, exact up to
the self terms for a low-rank W (Woodbury, O(n r^2)), and the diagonal for a sparse W.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

Array = NDArray[np.float64]


class PairMatrix(Protocol):
    """A matrix over pairs (row node, column node)."""

    shape: tuple[int, int]

    def dot(self, v: Array) -> Array: ...

    def tdot(self, u: Array) -> Array: ...


@dataclass(frozen=True)
class DenseMatrix:
    """A matrix held as an array; the system with it is solved exactly."""

    values: Array

    @property
    def shape(self):
        return self.values.shape

    def dot(self, v):
        return self.values @ v

    def tdot(self, u):
        return self.values.T @ u


@dataclass(frozen=True)
class SparseMatrix:
    """A matrix that is zero but for the edges."""

    values: sp.csr_array

    @property
    def shape(self):
        return self.values.shape

    def dot(self, v):
        return self.values @ v

    def tdot(self, u):
        return self.values.T @ u


@dataclass(frozen=True)
class LowRankMatrix:
    """left @ right.T, less the entries at (self_rows, self_cols)."""

    left: Array
    right: Array
    self_rows: NDArray[np.int64]
    self_cols: NDArray[np.int64]
    self_values: Array

    @property
    def shape(self):
        return len(self.left), len(self.right)

    def dot(self, v):
        out = self.left @ (self.right.T @ v)
        out[self.self_rows] -= (self.self_values * v[self.self_cols].T).T
        return out

    def tdot(self, u):
        out = self.right @ (self.left.T @ u)
        out[self.self_cols] -= (self.self_values * u[self.self_rows].T).T
        return out


class NodeSystem:
    """F of the module's docstring, ready to be applied and solved.

    Parameters
    ----------
    weights : PairMatrix
        W, of shape (n_rows, n_cols).
    ridge : float, default=0.0
        lambda, on the scale of F.
    """

    def __init__(self, weights: PairMatrix, ridge: float = 0.0):
        self.weights, self.ridge = weights, ridge
        self.n_rows, self.n_cols = weights.shape
        ones = np.ones(max(weights.shape))
        self.node_information = np.concatenate(
            [weights.dot(ones[: self.n_cols]), weights.tdot(ones[: self.n_rows])]
        )
        self.gauge = (self.node_information.mean() + ridge) / (self.n_rows + self.n_cols)

    @property
    def diagonal(self) -> Array:
        """Node information plus ridge; 1 / diagonal is the leading term of the inverse's diagonal."""
        return self.node_information + self.ridge

    def apply(self, theta: Array) -> Array:
        """F theta for one vector or for columns."""
        u, v = theta[: self.n_rows], theta[self.n_rows :]
        out = (self.diagonal * theta.T).T
        out[: self.n_rows] += self.weights.dot(v) - self.ridge * u.mean(axis=0)
        out[self.n_rows :] += self.weights.tdot(u) - self.ridge * v.mean(axis=0)
        shift = self.gauge * (u.sum(axis=0) - v.sum(axis=0))
        out[: self.n_rows] += shift
        out[self.n_rows :] -= shift
        return out

    def precondition(self, rhs: Array) -> Array:
        """An approximate solution, see the module's docstring."""
        if isinstance(self.weights, DenseMatrix):
            factor, scale = self._cholesky
            return (scale * scipy.linalg.cho_solve(factor, (scale * rhs.T).T).T).T
        if isinstance(self.weights, LowRankMatrix):
            return self.low_rank_inverse.apply(rhs)
        return (rhs.T / self.diagonal).T

    def solve(self, rhs: Array, tol: float = 1e-12, max_iter: int = 2000) -> Array:
        """F^-1 rhs by preconditioned conjugate gradients, for one vector or for columns."""
        x = self.precondition(rhs)
        if isinstance(self.weights, DenseMatrix):
            return x
        r = rhs - self.apply(x)
        scale = np.sqrt(_column_dots(rhs, (rhs.T / self.diagonal).T)) + 1e-300
        z = self.precondition(r)
        p, rz = z, _column_dots(r, z)
        for _ in range(max_iter):
            if np.all(np.sqrt(np.maximum(rz, 0)) <= tol * scale):
                break
            fp = self.apply(p)
            curvature = _column_dots(p, fp)
            step = np.divide(rz, curvature, out=np.zeros_like(rz), where=curvature > 0)
            x = x + step * p
            r = r - step * fp
            z = self.precondition(r)
            new = _column_dots(r, z)
            p = z + np.divide(new, rz, out=np.zeros_like(rz), where=rz > 0) * p
            rz = new
        return x

    def dense(self) -> Array:
        """F as an ordinary matrix."""
        return self.apply(np.eye(self.n_rows + self.n_cols))

    @cached_property
    def _cholesky(self) -> tuple[tuple[Array, bool], Array]:
        """Factor of F scaled to a unit diagonal, and the scale.

        The 1e-13 on the diagonal matters only where some nodes have hardly any information about how they
        compare with the rest, on the way to being found infinite.
        """
        scale = 1 / np.sqrt(self.diagonal)
        scaled = self.dense() * np.outer(scale, scale)
        scaled[np.diag_indices_from(scaled)] += 1e-13
        return scipy.linalg.cho_factor(scaled, lower=True, overwrite_a=True), scale

    @cached_property
    def low_rank_inverse(self) -> LowRankInverse:
        """The exact inverse of F with the self pairs left in."""
        w = self.weights
        diagonal = self.diagonal.copy()
        diagonal[w.self_rows] += w.self_values
        diagonal[self.n_rows + w.self_cols] += w.self_values
        # Basis: the columns of left and a constant for the rows; right and a constant for the columns.
        rank = w.left.shape[1]
        left = np.column_stack([w.left, np.ones(self.n_rows)])
        right = np.column_stack([w.right, np.ones(self.n_cols)])
        core = np.zeros((2 * rank + 2, 2 * rank + 2))
        k = np.arange(rank)
        core[k, rank + 1 + k] = core[rank + 1 + k, k] = 1.0
        core[rank, rank] = self.gauge - self.ridge / self.n_rows
        core[-1, -1] = self.gauge - self.ridge / self.n_cols
        core[rank, -1] = core[-1, rank] = -self.gauge
        return LowRankInverse(diagonal, left, right, core)


class LowRankInverse:
    """(D + B H B')^-1 = D^-1 - Psi X Psi', Psi = D^-1 B, with B block-diagonal out of left and right."""

    def __init__(self, diagonal: Array, left: Array, right: Array, core: Array):
        self.diagonal = diagonal
        n_rows, k = left.shape
        self.psi_rows = left / diagonal[:n_rows, None]
        self.psi_cols = right / diagonal[n_rows:, None]
        gram = scipy.linalg.block_diag(left.T @ self.psi_rows, right.T @ self.psi_cols)
        inner = np.linalg.solve(np.eye(2 * k) + core @ gram, core)
        self.core = (inner + inner.T) / 2
        self._k, self._n_rows = k, n_rows

    def project(self, rhs: Array) -> Array:
        """Psi' rhs."""
        return np.concatenate(
            [self.psi_rows.T @ rhs[: self._n_rows], self.psi_cols.T @ rhs[self._n_rows :]]
        )

    def expand(self, coefficients: Array) -> Array:
        """Psi coefficients."""
        return np.concatenate(
            [self.psi_rows @ coefficients[: self._k], self.psi_cols @ coefficients[self._k :]]
        )

    def apply(self, rhs: Array) -> Array:
        return (rhs.T / self.diagonal).T - self.expand(self.core @ self.project(rhs))


def _column_dots(a: Array, b: Array) -> Array:
    return np.einsum("i...,i...->...", a, b)
