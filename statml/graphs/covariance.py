r"""Standard errors of statuses and of their differences.

**All pairs are observations** (sparse-logit, trinomial, unsigned). A status has n - 1 observations, two
statuses share at most two, and to leading order they are independent with variance

.. math::  d_i = q_i / f_i^2,

f_i the node sum of the slope of the estimating function, q_i that of its variance: 1/f_i for an efficient
score, so that :math:`\mathrm{var}(\beta_i - \beta_j) = 1/f_i + 1/f_j`. What is left out is of relative size
1/n (0.5 % with 18 nodes). ``cov="sandwich"`` takes the squared scores that were observed for q_i;
``cov="dyad"`` takes the products :math:`r_{ij} r_{ji}` of the two directions of a dyad into the covariance of
statuses i and j as well.

**Only edges are observations** (conditional). Nodes have few observations and share many, so the
covariance is :math:`B M B'` exactly, with B the inverse information and M the inner products of the scores,
clustered by dyad if asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from ..inference import sandwich
from .estimation import Engine, Solution
from .node_system import NodeSystem
from .scoring import edge_scores, over_edges

Array = NDArray[np.float64]

EXACT_UP_TO = 6000  # nodes of a side for whom an n x n matrix is worth some seconds and 300 MB


@dataclass(frozen=True)
class StatusCovariance:
    """Covariance of the statuses of one side.

    Attributes
    ----------
    variance : ndarray of shape (n,)
        Of each status; for the difference of two it is `difference_variance` that counts.
    matrix : ndarray of shape (n, n), optional
        All covariances, where they are known exactly.
    cross : callable, optional
        (i, j) -> cov(status_i, status_j) for i != j, elementwise with broadcasting; zero where not given.
    """

    variance: Array
    matrix: Array | None = None
    cross: Callable[[NDArray, NDArray], Array] | None = None

    def difference_variance(self, i: NDArray, j: NDArray) -> Array:
        """var(status_i - status_j), elementwise with broadcasting."""
        if self.matrix is not None:
            own = np.diag(self.matrix)
            return own[i] + own[j] - 2 * self.matrix[i, j]
        out = self.variance[i] + self.variance[j]
        return out if self.cross is None else out - 2 * self.cross(i, j)

    def full(self) -> Array:
        """The covariance as an n x n matrix."""
        if self.matrix is not None:
            return self.matrix
        out = np.diag(self.variance)
        if self.cross is not None:
            i, j = np.triu_indices(len(out), 1)
            out[i, j] = out[j, i] = self.cross(i, j)
        return out


def status_covariances(
    solution: Solution, engine: Engine, estimator: str, cov: str, ridge: float
) -> tuple[StatusCovariance, StatusCovariance]:
    """Covariances of the out-statuses and of the in-statuses at a solution."""
    if solution.pairs.only_edges:
        return _edge_covariances(solution, engine, cov, ridge)
    slope, variance = _estimating_sums(solution, engine, estimator, cov)
    slope += ridge
    n_rows = len(solution.pairs.rows)
    # The ridge is a prior with precision lambda; 1 / (f + lambda) covers the shrinkage bias on average.
    d = 1 / slope if variance is None else variance / slope**2
    if cov != "dyad":
        return StatusCovariance(d[:n_rows]), StatusCovariance(d[n_rows:])
    return tuple(
        StatusCovariance(d[part], cross=_dyad_cross(solution, engine, estimator, slope[part], side))
        for side, part in (("out", slice(0, n_rows)), ("in", slice(n_rows, None)))
    )


# --- all pairs --------------------------------------------------------------------------------------


def _estimating_sums(solution, engine, estimator, cov) -> tuple[Array, Array | None]:
    """f and q of the module's docstring; q is None where it equals f."""
    family, rho, pairs = engine.family, solution.rho, solution.pairs
    sums = engine.sums(solution.theta, pairs)
    efficient = estimator != "ee" or family.net_degree_is_efficient
    if cov == "model":
        if efficient:
            return sums.sums(engine.kernel("information", rho))[:, 0], None
        return tuple(sums.sums(engine.kernel("mean_slope", rho), engine.kernel("variance", rho)).T)
    zero = _pair_score(family, rho, efficient)
    slope = engine.kernel("information" if efficient else "mean_slope", rho)
    f, q = sums.sums(slope, lambda x: zero(x, 0) ** 2).T
    extra = over_edges(solution, lambda x, sign: zero(x, sign) ** 2 - zero(x, 0) ** 2)
    return f, q + pairs.edge_sums(extra)


def _pair_score(family, rho, efficient):
    """r(x, a): what a pair with value a contributes to the estimating equation."""
    if efficient:
        return lambda x, sign: family.score(x, rho, sign)
    return lambda x, sign: sign - family.mean(x, rho)


def _dyad_cross(solution, engine, estimator, slope, side):
    """cov(status_i, status_j) = r_ij r_ji / (f_i f_j) as a function of positions on one side."""
    pairs = solution.pairs
    own = pairs.rows if side == "out" else pairs.cols
    n_nodes = int(max(pairs.rows.max(), pairs.cols.max())) + 1
    alpha, beta = np.full(n_nodes, np.nan), np.full(n_nodes, np.nan)
    alpha[pairs.rows], beta[pairs.cols] = solution.alpha, solution.beta
    shape = (n_nodes, n_nodes)
    signs = sp.csr_array(
        (pairs.sign, (pairs.rows[pairs.source], pairs.cols[pairs.target])), shape=shape
    )
    efficient = estimator != "ee" or engine.family.net_degree_is_efficient
    score = _pair_score(engine.family, solution.rho, efficient)

    def residual(i, j):
        a = np.asarray(signs[i.ravel(), j.ravel()]).reshape(i.shape)
        return score(alpha[i] + beta[j], a)

    def cross(i, j):
        i, j = np.broadcast_arrays(np.asarray(i), np.asarray(j))
        nodes_i, nodes_j = own[i], own[j]
        product = residual(nodes_i, nodes_j) * residual(nodes_j, nodes_i)
        # A node that is finite on one side only shares no pair that counts with the others.
        return np.where(i == j, 0.0, np.nan_to_num(product)) / (slope[i] * slope[j])

    return cross


