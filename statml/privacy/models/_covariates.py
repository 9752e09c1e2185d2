r"""Normal covariates whose mean and covariance are known, or unknown with a normal-inverse-Wishart prior.

A regression on private moments needs a law of the covariates, since their own moments are noised as well:

.. math::  x_i \sim N(\mu, \Sigma), \quad \mu \mid \Sigma \sim N(m_0, \Sigma / \kappa_0), \quad
           \Sigma \sim \mathrm{IW}(\nu_0, \Psi_0), \quad \Psi_0 = (\nu_0 - p - 1)\, E \Sigma.

Given complete records both are conjugate. Either may be known instead. As parameters, Sigma is its lower triangle, row by row.

All functions below `CovariateLaw` are compiled and take ``c``, the array of constants that `CovariateLaw.constants` packs.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from ..._validation import check_number
from ._base import covariance_matrix, vector

Array = NDArray[np.float64]
N_SCALARS = 5  # p, mean known, cov known, kappa_0, nu_0: what the constants begin with


class CovariateLaw:
    """The law of p covariates.

    Parameters
    ----------
    n_features : int
    x_mean : array-like of shape (p,), float or None
        Known mean; None: unknown.
    x_cov : array-like of shape (p, p), float or None
        Known covariance; None: unknown.
    x_prior_mean : array-like of shape (p,) or float
    x_prior_n : float
        kappa_0, how many records the prior mean is worth.
    x_prior_cov : array-like of shape (p, p) or float
        Prior expectation of Sigma.
    x_prior_df : float or None
        nu_0 > p + 1; None takes p + 2.
    """

    def __init__(self, n_features, x_mean, x_cov, x_prior_mean, x_prior_n, x_prior_cov, x_prior_df):
        p = self.n_features = n_features
        self.knows_mean, self.knows_cov = x_mean is not None, x_cov is not None
        self.mean = (
            vector("x_mean", x_mean, p)
            if self.knows_mean
            else vector("x_prior_mean", x_prior_mean, p)
        )
        self.kappa = check_number("x_prior_n", x_prior_n, 0, low_open=True)
        self.df = (
            p + 2.0
            if x_prior_df is None
            else check_number("x_prior_df", x_prior_df, p + 1, low_open=True)
        )
        self.cov = (
            covariance_matrix("x_cov", x_cov, p)
            if self.knows_cov
            else (self.df - p - 1) * covariance_matrix("x_prior_cov", x_prior_cov, p)
        )  # Psi_0 where unknown

    @property
    def names(self) -> list[str]:
        """Names of the unknown parameters."""
        p = self.n_features
        mean = [] if self.knows_mean else [f"x_mean[{j}]" for j in range(p)]
        cov = [] if self.knows_cov else [f"x_cov[{j},{k}]" for j in range(p) for k in range(j + 1)]
        return mean + cov

    @property
    def constants(self) -> Array:
        """c: scalars, mean, covariance and its Cholesky factor."""
        scalars = [self.n_features, self.knows_mean, self.knows_cov, self.kappa, self.df]
        factor = np.linalg.cholesky(self.cov)
        return np.concatenate([scalars, self.mean, self.cov.ravel(), factor.ravel()])

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """The unknown parameters from their prior."""
        theta, p = np.empty(len(self.names)), self.n_features
        draw_covariates_law(0.0, np.zeros(p), np.zeros((p, p)), theta, self.constants, rng)
        return theta

    def prior_gaussian(self) -> tuple[Array, Array] | None:
        """Mean and covariance of the unknown parameters, where their prior is Gaussian."""
        if not self.knows_cov:
            return None
        if self.knows_mean:
            return np.zeros(0), np.zeros((0, 0))
        return self.mean, self.cov / self.kappa

    def moments(self, theta: Array) -> tuple[Array, Array]:
        """Mean (p,) and Cholesky factor (p, p) of the covariates at the unknown parameters."""
        mean, factor = np.empty(self.n_features), np.zeros((self.n_features,) * 2)
        covariate_moments(np.asarray(theta, dtype=float), self.constants, mean, factor)
        return mean, factor


def n_covariate_constants(p: int) -> int:
    """Length of c."""
    return N_SCALARS + p + 2 * p * p


# --- compiled ---------------------------------------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy")
def cholesky(A, L):
    """L = lower Cholesky factor of A; False where A is not positive definite. Only A's lower triangle is read."""
    p = A.shape[0]
    for j in range(p):
        for k in range(j + 1):
            value = A[j, k]
            for i in range(k):
                value -= L[j, i] * L[k, i]
            if j == k:
                if not value > 0.0:
                    return False
                L[j, j] = np.sqrt(value)
            else:
                L[j, k] = value / L[k, k]
        for k in range(j + 1, p):
            L[j, k] = 0.0
    return True


