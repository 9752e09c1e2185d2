r"""The method that a model allows, cheapest first, with a certificate of its accuracy.

==================================== ==============================================================================
model                                what is done
==================================== ==============================================================================
squared loss (OLS, ridge, kernel     closed form: the Newton step is exact
ridge, Gaussian process)
other generalised linear models      Newton step; records whose step is not accurate (leverage above 0.9, no step, or
                                     a correction above 5 % of the step) are refitted from there, exactly
any other gradient oracle            influence function (curvature and solver chosen by size)
gradient-boosted trees               leaf refit up to a budget, else BoostIn
nearest neighbours                   exact KNN-Shapley
anything else that can be refitted   subset ensemble, with standard errors
==================================== ==============================================================================
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from .._validation import RandomState, check_choice, check_integer
from ._base import BaseInfluence
from .glm_families import Gaussian
from .glm_oracle import GLMOracle
from .glm_removal import chord_refits, newton_refit
from .knn_shapley import KNNShapley
from .models import make_oracle, split_pipeline
from .newton_step import HIGH_LEVERAGE, LARGE_GAP, NewtonStep
from .subset_ensemble import SubsetEnsemble
from .tree_influence import TreeInfluence

LEAF_REFIT_BUDGET = 10**9  # records squared times trees
METHODS = ("auto", "newton", "influence-function", "trees", "knn", "subsets")


class Influence(BaseInfluence):
    """Influence by the method that the model allows; see the module's table.

    Parameters
    ----------
    method : {"auto", "newton", "influence-function", "trees", "knn", "subsets"}, default="auto"
        "newton" is the Newton step with refinement.
    n_subsets : int, default=300
        For "subsets".
    random_state : int, Generator or None, default=None
    n_jobs, progress
        As in `statml.parallel.parallel_map`.

    Attributes
    ----------
    inner_ : BaseInfluence
        The fitted method; what it offers beyond the common face is found there.
    method_ : str
        What was done.
    diagnostics_ : dict
        The certificate: n_refined, records that were refitted exactly; relative_gap, what one more step would change
        in the others; max_leverage; rcond; stationarity, the Newton decrement of the model as it was
        fitted; or the diagnostics of the method that was chosen.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from statml.influence import Influence
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> pipe = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    >>> influence = Influence().fit(pipe, X, y)
    >>> influence.method_
    'Newton step, some records refitted'
    >>> 0 < influence.diagnostics_["n_refined"] < 200  # of 569
    True
    """

    def __init__(
        self,
        method: str = "auto",
        n_subsets: int = 300,
        random_state: RandomState = None,
        n_jobs: int | None = None,
        progress: bool | str = "auto",
    ):
        self.method = method
        self.n_subsets = n_subsets
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.progress = progress

    _needs_oracle = False

    def fit(
        self,
        estimator: Any,
        X: Any = None,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        **more: Any,
    ) -> Self:
        """As `BaseInfluence.fit`."""
        check_choice("method", self.method, METHODS)
        check_integer("n_subsets", self.n_subsets, low=2)
        self.inner_ = self._choose(estimator, X, y, sample_weight)
        self.inner_.fit(estimator, X, y, sample_weight, **more)
        inner = self.inner_
        self.oracle_, self.n_train_, self.labels_ = inner.oracle_, inner.n_train_, inner.labels_
        self.method_, self.n_fits_ = inner.method_, inner.n_fits_
        self.diagnostics_: dict[str, Any] = inner.diagnostics_
        self._memory_limit = inner._memory_limit
        return self

    def _choose(self, estimator, X, y, sample_weight) -> BaseInfluence:
        method = self.method
        if method == "auto":
            method = self._rung(estimator, X, y, sample_weight)
        if method == "newton":
            return RefinedNewtonStep()
        if method == "influence-function":
            from .influence_function import InfluenceFunction

            return InfluenceFunction(random_state=self.random_state)
        if method == "knn":
            final = None if estimator is None else split_pipeline(estimator)[1]
            return KNNShapley(
                kind="regression" if isinstance(final, KNeighborsRegressor) else "hard"
            )
        if method == "trees":
            final = split_pipeline(estimator)[1]
            rounds = getattr(final, "n_estimators", None) or getattr(final, "max_iter", 100)
            n_outputs = max(1, len(getattr(final, "classes_", [])) - 1)
            within = len(y) ** 2 * rounds * n_outputs <= LEAF_REFIT_BUDGET
            return TreeInfluence("leafrefit" if within else "boostin")
        return SubsetEnsemble(
            self.n_subsets, random_state=self.random_state, n_jobs=self.n_jobs,
            progress=self.progress,
        )  # fmt: skip

    def _rung(self, estimator, X, y, sample_weight) -> str:
        final = split_pipeline(estimator)[1]
        if isinstance(final, (KNeighborsClassifier, KNeighborsRegressor)):
            return "knn"
        if type(final).__name__.startswith(("GradientBoosting", "HistGradient", "LGBM", "XGB")):
            return "trees"
        try:
            oracle = make_oracle(estimator, X, y, sample_weight)
        except TypeError:
            if hasattr(final, "get_params"):
                return "subsets"
            raise
        if not isinstance(oracle, GLMOracle):
            return "influence-function"
        fits = 8 * oracle.n_params**2 <= oracle.memory_limit
        return "newton" if fits else "influence-function"

    # --- hooks: everything is the inner method's ---

    def _influence(self, X, y, target):
        result = self.inner_._influence(X, y, target)
        if hasattr(self.inner_, "influence_std_"):
            self.influence_std_ = self.inner_.influence_std_
        return result

    def _prepare(self, X, y, target):
        return self.inner_._prepare(X, y, target)

    def _self_influence(self):
        return self.inner_._self_influence()

    def _group_influence(self, index_sets, X, y, target):
        return self.inner_._group_influence(index_sets, X, y, target)

    def _parameter_change(self, index_sets):
        return self.inner_._parameter_change(index_sets)

    def _mean_values(self, X, y):
        return self.inner_._mean_values(X, y)

    def _training_records(self) -> tuple[Any, Any]:
        return self.inner_._training_records()


class RefinedNewtonStep(NewtonStep):
    """Newton steps, of which the inaccurate ones are carried on to the exact optimum."""

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val):
        self._n_refined = 0
        self._require_glm()
        stationarity, _ = self._converge(tol=1e-10)  # steps are compared with exact refits
        super()._fit(estimator, X, y, sample_weight, X_val, y_val)
        self.diagnostics_ |= {"n_refined": self._n_refined, "stationarity": stationarity}
        if self._n_refined:
            self.method_ += ", some records refitted"

    def _diagnose(self):
        super()._diagnose(warn=False)

    def _compute_changes(self, rows):
        oracle = self.oracle_
        changes = self._first_step(rows)
        if isinstance(oracle.family, Gaussian):
            return changes
        A = self._factor.completed
        size = np.sqrt(np.maximum(np.einsum("ij,ij->i", changes @ A, changes), 0))
        correction = np.full(len(rows), np.inf)
        after = np.full(changes.shape, np.nan)
        for part in oracle.batches(len(rows), 4 * oracle.n_train * oracle.family.n_outputs):
            penalty = np.tile(self._penalty, (part.stop - part.start, 1))
            after[part], _ = chord_refits(
                oracle,
                self._inverse,
                rows[part],
                oracle.theta + changes[part],
                penalty,
                0.0,
                steps=1,
            )
        after -= oracle.theta
        gap = after - changes
        fine = np.isfinite(gap).all(axis=1)
        correction[fine] = np.sqrt(np.maximum(np.einsum("ij,ij->i", gap[fine] @ A, gap[fine]), 0))
        poor = (correction > LARGE_GAP * size) | (self._leverage[rows] > HIGH_LEVERAGE)
        poor &= oracle.sample_weight[rows] > 0
        for k in np.flatnonzero(poor):
            weight = oracle.sample_weight.copy()
            weight[rows[k]] = 0.0
            begin = oracle.theta + after[k] if fine[k] else oracle.theta
            theta, good = newton_refit(oracle, weight, begin, self._penalty, 1e-10, 50)
            changes[k] = theta - oracle.theta if good else np.nan
        self._n_refined += int(poor.sum())
        n_undefined = int(np.isnan(changes).any(axis=1).sum())
        if n_undefined:
            warnings.warn(
                f"without each of {n_undefined} records the model has no finite optimum; their influence is NaN. "
                "A penalty makes it finite",
                stacklevel=5,
            )
        return changes
