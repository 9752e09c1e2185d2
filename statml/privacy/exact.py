r"""Independent draws from the exact posterior of tables and of naive Bayes: no Markov chain.

**Tables.** Cell probabilities :math:`p \sim \mathrm{Dirichlet}(\alpha)`, counts :math:`c \mid p` multinomial with public
total N, and a release :math:`s_j` of each cell with independent noise. With p integrated out,

.. math::  P(c \mid s) \propto \prod_j w_j(c_j)\, 1\{\textstyle\sum_j c_j = N\}, \qquad
           w_j(c) = \frac{\Gamma(\alpha_j + c)}{c!\,\Gamma(\alpha_j)}\, \eta(s_j - c).

The normaliser of the first j cells at every total is a convolution, :math:`F_j(r) = \sum_c w_j(c) F_{j-1}(r - c)`; sampling goes
backwards, :math:`P(c_j \mid r) = w_j(c_j) F_{j-1}(r - c_j) / F_j(r)`. Then :math:`p \mid c \sim \mathrm{Dirichlet}(\alpha + c)`.

**Naive Bayes.** Given its class's count n, the table of feature k in class i has the normaliser

.. math::  Z_{ik}(n) = \frac{n!\,\Gamma(A)}{\Gamma(A + n)} (w_{ik1} * \dots * w_{ikJ})(n),

so the class counts have the weights :math:`\Gamma(\alpha_i + n) / (n!\,\Gamma(\alpha_i)) \prod_k Z_{ik}(n)`, one more table.

**Randomised response** of two categories: of the m_r answers r, the number whose truth is 1 has binomial weights; the two
numbers are convolved in the same way.

Everything is kept in logarithms, since noise with light tails underflows where the releases do not add up to N.
Cost: O(K N^2) once for K cells, then O(K log N) a draw.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from .compiled import compiled_function

Array = NDArray[np.float64]


def draw_table(
    log_noise: Array, alpha: ArrayLike, n: int, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], float]:
    """Independent draws of the true counts of a table.

    Parameters
    ----------
    log_noise : ndarray of shape (K, n + 1)
        log eta(s_j - c) for the counts c = 0, ..., n of each cell.
    alpha : array-like of shape (K,) or float
        Dirichlet prior of the cell probabilities.
    n : int
        Public number of records.
    size : int
        Number of draws.
    rng : Generator

    Returns
    -------
    counts : ndarray of int, shape (size, K)
    log_evidence : float
        log p(s), if `log_noise` is normalised.

    Examples
    --------
    >>> import numpy as np
    >>> noise = -np.abs(np.array([[3.0], [2.0]]) - np.arange(5)) / 0.5
    >>> counts, _ = draw_table(noise, 1.0, 4, 3, np.random.default_rng(0))
    >>> counts.sum(axis=1)
    array([4, 4, 4])
    """
    log_noise = np.asarray(log_noise, dtype=float)
    alpha = np.broadcast_to(np.asarray(alpha, dtype=float), log_noise.shape[:1])
    log_w = log_cell_weights(log_noise, alpha)
    F = cumulative_convolutions(log_w)
    log_multinomial = log_rising(alpha.sum(), np.array([n]))[0]
    counts = draw_backward(log_w, F, np.full(size, n), rng)
    return counts, float(F[-1, n] - log_multinomial)


def draw_naive_bayes(
    log_noise: list[Array],
    alpha: ArrayLike,
    feature_alpha: list[Array],
    n: int,
    size: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Independent draws of the true counts of class by feature tables.

    Parameters
    ----------
    log_noise : list of K ndarrays of shape (I, J_k, n + 1)
        log eta(s_ikj - c) of each feature k: class i, level j, count c.
    alpha : array-like of shape (I,)
        Dirichlet prior of the class probabilities.
    feature_alpha : list of K ndarrays of shape (J_k,)
        Dirichlet prior of each feature's levels given a class.
    n, size, rng
        As in `draw_table`.

    Returns
    -------
    class_counts : ndarray of int, shape (size, I)
    tables : list of K ndarrays of int, shape (size, I, J_k)
    """
    alpha = np.asarray(alpha, dtype=float)
    log_w = [
        np.stack([log_cell_weights(noise_i, a) for noise_i in noise])
        for noise, a in zip(log_noise, feature_alpha, strict=True)
    ]
    F = [np.stack([cumulative_convolutions(w_i) for w_i in w]) for w in log_w]
    counts = np.arange(n + 1)
    log_class = log_rising(alpha[:, None], counts)
    for F_k, a in zip(F, feature_alpha, strict=True):
        log_class = log_class + F_k[:, -1] - log_rising(a.sum(), counts)
    class_counts = draw_backward(
        log_class, cumulative_convolutions(log_class), np.full(size, n), rng
    )
    tables = [
        np.stack(
            [
                draw_backward(w[i], F_k[i], class_counts[:, i], rng)
                for i in range(len(alpha))
            ],
            axis=1,
        )
        for w, F_k in zip(log_w, F, strict=True)
    ]  # fmt: skip
    return class_counts, tables


