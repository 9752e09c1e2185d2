r"""Multiple testing with the false discovery rate (FDR) under control, also for more tests than memory holds.

For N two-sided tests with statistics T that are standard normal under their hypotheses, write
:math:`G(t) = 2(1 - \Phi(t))`, :math:`R(t) = \#\{|T| \ge t\}` and :math:`|T|_{(1)} \ge |T|_{(2)} \ge \dots`

* Benjamini-Hochberg ("bh"): reject the :math:`k^*` largest, :math:`k^* = \max\{k: N G(|T|_{(k)}) \le q k\}`.
* Benjamini-Yekutieli ("by"): the same at :math:`q / \sum_{i \le N} 1/i`; valid under any dependence.
* Storey ("storey"): the same at :math:`q / \hat\pi_0`,
  :math:`\hat\pi_0 = \min\{1, (1 + \#\{p > 1/2\}) / (N/2)\}`.
* Liu ("liu"): reject :math:`|T| \ge t^*`, :math:`t^* = \inf\{0 \le t \le b_N: N G(t) / \max(R(t), 1) \le q\}` with
  :math:`b_N = \sqrt{2 \log N - 2 \log\log N}`, or :math:`t^* = \sqrt{2 \log N}` if there is no such t.
  Where "bh" stops below :math:`b_N` both agree, since the infimum then solves :math:`N G(t) = q k^*`.

References
----------
Benjamini, Y. and Hochberg, Y. (1995). Journal of the Royal Statistical Society B 57, 289-300.
Benjamini, Y. and Yekutieli, D. (2001). Annals of Statistics 29, 1165-1188.
Storey, J. D., Taylor, J. E. and Siegmund, D. (2004). Journal of the Royal Statistical Society B 66, 187-205.
Liu, W. (2013). Gaussian graphical model estimation with false discovery rate control. Annals of Statistics 41,
2948-2978.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from .._validation import check_choice, check_integer, check_number

Array = NDArray[np.float64]

# Bins of |T| in the first pass: [b / 256, (b + 1) / 256), exact in binary, and one of [32, inf).
BINS_PER_UNIT = 256
N_BINS = 32 * BINS_PER_UNIT


@dataclass(frozen=True)
class FDRThreshold:
    """Where a procedure that controls the false discovery rate cuts.

    Attributes
    ----------
    threshold : float
        Reject a hypothesis if its statistic has at least this absolute value. Where none is rejected it is inf,
        but for "liu", whose threshold always exists.
    n_rejected, n_tests : int
    q : float
        The false discovery rate asked for.
    method : str
    pi0 : float
        Share of true hypotheses that the method assumes: 1, or Storey's estimate.
    estimated_fdp : float
        Estimated share of false discoveries, pi0 N G(threshold) / n_rejected, at most 1.
    """

    threshold: float
    n_rejected: int
    n_tests: int
    q: float
    method: str
    pi0: float
    estimated_fdp: float


def adjust_pvalues(p_values: ArrayLike, method: str = "bh") -> Array:
    """Adjust p-values, so that those of at most q are rejected with false discovery rate q.

    Parameters
    ----------
    p_values : array-like of any shape
        All of the family of tests.
    method : {"bh", "by", "storey"}, default="bh"
        Benjamini-Hochberg; Benjamini-Yekutieli (any dependence, far more conservative);
        Benjamini-Hochberg with Storey's estimate of the share of true hypotheses.

    Returns
    -------
    ndarray of the same shape

    Raises
    ------
    ValueError
        If a p-value is NaN or outside [0, 1].

    Examples
    --------
    >>> from statml.inference import adjust_pvalues
    >>> adjust_pvalues([0.01, 0.02, 0.03, 0.5])
    array([0.04, 0.04, 0.04, 0.5 ])
    """
    check_choice("method", method, ("bh", "by", "storey"))
    p_values = np.asarray(p_values, dtype=float)
    bad = ~((p_values >= 0) & (p_values <= 1))
    if bad.any():
        raise ValueError(f"p_values must lie in [0, 1], got {p_values[bad].flat[0]}")
    if p_values.size == 0:
        return p_values.copy()
    flat = p_values.ravel()
    adjusted = multipletests(flat, method="fdr_by" if method == "by" else "fdr_bh")[1]
    if method == "storey":
        adjusted *= _storey_pi0(np.count_nonzero(flat > 0.5), flat.size)
    return adjusted.reshape(p_values.shape)


def fdr_threshold(
    blocks: Callable[[], Iterable[ArrayLike]], n_tests: int, q: float, method: str = "bh"
) -> FDRThreshold:
    """Find the threshold for two-sided normal statistics that come in blocks, none of which is kept.

    The result is exact. A first pass counts the statistics in narrow bins, which leaves the threshold open within
    a few of them; a second pass looks at the values in those alone. Memory is that of one block and of these values,
    a small fraction of all unless `q` is nearly 1.

    Parameters
    ----------
    blocks : callable
        Takes no argument and returns a fresh iterator over arrays of statistics, of any sign and shape; it is
        called twice and has to give the same statistics both times.
    n_tests : int
        Their number in total.
    q : float in (0, 1)
        False discovery rate.
    method : {"bh", "by", "storey", "liu"}, default="bh"
        See the top of this module.

    Returns
    -------
    FDRThreshold

    Raises
    ------
    TypeError
        If `blocks` is not callable.
    ValueError
        If a statistic is NaN, or their number is not `n_tests`, or differs between passes.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.inference import fdr_threshold
    >>> z = np.array([0.3, -4.5, 1.0, 3.9, -0.2])
    >>> found = fdr_threshold(lambda: iter([z[:2], z[2:]]), n_tests=5, q=0.1)
    >>> found.n_rejected, round(found.threshold, 3)
    (2, 2.054)
    >>> abs(z) >= found.threshold
    array([False,  True, False,  True, False])
    """
    if not callable(blocks):
        raise TypeError(
            "blocks must be a function that returns a fresh iterator over arrays at every call, "
            f"got {type(blocks).__name__}"
        )
    n_tests = check_integer("n_tests", n_tests, low=1)
    q = check_number("q", q, 0, 1, low_open=True, high_open=True)
    check_choice("method", method, ("bh", "by", "storey", "liu"))

    last_resort = math.sqrt(2 * math.log(n_tests))  # Liu's threshold if no other will do
    in_bin, n_small, n_last_resort = _count(blocks, last_resort)
    if in_bin.sum() != n_tests:
        raise ValueError(f"n_tests is {n_tests}, but blocks() gave {in_bin.sum()} statistics")

    pi0 = _storey_pi0(n_small, n_tests) if method == "storey" else 1.0
    slope = q / pi0 / n_tests  # the k-th largest is compared with the p-value slope * k
    if method == "by":
        slope /= digamma(n_tests + 1) + np.euler_gamma
    n_rejected, statistic = _step_up(blocks, in_bin, slope)

    # min: where p equals slope * k, rounding must not put the last rejected statistic below the threshold.
    threshold = min(_crossing(slope * n_rejected), statistic) if n_rejected else math.inf
    if method == "liu":
        lowest = threshold if n_rejected else _crossing(slope)
        bound = (
            math.sqrt(last_resort**2 - 2 * math.log(math.log(n_tests))) if n_tests > 1 else math.inf
        )
        threshold = lowest if lowest <= bound else last_resort
        n_rejected = n_rejected if lowest <= bound else n_last_resort
    estimated_fdp = pi0 * n_tests * _p_value(threshold) / max(n_rejected, 1)
    return FDRThreshold(
        threshold=float(threshold),
        n_rejected=int(n_rejected),
        n_tests=n_tests,
        q=q,
        method=method,
        pi0=float(pi0),
        estimated_fdp=float(min(estimated_fdp, 1.0)),
    )


def _count(blocks, last_resort: float) -> tuple[NDArray[np.int64], int, int]:
    """First pass: how many |T| lie in each bin, have a p-value above 1/2, reach Liu's last resort."""
    in_bin = np.zeros(N_BINS + 1, dtype=np.int64)
    n_small = n_last_resort = 0
    median = norm.isf(0.25)
    for t in _absolute(blocks):
        if np.isnan(t).any():
            raise ValueError(
                "blocks() gave a statistic that is NaN; leave it out, and out of n_tests"
            )
        in_bin += np.bincount(_bin(t), minlength=N_BINS + 1)
        n_small += np.count_nonzero(t < median)
        n_last_resort += np.count_nonzero(t >= last_resort)
    return in_bin, n_small, n_last_resort


