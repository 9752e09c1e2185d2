"""Plots of a fitted beta-model, in the manner of scikit-learn's displays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from .._display import PALETTE, axes
from .._validation import check_choice, check_integer, check_level
from .comparisons import NodeComparisons
from .goodness_of_fit import degree_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ._status_model import StatusModel
    from .signed_beta import SignedBetaModel


@dataclass(repr=False)
class RankingDisplay:
    """Forest plot: statuses, best on top, with confidence intervals and intervals for the ranks.

    Use `from_estimator`.

    Parameters
    ----------
    table : DataFrame
        As from ``rank``, with columns conf_low and conf_high.
    side : {"in", "out"}
    level : float
    groups : mapping of node to label, optional

    Attributes
    ----------
    ax_ : matplotlib Axes
        After `plot`.
    """

    table: pd.DataFrame
    side: str
    level: float
    groups: dict[Hashable, str] | None = None
    ax_: Axes | None = field(default=None, init=False)

    @classmethod
    def from_estimator(
        cls,
        estimator: StatusModel,
        side: str = "in",
        level: float = 0.95,
        max_nodes: int = 40,
        groups: dict[Hashable, str] | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Plot a fitted model.

        Parameters
        ----------
        estimator : SignedBetaModel or DirectedBetaModel
        side : {"in", "out"}, default="in"
        level : float, default=0.95
        max_nodes : int, default=40
            Of a larger network, so many nodes are shown: the upper and the lower half of them.
        groups : mapping of node to label, optional
            Colours the nodes.
        ax : matplotlib Axes, optional

        Returns
        -------
        RankingDisplay

        Examples
        --------
        >>> from statml.datasets import load_sampson
        >>> from statml.graphs import RankingDisplay, SignedBetaModel
        >>> display = RankingDisplay.from_estimator(SignedBetaModel().fit(load_sampson()))
        >>> display.ax_.get_xlabel()
        'in-status (95% interval)'
        """
        check_integer("max_nodes", max_nodes, low=2)
        level = check_level(level)
        table = estimator.rank(side=side, level=level)
        if len(table) > max_nodes:
            half = max_nodes // 2
            table = pd.concat([table.head(max_nodes - half), table.tail(half)])
        margin = norm.ppf((1 + level) / 2) * table["std_error"]
        table = table.assign(
            conf_low=table["estimate"] - margin, conf_high=table["estimate"] + margin
        )
        return cls(table, side, level, groups).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw onto ax, or onto a new figure."""
        t = self.table
        self.ax_ = ax = axes(ax, figsize=(7, 0.9 + 0.27 * len(t)))
        y = -np.arange(len(t), dtype=float)
        gap = np.flatnonzero(np.diff(t["rank"]) > 1)
        for k in gap:  # the middle of a long ranking is left out
            y[k + 1 :] -= 1
            ax.axhline((y[k] + y[k + 1]) / 2, color="0.8", linewidth=1, linestyle=":")
        labels = [self.groups.get(node, "") if self.groups else "" for node in t["node"]]
        for colour, label in zip(PALETTE, dict.fromkeys(labels), strict=False):
            own = np.array([x == label for x in labels])
            part = t[own]
            ax.errorbar(
                part["estimate"],
                y[own],
                xerr=[part["estimate"] - part["conf_low"], part["conf_high"] - part["estimate"]],
                fmt="o",
                color=colour,
                markersize=5,
                linewidth=1.6,
                label=label or None,
            )
        ax.axvline(0, color="0.6", linewidth=1, zorder=0)
        ax.set_yticks(y, t["node"])
        ax.set_ylim(y[-1] - 0.7, 0.7)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(f"{self.side}-status ({100 * self.level:g}% interval)")
        right = ax.get_xlim()[1]
        for row, height in zip(t.itertuples(), y, strict=True):
            text = f"rank {row.rank}  [{row.rank_low}–{row.rank_high}]"
            ax.annotate(
                text, (right, height), xytext=(6, 0), textcoords="offset points",
                va="center", fontsize=8, color="0.35",
            )  # fmt: skip
        if any(labels):
            ax.legend(loc="lower right", frameon=False, fontsize=8)
        return self


@dataclass(repr=False)
class ComparisonDisplay:
    """Grid of pairwise decisions, nodes in the order of their status, with compact letters.

    Nodes that share a letter are not declared different. Use `from_estimator` or `from_comparisons`.

    Parameters
    ----------
    nodes : list
        Best first.
    declared : ndarray of bool, shape (n, n)
        Entry (a, b), a above b in the order: whether the pair was declared different.
    statistic : ndarray of shape (n, n)
    title : str

    Attributes
    ----------
    letters : list of str
    ax_ : matplotlib Axes
    """

    nodes: list
    declared: NDArray[np.bool_]
    statistic: NDArray[np.float64]
    title: str
    letters: list[str] = field(init=False)
    ax_: Axes | None = field(default=None, init=False)

    def __post_init__(self):
        self.letters = compact_letters(self.declared)

    @classmethod
    def from_estimator(
        cls,
        estimator: StatusModel,
        side: str = "in",
        q: float = 0.1,
        method: str = "liu",
        ax: Axes | None = None,
    ) -> Self:
        """Compare all pairs of a fitted model and plot the decisions."""
        return cls.from_comparisons(estimator.compare_many("all", side, q, method), ax=ax)

    @classmethod
    def from_comparisons(
        cls, comparisons: NodeComparisons, max_nodes: int = 60, ax: Axes | None = None
    ) -> Self:
        """Plot the result of ``compare_many(pairs="all")``, for at most `max_nodes` nodes."""
        side = comparisons._side
        n = len(side.nodes)
        if comparisons.n_pairs != n * (n - 1) // 2:
            raise ValueError('comparisons must be over all pairs: compare_many(pairs="all")')
        if n > max_nodes:
            raise ValueError(
                f"comparisons cover {n} nodes; a grid is legible up to max_nodes={max_nodes}. "
                "Read comparisons.table, or raise max_nodes"
            )
        order = np.argsort(-side.estimate, kind="stable")
        i, j = np.meshgrid(order, order, indexing="ij")
        difference, se = side.statistics(i, j)
        statistic = np.divide(difference, se, out=np.zeros_like(se), where=i != j)
        declared = np.abs(statistic) >= comparisons.threshold
        return cls(side.nodes[order].tolist(), declared, statistic, str(comparisons)).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw onto ax, or onto a new figure."""
        n = len(self.nodes)
        self.ax_ = ax = axes(ax, figsize=(2.4 + 0.28 * n, 1.6 + 0.28 * n))
        lower = np.tril(np.ones((n, n), dtype=bool), -1)
        shown = np.where(lower, np.abs(self.statistic), np.nan)
        ax.grid(False)
        image = ax.imshow(shown, cmap="Blues", vmin=0, vmax=max(5.0, np.nanmax(shown)))
        row, col = np.nonzero(self.declared & lower)
        ax.scatter(col, row, marker="o", s=14, color="white", edgecolor=PALETTE[1], linewidth=1.2)
        ax.set_xticks(range(n), self.nodes, rotation=90)
        ax.set_yticks(
            range(n),
            [f"{name}  {letters}" for name, letters in zip(self.nodes, self.letters, strict=True)],
        )
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.figure.colorbar(image, ax=ax, shrink=0.6, label="|statistic|")
        share = self.title.split("(", 1)
        ax.set_title(
            share[0].strip() + ("\n(" + share[1] if len(share) > 1 else ""), fontsize=9, loc="left"
        )
        return self


