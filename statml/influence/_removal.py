r"""What NewtonStep and LeaveOneOut share: parameters without a record, and all that follows from them.

A method gives the changes :math:`\Delta_i = \theta_{-i} - \theta`. Values of test records are then *evaluated* at
:math:`\theta + \Delta_i` (from the linear predictors, in matrix products), not linearised, so that no curvature of the
loss is lost. Changes are kept if they fit the memory limit, and computed anew in blocks otherwise.

Cost of the result for all test records: O(n_test n p) beside the changes themselves.

Case diagnostics, for one linear predictor, with the leverage :math:`h_i` and the dispersion :math:`\hat\sigma^2`:

.. math::  \mathrm{Cook}_i = \frac{\Delta_i^T A \Delta_i}{p \hat\sigma^2}, \qquad
           \mathrm{DFFITS}_i = \frac{-x_i^T \Delta_i}{\hat\sigma_{(i)} \sqrt{x_i^T A^{-1} x_i}}, \qquad
           \mathrm{DFBETAS}_{ij} = \frac{-\Delta_{ij}}{\hat\sigma_{(i)} \sqrt{(A^{-1})_{jj}}},

Cook, R. D. and Weisberg, S. (1982). Residuals and Influence in Regression. Chapman and Hall.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from ._base import BaseInfluence
from .glm_families import Gaussian, LinkedFamily
from .glm_oracle import Factor, GLMOracle
from .glm_removal import newton_refit
from .models import OTHER_METHODS
from .oracle import count

Array = NDArray[np.float64]


class RemovalInfluence(BaseInfluence):
    """Influence through the parameters without a record; subclasses give the changes in blocks."""

    @abstractmethod
    def _compute_changes(self, rows: NDArray[np.int64]) -> Array:
        """theta_{-i} - theta for some rows, shape (len(rows), p)."""

    @abstractmethod
    def _group_change(self, members: NDArray[np.int64]) -> Array:
        """theta_{-S} - theta, shape (p,)."""

    def _require_glm(self) -> GLMOracle:
        if not isinstance(self.oracle_, GLMOracle):
            raise TypeError(
                f"{type(self).__name__} takes generalised linear models and kernel ridge regression, not a "
                f"{type(self.oracle_).__name__}: InfluenceFunction, TracIn and TRAK take any oracle. {OTHER_METHODS}"
            )
        return self.oracle_

    def _converge(self, tol: float, max_iter: int = 50) -> tuple[float, Factor]:
        """Move the oracle to the optimum; the Newton decrement of the fit as it came, and the factor of A."""
        oracle = self.oracle_
        factor = oracle.factor()
        gradient = oracle.n_train * oracle.objective_grad()
        decrement = float(np.sqrt(max(gradient @ factor.solve(gradient), 0.0)))
        if decrement <= tol:
            return decrement, factor
        penalty = oracle.n_train * oracle.regulariser()
        theta, converged = newton_refit(
            oracle, oracle.sample_weight, oracle.theta, penalty, tol, max_iter
        )
        if not converged:
            raise ValueError(
                "the model has no finite optimum: Newton steps from its fit do not converge. Fit it with a penalty"
            )
        self.oracle_ = oracle.with_theta(theta)
        return decrement, self.oracle_.factor()

    def _keep_changes(self) -> None:
        """Compute all changes now if they fit in memory."""
        self._changes = None
        if 8 * self.n_train_ * self.oracle_.n_params <= self.oracle_.memory_limit:
            self._changes = self._compute_changes(np.arange(self.n_train_))

    def _change_blocks(self, width: int) -> Iterator[tuple[slice, Array]]:
        """All changes in blocks of rows, such that `width` numbers a row fit the memory limit."""
        for part in self.oracle_.batches(self.n_train_, width + self.oracle_.n_params):
            if self._changes is not None:
                yield part, self._changes[part]
            else:
                yield part, self._compute_changes(np.arange(part.start, part.stop))

    # --- hooks of BaseInfluence ---

    def _influence(self, X, y, target):
        out = np.empty((count(X), self.n_train_))
        for part, changes in self._change_blocks(4 * count(X) * self.oracle_.family.n_outputs):
            out[:, part] = self._values_at(X, y, target, changes)
        return out

    def _self_influence(self):
        oracle, K = self.oracle_, self.oracle_.family.n_outputs
        out = np.empty(self.n_train_)
        for part, changes in self._change_blocks(4 * K):
            X, y = oracle.X[part], oracle.y[part]
            eta = oracle.linear_predictor(X)
            blocks = changes.reshape(len(changes), K, -1)
            shift = np.stack([_row_dot(X, blocks[:, a]) for a in range(K)], axis=1)
            out[part] = oracle.family.loss(eta + shift, y) - oracle.family.loss(eta, y)
        return out

    def _group_influence(self, index_sets, X, y, target):
        changes = self._parameter_change(index_sets)
        return self._values_at(X, y, target, changes)

    def _parameter_change(self, index_sets):
        if index_sets is None:
            if self._changes is not None:
                return self._changes.copy()
            size = 8 * self.n_train_ * self.oracle_.n_params
            raise MemoryError(
                f"all parameter changes take {size / 2**20:.0f} MiB, beyond memory_limit; name some records in index_sets"
            )
        if not len(index_sets):
            return np.zeros((0, self.oracle_.n_params))
        return np.stack([self._group_change(members) for members in index_sets])

    def _values_at(self, X, y, target, changes: Array) -> Array:
        """Value without minus value with for the loss, with minus without otherwise, (m, len(changes))."""
        oracle, K = self.oracle_, self.oracle_.family.n_outputs
        eta = oracle.linear_predictor(X)
        m, b = len(eta), len(changes)
        blocks = changes.reshape(b, K, -1)
        moved = np.empty((m, b, K))
        for a in range(K):
            moved[:, :, a] = X @ blocks[:, a].T
        moved += eta[:, None, :]
        repeated = None if y is None else np.repeat(y, b)
        moved = moved.reshape(-1, K)
        # a record whose removal leaves no optimum has NaN changes, which must not warn on their way
        with np.errstate(invalid="ignore"):
            if target == "loss":
                return (
                    oracle.family.loss(moved, repeated).reshape(m, b)
                    - oracle.family.loss(eta, y)[:, None]
                )
            without = oracle.family.output(moved, repeated, target)[0].reshape(m, b)
            return oracle.family.output(eta, y, target)[0][:, None] - without

    # --- case diagnostics ---

    def leverage(self) -> Array:
        """Leverage h_i = trace(S_i Q_i) of each record; they sum to the effective number of parameters.

        Returns
        -------
        ndarray of shape (n_train,)
        """
        check_is_fitted(self)
        return self._leverage.copy()

    def cooks_distance(self) -> Array:
        """Cook's distance of each record: how far its removal moves all fitted values together.

        Returns
        -------
        ndarray of shape (n_train,)
            As ``OLSInfluence.cooks_distance`` of statsmodels and R's ``cooks.distance``.
        """
        check_is_fitted(self)
        A = self._factor.completed
        out = np.empty(self.n_train_)
        for part, changes in self._change_blocks(1):
            out[part] = np.einsum("ij,ij->i", changes @ A, changes)
        return out / (self.oracle_.n_params * self._dispersion()[0])

    def dffits(self) -> Array:
        """Change of each record's own fitted value by its removal, in standard errors (with minus without)."""
        check_is_fitted(self)
        oracle = self._one_predictor()
        out = np.empty(self.n_train_)
        for part, changes in self._change_blocks(1):
            out[part] = -_row_dot(oracle.X[part], changes)
        w = (oracle.curvatures(oracle.X, oracle.y)[:, 0, 0]) * oracle.sample_weight
        with np.errstate(divide="ignore", invalid="ignore"):
            out /= self._dispersion()[1] * np.sqrt(self._leverage / w)
        return np.where(w > 0, out, 0.0)

    def dfbetas(self) -> pd.DataFrame:
        """Change of each coefficient by each record, in standard errors.

        Returns
        -------
        DataFrame of shape (n_train, p)
            Coefficient *with* the record minus without, as R and statsmodels have it: the opposite sign of
            `parameter_change`.
        """
        check_is_fitted(self)
        oracle = self._one_predictor()
        error = np.sqrt(np.diag(self._factor.inverse()))
        values = -self._parameter_change(None) / (self._dispersion()[1][:, None] * error)
        return pd.DataFrame(values, index=self.labels_, columns=oracle.parameter_names)

    def _one_predictor(self) -> GLMOracle:
        if self.oracle_.family.n_outputs > 1:
            raise TypeError("DFFITS and DFBETAS are defined for models with one linear predictor")
        return self.oracle_

    def _dispersion(self) -> tuple[float, Array]:
        """sigma^2 of all records, and sigma without each."""
        oracle = self.oracle_
        n, v = self.n_train_, oracle.sample_weight
        if isinstance(oracle.family, Gaussian):
            r2 = v * oracle.scores(oracle.X, oracle.y)[:, 0] ** 2
            df = (v > 0).sum() - self._leverage.sum()
            total = r2.sum()
            with np.errstate(divide="ignore", invalid="ignore"):
                rest = np.where(self._leverage < 1, r2 / (1 - self._leverage), np.nan)
                return total / df, np.sqrt((total - rest) / (df - (v > 0)))
        scale = 1.0
        if isinstance(oracle.family, LinkedFamily) and not oracle.family.classifies:
            mu = oracle.output(oracle.X, oracle.y, "prediction")
            pearson = (oracle.y - mu) ** 2 / oracle.family.family.variance(mu)
            scale = float(v @ pearson / (n - self._leverage.sum()))
        return scale, np.full(n, np.sqrt(scale))


def _row_dot(X, B: Array) -> Array:
    if sp.issparse(X):
        return np.asarray(X.multiply(B).sum(axis=1)).ravel()
    return np.einsum("ij,ij->i", X, B)
