r"""The Newton step: parameters without a record from one exact step, no refit.

.. math::  \theta_{-i} - \theta \approx A^{-1} J_i^T (I - S_i Q_i)^{-1} v_i s_i

(`glm_removal`; for one linear predictor :math:`A^{-1} x_i s_i / (1 - h_i)`). It is exact for squared loss, where it
is the classical deletion formula; known otherwise as approximate leave-one-out (Rad and Maleki 2020) or, added up over
a group, as the rescaled influence function (Rubinstein and Hopkins 2025). It errs by O(d / n^2) where the plain
influence function errs by O(d^{1.5} / n^2) of an effect of O(1 / n).

Penalties keep their strength in the sum objective. A group is removed by its own Newton step rather than by adding up
its members.

Cost: O(n p^2 + p^3) once, and O(n_test n p) for a result.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .._validation import check_integer, check_number
from ._removal import RemovalInfluence
from .glm_families import Gaussian
from .glm_oracle import row_kron
from .glm_removal import (
    chord_refits,
    group_newton_step,
    newton_refit,
    removal_coefficients,
)

HIGH_LEVERAGE = 0.9
LARGE_GAP = 0.05
SAMPLE = 50  # records at which the step is checked


class NewtonStep(RemovalInfluence):
    """Influence by one Newton step per record (or two), for generalised linear models and kernel ridge.

    Parameters
    ----------
    order : {1, 2}, default=1
        Number of exact Newton steps. The second costs O(n p^2 + p^3) for each record and leaves errors of the
        order of 1e-9.
    damping : float, default=0.0
        Added to the diagonal of the mean Hessian.

    Attributes
    ----------
    oracle_, n_train_, labels_, method_, n_fits_
        As in `BaseInfluence`.
    diagnostics_ : dict
        max_leverage; n_high_leverage (above 0.9); rcond, the scaled Hessian's reciprocal condition number;
        stationarity, the Newton decrement of the fit over the root mean square effect (a fit that has not
        converged makes it large); relative_gap, the error of the step that one more step would repair, relative to
        the step, over about 50 records; n_undefined, records without which there is no optimum.

    Warns
    -----
    UserWarning
        If relative_gap exceeds 0.05, a leverage 0.9 or stationarity 1.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from statml.influence import NewtonStep
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> pipe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(X[:400], y[:400])
    >>> step = NewtonStep().fit(pipe, X[:400], y[:400])
    >>> step.influence(X[400:], y[400:]).shape
    (169, 400)
    >>> step.rank(X[400:], y[400:], k=3)["row"].tolist()
    [297, 135, 40]
    """

    def __init__(self, order: int = 1, damping: float = 0.0):
        self.order = order
        self.damping = damping

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val):
        check_integer("order", self.order, 1, 2)
        check_number("damping", self.damping, 0)
        oracle = self._require_glm()
        self._factor = oracle.factor(self.damping)
        self._inverse = self._factor.inverse()
        self._c, self._leverage = removal_coefficients(oracle, self._inverse)
        self._penalty = oracle.n_train * (oracle.regulariser() + self.damping)
        self._keep_changes()
        self.n_fits_ = 0
        self.method_ = "Newton step" if self.order == 1 else "two Newton steps"
        if isinstance(oracle.family, Gaussian):
            self.method_ += " (exact: squared loss)"
        self._diagnose()

    def _compute_changes(self, rows):
        changes = self._first_step(rows)
        if self.order == 2 and not isinstance(self.oracle_.family, Gaussian):
            for k, i in enumerate(rows):
                if np.isfinite(changes[k]).all():
                    changes[k] = self._second_step(np.array([i]), changes[k])
        return changes

    def _first_step(self, rows):
        G = row_kron(self._c[rows], self.oracle_.X[rows])
        return G @ self._inverse

    def _second_step(self, members, change):
        weight = self.oracle_.sample_weight.copy()
        weight[members] = 0.0
        theta, _ = newton_refit(
            self.oracle_, weight, self.oracle_.theta + change, self._penalty, tol=0.0, max_iter=1
        )
        return theta - self.oracle_.theta

    def _group_change(self, members):
        change = group_newton_step(self.oracle_, self._factor, members)
        if self.order == 2 and np.isfinite(change).all():
            change = self._second_step(members, change)
        return change

    def _diagnose(self, warn=True):
        oracle, h = self.oracle_, self._leverage
        undefined = ~np.isfinite(self._c).all(axis=1)
        every = max(1, self.n_train_ // SAMPLE)
        rows = np.arange(self.n_train_)[::every]
        rows = rows[~undefined[rows]]
        steps = self._first_step(rows)
        A = self._factor.completed
        size = np.sqrt(np.einsum("ij,ij->i", steps @ A, steps))
        gradient = oracle.n_train * oracle.objective_grad()
        decrement = np.sqrt(max(gradient @ self._factor.solve(gradient), 0.0))
        typical = np.sqrt(np.mean(size**2)) if len(size) else 0.0
        gap = 0.0
        if not isinstance(oracle.family, Gaussian) and typical > 0:
            after, _ = chord_refits(
                oracle, self._inverse, rows, oracle.theta + steps,
                np.tile(self._penalty, (len(rows), 1)), tol=0.0, steps=1,
            )  # fmt: skip
            error = after - oracle.theta - steps
            # what a fit that has not converged adds is no error of the step
            error_size = np.sqrt(np.einsum("ij,ij->i", error @ A, error))
            gap = float(error_size.sum() / size.sum())
        self.diagnostics_: dict[str, Any] = {
            "max_leverage": float(h.max()),
            "n_high_leverage": int((h > HIGH_LEVERAGE).sum()),
            "rcond": self._factor.rcond,
            "stationarity": float(decrement / typical) if typical > 0 else 0.0,
            "relative_gap": gap,
            "n_undefined": int(undefined.sum()),
        }
        if warn:
            _warn(self.diagnostics_, exact=isinstance(oracle.family, Gaussian))


def _warn(facts: dict, exact: bool) -> None:
    if facts["n_undefined"]:
        warnings.warn(
            f"without each of {facts['n_undefined']} records the model has no unique optimum (leverage 1); their "
            "influence is NaN. A penalty makes it finite",
            stacklevel=5,
        )
    if facts["stationarity"] > 1:
        warnings.warn(
            "the model is not at its optimum: the Newton decrement is "
            f"{facts['stationarity']:.2g} times the effect of a typical record. Fit it with a smaller tol",
            stacklevel=5,
        )
    if exact:
        return
    if facts["relative_gap"] > LARGE_GAP:
        warnings.warn(
            f"one Newton step falls short by about {facts['relative_gap']:.0%} of the effects (the sample is small or "
            "records have high leverage); LeaveOneOut is exact",
            stacklevel=5,
        )
    elif facts["n_high_leverage"]:
        warnings.warn(
            f"{facts['n_high_leverage']} records have a leverage above {HIGH_LEVERAGE}, where one Newton step "
            "can be far off; LeaveOneOut is exact",
            stacklevel=5,
        )
