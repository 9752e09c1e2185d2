r"""Linear regression on private moments of covariates and response.

.. math::  y_i = (1, x_i)^\top \beta + \sigma e_i, \quad e_i \sim N(0, 1), \quad x_i \sim N(\mu, \Sigma),

with the priors :math:`\beta \sim N(b_0, \tau^2 I)` where :math:`\sigma^2` is known, and
:math:`\beta \mid \sigma^2 \sim N(b_0, \sigma^2 \tau^2 I)`, :math:`\sigma^2 \sim \mathrm{IG}(a, b)` where it is not; those of
:math:`\mu` and :math:`\Sigma` are in `_covariates`. The curator clamps every variable v to its bounds [l, r], maps it to

.. math::  \tilde v = 2 (v - l) / (r - l) - 1 \in [-1, 1],

and adds noise to the sums of :math:`\tilde y, \tilde x_j \tilde y, \tilde y^2, \tilde x_j, \tilde x_j \tilde x_k` (each product once, the number of
records not among them). The posterior step works on the unclamped latent records.

**Sensitivity.** With q = p + 1 variables, replacing a record moves the sums by at most

.. math::  \Delta_1 = \frac{q (q + 2)^2}{2 (q + 1)}, \qquad
           \Delta_2 = 2 \sqrt{\lfloor \tfrac{q + 1}{2} \rfloor \lfloor \tfrac{q + 2}{2} \rfloor},

adding or removing one by :math:`\Delta_1 = q (q + 3) / 2` and :math:`\Delta_2 = \sqrt{\Delta_1}`. :math:`\Delta_1` is attained by
the records (1, ..., 1) and -(1, ..., 1) / (q + 1), :math:`\Delta_2` by records of signs that differ in half of the q + 1 entries of
(1, v). Derived, and confirmed by numerical optimisation for q up to 4; the constants in use before (13 and 15 for p = 2) are larger than
:math:`\Delta_1` = 9.375.

Cost: O(n p^2) a sweep, O(p^3) for the posterior step.

References: Bernstein, G. and Sheldon, D. (2019). Differentially private Bayesian linear regression. NeurIPS. Ju, N., Awan, J. A.,
Gong, R. and Rao, V. A. (2022). Data augmentation MCMC for Bayesian inference from privatized data. NeurIPS, example B.
"""

from __future__ import annotations

from functools import cache

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import qmc

from ..._validation import check_integer, check_number
from ..compiled import (
    CompiledModel,
    compiled_function,
    from_ancillary_step,
    log_prior_step,
    posterior_step,
    record_step,
    to_ancillary_step,
)
from ._base import AncillaryDataModel, check_neighbours, vector
from ._bounds import check_bounds, clamp_to_unit, needs_bounds
from ._covariates import (
    CovariateLaw,
    cholesky,
    covariate_moments,
    draw_covariates_law,
    log_prior_covariates,
    solve_lower,
    solve_upper,
)

Array = NDArray[np.float64]
N_SCALARS = 5  # p, known sigma^2 or 0, a, b, whether to clamp: what the constants begin with


