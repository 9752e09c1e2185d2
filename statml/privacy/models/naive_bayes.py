r"""Naive Bayes, as a log-linear model of a class and of categorical features that are independent given it.

.. math::  p \sim \mathrm{Dir}(\alpha, \dots, \alpha), \quad \pi_{k i} \sim \mathrm{Dir}(\beta, \dots, \beta), \quad
           P(\text{class } i) = p_i, \quad P(a_k = j \mid i) = \pi_{k i j}.

Released are the K tables of counts :math:`n_{k i j}` of class i by level j of feature k, each record in one cell of each table. With
independent noise and public n, the whole posterior can be drawn exactly without a Markov chain (see `statml.privacy.exact`).
In a chain, one record moves one cell in each of all tables together.

**Sensitivity.** Replacing a record changes at most 2 K counts by 1, adding or removing one K counts.

Cost: O(n m) a sweep for m cells in all; O(m n^2) once for exact draws.

References: Ju, N., Awan, J. A., Gong, R. and Rao, V. A. (2022). Data augmentation MCMC for Bayesian inference from privatized
data. NeurIPS, example A. Karwa, V., Kifer, D. and Slavković, A. B. (2015). Private posterior distributions from variational
approximations. arXiv 1511.07896. The exact draws are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..._validation import check_integer, check_number
from ..compiled import CompiledModel, posterior_step, record_step
from ..exact import draw_dirichlet, draw_naive_bayes, separable_log_noise
from ..protocols import Mechanism
from ._base import CompiledDataModel, check_neighbours
from .dirichlet_categorical import draw_category, fill_dirichlet

Array = NDArray[np.float64]


class NaiveBayesLogLinear(CompiledDataModel):
    """Class probabilities and level probabilities given the class; the statistics are tables of class by level.

    A record is (class, level of feature 0, ..., level of feature K - 1), numbered from 0. Parameters are ``p[i]``, then
    ``pi0[i,j]``, ``pi1[i,j]``, ...; statistics are ``n0[i,j]``, ``n1[i,j]``, ..., feature after feature, class after class.

    Parameters
    ----------
    n_classes : int
        I >= 2.
    n_levels : sequence of K int
        Levels of each feature, >= 2.
    prior_class, prior_level : float, default=2.0
        alpha and beta of the symmetric Dirichlet priors, > 0.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import models
    >>> model = models.NaiveBayesLogLinear(n_classes=2, n_levels=[2, 3])
    >>> model.statistic_names[:5]
    ['n0[0,0]', 'n0[0,1]', 'n0[1,0]', 'n0[1,1]', 'n1[0,0]']
    >>> model.statistic(np.array([[1.0, 0.0, 2.0]]))
    array([[0., 0., 1., 0., 0., 0., 0., 0., 0., 1.]])
    >>> model.sensitivity("replace")
    4.0
    """

    def __init__(
        self,
        n_classes: int,
        n_levels: Sequence[int],
        prior_class: float = 2.0,
        prior_level: float = 2.0,
    ):
        self.n_classes = check_integer("n_classes", n_classes, low=2)
        try:
            levels = list(n_levels)
        except TypeError:
            raise TypeError(
                f"n_levels must be a sequence of integers, one a feature, got {n_levels!r}"
            ) from None
        if not levels:
            raise ValueError("n_levels must have at least one feature, got []")
        self.n_levels = [check_integer(f"n_levels[{k}]", J, low=2) for k, J in enumerate(levels)]
        self.prior_class = check_number("prior_class", prior_class, 0, low_open=True)
        self.prior_level = check_number("prior_level", prior_level, 0, low_open=True)
        self.n_columns = 1 + len(self.n_levels)
        cells = [
            (k, i, j)
            for k, J in enumerate(self.n_levels)
            for i in range(self.n_classes)
            for j in range(J)
        ]
        self.parameter_names = [f"p[{i}]" for i in range(self.n_classes)]
        self.parameter_names += [f"pi{k}[{i},{j}]" for k, i, j in cells]
        self.statistic_names = [f"n{k}[{i},{j}]" for k, i, j in cells]

    def tables(self, values: Array) -> list[Array]:
        """Statistics, or the parameters after p, as K arrays of shape (..., I, J_k)."""
        ends = np.cumsum([self.n_classes * J for J in self.n_levels])
        return [
            part.reshape(*part.shape[:-1], self.n_classes, J)
            for part, J in zip(np.split(values, ends[:-1], axis=-1), self.n_levels, strict=True)
        ]

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """theta from its prior, shape (k,)."""
        return self._draw(np.zeros(self.n_classes), np.zeros(len(self.statistic_names)), rng)

    def statistic(self, x: Array) -> Array:
        """One cell in each table, shape (n, m)."""
        t = np.zeros((len(x), len(self.statistic_names)))
        x, start = np.asarray(x).astype(np.int64), 0
        for k, J in enumerate(self.n_levels):
            t[np.arange(len(x)), start + x[:, 0] * J + x[:, k + 1]] = 1.0
            start += self.n_classes * J
        return t

    def draw_from_totals(self, S: Array, n: int, theta: Array, rng: np.random.Generator) -> Array:
        """theta given tables, which may be noisy ones: negative counts are 0, class counts are the means over tables."""
        S = np.maximum(S, 0.0)
        classes = np.mean([table.sum(axis=-1) for table in self.tables(S)], axis=0)
        return self._draw(classes, S, rng)

    def _draw(self, classes: Array, cells: Array, rng: np.random.Generator) -> Array:
        """theta given class counts (..., I) and cells (..., m)."""
        levels = [draw_dirichlet(self.prior_level + n, rng) for n in self.tables(cells)]
        flat = [pi.reshape(*pi.shape[:-2], -1) for pi in levels]
        return np.concatenate([draw_dirichlet(self.prior_class + classes, rng), *flat], axis=-1)

    def moments(self, theta: Array, n: int) -> tuple[Array, Array]:
        """Mean (m,) and covariance (m, m) of the statistic of a record."""
        p = theta[: self.n_classes]
        levels = self.tables(theta[self.n_classes :])
        mean = np.concatenate([(p[:, None] * pi).ravel() for pi in levels])
        of_class = np.concatenate([np.repeat(np.arange(self.n_classes), J) for J in self.n_levels])
        of_table = np.repeat(np.arange(len(levels)), [self.n_classes * J for J in self.n_levels])
        given_class = np.concatenate([pi.ravel() for pi in levels])
        both = np.where(
            of_class[:, None] == of_class, mean[:, None] * given_class, 0.0
        )  # probability of two cells of different tables
        both[of_table[:, None] == of_table] = 0.0
        np.fill_diagonal(both, mean)
        return mean, both - np.outer(mean, mean)

    def sensitivity(self, neighbours: str = "replace", norm: int = 1) -> float:
        """How far one record can move the cells: 2 K if replaced, K if added or removed; roots of these in L2."""
        check_neighbours(neighbours, norm)
        moved = len(self.n_levels) * (2 if neighbours == "replace" else 1)
        return float(moved ** (1 / norm))

    def draw_exact(
        self,
        release: Array,
        mechanism: Mechanism,
        n_records: int,
        size: int,
        rng: np.random.Generator,
    ) -> Array:
        """Independent draws of theta given tables with independent noise, shape (size, k).

        Raises
        ------
        NotImplementedError
            For other mechanisms.
        """
        noise = separable_log_noise(mechanism, release, n_records)
        by_table = [np.moveaxis(table, 0, -1) for table in self.tables(noise.T)]
        alpha = np.full(self.n_classes, self.prior_class)
        beta = [np.full(J, self.prior_level) for J in self.n_levels]
        classes, tables = draw_naive_bayes(by_table, alpha, beta, n_records, size, rng)
        cells = np.concatenate([table.reshape(size, -1) for table in tables], axis=1)
        return self._draw(classes.astype(float), cells.astype(float), rng)

    def compiled(self) -> CompiledModel:
        """Numba versions of the steps."""
        return CompiledModel(
            records=_records,
            posterior=_posterior,
            constants=[self.n_classes, self.prior_class, self.prior_level, *self.n_levels],
        )


# --- compiled steps; constants = (I, alpha, beta, J_0, ..., J_(K-1)) --------------------------------------


@record_step
def _records(theta, constants, rng, x, t):
    n_classes = int(constants[0])
    t[:] = 0.0
    for i in range(x.shape[0]):
        c = draw_category(theta[:n_classes], rng)
        x[i, 0] = c
        start = 0
        for k in range(x.shape[1] - 1):
            J = int(constants[3 + k])
            first = start + c * J
            j = draw_category(theta[n_classes + first : n_classes + first + J], rng)
            x[i, k + 1] = j
            t[i, first + j] = 1.0
            start += n_classes * J


@posterior_step
def _posterior(x, theta, constants, rng):
    n_classes = int(constants[0])
    alpha = np.full(theta.shape[0], constants[2])
    alpha[:n_classes] = constants[1]
    for i in range(x.shape[0]):
        c = int(x[i, 0])
        alpha[c] += 1.0
        start = n_classes
        for k in range(x.shape[1] - 1):
            J = int(constants[3 + k])
            alpha[start + c * J + int(x[i, k + 1])] += 1.0
            start += n_classes * J
    fill_dirichlet(alpha[:n_classes], theta[:n_classes], rng)
    start = n_classes
    for k in range(x.shape[1] - 1):
        J = int(constants[3 + k])
        for _ in range(n_classes):
            fill_dirichlet(alpha[start : start + J], theta[start : start + J], rng)
            start += J
