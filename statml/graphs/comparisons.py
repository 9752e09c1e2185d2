r"""Which nodes differ? One pair with its interval, many pairs with the false discovery rate controlled.

For nodes i and j with statuses :math:`\hat\beta_i, \hat\beta_j`,

.. math::  T_{ij} = (\hat\beta_i - \hat\beta_j) / \mathrm{se}(\hat\beta_i - \hat\beta_j),

is standard normal where the statuses are equal. `compare` gives one such difference with its interval;
`compare_many` tests a family of pairs, named in advance, and rejects :math:`|T_{ij}| \ge t^*`, where t* keeps
the expected share of false rejections at q (Liu 2013: the smallest t at which twice the normal tail,
:math:`2N(1 - \Phi(t))`, is at most q times the number of pairs beyond t). All n(n-1)/2 pairs are visited in
blocks and never stored.

References
----------
Zhang, H. and Wang, J. (2025). Efficient estimation and inference for the signed beta-model in directed
signed networks. Statistica Sinica 35, 1671-1687.
Liu, W. (2013). Gaussian graphical model estimation with false discovery rate control. Annals of Statistics
41, 2948-2978.
Benjamini, Y. and Yekutieli, D. (2005). False discovery rate-adjusted multiple confidence intervals for
selected parameters. JASA 100, 71-81. (Directional errors.)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from sklearn.utils.validation import check_is_fitted

from .._validation import check_choice, check_integer, check_level, check_number
from ..inference import FDRThreshold, fdr_threshold
from .covariance import StatusCovariance
from .ranks import rank_intervals

Array = NDArray[np.float64]

BLOCK_PAIRS = 2_000_000  # pairs in memory at once


@dataclass(frozen=True)
class Side:
    """The finite statuses of one side of a network, which is what can be compared.

    Attributes
    ----------
    name : {"in", "out"}
    estimate : ndarray of shape (n,)
    covariance : StatusCovariance
    nodes : ndarray of shape (n,)
        Names.
    left_out : ndarray
        Names of the nodes without a finite status.
    """

    name: str
    estimate: Array
    covariance: StatusCovariance
    nodes: NDArray
    left_out: NDArray

    @cached_property
    def _position(self) -> pd.Index:
        return pd.Index(self.nodes)

    def positions(self, names: ArrayLike, argument: str) -> NDArray[np.int64]:
        """Positions of names among the finite statuses."""
        names = np.asarray(names)
        found = self._position.get_indexer(pd.Index(names.ravel()))
        if (found < 0).any():
            lacking = pd.unique(pd.Series(names.ravel()[found < 0], dtype=object))
            infinite = [n for n in lacking if n in set(self.left_out.tolist())]
            raise ValueError(
                f"{argument}: {', '.join(map(str, lacking[:5]))} "
                + (
                    f"has no finite {self.name}-status (see existence_); refit with l2 > 0 to compare it"
                    if len(infinite) == len(lacking)
                    else f"is not among the {len(self.nodes)} nodes of the network"
                )
            )
        return found.reshape(names.shape)

    def statistics(self, i: NDArray, j: NDArray) -> tuple[Array, Array]:
        """Differences and their standard errors, elementwise."""
        difference = self.estimate[i] - self.estimate[j]
        return difference, np.sqrt(self.covariance.difference_variance(i, j))


@dataclass(frozen=True)
class PairComparison:
    """The difference between two nodes.

    Attributes
    ----------
    i, j : node names
    side : {"in", "out"}
    estimate, std_error, statistic, p_value, conf_low, conf_high : float
        Of status_i - status_j; the p-value is two-sided.
    level : float
    """

    i: Hashable
    j: Hashable
    side: str
    estimate: float
    std_error: float
    statistic: float
    p_value: float
    conf_low: float
    conf_high: float
    level: float

    def __str__(self) -> str:
        return (
            f"{self.side}-status of {self.i} minus {self.j}: {self.estimate:.3f} "
            f"({100 * self.level:g}% interval {self.conf_low:.3f} to {self.conf_high:.3f}, "
            f"p = {self.p_value:.3g})"
        )


@dataclass(frozen=True)
class NodeComparisons:
    """Many pairs tested with the false discovery rate controlled; the result of `compare_many`.

    Attributes
    ----------
    threshold : float
        Pairs with \\|statistic\\| at or above it are rejected; infinity where none is.
    n_pairs, n_rejected : int
    estimated_fdp : float
        Estimated share of false rejections among the rejected.
    q : float
    method : str
    directional : bool
    side : {"in", "out"}
    """

    side: str
    q: float
    method: str
    directional: bool
    fdr: FDRThreshold
    _side: Side = field(repr=False)
    _pairs: object = field(repr=False)

    @property
    def threshold(self) -> float:
        """Of the statistic: pairs beyond it are declared different."""
        return self.fdr.threshold

    @property
    def n_rejected(self) -> int:
        """Number of pairs declared different."""
        return self.fdr.n_rejected

    @property
    def n_pairs(self) -> int:
        """Number of pairs compared."""
        return self.fdr.n_tests

    @property
    def estimated_fdp(self) -> float:
        """Estimated share of false discoveries among the rejected pairs."""
        return self.fdr.estimated_fdp

    def iter_rejected(self) -> Iterator[pd.DataFrame]:
        """The rejected pairs in tables of bounded size, in the order of the nodes.

        For networks so large that the rejected pairs themselves do not fit in memory.
        """
        for i, j in self._pairs.blocks():
            difference, se = self._side.statistics(i, j)
            chosen = np.abs(difference / se) >= self.threshold
            if chosen.any():
                yield self._rows(i[chosen], j[chosen], difference[chosen], se[chosen])

    @cached_property
    def table(self) -> pd.DataFrame:
        """The rejected pairs, most significant first.

        With ``directional=True`` (default) each row reads "`higher` stands above `lower`" and estimate is
        positive; else the columns are ``i`` and ``j`` and the estimate is status_i - status_j.
        """
        parts = list(self.iter_rejected()) if self.n_rejected else []
        if not parts:
            none = np.empty(0, dtype=int)
            return self._rows(none, none, np.empty(0), np.empty(0))
        table = pd.concat(parts, ignore_index=True)
        order = np.argsort(-table["statistic"].abs().to_numpy(), kind="stable")
        return table.iloc[order].reset_index(drop=True)

    def _rows(self, i, j, difference, se) -> pd.DataFrame:
        first, second = ("i", "j")
        if self.directional:
            first, second = ("higher", "lower")
            i, j = np.where(difference >= 0, i, j), np.where(difference >= 0, j, i)
            difference = np.abs(difference)
        statistic = difference / se
        return pd.DataFrame(
            {
                first: self._side.nodes[i],
                second: self._side.nodes[j],
                "estimate": difference,
                "std_error": se,
                "statistic": statistic,
                "p_value": 2 * norm.sf(np.abs(statistic)),
            }
        )

    def __str__(self) -> str:
        return (
            f"{self.n_rejected} of {self.n_pairs} pairs differ in {self.side}-status "
            f"(false discovery rate {self.q:g} by {self.method}; |statistic| >= {self.threshold:.3f}; "
            f"estimated false share {self.estimated_fdp:.3f})"
        )


class ComparisonMixin:
    """`compare`, `compare_many`, `rank` and `top_k` for models that have statuses.

    The model supplies ``_side(name)``.
    """

    def compare(
        self, i: Hashable, j: Hashable, side: str = "in", level: float = 0.95
    ) -> PairComparison:
        """Difference between two nodes named in advance, with its interval and two-sided test.

        Parameters
        ----------
        i, j : node names
        side : {"in", "out"}, default="in"
            Compare how others treat the nodes (in) or how the nodes treat others (out).
        level : float, default=0.95

        Returns
        -------
        PairComparison
        """
        check_is_fitted(self)
        level = check_level(level)
        s = self._side(side)
        a, b = s.positions([i], "i"), s.positions([j], "j")
        if a[0] == b[0]:
            raise ValueError(f"i and j are the same node, {i!r}")
        difference, se = (float(x[0]) for x in s.statistics(a, b))
        half = norm.ppf((1 + level) / 2) * se
        z = difference / se
        return PairComparison(
            i, j, side, difference, se, z, float(2 * norm.sf(abs(z))), difference - half, difference + half, level
        )  # fmt: skip

    def compare_many(
        self,
        pairs: str | ArrayLike = "all",
        side: str = "in",
        q: float = 0.1,
        method: str = "liu",
        directional: bool = True,
    ) -> NodeComparisons:
        """Test many pairs of nodes for equal status, with the false discovery rate controlled.

        Parameters
        ----------
        pairs : "all", "vs:NODE" or array-like of shape (n_pairs, 2), default="all"
            The family of pairs. The control of errors holds for a family chosen before the data were seen.
        side : {"in", "out"}, default="in"
        q : float, default=0.1
            False discovery rate.
        method : {"liu", "bh", "by", "storey"}, default="liu"
            Liu's threshold; Benjamini-Hochberg; Benjamini-Yekutieli (any dependence, far more
            conservative); Benjamini-Hochberg with Storey's estimate of the number of true equalities.
        directional : bool, default=True
            Whether a rejection says which node stands higher. A wrong direction then counts as a false
            discovery; a two-sided test at q controls this too.

        Returns
        -------
        NodeComparisons
            `table`, `threshold`, `n_rejected`, `estimated_fdp`. Nodes without a finite status take no part.
        """
        check_is_fitted(self)
        check_number("q", q, 0, 1, low_open=True, high_open=True)
        check_choice("method", method, ("liu", "bh", "by", "storey"))
        s = self._side(side)
        family = _pair_family(pairs, s)

        def statistics():
            for i, j in family.blocks():
                difference, se = s.statistics(i, j)
                yield difference / se

        fdr = fdr_threshold(statistics, family.n_pairs, q, method=method)
        return NodeComparisons(side, q, method, directional, fdr, s, family)

    def rank(
        self, side: str = "in", level: float = 0.95, simultaneous: bool = True
    ) -> pd.DataFrame:
        """Ranks with confidence intervals (rank 1 is the highest status).

        Parameters
        ----------
        side : {"in", "out"}, default="in"
        level : float, default=0.95
        simultaneous : bool, default=True
            True: all intervals hold at once with probability `level`. False: each one does.

        Returns
        -------
        DataFrame
            Columns node, estimate, std_error, rank, rank_low, rank_high, best first. Nodes without a finite
            status are left out.

        Notes
        -----
        A node's best possible rank is one more than the number of nodes significantly above it, its worst
        one n less the number significantly below, all differences tested at once by a step-down
        procedure with the joint normal distribution (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of
        Economic Studies 91, 476-518).
        """
        check_is_fitted(self)
        level = check_level(level)
        s = self._side(side)
        low, high = rank_intervals(s.estimate, s.covariance, level, simultaneous)
        order = np.argsort(-s.estimate, kind="stable")
        rank = np.empty(len(order), dtype=int)
        rank[order] = np.arange(1, len(order) + 1)
        table = pd.DataFrame(
            {
                "node": s.nodes,
                "estimate": s.estimate,
                "std_error": np.sqrt(s.covariance.variance),
                "rank": rank,
                "rank_low": low,
                "rank_high": high,
            }
        )
        return table.iloc[order].reset_index(drop=True)

    def top_k(self, k: int, level: float = 0.95, side: str = "in") -> pd.DataFrame:
        """The smallest set of nodes that these data allow and that contains the true top k.

        Parameters
        ----------
        k : int
        level : float, default=0.95
            Probability with which every one of the true top k is in the set.
        side : {"in", "out"}, default="in"

        Returns
        -------
        DataFrame
            Rows of `rank` whose interval reaches rank k; ``certain`` marks those whose whole interval
            lies within the top k.
        """
        check_is_fitted(self)
        check_integer("k", k, low=1, high=len(self._side(side).nodes))
        table = self.rank(side=side, level=level)
        table = table[table["rank_low"] <= k].reset_index(drop=True)
        return table.assign(certain=table["rank_high"] <= k)


@dataclass(frozen=True)
class _AllPairs:
    """Every unordered pair of n nodes, in blocks."""

    n: int

    @property
    def n_pairs(self) -> int:
        return self.n * (self.n - 1) // 2

    def blocks(self) -> Iterator[tuple[NDArray, NDArray]]:
        rows = max(1, BLOCK_PAIRS // self.n)
        for start in range(0, self.n - 1, rows):
            stop = min(start + rows, self.n - 1)
            i, j = np.nonzero(np.arange(self.n)[None, :] > np.arange(start, stop)[:, None])
            yield i + start, j


@dataclass(frozen=True)
class _GivenPairs:
    i: NDArray[np.int64]
    j: NDArray[np.int64]

    @property
    def n_pairs(self) -> int:
        return len(self.i)

    def blocks(self) -> Iterator[tuple[NDArray, NDArray]]:
        for lo in range(0, len(self.i), BLOCK_PAIRS):
            part = slice(lo, lo + BLOCK_PAIRS)
            yield self.i[part], self.j[part]


def _pair_family(pairs: str | ArrayLike | Sequence, side: Side) -> _AllPairs | _GivenPairs:
    n = len(side.nodes)
    if isinstance(pairs, str):
        if pairs == "all":
            return _AllPairs(n)
        if pairs.startswith("vs:"):
            name = pairs.removeprefix("vs:")
            # Names need not be strings: compare as they print.
            matches = np.flatnonzero(pd.Series(side.nodes, dtype=object).astype(str) == name)
            at = matches if len(matches) == 1 else side.positions([name], "pairs")
            others = np.delete(np.arange(n), at[0])
            return _GivenPairs(np.full(n - 1, at[0]), others)
        raise ValueError(f'pairs must be "all", "vs:NODE" or an array of pairs, got {pairs!r}')
    names = pairs.to_numpy() if isinstance(pairs, pd.DataFrame) else np.asarray(pairs)
    if names.ndim != 2 or names.shape[1] != 2 or len(names) == 0:
        raise ValueError(f"pairs must have shape (n_pairs, 2) with n_pairs >= 1, got {names.shape}")
    at = side.positions(names, "pairs")
    if (at[:, 0] == at[:, 1]).any():
        raise ValueError("pairs holds a pair of a node with itself")
    ordered = np.sort(at, axis=1)
    if len(np.unique(ordered, axis=0)) < len(ordered):
        raise ValueError("pairs holds the same pair twice; each hypothesis counts once")
    return _GivenPairs(at[:, 0], at[:, 1])