def draw_binary_randomised_response(
    counts: ArrayLike, Q: ArrayLike, alpha: ArrayLike, size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Independent draws of how many of n randomised answers have which truth, for two categories.

    Parameters
    ----------
    counts : array-like of int, shape (2,)
        Released answers 0 and 1.
    Q : array-like of shape (2, 2)
        Q[c, r] is the probability of the answer r where c is true.
    alpha : array-like of shape (2,)
        Dirichlet prior of the probabilities of the truths.
    size, rng
        As in `draw_table`.

    Returns
    -------
    ndarray of int, shape (size, 2)
        Numbers of true 0 and true 1.
    """
    counts, Q = np.asarray(counts, dtype=np.int64), np.asarray(Q, dtype=float)
    alpha, n = np.asarray(alpha, dtype=float), int(np.sum(counts))
    log_w = np.full((2, n + 1), -np.inf)  # by released answer: how many of them are truly 1
    with np.errstate(divide="ignore", invalid="ignore"):
        for r, m in enumerate(counts):
            k = np.arange(m + 1)
            log_w[r, : m + 1] = (
                gammaln(m + 1.0) - gammaln(k + 1.0) - gammaln(m - k + 1.0)
                + np.where(k > 0, k * np.log(Q[1, r]), 0.0)
                + np.where(k < m, (m - k) * np.log(Q[0, r]), 0.0)
            )  # fmt: skip
    k = np.arange(n + 1)
    log_p = cumulative_convolutions(log_w)[-1] + gammaln(alpha[1] + k) + gammaln(alpha[0] + n - k)
    true_ones = draw_from_logits(log_p, size, rng)
    return np.stack([n - true_ones, true_ones], axis=1)


def draw_dirichlet(alpha: Array, rng: np.random.Generator) -> Array:
    """One Dirichlet draw for every row: alpha of shape (..., K), all > 0."""
    gamma = rng.standard_gamma(alpha)
    return gamma / gamma.sum(axis=-1, keepdims=True)


def separable_log_noise(mechanism, release: Array, n: int) -> Array:
    """log eta(s_j - c) of every released count and every c = 0, ..., n.

    Parameters
    ----------
    mechanism : Mechanism
        With independent noise on each entry.
    release : ndarray of shape (m,)
    n : int

    Returns
    -------
    ndarray of shape (m, n + 1)
        Normalised as the mechanism's own density, up to how the constant is shared among the entries.

    Raises
    ------
    NotImplementedError
        If the mechanism is no independent noise of a known form.
    """
    noise = None if mechanism.needs_release else mechanism.separable(len(release))
    if noise is None:
        raise NotImplementedError(
            f"exact draws need independent additive noise on every count, got {type(mechanism).__name__}"
        )
    distance = np.abs(release[:, None] - np.arange(n + 1))
    power, weight = np.asarray(noise.power)[:, None], np.asarray(noise.weight)[:, None]
    log_noise = -weight * distance**power
    zero = np.zeros(len(release))
    constant = float(mechanism.log_density(release, zero)) - log_noise[:, 0].sum()
    return log_noise + constant / len(release)


def log_cell_weights(log_noise: Array, alpha: Array) -> Array:
    """log w_j(c), shape (K, n + 1)."""
    counts = np.arange(log_noise.shape[1])
    return log_rising(np.asarray(alpha, dtype=float)[:, None], counts) + log_noise


def log_rising(alpha: Array | float, counts: Array) -> Array:
    """log of Gamma(alpha + c) / (c! Gamma(alpha))."""
    return gammaln(alpha + counts) - gammaln(counts + 1.0) - gammaln(alpha)


def cumulative_convolutions(log_w: Array) -> Array:
    """log F_j(r) for j = 1, ..., K and r = 0, ..., n; shape (K, n + 1)."""
    F = np.empty_like(log_w)
    F[0] = log_w[0]
    for j in range(1, len(log_w)):
        _log_convolve(np.ascontiguousarray(log_w[j]), F[j - 1], F[j])
    return F


def draw_backward(
    log_w: Array, F: Array, totals: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """One table for every total.

    Parameters
    ----------
    log_w, F : ndarray of shape (K, n + 1)
    totals : ndarray of int, shape (size,)
    rng : Generator

    Returns
    -------
    ndarray of int, shape (size, K)
    """
    K = len(log_w)
    counts = np.zeros((len(totals), K), np.int64)
    rest = np.array(totals, dtype=np.int64)
    for j in range(K - 1, 0, -1):
        order = np.argsort(rest, kind="stable")  # draws that share a total share one distribution
        drawn = np.empty(len(rest), np.int64)
        _draw_cell(
            np.ascontiguousarray(log_w[j]), F[j - 1], rest[order], rng.random(len(rest)), drawn
        )
        counts[order, j] = drawn
        rest -= counts[:, j]
    counts[:, 0] = rest
    return counts


def draw_from_logits(log_p: Array, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions drawn with probability proportional to exp(log_p), shape (size,)."""
    cumulative = np.cumsum(np.exp(log_p - log_p.max()))
    return np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right")


@compiled_function("void", "f f f")
def _log_convolve(a, b, out):
    """out[r] = log sum_c exp(a[c] + b[r - c])."""
    for r in range(out.shape[0]):
        top = -np.inf
        for c in range(r + 1):
            top = max(top, a[c] + b[r - c])
        total = 0.0
        if top > -np.inf:
            for c in range(r + 1):
                distance = a[c] + b[r - c] - top
                if distance > -45.0:  # what is smaller is lost in the sum's rounding
                    total += np.exp(distance)
        out[r] = top + np.log(total) if total > 0 else -np.inf


@compiled_function("void", "f f I f I")
def _draw_cell(log_w, F, totals, uniform, drawn):
    """For sorted totals r, a count c with probability proportional to exp(log_w[c] + F[r - c])."""
    cumulative = np.empty(log_w.shape[0])
    last = -1
    for i in range(totals.shape[0]):
        r = totals[i]
        if r != last:
            last = r
            top = -np.inf
            for c in range(r + 1):
                top = max(top, log_w[c] + F[r - c])
            total = 0.0
            for c in range(r + 1):
                total += np.exp(log_w[c] + F[r - c] - top)
                cumulative[c] = total
        drawn[i] = np.searchsorted(cumulative[: r + 1], uniform[i] * cumulative[r], side="right")
