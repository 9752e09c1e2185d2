r"""Logistic regression against additive shifts: the robust program is convex, and is solved exactly, with a certificate.

Records may move along directions :math:`d_j` by :math:`b_j \in [l_j, h_j]`, each record for itself. With the middles :math:`m_j` of the boxes
put into x, half-widths :math:`e_j` and labels :math:`y = \pm 1`, the worst case of a linear model is at an end of every box:

.. math::  P(w, c) = \frac1n \sum_i \phi(z_i) + \frac{l_2}{2} \|w\|^2, \qquad
           z_i = -y_i (w^\top x_i + c) + \sum_j e_j |d_j^\top w|, \qquad \phi(z) = \log(1 + e^z).

An upper bound :math:`t_j` of :math:`|d_j^\top w|` makes it a smooth program with 2J linear constraints, which Newton's method follows along the path of a
logarithmic barrier. The certificate is the gap to the dual,

.. math::  D(a, v) = -\frac1n \sum_i [a_i \log a_i + (1 - a_i) \log (1 - a_i)]
           - \frac{1}{2 l_2} \Big\| \frac1n \sum_i a_i y_i x_i - \sum_j e_j v_j d_j \Big\|^2,
           \quad 0 \le a_i \le 1,\ \sum_i a_i y_i = 0,\ |v_j| \le \bar a,

which is at most :math:`\min P` for every such (a, v): whatever the solver did, the fit is within ``duality_gap_`` of the optimum.

No torch. Cost: O((p + J)^3 + n (p + J)^2) for each of some tens of Newton steps.

References
----------
Xu, H., Caramanis, C. and Mannor, S. (2009). Robustness and regularization of support vector machines. JMLR 10. (the argument)
Boyd, S. and Vandenberghe, L. (2004). Convex optimization. Chapters 5 and 11.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import lsq_linear
from scipy.special import expit, xlog1py, xlogy
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from statml._validation import (
    check_integer,
    check_labels,
    check_magnitude,
    check_number,
    check_sequence,
)

SHRINK = 0.2  # of the barrier, from one point of the path to the next


class RobustLogisticRegression(ClassifierMixin, BaseEstimator):
    """Logistic regression of two classes with the least loss under the worst additive shifts of its records.

    Parameters
    ----------
    attributes : sequence of AdditiveShift, default=()
        Directions and how far along them a record may move. With none, this is ridge logistic regression.
    l2 : float, default=0.01
        Ridge strength: (l2/2)·‖w‖² is added to the mean loss; positive.
    tol : float, default=1e-9
        Largest duality gap at which the solver stops.
    max_iter : int, default=500
        Of Newton steps.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
    coef_ : ndarray of shape (1, n_features)
    intercept_ : ndarray of shape (1,)
    objective_ : float
        P at the fit.
    dual_objective_ : float
        D at the certificate; no coefficients can have a smaller objective than this.
    duality_gap_ : float
        Their difference.
    n_iter_ : int
        Newton steps.
    n_features_in_ : int

    Notes
    -----
    Along a direction the shift acts as a penalty on the coefficients' part along it, by e_j times the share of records that are uncertain:
    beyond some e_j, the model ignores the direction altogether. An uncertain record moves on its own; for all records moved together by one b the worst case is milder.
    The coefficients are shrunken; no standard errors are given.

    References
    ----------
    Xu, H., Caramanis, C. and Mannor, S. (2009). Robustness and regularization of support vector machines. JMLR 10.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import scale
    >>> from statml.adapters.attribute_robust import AdditiveShift, RobustLogisticRegression
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = scale(X[:, :2])  # radius and texture
    >>> plain = RobustLogisticRegression().fit(X, y)
    >>> robust = RobustLogisticRegression([AdditiveShift([1.0, 0.0], 1.0)]).fit(X, y)  # a radius off by one sd
    >>> bool(abs(robust.coef_[0, 0]) < abs(plain.coef_[0, 0])), robust.duality_gap_ < 1e-8
    (True, True)
    >>> bool(robust.worst_case_loss(X, y).mean() < plain.worst_case_loss(X, y, robust.attributes).mean())
    True
    """

    def __init__(
        self,
        attributes: Sequence[Any] = (),
        *,
        l2: float = 0.01,
        tol: float = 1e-9,
        max_iter: int = 500,
    ):
        self.attributes = attributes
        self.l2 = l2
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Solve the robust program.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
        y : array-like of shape (n_records,)
            Two classes.
        sample_weight : array-like of shape (n_records,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For unusable data, or directions that do not fit its columns.

        Warns
        -----
        ConvergenceWarning
            If the gap is above `tol` after `max_iter` steps.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_magnitude("X", X)
        check_classification_targets(y)
        if type_of_target(y) == "multiclass":
            raise ValueError(
                f"Only binary classification is supported. The type of the target is multiclass: y has {len(np.unique(y))} classes"
            )
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class only, {self.classes_[0]}; two are needed")
        l2 = check_number("l2", self.l2, 0, low_open=True)
        tol = check_number("tol", self.tol, 0, low_open=True)
        max_iter = check_integer("max_iter", self.max_iter, low=1)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if len(np.unique(codes[weight > 0])) < 2:
            raise ValueError("sample_weight leaves records of one class only")
        D, middle, half = shifts(self.attributes, X.shape[1])
        sign = 2.0 * codes - 1
        solution = solve(X + middle @ D, sign, weight / weight.sum(), D, half, l2, tol, max_iter)
        theta, self.objective_, self.dual_objective_, self.n_iter_ = solution
        self.duality_gap_ = self.objective_ - self.dual_objective_
        if self.duality_gap_ > tol:
            warnings.warn(
                f"the duality gap is {self.duality_gap_:.1e}, above tol={tol:g}, after {self.n_iter_} steps: scale the columns of X, or raise l2",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.coef_, self.intercept_ = theta[None, :-1], theta[-1:]
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log-odds of the second class, shape (n_records,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ self.coef_[0] + self.intercept_[0]

    def predict(self, X: ArrayLike) -> NDArray:
        """The more probable class, shape (n_records,)."""
        second = self.decision_function(X) > 0
        return self.classes_[second.astype(int)]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of the classes, shape (n_records, 2)."""
        p = expit(self.decision_function(X))
        return np.column_stack([1 - p, p])

    def worst_case_loss(
        self, X: ArrayLike, y: ArrayLike, attributes: Sequence[Any] | None = None
    ) -> NDArray[np.float64]:
        """Exact largest log-loss of each record over the box.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
        y : array-like of shape (n_records,)
        attributes : sequence of AdditiveShift, optional
            Others than those of the fit.

        Returns
        -------
        ndarray of shape (n_records,)
        """
        margin = self.decision_function(X)
        w = self.coef_[0]
        y = check_labels("y", y)
        check_consistent_length(X, y)
        if not np.isin(y, self.classes_).all():
            raise ValueError(f"y must hold the classes {self.classes_.tolist()}")
        sign = np.where(y == self.classes_[1], 1.0, -1.0)
        attributes = self.attributes if attributes is None else attributes
        D, middle, half = shifts(attributes, len(w))
        return np.logaddexp(0, -sign * (margin + middle @ D @ w) + half @ np.abs(D @ w))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def shifts(
    attributes: Sequence[Any], p: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Directions (J, p), middles (J,) and half-widths (J,) of additive shifts."""
    attributes = check_sequence("attributes", attributes, "additive shifts")
    for attribute in attributes:
        if not hasattr(attribute, "direction"):
            raise TypeError(f"attributes must hold additive shifts, got {attribute!r}")
        if len(attribute.direction) != p:
            raise ValueError(
                f"direction has {len(attribute.direction)} columns, X has {p}: {attribute!r}"
            )
    D = np.array([a.direction for a in attributes], dtype=float).reshape(-1, p)
    ends = np.array([(a.low[0], a.high[0]) for a in attributes], dtype=float).reshape(-1, 2)
    return D, ends.mean(1), (ends[:, 1] - ends[:, 0]) / 2


def solve(
    X: NDArray,
    sign: NDArray,
    weight: NDArray,
    D: NDArray,
    half: NDArray,
    l2: float,
    tol: float,
    max_iter: int,
) -> tuple[NDArray, float, float, int]:
    """Coefficients with the intercept last, the primal and dual objective, and the number of Newton steps.

    Parameters
    ----------
    X : ndarray of shape (n, p)
    sign : ndarray of shape (n,)
        Labels, -1 and 1.
    weight : ndarray of shape (n,)
        Sums to 1.
    D : ndarray of shape (J, p)
    half : ndarray of shape (J,)
    l2, tol : float
    max_iter : int
    """
    acting = (half > 0) & D.any(1)
    D, half = D[acting], half[acting]
    (n, p), J = X.shape, len(D)
    # z = A (w, c, t)
    A = np.column_stack([-sign[:, None] * X, -sign, np.broadcast_to(half, (n, J))])
    theta = np.concatenate([np.zeros(p + 1), np.ones(J)])
    ridge = np.concatenate([np.full(p, l2), np.zeros(1 + J)])
    # slack = C theta > 0: t_j - d_j w and t_j + d_j w
    C = np.block([[-D, np.zeros((J, 1)), np.eye(J)], [D, np.zeros((J, 1)), np.eye(J)]])

    def barrier_objective(theta: NDArray, mu: float) -> float:
        slack = C @ theta
        if (slack <= 0).any():
            return np.inf
        smooth = weight @ np.logaddexp(0, A @ theta) + theta @ (ridge * theta) / 2
        return smooth - mu * np.log(slack).sum()

    mu, steps = (0.1 if J else 0.0), 0
    best = (np.inf, -np.inf, theta[: p + 1])
    while steps < max_iter:
        while steps < max_iter:  # to the point of the path that belongs to mu
            steps += 1
            a = expit(A @ theta)
            slack = C @ theta
            gradient = A.T @ (weight * a) + ridge * theta - C.T @ (mu / slack)
            curvature = A.T @ ((weight * a * (1 - a))[:, None] * A)
            curvature += np.diag(ridge) + C.T @ ((mu / slack**2)[:, None] * C)
            curvature[p, p] += 1e-12  # the intercept alone has no ridge
            move = -cho_solve(cho_factor(curvature), gradient)
            decrement = -gradient @ move
            length, now = 1.0, barrier_objective(theta, mu)
            while (
                barrier_objective(theta + length * move, mu) > now - 0.1 * length * decrement
                and length > 1e-10
            ):
                length /= 2
            theta = theta + length * move
            if decrement < min(1e-2 * max(mu, tol), 1e-2) or length <= 1e-10:
                break
        wc = theta[: p + 1]
        primal, z = primal_objective(wc, X, sign, weight, D, half, l2)
        dual = dual_objective(expit(z), X, sign, weight, D, half, l2)
        best = (min(best[0], primal), max(best[1], dual), wc if primal <= best[0] else best[2])
        if best[0] - best[1] <= tol or (mu < 1e-3 * tol and J) or (not J and length <= 1e-10):
            break
        mu *= SHRINK
    return best[2], best[0], best[1], steps


def primal_objective(
    theta: NDArray, X: NDArray, sign: NDArray, weight: NDArray, D: NDArray, half: NDArray, l2: float
) -> tuple[float, NDArray[np.float64]]:
    """P, and the worst z of each record, at coefficients with the intercept last."""
    w, c = theta[:-1], theta[-1]
    z = -sign * (X @ w + c) + half @ np.abs(D @ w)
    return float(weight @ np.logaddexp(0, z) + l2 / 2 * w @ w), z


def dual_objective(
    a: NDArray, X: NDArray, sign: NDArray, weight: NDArray, D: NDArray, half: NDArray, l2: float
) -> float:
    """D at a made feasible, with the best v for it."""
    mass = [weight[sign == s] @ a[sign == s] for s in (-1, 1)]
    # the heavier class gives way until both weigh the same
    a = a * np.where(sign < 0, min(1, mass[1] / mass[0]), min(1, mass[0] / mass[1]))
    pull = (weight * a * sign) @ X
    if len(D):
        reach = half * (weight @ a)
        fitted = lsq_linear((reach[:, None] * D).T, pull, (-1, 1), tol=1e-14)
        pull = pull - (np.clip(fitted.x, -1, 1) * reach) @ D
    entropy = -weight @ (xlogy(a, a) + xlog1py(1 - a, -a))
    return float(entropy - pull @ pull / (2 * l2))
