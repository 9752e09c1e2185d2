r"""Logistic regression with latent covariates.

.. math::  P(y_i = 1 \mid x_i) = \mathrm{expit}\{(1, x_i)^\top \beta\}, \quad x_i \sim N(\mu, \Sigma), \quad
           \beta \sim N(b_0, \tau^2 I),

mean and covariance of the covariates as in `_covariates`. Two kinds of releases fit: coefficients by objective perturbation
(`statml.privacy.mechanisms.ObjectivePerturbation` with ``design=model.design``), and noisy sums of
:math:`y, \tilde x_j y, \tilde x_j, \tilde x_j \tilde x_k` (each product once), where
:math:`\tilde x = 2 (x - l) / (r - l) - 1` for x clamped to [l, r]: what a quadratic approximation of the likelihood needs.

The posterior step is one sweep of Pólya-Gamma Gibbs sampling, which leaves the posterior given complete records invariant:

.. math::  \omega_i \sim \mathrm{PG}(1, \psi_i), \quad
           \beta \mid \omega \sim N\{V (X^\top (y - \tfrac12) + b_0 / \tau^2), V\}, \quad
           V^{-1} = X^\top \mathrm{diag}(\omega) X + I / \tau^2.

**Sensitivity** of the sums, with p covariates: adding or removing a record moves them by 1 + p + p (p + 3) / 2 in L1 and by the root of
that in L2. Replacing one, with :math:`D(p) = p (p + 2)^2 / 2 (p + 1)`,

.. math::  \Delta_1 = \max\left\{1 + p + D(p),\; \tfrac{p (p + 1)}{2} + 2 p + \tfrac{2 p}{p + 1}\right\}, \qquad
           \Delta_2 = 2 \sqrt{\lfloor \tfrac{p + 2}{2} \rfloor \lfloor \tfrac{p + 3}{2} \rfloor}

(the first for answers that differ, the others for answers that are both 1). Derived, and confirmed by numerical optimisation for p up to 4.

Cost: O(n p^2) a sweep.

References: Polson, N. G., Scott, J. G. and Windle, J. (2013). Bayesian inference for logistic models using Pólya-Gamma latent
variables. Journal of the American Statistical Association 108, 1339-1349. Kulkarni, T., Jälkö, J., Koskela, A., Kaski, S. and
Honkela, A. (2021). Differentially private Bayesian inference for generalized linear models. ICML.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..._validation import check_integer
from ..compiled import (
    CompiledModel,
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
from ._polya_gamma import draw_polya_gamma
from .linear_regression import second_moments

Array = NDArray[np.float64]
N_SCALARS = 2  # p, whether to clamp: what the constants begin with


class LogisticRegression(AncillaryDataModel):
    """Logistic regression; the statistics are sums of products of the answer and the clamped covariates.

    A record is (x_1, ..., x_p, y) with y 0 or 1. Parameters are ``beta[0]`` (the intercept), ..., ``beta[p]``, then
    ``x_mean[j]`` and the lower triangle ``x_cov[j,k]`` where these are not known.

    Parameters
    ----------
    n_features : int
        p >= 1.
    x_mean, x_cov : array-like of shape (p,) and (p, p), floats, or None, default=None
        Known mean and covariance of the covariates (a number as covariance: of independent ones); None: unknown.
    prior_mean : float or array-like of shape (p + 1,), default=0.0
    prior_scale : float or array-like of shape (p + 1,), default=1.0
        Prior mean and standard deviation of the coefficients.
    x_prior_mean, x_prior_n : default=0.0 and 1.0
        m_0 (a float or (p,)), and kappa_0, how many records it is worth; where the mean is unknown.
    x_prior_cov, x_prior_df : default=1.0 and None
        Prior expectation of the covariance (a float or (p, p)), and nu_0 > p + 1 (None: p + 2); where it is unknown.
    bounds : (lower, upper), array-like of shape (p, 2), or None, default=None
        What the curator clamped the covariates to before mapping them to [-1, 1]; None: they were left as they are.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import models
    >>> model = models.LogisticRegression(2, x_mean=0.0, x_cov=1.0, bounds=(-4, 4))
    >>> model.statistic_names
    ['y', 'x1 y', 'x2 y', 'x1', 'x1^2', 'x2', 'x1 x2', 'x2^2']
    >>> model.statistic(np.array([[4.0, -2.0, 1.0]]))
    array([[ 1.  ,  1.  , -0.5 ,  1.  ,  1.  , -0.5 , -0.5 ,  0.25]])
    """

    def __init__(
        self,
        n_features: int,
        x_mean: ArrayLike | None = None,
        x_cov: ArrayLike | None = None,
        prior_mean: ArrayLike = 0.0,
        prior_scale: ArrayLike = 1.0,
        x_prior_mean: ArrayLike = 0.0,
        x_prior_n: float = 1.0,
        x_prior_cov: ArrayLike = 1.0,
        x_prior_df: float | None = None,
        bounds: ArrayLike | None = None,
    ):
        p = self.n_features = check_integer("n_features", n_features, low=1)
        self.x_mean, self.x_cov = x_mean, x_cov
        self.prior_mean = vector("prior_mean", prior_mean, p + 1)
        self.prior_scale = vector("prior_scale", prior_scale, p + 1, positive=True)
        self.x_prior_mean, self.x_prior_n = x_prior_mean, x_prior_n
        self.x_prior_cov, self.x_prior_df = x_prior_cov, x_prior_df
        self.covariates = CovariateLaw(
            p, x_mean, x_cov, x_prior_mean, x_prior_n, x_prior_cov, x_prior_df
        )
        names = [f"x{j + 1}" for j in range(p)]
        self.bounds = check_bounds(bounds, names)
        self.n_columns = p + 1
        self.parameter_names = [*(f"beta[{j}]" for j in range(p + 1)), *self.covariates.names]
        self.statistic_names = ["y", *(f"{x} y" for x in names), *second_moments(names)]

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """theta from its prior, shape (k,)."""
        beta = self.prior_mean + self.prior_scale * rng.standard_normal(self.n_features + 1)
        return np.concatenate([beta, self.covariates.sample_prior(rng)])

    def log_prior(self, theta: Array) -> float:
        """Log density of the prior, up to a constant."""
        return _log_prior(np.array(theta, dtype=float), self.constants)

    def prior_gaussian(self) -> tuple[Array, Array] | None:
        """Mean (k,) and covariance (k, k) of the prior where the covariance of the covariates is known."""
        covariates = self.covariates.prior_gaussian()
        if covariates is None:
            return None
        mean, cov = covariates
        q = self.n_features + 1
        full = np.zeros((len(self.parameter_names),) * 2)
        full[:q, :q] = np.diag(self.prior_scale**2)
        full[q:, q:] = cov
        return np.concatenate([self.prior_mean, mean]), full

    def design(self, x: Array) -> Array:
        """(1, clamped and mapped covariates, answer), shape (n, p + 2): the rows for `ObjectivePerturbation`."""
        x = np.asarray(x, dtype=float)
        mapped = clamp_to_unit(x[:, :-1], self.bounds)
        return np.concatenate([np.ones((len(x), 1)), mapped, x[:, -1:]], axis=1)

    def statistic(self, x: Array) -> Array:
        """Products of the answer and the clamped and mapped covariates, shape (n, m)."""
        rows = self.design(x)
        X, y = rows[:, 1:-1], rows[:, -1:]
        parts = [y, X * y]
        for j in range(self.n_features):
            parts += [X[:, j : j + 1], X[:, : j + 1] * X[:, j : j + 1]]
        return np.concatenate(parts, axis=1)

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
        needs_bounds(self.bounds, "LogisticRegression")
        p = self.n_features
        if neighbours == "add-remove":
            return float((1 + p + p * (p + 3) / 2) ** (1 / norm))
        if norm == 1:
            differ = 1 + p + p * (p + 2) ** 2 / (2 * (p + 1))
            both = p * (p + 1) / 2 + 2 * p + 2 * p / (p + 1)
            return float(max(differ, both))
        return float(2 * np.sqrt(((p + 2) // 2) * ((p + 3) // 2)))

    @property
    def constants(self) -> Array:
        """What the compiled steps know: scalars, prior of beta, bounds and maps, and the covariates' constants."""
        p = self.n_features
        low, high = np.full(p, -np.inf), np.full(p, np.inf)
        slope, shift = np.ones(p), np.zeros(p)
        if self.bounds is not None:
            low, high = self.bounds.T
            slope, shift = 2 / (high - low), -2 * low / (high - low) - 1
        return np.concatenate(
            [
                [p, self.bounds is not None], self.prior_mean, self.prior_scale**-2,
                low, high, slope, shift, self.covariates.constants,
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


# --- compiled steps ---------------------------------------------------------------------------------------
# constants: N_SCALARS; b_0 and tau^-2 of length p + 1; lower, upper, slope, shift of length p; then the covariates'


@numba.njit(cache=True, error_model="numpy")
def _covariate_constants(c):
    p = int(c[0])
    return c[N_SCALARS + 2 * (p + 1) + 4 * p :]


@numba.njit(cache=True, error_model="numpy")
def _expit(psi):
    if psi >= 0.0:
        return 1.0 / (1.0 + np.exp(-psi))
    e = np.exp(psi)
    return e / (1.0 + e)


@numba.njit(cache=True, error_model="numpy")
def _fill_records(u, theta, c, x, t):
    """Records and statistics from u: standard normal for the covariates, uniform for the answer."""
    p = int(c[0])
    mean, factor, v = np.empty(p), np.zeros((p, p)), np.empty(p)
    covariate_moments(theta[p + 1 :], _covariate_constants(c), mean, factor)
    first = N_SCALARS + 2 * (p + 1)
    for i in range(u.shape[0]):
        psi = theta[0]
        # from the last one down, so that x may be u itself
        for j in range(p - 1, -1, -1):
            value = mean[j]
            for k in range(j + 1):
                value += factor[j, k] * u[i, k]
            x[i, j] = value
            psi += theta[1 + j] * value
        y = 1.0 if u[i, p] < _expit(psi) else 0.0
        x[i, p] = y
        for j in range(p):
            v[j] = x[i, j]
            if c[1]:
                v[j] = min(max(v[j], c[first + j]), c[first + p + j])
                v[j] = v[j] * c[first + 2 * p + j] + c[first + 3 * p + j]
        t[i, 0] = y
        position = p + 1
        for j in range(p):
            t[i, 1 + j] = v[j] * y
            t[i, position] = v[j]
            position += 1
            for k in range(j + 1):
                t[i, position] = v[j] * v[k]
                position += 1


@record_step
def _records(theta, constants, rng, x, t):
    p = x.shape[1] - 1
    for i in range(x.shape[0]):
        for j in range(p):
            x[i, j] = rng.standard_normal()
        x[i, p] = rng.random()
    _fill_records(x, theta, constants, x, t)


@from_ancillary_step
def _from_ancillary(u, theta, constants, x, t):
    _fill_records(u, theta, constants, x, t)


@to_ancillary_step
def _to_ancillary(x, theta, constants, rng, u):
    p = int(constants[0])
    mean, factor, z = np.empty(p), np.zeros((p, p)), np.empty(p)
    covariate_moments(theta[p + 1 :], _covariate_constants(constants), mean, factor)
    for i in range(x.shape[0]):
        psi = theta[0]
        for j in range(p):
            psi += theta[1 + j] * x[i, j]
            z[j] = x[i, j] - mean[j]
        solve_lower(factor, z)
        for j in range(p):
            u[i, j] = z[j]
        chance = _expit(psi)
        v = rng.random()
        u[i, p] = v * chance if x[i, p] == 1.0 else chance + v * (1.0 - chance)


@posterior_step
def _posterior(x, theta, constants, rng):
    n, q = x.shape
    p = q - 1
    precision, L = np.zeros((q, q)), np.zeros((q, q))
    mean, noise, row = np.zeros(q), np.empty(q), np.empty(q)
    x_bar, scatter = np.zeros(p), np.zeros((p, p))
    row[0] = 1.0
    for i in range(n):
        psi = theta[0]
        for j in range(p):
            row[1 + j] = x[i, j]
            psi += theta[1 + j] * x[i, j]
            x_bar[j] += x[i, j] / n
        omega = draw_polya_gamma(psi, rng)
        for j in range(q):
            mean[j] += row[j] * (x[i, p] - 0.5)
            for k in range(j + 1):
                precision[j, k] += omega * row[j] * row[k]
    for j in range(q):
        prior = constants[N_SCALARS + q + j]
        precision[j, j] += prior
        mean[j] += prior * constants[N_SCALARS + j]
        noise[j] = rng.standard_normal()
    cholesky(precision, L)
    solve_lower(L, mean)
    for j in range(q):
        mean[j] += noise[j]
    solve_upper(L, mean)
    for j in range(q):
        theta[j] = mean[j]
    for i in range(n):
        for j in range(p):
            for k in range(p):
                scatter[j, k] += (x[i, j] - x_bar[j]) * (x[i, k] - x_bar[k])
    draw_covariates_law(float(n), x_bar, scatter, theta[q:], _covariate_constants(constants), rng)


@log_prior_step
def _log_prior(theta, constants):
    q = int(constants[0]) + 1
    log_density = 0.0
    for j in range(q):
        distance = theta[j] - constants[N_SCALARS + j]
        log_density -= 0.5 * constants[N_SCALARS + q + j] * distance**2
    return log_density + log_prior_covariates(theta[q:], _covariate_constants(constants))
