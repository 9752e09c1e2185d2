"""Plots of a report on continual learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statml._display import BLUE, GREY, PALETTE, axes

from .metrics import rejection_threshold

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]


class AccuracyMatrixDisplay:
    """Accuracy on each task (columns) after each task (rows).

    Parameters
    ----------
    matrix : ndarray of shape (T, T)
    tasks : sequence of str
    title : str, default=""

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> display = AccuracyMatrixDisplay(np.array([[0.9, 0.1], [0.6, 0.8]]), ["0+1", "2+3"]).plot()
    """

    def __init__(self, matrix: Array, tasks: Sequence[str], title: str = ""):
        self.matrix, self.tasks, self.title = matrix, list(tasks), title

    @classmethod
    def from_report(cls, report: Any, ax: Axes | None = None) -> Self:
        """Plot the mean matrix of a report's runs.

        Parameters
        ----------
        report : ContinualReport
            With runs of different orders, tasks are numbered by their place.
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        AccuracyMatrixDisplay
        """
        orders = {tuple(run["order"]) for run in report.runs}
        if len(orders) == 1:
            names = [report.tasks[j] for j in next(iter(orders))]
        else:
            names = [f"no. {j + 1}" for j in range(len(report.tasks))]
        return cls(report.matrix_, names, report.label).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        AccuracyMatrixDisplay
        """
        T = len(self.tasks)
        ax = axes(ax, (1.8 + 0.62 * T, 1.4 + 0.55 * T))
        ax.imshow(self.matrix, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for t in range(T):
            for j in range(T):
                value = self.matrix[t, j]
                if np.isfinite(value):
                    ax.text(
                        j,
                        t,
                        f"{value:.2f}",
                        ha="center",
                        va="center",
                        size="small",
                        color="white" if value > 0.6 else "black",
                        alpha=1.0 if j <= t else 0.5,
                    )
        ax.set_xticks(range(T), self.tasks)
        ax.set_yticks(range(T), self.tasks)
        ax.grid(False)
        ax.set(xlabel="accuracy on", ylabel="after learning", title=self.title)
        self.ax_, self.figure_ = ax, ax.figure
        return self


class LearningCurvesDisplay:
    """Accuracy over the number of tasks learned, with intervals over runs.

    Parameters
    ----------
    curves : dict of str to DataFrame
        Label to the rows of one curve of ``ContinualReport.curves``.
    curve : str
        Which: "all", "base" or "new".

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, curves: dict[str, pd.DataFrame], curve: str):
        self.curves, self.curve = curves, curve

    @classmethod
    def from_reports(
        cls,
        reports: Sequence[Any],
        curve: str = "all",
        level: float = 0.95,
        ax: Axes | None = None,
    ) -> Self:
        """Plot the same curve of several reports.

        Parameters
        ----------
        reports : sequence of ContinualReport
            With different labels.
        curve : {"all", "base", "new"}, default="all"
            Accuracy on all tasks so far, on the first, on the newest.
        level : float, default=0.95
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        LearningCurvesDisplay

        Raises
        ------
        ValueError
            If two reports have the same label.
        """
        labels = [report.label for report in reports]
        if len(set(labels)) < len(labels):
            raise ValueError(f"reports must have different labels, got {labels}")
        curves = {}
        for report in reports:
            table = report.curves(level)
            curves[report.label] = table[table["curve"] == curve]
        return cls(curves, curve).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        LearningCurvesDisplay
        """
        ax = axes(ax, (6.4, 4.0))
        n_tasks = 1
        for k, (label, table) in enumerate(self.curves.items()):
            x = table["n_tasks"].to_numpy()
            n_tasks = max(n_tasks, x.max())
            color = PALETTE[k % len(PALETTE)]
            ax.plot(x, table["estimate"], "o-", color=color, ms=4, label=label)
            if table["conf_low"].notna().any():
                low, high = table["conf_low"].clip(0, 1), table["conf_high"].clip(0, 1)
                ax.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
        of = {"all": "all tasks so far", "base": "the first task", "new": "the newest task"}
        ax.set(xlabel="tasks learned", ylabel=f"accuracy on {of[self.curve]}", ylim=(0, 1.02))
        ax.set_xticks(range(1, n_tasks + 1))
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


class OpenSetDisplay:
    """Share of the records above each threshold of a score, for known and unknown sets.

    Parameters
    ----------
    known : ndarray
    unknown : dict of str to ndarray
    threshold : float
    name : str
        Of the score.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> display = OpenSetDisplay(rng.normal(size=200), {"noise": rng.normal(3, 1, 200)}, 1.6, "distance").plot()
    """

    def __init__(self, known: Array, unknown: dict[str, Array], threshold: float, name: str):
        self.known, self.unknown, self.threshold, self.name = known, unknown, threshold, name

    @classmethod
    def from_report(cls, report: Any, score: str | None = None, ax: Axes | None = None) -> Self:
        """Plot the first run of a report.

        Parameters
        ----------
        report : ContinualReport
        score : str, optional
            The first by default.
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        OpenSetDisplay

        Raises
        ------
        ValueError
            If there is no such score, or none at all.
        """
        report._need_open_set()
        found = report.runs[0]["open_set"]
        score = next(iter(found)) if score is None else score
        if score not in found:
            raise ValueError(f"score must be one of {', '.join(found)}, got {score!r}")
        one = found[score]
        threshold = rejection_threshold(one["val"], report.inlier_rejection)
        return cls(one["in"], one["out"], threshold, score).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        OpenSetDisplay
        """
        from matplotlib.ticker import PercentFormatter

        ax = axes(ax, (6.4, 4.0))
        colors = [color for color in PALETTE if color not in (BLUE, GREY)]
        sets = {"known": self.known, **self.unknown}
        for k, (name, values) in enumerate(sets.items()):
            x = np.sort(values)
            above = 1 - np.arange(len(x) + 1) / len(x)
            x = np.concatenate([[x[0]], x])
            color = BLUE if k == 0 else colors[(k - 1) % len(colors)]
            share = np.mean(values > self.threshold)
            ax.step(
                x,
                above,
                where="post",
                color=color,
                lw=2.2 if k == 0 else 1.5,
                label=f"{name}: {share:.0%} rejected",
            )
        ax.axvline(self.threshold, color=GREY, lw=1, ls="--", zorder=0)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set(xlabel=f"{self.name} (dashed: threshold)", ylabel="records above", ylim=(0, 1.02))
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
