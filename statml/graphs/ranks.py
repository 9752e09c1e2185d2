r"""Confidence intervals for ranks out of simultaneous tests of all differences.

Node i ranks below every node that is truly above it. If the set of declared differences
:math:`\{(i, j): \beta_i > \beta_j\ \text{declared}\}` contains no false one with probability `level`, then so often

.. math::  1 + \#\{j : j\ \text{declared above}\ i\} \;\le\; \mathrm{rank}_i \;\le\; n - \#\{j : j\ \text{declared below}\ i\}

for all i at once. The declarations come from the step-down procedure of Romano and Wolf: the critical value is
the `level` quantile of max T over the ordered pairs not yet declared, under equality, by simulation from the
joint normal distribution; what exceeds it is declared and the rest is tested again. Above `SIMULATE_UP_TO` nodes,
Sidak's bound takes the place of the simulation; it is valid and about 2 % wider.

Reference: Mogstad, M., Romano, J. P., Shaikh, A. M. and Wilhelm, D. (2024). Inference for ranks. Review of
Economic Studies 91, 476-518.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from .covariance import StatusCovariance

Array = NDArray[np.float64]

SIMULATE_UP_TO = 400
DRAWS = 4000
SEED = 20250  # the draws only settle a critical value; fixed, so that a rank interval is a function of the fit


def rank_intervals(
    estimate: Array, covariance: StatusCovariance, level: float, simultaneous: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lowest and highest rank of every node, shape (n,) each; rank 1 is the largest estimate."""
    n = len(estimate)
    if n > SIMULATE_UP_TO:
        tests = n * (n - 1) / 2 if simultaneous else n - 1
        # P(all |T| <= c) >= (2 Phi(c) - 1)^N for jointly normal T (Sidak).
        critical = norm.ppf((1 + level ** (1 / tests)) / 2)
        return _count(estimate, lambda i: covariance.difference_variance(i, np.arange(n)), critical)
    matrix = covariance.full()
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    se = np.sqrt(np.maximum(covariance.difference_variance(i, j), 1e-300))
    statistic = (estimate[:, None] - estimate[None, :]) / se
    np.fill_diagonal(statistic, 0.0)
    values, vectors = np.linalg.eigh(matrix)
    root = vectors * np.sqrt(np.maximum(values, 0))
    draws = np.random.default_rng(SEED).standard_normal((DRAWS, n)) @ root.T
    everything = ~np.eye(n, dtype=bool)
    if simultaneous:
        above_others = _step_down(statistic, draws, se, level, everything)
        below_others = above_others.T
    else:  # the comparisons of each node with the others are a family of their own
        above_others, below_others = np.zeros((2, n, n), dtype=bool)
        for k in range(n):
            own = np.zeros((n, n), dtype=bool)
            own[k] = own[:, k] = True
            own[k, k] = False
            declared = _step_down(statistic, draws, se, level, own)
            above_others[k], below_others[k] = declared[k], declared[:, k]
    return 1 + below_others.sum(axis=1), n - above_others.sum(axis=1)


def _step_down(statistic, draws, se, level, family) -> NDArray[np.bool_]:
    """Entry (i, j): whether "i stands above j" is declared, over the ordered pairs of the family.

    Both directions of a pair are hypotheses of their own, so that wrong directions count as errors.
    """
    open_ = family.copy()
    declared = np.zeros_like(family)
    while open_.any():
        i, j = np.nonzero(open_)
        critical = np.quantile(_largest(draws, i, j, se[i, j]), level)
        new = open_ & (statistic > critical)
        if not new.any():
            break
        declared |= new
        open_ &= ~new
    return declared


@numba.njit(cache=True, nogil=True, fastmath=True)
def _largest(draws, i, j, se):
    """max over ordered pairs of (z_i - z_j) / se_ij, for each draw."""
    out = np.zeros(len(draws))
    for d in range(len(draws)):
        z = draws[d]
        top = 0.0
        for k in range(len(i)):
            value = (z[i[k]] - z[j[k]]) / se[k]
            if value > top:
                top = value
        out[d] = top
    return out


def _count(estimate, variance_against_all, critical):
    """Ranks' bounds from one critical value, one node at a time."""
    n = len(estimate)
    low, high = np.ones(n, dtype=np.int64), np.full(n, n, dtype=np.int64)
    for k in range(n):
        margin = critical * np.sqrt(np.maximum(variance_against_all(np.array(k)), 0))
        difference = estimate[k] - estimate
        margin[k] = np.inf
        low[k] += int((difference < -margin).sum())
        high[k] -= int((difference > margin).sum())
    return low, high
