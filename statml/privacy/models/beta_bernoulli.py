r"""A proportion: Bernoulli records with a beta prior.

.. math::  p \sim \mathrm{Beta}(a, b), \quad x_i \mid p \sim \mathrm{Bernoulli}(p), \quad t_i = x_i,

so the total is the number of ones. Given complete records the posterior is Beta(a + S, b + n - S). Given a release the true
count has n + 1 possible values, so that the posterior is a finite mixture of betas and can be drawn from exactly.

Cost: O(n) a sweep; O(n) once for exact draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlog1py, xlogy
from scipy.stats import beta as beta_distribution

from ..._validation import check_number
from ..compiled import (
    CompiledModel,
    from_ancillary_step,
    log_prior_step,
    posterior_step,
    record_step,
    to_ancillary_step,
)
from ..exact import draw_binary_randomised_response, draw_from_logits, log_rising
from ..protocols import Mechanism
from ._base import DataModel, check_neighbours, refuse_improper

Array = NDArray[np.float64]


class BetaBernoulli(DataModel):
    """Proportion of ones; the statistic is their count.

    Parameters
    ----------
    a, b : float, default=1.0
        Prior numbers of ones and zeros; 0 makes the prior improper.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import models
    >>> model = models.BetaBernoulli(2, 3)
    >>> x = model.sample_records(np.array([1.0]), 4, np.random.default_rng(0))
    >>> model.statistic(x).sum(axis=0)
    array([4.])
    """

    parameter_names = ["p"]  # noqa: RUF012
    statistic_names = ["count"]  # noqa: RUF012

    def __init__(self, a: float = 1.0, b: float = 1.0):
        self.a = check_number("a", a, 0)
        self.b = check_number("b", b, 0)
        self.prior_is_proper = self.a > 0 and self.b > 0

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """p from its prior, shape (1,)."""
        refuse_improper(self, "a or b is 0")
        return np.array([rng.beta(self.a, self.b)])

    def log_prior(self, theta: Array) -> float:
        """Log density of the prior (up to a constant where it is improper)."""
        p = theta[0]
        if not 0 < p < 1:
            return -np.inf
        if self.prior_is_proper:
            return float(beta_distribution.logpdf(p, self.a, self.b))
        return float(xlogy(self.a - 1, p) + xlog1py(self.b - 1, -p))

    def sample_records(self, theta: Array, n: int, rng: np.random.Generator) -> Array:
        """Zeros and ones, shape (n, 1)."""
        return (rng.random((n, 1)) < theta[0]).astype(float)

    def statistic(self, x: Array) -> Array:
        """The record itself, shape (n, 1)."""
        return np.asarray(x, dtype=float)

    def draw_posterior(self, x: Array, theta: Array, rng: np.random.Generator) -> Array:
        """p given complete records."""
        return self.draw_from_totals(x.sum(axis=0), len(x), theta, rng)

    def draw_from_totals(self, S: Array, n: int, theta: Array, rng: np.random.Generator) -> Array:
        """p given the count, which may be a noisy one: it is clipped to [0, n]."""
        count = np.clip(S[0], 0, n)
        return np.array([rng.beta(self.a + count, self.b + n - count)])

    def moments(self, theta: Array, n: int) -> tuple[Array, Array]:
        """Mean (1,) and covariance (1, 1) of a record."""
        return theta.copy(), np.array([[theta[0] * (1 - theta[0])]])

    def to_ancillary(self, x: Array, theta: Array, rng: np.random.Generator) -> Array:
        """Uniform noise u of which the record is {u < p}, drawn given the record."""
        v = rng.random(x.shape)
        return np.where(x == 1, v * theta[0], theta[0] + v * (1 - theta[0]))

    def from_ancillary(self, u: Array, theta: Array) -> Array:
        """Records {u < p}."""
        return (u < theta[0]).astype(float)

    def sensitivity(self, neighbours: str = "replace", norm: int = 1) -> float:
        """How far one record can move the count: 1."""
        check_neighbours(neighbours, norm)
        return 1.0

    def draw_exact(
        self,
        release: Array,
        mechanism: Mechanism,
        n_records: int,
        size: int,
        rng: np.random.Generator,
    ) -> Array:
        """Independent draws of p given a noisy count or randomised answers, shape (size, 1).

        Raises
        ------
        NotImplementedError
            If the release depends on the records by more than their count.
        ValueError
            If no count at all could have given the release.
        """
        Q = getattr(mechanism, "Q", None)
        if mechanism.factorises and Q is not None:
            answers = np.bincount(np.asarray(release, dtype=int), minlength=2)
            true = draw_binary_randomised_response(answers, Q, [self.b, self.a], size, rng)[:, 1]
        elif mechanism.factorises or mechanism.needs_release:
            raise NotImplementedError(
                f"exact draws of a proportion need a noisy count or randomised answers, got {mechanism!r}"
            )
        else:
            true = draw_from_logits(self.log_count(release, mechanism, n_records), size, rng)
        return rng.beta(self.a + true, self.b + n_records - true)[:, None]

    def log_count(self, release: Array, mechanism: Mechanism, n_records: int) -> Array:
        """log P(count = c, release) for c = 0, ..., n; shape (n + 1,)."""
        c = np.arange(n_records + 1)
        log_p = log_rising(self.a, c) + log_rising(self.b, n_records - c)
        log_p = log_p - log_rising(self.a + self.b, np.array(n_records))
        log_p = log_p + mechanism.log_density(release, c[:, None].astype(float))
        if not (log_p > -np.inf).any():
            raise ValueError(
                f"no count of 0, ..., {n_records} could have given the release {release}"
            )
        return log_p

    def compiled(self) -> CompiledModel:
        """Numba versions of the steps."""
        return CompiledModel(
            records=_records,
            posterior=_posterior,
            constants=np.array([self.a, self.b]),
            to_ancillary=_to_ancillary,
            from_ancillary=_from_ancillary,
            log_prior=_log_prior,
        )


# --- compiled steps; constants = (a, b) --------------------------------------------------------------------


@record_step
def _records(theta, constants, rng, x, t):
    for i in range(x.shape[0]):
        x[i, 0] = 1.0 if rng.random() < theta[0] else 0.0
        t[i, 0] = x[i, 0]


@posterior_step
def _posterior(x, theta, constants, rng):
    count = 0.0
    for i in range(x.shape[0]):
        count += x[i, 0]
    theta[0] = rng.beta(constants[0] + count, constants[1] + x.shape[0] - count)


@to_ancillary_step
def _to_ancillary(x, theta, constants, rng, u):
    for i in range(x.shape[0]):
        v = rng.random()
        u[i, 0] = v * theta[0] if x[i, 0] == 1.0 else theta[0] + v * (1.0 - theta[0])


@from_ancillary_step
def _from_ancillary(u, theta, constants, x, t):
    for i in range(u.shape[0]):
        x[i, 0] = 1.0 if u[i, 0] < theta[0] else 0.0
        t[i, 0] = x[i, 0]


@log_prior_step
def _log_prior(theta, constants):
    if not 0.0 < theta[0] < 1.0:
        return -np.inf
    return (constants[0] - 1.0) * np.log(theta[0]) + (constants[1] - 1.0) * np.log(1.0 - theta[0])