class LinearRegression(AncillaryDataModel):
    """Linear regression; the statistics are sums of products of the clamped variables.

    A record is (x_1, ..., x_p, y). Parameters are ``beta[0]`` (the intercept), ..., ``beta[p]``, then those that are not
    known: ``sigma2``, ``x_mean[j]``, and the lower triangle ``x_cov[j,k]``.

    Parameters
    ----------
    n_features : int
        p >= 1.
    x_mean : array-like of shape (p,), float or None, default=None
        Known mean of the covariates; None: unknown.
    x_cov : array-like of shape (p, p), float or None, default=None
        Known covariance of the covariates (a number: of independent ones); None: unknown.
    sigma2 : float or None, default=None
        Known variance of the errors; None: unknown.
    prior_mean : float or array-like of shape (p + 1,), default=0.0
        b_0, prior mean of the coefficients.
    prior_scale : float or array-like of shape (p + 1,), default=1.0
        tau, prior standard deviation of the coefficients; in units of sigma where `sigma2` is unknown.
    prior_shape, prior_rate : float, default=2.0 and 1.0
        a and b of the inverse gamma prior of an unknown sigma^2, whose mean is b / (a - 1).
    x_prior_mean, x_prior_n : default=0.0 and 1.0
        m_0 (a float or (p,)), and kappa_0, how many records it is worth; where the mean is unknown.
    x_prior_cov, x_prior_df : default=1.0 and None
        Prior expectation of the covariance (a float or (p, p)), and nu_0 > p + 1 (None: p + 2); where it is unknown.
    bounds : (lower, upper), array-like of shape (p + 1, 2), or None, default=None
        What the curator clamped to before mapping to [-1, 1]: one pair for all, or one for each of x_1, ..., x_p, y. None:
        sums of the raw variables were released.

    Examples
    --------
    >>> from statml.privacy import models
    >>> model = models.LinearRegression(2, x_mean=[0.9, -1.2], x_cov=1.0, sigma2=2.0, bounds=(-10, 10))
    >>> model.parameter_names
    ['beta[0]', 'beta[1]', 'beta[2]']
    >>> model.statistic_names
    ['y', 'x1 y', 'x2 y', 'y^2', 'x1', 'x1^2', 'x2', 'x1 x2', 'x2^2']
    >>> model.sensitivity("replace"), model.sensitivity("add-remove")
    (9.375, 9.0)
    """

    def __init__(
        self,
        n_features: int,
        x_mean: ArrayLike | None = None,
        x_cov: ArrayLike | None = None,
        sigma2: float | None = None,
        prior_mean: ArrayLike = 0.0,
        prior_scale: ArrayLike = 1.0,
        prior_shape: float = 2.0,
        prior_rate: float = 1.0,
        x_prior_mean: ArrayLike = 0.0,
        x_prior_n: float = 1.0,
        x_prior_cov: ArrayLike = 1.0,
        x_prior_df: float | None = None,
        bounds: ArrayLike | None = None,
    ):
        p = self.n_features = check_integer("n_features", n_features, low=1)
        self.x_mean, self.x_cov = x_mean, x_cov
        self.sigma2 = None if sigma2 is None else check_number("sigma2", sigma2, 0, low_open=True)
        self.prior_mean = vector("prior_mean", prior_mean, p + 1)
        self.prior_scale = vector("prior_scale", prior_scale, p + 1, positive=True)
        self.prior_shape = check_number("prior_shape", prior_shape, 0, low_open=True)
        self.prior_rate = check_number("prior_rate", prior_rate, 0, low_open=True)
        self.x_prior_mean, self.x_prior_n = x_prior_mean, x_prior_n
        self.x_prior_cov, self.x_prior_df = x_prior_cov, x_prior_df
        self.covariates = CovariateLaw(
            p, x_mean, x_cov, x_prior_mean, x_prior_n, x_prior_cov, x_prior_df
        )
        names = [f"x{j + 1}" for j in range(p)]
        self.bounds = check_bounds(bounds, [*names, "y"])
        self.n_columns = p + 1
        self.parameter_names = [
            *(f"beta[{j}]" for j in range(p + 1)),
            *([] if self.sigma2 is not None else ["sigma2"]),
            *self.covariates.names,
        ]
        self.statistic_names = ["y", *(f"{x} y" for x in names), "y^2", *second_moments(names)]
        self._first = p + 1 + (self.sigma2 is None)  # parameter of the covariates

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """theta from its prior, shape (k,)."""
        sigma2, scale = [], self.prior_scale
        if self.sigma2 is None:
            sigma2 = [self.prior_rate / rng.standard_gamma(self.prior_shape)]
            scale = scale * np.sqrt(sigma2[0])
        beta = self.prior_mean + scale * rng.standard_normal(self.n_features + 1)
        return np.concatenate([beta, sigma2, self.covariates.sample_prior(rng)])

    def log_prior(self, theta: Array) -> float:
        """Log density of the prior, up to a constant."""
        return _log_prior(np.array(theta, dtype=float), self.constants)

    def prior_gaussian(self) -> tuple[Array, Array] | None:
        """Mean (k,) and covariance (k, k) of the prior where both variances are known."""
        covariates = self.covariates.prior_gaussian()
        if self.sigma2 is None or covariates is None:
            return None
        mean, cov = covariates
        full = np.zeros((len(self.parameter_names),) * 2)
        full[: self._first, : self._first] = np.diag(self.prior_scale**2)
        full[self._first :, self._first :] = cov
        return np.concatenate([self.prior_mean, mean]), full

    def statistic(self, x: Array) -> Array:
        """Products of the clamped and mapped variables, shape (n, m)."""
        v = clamp_to_unit(np.asarray(x, dtype=float), self.bounds)
        X, y = v[:, :-1], v[:, -1:]
        rows, columns = np.tril_indices(self.n_features)
        squares = X[:, rows] * X[:, columns]
        parts = [y, X * y, y**2]
        for j in range(self.n_features):
            parts += [X[:, j : j + 1], squares[:, rows == j]]
        return np.concatenate(parts, axis=1)

    def draw_from_totals(self, S: Array, n: int, theta: Array, rng: np.random.Generator) -> Array:
        """theta given totals, which may be noisy ones: taken as sums over records that were never clamped.

        The scatter matrix about the means that the totals imply is made positive definite by raising its eigenvalues to
        at least 1e-9 of the largest.
        """
        theta = np.array(theta, dtype=float)
        _draw_theta(self._moment_matrix(S, n), float(n), theta, self.constants, rng)
        return theta

    def _moment_matrix(self, S: Array, n: int) -> Array:
        """Sums of the products of (1, x, y), shape (p + 2, p + 2), undoing the map to [-1, 1]."""
        p = self.n_features
        M = np.zeros((p + 2, p + 2))
        M[0, 0] = n
        M[p + 1, 0], M[p + 1, 1 : p + 1], M[p + 1, p + 1] = S[0], S[1 : p + 1], S[p + 1]
        M[1 : p + 1, : p + 1][np.tril_indices(p, 1, p + 1)] = S[p + 2 :]
        M = np.tril(M) + np.tril(M, -1).T
        low, high = (-1.0, 1.0) if self.bounds is None else self.bounds.T
        to_raw = np.eye(p + 2)
        to_raw[1:, 0] = (low + high) / 2
        to_raw[range(1, p + 2), range(1, p + 2)] = (high - low) / 2
        M = to_raw @ M @ to_raw.T
        centre = M[1:, 0] / n
        values, vectors = np.linalg.eigh(M[1:, 1:] - n * np.outer(centre, centre))
        values = np.maximum(values, 1e-9 * max(values.max(), 1e-9))
        M[1:, 1:] = vectors * values @ vectors.T + n * np.outer(centre, centre)
        return M

    def moments(self, theta: Array, n: int) -> tuple[Array, Array]:
        """Mean (m,) and covariance (m, m) of the statistic of a record, from 2,048 quasi-random ones (to about 1 %)."""
        x = self.from_ancillary(_normal_nodes(self.n_columns), theta)
        t = self.statistic(x)
        return t.mean(axis=0), np.cov(t, rowvar=False, bias=True)

    def sensitivity(self, neighbours: str = "replace", norm: int = 1) -> float:
        """How far one record can move the totals, by the formulas of the module's docstring.

        Parameters
        ----------
        neighbours : {"replace", "add-remove"}, default="replace"
        norm : {1, 2}, default=1

        Raises
        ------
        UnknownSensitivity
            Without `bounds`.
        """
        check_neighbours(neighbours, norm)
        needs_bounds(self.bounds, "LinearRegression")
        return moment_sensitivity(self.n_features + 1, neighbours, norm)

    @property
    def constants(self) -> Array:
        """What the compiled steps know: scalars, prior of beta, bounds and maps, and the covariates' constants."""
        q = self.n_features + 1
        low, high = (np.full(q, -np.inf), np.full(q, np.inf))
        slope, shift = np.ones(q), np.zeros(q)
        if self.bounds is not None:
            low, high = self.bounds.T
            slope, shift = 2 / (high - low), -2 * low / (high - low) - 1
        scalars = [
            self.n_features, self.sigma2 or 0.0, self.prior_shape, self.prior_rate, self.bounds is not None
        ]  # fmt: skip
        return np.concatenate(
            [
                scalars, self.prior_mean, self.prior_scale**-2, low, high, slope, shift,
                self.covariates.constants,
            ]
        )  # fmt: skip

    def compiled(self) -> CompiledModel:
        """Numba versions of the steps."""
        return CompiledModel(
            records=_records,
            posterior=_posterior,
            constants=self.constants,
            to_ancillary=_to_ancillary,
            from_ancillary=_from_ancillary,
            log_prior=_log_prior,
        )


