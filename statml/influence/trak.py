r"""TRAK: the model linearised in its output, its gradients projected, and one weighted ridge regression in that space.

With f the margin log{p_y/(1 − p_y)} of a classification (the linear predictor of a regression), φ_i = Pᵀ∇f(z_i) and
−∂ℓ_i/∂f = 1 − p_i (the residual),

.. math::  \tau(i, z) = \varphi_z^\top \big(\Phi^\top W\Phi + n\,\mathrm{diag}(r) + n\lambda I\big)^{-1}\varphi_i\, v_i
           \Big(-\frac{\partial \ell_i}{\partial f}\Big),

the change of f(z) that record i makes. W = I is the paper's; W = diag(v_i ∂²ℓ_i/∂f²) = diag(v_i p_i(1 − p_i)) makes it *equal*
to the influence function on the margin of a binary logistic model, and is the default. Influence on the loss is
−∂ℓ/∂f(z) times τ. With several models, the matrix φ_z(…)⁻¹φ_i and the residuals are averaged over models separately, as the
paper has it.

For a linear regression without projection, W = I: τ = (1 − h_i)(f_D − f_{D∖i}).

It assumes that the model acts as its linearisation; one model of one seed is noisy, an ensemble (fitted to half of the
data each, or with other seeds) is better.

Cost: one gradient a record and model, O(np·dim) for the projection, O(dim³).

Reference: Park, S. M., Georgiev, K., Ilyas, A., Leclerc, G. and Madry, A. (2023). TRAK: attributing model behavior at scale. ICML.
Equation 17 and Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_solve

from .._validation import as_seed_sequence, check_choice, check_integer, check_number
from ..solvers import MIN_RCOND, scaled_cholesky
from ._base import BaseInfluence
from .oracle import MEMORY_LIMIT, GradientOracle, count, take
from .projection import RandomProjection

Array = NDArray[np.float64]


class TRAK(BaseInfluence):
    """Tracing with the randomly-projected after kernel.

    Influence is the loss without a record minus the loss with it: positive is helpful. With ``target="margin"`` it is τ
    itself, the margin with the record minus the margin without.

    Parameters
    ----------
    proj_dim : int, default=2048
        Random dimensions; as many as parameters, or more: no projection.
    n_models : int, default=1
        Number of models that `fit` expects; more than one come as a list of oracles or fitted estimators, each trained on the
        same records (a model may have seen half of them).
    weighted : bool, default=True
        W = diag(p(1 − p)) rather than I.
    reg : "auto" or float, default="auto"
        λ, on the scale of the mean. "auto": 0 for a convex model without projection, a hundredth of the mean eigenvalue of
        the matrix otherwise.
    random_state : int, SeedSequence, Generator or None, default=None
        Of the projections, one a model.

    Attributes
    ----------
    residuals_ : ndarray of shape (n_train,)
        −∂ℓ_i/∂f, averaged over models.
    reg_ : list of float
        λ of each model.

    References
    ----------
    Park, S. M. et al. (2023). TRAK: attributing model behavior at scale. ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from statml.influence import TRAK
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> TRAK(random_state=0).fit(model, X, y).influence(X[:2], y[:2]).shape
    (2, 150)
    """

    def __init__(
        self,
        proj_dim: int = 2048,
        n_models: int = 1,
        weighted: bool = True,
        reg: str | float = "auto",
        random_state: int | np.random.SeedSequence | np.random.Generator | None = None,
    ):
        self.proj_dim = proj_dim
        self.n_models = n_models
        self.weighted = weighted
        self.reg = reg
        self.random_state = random_state

    def fit(
        self,
        estimator: Any,
        X: Any = None,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        memory_limit: int = MEMORY_LIMIT,
    ) -> Self:
        """Take in one model, or a list of `n_models`, and the data they were fitted to.

        Parameters
        ----------
        estimator : fitted estimator or GradientOracle, or a list of them
        X, y, sample_weight, X_val, y_val, memory_limit
            As in every influence method.

        Returns
        -------
        self
        """
        check_integer("n_models", self.n_models, low=1)
        several = isinstance(estimator, Sequence)
        models = list(estimator) if several else [estimator]
        if len(models) != self.n_models:
            raise ValueError(
                f"estimator must hold n_models={self.n_models} models, got {len(models)}"
            )
        self._models = models
        return super().fit(
            models[0], X, y, sample_weight, X_val=X_val, y_val=y_val, memory_limit=memory_limit
        )

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val) -> None:
        from .models import make_oracle

        check_integer("proj_dim", self.proj_dim, low=1)
        if not isinstance(self.weighted, (bool, np.bool_)):
            raise TypeError(f"weighted must be True or False, got {self.weighted!r}")
        if isinstance(self.reg, str):
            check_choice("reg", self.reg, ("auto",))
        else:
            check_number("reg", self.reg, low=0)
        oracles = [self.oracle_] + [
            make_oracle(model, X, y, sample_weight, memory_limit=self._memory_limit)
            for model in self._models[1:]
        ]
        del self._models
        seeds = as_seed_sequence(self.random_state).spawn(len(oracles))
        self._kernels = [
            _Kernel(oracle, self.proj_dim, self.weighted, self.reg, seed)
            for oracle, seed in zip(oracles, seeds, strict=True)
        ]
        self.residuals_: Array = np.mean([kernel.residuals for kernel in self._kernels], axis=0)
        self.reg_ = [kernel.reg for kernel in self._kernels]
        self.diagnostics_: dict[str, Any] = {
            "dim": self._kernels[0].project.dim,
            "reg": float(np.mean(self.reg_)),
        }
        self.method_ = f"TRAK ({len(oracles)} models, {self._kernels[0].project.dim} dimensions)"

    def _influence(self, X, y, target) -> Array:
        m = count(X)
        out = np.zeros((m, self.n_train_))
        slope = np.zeros(m)
        for kernel in self._kernels:
            for rows in kernel.oracle.batches(m):
                phi = kernel.features(take(X, rows), take(y, rows))
                out[rows] += kernel.solve(phi) @ kernel.phi.T
            slope += kernel.slope(X, y, target)
        n_models = len(self._kernels)
        return (out / n_models * self.residuals_) * (slope / n_models)[:, None]


class _Kernel:
    """Projected gradients of one model's training records, and the inverse of their weighted Gram matrix."""

    def __init__(self, oracle: GradientOracle, dim: int, weighted: bool, reg: str | float, seed):
        self.oracle = oracle
        n, p = oracle.n_train, oracle.n_params
        self.project = RandomProjection(p, dim, seed, oracle.memory_limit)
        self.phi = np.empty((n, self.project.dim))
        self.residuals, weights = np.empty(n), np.ones(n)
        for part in oracle.batches():
            X, y = take(oracle.X, part), take(oracle.y, part)
            gradients = oracle.output_grad(X, y, "margin")
            self.phi[part] = self.project(gradients)
            first, second = margin_derivatives(oracle, X, y, gradients)
            self.residuals[part] = -first
            if weighted:
                weights[part] = second
        v = oracle.sample_weight
        self.residuals *= v
        gram = (self.phi * (v * weights)[:, None]).T @ self.phi
        if self.project.identity:
            # otherwise the penalty has no place but in λ
            gram[np.diag_indices(p)] += n * oracle.regulariser()
            gauge = oracle.gauge()
            if gauge.shape[1]:
                gram += np.trace(gram) / p * gauge @ gauge.T
        exact = oracle.convex and self.project.identity and dim >= p
        if reg == "auto":
            self.reg = 0.0 if exact else 0.01 * np.trace(gram) / (n * len(gram))
        else:
            self.reg = float(reg)
        gram[np.diag_indices_from(gram)] += n * self.reg
        self._scale, self._factor, rcond = scaled_cholesky(gram)
        if rcond < MIN_RCOND:
            enough = 0.01 * np.trace(gram) / (n * len(gram))
            raise ValueError(
                f"the Gram matrix of the gradients is singular; pass reg={enough:.1g} or so"
            )

    def features(self, X, y) -> Array:
        return self.project(self.oracle.output_grad(X, y, "margin"))

    def solve(self, phi: Array) -> Array:
        return cho_solve(self._factor, (phi * self._scale).T).T * self._scale

    def slope(self, X, y, target: str) -> Array:
        """What a unit of the margin is worth in the target, shape (m,); positive for what is better when larger."""
        m = count(X)
        if target == "margin":
            return np.ones(m)
        out = np.empty(m)
        for part in self.oracle.batches(m):
            X_part, y_part = take(X, part), take(y, part)
            if target == "loss":
                gradients = self.oracle.output_grad(X_part, y_part, "margin")
                out[part] = -margin_derivatives(self.oracle, X_part, y_part, gradients)[0]
            else:
                base = self.oracle.output_grad(X_part, y_part, "margin")
                out[part] = _ratio(self.oracle.output_grad(X_part, y_part, target), base)
        return out


