"""Plots of robustness: curves over severities, heat maps over two attributes, images under each attribute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from statml._display import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, axes

from .attribute import Chain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .report import RobustnessReport

COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, GREY)


class SeverityDisplay:
    """Accuracy against severity, with intervals: a panel an attribute, a line a model.

    Parameters
    ----------
    reports : sequence of RobustnessReport
        With the same attributes and severities.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, reports: Sequence[RobustnessReport]):
        self.reports = list(reports)
        keys = [r.severity_table[["attribute", "severity"]] for r in self.reports]
        if not all(key.equals(keys[0]) for key in keys):
            raise ValueError("reports must have the same attributes and severities")

    @classmethod
    def from_report(cls, *reports: RobustnessReport, ax: Any = None) -> Self:
        """Plot reports; see `plot`."""
        return cls(reports).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : sequence of matplotlib Axes or None, default=None
            One for each attribute and for all together.

        Returns
        -------
        SeverityDisplay
        """
        import matplotlib.pyplot as plt

        names = list(self.reports[0].severity_table["attribute"].unique())
        if ax is None:
            columns = min(len(names), 3)
            rows = -(-len(names) // columns)
            size = (3.0 * columns, 2.6 * rows)
            _, ax = plt.subplots(
                rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained"
            )
            for spare in ax.flat[len(names) :]:
                spare.remove()
        panels = np.atleast_1d(ax).ravel()[: len(names)]
        if len(panels) < len(names):
            raise ValueError(f"ax must hold {len(names)} axes, got {len(panels)}")
        for panel, name in zip(panels, names, strict=True):
            axes(panel)
            for report, colour in zip(self.reports, COLOURS * len(self.reports), strict=False):
                table = report.severity_table
                rows = table[table["attribute"] == name]
                panel.fill_between(
                    rows["severity"],
                    rows["conf_low"],
                    rows["conf_high"],
                    color=colour,
                    alpha=0.2,
                    lw=0,
                )
                panel.plot(
                    rows["severity"], rows["accuracy"], "o-", ms=3, color=colour, label=report.name
                )
            title = "all at random" if name == "all" else name
            panel.set(title=title, xlabel="severity", xticks=sorted(set(rows["severity"])))
        panels[0].set_ylabel("accuracy")
        panels[0].legend(loc="lower left", fontsize="small")
        self.axes_, self.figure_ = panels, panels[0].figure
        return self


class AttributeGridDisplay:
    """Heat map of the accuracy over two attributes.

    Parameters
    ----------
    first, second : ndarray
        Values of the attributes.
    accuracy : ndarray of shape (len(first), len(second))
    names : sequence of two str
    title : str, default=""

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(
        self,
        first: NDArray,
        second: NDArray,
        accuracy: NDArray,
        names: Sequence[str],
        title: str = "",
    ):
        self.first, self.second, self.accuracy = first, second, accuracy
        self.names, self.title = list(names), title

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        AttributeGridDisplay
        """
        ax = axes(ax, (4.6, 3.8))
        mesh = ax.pcolormesh(
            self.second,
            self.first,
            self.accuracy,
            vmin=0,
            vmax=1,
            cmap="viridis",
            shading="nearest",
        )
        ax.grid(False)
        ax.figure.colorbar(mesh, ax=ax, label="accuracy")
        ax.set(xlabel=self.names[1], ylabel=self.names[0], title=self.title)
        self.ax_, self.figure_ = ax, ax.figure
        return self


class AttributeImagesDisplay:
    """Images under each attribute: a row an attribute and image, from the low end of the box to the high one.

    Parameters
    ----------
    X : ndarray of shape (n_images, channels, height, width)
    chain : Chain
    n_points : int, default=5

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, X: NDArray, chain: Chain, n_points: int = 5):
        if X.ndim != 4:
            raise ValueError(
                f"images of shape (n, channels, height, width) can be shown, got {X.shape}"
            )
        self.X, self.chain, self.n_points = X, chain, n_points

    def plot(self) -> Self:
        """Draw.

        Returns
        -------
        AttributeImagesDisplay
        """
        import matplotlib.pyplot as plt

        chain, n = self.chain, len(self.X)
        x = torch.from_numpy(self.X)
        noise = chain.draw_noise(x, torch.Generator().manual_seed(0))
        rows, columns = chain.n_parameters, self.n_points * n
        figure, panels = plt.subplots(
            rows,
            columns,
            figsize=(0.75 * columns, 0.95 * rows),
            squeeze=False,
            layout="constrained",
        )
        for k, name in enumerate(chain.names):
            for j, a in enumerate(np.linspace(chain.low[k], chain.high[k], self.n_points)):
                values = np.repeat(chain.clean[None], n, 0)
                values[:, k] = a
                shown = chain.apply(x, torch.as_tensor(values, dtype=x.dtype), noise)
                for i, image in enumerate(shown.numpy().clip(0, 1)):
                    panel = panels[k, i * self.n_points + j]
                    panel.imshow(
                        np.moveaxis(image, 0, -1) if len(image) == 3 else image[0],
                        cmap="gray", vmin=0, vmax=1,
                    )  # fmt: skip
                    panel.set(xticks=[], yticks=[])
                    panel.set_title(f"{a:.2g}", fontsize="x-small")
            panels[k, 0].set_ylabel(name, fontsize="small")
        self.axes_, self.figure_ = panels, figure
        return self
