"""Plots of influence, in the manner of scikit-learn's displays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from .._display import BLUE, GREY, ORANGE, PALETTE, RED, axes
from .._validation import check_integer
from ._base import BaseInfluence
from ._removal import RemovalInfluence
from .metrics import LinearDatamodelingScore, loo_correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]


@dataclass(repr=False)
class TopInfluenceDisplay:
    """Bars: the training records that helped (right) and hurt (left) most.

    Use `from_estimator`.

    Parameters
    ----------
    table : DataFrame
        As from ``rank``.

    Attributes
    ----------
    ax_ : matplotlib Axes
        After `plot`.
    """

    table: pd.DataFrame
    ax_: Axes | None = field(default=None, init=False)

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseInfluence,
        X_test: Any,
        y_test: ArrayLike | None = None,
        k: int = 10,
        ax: Axes | None = None,
    ) -> Self:
        """Plot the k records of the largest mean influence on test records.

        Parameters
        ----------
        estimator : fitted influence method
        X_test, y_test : test records
        k : int, default=10
        ax : matplotlib Axes, optional

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn.linear_model import LinearRegression
        >>> from statml.influence import NewtonStep, TopInfluenceDisplay
        >>> X, y = load_diabetes(return_X_y=True)
        >>> step = NewtonStep().fit(LinearRegression().fit(X[:300], y[:300]), X[:300], y[:300])
        >>> len(TopInfluenceDisplay.from_estimator(step, X[300:], y[300:], k=5).ax_.patches)
        5
        """
        table = estimator.rank(X_test, y_test, k).sort_values("influence", ascending=False)
        return cls(table).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw onto ax, or onto a new figure."""
        t = self.table
        self.ax_ = ax = axes(ax, figsize=(6, 0.8 + 0.3 * len(t)))
        y = -np.arange(len(t))
        colours = np.where(t["influence"] >= 0, BLUE, RED)
        ax.barh(y, t["influence"], color=colours)
        ax.axvline(0, color="0.4", linewidth=1)
        ax.set_yticks(y, t["label"].astype(str))
        ax.set_xlabel("mean influence (loss without the record − loss with it)")
        ax.set_ylabel("training record")
        return self


@dataclass(repr=False)
class SelfInfluenceDisplay:
    """Scatter: self-influence against training loss; what is high in both deserves a look.

    Parameters
    ----------
    loss, self_influence : ndarray of shape (n_train,)
    suspects : ndarray of bool, optional
        Records to mark, for instance known errors.
    labels : sequence, optional
        Names of the records; the `n_named` largest are written beside their points.
    """

    loss: Array
    self_influence: Array
    suspects: NDArray[np.bool_] | None = None
    labels: Any = None
    n_named: int = 5
    ax_: Axes | None = field(default=None, init=False)

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseInfluence,
        suspects: ArrayLike | None = None,
        n_named: int = 5,
        ax: Axes | None = None,
    ) -> Self:
        """Plot a fitted method that has an oracle."""
        if estimator.oracle_ is None:
            raise TypeError(
                "estimator must have an oracle, for the training losses; give arrays instead"
            )
        oracle = estimator.oracle_
        return cls(
            oracle.loss(oracle.X, oracle.y), estimator.self_influence(),
            None if suspects is None else np.asarray(suspects, dtype=bool),
            estimator.labels_, check_integer("n_named", n_named, low=0),
        ).plot(ax=ax)  # fmt: skip

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw onto ax, or onto a new figure."""
        self.ax_ = ax = axes(ax, figsize=(6, 4.5))
        marked = np.zeros(len(self.loss), dtype=bool) if self.suspects is None else self.suspects
        ax.scatter(self.loss[~marked], self.self_influence[~marked], s=14, color=BLUE, alpha=0.6)
        if marked.any():
            ax.scatter(
                self.loss[marked], self.self_influence[marked], s=22, color=RED, label="marked"
            )
            ax.legend(frameon=False)
        ax.set_xlabel("training loss")
        ax.set_ylabel("self-influence (its own loss without it − with it)")
        if self.labels is not None:
            for i in np.argsort(-np.nan_to_num(self.self_influence), kind="stable")[: self.n_named]:
                ax.annotate(
                    str(self.labels[i]), (self.loss[i], self.self_influence[i]), fontsize=8,
                    xytext=(-4, 2), textcoords="offset points", color="0.3", ha="right",
                )  # fmt: skip
        return self


@dataclass(repr=False)
class InfluenceAgreementDisplay:
    """Scatter: estimated against exact influence, with the line of agreement and the slope that was found.

    Parameters
    ----------
    estimate, truth : ndarray of the same shape
    name : str
    """

    estimate: Array
    truth: Array
    name: str = "estimate"
    slope_: float = field(default=float("nan"), init=False)
    ax_: Axes | None = field(default=None, init=False)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw onto ax, or onto a new figure."""
        self.ax_ = ax = axes(ax, figsize=(4.8, 4.5))
        agreement = loo_correlation(self.estimate, self.truth)
        self.slope_ = float(agreement["slope"])
        truth, estimate = np.ravel(self.truth), np.ravel(self.estimate)
        ax.scatter(truth, estimate, s=8, color=BLUE, alpha=0.3, rasterized=True)
        ax.axline((0, 0), slope=1, color="0.5", linewidth=1, label="agreement")
        ax.axline(
            (0, 0), slope=self.slope_, color=ORANGE, linewidth=1.5, linestyle="--",
            label=f"slope {self.slope_:.2f}, r = {agreement['pearson']:.3f}",
        )  # fmt: skip
        ax.set_xlabel("exact influence (leave-one-out)")
        ax.set_ylabel(self.name)
        ax.legend(frameon=False, loc="upper left")
        return self


