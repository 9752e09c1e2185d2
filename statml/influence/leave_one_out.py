r"""Leave-one-out: the model without each record, exactly.

.. math::  I(z_i, z) = \ell(z; \theta_{D \setminus i}) - \ell(z; \theta_D)

For a generalised linear model the optimum without i is reached from the Newton step in a few iterations, all records
at once in matrix products (`glm_removal`), and nothing is refitted from scratch. For any other estimator a clone is
fitted to the data without i.

Two conventions for a penalised model: keep the penalty of the *sum* objective (what refitting Ridge(alpha) or
LogisticRegression(C) does) or of the *mean* objective, which then shrinks by (V - v_i) / V in the sum (what
refitting PoissonRegressor(alpha) or ElasticNet(alpha) does), V the sum of the weights.

Reference: Hammoudeh, Z. and Lowd, D. (2024). Training data influence analysis and estimation: a survey. Machine
Learning 113, 2351-2403, equation (8).

Cost: O(n^2 p) an iteration, a dozen of them at most, or n fits.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from .._validation import RandomState, check_choice, check_integer, check_number
from ._removal import RemovalInfluence
from .glm_families import Gaussian
from .glm_oracle import row_kron
from .glm_removal import chord_refits, group_newton_step, newton_refit, removal_coefficients
from .oracle import count
from .retraining import CloneLearner, content_key, fit_subsets, value_of


class LeaveOneOut(RemovalInfluence):
    """Exact leave-one-out influence.

    Parameters
    ----------
    warm_start : bool, default=True
        True: generalised linear models and kernel ridge regression, refitted by Newton steps from the full fit,
        with the steps before a Pipeline's last held as they are. False: any scikit-learn estimator, which is
        cloned and fitted n times, a Pipeline with all its steps.
    alpha_convention : {"refit", "sum", "mean"}, default="refit"
        Penalty of the model without a record: what refitting the estimator does, the one of the sum objective
        or that of the mean objective. For `warm_start=True`.
    tol : float, default=1e-10
        Newton decrement at which a refit has converged.
    max_iter : int, default=50
        Newton steps for a record that the joint iterations leave unfinished.
    random_state : int, Generator or None, default=None
        Fixes the random_state of the clones.
    n_jobs, progress, checkpoint_dir
        For the clones, as in `statml.parallel.parallel_map`. With checkpoint_dir no models are kept, and X_val and
        y_val in ``fit`` say what will be asked for.

    Attributes
    ----------
    diagnostics_ : dict
        max_leverage, rcond; n_newton, records that needed steps of their own; n_undefined, records without which
        the model has no finite optimum (their influence is NaN, with a warning); stationarity, the Newton decrement
        of the model as it was fitted; fit and refits are compared at the converged optimum.
    n_fits_ : int

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from statml.influence import LeaveOneOut
    >>> X, y = load_diabetes(return_X_y=True)
    >>> loo = LeaveOneOut().fit(Ridge(alpha=1).fit(X, y), X, y)
    >>> loo.influence(X[:2], y[:2])[:, :3].round(4)
    array([[8.9281, 0.0847, 7.1735],
           [0.0846, 2.5944, 0.697 ]])
    """

    def __init__(
        self,
        warm_start: bool = True,
        alpha_convention: str = "refit",
        tol: float = 1e-10,
        max_iter: int = 50,
        random_state: RandomState = None,
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike[str] | None = None,
    ):
        self.warm_start = warm_start
        self.alpha_convention = alpha_convention
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir

    @property
    def _needs_oracle(self):
        return self.warm_start

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val):
        check_choice("alpha_convention", self.alpha_convention, ("refit", "sum", "mean"))
        check_number("tol", self.tol, 0, low_open=True)
        check_integer("max_iter", self.max_iter, low=1)
        if self.warm_start:
            self._fit_warm()
        else:
            self._fit_cold(estimator, X, y, sample_weight, X_val, y_val)

    # --- warm: generalised linear models ---

    def _fit_warm(self):
        self._require_glm()
        stationarity, factor = self._converge(self.tol, self.max_iter)
        oracle = self.oracle_
        self._factor = factor
        self._inverse = factor.inverse()
        self._c, self._leverage = removal_coefficients(oracle, self._inverse)
        self._n_newton = self._n_undefined = 0
        self._keep_changes()
        self.n_fits_ = self.n_train_
        self.method_ = "leave-one-out (exact, warm start)"
        self.diagnostics_: dict[str, Any] = {
            "max_leverage": float(self._leverage.max()),
            "rcond": factor.rcond,
            "stationarity": stationarity,
            "n_newton": self._n_newton,
            "n_undefined": self._n_undefined,
        }
        if self._n_undefined:
            warnings.warn(
                f"without each of {self._n_undefined} records the model has no finite optimum (a class disappears, "
                "the classes become separable, or a parameter is lost); their influence is NaN. A penalty makes "
                "it finite",
                stacklevel=4,
            )

    def _penalty_without(self, members):
        """Diagonal R of the sum objective without the members."""
        oracle = self.oracle_
        R = oracle.n_train * oracle.regulariser()
        convention = self.alpha_convention
        scales = convention == "mean" or (convention == "refit" and oracle.penalty_scales)
        v = oracle.sample_weight
        return R * (1 - v[members].sum() / v.sum()) if scales else R

    def _compute_changes(self, rows):
        oracle = self.oracle_
        start = row_kron(self._c[rows], oracle.X[rows]) @ self._inverse
        theta = oracle.theta + start
        penalty = np.stack([self._penalty_without([i]) for i in rows])
        same = np.array_equal(penalty[0], oracle.n_train * oracle.regulariser())
        if isinstance(oracle.family, Gaussian) and same and not self._scaled_linear():
            converged = np.isfinite(theta).all(axis=1)  # the Newton step is exact
        else:
            converged = np.zeros(len(rows), dtype=bool)
            if not self._scaled_linear():
                width = 4 * oracle.n_train * oracle.family.n_outputs
                for part in oracle.batches(len(rows), width):
                    theta[part], converged[part] = chord_refits(
                        oracle, self._inverse, rows[part], theta[part], penalty[part], self.tol
                    )
        for k in np.flatnonzero(~converged):
            begin = theta[k] if np.isfinite(theta[k]).all() else oracle.theta
            theta[k], good = self._refit([rows[k]], begin)
            self._n_newton += 1
            if not good:
                theta[k] = np.nan
                self._n_undefined += 1
        return theta - oracle.theta

    def _scaled_linear(self) -> bool:
        """Whether an L1 penalty shrinks with the data, so that the linear term of the objective does."""
        scales = self.alpha_convention != "sum" and self.oracle_.penalty_scales
        return bool(scales and (self.oracle_.linear != 0).any())

    def _refit(self, members, begin):
        oracle = self.oracle_
        weight = oracle.sample_weight.copy()
        weight[members] = 0.0
        if self._scaled_linear():
            linear = oracle.linear * weight.sum() / oracle.sample_weight.sum()
            oracle = oracle.with_theta(oracle.theta)
            oracle.linear = linear
        return newton_refit(
            oracle, weight, begin, self._penalty_without(members), self.tol, self.max_iter
        )

    def _group_change(self, members):
        change = group_newton_step(self.oracle_, self._factor, members)
        begin = self.oracle_.theta + (change if np.isfinite(change).all() else 0.0)
        theta, good = self._refit(members, begin)
        if not good:
            warnings.warn(
                f"without a group of {len(members)} records the model has no finite optimum; its influence is NaN",
                stacklevel=5,
            )
            return np.full(len(theta), np.nan)
        return theta - self.oracle_.theta

    # --- cold: clones of any estimator ---

    def _fit_cold(self, estimator, X, y, sample_weight, X_val, y_val):
        self._learner = CloneLearner(estimator, X, y, sample_weight)
        n = self.n_train_
        everyone = np.arange(n)
        subsets = [everyone, *(np.delete(everyone, i) for i in range(n))]
        records = [self._learner.check_records(X, y)]
        if X_val is not None:
            records.append(self._learner.check_records(X_val, y_val))
        self._records = records
        self._outputs, self._models = self._fit_clones(subsets, self.checkpoint_dir is None)
        self._kept = {}
        start = 0
        for pair in records:
            self._kept[content_key(pair)] = slice(start, start + count(pair[0]))
            start += count(pair[0])
        self.n_fits_ = len(subsets)
        self.method_ = "leave-one-out (refits)"

    def _fit_clones(self, subsets, keep_models):
        return fit_subsets(
            self._learner, subsets, self._records,
            keep_models=keep_models, random_state=self.random_state, n_jobs=self.n_jobs,
            progress=self.progress, checkpoint_dir=self.checkpoint_dir, description="leave-one-out",
        )  # fmt: skip

    def _prepare(self, X, y, target):
        if self.warm_start:
            return super()._prepare(X, y, target)
        X, y = self._learner.check_records(X, y)
        if y is None and (target == "loss" or self._learner.classifies):
            raise ValueError(f'y_test must be given for target="{target}"')
        return X, y

    def _training_records(self):
        return super()._training_records() if self.warm_start else self._records[0]

    def _influence(self, X, y, target):
        if self.warm_start:
            return super()._influence(X, y, target)
        outputs = self._outputs_for(X, y)
        values = value_of(outputs, y, self._learner.classifies, target)
        change = values[1:] - values[0]
        return (change if target == "loss" else -change).T

    def _self_influence(self):
        if self.warm_start:
            return super()._self_influence()
        y = self._records[0][1]
        own = np.arange(self.n_train_)
        losses = value_of(self._outputs[:, : self.n_train_], y, self._learner.classifies)
        return losses[1:][own, own] - losses[0]

    def _group_influence(self, index_sets, X, y, target):
        if self.warm_start:
            return super()._group_influence(index_sets, X, y, target)
        everyone = np.arange(self.n_train_)
        subsets = [everyone, *(np.setdiff1d(everyone, members) for members in index_sets)]
        outputs, _ = fit_subsets(
            self._learner, subsets, [(X, y)],
            random_state=self.random_state, n_jobs=self.n_jobs, progress=self.progress,
        )  # fmt: skip
        self.n_fits_ += len(subsets)
        values = value_of(outputs, y, self._learner.classifies, target)
        change = values[1:] - values[0]
        return (change if target == "loss" else -change).T

    def _parameter_change(self, index_sets):
        if self.warm_start:
            return super()._parameter_change(index_sets)
        raise TypeError(
            "parameter changes need warm_start=True, which knows the model's parameters"
        )

    def _outputs_for(self, X: Any, y: Any):
        """Outputs of all models on given records: those kept at fit, or from the models."""
        if self._models is not None:
            return np.stack([self._learner.outputs(m[0], X, y) for m in self._models])
        kept = self._kept.get(content_key((X, y)))
        if kept is None:
            raise ValueError(
                "no models were kept, so X_test and y_test must be the X_val and y_val of fit or its training data; "
                "name them there, or leave checkpoint_dir out"
            )
        return self._outputs[:, kept]
