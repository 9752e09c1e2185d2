r"""Intervals for group DRO: the sandwich of its optimality conditions, and subsampling where that fails.

At the optimum, with A the groups whose weight is strictly between its bounds,

.. math::  \sum_g q_g \nabla L_g(w) + l_2 w = 0, \qquad L_g(w) + a_g - t = 0 \; (g \in A), \qquad \sum_g q_g = 1,

estimating equations for :math:`\theta = (w, q_A, t)`, whose derivative and scores, up to the factor
:math:`n_g / (n_g - 1)` that makes covariances within groups unbiased, are

.. math::  K = \begin{pmatrix} H & J_A' & 0 \\ J_A & 0 & -1 \\ 0 & 1' & 0 \end{pmatrix}, \qquad
           \psi_i = \begin{pmatrix} \sum_g q_g V_{ig} (\nabla \ell_i - \nabla L_g) \\ V_{ig} (\ell_i - L_g), \; g \in A \\ 0 \end{pmatrix},
           \qquad \mathrm{cov}(\hat\theta) = K^{-1} \Big( \sum_i \psi_i \psi_i' \Big) K^{-T} .

Rows are independent given their groups; sizes of groups are taken as fixed. With `l2` > 0 the intervals are for the
minimiser of the penalised expected loss. Where an offset is estimated, its row losses are subtracted from
:math:`\ell_i` (the envelope theorem: at a minimum the estimated baseline moves only through them).

The expansion holds if weights vanish exactly for the groups whose loss is below t. If a group ties without having
weight, or an active weight is within its error of zero, the limit is not normal and the ordinary bootstrap is inconsistent
(Shapiro, A. 1989, Asymptotic properties of statistical estimators in stochastic programming, Annals of Statistics 17,
841-858); subsampling, fits to fewer rows drawn without replacement, remains valid (Politis, D. N. and Romano, J. P. 1994,
Annals of Statistics 22, 2031-2050).

Cost: one Hessian and O(n (p + m)^2); subsampling, `N_SUBSAMPLES` fits.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field, replace
from functools import partial

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.utils.validation import check_is_fitted
from statsmodels.iolib.summary import Summary

from .._validation import RandomState, check_choice, check_integer, check_level, check_number
from ..inference import Coefficients, InferenceMixin, percentile_interval, sandwich
from ..parallel import parallel_map
from .membership import HardGroups
from .offsets import group_offsets
from .solver import Point, Problem, gram, solve_any_shape

Array = NDArray[np.float64]

TIE = norm.ppf(0.975)  # standard errors within which a group is not told apart from a tie
REMEDY = 'inference="subsample" remains valid'
MOST_PARAMETERS = 0.2  # of them a row, up to which the expansion is trusted
N_SUBSAMPLES = 200


@dataclass(frozen=True)
class KKTInference:
    """Estimates of (w, q, level, group losses) with their covariance.

    Attributes
    ----------
    w : ndarray of shape (p K,)
    q : ndarray of shape (m,)
    level : float
        The optimum of max_q q'(L + a) without the penalty: for group DRO the loss t of the worst group.
    group_losses : ndarray of shape (m,)
        With offsets.
    covariance : ndarray
        Of all of these, in this order.
    doubts : list of str
        Why the normal approximation may fail.
    """

    w: Array
    q: Array
    level: float
    group_losses: Array
    covariance: Array
    doubts: list[str]

    @property
    def std_error(self) -> Array:
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))


def kkt_inference(
    problem: Problem,
    w: Array,
    q: Array,
    offsets: Array,
    baseline: Array,
    caps: Array,
    labels: NDArray,
) -> KKTInference:
    """The sandwich at a solution; arguments as in `solver.solve` and from `offsets.group_offsets`."""
    point, groups = Point(problem, w), problem.groups
    n, (p, K), m = len(problem.y), problem.shape, len(q)
    free = np.flatnonzero((q > 0) & (q < caps))
    if len(free) == 0:
        free = np.array([np.argmax(q)])
    V = groups.columns(np.arange(m))
    adjusted = point.group_losses + offsets

    gradients = np.einsum("ij,ik->ijk", problem.X, point.derivatives[0]).reshape(n, -1)
    J = point.jacobian
    v = groups.row_weights(q)
    sizes = groups.effective_sizes()
    alone = (sizes < 1 + 1e-9) & (q > 0)
    # unbiased covariances within the groups
    unbiased = V * np.sqrt(sizes / np.where(sizes < 1 + 1e-9, np.inf, sizes - 1))
    scores_w = (unbiased @ q)[:, None] * gradients - (unbiased * q) @ J
    relative = point.losses[:, None] - baseline  # (n, 1) or (n, m)
    scores_l = unbiased * (relative - (V * relative).sum(axis=0))

    d, k = p * K, len(free)
    system = np.zeros((d + k + 1, d + k + 1))
    hessian = gram(problem.X, v[:, None, None] * point.derivatives[1])
    hessian += np.diag(np.repeat(problem.penalty[:, 0], K))
    if K > 1:  # fix the common shift of all classes, as the solver does
        hessian += np.kron(np.eye(p), np.full((K, K), np.trace(hessian) / d / K))
    system[:d, :d] = hessian
    system[:d, d : d + k], system[d : d + k, :d] = J[free].T, J[free]
    system[d : d + k, -1], system[-1, d : d + k] = -1.0, 1.0
    doubts = []
    if alone.any():
        named = _named(labels, np.flatnonzero(alone))
        doubts.append(f"group {named} has weight but one row only, whose error is unknown")
    if d > MOST_PARAMETERS * n:
        doubts.append(
            f"{d} parameters are many for {n} rows, and standard errors of first order too small"
        )
    size = np.sqrt(np.abs(system).max(axis=1))  # the blocks differ in units
    scaled = system / size[:, None] / size
    if np.linalg.cond(scaled) > 1e12:
        doubts.append(
            "the optimality conditions are nearly singular (collinear columns, or groups whose weights are not "
            "identified); their generalised inverse is used"
        )
        inverse = np.linalg.pinv(scaled, rcond=1e-12, hermitian=False)
    else:
        inverse = np.linalg.inv(scaled)
    inverse = inverse / size[:, None] / size

    # Linear maps from the scores (w part, loss part of every group) to every reported quantity.
    to_theta = -np.column_stack([inverse[:, :d], inverse[:, d : d + k] @ np.eye(m)[free]])
    to_q = np.zeros((m, d + m))
    to_q[free] = to_theta[d : d + k]
    to_losses = np.column_stack([np.zeros((m, d)), np.eye(m)]) + J @ to_theta[:d]
    to_level = q @ to_losses + adjusted @ to_q
    maps = np.vstack([to_theta[:d], to_q, to_level, to_losses])
    covariance = sandwich(maps, np.column_stack([scores_w, scores_l]))
    result = KKTInference(w.ravel(), q, float(q @ adjusted), adjusted, covariance, doubts)
    doubts += _unstable(result, free, caps, labels)
    return result


def _unstable(fit: KKTInference, free: NDArray, caps: Array, labels: NDArray) -> list[str]:
    """Groups that are not told apart from a tie without weight."""
    d, m = len(fit.w), len(fit.q)
    error_q = fit.std_error[d : d + m]
    doubts = []
    if len(free) > 1:
        room = np.where(caps < 1, np.minimum(fit.q, caps - fit.q), fit.q)
        near = free[room[free] < TIE * error_q[free]]
        if len(near):
            doubts.append(
                f"the weight of group {_named(labels, near)} is within its error of a bound ({REMEDY})"
            )
    level = fit.group_losses[free].mean()
    at_level, losses = d + m + 1 + free[0], slice(d + m + 1, None)
    variance = np.diag(fit.covariance)[losses]
    of_difference = (
        variance + fit.covariance[at_level, at_level] - 2 * fit.covariance[at_level, losses]
    )
    distance = np.abs(fit.group_losses - level)
    tied = distance < TIE * np.sqrt(np.maximum(of_difference, 0.0))
    tied[free] = False
    if tied.any():
        doubts.append(
            f"the loss of group {_named(labels, np.flatnonzero(tied))} is within its error of a tie with "
            f"the worst ({REMEDY})"
        )
    return doubts


def _named(labels: NDArray, which: NDArray) -> str:
    shown = ", ".join(str(label) for label in labels[which[:5]])
    return shown + (", ..." if len(which) > 5 else "")


# --- subsampling ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SubsampleCoefficients(Coefficients):
    """Estimates with intervals from the deviations of subsample estimates, scaled to the full sample.

    Parameters
    ----------
    deviations : ndarray of shape (n_subsamples, k)
    """

    deviations: Array = field(default=None, repr=False)

    def table(self, level: float = 0.95) -> pd.DataFrame:
        table = super().table(level)
        low, high = percentile_interval(self.deviations, check_level(level)).T
        table["conf_low"], table["conf_high"] = self.estimate - high, self.estimate - low
        beyond = np.minimum(
            (self.deviations >= self.estimate).sum(axis=0),
            (self.deviations <= self.estimate).sum(axis=0),
        )
        n = len(self.deviations)
        table["p_value"] = np.minimum(2 * (1 + beyond) / (1 + n), 1.0)
        return table


def subsample_deviations(
    problem: Problem,
    estimate: Array,
    caps: Array,
    offset,
    adjustment: float,
    tol: float,
    max_iter: int,
    n_subsamples: int,
    fraction: float,
    **parallel,
) -> Array:
    """Deviations of (w, q, level) over subsamples, in the scale of the full sample.

    Without replacement a share f of each group leaves the factor sqrt(f / (1 - f)) between the spread of the
    subsample's estimate about the full one and that of the full one about the truth.
    """
    settings = caps, offset, adjustment, tol, max_iter, fraction
    data = problem.X, problem.y, vars(problem.groups), problem.l2, problem.intercept
    # A checkpoint belongs to exactly this problem.
    identity = joblib.hash((data, repr(problem.loss), settings))
    draws = parallel_map(
        partial(_refit, problem, *settings),
        range(n_subsamples),
        description=f"subsampling ({identity[:8]})",
        **parallel,
    )
    return (np.array(draws) - estimate) * np.sqrt(fraction / (1 - fraction))


def _refit(problem, caps, offset, adjustment, tol, max_iter, fraction, _, rng) -> Array:
    groups = problem.groups
    if isinstance(groups, HardGroups):
        parts = np.split(np.arange(len(problem.y)), groups.bounds[1:-1])
        chosen = [
            rng.choice(part, max(round(fraction * len(part)), min(2, len(part))), replace=False)
            for part in parts
        ]
        rows = np.concatenate(chosen)
    else:
        rows = rng.choice(len(problem.y), round(fraction * len(problem.y)), replace=False)
    part = groups.take(rows)
    rows = rows[part.order]
    small = replace(
        problem, X=np.ascontiguousarray(problem.X[rows]), y=problem.y[rows], groups=part
    )
    # The adjustment belongs to the full sample's sizes: it is a constant of the problem.
    constant = adjustment / np.sqrt(problem.groups.effective_sizes()) if adjustment else 0.0
    offsets = group_offsets(small, offset, 0.0)[0] + constant
    fit = solve_any_shape(small, offsets, caps, tol, max_iter)
    adjusted = fit.point.group_losses + offsets
    return np.r_[fit.w.ravel(), fit.q, fit.q @ adjusted]


# --- the estimator's verbs ------------------------------------------------------------------------------


class GroupInferenceMixin(InferenceMixin):
    """Tables and intervals of a fitted group DRO model; terms are coefficients, group weights and the worst loss."""

    def tidy(self, level: float = 0.95, inference: str = "sandwich") -> pd.DataFrame:
        """One row a term: coefficients, intercept, weights q of the groups, worst-group loss.

        Parameters
        ----------
        level : float, default=0.95
        inference : {"sandwich", "subsample"}, default="sandwich"
            Normal intervals, or intervals from subsamples (see `subsample`), which hold also where groups tie.

        Returns
        -------
        DataFrame
            Columns term, estimate, std_error, statistic, p_value, conf_low, conf_high.

        Warns
        -----
        UserWarning
            The first time, if "sandwich" is in doubt because the set of active groups is.
        """
        check_is_fitted(self)
        return self._coefficients(inference).table(level)

    def conf_int(self, level: float = 0.95, inference: str = "sandwich") -> pd.DataFrame:
        """Confidence intervals, columns conf_low and conf_high; arguments as in `tidy`."""
        return self.tidy(level, inference).set_index("term")[["conf_low", "conf_high"]]

    def summary(self, level: float = 0.95, inference: str = "sandwich") -> Summary:
        """The fit as a table for reading; arguments as in `tidy`."""
        check_is_fitted(self)
        check_choice("inference", inference, ("sandwich", "subsample"))
        self._shown = inference
        try:
            return super().summary(level)
        finally:
            del self._shown

    def group_table(self, level: float = 0.95) -> pd.DataFrame:
        """Every group with its weight and loss; intervals hold for all losses at once (Bonferroni).

        Parameters
        ----------
        level : float, default=0.95
            Of all intervals together.

        Returns
        -------
        DataFrame
            Columns group, n, weight, loss, std_error, conf_low, conf_high; the loss includes the offset, and its
            error that of the coefficients.
        """
        check_is_fitted(self)
        level = check_level(level)
        fit = self._sandwich()
        m = len(fit.q)
        error = fit.std_error[-m:]
        half = norm.ppf(1 - (1 - level) / (2 * m)) * error
        return pd.DataFrame(
            {
                "group": self.groups_,
                "n": self.group_sizes_,
                "weight": fit.q,
                "loss": fit.group_losses,
                "std_error": error,
                "conf_low": fit.group_losses - half,
                "conf_high": fit.group_losses + half,
            }
        )

    def subsample(
        self,
        n_subsamples: int = N_SUBSAMPLES,
        fraction: float | None = None,
        random_state: RandomState = None,
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike[str] | None = None,
    ) -> SubsampleCoefficients:
        """Refit to subsamples, drawn without replacement within the groups, and keep the result for `tidy`.

        Parameters
        ----------
        n_subsamples : int, default=200
        fraction : float in (0, 1) or None, default=None
            Share of each group's rows; None means n^(-1/4), a quarter of 250 rows and a tenth of 10,000. Smaller is
            safer against ties, larger keeps the small groups large enough for a fit.
        random_state : default=None
            None means the estimator's own.
        n_jobs, progress, checkpoint_dir
            As in `statml.parallel.parallel_map`.

        Returns
        -------
        SubsampleCoefficients
        """
        check_is_fitted(self)
        check_integer("n_subsamples", n_subsamples, low=2)
        problem, fit = self._problem, self._solution
        if fraction is None:
            fraction = len(problem.y) ** -0.25
        fraction = check_number("fraction", fraction, 0, 1, low_open=True, high_open=True)
        estimate = np.r_[fit.w.ravel(), fit.q, self._level()]
        deviations = subsample_deviations(
            problem,
            estimate,
            self._caps,
            self.offset,
            self.adjustment,
            self.tol,
            self.max_iter,
            n_subsamples,
            fraction,
            random_state=self.random_state if random_state is None else random_state,
            n_jobs=n_jobs,
            progress=progress,
            checkpoint_dir=checkpoint_dir,
        )
        error = np.sqrt((deviations**2).mean(axis=0))
        self._subsampled = SubsampleCoefficients(self._terms(), estimate, error, None, deviations)
        return self._subsampled

    def _level(self) -> float:
        return float(self._solution.q @ (self.group_losses_ + self._offsets))

    def _terms(self) -> list[str]:
        p = self._problem.shape[0] - self.fit_intercept
        names = getattr(self, "feature_names_in_", None)
        features = [f"x{j}" for j in range(p)] if names is None else names.tolist()
        features = [*features, "intercept"] if self.fit_intercept else features
        level = "worst-group loss" if self.alpha is None else "CVaR of group losses"
        if self.offset is not None or self.adjustment:
            level += " with offset"
        return [*self._term_names(features), *(f"q[{label}]" for label in self.groups_), level]

    def _sandwich(self) -> KKTInference:
        if self._inference is None:
            s = self._solution
            self._inference = kkt_inference(
                self._problem, s.w, s.q, self._offsets, self._baseline, self._caps, self.groups_
            )
            if self._inference.doubts:
                warnings.warn(
                    "intervals may be wrong: " + "; ".join(self._inference.doubts),
                    UserWarning,
                    stacklevel=4,
                )
        return self._inference

    def _coefficients(self, inference: str | None = None) -> Coefficients:
        inference = getattr(self, "_shown", "sandwich") if inference is None else inference
        check_choice("inference", inference, ("sandwich", "subsample"))
        if inference == "subsample":
            return self.subsample() if self._subsampled is None else self._subsampled
        fit = self._sandwich()
        k = len(fit.w) + len(fit.q) + 1
        error = fit.std_error[:k].copy()
        weights = slice(len(fit.w), len(fit.w) + len(fit.q))
        # A weight that stands on a bound has no error of its own to first order.
        between = (fit.q > 0) & (fit.q < self._caps)
        error[weights] = np.where(between & (between.sum() > 1), error[weights], np.nan)
        return Coefficients(self._terms(), np.r_[fit.w, fit.q, fit.level], error)

    def _glance(self) -> dict[str, object]:
        return {
            "n_obs": len(self._problem.y),
            "n_groups": len(self.groups_),
            "n_active": len(self.active_groups_),
            "l2": float(self.l2),
            "objective": self.objective_,
            "dual_objective": self.dual_objective_,
            "duality_gap": self.duality_gap_,
            "worst_group_loss": self.worst_group_loss_,
            "n_iter": self.n_iter_,
        }

    def _summary_notes(self) -> list[str]:
        worst = self.groups_[int(np.argmax(self.group_losses_))]
        notes = [
            f"Worst group: {worst}. q[g] is the weight of group g in the weighted regression that this fit is.",
        ]
        if self.l2 > 0:
            notes.append(f"Intervals are for the penalised coefficients, l2 = {self.l2:g}.")
        if getattr(self, "_shown", "sandwich") == "sandwich":
            notes += [f"In doubt: {doubt}." for doubt in self._sandwich().doubts]
        else:
            notes.append("Intervals from subsamples.")
        return notes