@dataclass(repr=False)
class LDSDisplay:
    """Bars with intervals: linear datamodeling scores of several methods.

    Parameters
    ----------
    scores : mapping of name to LinearDatamodelingScore
    """

    scores: Mapping[str, LinearDatamodelingScore]
    ax_: Axes | None = field(default=None, init=False)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw onto ax, or onto a new figure; the best on top."""
        items = sorted(self.scores.items(), key=lambda item: item[1].score)
        self.ax_ = ax = axes(ax, figsize=(6, 0.9 + 0.32 * len(items)))
        values = np.array([s.score for _, s in items])
        low = values - [s.conf_low for _, s in items]
        high = np.array([s.conf_high for _, s in items]) - values
        ax.barh(range(len(items)), values, color=BLUE, alpha=0.85)
        ax.errorbar(values, range(len(items)), xerr=[low, high], fmt="none", color="0.2")
        ax.set_yticks(range(len(items)), [name for name, _ in items])
        ceilings = [s.noise_ceiling for _, s in items if np.isfinite(s.noise_ceiling)]
        if ceilings:
            ax.axvline(max(ceilings), color=GREY, linestyle=":", label="noise ceiling")
            ax.legend(frameon=False)
        ax.axvline(0, color="0.4", linewidth=1)
        ax.set_xlabel("linear datamodeling score")
        return self


@dataclass(repr=False)
class DetectionCurveDisplay:
    """How many bad records are found by looking through the records in the order of a score.

    Parameters
    ----------
    scores : mapping of name to array of shape (n_train,)
        Higher for suspects. Let the plain training loss be one of them.
    is_bad : array-like of bool, shape (n_train,)
    """

    scores: Mapping[str, ArrayLike]
    is_bad: ArrayLike
    ax_: Axes | None = field(default=None, init=False)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw onto ax, or onto a new figure."""
        self.ax_ = ax = axes(ax, figsize=(6, 4.2))
        is_bad = np.asarray(self.is_bad, dtype=bool)
        n = len(is_bad)
        seen = np.arange(n + 1) / n
        for colour, (name, values) in zip(PALETTE, self.scores.items(), strict=False):
            order = np.argsort(-np.asarray(values, dtype=float), kind="stable")
            found = np.concatenate([[0], np.cumsum(is_bad[order])]) / is_bad.sum()
            auc = roc_auc_score(is_bad, values)
            ax.plot(seen, found, color=colour, label=f"{name} (AUC {auc:.3f})")
        ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="random")
        ax.set_xlabel("share of records inspected")
        ax.set_ylabel("share of bad records found")
        ax.legend(frameon=False, fontsize=9)
        return self


