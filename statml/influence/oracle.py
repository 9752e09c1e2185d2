r"""The gradient oracle: all that a gradient-based influence method sees of a fitted model.

The model minimises, over parameters :math:`\theta \in R^p`, the mean objective

.. math::  J(\theta) = \frac1n \sum_{i=1}^n v_i\, \ell(z_i; \theta) + \frac12 \sum_j r_j \theta_j^2,

with the records' weights :math:`v_i` (1 unless given) and a diagonal penalty r (zero for an intercept). The loss
:math:`\ell` of a record never contains the penalty. :math:`H = \nabla^2 J(\theta)`.

Three kinds of values can be attributed; each has a value and a gradient for a record (`value`, `value_grad`):

* "loss": :math:`\ell(z; \theta)`;
* "margin": the linear predictor of a regression, :math:`\log\{p_y / (1 - p_y)\}` of a classification;
* "prediction": the mean response of a regression, :math:`p_y` of a classification.

A new kind of model is one new subclass of `GradientOracle`: `prepare`, `loss`, `grad` and `hvp` are enough.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_sample_weight

from .._validation import check_choice, check_magnitude

Array = NDArray[np.float64]

TARGETS = ("loss", "margin", "prediction")
MEMORY_LIMIT = 2**28  # bytes of one temporary array


class GradientOracle(ABC):
    """Loss, gradients and curvature of a fitted model at its training data.

    All arrays are numpy's, in float64. Functions of a record take data in the oracle's own form, which
    `prepare` makes from the user's (it applies the steps before a Pipeline's last, adds the intercept's column,
    encodes labels).

    Attributes
    ----------
    theta : ndarray of shape (p,)
        Parameters at the fit.
    X, y : training data in the oracle's form, n records
    sample_weight : ndarray of shape (n,)
        Weights v of the records in the objective.
    parameter_names : list of str, length p
    memory_limit : int
        Bytes that one temporary array of a method may take; `batches` cuts to it.
    convex : bool
        Whether J is convex, so that its Hessian may be inverted as it is.
    """

    theta: Array
    X: Any
    y: Any
    sample_weight: Array
    parameter_names: list[str]
    memory_limit: int = MEMORY_LIMIT
    convex = False

    @property
    def n_params(self) -> int:
        """Number of parameters, p."""
        return len(self.theta)

    @property
    def n_train(self) -> int:
        """Number of training records, n."""
        return len(self.sample_weight)

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.n_params} parameters, {self.n_train} records"

    # --- what a subclass has to supply ---

    @abstractmethod
    def prepare(self, X: Any, y: Any = None) -> tuple[Any, Any]:
        """Bring a user's records into the oracle's form; refuse other columns and unseen labels."""

    @abstractmethod
    def loss(self, X: Any, y: Any, theta: Array | None = None) -> Array:
        """Loss of each record, without weight and penalty; shape (m,). `theta` defaults to the fit's."""

    @abstractmethod
    def grad(self, X: Any, y: Any, theta: Array | None = None) -> Array:
        """Gradient of each record's loss, shape (m, p)."""

    @abstractmethod
    def hvp(
        self,
        V: Array,
        X: Any = None,
        y: Any = None,
        sample_weight: Array | None = None,
        theta: Array | None = None,
    ) -> Array:
        """Hessian of the mean objective times V, for V of shape (p,) or (p, k).

        Without X, over the training data with its weights; with X and y, the mean over these m records (weights
        1 unless given), :math:`(1/m) sum_i v_i H_i V`. The penalty is part of it in both cases.
        """

    def with_theta(self, theta: Array) -> GradientOracle:
        """The same model and data at other parameters, shape (p,)."""
        other = copy.copy(self)
        other.theta = np.asarray(theta, dtype=float)
        return other

    def bind(
        self, X: Any = None, y: Any = None, sample_weight: ArrayLike | None = None
    ) -> GradientOracle:
        """The oracle as `fit` takes it, with the data passed there; here it carries its own already."""
        if sample_weight is not None:
            raise ValueError("sample_weight must be given to the oracle itself")
        if X is not None and count(X) != self.n_train:
            raise ValueError(
                f"X has {count(X)} records, but the oracle was made with {self.n_train}"
            )
        return self

    def regulariser(self) -> Array:
        """Diagonal r of the penalty in the mean objective, shape (p,); zeros where there is none."""
        return np.zeros(self.n_params)

    # --- outputs ---

    def output(
        self, X: Any, y: Any = None, target: str = "margin", theta: Array | None = None
    ) -> Array:
        """Margin or prediction of each record, shape (m,)."""
        raise NotImplementedError(f"{type(self).__name__} has no output for target={target!r}")

    def output_grad(
        self, X: Any, y: Any = None, target: str = "margin", theta: Array | None = None
    ) -> Array:
        """Gradient of `output`, shape (m, p)."""
        raise NotImplementedError(f"{type(self).__name__} has no output for target={target!r}")

    def value(self, X: Any, y: Any, target: str = "loss", theta: Array | None = None) -> Array:
        """What is attributed: the loss, the margin or the prediction of each record, shape (m,)."""
        check_choice("target", target, TARGETS)
        return self.loss(X, y, theta) if target == "loss" else self.output(X, y, target, theta)

    def value_grad(self, X: Any, y: Any, target: str = "loss", theta: Array | None = None) -> Array:
        """Gradient of `value`, shape (m, p)."""
        check_choice("target", target, TARGETS)
        if target == "loss":
            return self.grad(X, y, theta)
        return self.output_grad(X, y, target, theta)

    # --- curvature ---

    def ggn_factor(self, X: Any, y: Any = None, theta: Array | None = None) -> Array:
        """F with F^T F = sum of the records' Gauss-Newton matrices, shape (m * outputs, p)."""
        raise NotImplementedError(f"{type(self).__name__} has no Gauss-Newton factor")

    def ggn_vp(
        self,
        V: Array,
        X: Any = None,
        y: Any = None,
        sample_weight: Array | None = None,
        theta: Array | None = None,
    ) -> Array:
        """As `hvp`, with the generalised Gauss-Newton matrix in place of the Hessian."""
        X, y, weight = self._records(X, y, sample_weight)
        m = len(weight)
        total = np.zeros_like(V, dtype=float)
        for part in self.batches(m):
            root = self.ggn_factor(take(X, part), take(y, part), theta)
            repeated = np.repeat(weight[part], len(root) // len(weight[part]))
            product = root @ V
            total += root.T @ (repeated.reshape(-1, *[1] * (V.ndim - 1)) * product)
        return total / m + (self.regulariser() * V.T).T

    def hessian(self) -> Array:
        """H, dense, shape (p, p)."""
        H = self.hvp(np.eye(self.n_params))
        return (H + H.T) / 2

    def ggn(self) -> Array:
        """Generalised Gauss-Newton matrix with the penalty, dense, shape (p, p)."""
        G = self.ggn_vp(np.eye(self.n_params))
        return (G + G.T) / 2

    def fisher(self) -> Array:
        """Empirical Fisher matrix with the penalty, mean of v g g^T + diag(r), shape (p, p)."""
        F = np.zeros((self.n_params, self.n_params))
        for part in self.batches():
            g = self.grad(take(self.X, part), take(self.y, part))
            F += (g * self.sample_weight[part, None]).T @ g
        return F / self.n_train + np.diag(self.regulariser())

    def gauge(self) -> Array:
        """Orthonormal directions in which J is flat by construction, shape (p, k), k mostly 0.

        A softmax model does not change when a constant is added to the intercepts of all classes. The records'
        gradients are orthogonal to these directions, so that H may be completed by any positive multiple of their
        projection before it is inverted.
        """
        return np.zeros((self.n_params, 0))

    def layer_factors(
        self, X: Any, y: Any, theta: Array | None = None
    ) -> list[tuple[Array, Array]] | None:
        """Inputs a (m, in) and loss gradients delta (m, out) of each layer, or None if there are no layers.

        The gradient of record i is, layer after layer, ``np.outer(delta[i], a[i]).ravel()``. A layer that a record
        passes at several positions (a convolution) has a (m, positions, in) and delta (m, positions, out), and
        its gradient is the sum over positions.
        """
        return None

    def sample_labels(self, X: Any, rng: np.random.Generator, theta: Array | None = None) -> Any:
        """A label for each record, drawn from the model: what turns outer products of gradients into a Fisher matrix."""
        raise NotImplementedError(f"{type(self).__name__} cannot draw labels")

    # --- products with all gradients, in batches, so that no (m, p) array is needed ---

    def grad_dot(
        self, V: Array, X: Any, y: Any, target: str = "loss", theta: Array | None = None
    ) -> Array:
        """Each record's gradient times V (p, k), shape (m, k)."""
        m = count(X)
        out = np.empty((m, V.shape[1]))
        for part in self.batches(m):
            out[part] = self.value_grad(take(X, part), take(y, part), target, theta) @ V
        return out

    def grad_sum(self, coefficients: Array, X: Any, y: Any, theta: Array | None = None) -> Array:
        """Sums of the records' loss gradients with coefficients (m, k), shape (p, k)."""
        total = np.zeros((self.n_params, coefficients.shape[1]))
        for part in self.batches(count(X)):
            total += self.grad(take(X, part), take(y, part), theta).T @ coefficients[part]
        return total

    def objective_grad(self, theta: Array | None = None) -> Array:
        """Gradient of J, shape (p,); zero at a fit that has converged."""
        theta = self.theta if theta is None else theta
        total = self.grad_sum(self.sample_weight[:, None], self.X, self.y, theta)[:, 0]
        return total / self.n_train + self.regulariser() * theta

    def batches(self, m: int | None = None, width: int | None = None) -> Iterator[slice]:
        """Slices of m records (default: n) such that an array (slice, width) of floats fits `memory_limit`."""
        m = self.n_train if m is None else m
        size = max(1, int(self.memory_limit // (8 * max(1, width or self.n_params))))
        for start in range(0, m, size):
            yield slice(start, min(start + size, m))

    def _records(self, X, y, sample_weight) -> tuple[Any, Any, Array]:
        """Given records, or the training data where X is None."""
        if X is None:
            return self.X, self.y, self.sample_weight
        return X, y, np.ones(count(X)) if sample_weight is None else sample_weight


def take(records: Any, index: slice | ArrayLike) -> Any:
    """Some of the records; None stays None."""
    return None if records is None else records[index]


def check_weights(sample_weight: ArrayLike, X: Any) -> Array:
    """Weights of records, one each; none is negative or so large that products overflow."""
    weight = _check_sample_weight(sample_weight, X, dtype=float, ensure_non_negative=True)
    return check_magnitude("sample_weight", weight)


def count(records: Any) -> int:
    """Number of records, also of a sparse matrix or a tensor."""
    shape = getattr(records, "shape", None)
    if shape == () or (shape is None and not hasattr(records, "__len__")):
        raise TypeError(f"X must be an array of records, got {records!r}")
    return len(records) if shape is None else shape[0]
