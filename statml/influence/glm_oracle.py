r"""The gradient oracle of generalised linear models, exact and without an (n, p) array of gradients.

Record i has the linear predictors :math:`\eta_i = \Theta x_i \in R^K`, with :math:`\Theta` (K, q) and
:math:`\theta = \mathrm{vec}(\Theta)`, class after class. With the score :math:`s_i` and the curvature
:math:`W_i` of the loss in :math:`\eta_i`,

.. math::  g_i = s_i \otimes x_i, \qquad n H = A = \sum_i v_i\, W_i \otimes x_i x_i^T + R, \qquad R = n\,\mathrm{diag}(r).

Cost: A in O(n K^2 q^2), products with all gradients in O(n p) each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve, lapack

from .glm_families import GLMFamily, LinkedFamily, Softmax
from .oracle import MEMORY_LIMIT, GradientOracle

Array = NDArray[np.float64]

SINGULAR = (
    1e-13  # reciprocal condition number of the scaled Hessian below which no inverse is trusted
)


class GLMOracle(GradientOracle):
    """A generalised linear model at its fit.

    `make_oracle` builds one from a scikit-learn estimator, a Pipeline or statsmodels results.

    Parameters
    ----------
    family : GLMFamily
        `statml.influence.glm_families`.
    theta : array-like of shape (K * q,)
        Parameters, class after class.
    X : array or sparse matrix of shape (n, q)
        Design with its column of ones, if there is an intercept.
    y : array-like of shape (n,)
        Responses; classes coded 0..C-1.
    sample_weight : array-like of shape (n,), optional
    regulariser : array-like of shape (K * q,), optional
        Diagonal r of the penalty in the *mean* objective: alpha / n for scikit-learn's Ridge(alpha),
        1 / (C n) for its LogisticRegression(C), 0 for an intercept.
    linear : array-like of shape (K * q,), optional
        Coefficients of a term linear in theta in the mean objective: what an L1 penalty is on its active set.
    penalty_scales : bool, default=False
        Whether a refit of the estimator to fewer records shrinks the penalty in proportion, as an estimator does
        whose penalty stands in the mean objective (PoissonRegressor, ElasticNet).
    prepare : callable, optional
        (X, y) -> design and coded responses of a user's records.
    parameter_names : list of str, optional

    Examples
    --------
    >>> import numpy as np
    >>> from statml.influence import GLMOracle
    >>> from statml.influence.glm_families import Gaussian
    >>> X, y = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), np.array([0.0, 1.0, 4.0])
    >>> theta = np.linalg.lstsq(X, y)[0]
    >>> oracle = GLMOracle(Gaussian(), theta, X, y)
    >>> oracle
    GLMOracle: 2 parameters, 3 records
    >>> bool(np.abs(oracle.objective_grad()).max() < 1e-12)
    True
    """

    convex = True

    def __init__(
        self,
        family: GLMFamily,
        theta: ArrayLike,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        regulariser: ArrayLike | None = None,
        *,
        linear: ArrayLike | None = None,
        penalty_scales: bool = False,
        prepare: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        parameter_names: list[str] | None = None,
        memory_limit: int = MEMORY_LIMIT,
    ):
        self.family = family
        self.theta = np.asarray(theta, dtype=float).ravel()
        self.X = X.tocsr() if sp.issparse(X) else np.ascontiguousarray(X, dtype=float)
        self.y = np.asarray(y, dtype=float)
        n, q = self.X.shape
        if self.theta.size != family.n_outputs * q:
            raise ValueError(
                f"theta must hold {family.n_outputs} x {q} parameters, got {self.theta.size}"
            )
        if self.y.shape != (n,):
            raise ValueError(
                f"y must hold one response for each of {n} records, got {self.y.shape}"
            )
        self.sample_weight = (
            np.ones(n) if sample_weight is None else np.asarray(sample_weight, dtype=float)
        )
        self._r = np.zeros(self.n_params) if regulariser is None else np.asarray(regulariser, float)
        self.linear = np.zeros(self.n_params) if linear is None else np.asarray(linear, float)
        self.penalty_scales = penalty_scales
        self._prepare = prepare
        self.parameter_names = parameter_names or [f"theta{j}" for j in range(self.n_params)]
        self.memory_limit = memory_limit

    def prepare(self, X: Any, y: Any = None) -> tuple[Any, Any]:
        if self._prepare is not None:
            return self._prepare(X, y)
        X = X.tocsr() if sp.issparse(X) else np.asarray(X, dtype=float)
        if X.ndim != 2 or X.shape[1] != self.X.shape[1]:
            raise ValueError(f"X must have shape (m, {self.X.shape[1]}), got {X.shape}")
        return X, None if y is None else np.asarray(y, dtype=float)

    # --- per record ---

    def linear_predictor(self, X: Any, theta: Array | None = None) -> Array:
        """Eta, shape (m, K)."""
        theta = self.theta if theta is None else theta
        return np.asarray(X @ theta.reshape(self.family.n_outputs, -1).T)

    def loss(self, X: Any, y: Any, theta: Array | None = None) -> Array:
        return self.family.loss(self.linear_predictor(X, theta), y)

    def scores(self, X: Any, y: Array, theta: Array | None = None) -> Array:
        """Gradient of the losses with respect to eta, shape (m, K)."""
        return self.family.score(self.linear_predictor(X, theta), y)

    def curvatures(self, X: Any, y: Array, theta: Array | None = None) -> Array:
        """Hessian of the losses with respect to eta, shape (m, K, K)."""
        return self.family.curvature(self.linear_predictor(X, theta), y)

    def grad(self, X: Any, y: Any, theta: Array | None = None) -> Array:
        return row_kron(self.scores(X, y, theta), X)

    def output(
        self, X: Any, y: Any = None, target: str = "margin", theta: Array | None = None
    ) -> Array:
        return self.family.output(self.linear_predictor(X, theta), y, target)[0]

    def output_grad(
        self, X: Any, y: Any = None, target: str = "margin", theta: Array | None = None
    ) -> Array:
        return row_kron(self.output_scores(X, y, target, theta), X)

    def output_scores(
        self, X: Any, y: Array | None, target: str, theta: Array | None = None
    ) -> Array:
        """Gradient of `value` with respect to eta, shape (m, K)."""
        eta = self.linear_predictor(X, theta)
        if target == "loss":
            return self.family.score(eta, y)
        return self.family.output(eta, y, target)[1]

    def grad_dot(
        self, V: Array, X: Any, y: Any, target: str = "loss", theta: Array | None = None
    ) -> Array:
        s = self.output_scores(X, y, target, theta)
        blocks = V.reshape(self.family.n_outputs, X.shape[1], -1)
        return sum(s[:, [k]] * (X @ blocks[k]) for k in range(s.shape[1]))

    def grad_sum(self, coefficients: Array, X: Any, y: Any, theta: Array | None = None) -> Array:
        s = self.scores(X, y, theta)
        return np.concatenate([X.T @ (s[:, [k]] * coefficients) for k in range(s.shape[1])])

    # --- curvature ---

    def hvp(
        self,
        V: Array,
        X: Any = None,
        y: Any = None,
        sample_weight: Array | None = None,
        theta: Array | None = None,
    ) -> Array:
        X, y, v = self._records(X, y, sample_weight)
        W = self.curvatures(X, y, theta) * v[:, None, None]
        columns = V.reshape(self.n_params, -1)
        blocks = columns.reshape(self.family.n_outputs, X.shape[1], -1)
        inner = np.stack([X @ block for block in blocks])  # K, m, k
        outer = np.einsum("mab,bmk->amk", W, inner)
        product = np.concatenate([X.T @ block for block in outer]) / len(v)
        return (product + self._r[:, None] * columns).reshape(V.shape)

    def objective_grad(self, theta: Array | None = None) -> Array:
        return super().objective_grad(theta) + self.linear

    def hessian(self) -> Array:
        return self.information() / self.n_train

    def information(self, theta: Array | None = None, sample_weight: Array | None = None) -> Array:
        """A = n H, the Hessian of the sum of the training losses with its penalty, shape (p, p)."""
        v = self.sample_weight if sample_weight is None else sample_weight
        W = self.curvatures(self.X, self.y, theta) * v[:, None, None]
        K, q = self.family.n_outputs, self.X.shape[1]
        A = np.empty((K, q, K, q))
        for a in range(K):
            for b in range(a + 1):
                A[a, :, b, :] = _weighted_gram(self.X, W[:, a, b])
                A[b, :, a, :] = A[a, :, b, :].T
        A = A.reshape(self.n_params, self.n_params)
        A[np.diag_indices_from(A)] += self.n_train * self._r
        return A

    def factor(self, damping: float = 0.0) -> Factor:
        """Cholesky factor of A = n (H + damping I), completed along the gauge.

        Raises
        ------
        ValueError
            If A is not positive definite to working precision; says what to do.
        MemoryError
            If A would exceed `memory_limit`.
        """
        p = self.n_params
        if 8 * p * p > self.memory_limit:
            raise MemoryError(
                f"the Hessian of {p} parameters takes {8 * p * p / 2**20:.0f} MiB, beyond memory_limit "
                f'({self.memory_limit / 2**20:.0f} MiB); raise it, or use InfluenceFunction(solver="cg")'
            )
        self._refuse_separation()
        A = self.information()
        A[np.diag_indices_from(A)] += self.n_train * damping
        return Factor(A, self.gauge(), self.n_train)

    def ggn_factor(self, X: Any, y: Any = None, theta: Array | None = None) -> Array:
        # the curvature of a canonical link does not depend on y; that of other links is replaced by its mean
        eta = self.linear_predictor(X, theta)
        if isinstance(self.family, LinkedFamily):
            mean = self.family.family.link.inverse(eta[:, 0])
            W = self.family.curvature(eta, mean)
        else:
            W = self.family.curvature(eta, None)
        values, vectors = np.linalg.eigh(W)
        root = np.sqrt(np.maximum(values, 0))[:, :, None] * vectors.swapaxes(1, 2)  # (m, K, K)
        dense = X.toarray() if sp.issparse(X) else X
        return np.einsum("mka,mj->mkaj", root, dense).reshape(-1, self.n_params)

    def ggn(self) -> Array:
        if isinstance(self.family, LinkedFamily):
            return super().ggn()
        return self.hessian()

    def regulariser(self) -> Array:
        return self._r

    def gauge(self) -> Array:
        if not isinstance(self.family, Softmax) or self.family.reference:
            return np.zeros((self.n_params, 0))
        C = self.family.n_outputs
        free = np.flatnonzero((self._r.reshape(C, -1) == 0).all(axis=0))
        basis = np.zeros((C, self.X.shape[1], len(free)))
        basis[:, free, np.arange(len(free))] = 1 / np.sqrt(C)
        return basis.reshape(self.n_params, -1)

    def layer_factors(
        self, X: Any, y: Any, theta: Array | None = None
    ) -> list[tuple[Array, Array]] | None:
        dense = X.toarray() if sp.issparse(X) else X
        return [(dense, self.scores(X, y, theta))]

    def sample_labels(self, X: Any, rng: np.random.Generator, theta: Array | None = None) -> Array:
        return self.family.sample(self.linear_predictor(X, theta), rng)

    def with_theta(self, theta: Array) -> GLMOracle:
        """The same model and data at other parameters."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.theta = theta
        return other

    def restricted(self, members: NDArray[np.int64]) -> GLMOracle:
        """The same model with some of the records, its penalty unchanged in the sum objective."""
        other = self.with_theta(self.theta)
        other.X, other.y = self.X[members], self.y[members]
        other.sample_weight = self.sample_weight[members]
        share = self.n_train / max(len(members), 1)
        other._r, other.linear = self._r * share, self.linear * share
        return other

    def _refuse_separation(self) -> None:
        """An unpenalised classification that fits every record's side has no finite estimate."""
        if not self.family.classifies or (self._r > 0).any():
            return
        used = self.sample_weight > 0
        if not np.isin(self.y, np.arange(max(2, self.family.n_outputs + 1))).all():
            return  # shares of successes
        margin = self.family.output(self.linear_predictor(self.X), self.y, "margin")[0]
        if (margin[used] > 0).all():
            raise ValueError(
                "the classes are separable: every training record lies on its own side, so the unpenalised fit "
                "has no finite estimate and no influence function. Fit with a penalty (a finite C)"
            )