# --- edges only -------------------------------------------------------------------------------------


def _edge_covariances(solution, engine, cov, ridge) -> tuple[StatusCovariance, StatusCovariance]:
    pairs, rho = solution.pairs, solution.rho
    n_rows, n_cols = len(pairs.rows), len(pairs.cols)
    weights = engine.sums(solution.theta, pairs).matrix(engine.kernel("information", rho))
    system = NodeSystem(weights, ridge)
    scores = clusters = None
    if cov != "model":
        scores = _edge_score_matrix(solution, engine)
        clusters = _dyad_labels(pairs) if cov == "dyad" else None
    if max(n_rows, n_cols) > EXACT_UP_TO:
        return _second_order(system, scores)
    w, d = weights.values, system.diagonal
    into = _schur_columns(w, d[:n_rows], d[n_rows:], ridge)
    swapped = _schur_columns(w.T.tocsr(), d[n_rows:], d[:n_rows], ridge)
    out = np.concatenate([swapped[n_cols:], swapped[:n_cols]])
    matrices = []
    for columns, own in ((out, slice(0, n_rows)), (into, slice(n_rows, None))):
        matrix = columns[own] if scores is None else sandwich(columns.T, scores, clusters)
        matrices.append((matrix + matrix.T) / 2)
    # Reported are beta_j - mean(beta) and alpha_i + mean(beta), the latter split into
    # (alpha_i - mean(alpha)) + (mean(alpha) + mean(beta)), so that each part is free of the gauge.
    level = np.concatenate([np.full(n_rows, 1 / n_rows), np.full(n_cols, 1 / n_cols)])
    with_level = system.solve(level)
    if scores is not None:
        grouped = scores if clusters is None else _group_rows(scores, clusters)
        with_level = system.solve(grouped.T @ (grouped @ with_level))
    shared = with_level[:n_rows] - with_level[:n_rows].mean()
    out_matrix, in_matrix = matrices
    return (
        StatusCovariance(
            _centred_variance(out_matrix) + 2 * shared + level @ with_level, out_matrix
        ),
        StatusCovariance(_centred_variance(in_matrix), in_matrix),
    )


def _schur_columns(w: sp.csr_array, d_rows: Array, d_cols: Array, ridge: float) -> Array:
    """The columns of a generalised inverse of F that belong to the column nodes; n_cols^3 time.

    The rows are eliminated, A = diag(d_rows) - ridge/n 11' by Sherman and Morrison's formula; the gauge is
    fixed by adding a constant to the Schur complement. Differences of statuses do not see which gauge.
    """
    n_rows, n_cols = w.shape
    inverse_d = 1 / d_rows
    shared = (ridge / n_rows) / (1 - (ridge / n_rows) * inverse_d.sum())
    weighted = sp.csr_array(w.multiply(inverse_d[:, None]))
    column_sums = weighted.sum(axis=0)
    schur = -(w.T @ weighted).toarray()
    schur[np.diag_indices(n_cols)] += d_cols
    schur -= shared * np.outer(column_sums, column_sums)
    schur += d_cols.mean() / n_cols - ridge / n_cols
    into = scipy.linalg.inv(schur, overwrite_a=True, check_finite=False, assume_a="pos")
    rows = -(weighted @ into) - np.outer(shared * inverse_d, column_sums @ into)
    return np.concatenate([rows, into])


def _second_order(system: NodeSystem, scores) -> tuple[StatusCovariance, StatusCovariance]:
    """Diagonal of the inverse to second order in the weights of the edges; statuses taken as uncorrelated."""
    squared, d = system.weights.values.power(2), 1 / system.diagonal
    n_rows = system.n_rows
    variance = d + np.concatenate([squared @ d[n_rows:], squared.T @ d[:n_rows]]) * d**2
    if scores is not None:
        variance *= scores.power(2).sum(axis=0) * d
    return StatusCovariance(variance[:n_rows]), StatusCovariance(variance[n_rows:])


def _edge_score_matrix(solution: Solution, engine: Engine) -> sp.csr_array:
    """One row an edge, its score in the columns of its sender and its receiver."""
    pairs = solution.pairs
    r, edge = edge_scores(solution, engine), np.arange(len(pairs.sign))
    n_rows = len(pairs.rows)
    return sp.csr_array(
        (
            np.concatenate([r, r]),
            (np.tile(edge, 2), np.concatenate([pairs.source, n_rows + pairs.target])),
        ),
        shape=(len(edge), n_rows + len(pairs.cols)),
    )


def _dyad_labels(pairs) -> NDArray[np.int64]:
    """The same number for the edges i -> j and j -> i."""
    i, j = pairs.rows[pairs.source].astype(np.int64), pairs.cols[pairs.target].astype(np.int64)
    low, high = np.minimum(i, j), np.maximum(i, j)
    return np.unique(low * (high.max() + 1) + high, return_inverse=True)[1]


def _group_rows(scores: sp.csr_array, clusters: NDArray) -> sp.csr_array:
    groups = sp.csr_array((np.ones(len(clusters)), (clusters, np.arange(len(clusters)))))
    return groups @ scores


def _centred_variance(matrix: Array) -> Array:
    """Variances of status_i - mean status."""
    with_mean = matrix.mean(axis=1)
    return np.diag(matrix) - 2 * with_mean + with_mean.mean()
