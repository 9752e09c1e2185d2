"""Plots of a private posterior, in the manner of scikit-learn's displays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from scipy import stats

from .._display import BLUE, GREY, ORANGE, axes
from .._validation import RandomState, as_generator, check_choice, check_integer, check_level
from .kernels.chain import sums_the_model
from .protocols import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .diagnostics import CalibrationResult
    from .posterior import PrivatePosterior


@dataclass
class PosteriorDisplay:
    """Densities of one parameter: prior, private posterior, and the naive posterior that ignores the noise.

    Use `from_estimator`.

    Parameters
    ----------
    draws : dict of label -> ndarray
    term : str
    truth : float or None

    Attributes
    ----------
    ax_ : matplotlib Axes
        After `plot`.
    """

    draws: dict[str, Array]
    term: str
    truth: float | None = None
    ax_: Axes | None = field(default=None, init=False, repr=False)

    @classmethod
    def from_estimator(
        cls,
        estimator: PrivatePosterior,
        term: str | None = None,
        naive: bool | str = "auto",
        truth: float | None = None,
        n_prior: int = 4000,
        random_state: RandomState = 0,
        ax: Axes | None = None,
    ) -> Self:
        """Plot a fitted posterior.

        Parameters
        ----------
        estimator : PrivatePosterior
        term : str or None, default=None
            Which parameter; None takes the first.
        naive : "auto", True or False, default="auto"
            Whether to show the naive posterior; "auto" does where the model has one.
        truth : float or None, default=None
            Drawn as a line, where it is known.
        n_prior : int, default=4000
            Draws from the prior.
        random_state : int, Generator or None, default=0
        ax : matplotlib Axes, optional

        Returns
        -------
        PosteriorDisplay

        Examples
        --------
        >>> from statml.privacy import PosteriorDisplay, PrivatePosterior, mechanisms, models
        >>> posterior = PrivatePosterior(
        ...     models.BetaBernoulli(2, 3), mechanisms.DiscreteLaplace(2.0), 30, random_state=0
        ... ).fit([17])
        >>> PosteriorDisplay.from_estimator(posterior).ax_.get_xlabel()
        'p'
        """
        names = list(estimator.model.parameter_names)
        term = names[0] if term is None else check_choice("term", term, names)
        j, rng = names.index(term), as_generator(random_state)
        check_integer("n_prior", n_prior, low=2)
        draws = {}
        if getattr(estimator.model, "prior_is_proper", True):
            prior = [np.asarray(estimator.model.sample_prior(rng))[j] for _ in range(n_prior)]
            draws["prior"] = np.array(prior)
        draws["private posterior"] = estimator.draws_of()[term].to_numpy()
        can_be_naive = hasattr(estimator.model, "draw_from_totals") and sums_the_model(
            estimator.mechanism
        )
        if naive is True or (naive == "auto" and can_be_naive):
            naive_draws = estimator.naive_posterior(random_state=rng)
            draws["naive posterior"] = naive_draws[term].to_numpy()
        return cls(draws, term, truth).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        self
        """
        self.ax_ = ax = axes(ax)
        colours = {"prior": GREY, "private posterior": BLUE, "naive posterior": ORANGE}
        low, high = np.quantile(
            self.draws.get("prior", self.draws["private posterior"]), [0.01, 0.99]
        )
        inner = np.concatenate([v for name, v in self.draws.items() if name != "prior"])
        low = min(low, *np.quantile(inner, [0.001]))
        high = max(high, *np.quantile(inner, [0.999]))
        grid = np.linspace(low, high, 400)
        for label, draws in self.draws.items():
            if np.ptp(draws) == 0:
                ax.axvline(draws[0], color=colours[label], label=label)
                continue
            density = stats.gaussian_kde(draws)(grid)
            ax.plot(grid, density, color=colours[label], label=label)
            if label == "private posterior":
                ax.fill_between(grid, density, color=colours[label], alpha=0.15, linewidth=0)
        if self.truth is not None:
            ax.axvline(self.truth, color="black", linestyle=":", label="truth")
        ax.set(xlabel=self.term, ylabel="density", ylim=(0, None))
        ax.legend(frameon=False)
        return self


