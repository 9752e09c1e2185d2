"""Plots of pruned networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from statml._display import BLUE, GREY, ORANGE, axes
from statml._validation import check_choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class PruningPathDisplay:
    """Error along the path of a pruned network, against the density of its prunable weights.

    Parameters
    ----------
    path : DataFrame
        ``path_`` of an estimator, with columns conf_low and conf_high for the validation error.
    chosen : int
        The level that was selected.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from statml.adapters import PruningClassifier, PruningPathDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> model = PruningClassifier(sparsity=0.8, fraction=0.5, epochs=2, random_state=0).fit(X / 16, y)
    >>> display = PruningPathDisplay.from_estimator(model)
    """

    def __init__(self, path: pd.DataFrame, chosen: int):
        self.path, self.chosen = path, chosen

    @classmethod
    def from_estimator(cls, estimator: Any, level: float = 0.95, ax: Axes | None = None) -> Self:
        """Plot the path of a fitted estimator.

        Parameters
        ----------
        estimator : PruningClassifier or PruningRegressor
        level : float, default=0.95
            Confidence level of the intervals for the validation error.
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        PruningPathDisplay
        """
        from .report import error_intervals

        check_is_fitted(estimator, "path_")
        intervals = error_intervals(
            estimator.path_, estimator.n_val_, hasattr(estimator, "classes_"), level
        )
        return cls(estimator.path_.join(intervals), estimator.best_level_).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        PruningPathDisplay
        """
        from matplotlib.ticker import NullFormatter, PercentFormatter

        ax = axes(ax, (6.4, 4.0))
        path = self.path
        ax.plot(path["density"], path["train_error"], "o--", color=GREY, ms=4, label="training")
        if path["val_error"].notna().any():
            error = path["val_error"]
            bars = np.abs(np.stack([error - path["conf_low"], path["conf_high"] - error]))
            ax.errorbar(
                path["density"],
                error,
                bars,
                fmt="o-",
                color=BLUE,
                ms=5,
                capsize=2,
                label="held out, with interval",
            )
        one = path.loc[path["level"] == self.chosen].iloc[0]
        ax.axvline(one["density"], color=ORANGE, lw=1, zorder=0, label="fitted network")
        ax.set_xscale("log")
        ax.invert_xaxis()
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ticks = [
            d for d in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01) if d >= path["density"].min() * 0.9
        ]
        ax.set_xticks(ticks)
        ax.set(xlabel="weights that are left (log scale)", ylabel="error", ylim=(0, None))
        ax.set_ylim(top=1.25 * ax.get_ylim()[1])  # room for the legend
        ax.legend(loc="upper left", ncols=3)
        self.ax_, self.figure_ = ax, ax.figure
        return self


class LayerDensityDisplay:
    """Share of the weights that each layer keeps.

    Parameters
    ----------
    densities : dict of str to float

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, densities: dict[str, float]):
        self.densities = densities

    @classmethod
    def from_estimator(cls, estimator: Any, ax: Axes | None = None) -> Self:
        """Plot the layers of a fitted estimator.

        Parameters
        ----------
        estimator : PruningClassifier or PruningRegressor
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        LayerDensityDisplay
        """
        check_is_fitted(estimator, "layer_density_")
        return cls(estimator.layer_density_).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        LayerDensityDisplay
        """
        from matplotlib.ticker import PercentFormatter

        ax = axes(ax, (6.4, 0.8 + 0.35 * len(self.densities)))
        names, values = list(self.densities), np.array(list(self.densities.values()))
        place = np.arange(len(names))
        ax.barh(place, values, color=BLUE, height=0.6)
        for y, value in zip(place, values, strict=True):
            ax.text(value, y, f" {value:.1%}", va="center", ha="left", fontsize="small")
        ax.set_yticks(place, names)
        ax.invert_yaxis()
        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set(xlabel="weights that are left", xlim=(0, max(values.max() * 1.15, 1e-3)))
        ax.grid(False, axis="y")
        self.ax_, self.figure_ = ax, ax.figure
        return self


class MaskDisplay:
    """Which weights of a layer are left.

    Parameters
    ----------
    mask : ndarray of bool
        As a matrix: outputs by everything else.
    name : str

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, mask: NDArray[np.bool_], name: str):
        self.mask, self.name = mask, name

    @classmethod
    def from_estimator(
        cls, estimator: Any, layer: str | None = None, ax: Axes | None = None
    ) -> Self:
        """Plot a mask of a fitted estimator.

        Parameters
        ----------
        estimator : PruningClassifier or PruningRegressor
        layer : str, optional
            Name of a weight in ``masks_``; the first by default.
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        MaskDisplay
        """
        check_is_fitted(estimator, "masks_")
        name = next(iter(estimator.masks_)) if layer is None else layer
        check_choice("layer", name, estimator.masks_)
        return cls(estimator.masks_[name], name).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        MaskDisplay
        """
        ax = axes(ax, (6.4, 3.6))
        matrix = self.mask.reshape(len(self.mask), -1)
        ax.imshow(~matrix, cmap="gray", aspect="auto", interpolation="nearest", vmin=0, vmax=1)
        ax.grid(False)
        ax.set(
            xlabel="inputs",
            ylabel="outputs",
            title=f"{self.name}: {matrix.mean():.1%} are left (black)",
        )
        self.ax_, self.figure_ = ax, ax.figure
        return self
