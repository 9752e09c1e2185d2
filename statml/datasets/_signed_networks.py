r"""Simulated signed networks with known statuses.

The signed beta-model of Zhang and Wang (2025): the edge from i to j is the difference of two independent
coins with probabilities :math:`\rho_{ij}\,s(x_{ij})` and :math:`\rho_{ij}\,s(-x_{ij})`, where
:math:`x_{ij} = \alpha_i + \beta_j` and s is the logistic function.

Sampling is exact and costs no more than a small multiple of the edges: the pairs are cut into blocks on
which an upper bound of the edge probability is nearly constant, candidate pairs are drawn by a Poisson
process that gives each pair a candidate with exactly that bound as probability, and a candidate is kept
with the ratio of its own probability to the bound (thinning).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.utils import Bunch

from .._validation import as_generator, check_integer, check_number

Array = NDArray[np.float64]

LARGEST_BLOCK = 20_000  # nodes
BLOCKS_PER_SIDE = 48
MAX_CANDIDATES = 5_000_000  # candidate pairs in memory at once


def make_signed_network(
    n: int = 100,
    rho: float = 0.5,
    alpha: float | ArrayLike = 1.0,
    beta: float | ArrayLike = 1.0,
    heterogeneity: float = 0.0,
    random_state: int | np.random.Generator | None = None,
) -> Bunch:
    """Simulate a directed signed network from the sparse-logit signed beta-model.

    Parameters
    ----------
    n : int, default=100
        Number of nodes, at least 3.
    rho : float in (0, 1], default=0.5
        Sparsity factor: the probability that each of the two layers is seen at all; between rho / 2 and
        rho of all pairs get an edge.
    alpha, beta : float or array-like of shape (n,), default=1.0
        Out-statuses and in-statuses. A number L means: drawn uniformly from (-L, L).
    heterogeneity : float, default=0.0
        Standard deviation of the logarithm of activity factors r_i and c_j; pair (i, j) has the sparsity
        rho r_i c_j (capped at 1), the factors having mean 1. With 0 the density is the same everywhere and
        the fitted model is true; otherwise only the conditional family is.
    random_state : int, Generator or None

    Returns
    -------
    Bunch
        ``adjacency`` (scipy sparse array of int8, shape (n, n)), ``alpha``, ``beta`` (centred so that beta sums to zero),
        ``rho``, ``row_activity``, ``col_activity``.

    Examples
    --------
    >>> from statml.datasets import make_signed_network
    >>> network = make_signed_network(n=50, rho=0.4, random_state=0)
    >>> network.adjacency.shape
    (50, 50)
    >>> bool(abs(network.beta.sum()) < 1e-12)
    True
    """
    n = check_integer("n", n, low=3)
    rho = check_number("rho", rho, 0, 1, low_open=True)
    heterogeneity = check_number("heterogeneity", heterogeneity, 0)
    rng = as_generator(random_state)
    alpha, beta = _statuses("alpha", alpha, n, rng), _statuses("beta", beta, n, rng)
    shift = beta.mean()
    alpha, beta = alpha + shift, beta - shift
    row_activity, col_activity = (
        np.exp(heterogeneity * rng.standard_normal((2, n)) - heterogeneity**2 / 2)
        if heterogeneity
        else np.ones((2, n))
    )

    def sparsity(i, j):
        return np.minimum(rho * row_activity[i] * col_activity[j], 1.0)

    def probabilities(i, j):
        r, s = sparsity(i, j), expit(alpha[i] + beta[j])
        p, q = r * s, r * (1 - s)
        return q * (1 - p), p * (1 - q)

    def bound(row_low, row_high, col_low, col_high):
        return np.minimum(rho * row_high * col_high, 1.0)

    source, target, sign = thinned_edges(row_activity, col_activity, bound, probabilities, rng)
    return Bunch(
        adjacency=sp.csr_array((sign, (source, target)), shape=(n, n)),
        alpha=alpha,
        beta=beta,
        rho=rho,
        row_activity=row_activity,
        col_activity=col_activity,
    )


def thinned_edges(
    row_key: Array,
    col_key: Array,
    bound: Callable[[Array, Array, Array, Array], Array],
    probabilities: Callable[[NDArray, NDArray], tuple[Array, Array]],
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
    """Draw every pair of distinct nodes independently as -1, 0 or +1, in time of the order of the edges.

    Parameters
    ----------
    row_key, col_key : ndarray of shape (n,)
        Numbers on which the edge probability depends, mainly; nodes alike in them form a block.
    bound : callable
        (lowest row key, highest row key, lowest column key, highest column key) of blocks -> an upper bound
        of the edge probability there, elementwise.
    probabilities : callable
        (i, j) -> (P(-1), P(+1)) for arrays of positions.
    rng : numpy.random.Generator

    Returns
    -------
    source, target : ndarray of int64, sign : ndarray of int8
        Sorted by source, then target.
    """
    n = len(row_key)
    rows, cols = _blocks(row_key), _blocks(col_key)
    size = np.outer([len(b) for b in rows], [len(b) for b in cols]).astype(float)
    row_low, row_high = np.array([(row_key[b].min(), row_key[b].max()) for b in rows]).T
    col_low, col_high = np.array([(col_key[b].min(), col_key[b].max()) for b in cols]).T
    upper = bound(row_low[:, None], row_high[:, None], col_low[None, :], col_high[None, :])
    upper = np.clip(np.broadcast_to(upper, size.shape), 0.0, 1 - 1e-12)
    # A pair has at least one candidate with probability 1 - exp(-rate) = upper.
    counts = rng.poisson(size * -np.log1p(-upper)).ravel()
    pairs, signs = [], []
    for lo, hi in _runs(counts, MAX_CANDIDATES):
        block = np.repeat(np.arange(lo, hi), counts[lo:hi])
        i = _member(rows, block // len(cols), rng)
        j = _member(cols, block % len(cols), rng)
        pair, first = np.unique(i * n + j, return_index=True)
        i, j, top = pair // n, pair % n, upper.ravel()[block[first]]
        minus, plus = probabilities(i, j)
        u = rng.random(len(pair)) * top
        sign = np.where(u < plus, 1, np.where(u < plus + minus, -1, 0))
        sign[i == j] = 0
        pairs.append(pair[sign != 0])
        signs.append(sign[sign != 0].astype(np.int8))
    pair = np.concatenate(pairs) if pairs else np.empty(0, dtype=np.int64)
    sign = np.concatenate(signs) if signs else np.empty(0, dtype=np.int8)
    order = np.argsort(pair)
    return pair[order] // n, pair[order] % n, sign[order]


def _statuses(name: str, value: float | ArrayLike, n: int, rng: np.random.Generator) -> Array:
    if np.ndim(value) == 0:
        half = check_number(name, value, 0)
        return rng.uniform(-half, half, n)
    value = np.asarray(value, dtype=float)
    if value.shape != (n,) or not np.isfinite(value).all():
        raise ValueError(
            f"{name} must be a number or {n} finite values (one a node), got shape {value.shape}"
        )
    return value


def _blocks(key: Array) -> list[NDArray[np.int64]]:
    """Nodes in groups of similar key: equal parts of the range, so that bounds are tight everywhere."""
    edges = np.unique(
        np.concatenate(
            [
                np.linspace(key.min(), key.max(), BLOCKS_PER_SIDE // 2),
                np.quantile(key, np.linspace(0, 1, BLOCKS_PER_SIDE // 2)),
            ]
        )
    )
    label = np.searchsorted(edges, key, side="right")
    alike = (np.flatnonzero(label == k) for k in np.unique(label))
    # A pair of blocks is drawn at once, so a block's size bounds the memory.
    return [
        part for nodes in alike for part in np.array_split(nodes, -(-len(nodes) // LARGEST_BLOCK))
    ]


def _member(blocks: list[NDArray], which: NDArray, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random node of each named block."""
    sizes = np.array([len(b) for b in blocks])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    flat = np.concatenate(blocks)
    return flat[starts[which] + rng.integers(0, sizes[which])]


def _runs(counts: NDArray, most: int):
    """Cut the blocks into runs of at most so many candidates (a single block may exceed it)."""
    lo, total = 0, 0
    for k, count in enumerate(counts):
        if total and total + count > most:
            yield lo, k
            lo, total = k, 0
        total += count
    if total:
        yield lo, len(counts)
