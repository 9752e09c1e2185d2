"""Plots of quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted
from statsmodels.stats.proportion import proportion_confint

from statml._display import BLUE, GREY, ORANGE, axes
from statml._validation import check_integer, check_level

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class SyntheticImagesDisplay:
    """A grid of images that were made of a network's statistics.

    Parameters
    ----------
    images : ndarray of shape (n, n_channels, height, width), (n, n_channels, length) or (n, n_features)
    n_columns : int, default=8

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, images: NDArray, n_columns: int = 8):
        self.images, self.n_columns = images, n_columns

    @classmethod
    def from_estimator(
        cls, estimator: Any, n: int = 32, n_columns: int = 8, ax: Axes | None = None
    ) -> Self:
        """Show the first images of a fitted quantizer.

        Parameters
        ----------
        estimator : GenieQuantizer
        n : int, default=32
        n_columns : int, default=8
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        SyntheticImagesDisplay
        """
        check_is_fitted(estimator, "synthetic_data_")
        if estimator.synthetic_data_ is None:
            raise ValueError("the quantizer was fitted on real records: it made no images")
        n = check_integer("n", n, low=1)
        n_columns = check_integer("n_columns", n_columns, low=1)
        return cls(estimator.synthetic_data_[:n], n_columns).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        SyntheticImagesDisplay
        """
        images = self.images
        n_rows = -(-len(images) // self.n_columns)
        ax = axes(ax, (0.8 * self.n_columns, 0.8 * n_rows + 0.2))
        if images.ndim < 4:  # vectors and series as lines of a picture
            picture = images.reshape(len(images), -1)
            ax.imshow(picture, cmap="gray", aspect="auto", interpolation="nearest")
            ax.set(xlabel="value", ylabel="record")
        else:
            colour = images.shape[1] == 3
            shown = images if colour else images.mean(1, keepdims=True)
            low = shown.min((1, 2, 3), keepdims=True)
            high = shown.max((1, 2, 3), keepdims=True)
            shown = (shown - low) / np.maximum(high - low, 1e-12)  # each over its own range
            height, width = shown.shape[2] + 1, shown.shape[3] + 1
            sheet = np.ones((n_rows * height, self.n_columns * width, shown.shape[1]))
            for k, image in enumerate(shown):
                row, column = divmod(k, self.n_columns)
                top, left = row * height, column * width
                sheet[top : top + height - 1, left : left + width - 1] = image.transpose(1, 2, 0)
            ax.imshow(sheet if colour else sheet[..., 0], cmap="gray", interpolation="nearest")
            ax.set_axis_off()
        ax.grid(False)
        self.ax_, self.figure_ = ax, ax.figure
        return self


class BNSLossDisplay:
    """The loss of the images on the way: of the whole, of the images' own statistics, and of every normalisation.

    Parameters
    ----------
    losses : DataFrame
        ``distill_loss_`` of a quantizer.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, losses: pd.DataFrame):
        self.losses = losses

    @classmethod
    def from_estimator(cls, estimator: Any, ax: Axes | None = None) -> Self:
        """Plot the losses of a fitted quantizer.

        Parameters
        ----------
        estimator : GenieQuantizer
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        BNSLossDisplay
        """
        check_is_fitted(estimator, "distill_loss_")
        if not len(estimator.distill_loss_):
            raise ValueError("no images were learnt: there are no losses to show")
        return cls(estimator.distill_loss_).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        BNSLossDisplay
        """
        ax = axes(ax, (6.4, 4.0))
        mean = self.losses.drop(columns="batch").groupby("iteration").mean()
        layers = [name for name in mean.columns if name not in ("total", "image")]
        for k, name in enumerate(layers):
            ax.plot(mean.index, mean[name], color=GREY, lw=0.7, label="" if k else "normalisations")
        if (mean["image"] > 0).any():
            ax.plot(mean.index, mean["image"], color=ORANGE, lw=1.2, label="single images")
        ax.plot(mean.index, mean["total"], color=BLUE, lw=1.8, label="total")
        ax.set(xlabel="iteration", ylabel="loss", yscale="log")
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


class LayerSQNRDisplay:
    """Signal over quantization noise in the output of every layer.

    Parameters
    ----------
    sqnr : dict of str to float
        Decibels.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, sqnr: dict[str, float]):
        self.sqnr = sqnr

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: ArrayLike | None = None, ax: Axes | None = None
    ) -> Self:
        """Plot the layers of a fitted quantizer.

        Parameters
        ----------
        estimator : GenieQuantizer
        X : array-like of shape (n_records, ...), optional
            By default what it was fitted on.
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        LayerSQNRDisplay
        """
        check_is_fitted(estimator, "layers_")
        table = estimator.layers_ if X is None else estimator.compare(X)
        return cls(dict(zip(table["name"], table["sqnr_db"], strict=True))).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        LayerSQNRDisplay
        """
        ax = axes(ax, (6.4, 0.8 + 0.3 * len(self.sqnr)))
        names, values = list(self.sqnr), np.array(list(self.sqnr.values()))
        place = np.arange(len(names))
        ax.barh(place, values, color=BLUE, height=0.6)
        for y, value in zip(place, values, strict=True):
            ax.text(max(value, 0), y, f" {value:.1f}", va="center", fontsize="small")
        ax.set_yticks(place, names)
        ax.invert_yaxis()
        ax.set(xlabel="signal to quantization noise (dB)")
        ax.grid(False, axis="y")
        self.ax_, self.figure_ = ax, ax.figure
        return self


class AccuracyBitsDisplay:
    """Accuracy against the number of bits.

    Parameters
    ----------
    table : DataFrame
        Columns n_bits, accuracy, conf_low, conf_high, undecided.
    float_accuracy : float

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, table: pd.DataFrame, float_accuracy: float):
        self.table, self.float_accuracy = table, float_accuracy

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        bits: Sequence[int] = (2, 3, 4, 8),
        level: float = 0.95,
        ax: Axes | None = None,
    ) -> Self:
        """Fit anew for every number of bits, of weights and activations alike, on the images that there are.

        Parameters
        ----------
        estimator : GenieQuantizer
            Fitted on synthetic images, which are used again.
        X : array-like of shape (n_records, ...)
        y : array-like of shape (n_records,)
            Labelled records to measure on.
        bits : sequence of int, default=(2, 3, 4, 8)
        level : float, default=0.95
            Of Wilson's intervals, which reflect the test records, not the randomness of the fit.
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        AccuracyBitsDisplay
        """
        check_is_fitted(estimator, "model_")
        level = check_level(level)
        images = estimator._given_or_made(None).cpu().numpy()
        y = np.asarray(y)
        rows = []
        for n in bits:
            fitted = clone(estimator).set_params(n_bits_w=n, n_bits_a=n, checkpoint_dir=None)
            fitted.fit(estimator.float_model_, images)
            right = int((fitted.predict(X) == y).sum())
            low, high = proportion_confint(right, len(y), alpha=1 - level, method="wilson")
            rows.append((n, right / len(y), low, high, fitted.undecided_))
        names = ["n_bits", "accuracy", "conf_low", "conf_high", "undecided"]
        outputs = estimator._run(estimator.float_model_, X)
        float_accuracy = float((estimator.classes_[outputs.argmax(1)] == y).mean())
        return cls(pd.DataFrame(rows, columns=names), float_accuracy).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        AccuracyBitsDisplay
        """
        from matplotlib.ticker import PercentFormatter

        ax = axes(ax, (6.4, 4.0))
        table = self.table
        bars = np.abs(
            np.stack(
                [table["accuracy"] - table["conf_low"], table["conf_high"] - table["accuracy"]]
            )
        )
        ax.errorbar(
            table["n_bits"],
            table["accuracy"],
            bars,
            fmt="o-",
            color=BLUE,
            capsize=2,
            label="quantised",
        )
        ax.axhline(self.float_accuracy, color=GREY, ls="--", lw=1, label="float")
        ax.set_xticks(table["n_bits"])
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        ax.set(xlabel="bits of weights and activations", ylabel="accuracy")
        ax.legend(loc="lower right")
        self.ax_, self.figure_ = ax, ax.figure
        return self