def margin_derivatives(oracle: GradientOracle, X, y, gradients: Array) -> tuple[Array, Array]:
    """∂ℓ/∂f and ∂²ℓ/∂f² of each record, f its margin with the given gradients."""
    loss = oracle.loss(X, y)
    margin = oracle.output(X, y, "margin")
    softplus = np.logaddexp(0, -margin)
    if np.allclose(loss, softplus, rtol=1e-6, atol=1e-10):
        # a classification: ℓ = log(1 + e^{−f}), whatever the model
        p = np.exp(-softplus)
        q = np.exp(-np.logaddexp(0, margin))
        return -q, p * q
    first = _ratio(oracle.grad(X, y), gradients)
    factor = oracle.ggn_factor(X, y)
    if len(factor) != len(gradients):
        raise ValueError(
            "TRAK needs one output a record, or classes: several responses at once are not taken"
        )
    squares = np.einsum("ij,ij->i", gradients, gradients)
    second = np.einsum("ij,ij->i", factor, factor)
    return first, np.divide(second, squares, out=np.zeros_like(second), where=squares > 0)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """c with numerator = c · denominator, row by row; 0 where the denominator vanishes."""
    squares = np.einsum("ij,ij->i", denominator, denominator)
    products = np.einsum("ij,ij->i", numerator, denominator)
    return np.divide(products, squares, out=np.zeros_like(products), where=squares > 0)
