r"""Losses of a linear predictor: value, gradient, curvature, and the convex conjugate that certifies an optimum.

Each loss :math:`\varphi(z; y)` is convex in the linear predictor z. A row has one predictor, or K of them for K
classes; arrays of predictors have shape (n, K), with K = 1 for a scalar loss. The conjugate
:math:`\varphi^*(u) = \sup_z u'z - \varphi(z)` enters through the Fenchel-Young inequality
:math:`\varphi(z) + \varphi^*(u) - u'z \ge 0`, with equality exactly at :math:`u = \nabla\varphi(z)`: any feasible u
gives a lower bound on a minimum over z (Rockafellar, Convex Analysis, 1970, Theorem 23.5).

==================  ==========================================  ====================================
loss                value                                       conjugate, for u in its domain
==================  ==========================================  ====================================
squared error       (y - z)^2                                   u^2/4 + u y
Huber               (y - z)^2, linear beyond epsilon            the same, |u| <= 2 epsilon
Poisson             e^z - y z + y log y - y (half deviance)     (u + y) log(u + y) - u - y log y
log loss, binary    log(1 + e^z) - y z, y in {0, 1}             negative entropy of (u + y, 1 - u - y)
log loss, K > 2     log sum_k e^{z_k} - z_y                     negative entropy of u + e_y
==================  ==========================================  ====================================

The Poisson loss is half the unit deviance, not the likelihood, so that a perfect fit has loss zero in every
group and groups of different means can be compared.

Cost: O(n K^2) time and memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax, xlogy

from .._validation import check_number

Array = NDArray[np.float64]

# exp of more overflows; a step that lands there is rejected by its line search anyway.
LARGEST_EXPONENT = 300.0


class Loss(Protocol):
    """What the solver needs of a loss.

    Attributes
    ----------
    n_outputs : int
        Number K of linear predictors a row.
    """

    n_outputs: int

    def value(self, y: Array, z: Array) -> Array:
        """Loss of each row: y (n,), z (n, K) -> (n,)."""

    def derivatives(self, y: Array, z: Array) -> tuple[Array, Array]:
        """Gradient (n, K) and curvature (n, K, K) in the linear predictor."""

    def conjugate(self, y: Array, u: Array) -> Array:
        """Convex conjugate at u (n, K) -> (n,); infinite outside its domain."""

    def constant(self, y: Array, weight: Array) -> Array:
        """Loss of each row under the best constant predictor; weights sum to 1."""

    def steepness(self, y: Array) -> float:
        """Typical largest curvature, from which first-order methods take their step."""


@dataclass(frozen=True)
class SquaredError:
    """(y - z)^2, so that the loss of a group is its mean squared error.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.group_robust.losses import SquaredError
    >>> SquaredError().value(np.array([1.0]), np.array([[3.0]]))
    array([4.])
    """

    n_outputs = 1

    def value(self, y: Array, z: Array) -> Array:
        return (z[:, 0] - y) ** 2

    def derivatives(self, y: Array, z: Array) -> tuple[Array, Array]:
        return 2 * (z - y[:, None]), np.full((len(y), 1, 1), 2.0)

    def conjugate(self, y: Array, u: Array) -> Array:
        return u[:, 0] ** 2 / 4 + u[:, 0] * y

    def constant(self, y: Array, weight: Array) -> Array:
        return (y - weight @ y) ** 2

    def steepness(self, y: Array) -> float:
        return 2.0

    def predict(self, z: Array) -> Array:
        return z[:, 0]


@dataclass(frozen=True)
class Huber:
    """Squared error up to `epsilon`, linear beyond: 2 epsilon |y - z| - epsilon^2.

    Parameters
    ----------
    epsilon : float, default=1.35
        In units of y, which should therefore be scaled: the scale is not estimated. Where it is so small that few
        rows are within it, the minimiser is hardly unique without a penalty, and a fit may not converge.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.group_robust.losses import Huber
    >>> Huber(1.0).value(np.zeros(2), np.array([[0.5], [3.0]]))
    array([0.25, 5.  ])
    """

    epsilon: float = 1.35
    n_outputs = 1

    def __post_init__(self):
        check_number("epsilon", self.epsilon, 0, low_open=True)

    def value(self, y: Array, z: Array) -> Array:
        r = np.abs(z[:, 0] - y)
        near = np.minimum(r, self.epsilon)
        return near * (2 * r - near)

    def derivatives(self, y: Array, z: Array) -> tuple[Array, Array]:
        r = z - y[:, None]
        inside = np.abs(r) <= self.epsilon
        return 2 * np.clip(r, -self.epsilon, self.epsilon), 2.0 * inside[:, :, None]

    def majoriser(self, y: Array, z: Array) -> Array:
        """Curvature (n, 1, 1) of the parabola that touches the loss at z and lies above it."""
        r = np.abs(z - y[:, None])
        return (2.0 * self.epsilon / np.maximum(r, self.epsilon))[:, :, None]

    def conjugate(self, y: Array, u: Array) -> Array:
        u = u[:, 0]
        # gradients of rows beyond epsilon stand exactly on the bound, up to rounding
        outside = np.abs(u) > 2 * self.epsilon * (1 + 1e-14)
        return np.where(outside, np.inf, u**2 / 4 + u * y)

    def constant(self, y: Array, weight: Array) -> Array:
        if y.max() == y.min():
            return np.zeros(len(y))
        best = scipy.optimize.brentq(
            lambda c: weight @ np.clip(c - y, -self.epsilon, self.epsilon), y.min(), y.max()
        )
        return self.value(y, np.full((len(y), 1), best))

    def steepness(self, y: Array) -> float:
        return 2.0

    def predict(self, z: Array) -> Array:
        return z[:, 0]


@dataclass(frozen=True)
class Poisson:
    """Half the unit Poisson deviance, log link; y must not be negative.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.group_robust.losses import Poisson
    >>> Poisson().value(np.array([3.0]), np.log([[3.0]])).round(12)
    array([0.])
    """

    n_outputs = 1

    def value(self, y: Array, z: Array) -> Array:
        z = z[:, 0]
        return np.exp(np.minimum(z, LARGEST_EXPONENT)) - y * z + xlogy(y, y) - y

    def derivatives(self, y: Array, z: Array) -> tuple[Array, Array]:
        mean = np.exp(np.minimum(z, LARGEST_EXPONENT))
        return mean - y[:, None], mean[:, :, None]

    def conjugate(self, y: Array, u: Array) -> Array:
        mean = u[:, 0] + y
        inside = np.maximum(mean, 0.0)
        value = xlogy(inside, inside) - inside - xlogy(y, y) + y
        return np.where(mean < -1e-15, np.inf, value)

    def constant(self, y: Array, weight: Array) -> Array:
        mean = weight @ y
        return mean - xlogy(y, mean) + xlogy(y, y) - y

    def steepness(self, y: Array) -> float:
        return max(1.0, float(y.mean()))

    def predict(self, z: Array) -> Array:
        return np.exp(np.minimum(z[:, 0], LARGEST_EXPONENT))


@dataclass(frozen=True)
class LogLoss:
    """Binary log loss of the log odds z; y is 0 or 1.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.group_robust.losses import LogLoss
    >>> LogLoss().value(np.array([0.0, 1.0]), np.zeros((2, 1))).round(4)
    array([0.6931, 0.6931])
    """

    n_outputs = 1

    def value(self, y: Array, z: Array) -> Array:
        z = z[:, 0]
        return np.maximum(z, 0) - y * z + np.log1p(np.exp(-np.abs(z)))

    def derivatives(self, y: Array, z: Array) -> tuple[Array, Array]:
        tail = np.exp(-np.abs(z))
        larger = 1 / (1 + tail)
        p = np.where(z >= 0, larger, tail * larger)
        return p - y[:, None], (tail * larger**2)[:, :, None]

    def conjugate(self, y: Array, u: Array) -> Array:
        p = u[:, 0] + y
        outside = (p < -1e-15) | (p > 1 + 1e-15)
        p = np.clip(p, 0, 1)
        return np.where(outside, np.inf, xlogy(p, p) + xlogy(1 - p, 1 - p))

    def constant(self, y: Array, weight: Array) -> Array:
        p = weight @ y
        return -xlogy(y, p) - xlogy(1 - y, 1 - p) if 0 < p < 1 else np.zeros(len(y))

    def steepness(self, y: Array) -> float:
        return 0.25

    def predict(self, z: Array) -> Array:
        """Probabilities of the two classes, shape (n, 2)."""
        return softmax(np.column_stack([np.zeros(len(z)), z[:, 0]]), axis=1)


@dataclass(frozen=True)
class MultinomialLogLoss:
    """Log loss of K > 2 classes, z up to a constant the log probabilities; y holds positions 0 to K - 1.

    The parametrisation is symmetric in the classes, as in scikit-learn's ``LogisticRegression``.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.group_robust.losses import MultinomialLogLoss
    >>> bool(np.isclose(MultinomialLogLoss(3).value(np.array([2]), np.zeros((1, 3)))[0], np.log(3)))
    True
    """

    n_outputs: int

    def value(self, y: Array, z: Array) -> Array:
        return logsumexp(z, axis=1) - z[np.arange(len(y)), y.astype(int)]

    def derivatives(self, y: Array, z: Array) -> tuple[Array, Array]:
        p = softmax(z, axis=1)
        curvature = -p[:, :, None] * p[:, None, :]
        diagonal = np.arange(self.n_outputs)
        curvature[:, diagonal, diagonal] += p
        p[np.arange(len(y)), y.astype(int)] -= 1
        return p, curvature

    def conjugate(self, y: Array, u: Array) -> Array:
        p = u.copy()
        p[np.arange(len(y)), y.astype(int)] += 1
        outside = (p < -1e-15).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > 1e-12)
        p = np.clip(p, 0, None)
        return np.where(outside, np.inf, xlogy(p, p).sum(axis=1))

    def constant(self, y: Array, weight: Array) -> Array:
        frequency = np.bincount(y.astype(int), weight, self.n_outputs)
        return -np.log(frequency[y.astype(int)])

    def steepness(self, y: Array) -> float:
        return 0.5

    def predict(self, z: Array) -> Array:
        """Probabilities of the classes, shape (n, K)."""
        return softmax(z, axis=1)


REGRESSION_LOSSES = {"squared_error": SquaredError, "huber": Huber, "poisson": Poisson}