def second_moments(names: list[str]) -> list[str]:
    """x1, x1^2, x2, x1 x2, x2^2, ...: the lower triangle of the moments of (1, x), row by row, without the number of records."""
    out = []
    for j, x in enumerate(names):
        out += [x, *(f"{names[k]} {x}" for k in range(j)), f"{x}^2"]
    return out


def moment_sensitivity(q: int, neighbours: str, norm: int) -> float:
    """Sensitivity of the sums of q variables in [-1, 1] and of all their products."""
    if neighbours == "add-remove":
        return float((q * (q + 3) / 2) ** (1 / norm))
    if norm == 1:
        return q * (q + 2) ** 2 / (2 * (q + 1))
    return float(2 * np.sqrt(((q + 1) // 2) * ((q + 2) // 2)))


@cache
def _normal_nodes(dimension: int) -> Array:
    """Quasi-random standard normal points (2048, dimension)."""
    return ndtri(qmc.Sobol(dimension, seed=0).random(2048))


# --- compiled steps ---------------------------------------------------------------------------------------
# constants: N_SCALARS, then of length q = p + 1 each: b_0, tau^-2, lower, upper, slope, shift; then the covariates'


@numba.njit(cache=True, error_model="numpy")
def _fill_statistic(x, c, v, t):
    """t (m,) of one record x (q,); v (q,) is room for the mapped variables."""
    p = int(c[0])
    q = p + 1
    for j in range(q):
        v[j] = x[j]
        if c[4]:
            low, high = c[N_SCALARS + 2 * q + j], c[N_SCALARS + 3 * q + j]
            v[j] = min(max(x[j], low), high) * c[N_SCALARS + 4 * q + j] + c[N_SCALARS + 5 * q + j]
    t[0] = v[p]
    for j in range(p):
        t[1 + j] = v[j] * v[p]
    t[q] = v[p] * v[p]
    position = q + 1
    for j in range(p):
        t[position] = v[j]
        position += 1
        for k in range(j + 1):
            t[position] = v[j] * v[k]
            position += 1


@numba.njit(cache=True, error_model="numpy")
def _fill_records(u, theta, c, x, t):
    """Records and statistics from standard normal u."""
    p = int(c[0])
    unknown = 1 if c[1] == 0.0 else 0
    sigma = np.sqrt(theta[p + 1] if unknown else c[1])
    mean, factor, v = np.empty(p), np.zeros((p, p)), np.empty(p + 1)
    covariate_moments(theta[p + 1 + unknown :], c[N_SCALARS + 6 * (p + 1) :], mean, factor)
    for i in range(u.shape[0]):
        y = theta[0] + sigma * u[i, p]
        # from the last one down, so that x may be u itself
        for j in range(p - 1, -1, -1):
            value = mean[j]
            for k in range(j + 1):
                value += factor[j, k] * u[i, k]
            x[i, j] = value
            y += theta[1 + j] * value
        x[i, p] = y
        _fill_statistic(x[i], c, v, t[i])


@record_step
def _records(theta, constants, rng, x, t):
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] = rng.standard_normal()
    _fill_records(x, theta, constants, x, t)


@from_ancillary_step
def _from_ancillary(u, theta, constants, x, t):
    _fill_records(u, theta, constants, x, t)


@to_ancillary_step
def _to_ancillary(x, theta, constants, rng, u):
    p = int(constants[0])
    unknown = 1 if constants[1] == 0.0 else 0
    sigma = np.sqrt(theta[p + 1] if unknown else constants[1])
    mean, factor, z = np.empty(p), np.zeros((p, p)), np.empty(p)
    covariate_moments(theta[p + 1 + unknown :], constants[N_SCALARS + 6 * (p + 1) :], mean, factor)
    for i in range(x.shape[0]):
        error = x[i, p] - theta[0]
        for j in range(p):
            error -= theta[1 + j] * x[i, j]
            z[j] = x[i, j] - mean[j]
        solve_lower(factor, z)
        for j in range(p):
            u[i, j] = z[j]
        u[i, p] = error / sigma


@posterior_step
def _posterior(x, theta, constants, rng):
    n, q = x.shape
    M = np.zeros((q + 1, q + 1))
    M[0, 0] = n
    for i in range(n):
        for j in range(q):
            M[j + 1, 0] += x[i, j]
            for k in range(j + 1):
                M[j + 1, k + 1] += x[i, j] * x[i, k]
    for j in range(q + 1):
        for k in range(j):
            M[k, j] = M[j, k]
    _draw(M, float(n), theta, constants, rng)


@compiled_function("void", "F x f f g")
def _draw_theta(M, n, theta, constants, rng):
    _draw(M, n, theta, constants, rng)


@numba.njit(cache=True, error_model="numpy")
def _draw(M, n, theta, c, rng):
    """theta given the sums M of products of (1, x, y)."""
    p = int(c[0])
    q = p + 1
    unknown = 1 if c[1] == 0.0 else 0
    divisor = 1.0 if unknown else c[1]
    precision, L = np.empty((q, q)), np.zeros((q, q))
    right, mean = np.empty(q), np.empty(q)
    for j in range(q):
        for k in range(q):
            precision[j, k] = M[j, k] / divisor
        b0, prior = c[N_SCALARS + j], c[N_SCALARS + q + j]
        precision[j, j] += prior
        right[j] = M[q, j] / divisor + prior * b0
        mean[j] = right[j]
    cholesky(precision, L)
    solve_lower(L, mean)
    solve_upper(L, mean)
    sigma = 1.0
    if unknown:
        rest = M[q, q]  # |y|^2 + b_0' Lambda_0 b_0 - mean' Lambda_n mean
        for j in range(q):
            rest += c[N_SCALARS + q + j] * c[N_SCALARS + j] ** 2 - right[j] * mean[j]
        rate = c[3] + 0.5 * max(rest, 0.0)
        theta[q] = rate / rng.standard_gamma(c[2] + 0.5 * n)
        sigma = np.sqrt(theta[q])
    for j in range(q):
        right[j] = sigma * rng.standard_normal()
    solve_upper(L, right)
    for j in range(q):
        theta[j] = mean[j] + right[j]
    x_bar, scatter = np.empty(p), np.empty((p, p))
    for j in range(p):
        x_bar[j] = M[j + 1, 0] / n
    for j in range(p):
        for k in range(p):
            scatter[j, k] = M[j + 1, k + 1] - n * x_bar[j] * x_bar[k]
    draw_covariates_law(n, x_bar, scatter, theta[q + unknown :], c[N_SCALARS + 6 * q :], rng)


@log_prior_step
def _log_prior(theta, constants):
    p = int(constants[0])
    q = p + 1
    unknown = 1 if constants[1] == 0.0 else 0
    log_density, sigma2 = 0.0, 1.0
    if unknown:
        sigma2 = theta[q]
        if not sigma2 > 0.0:
            return -np.inf
        log_density -= (constants[2] + 1.0 + 0.5 * q) * np.log(sigma2) + constants[3] / sigma2
    for j in range(q):
        distance = theta[j] - constants[N_SCALARS + j]
        log_density -= 0.5 * constants[N_SCALARS + q + j] * distance**2 / sigma2
    return log_density + log_prior_covariates(theta[q + unknown :], constants[N_SCALARS + 6 * q :])