class Factor:
    """Cholesky factor of A + gauge, and solutions of systems with it.

    Attributes
    ----------
    rcond : float
        Reciprocal condition number of A, scaled to unit diagonal.
    completed : ndarray of shape (p, p)
        A with its flat directions filled.
    """

    def __init__(self, A: Array, gauge: Array, n: int):
        diagonal = np.diag(A)
        if not np.isfinite(A).all():
            raise ValueError("the Hessian is not finite; the fit has diverged")
        if diagonal.min() <= 0:
            raise ValueError(_singular(A, n, 0.0))
        if gauge.shape[1]:
            A = A + diagonal.mean() * gauge @ gauge.T
        self.completed = A
        self._scale = 1 / np.sqrt(np.diag(A))
        scaled = A * self._scale[:, None] * self._scale
        try:
            self._factor = cho_factor(scaled, lower=True)
        except np.linalg.LinAlgError as error:
            raise ValueError(_singular(A, n, 0.0)) from error
        norm = np.abs(scaled).sum(axis=0).max()
        self.rcond = float(lapack.dpocon(self._factor[0], norm, uplo="L")[0])
        if self.rcond < SINGULAR:
            raise ValueError(_singular(A, n, self.rcond))
        if self.rcond < 1e3 * SINGULAR:
            warnings.warn(
                f"the Hessian is close to singular (reciprocal condition number {self.rcond:.1e}); "
                "digits are lost",
                stacklevel=3,
            )

    def solve(self, B: Array) -> Array:
        """A^{-1} B, for B of shape (p,) or (p, k)."""
        scale = self._scale if B.ndim == 1 else self._scale[:, None]
        return scale * cho_solve(self._factor, scale * B, check_finite=False)

    def inverse(self) -> Array:
        """A^{-1}, shape (p, p)."""
        lower, info = lapack.dpotri(self._factor[0], lower=1)
        if info:
            raise ValueError("the Hessian could not be inverted")
        full = np.tril(lower) + np.tril(lower, -1).T
        return full * self._scale[:, None] * self._scale


def row_kron(scores: Array, X: Any) -> Array:
    """s_i kron x_i for every record, shape (m, K * q)."""
    dense = X.toarray() if sp.issparse(X) else X
    if scores.shape[1] == 1:
        return scores * dense
    return (scores[:, :, None] * dense[:, None, :]).reshape(len(scores), -1)


def _weighted_gram(X, w: Array) -> Array:
    """X^T diag(w) X, dense."""
    if sp.issparse(X):
        return (X.T @ X.multiply(w[:, None]).tocsr()).toarray()
    return X.T @ (w[:, None] * X)


def _singular(A: Array, n: int, rcond: float) -> str:
    top = float(np.linalg.eigvalsh(A)[-1]) / n
    return (
        f"the Hessian is singular to working precision (reciprocal condition number {rcond:.1e}): columns are "
        f"constant or collinear, or a parameter is not identified. Fit with a penalty, or set damping={1e-8 * top:.1e} "
        "(1e-8 of the largest curvature)"
    )
