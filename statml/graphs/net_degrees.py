r"""Step 0: the net-degree estimating equations.

For every node, observed minus expected net out- and in-degree is zero,

.. math:: \sum_{j \ne i} [A_{ij} - m(x_{ij})] = 0, \qquad \sum_{i \ne j} [A_{ij} - m(x_{ij})] = 0,

together with observed = expected number of edges, which settles rho. Only degrees are needed. For given rho the
equations are the gradient of a concave potential; they are solved by Newton's method, bordered by log rho,
with step halving on the standardised residuals.

A solution exists only where every net degree lies strictly within its bound, :math:`|s_i| < \rho(n-1)` for the
sparse logit, and jointly so. Nodes at or beyond their bound are found before they run off, named, and taken as
infinite; the others are estimated from the pairs among themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.sparse.csgraph import connected_components

from .estimation import (
    LONGEST_STEP,
    NO_INFORMATION,
    Engine,
    Infinite,
    Limits,
    Solution,
    Sums,
    active_pairs,
    deviations,
    mark_infinite,
    runaways,
)
from .families import Family
from .network import SignedNetwork
from .node_sums import Pairs
from .node_system import NodeSystem
from .scoring import log_likelihood

Array = NDArray[np.float64]


def solve_net_degrees(
    network: SignedNetwork,
    engine: Engine,
    rho: float | None,
    l2: float,
    tol: float,
    max_iter: int,
) -> tuple[Solution, list[Infinite]]:
    """Step 0; also returns what was found infinite.

    ``rho=None`` means: estimate it (for the families that have one).
    """
    family = engine.family
    only_edges = family.pairs == "edges"
    free_rho = rho is None and family.rho_range is not None
    limits, found = Limits.none(network.n_nodes), []
    rho = _starting_rho(network, family) if free_rho else rho
    theta, n_iter, round_ = None, 0, 0
    while True:
        round_ += 1
        pairs = active_pairs(network, limits, only_edges)
        if min(len(pairs.rows), len(pairs.cols)) < 2:
            raise ValueError(
                "no finite estimate exists: the statuses of all nodes tend to infinity. "
                'Use l2 > 0, or family="conditional" with l2 > 0'
            )
        targets = Targets.of(pairs, network, limits)
        if only_edges and l2 == 0:
            connected = _keep_largest_component(limits, pairs, targets, found)
            if connected is not limits:
                limits = connected
                continue
        if l2 == 0:
            outside = _beyond_bounds(targets, family, rho)
            if outside.any():
                limits, marked = mark_infinite(limits, pairs, outside, round_)
                found += _name(targets, family, rho, outside, marked, round_)
                theta = None
                continue
        theta = _starting_theta(targets, family, rho, pairs) if theta is None else theta
        problem = _Problem(targets, engine, pairs, l2 * pairs.n_pairs, tol, max_iter, l2 == 0)
        start = Solution(theta, rho, pairs, limits, n_iter, False)
        solution, information, stopped = (_solve_with_rho if free_rho else _newton)(problem, start)
        theta, rho, n_iter = solution.theta, solution.rho, solution.n_iter
        if stopped:  # rho moved and left some node beyond its bound
            continue
        runaway = runaways(theta, pairs, information)
        if l2 == 0 and runaway.any():
            limits, marked = mark_infinite(limits, pairs, runaway, round_)
            found += _name(targets, family, rho, runaway, marked, round_)
            theta = None
            continue
        return solution, found


@dataclass(frozen=True)
class Targets:
    """What the expectations over the finite pairs have to equal, and over how many pairs.

    The net degrees leave out the pairs of a node at infinity: where it sits exactly at its bound they agree with
    their limit and say nothing; where it sits beyond, no status fits them. The number of edges counts all
    pairs, those of infinite index (`n_plus`, `n_minus` of them) with their limiting density: without
    the busiest nodes rho would fall, and with it the bounds of all others.
    """

    net_degree: Array
    n_counterparts: Array
    n_edges: int
    n_plus: int = 0
    n_minus: int = 0

    @classmethod
    def of(cls, pairs: Pairs, network: SignedNetwork, limits: Limits) -> Targets:
        if pairs.only_edges:
            counterparts = pairs.edge_sums(np.ones(len(pairs.sign)))
        else:
            counterparts = np.repeat(
                [len(pairs.cols), len(pairs.rows)], [len(pairs.rows), len(pairs.cols)]
            ).astype(float)
            counterparts[pairs.self_rows] -= 1
            counterparts[len(pairs.rows) + pairs.self_cols] -= 1
        net_degree = pairs.edge_sums(pairs.sign.astype(float))
        if pairs.only_edges:
            return cls(net_degree, counterparts, len(pairs.sign))
        # A pair with two infinite ends counts with its sender.
        n, finite_out = network.n_nodes, limits.out == 0
        n_plus, n_minus = (
            int((limits.out == sign).sum()) * (n - 1)
            + int((limits.into == sign).sum()) * int(finite_out.sum())
            - int((finite_out & (limits.into == sign)).sum())
            for sign in (1, -1)
        )
        return cls(net_degree, counterparts, network.n_edges, n_plus, n_minus)

    def finite_edges(self, family: Family, rho: float) -> float:
        """The number of edges that the finite pairs have to account for."""
        low, high = family.density(np.array([-np.inf, np.inf]), rho)
        return self.n_edges - self.n_minus * low - self.n_plus * high


def limits_of_mean(family: Family, rho: float | None) -> Array:
    """Expected value of a pair at x = -infinity and x = +infinity."""
    return family.mean(np.array([-np.inf, np.inf]), rho)


@dataclass(frozen=True)
class _Problem:
    """The equations between nodes with finite statuses, and how far to solve them."""

    targets: Targets
    engine: Engine
    pairs: Pairs
    ridge: float
    tol: float
    max_iter: int
    check_bounds: bool


class _Result(NamedTuple):
    """`stopped`: rho came to a value at which some node has no finite status."""

    solution: Solution
    information: Array
    stopped: bool


def _solve_with_rho(problem: _Problem, start: Solution) -> _Result:
    """Statuses and rho together.

    Newton's method in both does it, unless it runs into the upper end of rho, which is the answer where even
    there too few edges are expected. Otherwise statuses and rho are solved in turn from that end, and the
    likelihood chooses between what they come to and the end itself: close to rho = 1 more edges may
    go with a smaller rho, once the statuses have adapted, so that the equations can have two solutions.
    """
    top = problem.engine.family.rho_range[1]
    if start.rho < top:
        result = _newton(problem, start, free_rho=True)
        if result.stopped or result.solution.converged or not np.isfinite(top):
            return result
    end = _newton(problem, replace(start, rho=top))
    if end.stopped or _excess_edges(problem, end.solution) <= 0:
        return end
    inside = end
    while inside.solution.n_iter < problem.max_iter:
        rho = _rho_at(problem, inside.solution)
        inside = _newton(problem, replace(inside.solution, rho=rho))
        if inside.stopped:
            return end
        inside = _newton(problem, inside.solution, free_rho=True)
        if inside.stopped or inside.solution.converged:
            break
    engine = problem.engine
    better = log_likelihood(inside.solution, engine) > log_likelihood(end.solution, engine)
    usable = inside.solution.converged and not inside.stopped
    return inside if usable and better else end


def _excess_edges(problem: _Problem, solution: Solution, rho: float | None = None) -> float:
    """Expected minus observed number of edges at the solution's statuses."""
    engine, rho = problem.engine, solution.rho if rho is None else rho
    sums = engine.sums(solution.theta, solution.pairs)
    expected = sums.totals(engine.kernel("density", rho))[0]
    return float(expected - problem.targets.finite_edges(engine.family, rho))