def _step_up(blocks, in_bin: NDArray[np.int64], slope: float) -> tuple[int, float]:
    """k* = max{k: G(|T|_(k)) <= slope k}, and a number between |T|_(k* + 1) and |T|_(k*) (or equal to it).

    The smallest |T| in bin b has rank C_b, the number of |T| in bin b and beyond. It passes for certain if the
    bin's lower edge does, G(e_b) <= slope C_b. No |T| of the bin can pass unless G(e_{b+1}) <= slope C_b.
    """
    at_least = np.cumsum(in_bin[::-1])[::-1]  # C_b
    edges = np.append(np.arange(N_BINS + 1) / BINS_PER_UNIT, np.inf)
    p = _p_value(edges)
    certain = np.flatnonzero((in_bin > 0) & (p[:-1] <= slope * at_least))
    lowest = certain[0] if len(certain) else N_BINS + 1
    best, statistic = (at_least[lowest], edges[lowest]) if len(certain) else (0, np.inf)

    is_open = (in_bin > 0) & (p[1:] <= slope * at_least)
    is_open[lowest:] = False
    if not is_open.any():
        return int(best), float(statistic)
    open_bins = np.flatnonzero(is_open)
    low, high = edges[open_bins[0]], edges[open_bins[-1] + 1]
    values = [t[(t >= low) & (t < high)] for t in _absolute(blocks)]
    values = np.sort(np.concatenate([t[is_open[_bin(t)]] for t in values]))[::-1]
    if len(values) != in_bin[is_open].sum():
        raise ValueError(
            "blocks() must give the same statistics at every call; the second gave others"
        )
    bins = _bin(values)
    first_of_bin = np.searchsorted(-bins, -bins)  # position of the largest |T| of the same bin
    rank = (at_least - in_bin)[bins] + np.arange(len(values)) - first_of_bin + 1
    passed = np.flatnonzero(_p_value(values) <= slope * rank)
    if len(passed):
        best, statistic = rank[passed[-1]], values[passed[-1]]
    return int(best), float(statistic)


def _absolute(blocks) -> Iterator[Array]:
    for block in blocks():
        yield np.abs(np.asarray(block, dtype=float).ravel())


def _bin(t: Array) -> NDArray[np.int64]:
    return np.minimum(t * BINS_PER_UNIT, N_BINS).astype(np.int64)


def _p_value(t: ArrayLike) -> Array:
    """G(t). Its underflow beyond t = 38 does no harm: there every comparison is won by far."""
    return 2 * norm.sf(t)


def _crossing(p: float) -> float:
    """The t at which G(t) = p."""
    return max(float(norm.isf(p / 2)), 0.0) if p < 2 else 0.0


def _storey_pi0(n_large_p: int, n_tests: int) -> float:
    return min(1.0, (1 + n_large_p) / (0.5 * n_tests))