@numba.njit(cache=True, error_model="numpy")
def solve_lower(L, b):
    """b = L^-1 b."""
    for j in range(L.shape[0]):
        for k in range(j):
            b[j] -= L[j, k] * b[k]
        b[j] /= L[j, j]


@numba.njit(cache=True, error_model="numpy")
def solve_upper(L, b):
    """b = L'^-1 b."""
    for j in range(L.shape[0] - 1, -1, -1):
        for k in range(j + 1, L.shape[0]):
            b[j] -= L[k, j] * b[k]
        b[j] /= L[j, j]


@numba.njit(cache=True, error_model="numpy")
def covariate_moments(theta, c, mean, factor):
    """Mean and Cholesky factor of the covariates' law; False where the covariance is not positive definite."""
    p = int(c[0])
    start = 0
    for j in range(p):
        mean[j] = c[N_SCALARS + j] if c[1] else theta[j]
    if not c[1]:
        start = p
    if c[2]:
        for j in range(p):
            for k in range(p):
                factor[j, k] = c[N_SCALARS + p + p * p + j * p + k]
        return True
    A, position = np.empty((p, p)), start
    for j in range(p):
        for k in range(j + 1):
            A[j, k] = theta[position]
            position += 1
    return cholesky(A, factor)


@numba.njit(cache=True, error_model="numpy")
def draw_covariates_law(n, x_bar, scatter, theta, c, rng):
    """Overwrite theta with mean and covariance given n records of this mean and centred scatter matrix."""
    p = int(c[0])
    kappa = 0.0 if c[1] else c[3]  # a known mean counts as such, not as a prior
    mean, factor = np.empty(p), np.zeros((p, p))
    for j in range(p):
        mean[j] = c[N_SCALARS + j]
    if c[2]:
        for j in range(p):
            for k in range(p):
                factor[j, k] = c[N_SCALARS + p + p * p + j * p + k]
    else:
        shrink = n if c[1] else kappa * n / (kappa + n)
        Psi, L = np.empty((p, p)), np.zeros((p, p))
        for j in range(p):
            for k in range(p):
                Psi[j, k] = (
                    c[N_SCALARS + p + j * p + k]
                    + scatter[j, k]
                    + shrink * (x_bar[j] - mean[j]) * (x_bar[k] - mean[k])
                )
        cholesky(Psi, L)
        _draw_inverse_wishart(L, c[4] + n, factor, rng)
    position = 0
    if not c[1]:
        for j in range(p):
            centre = (kappa * mean[j] + n * x_bar[j]) / (kappa + n)
            theta[j] = centre
        for k in range(p):
            z = rng.standard_normal() / np.sqrt(kappa + n)
            for j in range(p):  # the factor of an inverse Wishart draw is not triangular
                theta[j] += factor[j, k] * z
        position = p
    if not c[2]:
        for j in range(p):
            for k in range(j + 1):
                value = 0.0
                for i in range(p):
                    value += factor[j, i] * factor[k, i]
                theta[position] = value
                position += 1


@numba.njit(cache=True, error_model="numpy")
def _draw_inverse_wishart(L, df, B, rng):
    """B with B B' ~ IW(df, L L'): B = L A'^-1 for Bartlett's lower triangular A, A A' ~ W(df, I)."""
    p = L.shape[0]
    A = np.zeros((p, p))
    for j in range(p):
        A[j, j] = np.sqrt(2.0 * rng.standard_gamma((df - j) / 2))
        for k in range(j):
            A[j, k] = rng.standard_normal()
    for i in range(p):  # row i of B solves b A' = L[i], that is A b' = L[i]'
        for j in range(p):
            value = L[i, j]
            for k in range(j):
                value -= A[j, k] * B[i, k]
            B[i, j] = value / A[j, j]


@numba.njit(cache=True, error_model="numpy")
def log_prior_covariates(theta, c):
    """Log prior density of the unknown mean and lower triangle of the covariance, up to a constant."""
    p = int(c[0])
    if c[1] and c[2]:
        return 0.0
    mean, factor = np.empty(p), np.zeros((p, p))
    if not covariate_moments(theta, c, mean, factor):
        return -np.inf
    log_density = 0.0
    if not c[1]:
        for j in range(p):
            mean[j] -= c[N_SCALARS + j]
        solve_lower(factor, mean)
        for j in range(p):
            log_density -= 0.5 * c[3] * mean[j] ** 2 + np.log(factor[j, j])
    if not c[2]:
        column = np.empty(p)
        for j in range(p):
            log_density -= (c[4] + p + 1) * np.log(factor[j, j])
            # |factor^-1 chol(Psi_0)|^2 = trace(Psi_0 Sigma^-1)
            for i in range(p):
                column[i] = c[N_SCALARS + p + p * p + i * p + j]
            solve_lower(factor, column)
            for i in range(p):
                log_density -= 0.5 * column[i] ** 2
    return log_density
