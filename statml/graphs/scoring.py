r"""Steps 1 and 2: scoring from the estimating-equation estimate.

1. `one_step`: one Fisher-scoring step, :math:`\theta_1 = \theta_0 + F^{-}U(\theta_0)`, which makes the estimate
   efficient. In small or sparse networks the step of a node with hardly any information may point anywhere, so each
   coordinate is kept within `clip_step` standard errors and the whole step is halved until the likelihood rises;
   neither happens asymptotically.
2. `maximise_likelihood`: scoring steps with halving until the score vanishes. The likelihood of the sparse
   logit is not concave, and a status may run off although its estimating equation has a solution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .estimation import (
    LONGEST_STEP,
    Engine,
    Infinite,
    Solution,
    active_pairs,
    deviations,
    mark_infinite,
    runaways,
)
from .network import SignedNetwork
from .node_system import NodeSystem

Array = NDArray[np.float64]


def one_step(
    solution: Solution, engine: Engine, ridge: float, clip_step: float, step0_se: Array
) -> Solution:
    """Step 1: one Fisher-scoring step, clipped and, where it must be, shortened.

    `clip_step` counts in the smaller of two standard errors: that of step 0 and that of the step's result.
    """
    score, system = score_and_information(solution, engine, ridge)
    step = system.solve(score)
    shift = step[len(solution.pairs.rows) :].mean()  # the step in the reported gauge, then the clip
    step[: len(solution.pairs.rows)] += shift
    step[len(solution.pairs.rows) :] -= shift
    bound = clip_step * np.minimum(step0_se, 1 / np.sqrt(system.diagonal))
    value = _objective(solution, engine, ridge)
    return _climb(solution, np.clip(step, -bound, bound), value, engine, ridge)[0]


def maximise_likelihood(
    network: SignedNetwork,
    solution: Solution,
    engine: Engine,
    ridge: float,
    tol: float,
    max_iter: int,
) -> tuple[Solution, list[Infinite]]:
    """Step 2: Fisher scoring; rho stays at its estimate of step 0. Also returns what was found infinite."""
    found: list[Infinite] = []
    value = _objective(solution, engine, ridge)
    for iteration in range(max_iter):
        score, system = score_and_information(solution, engine, ridge)
        runaway = runaways(solution.theta, solution.pairs, system.diagonal)
        if ridge == 0 and runaway.any():
            solution, named = _leave_out(network, solution, runaway, iteration)
            found += named
            value = _objective(solution, engine, ridge)
            continue
        size = np.abs(score / np.sqrt(system.diagonal)).max()
        if size <= tol:
            return replace(solution, converged=True), found
        step = system.solve(score, tol=1e-8)
        step *= min(1.0, LONGEST_STEP / np.abs(step).max())
        trial, new = _climb(solution, step, value, engine, ridge)
        if trial is solution:  # no step raises the likelihood beyond rounding
            return replace(solution, converged=bool(size <= np.sqrt(tol))), found
        solution, value = replace(trial, n_iter=solution.n_iter + 1), new
    return replace(solution, converged=False), found


def _objective(solution: Solution, engine: Engine, ridge: float) -> float:
    """Log-likelihood less the ridge."""
    value = log_likelihood(solution, engine)
    return value - ridge / 2 * (deviations(solution.theta, solution.pairs) ** 2).sum()


def _climb(solution, step, value, engine, ridge) -> tuple[Solution, float]:
    """Move along the step, halved until the objective does not fall; stay where that takes too long."""
    # Near the maximum the likelihood is flat to rounding; the score still says where to go.
    slack = 1e-13 * np.sqrt(len(solution.pairs.rows)) * abs(value)
    for halvings in range(40):
        trial = replace(solution, theta=solution.theta + step / 2**halvings)
        new = _objective(trial, engine, ridge)
        if new >= value - slack:
            return trial, new
    return solution, value


def _leave_out(network, solution, runaway, iteration) -> tuple[Solution, list[Infinite]]:
    """The solution without the statuses whose likelihood rises without end."""
    limits, marked = mark_infinite(solution.limits, solution.pairs, runaway, 100 + iteration)
    pairs = active_pairs(network, limits, solution.pairs.only_edges)
    net = {"out": network.net_out_degree, "in": network.net_in_degree}
    reason = "the likelihood rises without end; the estimating equation has a solution"
    named = [
        Infinite(node, side, sign, float(net[side][node]), np.nan, reason)
        for node, side, sign in marked
    ]
    return replace(solution, theta=solution.theta[runaway == 0], pairs=pairs, limits=limits), named


def score_and_information(
    solution: Solution, engine: Engine, ridge: float
) -> tuple[Array, NodeSystem]:
    """U and F at a solution."""
    pairs, rho = solution.pairs, solution.rho
    sums = engine.sums(solution.theta, pairs)
    score = pairs.edge_sums(edge_scores(solution, engine))
    if not pairs.only_edges:
        score = score + sums.sums(lambda x: engine.family.score(x, rho, 0))[:, 0]
    if ridge:
        score = score - ridge * deviations(solution.theta, pairs)
    return score, NodeSystem(sums.matrix(engine.kernel("information", rho)), ridge)


def edge_scores(solution: Solution, engine: Engine) -> Array:
    """For each edge, its score, less the score that the pair would have without the edge."""
    family, pairs, rho = engine.family, solution.pairs, solution.rho

    def score(x, sign):
        own = family.score(x, rho, sign)
        return own if pairs.only_edges else own - family.score(x, rho, 0)

    return over_edges(solution, score)


def over_edges(solution: Solution, function: Callable[[Array, NDArray], Array]) -> Array:
    """function(x_ij, a_ij) for every edge, a million edges at a time."""
    pairs, n_rows = solution.pairs, len(solution.pairs.rows)
    out = np.empty(len(pairs.sign))
    for lo in range(0, len(out), 1_000_000):
        part = slice(lo, lo + 1_000_000)
        x = solution.theta[pairs.source[part]] + solution.theta[n_rows + pairs.target[part]]
        out[part] = function(x, pairs.sign[part])
    return out


def log_likelihood(solution: Solution, engine: Engine) -> float:
    """Log-likelihood of the pairs with finite index; O(nK + edges)."""
    family, pairs, rho = engine.family, solution.pairs, solution.rho

    def gain(x, sign):
        own = family.log_probability(x, rho, sign)
        return own if pairs.only_edges else own - family.log_probability(x, rho, 0)

    total = over_edges(solution, gain).sum()
    if not pairs.only_edges:
        zero = engine.sums(solution.theta, pairs).totals(
            lambda x: family.log_probability(x, rho, 0)
        )
        total += zero[0]
    return float(total)
