r"""Representer points: a prediction as a sum over training records, in the last layer.

At a stationary point of a linear (last) layer f = Θa with penalty (l2/2)‖Θ‖² on the mean loss,

.. math::  \Theta = \sum_i \alpha_i a_i^\top, \qquad \alpha_i = -\frac{v_i}{n\, l2}\,\frac{\partial \ell_i}{\partial f_i},
           \qquad f(z) = \sum_i \alpha_i \langle a_i, a_z\rangle .

The influence of i on z is its term in the output of z's class, [α_i ⟨a_i, a_z⟩]_{y_z}: positive where it speaks for that
class. With one output it is signed so that positive moves the output towards y_z. (Yeh et al. penalise with λ‖Θ‖², which is
2λ = l2 here.) An intercept that is not penalised stays outside the sum: f(z) − b = Σ_i α_i⟨a_i, a_z⟩ over the penalised
inputs, and then Σ_i α_i = 0.

Exact as an identity, but too reductive as an account of influence: it is what the record adds to the representer, not
what the fit would be without it, and everything below the last layer is frozen.

Cost: O(n) a test record, once the last layer is at its optimum.

Reference: Yeh, C.-K., Kim, J., Yen, I. and Ravikumar, P. (2018). Representer point selection for explaining deep neural networks.
NeurIPS. Theorem 3.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from .._validation import check_choice, check_number
from ._base import BaseInfluence
from .oracle import count, take
from .solvers.ekfac import layer_blocks

Array = NDArray[np.float64]

STATIONARY = 0.01  # share of the largest output that the representer may miss without a refit


class RepresenterPoint(BaseInfluence):
    """Representer values of the last (or only) layer.

    Influence is what the training record adds to the output of the test record's class: positive is helpful.

    Parameters
    ----------
    refit_last : "lbfgs" or None, default="lbfgs"
        Refit the last layer on its frozen inputs with penalty `l2`, by L-BFGS (ridge regression for squared loss), where it is
        not at that optimum already. None: refuse such a layer.
    l2 : float or None, default=None
        Penalty of the refit: (l2/2)‖Θ‖² on the mean loss. None: the model's own, 0.003 where it has none.

    Attributes
    ----------
    coefficients_ : ndarray of shape (n_train, n_outputs)
        α_i.
    l2_ : float
    refitted_ : bool
    diagnostics_ : dict
        ``representer_gap``: largest absolute f − b − Σα⟨a, a⟩ over the training records, relative to the largest f − b.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from statml.influence import RepresenterPoint
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8)).fit(X, y)
    >>> method = RepresenterPoint().fit(model, X, y)
    >>> bool(method.diagnostics_["representer_gap"] < 1e-4), method.refitted_
    (True, False)
    """

    def __init__(self, refit_last: str | None = "lbfgs", l2: float | None = None):
        self.refit_last = refit_last
        self.l2 = l2

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val) -> None:
        if self.refit_last is not None:
            check_choice("refit_last", self.refit_last, ("lbfgs",))
        if self.l2 is not None:
            check_number("l2", self.l2, low=0, low_open=True)
        oracle = self.oracle_
        block, shape = layer_blocks(oracle)[-1]
        own = oracle.regulariser()[block].reshape(shape)
        a, delta = self._factors(oracle.X, oracle.y)
        self._theta = oracle.theta[block].reshape(shape)
        self._penalised, self.l2_ = self._penalty(own, a)
        self._set_coefficients(delta)
        gap = self._gap(a)
        self.refitted_ = gap > STATIONARY or not (own > 0).any()
        if self.refitted_ and self.refit_last is None:
            raise ValueError(
                f"the representer misses {gap:.0%} of the largest output: the last layer is not at the optimum of its loss "
                f'with l2={self.l2_:g}; take refit_last="lbfgs"'
            )
        if self.refitted_:
            self.n_fits_ = 1
            self._refit(a, delta)
            gap = self._gap(a)
        self.diagnostics_ = {"representer_gap": gap, "l2": self.l2_}
        self.method_ = "representer points"

    def _penalty(self, own: Array, a: Array) -> tuple[NDArray[np.bool_], float]:
        """Which inputs are penalised, and how strongly."""
        strengths = np.unique(own[own > 0])
        if len(strengths) > 1 and np.ptp(strengths) > 1e-12 * strengths[-1]:
            raise ValueError(
                "the last layer's parameters have different penalties; representer points need one (l2=...)"
            )
        if len(strengths):
            penalised = (own > 0).all(axis=0)
            return penalised, float(strengths[0]) if self.l2 is None else float(self.l2)
        # no penalty: a constant input is an intercept
        constant = np.ptp(a, axis=0) == 0
        return ~constant, 0.003 if self.l2 is None else float(self.l2)

    def _factors(self, X, y) -> tuple[Array, Array]:
        rows, columns = [], []
        for part in self.oracle_.batches(count(X)):
            a, delta = self.oracle_.layer_factors(take(X, part), take(y, part))[-1]
            if a.ndim != 2:
                raise ValueError(
                    "the last layer must be passed once a record, not at several positions"
                )
            rows.append(a)
            columns.append(delta)
        return np.vstack(rows), np.vstack(columns)

    def _set_coefficients(self, delta: Array) -> None:
        n = self.n_train_
        self.coefficients_ = -delta * (self.oracle_.sample_weight[:, None] / (n * self.l2_))

    def _gap(self, a: Array) -> float:
        """How much of f − b the representer misses; checked on parameters, Θ = Σ α_i a_iᵀ."""
        used = a[:, self._penalised]
        target = used @ self._theta[:, self._penalised].T
        represented = used @ (used.T @ self.coefficients_)
        largest = np.abs(target).max()
        return float(np.abs(target - represented).max() / largest) if largest > 0 else 0.0

    def _refit(self, a: Array, delta: Array) -> None:
        """Fit the last layer anew on its inputs, and take coefficients and penalty from there."""
        from sklearn.linear_model import LogisticRegression, Ridge

        n, weight = self.n_train_, self.oracle_.sample_weight
        y = np.asarray(self.oracle_.y)
        used = a[:, self._penalised]
        intercept = not self._penalised.all()
        if _classifies(y, delta):
            model = LogisticRegression(
                C=1 / (n * self.l2_), fit_intercept=intercept, tol=1e-10, max_iter=10_000
            ).fit(used, y.astype(int), sample_weight=weight)
            scores = model.decision_function(used)
            if scores.ndim == 1:
                self.coefficients_ = np.zeros((n, delta.shape[1]))
                p = 1 / (1 + np.exp(-scores))
                residual = (y == model.classes_[1]) - p
                # two outputs of a network share what one logit says
                share = [1.0] if delta.shape[1] == 1 else [-0.5, 0.5]
                new = residual[:, None] * share
                theta = model.coef_.T * share
            else:
                p = np.exp(scores - scores.max(axis=1, keepdims=True))
                p /= p.sum(axis=1, keepdims=True)
                new = (y[:, None] == model.classes_) - p
                theta = model.coef_.T
        else:
            model = Ridge(alpha=n * self.l2_, fit_intercept=intercept).fit(
                used, y, sample_weight=weight
            )
            targets = y if y.ndim > 1 else y[:, None]
            new = targets - model.predict(used).reshape(targets.shape)
            theta = np.atleast_2d(model.coef_).T
        self.coefficients_ = new * (weight[:, None] / (n * self.l2_))
        self._theta = np.zeros((delta.shape[1], a.shape[1]))
        self._theta[:, self._penalised] = theta.T

    # --- the hooks of BaseInfluence ---

    def contributions(self, X_test: Any) -> Array:
        """α_i⟨a_i, a_z⟩ for every output: the terms of which a test record's outputs are the sums.

        Parameters
        ----------
        X_test : array-like of shape (n_test, n_features)

        Returns
        -------
        ndarray of shape (n_test, n_train, n_outputs)
        """
        check_is_fitted(self)
        X, _ = self.oracle_.prepare(X_test, None)
        y = take(self.oracle_.y, np.zeros(count(X), dtype=np.int64))  # inputs do not depend on it
        return self._kernel(X, y)[:, :, None] * self.coefficients_

    def _kernel(self, X, y) -> Array:
        a_z, _ = self._factors(X, y)
        a, _ = self._factors(self.oracle_.X, self.oracle_.y)
        return a_z[:, self._penalised] @ a[:, self._penalised].T

    def _influence(self, X, y, target) -> Array:
        if y is None:
            raise ValueError("y_test must be given: representer values are those of its class")
        kernel = self._kernel(X, y)
        labels = np.asarray(y)
        if self.coefficients_.shape[1] > 1:
            return kernel * self.coefficients_[:, labels.astype(int)].T
        # the sign of −∂ℓ/∂f: which way the output has to go
        _, delta = self._factors(X, y)
        return kernel * self.coefficients_[:, 0] * -np.sign(delta)


def _classifies(y: ArrayLike, delta: Array) -> bool:
    """Labels 0..C−1 whose loss gradients are those of a softmax or a logit: within (−1, 1), summing to 0 over classes."""
    y = np.asarray(y)
    if y.ndim != 1 or not np.isin(y, np.arange(max(2, delta.shape[1]))).all():
        return False
    if np.abs(delta).max() > 1 + 1e-9:
        return False
    return delta.shape[1] == 1 or bool(np.abs(delta.sum(axis=1)).max() < 1e-6)
