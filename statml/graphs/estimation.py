r"""What an estimation works on: the family's sums, which statuses are finite, where the iteration stands.

The estimation itself is in `net_degrees` (step 0: the estimating equations) and `scoring` (step 1: one step; step 2: the
maximum of the likelihood). Theta is always the out-statuses of ``pairs.rows`` followed by the in-statuses
of ``pairs.cols``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .families import Family
from .network import SignedNetwork
from .node_sums import ChebyshevSums, DenseSums, EdgeSums, Pairs

Array = NDArray[np.float64]
Sums = DenseSums | ChebyshevSums | EdgeSums

NO_INFORMATION = (
    1e-8  # node information below which a status has run off to infinity (standard error 1e4)
)
OUT_OF_SIGHT = (
    25.0  # distance from the side's median at which odds differ by e^25: another sign of the same
)
LONGEST_STEP = 4.0  # in any coordinate; the kernels change over distances of this order


class Infinite(NamedTuple):
    """One status without a finite estimate: `direction` +1 or -1, or 0 where there is no data."""

    node: int
    side: str
    direction: int
    net_degree: float
    bound: float
    reason: str


@dataclass(frozen=True)
class Engine:
    """How node sums are formed for one family: dense, by Chebyshev interpolation, or over the edges."""

    family: Family
    solver: str
    interp_tol: float

    def sums(self, theta: Array, pairs: Pairs) -> Sums:
        if pairs.only_edges:
            return EdgeSums(theta, pairs)
        if self.solver == "dense":
            return DenseSums(theta, pairs)
        # The tolerance holds relative to the largest node sum; three more digits serve the smallest.
        return ChebyshevSums(theta, pairs, max(self.interp_tol * 1e-3, 1e-15))

    def kernel(self, name: str, rho: float) -> Callable[[Array], Array]:
        function = getattr(self.family, name)
        return lambda x: function(x, rho)


@dataclass(frozen=True)
class Limits:
    """Which statuses are finite. +1 / -1: tends to plus / minus infinity; 0: finite; `no_data`: unknown.

    `order` holds the round in which a status was found infinite: where an infinite sender meets an
    infinite receiver of the other sign, the one found first decides.
    """

    out: NDArray[np.int8]
    into: NDArray[np.int8]
    out_order: NDArray[np.int16]
    in_order: NDArray[np.int16]
    out_no_data: NDArray[np.bool_]
    in_no_data: NDArray[np.bool_]

    @classmethod
    def none(cls, n: int) -> Limits:
        zeros, order = np.zeros(n, dtype=np.int8), np.zeros(n, dtype=np.int16)
        return cls(zeros, zeros.copy(), order, order.copy(), np.zeros(n, bool), np.zeros(n, bool))


@dataclass(frozen=True)
class Solution:
    """Where an estimation stands."""

    theta: Array
    rho: float | None
    pairs: Pairs
    limits: Limits
    n_iter: int
    converged: bool

    @property
    def alpha(self) -> Array:
        return self.theta[: len(self.pairs.rows)]

    @property
    def beta(self) -> Array:
        return self.theta[len(self.pairs.rows) :]


def active_pairs(network: SignedNetwork, limits: Limits, only_edges: bool) -> Pairs:
    """The pairs between nodes whose statuses are finite."""
    n = network.n_nodes
    row_on = (limits.out == 0) & ~limits.out_no_data
    col_on = (limits.into == 0) & ~limits.in_no_data
    row_at, col_at = np.cumsum(row_on) - 1, np.cumsum(col_on) - 1
    both = np.flatnonzero(row_on & col_on)
    if row_on.all() and col_on.all():
        source, target, sign = network.source, network.target, network.sign
    else:
        kept = row_on[network.source] & col_on[network.target]
        source, target = row_at[network.source[kept]], col_at[network.target[kept]]
        sign = network.sign[kept]
    return Pairs(
        rows=np.arange(n)[row_on],
        cols=np.arange(n)[col_on],
        self_rows=row_at[both],
        self_cols=col_at[both],
        source=source,
        target=target,
        sign=sign,
        only_edges=only_edges,
    )


def deviations(theta: Array, pairs: Pairs) -> Array:
    """Each status minus the mean of its side: what the ridge acts on."""
    out, into = theta[: len(pairs.rows)], theta[len(pairs.rows) :]
    return np.concatenate([out - out.mean(), into - into.mean()])


def runaways(theta: Array, pairs: Pairs, information: Array) -> Array:
    """+1 / -1 for statuses that are on their way to infinity, 0 for the others."""
    out, into = theta[: len(pairs.rows)], theta[len(pairs.rows) :]
    distance = np.concatenate([out - np.median(out), into - np.median(into)])
    gone = (information < NO_INFORMATION) | (np.abs(distance) > OUT_OF_SIGHT)
    return np.where(gone, np.sign(distance), 0)


def mark_infinite(
    limits: Limits, pairs: Pairs, direction: Array, round_: int
) -> tuple[Limits, list[tuple[int, str, int]]]:
    """The limits with the statuses of non-zero `direction` made infinite, and who they are: (node, side, sign)."""
    n_rows = len(pairs.rows)
    out, into = limits.out.copy(), limits.into.copy()
    out_order, in_order = limits.out_order.copy(), limits.in_order.copy()
    marked = []
    for k in np.flatnonzero(direction):
        sign, is_row = int(direction[k]), k < n_rows
        node = int(pairs.rows[k] if is_row else pairs.cols[k - n_rows])
        (out if is_row else into)[node] = sign
        (out_order if is_row else in_order)[node] = round_
        marked.append((node, "out" if is_row else "in", sign))
    return replace(limits, out=out, into=into, out_order=out_order, in_order=in_order), marked