@dataclass(repr=False)
class DegreeFitDisplay:
    """Observed against expected positive and negative in- or out-degrees, plus or minus two standard deviations.

    Net degrees are matched by the fit; their two parts are not. Use `from_estimator`.

    Parameters
    ----------
    degrees : DataFrame
        As in ``gof().degrees``.
    side : {"in", "out"}
    """

    degrees: pd.DataFrame
    side: str
    ax_: Axes | None = field(default=None, init=False)

    @classmethod
    def from_estimator(
        cls, estimator: SignedBetaModel, side: str = "in", ax: Axes | None = None
    ) -> Self:
        """Plot a fitted model's positive and negative degrees on one side."""
        check_choice("side", side, ("in", "out"))
        return cls(degree_table(estimator), side).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw onto ax, or onto a new figure."""
        self.ax_ = ax = axes(ax, figsize=(5, 5))
        few = len(self.degrees) <= 200  # bars over thousands of nodes are a blot
        right = top = 1.0
        for colour, sign, lift in ((PALETTE[0], "positive", 0.1), (PALETTE[1], "negative", -0.1)):
            expected = self.degrees[f"{sign}_{self.side}_expected"]
            observed = self.degrees[f"{sign}_{self.side}_observed"]
            spread = 2 * np.sqrt(self.degrees[f"{sign}_{self.side}_variance"])
            ax.errorbar(
                expected, observed + (lift if few else 0), xerr=spread if few else None, fmt="o", color=colour,
                markersize=4, alpha=0.8 if few else 0.3, elinewidth=0.7, label=sign,
            )  # fmt: skip
            top = max(top, np.nanmax(observed))
            right = max(right, np.nanmax(expected + spread if few else expected))
        ax.axline((0, 0), slope=1, color="0.6", linewidth=1, zorder=0)
        if not few:
            ax.set_xscale("symlog", linthresh=1)
            ax.set_yscale("symlog", linthresh=1)
        ax.set_xlim(left=0, right=right * 1.02)
        ax.set_ylim(bottom=-0.03 * top, top=top * 1.08)
        ax.set_xlabel(f"expected {self.side}-degree")
        ax.set_ylabel(f"observed {self.side}-degree")
        ax.legend(frameon=False)
        return self


def compact_letters(different: NDArray[np.bool_]) -> list[str]:
    """Letters such that two items share one exactly if they are not declared different.

    The letters are the maximal sets of mutually not-different items (insert and absorb; Piepho 2004, Journal
    of Computational and Graphical Statistics 13, 456-466).

    Parameters
    ----------
    different : ndarray of bool, shape (n, n)
        Symmetric; items in the order in which letters should run.

    Returns
    -------
    list of str, length n

    Examples
    --------
    >>> import numpy as np
    >>> compact_letters(np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=bool))
    ['a', 'ab', 'b']
    """
    n = len(different)
    sets = [frozenset(range(n))]
    for i in range(n):
        for j in range(i + 1, n):
            if not different[i, j]:
                continue
            split = [
                piece for s in sets for piece in ((s - {i}, s - {j}) if i in s and j in s else (s,))
            ]
            unique = list(dict.fromkeys(split))
            sets = [s for s in unique if not any(s < other for other in unique)]
    sets.sort(key=lambda s: sorted(s))
    return ["".join(_letter(k) for k, s in enumerate(sets) if i in s) for i in range(n)]


def _letter(k: int) -> str:
    """a, ..., z, A, ..., Z, then a1, b1, ..."""
    alphabet: Sequence[str] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return alphabet[k] if k < len(alphabet) else f"{alphabet[k % 52]}{k // 52}"
