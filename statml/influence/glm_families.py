r"""Losses of generalised linear models, as functions of the linear predictor.

A family has K linear predictors a record, :math:`\eta \in R^K` (K = 1 but for several classes). It gives the loss
:math:`\ell(\eta, y)`, its gradient s (the score, shape (m, K)) and its Hessian W (shape (m, K, K)) with respect to
:math:`\eta`, and two outputs with their gradients: the margin and the prediction.

================= ======================================== =========== ==================
family            loss                                     s           W
================= ======================================== =========== ==================
Gaussian          :math:`(y - \eta)^2 / 2`                 η - y       1
Binomial          :math:`\log(1 + e^\eta) - y \eta`        p - y       p (1 - p)
Poisson           :math:`e^\eta - y \eta + \log y!`        μ - y       μ
Softmax           :math:`\log\sum_k e^{\eta_k} - \eta_y`   p - e_y     diag(p) - p p^T
================= ======================================== =========== ==================

For any other family and link, `LinkedFamily` takes half the unit deviance of statsmodels' family. Its W is the
*observed* second derivative, which may be negative where the link is not canonical.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, gammaln, logsumexp, softmax

Array = NDArray[np.float64]


class GLMFamily(Protocol):
    """What `GLMOracle` needs of a family; eta has shape (m, K), y shape (m,)."""

    n_outputs: int
    classifies: bool

    def loss(self, eta: Array, y: Array) -> Array: ...

    def score(self, eta: Array, y: Array) -> Array: ...

    def curvature(self, eta: Array, y: Array) -> Array: ...

    def output(self, eta: Array, y: Array | None, target: str) -> tuple[Array, Array]: ...

    def sample(self, eta: Array, rng: np.random.Generator) -> Array: ...


class Gaussian:
    """Squared error, half of it."""

    n_outputs = 1
    classifies = False

    def loss(self, eta, y):
        return (y - eta[:, 0]) ** 2 / 2

    def score(self, eta, y):
        return eta - y[:, None]

    def curvature(self, eta, y):
        return np.ones((len(eta), 1, 1))

    def output(self, eta, y, target):
        return eta[:, 0], np.ones_like(eta)

    def sample(self, eta, rng):
        # half the squared error is the log-density of unit variance
        return rng.normal(eta[:, 0])


class Poisson:
    """Counts with the log link."""

    n_outputs = 1
    classifies = False

    def loss(self, eta, y):
        return np.exp(eta[:, 0]) - y * eta[:, 0] + gammaln(y + 1)

    def score(self, eta, y):
        return np.exp(eta) - y[:, None]

    def curvature(self, eta, y):
        return np.exp(eta)[:, :, None]

    def output(self, eta, y, target):
        if target == "margin":
            return eta[:, 0], np.ones_like(eta)
        mu = np.exp(eta)
        return mu[:, 0], mu

    def sample(self, eta, rng):
        return rng.poisson(np.exp(eta[:, 0])).astype(float)


class Binomial:
    """Two classes, or shares of successes, with the logit link."""

    n_outputs = 1
    classifies = True

    def loss(self, eta, y):
        return np.logaddexp(0, eta[:, 0]) - y * eta[:, 0]

    def score(self, eta, y):
        return expit(eta) - y[:, None]

    def curvature(self, eta, y):
        p = expit(eta)
        return (p * (1 - p))[:, :, None]

    def output(self, eta, y, target):
        sign = 2 * _needs_labels(y, target)[:, None] - 1.0  # of the record's own class
        if target == "margin":
            return (sign * eta)[:, 0], sign
        p = expit(sign * eta)
        return p[:, 0], sign * p * (1 - p)

    def sample(self, eta, rng):
        return (rng.random(len(eta)) < expit(eta[:, 0])).astype(float)


class Softmax:
    """Several classes, coded 0..C-1.

    Parameters
    ----------
    n_classes : int
    reference : bool, default=False
        Whether the first class has the linear predictor 0 (as in statsmodels' MNLogit), so that K = C - 1.
    """

    classifies = True

    def __init__(self, n_classes: int, reference: bool = False):
        self.n_classes = n_classes
        self.reference = reference
        self.n_outputs = n_classes - reference

    def loss(self, eta, y):
        eta = self._full(eta)
        return logsumexp(eta, axis=1) - eta[np.arange(len(y)), y.astype(int)]

    def score(self, eta, y):
        p = softmax(self._full(eta), axis=1)
        p[np.arange(len(y)), y.astype(int)] -= 1
        return p[:, self.reference :]

    def curvature(self, eta, y):
        p = softmax(self._full(eta), axis=1)[:, self.reference :]
        return np.eye(self.n_outputs) * p[:, None, :] - p[:, :, None] * p[:, None, :]

    def output(self, eta, y, target):
        y = _needs_labels(y, target).astype(int)
        own = np.arange(len(y)), y
        log_p = -self.loss(eta, y)
        # d log p_y / d eta = e_y - p, and the margin log p - log(1 - p) divides it by 1 - p
        others = self._full(eta).copy()
        others[own] = -np.inf
        log_rest = logsumexp(others, axis=1) - logsumexp(self._full(eta), axis=1)
        slope = -self.score(eta, y)
        if target == "margin":
            return log_p - log_rest, slope / np.exp(log_rest)[:, None]
        return np.exp(log_p), slope * np.exp(log_p)[:, None]

    def sample(self, eta, rng):
        eta = self._full(eta)
        return np.argmax(eta + rng.gumbel(size=eta.shape), axis=1).astype(float)

    def _full(self, eta):
        return np.column_stack([np.zeros(len(eta)), eta]) if self.reference else eta


class LinkedFamily:
    """Half the unit deviance of a statsmodels family, through any link.

    Parameters
    ----------
    family : statsmodels Family
        With its link; Gamma, inverse Gaussian, Tweedie, negative binomial, or a non-canonical link.
    """

    n_outputs = 1

    def __init__(self, family: Any):
        self.family = family
        self.classifies = type(family).__name__ == "Binomial"

    def loss(self, eta, y):
        return self.family.resid_dev(y, self._mean(eta)) ** 2 / 2

    def score(self, eta, y):
        mu, link = self._mean(eta), self.family.link
        return (-(y - mu) / (self.family.variance(mu) * link.deriv(mu)))[:, None]

    def curvature(self, eta, y):
        mu, link = self._mean(eta), self.family.link
        v, dv = self.family.variance(mu), self.family.variance.deriv(mu)
        g1, g2 = link.deriv(mu), link.deriv2(mu)
        # d/d eta of -(y - mu) / (V g'), with d mu / d eta = 1 / g'
        observed = 1 / (v * g1**2) + (y - mu) * (dv * g1 + v * g2) / (v**2 * g1**3)
        return observed[:, None, None]

    def output(self, eta, y, target):
        if self.classifies:
            sign = 2 * _needs_labels(y, target)[:, None] - 1.0
            mu = self._mean(eta)[:, None]
            slope = 1 / self.family.link.deriv(mu)
            if target == "margin":
                return (
                    (sign * (np.log(mu) - np.log1p(-mu)))[:, 0],
                    sign * slope / (mu * (1 - mu)),
                )
            return np.where(sign > 0, mu, 1 - mu)[:, 0], sign * slope
        if target == "margin":
            return eta[:, 0], np.ones_like(eta)
        mu = self._mean(eta)
        return mu, (1 / self.family.link.deriv(mu))[:, None]

    def sample(self, eta, rng):
        raise NotImplementedError("labels cannot be drawn from a deviance; take another solver")

    def _mean(self, eta):
        return self.family.link.inverse(eta[:, 0])


def _needs_labels(y, target):
    if y is None:
        raise ValueError(f'y_test must be given for target="{target}" of a classification')
    return y
