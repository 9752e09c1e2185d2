r"""Probabilities of categories, or of the cells of a table.

.. math::  p \sim \mathrm{Dirichlet}(\alpha), \quad P(x_i = k \mid p) = p_k, \quad t_i = (1\{x_i = 1\}, \dots, 1\{x_i = K\}),

so that the totals are the counts. Given complete records the posterior is Dirichlet(alpha + counts). Under independent noise on the
counts and a public n, they can be drawn exactly (see `statml.privacy.exact`); answers randomised one by one are left to the Gibbs
sampler on counts.

Cost: O(n K) a sweep; O(K n^2) once for exact draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..compiled import CompiledModel, posterior_step, record_step
from ..exact import draw_dirichlet, draw_table, separable_log_noise
from ..protocols import Mechanism
from ._base import CompiledDataModel, check_neighbours

Array = NDArray[np.float64]


class DirichletCategorical(CompiledDataModel):
    """Probabilities of K categories; the statistics are their counts.

    A record is the number of its category, 0, ..., K - 1.

    Parameters
    ----------
    alpha : array-like of shape (K,)
        Prior numbers of records in each category, > 0; ``np.ones(K)`` is uniform.
    categories : sequence of K str or None, default=None
        Names of the statistics; None: ``count[0]``, ``count[1]``, ....

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import models
    >>> model = models.DirichletCategorical(np.ones(3), categories=["bus", "car", "bike"])
    >>> model.statistic(np.array([[2.0], [0.0], [2.0]])).sum(axis=0)
    array([1., 0., 2.])
    >>> model.parameter_names
    ['p[0]', 'p[1]', 'p[2]']
    """

    n_columns = 1

    def __init__(self, alpha: ArrayLike, categories: Sequence[str] | None = None):
        self.alpha = dirichlet_prior("alpha", alpha)
        K = len(self.alpha)
        self.categories = None if categories is None else [str(name) for name in categories]
        if self.categories is not None and len(set(self.categories)) != K:
            raise ValueError(
                f"categories must be {K} different names, one for each entry of alpha, got {categories!r}"
            )
        self.parameter_names = [f"p[{k}]" for k in range(K)]
        self.statistic_names = self.categories or [f"count[{k}]" for k in range(K)]

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """p from its prior, shape (K,)."""
        return draw_dirichlet(self.alpha, rng)

    def statistic(self, x: Array) -> Array:
        """One-hot rows, shape (n, K)."""
        return (np.asarray(x) == np.arange(len(self.alpha))).astype(float)

    def draw_from_totals(self, S: Array, n: int, theta: Array, rng: np.random.Generator) -> Array:
        """p given counts, which may be noisy ones: negative ones count as 0."""
        return draw_dirichlet(self.alpha + np.maximum(S, 0.0), rng)

    def moments(self, theta: Array, n: int) -> tuple[Array, Array]:
        """Mean (K,) and covariance (K, K) of a one-hot row."""
        return theta.copy(), np.diag(theta) - np.outer(theta, theta)

    def sensitivity(self, neighbours: str = "replace", norm: int = 1) -> float:
        """How far one record can move the counts: 2 (L1) or 1.414 (L2) if replaced, 1 if added or removed."""
        check_neighbours(neighbours, norm)
        return 1.0 if neighbours == "add-remove" else float(2 ** (1 / norm))

    def draw_exact(
        self,
        release: Array,
        mechanism: Mechanism,
        n_records: int,
        size: int,
        rng: np.random.Generator,
    ) -> Array:
        """Independent draws of p given counts with independent noise, shape (size, K).

        Raises
        ------
        NotImplementedError
            For other mechanisms.
        """
        noise = separable_log_noise(mechanism, release, n_records)
        counts, _ = draw_table(noise, self.alpha, n_records, size, rng)
        return draw_dirichlet(self.alpha + counts, rng)

    def compiled(self) -> CompiledModel:
        """Numba versions of the steps."""
        return CompiledModel(records=_records, posterior=_posterior, constants=self.alpha)


def dirichlet_prior(name: str, alpha: ArrayLike) -> Array:
    """Check the parameters of a Dirichlet prior, at least two."""
    taken = f"{name} must be at least two finite numbers > 0"
    try:
        values = np.array(alpha, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"{taken}, got {alpha!r}") from None
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"{taken}, got shape {values.shape}")
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"{taken}, got {alpha!r}")
    return values


# --- compiled steps; constants = alpha --------------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy")
def draw_category(p, rng):
    """A position drawn with probabilities p, which sum to 1 up to rounding."""
    u = rng.random()
    for k in range(p.shape[0] - 1):
        u -= p[k]
        if u < 0.0:
            return k
    return p.shape[0] - 1


@numba.njit(cache=True, error_model="numpy")
def fill_dirichlet(alpha, p, rng):
    """p ~ Dirichlet(alpha)."""
    top = -np.inf
    for k in range(
        p.shape[0]
    ):  # in logarithms, since a gamma variable of small shape may underflow
        if alpha[k] < 0.5:
            p[k] = (
                np.log(rng.standard_gamma(alpha[k] + 1.0)) - rng.standard_exponential() / alpha[k]
            )
        else:
            p[k] = np.log(rng.standard_gamma(alpha[k]))
        top = max(top, p[k])
    total = 0.0
    for k in range(p.shape[0]):
        p[k] = np.exp(p[k] - top)
        total += p[k]
    for k in range(p.shape[0]):
        p[k] /= total


@record_step
def _records(theta, constants, rng, x, t):
    t[:] = 0.0
    for i in range(x.shape[0]):
        k = draw_category(theta, rng)
        x[i, 0] = k
        t[i, k] = 1.0


@posterior_step
def _posterior(x, theta, constants, rng):
    alpha = constants.copy()
    for i in range(x.shape[0]):
        alpha[int(x[i, 0])] += 1.0
    fill_dirichlet(alpha, theta, rng)
