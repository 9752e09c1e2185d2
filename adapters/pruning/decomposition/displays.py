"""Plots of `decompose_pruning_effect`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd

from statml._display import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, axes
from statml._validation import check_choice

from .effects import paired_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .result import PruningEffectResult

KINDS = ("error", "train_loss", "memorised", "decomposition", "subgroups")
COLOURS = {
    "lrr": BLUE, "edt": ORANGE, "sparse_short": GREEN, "wr": RED, "random": GREY, "narrow": PURPLE,
    "dense": SKY, "time": ORANGE, "size": BLUE,
}  # fmt: skip
LABELS = {
    "lrr": "pruned, longer (LRR)",
    "edt": "dense, longer (EDT)",
    "sparse_short": "LRR's mask, short",
    "wr": "pruned, short (WR)",
    "random": "random masks, longer",
    "narrow": "narrow dense, short",
}
YLABELS = {"error": "test error", "train_loss": "training loss", "memorised": "noisy labels fitted"}


@dataclass(repr=False)
class PruningEffectDisplay:
    """Curves over density, or the decomposition, at one noise level. Use `from_result`.

    Parameters
    ----------
    result : PruningEffectResult
    kind : {"error", "train_loss", "memorised", "decomposition", "subgroups"}
    noise : float
    sparsity_level : int or None
        Level of the sparsity path whose subgroups are drawn.

    Attributes
    ----------
    ax_ : matplotlib Axes
    """

    result: PruningEffectResult
    kind: str
    noise: float
    sparsity_level: int | None = None
    ax_: Axes | None = field(default=None, init=False)

    @classmethod
    def from_result(
        cls,
        result: PruningEffectResult,
        kind: str = "decomposition",
        noise: float | None = None,
        sparsity_level: int | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Plot a result.

        Parameters
        ----------
        result : PruningEffectResult
        kind : {"error", "train_loss", "memorised", "decomposition", "subgroups"}, default="decomposition"
            Means over replicates with intervals, by density; stacked Shapley effects; or changes of the training loss by
            difficulty of the records.
        noise : float, optional
            Default: the first one.
        sparsity_level : int, optional
            Level of the sparsity path whose subgroups are drawn. Default: the middle one.
        ax : matplotlib Axes, optional

        Returns
        -------
        PruningEffectDisplay
        """
        check_choice("kind", kind, KINDS)
        known = result.effects["noise"].unique()
        noise = known[0] if noise is None else noise
        if noise not in known:
            raise ValueError(f"noise must be one of {known.tolist()}, got {noise!r}")
        levels = result.effects["level"].unique()
        sparsity_level = levels[len(levels) // 2] if sparsity_level is None else sparsity_level
        if sparsity_level not in levels:
            raise ValueError(
                f"sparsity_level must be one of {levels.tolist()}, got {sparsity_level!r}"
            )
        return cls(result, kind, float(noise), int(sparsity_level)).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw onto ax, or onto a new figure."""
        self.ax_ = ax = axes(ax, figsize=(6.5, 4))
        if self.kind == "decomposition":
            self._plot_decomposition(ax)
        elif self.kind == "subgroups":
            self._plot_subgroups(ax)
        else:
            self._plot_curves(ax)
        return self

    def _plot_curves(self, ax: Axes) -> None:
        column = {"error": "test_error"}.get(self.kind, self.kind)
        runs = self.result.runs.query("noise == @self.noise")
        density = runs[runs["arm"] == "lrr"].groupby("level")["density"].first()
        for arm in (arm for arm in LABELS if arm in set(runs["arm"])):
            own = runs[runs["arm"] == arm]
            values = own.pivot(index="replicate", columns="level", values=column)
            interval = paired_interval(values.to_numpy(), self.result.level)
            ax.plot(
                density, interval["estimate"], "o-", color=COLOURS[arm], ms=3, label=LABELS[arm]
            )
            ax.fill_between(
                density,
                interval["conf_low"],
                interval["conf_high"],
                color=COLOURS[arm],
                alpha=0.15,
                lw=0,
            )
        dense = runs[runs["arm"] == "dense"][column].mean()
        ax.axhline(dense, color="0.3", lw=1, ls="--", label="dense, short")
        _density_axis(ax, density)
        ax.set_ylabel(YLABELS[self.kind])
        if self.kind == "train_loss":
            ax.set_yscale("log")
        ax.legend(frameon=False, fontsize=8)

    def _plot_decomposition(self, ax: Axes) -> None:
        part = self.result.effects.query("noise == @self.noise")
        wide = part.pivot(index="density", columns="effect", values="estimate").sort_index(
            ascending=False
        )
        x = np.arange(len(wide))
        for sign in (1, -1):
            base = np.zeros(len(wide))
            for effect in ("time", "size"):
                height = np.where(np.sign(wide[effect]) == sign, wide[effect], 0.0)
                ax.bar(
                    x,
                    height,
                    0.7,
                    bottom=base,
                    color=COLOURS[effect],
                    label=effect if sign > 0 else None,
                )
                base = base + height
        total = part[part["effect"] == "total"].set_index("density").loc[wide.index]
        error = [total["estimate"] - total["conf_low"], total["conf_high"] - total["estimate"]]
        error = None if pd.isna(total["conf_low"]).all() else error
        ax.errorbar(x, total["estimate"], yerr=error, fmt="ko", ms=4, lw=1, label="total")
        ax.axhline(0, color="0.3", lw=1)
        ax.set_xticks(x, [f"{d:.3g}" for d in wide.index], rotation=45)
        ax.set_xlabel("share of the weights that is kept")
        ax.set_ylabel("fall of the test error")
        ax.legend(frameon=False, fontsize=8)

    def _plot_subgroups(self, ax: Axes) -> None:
        part = self.result.subgroups.query("noise == @self.noise and level == @self.sparsity_level")
        for arm, own in part.groupby("arm"):
            error = [own["estimate"] - own["conf_low"], own["conf_high"] - own["estimate"]]
            error = None if pd.isna(own["conf_low"]).all() else error
            ax.errorbar(
                own["subgroup"],
                own["estimate"],
                yerr=error,
                fmt="o-",
                ms=4,
                color=COLOURS[arm],
                label=LABELS[arm],
            )
        ax.axhline(0, color="0.3", lw=1)
        ax.set_xlabel("difficulty of the records (EL2N, easiest first)")
        ax.set_ylabel("change of the training loss")
        ax.legend(frameon=False, fontsize=8)


def _density_axis(ax: Axes, density: pd.Series) -> None:
    ax.set_xscale("log")
    ax.invert_xaxis()
    ax.set_xticks(density, [f"{d:.2g}" for d in density], rotation=45, minor=False)
    ax.set_xticks([], minor=True)
    ax.set_xlabel("share of the weights that is kept")