def _rho_at(problem: _Problem, solution: Solution) -> float:
    """The rho that explains the number of edges at given statuses, or the end of its range."""
    high = np.log(problem.engine.family.rho_range[1])
    if _excess_edges(problem, solution, np.exp(high)) <= 0:
        return float(np.exp(high))
    root = brentq(
        lambda log_rho: _excess_edges(problem, solution, np.exp(log_rho)),
        high - 60,
        high,
        xtol=1e-12,
    )
    return float(np.exp(root))


def _newton(problem: _Problem, start: Solution, free_rho: bool = False) -> _Result:
    """Newton's method on the net degrees and, bordered by log rho, on the number of edges."""
    family = problem.engine.family
    theta, rho = start.theta, start.rho
    state = _residuals(problem, theta, rho, free_rho)
    stalled = False
    for n_iter in range(start.n_iter, problem.max_iter + 1):
        if state.size <= problem.tol or stalled or n_iter == problem.max_iter:
            break
        if problem.check_bounds and _beyond_bounds(problem.targets, family, rho).any():
            moved = replace(start, theta=theta, rho=rho, n_iter=n_iter)
            return _Result(moved, state.information, True)
        delta, d_log_rho = _newton_step(problem, state, rho, free_rho)
        longest = max(np.abs(delta).max(), abs(d_log_rho), 1e-300)
        damp = min(1.0, LONGEST_STEP / longest)
        for _halving in range(30):
            new_rho = rho * np.exp(damp * d_log_rho) if free_rho else rho
            if free_rho and new_rho >= family.rho_range[1]:
                damp /= 2
                continue
            trial = _residuals(problem, theta + damp * delta, new_rho, free_rho)
            if trial.merit(state) <= (1 - 1e-4 * damp) * state.merit(state):
                theta, rho, state = theta + damp * delta, new_rho, trial
                break
            damp /= 2
        else:  # rounding errors rule, or rho is at its end
            stalled = True
    converged = bool(state.size <= (1e-6 if stalled else problem.tol))
    done = replace(start, theta=theta, rho=rho, n_iter=n_iter, converged=converged)
    return _Result(done, state.information, False)