@dataclass
class AcceptanceDisplay:
    """Share of accepted proposals of each record, beside the bound that privacy guarantees.

    Use `from_estimator`.

    Parameters
    ----------
    record_acceptance : ndarray of shape (n_records,)
    bound : float
    average_bound : float

    Attributes
    ----------
    ax_ : matplotlib Axes
        After `plot`.
    """

    record_acceptance: Array
    bound: float
    average_bound: float
    ax_: Axes | None = field(default=None, init=False, repr=False)

    @classmethod
    def from_estimator(cls, estimator: PrivatePosterior, ax: Axes | None = None) -> Self:
        """Plot a fitted posterior whose kernel proposes records.

        Parameters
        ----------
        estimator : PrivatePosterior
        ax : matplotlib Axes, optional

        Returns
        -------
        AcceptanceDisplay

        Raises
        ------
        ValueError
            If the kernel did not propose records one by one.
        """
        check = estimator.check_acceptance().iloc[0]
        if not np.isfinite(estimator.record_acceptance_).all():
            raise ValueError(
                f'kernel {estimator.kernel_!r} does not propose records one by one; fit with kernel="mwg"'
            )
        return cls(
            estimator.record_acceptance_, float(check["bound"]), float(check["average_bound"])
        ).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        self
        """
        self.ax_ = ax = axes(ax)
        ordered = np.sort(self.record_acceptance)
        ax.plot(np.arange(1, len(ordered) + 1), ordered, ".", color=BLUE, label="records")
        if self.bound > 0:
            ax.axhline(self.bound, color=ORANGE, label="bound in every state")
        if np.isfinite(self.average_bound) and self.average_bound > 0:
            ax.axhline(
                self.average_bound,
                color=ORANGE,
                linestyle="--",
                label="bound on average over releases",
            )
        ax.set(xlabel="record, by acceptance", ylabel="share of proposals accepted", ylim=(0, 1.02))
        ax.legend(frameon=False)
        return self


@dataclass
class CalibrationDisplay:
    """Distribution functions of the ranks of simulation-based calibration minus that of a uniform law, with a band.

    Use `from_result`.

    Parameters
    ----------
    ranks : DataFrame of n_sims rows
    n_draws : int
    level : float
        Of the band, for all points of one curve together (Kolmogorov-Smirnov).

    Attributes
    ----------
    ax_ : matplotlib Axes
        After `plot`.
    """

    ranks: pd.DataFrame
    n_draws: int
    level: float
    ax_: Axes | None = field(default=None, init=False, repr=False)

    @classmethod
    def from_result(
        cls, result: CalibrationResult, level: float = 0.95, ax: Axes | None = None
    ) -> Self:
        """Plot the result of `simulation_based_calibration`.

        Parameters
        ----------
        result : CalibrationResult
        level : float, default=0.95
        ax : matplotlib Axes, optional

        Returns
        -------
        CalibrationDisplay
        """
        return cls(result.ranks, result.n_draws, check_level(level)).plot(ax=ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional

        Returns
        -------
        self
        """
        self.ax_ = ax = axes(ax)
        grid = np.arange(self.n_draws + 1)
        uniform = (grid + 1) / (self.n_draws + 1)
        half = stats.kstwo.ppf(self.level, len(self.ranks))
        ax.fill_between(uniform, -half, half, color="0.9", label=f"{100 * self.level:g}% band")
        for name, ranks in self.ranks.items():
            ecdf = np.searchsorted(np.sort(ranks), grid, side="right") / len(ranks)
            ax.step(uniform, ecdf - uniform, where="post", label=name)
        ax.set(xlabel="rank of the true value, scaled", ylabel="ECDF minus uniform", xlim=(0, 1))
        ax.legend(frameon=False)
        return self
