"""Plots of evaluations and of single episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from statml._display import BLUE, GREEN, GREY, ORANGE, PALETTE, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .results import ViewpointResults
    from .trajectory import Trajectory

COLOURS = PALETTE[:7]


class SurvivalDisplay:
    """Share of scenarios that are not finished yet, over time: the lower, the faster.

    Parameters
    ----------
    curves : DataFrame
        Of ``ViewpointResults.survival``.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, curves: pd.DataFrame):
        self.curves = curves

    @classmethod
    def from_results(
        cls, results: ViewpointResults, ax: Axes | None = None, level: float = 0.95
    ) -> Self:
        """Plot results with pointwise intervals.

        Parameters
        ----------
        results : ViewpointResults
        ax : matplotlib Axes or None, default=None
        level : float, default=0.95

        Returns
        -------
        SurvivalDisplay
        """
        return cls(results.survival(level)).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        SurvivalDisplay
        """
        ax = axes(ax, (6.0, 3.6))
        for k, (policy, curve) in enumerate(self.curves.groupby("policy", sort=False)):
            colour = COLOURS[k % len(COLOURS)]
            ax.step(curve["seconds"], curve["unfinished"], where="post", color=colour, label=policy)
            ends = (curve["conf_low"], curve["conf_high"])
            ax.fill_between(curve["seconds"], *ends, step="post", color=colour, alpha=0.15, lw=0)
        ax.set(xlabel="seconds", ylabel="share of scenarios unfinished", ylim=(-0.02, 1.02))
        ax.legend(frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self


class ByNumberDisplay:
    """A figure by the number of targets.

    Parameters
    ----------
    table : DataFrame
        Of ``ViewpointResults.by_n``.
    label : str
        Of the figure.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, table: pd.DataFrame, label: str):
        self.table, self.label = table, label

    @classmethod
    def from_results(
        cls,
        results: ViewpointResults,
        term: str = "success",
        ax: Axes | None = None,
        level: float = 0.95,
    ) -> Self:
        """Plot results with intervals.

        Parameters
        ----------
        results : ViewpointResults
        term : {"success", "seconds", "fraction"}, default="success"
        ax : matplotlib Axes or None, default=None
        level : float, default=0.95

        Returns
        -------
        ByNumberDisplay
        """
        labels = {
            "success": "share of scenarios with all classified",
            "seconds": "seconds, restricted to the horizon",
            "fraction": "share of targets classified",
        }
        return cls(results.by_n(term, level), labels[term]).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        ByNumberDisplay
        """
        ax = axes(ax, (6.0, 3.6))
        groups = list(self.table.groupby("policy", sort=False))
        for k, (policy, part) in enumerate(groups):
            shift = 0.3 * ((k + 0.5) / len(groups) - 0.5)
            ends = np.abs(
                part[["conf_low", "conf_high"]].to_numpy().T - part["estimate"].to_numpy()
            )
            ax.errorbar(
                part["n_targets"] + shift,
                part["estimate"],
                ends,
                fmt="o-",
                ms=4,
                capsize=2,
                color=COLOURS[k % len(COLOURS)],
                label=policy,
            )
        ax.set_xticks(sorted(self.table["n_targets"].unique()))
        ax.set(xlabel="number of targets", ylabel=self.label)
        ax.legend(frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self


class TrajectoryDisplay:
    """An episode on a map: the drone's way, where its camera looked, and the targets' ways.

    Parameters
    ----------
    trajectory : Trajectory

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, trajectory: Trajectory):
        self.trajectory = trajectory

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        TrajectoryDisplay
        """
        t = self.trajectory
        ax = field(t.side, axes(ax, (5.2, 5.2)))
        for i in range(t.targets.shape[1]):
            ax.plot(*t.targets[:, i, :2].T, color=GREY, lw=1)
            draw_target(ax, t.targets[-1, i], t.tracked[-1, i])
            when = t.declared_at[i]
            note = f"{i}: {when:.1f} s" if np.isfinite(when) else f"{i}: open"
            ax.annotate(
                note, t.targets[-1, i, :2], (7, 7), textcoords="offset points", size="small"
            )
        ax.plot(*t.drone[:, :2].T, color=BLUE, lw=1.5)
        # an arrow each time something new was seen, where the camera looked from
        looks = np.flatnonzero(t.visible.any(1))[:: max(1, int(1 / t.dt))]
        x, y, yaw = t.drone[looks].T
        arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.004, "color": BLUE}
        ax.quiver(x, y, np.cos(yaw), np.sin(yaw), alpha=0.6, **arrows)
        ax.plot(*t.drone[0, :2], "o", color=BLUE, ms=6)
        share = t.tracked[-1].mean()
        ax.set_title(f"{share:.0%} classified after {t.seconds[-1]:.1f} s", size="medium")
        self.ax_, self.figure_ = ax, ax.figure
        return self


class BeliefsDisplay:
    """The belief in the likeliest class of each target, over time; dots where the camera saw it.

    Parameters
    ----------
    trajectory : Trajectory

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, trajectory: Trajectory):
        self.trajectory = trajectory

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        BeliefsDisplay
        """
        t = self.trajectory
        ax = axes(ax, (6.0, 3.6))
        belief = t.beliefs.max(-1)
        for i in range(belief.shape[1]):
            colour = COLOURS[i % len(COLOURS)]
            ax.step(t.seconds, belief[:, i], where="post", color=colour, label=f"target {i}")
            seen = t.visible[:, i] & ~np.roll(t.tracked[:, i], 1)
            ax.plot(t.seconds[seen], belief[seen, i], ".", color=colour, ms=4)
        ax.axhline(t.threshold, color=GREY, lw=1, ls="--")
        ax.set(xlabel="seconds", ylabel="belief in the likeliest class", ylim=(0, 1.02))
        ax.legend(frameon=False, fontsize="small")
        self.ax_, self.figure_ = ax, ax.figure
        return self


def field(side: float, ax: Axes) -> Axes:
    """A map of the field."""
    ax.set(xlim=(-side, side), ylim=(-side, side), xlabel="metres", ylabel="metres")
    ax.set_aspect("equal")
    return ax


def draw_target(ax: Axes, pose: Any, tracked: bool) -> list[Any]:
    """A disc with the plate on its front; green once classified."""
    from matplotlib.patches import Circle

    x, y, heading = pose
    ahead = np.array([np.cos(heading), np.sin(heading)])
    left = np.array([-ahead[1], ahead[0]])
    colour = GREEN if tracked else ORANGE
    disc = ax.add_patch(Circle((x, y), 0.6, facecolor=colour, alpha=0.35, lw=0))
    ends = np.array([x, y]) + 0.45 * ahead + np.outer([-0.4, 0.4], left)
    (plate,) = ax.plot(*ends.T, color=colour, lw=3, solid_capstyle="butt")
    return [disc, plate]