def _newton_step(problem, state, rho, free_rho) -> tuple[Array, float]:
    """The step in theta and in log rho."""
    engine = problem.engine
    matrix = state.sums.matrix(engine.kernel("mean_slope", rho), 1e-6)
    system = NodeSystem(matrix, problem.ridge)
    columns = [state.net] + ([state.net_by_rho] if free_rho else [])
    rhs = np.column_stack(columns)
    # The matrix is only Newton's: an approximate solution costs no accuracy, at most an iteration.
    step = system.solve(rhs, tol=1e-6) if problem.pairs.only_edges else system.precondition(rhs)
    if not free_rho:
        return step[:, 0], 0.0
    slope = state.edges_by_rho - state.edges_by_theta @ step[:, 1]
    d_log_rho = (state.edges - state.edges_by_theta @ step[:, 0]) / slope
    return step[:, 0] - d_log_rho * step[:, 1], float(d_log_rho)


@dataclass(frozen=True)
class _State:
    """Residuals of the equations at one theta and rho, and the derivatives that the next step needs."""

    sums: Sums
    net: Array
    information: Array
    edges: float = 0.0
    n_edges: float = 1.0
    net_by_rho: Array | None = None
    edges_by_theta: Array | None = None
    edges_by_rho: float | None = None

    @property
    def size(self) -> float:
        """Largest residual in units of its own standard error."""
        scale = np.sqrt(np.maximum(self.information, NO_INFORMATION))
        return max(np.abs(self.net / scale).max(), abs(self.edges) / np.sqrt(self.n_edges))

    def merit(self, metric: _State) -> float:
        """Sum of squares, in the units of the state that the step starts from."""
        scale = np.maximum(metric.information, NO_INFORMATION)
        return float((self.net**2 / scale).sum() + self.edges**2 / metric.n_edges)


def _residuals(problem: _Problem, theta: Array, rho: float | None, free_rho: bool) -> _State:
    engine, targets, ridge = problem.engine, problem.targets, problem.ridge
    family, sums = engine.family, engine.sums(theta, problem.pairs)
    kernels = [engine.kernel("mean", rho), engine.kernel("mean_slope", rho)]
    if free_rho:
        # Derivatives in log rho by central differences: they only steer Newton's step.
        h = 1e-5

        def mean_by_rho(x):
            return (family.mean(x, rho * (1 + h)) - family.mean(x, rho * (1 - h))) / (2 * h)

        def density_by_rho(x):
            return (family.density(x, rho * (1 + h)) - family.density(x, rho * (1 - h))) / (2 * h)

        kernels += [mean_by_rho, engine.kernel("density_slope", rho)]
    values = sums.sums(*kernels)
    net = targets.net_degree - values[:, 0]
    if ridge:
        net = net - ridge * deviations(theta, problem.pairs)
    if not free_rho:
        return _State(sums, net, values[:, 1] + ridge)
    expected, by_rho = sums.totals(engine.kernel("density", rho), density_by_rho)
    by_rho += density_by_rho(np.array([-np.inf, np.inf])) @ [targets.n_minus, targets.n_plus]
    return _State(
        sums,
        net,
        values[:, 1] + ridge,
        edges=targets.finite_edges(family, rho) - expected,
        n_edges=max(targets.n_edges, 1.0),
        net_by_rho=values[:, 2],
        edges_by_theta=values[:, 3],
        edges_by_rho=by_rho,
    )


