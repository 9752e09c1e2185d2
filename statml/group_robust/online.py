r"""Group DRO's online algorithm: stochastic gradients for w, exponentiated gradients for the group weights.

Each step draws a batch in which every group has the same chance, and

.. math::  q_g \leftarrow q_g \exp\{\eta_q (\hat L_g + a_g)\} \text{ for the groups in the batch},\qquad
           w \leftarrow w - \eta_w \big( \textstyle\sum_g q_g \nabla \hat L_g + l_2 w \big),

q scaled to sum to one (and to its caps, for CVaR over groups). A group that is absent from a batch keeps its
weight: taking its loss for zero would shrink it. The result is the average of the iterates of the second half; the
last iterate carries no guarantee. After T steps the expected gap is O(sqrt(log m / T)): this is the algorithm that
scales to networks, while `solver` is exact and, for linear models, faster.

Cost: O(batch p) a step.

Reference: Sagawa, S., Koh, P. W., Hashimoto, T. B. and Liang, P. (2020). Distributionally robust neural networks for
group shifts. ICLR, Algorithm 1. Step sizes: Nemirovski, A., Juditsky, A., Lan, G. and Shapiro, A. (2009). SIAM Journal on
Optimization 19, 1574-1609.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .simplex import entropic_projection, greedy_weights
from .solver import Point, Problem, Solution, minimum_over_w

Array = NDArray[np.float64]

BATCH = 128


def exponentiated_gradient(
    problem: Problem,
    offsets: Array,
    caps: Array,
    n_epochs: int,
    rng: np.random.Generator,
) -> Solution:
    """Run the online algorithm, and certify what it returns.

    Parameters
    ----------
    problem : Problem
    offsets, caps : ndarray of shape (m,)
    n_epochs : int
        Passes: so many times n / 128 steps, and at least 10 steps an epoch.
    rng : numpy.random.Generator

    Returns
    -------
    Solution
        Its dual value is the exact minimum over w at the averaged weights.
    """
    n, m = len(problem.y), len(offsets)
    n_steps = n_epochs * max(-(-n // BATCH), 10)
    squared_norms = problem.groups.means((problem.X**2).sum(axis=1))
    rate_w = 1 / (problem.loss.steepness(problem.y) * max(squared_norms.max(), 1e-12) + problem.l2)
    start = Point(problem, np.zeros(problem.shape)).group_losses + offsets
    scale = max(float(np.ptp(start)), float(np.abs(start).max()), 1e-12)
    rate_q = np.sqrt(8 * np.log(max(m, 2)) / n_steps) / scale

    w, q = np.zeros(problem.shape), entropic_projection(np.ones(m), caps)
    mean_w, mean_q, n_averaged = np.zeros_like(w), np.zeros(m), 0
    draw = _sampler(problem, rng)
    for step in range(n_steps):
        group, rows = draw()
        X, y = problem.X[rows], problem.y[rows]
        z = X @ w
        counts = np.bincount(group, minlength=m)
        present = counts > 0
        losses = np.bincount(group, problem.loss.value(y, z), m)[present] / counts[present]
        q = q.copy()
        q[present] *= np.exp(rate_q * np.minimum(losses + offsets[present], 50 / rate_q))
        q = entropic_projection(np.maximum(q, 1e-300), caps)
        row_weight = q[group] / counts[group]
        gradient = X.T @ (row_weight[:, None] * problem.loss.derivatives(y, z)[0])
        w = w - rate_w / np.sqrt(1 + 10 * step / n_steps) * (gradient + problem.penalty * w)
        if step >= n_steps // 2:
            n_averaged += 1
            mean_w += (w - mean_w) / n_averaged
            mean_q += (q - mean_q) / n_averaged

    point = Point(problem, mean_w)
    adjusted = point.group_losses + offsets
    primal = float(greedy_weights(adjusted, caps) @ adjusted) + problem.ridge(mean_w)
    dual = minimum_over_w(point, mean_q, offsets)
    gap = max(primal - dual, 0.0)
    history = [(primal, dual, gap)]
    return Solution(mean_w, mean_q, point, primal, dual, gap, n_epochs, True, history)


def _sampler(problem: Problem, rng: np.random.Generator):
    """Batches of (group, row): groups with equal chances, rows of a group by their weight in it."""
    m, n = len(problem.groups.mass), len(problem.y)
    V = problem.groups.columns(np.arange(m))
    g, i = np.nonzero(V.T)
    cumulative = np.cumsum(V.T[g, i])  # rises by 1 over each group
    last = np.cumsum(np.bincount(g, minlength=m)) - 1
    size = min(BATCH, max(n, m))

    def draw():
        group = rng.integers(m, size=size)
        at = np.searchsorted(cumulative, group + rng.random(size), side="right")
        return group, i[np.minimum(at, last[group])]

    return draw
