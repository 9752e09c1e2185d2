r"""Kernel ridge regression and Gaussian processes as linear models in their own feature map.

With the kernel matrix :math:`K = U \Lambda U^T` of the training data, the features
:math:`\phi(x) = \Lambda^{-1/2} U^T k(x)` satisfy :math:`\phi(x_i)^T \phi(x_j) = K_{ij}`, and

.. math::  \min_\theta \tfrac12 \sum_i v_i (y_i - \phi_i^T \theta)^2 + \tfrac{\alpha}{2} |\theta|^2

is kernel ridge regression. All closed forms of the Gaussian model hold, the leave-one-out residual
:math:`[\tilde K^{-1} y]_i / [\tilde K^{-1}]_{ii}`, :math:`\tilde K = K + \alpha I`, among them. Cost: O(n^3) once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import validate_data

from .glm_families import Gaussian
from .glm_oracle import GLMOracle

SMALLEST = 1e-13  # share of the largest eigenvalue of K below which a direction carries no data


class KernelOracle(GLMOracle):
    """The oracle of a KernelRidge or a GaussianProcessRegressor with a scalar alpha; see `make_oracle`."""


def kernel_oracle(final, transform, Z, y, sample_weight, memory_limit) -> KernelOracle:
    """Build the oracle from the fitted final step and its training data."""
    n = Z.shape[0]
    alpha = final.alpha
    if np.ndim(alpha) and np.size(alpha) > 1:
        raise TypeError(f"{type(final).__name__} is taken with one alpha, got {np.size(alpha)}")
    alpha = float(np.ravel(alpha)[0])
    centre, scale = 0.0, 1.0
    if isinstance(final, GaussianProcessRegressor):
        centre, scale = (float(np.ravel(a)[0]) for a in (final._y_train_mean, final._y_train_std))

    kernel = partial(_kernel, final)
    K = kernel(Z)
    if isinstance(final, GaussianProcessRegressor):
        # a WhiteKernel adds noise to the diagonal of the training matrix alone
        noise = np.diag(K) - np.diag(kernel(Z, Z))
        if np.ptp(noise) > 1e-10 * max(1.0, np.abs(noise).max()):
            raise TypeError("a kernel whose noise differs between records is not taken")
        alpha += float(noise[0])
        K = kernel(Z, Z)
    values, U = np.linalg.eigh((K + K.T) / 2)
    keep = values > SMALLEST * values[-1]
    to_features = U[:, keep] / np.sqrt(values[keep])

    prepare = _Preparation(final, transform, Z, to_features, centre, scale)
    design = K @ to_features
    target = (y - centre) / scale
    weights = np.ones(n) if sample_weight is None else sample_weight
    gram = (design * weights[:, None]).T @ design
    theta = np.linalg.solve(gram + alpha * np.eye(len(gram)), design.T @ (weights * target))
    return KernelOracle(
        Gaussian(), theta, design, target, weights, np.full(len(theta), alpha / n),
        prepare=prepare, parameter_names=[f"phi{j}" for j in range(len(theta))],
        memory_limit=memory_limit,
    )  # fmt: skip


def _kernel(final, A, B=None):
    if isinstance(final, GaussianProcessRegressor):
        return final.kernel_(A, B)
    if callable(final.kernel):
        parameters = final.kernel_params or {}
    else:
        parameters = {"gamma": final.gamma, "degree": final.degree, "coef0": final.coef0}
    return pairwise_kernels(A, B, metric=final.kernel, filter_params=True, **parameters)


@dataclass
class _Preparation:
    """From a user's records to features; an object, so that oracles can be pickled."""

    final: Any
    transform: Callable[[Any], Any]
    Z: Any
    to_features: NDArray[np.float64]
    centre: float
    scale: float

    def __call__(self, X, y):
        Z = self.transform(X)
        if isinstance(self.Z, np.ndarray):
            Z = validate_data(self.final, Z, reset=False, dtype=np.float64)
        design = _kernel(self.final, Z, self.Z) @ self.to_features
        if y is None:
            return design, None
        y = np.asarray(y, dtype=float).ravel()
        check_consistent_length(design, y)
        return design, (y - self.centre) / self.scale