def _beyond_bounds(targets, family, rho) -> Array:
    """+1 / -1 for nodes whose net degree no finite status can reach; 0 for the others."""
    low, high = limits_of_mean(family, rho)
    slack = 1e-9 * np.maximum(targets.n_counterparts, 1.0)
    above = targets.net_degree >= high * targets.n_counterparts - slack
    below = targets.net_degree <= low * targets.n_counterparts + slack
    return np.where(above, 1, 0) - np.where(below, 1, 0)


def _name(targets, family, rho, direction, marked, round_) -> list[Infinite]:
    """The reason why each of the marked statuses is infinite."""
    low, high = limits_of_mean(family, rho)
    found = []
    for k, (node, side, sign) in zip(np.flatnonzero(direction), marked, strict=True):
        net, pairs_of_node = targets.net_degree[k], targets.n_counterparts[k]
        bound = float((high if sign > 0 else low) * pairs_of_node)
        if sign * net < sign * bound - 1e-9 * pairs_of_node:
            reason = "no joint solution: the status runs off together with others"
        elif round_ == 1:
            reason = "net degree at or beyond its bound"
        else:
            reason = "net degree at or beyond its bound once the pairs of other infinite statuses are left out"
        found.append(Infinite(node, side, sign, float(net), bound, reason))
    return found


def _starting_rho(network: SignedNetwork, family: Family) -> float:
    """The rho at which a network without differences between nodes has this many edges."""
    if network.n_edges == 0:
        raise ValueError("the network has no edges; nothing can be estimated")
    density = network.n_edges / (network.n_nodes * (network.n_nodes - 1))
    low, high = family.rho_range
    high = min(high, 1e8)
    zero = np.zeros(1)
    if family.density(zero, high)[0] <= density:
        return high
    return brentq(lambda r: family.density(zero, r)[0] - density, low + 1e-14, high, xtol=1e-14)


def _starting_theta(targets, family, rho, pairs) -> Array:
    """Each node's status as if all others were average: the family's mean function, inverted on a grid."""
    grid = np.linspace(-12, 12, 2001)
    mean = family.mean(grid, rho)
    own = np.interp(targets.net_degree / np.maximum(targets.n_counterparts, 1), mean, grid)
    n_rows = len(pairs.rows)
    level = np.interp(targets.net_degree[:n_rows].sum() / max(pairs.n_pairs, 1), mean, grid)
    own = level + np.clip(own - level, -6, 6)
    return np.concatenate([own[:n_rows], own[n_rows:] - level])


def _keep_largest_component(limits: Limits, pairs: Pairs, targets: Targets, found: list) -> Limits:
    """Without a ridge, statuses can be compared only within a connected part of senders and receivers."""
    n_rows, size = len(pairs.rows), len(pairs.rows) + len(pairs.cols)
    graph = sp.coo_array(
        (np.ones(len(pairs.sign)), (pairs.source, n_rows + pairs.target)), shape=(size, size)
    )
    n_parts, label = connected_components(graph, directed=False)
    if n_parts == 1:
        return limits
    apart = np.flatnonzero(label != np.bincount(label).argmax())
    out_none, in_none = limits.out_no_data.copy(), limits.in_no_data.copy()
    for k in apart:
        side = "out" if k < n_rows else "in"
        node = int(pairs.rows[k] if side == "out" else pairs.cols[k - n_rows])
        (out_none if side == "out" else in_none)[node] = True
        linked = targets.n_counterparts[k] > 0
        reason = "not connected to the largest part of the network" if linked else "no edges"
        found.append(Infinite(node, side, 0, np.nan, np.nan, reason))
    return replace(limits, out_no_data=out_none, in_no_data=in_none)
