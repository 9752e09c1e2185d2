"""Plots of a mixture's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from statml._display import BLUE, GREY, ORANGE, PALETTE, axes
from statml._validation import check_choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY = 8  # curves that are told apart by colour


class LambdaPathDisplay:
    """Mean weights in the course of training.

    Parameters
    ----------
    epochs : ndarray of shape (n_steps + 1,)
    curves : dict of str to ndarray of shape (n_steps + 1,)

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from statml.adapters import AMALClassifier, LambdaPathDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> model = AMALClassifier(module="linear", epochs=8, random_state=0).fit(X, y)
    >>> display = LambdaPathDisplay.from_estimator(model, by="class", loss="ce")
    """

    def __init__(self, epochs: NDArray[np.int64], curves: dict[str, NDArray[np.float64]]):
        self.epochs, self.curves = epochs, curves

    @classmethod
    def from_estimator(
        cls, estimator: Any, by: str = "loss", loss: str | int = 0, ax: Axes | None = None
    ) -> Self:
        """Plot the path of a fitted estimator.

        Parameters
        ----------
        estimator : AMALClassifier
        by : {"loss", "class"}, default="loss"
            One curve for each loss (teacher, rule), over all records; or one for each class, of one loss.
        loss : str or int, default=0
            Which loss, with by="class".
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        LambdaPathDisplay
        """
        check_is_fitted(estimator, "lambda_path_")
        path = estimator.lambda_path_
        if not len(path):
            raise ValueError("the estimator was trained for no epoch and has no path")
        if check_choice("by", by, ("loss", "class")) == "class":
            k = estimator._column(loss)
            names = [f"class {c}" for c in estimator.classes_] + ["unlabelled"]
            curves = {name: path[:, c, k] for c, name in enumerate(names)}
        else:
            counts = estimator.class_counts_
            total = np.maximum(counts.sum(axis=0), 1)
            curves = {
                name: (np.nan_to_num(path[:, :, k]) * counts[:, k]).sum(axis=1) / total[k]
                for k, name in enumerate(estimator.loss_names_)
            }
        kept = {name: c for name, c in curves.items() if np.isfinite(c).all()}
        return cls(estimator.lambda_epochs_, kept).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        LambdaPathDisplay
        """
        ax = axes(ax, (6.4, 4.0))
        many = len(self.curves) > MANY
        for k, (name, curve) in enumerate(self.curves.items()):
            look = {"color": GREY, "alpha": 0.5, "lw": 1} if many else {"color": PALETTE[k]}
            ax.plot(self.epochs, curve, marker="" if many else "o", ms=3, label=name, **look)
        if not many:
            ax.legend()
        ax.set(xlabel="epoch", ylabel="mean weight", ylim=(0, None))
        self.ax_, self.figure_ = ax, ax.figure
        return self


class LambdaHistogramDisplay:
    """How the weights of one loss are spread over the records.

    Parameters
    ----------
    weights : ndarray of shape (n,)
    clean : ndarray of bool of shape (n,) or None
    name : str

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, weights: NDArray[np.float64], clean: NDArray[np.bool_] | None, name: str):
        self.weights, self.clean, self.name = weights, clean, name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        loss: str | int = 0,
        clean_mask: ArrayLike | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Plot the weights of a fitted estimator.

        Parameters
        ----------
        estimator : AMALClassifier
        loss : str or int, default=0
            Name or position of the loss.
        clean_mask : array-like of bool of shape (n_records,), optional
            Where the loss is known to be right; the two parts are drawn apart.
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        LambdaHistogramDisplay
        """
        check_is_fitted(estimator, "lambda_")
        k = estimator._column(loss)
        rows, name = estimator.loss_mask_[:, k], estimator.loss_names_[k]
        if clean_mask is None:
            return cls(estimator.lambda_[rows, k], None, name).plot(ax)
        clean = np.asarray(clean_mask)
        if clean.dtype != bool or clean.shape != rows.shape:
            raise ValueError(
                f"clean_mask must hold True or False for each of the {len(rows)} records, got {clean.dtype} of shape {clean.shape}"
            )
        return cls(estimator.lambda_[rows, k], clean[rows], name).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        LambdaHistogramDisplay
        """
        ax = axes(ax, (6.4, 4.0))
        bins = np.linspace(0, max(self.weights.max(), 1e-3), 31)
        if self.clean is None:
            ax.hist(self.weights, bins, color=BLUE)
        else:
            parts = ((self.clean, BLUE, "right"), (~self.clean, ORANGE, "wrong"))
            for part, color, label in parts:
                ax.hist(self.weights[part], bins, color=color, alpha=0.6, label=label)
            ax.legend()
        ax.set(xlabel=f"weight of {self.name!r}", ylabel="records")
        self.ax_, self.figure_ = ax, ax.figure
        return self


class AlignmentDisplay:
    """How each loss pulled at the last step: along with the validation data, or against them.

    Parameters
    ----------
    alignments : dict of str to ndarray
        Over their root mean square, of the records that have the loss.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, alignments: dict[str, NDArray[np.float64]]):
        self.alignments = alignments

    @classmethod
    def from_estimator(cls, estimator: Any, ax: Axes | None = None) -> Self:
        """Plot the last step of a fitted estimator.

        Parameters
        ----------
        estimator : AMALClassifier
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        AlignmentDisplay
        """
        check_is_fitted(estimator, "alignment_")
        values = {
            name: estimator.alignment_[estimator.loss_mask_[:, k], k]
            for k, name in enumerate(estimator.loss_names_)
        }
        values = {name: v[np.isfinite(v)] for name, v in values.items()}
        values = {name: v for name, v in values.items() if len(v)}
        if not values:
            raise ValueError("the weights took no step, so that there are no alignments")
        return cls(values).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None

        Returns
        -------
        AlignmentDisplay
        """
        ax = axes(ax, (6.4, 4.0))
        edge = max(np.quantile(np.abs(v), 0.99) for v in self.alignments.values())
        bins = np.linspace(-edge, edge, 41)
        for k, (name, values) in enumerate(self.alignments.items()):
            share = np.ones(len(values)) / len(values)
            ax.hist(
                np.clip(values, -edge, edge),
                bins,
                weights=share,
                histtype="step",
                lw=1.5,
                color=PALETTE[k % len(PALETTE)],
                label=name if len(self.alignments) <= MANY else None,
            )
        ax.axvline(0, color=GREY, lw=1)
        if len(self.alignments) <= MANY:
            ax.legend()
        ax.set(
            xlabel="alignment with the validation data, over its rms",
            ylabel="share of the records",
        )
        self.ax_, self.figure_ = ax, ax.figure
        return self
