r"""CVaR-DRO: robust to every subpopulation of mass alpha at once, known or not.

The mean loss in the worst part of mass alpha, over all ways to choose that part, is the conditional value at risk

.. math::  \mathrm{CVaR}_\alpha(w) = \min_\eta\; \eta + \frac{1}{\alpha n} \sum_i (\ell_i(w) - \eta)_+
           = \max_q \Big\{\sum_i q_i \ell_i(w) : 0 \le q_i \le \tfrac{1}{\alpha n},\ \sum_i q_i = 1\Big\},

and the fit minimises it plus :math:`\tfrac{\lambda}{2} \|w\|^2`. An adversary who may draw any slice of mass alpha, without
a rule that it has to follow, plays exactly this game; the groups it finds are the records with the largest losses, noise
included.

Solver: :math:`(u)_+` is smoothed to :math:`\mu \log(1 + e^{u/\mu})`, which keeps the problem convex in
:math:`(w, \eta)`; Newton's method, with :math:`\mu` going down. At the smoothed optimum the weights
:math:`q_i = s((\ell_i - \eta)/\mu) / (\alpha n)` are feasible and w minimises :math:`\sum_i q_i \ell_i` plus the ridge,
so that :math:`\mathrm{CVaR}_\alpha(w) - \sum_i q_i \ell_i(w)` is a duality gap; how far an inexact w is from the minimum
under q is bounded by the certificate of `solver`.

Cost: O(n p^2) a step for two classes, some dozens of steps.

References
----------
Rockafellar, R. T. and Uryasev, S. (2000). Optimization of conditional value-at-risk. Journal of Risk 2, 21-41.
Levy, D., Carmon, Y., Duchi, J. C. and Sidford, A. (2020). Large-scale methods for distributionally robust optimization.
Advances in Neural Information Processing Systems.
"""

from __future__ import annotations

import warnings
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from .._validation import check_integer, check_number
from ._linear_classifier import LinearClassifier, validated_classes
from .losses import LogLoss, Loss, MultinomialLogLoss
from .membership import HardGroups
from .solver import Point, Problem, certificate, factorise

Array = NDArray[np.float64]

SHRINK = 0.2  # of mu, from one smoothed problem to the next
SMALLEST = 1e-13  # mu; below, the weights are made of rounding errors