@dataclass(repr=False)
class RemovalCurveDisplay:
    """Test loss as records are removed by a score, and at random.

    Parameters
    ----------
    tables : mapping of name to DataFrame
        As from `metrics.removal_curve`.
    """

    tables: Mapping[str, pd.DataFrame]
    ax_: Axes | None = field(default=None, init=False)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw onto ax, or onto a new figure."""
        self.ax_ = ax = axes(ax, figsize=(6, 4.2))
        for colour, (name, t) in zip(PALETTE, self.tables.items(), strict=False):
            ax.plot(t["fraction"], t["loss"], marker="o", markersize=4, color=colour, label=name)
        t = next(iter(self.tables.values()))
        half = 1.96 * t["random_std_error"]
        ax.plot(t["fraction"], t["random_loss"], color=GREY, linestyle=":", label="at random")
        ax.fill_between(
            t["fraction"], t["random_loss"] - half, t["random_loss"] + half, color=GREY, alpha=0.2
        )
        ax.set_xlabel("share of training records removed")
        ax.set_ylabel("mean test loss")
        ax.legend(frameon=False)
        return self


@dataclass(repr=False)
class CaseDiagnosticsDisplay:
    """Residuals against leverage with contours of Cook's distance, as R's ``plot(lm, which = 5)``.

    Parameters
    ----------
    leverage, residual, cook : ndarray of shape (n_train,)
        Residuals are standardised.
    n_params : int
    labels : sequence
    n_named : int, default=5
    """

    leverage: Array
    residual: Array
    cook: Array
    n_params: int
    labels: Any
    n_named: int = 5
    ax_: Axes | None = field(default=None, init=False)

    @classmethod
    def from_estimator(
        cls, estimator: RemovalInfluence, n_named: int = 5, ax: Axes | None = None
    ) -> Self:
        """Plot a fitted NewtonStep or LeaveOneOut of a model with one linear predictor."""
        oracle = estimator._one_predictor()
        h = estimator.leverage()
        w = oracle.curvatures(oracle.X, oracle.y)[:, 0, 0]
        v = oracle.sample_weight
        score = oracle.scores(oracle.X, oracle.y)[:, 0]
        scale = np.sqrt(estimator._dispersion()[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            residual = -score * np.sqrt(v / w) / (scale * np.sqrt(1 - h))
        return cls(
            h, residual, estimator.cooks_distance(), oracle.n_params, estimator.labels_,
            check_integer("n_named", n_named, low=0),
        ).plot(ax=ax)  # fmt: skip

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw onto ax, or onto a new figure."""
        self.ax_ = ax = axes(ax, figsize=(6, 4.5))
        ax.scatter(self.leverage, self.residual, s=16, color=BLUE, alpha=0.7)
        ax.axhline(0, color="0.6", linewidth=1)
        right = 1.1 * float(np.nanmax(self.leverage))
        h = np.linspace(1e-3, min(right, 0.999), 200)
        top = 1.15 * float(np.nanmax(np.abs(self.residual)))
        for distance in (0.5, 1.0):
            bound = np.sqrt(distance * self.n_params * (1 - h) / h)
            for sign in (1, -1):
                ax.plot(h, sign * bound, color=RED, linestyle="--", linewidth=1)
            if bound[-1] < top:
                ax.annotate(f"Cook {distance:g}", (h[-1], bound[-1]), xytext=(4, 0), fontsize=8,
                            textcoords="offset points", color=RED, va="center")  # fmt: skip
        for i in np.argsort(-np.nan_to_num(self.cook), kind="stable")[: self.n_named]:
            ax.annotate(
                str(self.labels[i]), (self.leverage[i], self.residual[i]), fontsize=8,
                xytext=(4, 2), textcoords="offset points", color="0.3",
            )  # fmt: skip
        ax.set_xlim(0, right)
        ax.set_ylim(-top, top)
        ax.set_xlabel("leverage")
        ax.set_ylabel("standardised residual")
        return self