class CVaRClassifier(LinearClassifier):
    """Logistic regression on the worst part of the records.

    Parameters
    ----------
    alpha : float in (0, 1], default=0.2
        Mass of the worst part; 1 is the mean.
    l2 : float > 0, default=1e-3
        Ridge: (l2 / 2) ||w||^2 is added; the intercept is free.
    tol : float, default=1e-6
        Largest duality gap.
    max_iter : int, default=500
        Newton steps, all together.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) for two classes, else (n_classes, n_features)
    intercept_ : ndarray of shape (1,) or (n_classes,)
    classes_ : ndarray of shape (n_classes,)
    record_weights_ : ndarray of shape (n,)
        The adversary's q; at most 1 / (alpha n), with sum 1.
    cvar_ : float
        Mean log loss in the worst part.
    duality_gap_ : float
    n_iter_ : int

    References
    ----------
    Rockafellar and Uryasev (2000), theorem 1; Levy et al. (2020), section 2.

    Examples
    --------
    >>> from statml.datasets import make_spurious_gaussians
    >>> from statml.group_robust.cvar import CVaRClassifier
    >>> data = make_spurious_gaussians(n=500, random_state=0)
    >>> model = CVaRClassifier(alpha=0.3).fit(data.X, data.y)
    >>> bool(model.duality_gap_ < 1e-6)
    True
    >>> bool(model.record_weights_.max() <= 1 / (0.3 * 500) + 1e-12)
    True
    """

    def __init__(
        self, alpha: float = 0.2, l2: float = 1e-3, tol: float = 1e-6, max_iter: int = 500
    ):
        self.alpha = alpha
        self.l2 = l2
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,)

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter or the data are out of range, or y has one class.

        Warns
        -----
        ConvergenceWarning
            If the gap is above `tol` after `max_iter` steps.
        """
        alpha = check_number("alpha", self.alpha, 0, 1, low_open=True)
        l2 = check_number("l2", self.l2, 0, low_open=True)
        tol = check_number("tol", self.tol, 0, low_open=True)
        max_iter = check_integer("max_iter", self.max_iter, low=1)
        X, self.classes_, y = validated_classes(self, X, y)
        K = len(self.classes_)
        loss = LogLoss() if K == 2 else MultinomialLogLoss(K)
        w, q, self.cvar_, self.duality_gap_, self.n_iter_ = minimize_cvar(
            X, y, loss, alpha, l2, tol, max_iter
        )
        if self.duality_gap_ > tol:
            warnings.warn(
                f"the duality gap is {self.duality_gap_:.2g} after {self.n_iter_} steps, above tol={tol:g}; "
                "raise max_iter, or scale the features",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.coef_, self.intercept_ = w[:, :-1].copy(), w[:, -1].copy()
        self.record_weights_ = q
        return self


def cvar(losses: Array, alpha: float) -> float:
    """Mean of the largest losses, of mass alpha (the last one counts in part).

    Examples
    --------
    >>> cvar(np.array([1.0, 2.0, 3.0, 4.0]), 0.5)
    3.5
    """
    k = alpha * len(losses)
    weight = np.clip(k - np.arange(len(losses)), 0.0, 1.0)
    return float(weight @ np.sort(losses)[::-1] / k)


@threadpool_limits.wrap(limits=1, user_api="blas")
def minimize_cvar(
    X: Array, y: Array, loss: Loss, alpha: float, l2: float, tol: float, max_iter: int
) -> tuple[Array, Array, float, float, int]:
    """Minimise CVaR plus ridge.

    Parameters
    ----------
    X : ndarray of shape (n, p)
    y : ndarray of shape (n,)
    loss : Loss
    alpha, l2, tol : float
    max_iter : int

    Returns
    -------
    w : ndarray of shape (K, p + 1)
        Intercepts last.
    q : ndarray of shape (n,)
    value, gap : float
        CVaR at w, and an upper bound on how far CVaR plus ridge is from its minimum.
    n_iter : int
    """
    n, p = X.shape
    X = np.column_stack([X, np.ones(n)])
    w = np.zeros((loss.n_outputs, p + 1))
    losses = loss.value(y, X @ w.T)
    mu, n_iter, best = 1.0, 0, None
    eta = _quantile(losses, alpha, mu)
    while True:
        w, eta, steps = _smoothed_newton(X, y, loss, alpha, l2, mu, w, eta, max_iter - n_iter)
        n_iter += steps
        z = X @ w.T
        losses = loss.value(y, z)
        eta = _quantile(losses, alpha, mu)  # so that q sums to one exactly
        q = expit((losses - eta) / mu) / (alpha * n)
        q = q / q.sum()
        value = cvar(losses, alpha)
        gap = value - q @ losses + _distance_from_minimum(X, y, loss, l2, w, q)
        if best is None or gap < best[3]:
            best = w, q, value, float(gap)
        if gap <= tol or n_iter >= max_iter or mu < SMALLEST:
            return *best, n_iter
        mu *= SHRINK


def _smoothed_newton(X, y, loss, alpha, l2, mu, w, eta, max_iter):
    """Newton's method on eta + mean softplus / alpha + ridge, jointly in w and eta."""
    n, d = X.shape
    K = loss.n_outputs
    ridge = np.full((K, d), l2)
    ridge[:, -1] = 0.0
    ridge = np.append(ridge.ravel(), 0.0)
    # the intercepts of K > 2 classes are known up to a constant only
    jitter = 1e-12 * np.eye(K * d + 1)

    def objective(w, eta):
        u = (loss.value(y, X @ w.T) - eta) / mu
        return eta + mu * np.logaddexp(0, u).mean() / alpha + l2 / 2 * (w[:, :-1] ** 2).sum()

    value, last = objective(w, eta), np.inf
    for step in range(1, max_iter + 1):
        z = X @ w.T
        s = expit((loss.value(y, z) - eta) / mu)
        first, second = loss.derivatives(y, z)
        J = np.column_stack([(first[:, :, None] * X[:, None, :]).reshape(n, -1), np.full(n, -1.0)])
        theta = np.append(w.ravel(), eta)
        gradient = J.T @ s / (alpha * n) + ridge * theta
        gradient[-1] += 1.0
        H = (J * (s * (1 - s) / (mu * alpha * n))[:, None]).T @ J + np.diag(ridge)
        for j in range(K):
            for k in range(K):
                block = (X * (s * second[:, j, k] / (alpha * n))[:, None]).T @ X
                H[j * d : (j + 1) * d, k * d : (k + 1) * d] += block
        direction = -np.linalg.solve(H + jitter * np.trace(H), gradient)
        decrement = -gradient @ direction
        # an error in w is one over mu larger in the weights; where rounding hides the descent, the decrement still
        # tells whether steps help
        if decrement <= 1e-16 * mu or (decrement <= 1e-12 and decrement >= last):
            return w, eta, step
        last = decrement
        size = 1.0
        while size > 1e-10:
            theta_new = theta + size * direction
            w_new, eta_new = theta_new[:-1].reshape(K, d), theta_new[-1]
            value_new = objective(w_new, eta_new)
            if value_new <= value - 1e-4 * size * decrement + 1e-15 * abs(value):
                break
            size /= 2
        else:
            return w, eta, step
        w, eta, value = w_new, eta_new, value_new
    return w, eta, max_iter


def _distance_from_minimum(X, y, loss, l2, w, q) -> float:
    """Upper bound on how far w is from the minimum of the loss weighted by q, plus ridge."""
    everyone = HardGroups(np.zeros(len(y), dtype=np.int64), q, 1)
    kept = everyone.order  # those of positive weight
    point = Point(Problem(X[kept], y[kept], loss, everyone, l2, True), w.T)
    one, zero = np.ones(1), np.zeros(1)
    return certificate(point, one, zero, one, factorise(point, one))[0]


def _quantile(losses: Array, alpha: float, mu: float) -> float:
    """The eta at which the mean of s((l - eta) / mu) is alpha, by bisection."""
    if alpha == 1:
        return float(losses.min() - 40 * mu)
    low, high = losses.min() - 40 * mu, losses.max() + 40 * mu
    for _ in range(200):
        eta = (low + high) / 2
        if expit((losses - eta) / mu).mean() > alpha:
            low = eta
        else:
            high = eta
    return float(eta)
