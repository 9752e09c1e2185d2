r"""One verdict from several scores, as the latent distance and the reconstruction error of the same record.

Each score misses unknown sets that another sees. Given p-values :math:`p_1, \dots, p_k` of one record under k scores:

* "bonferroni": :math:`\min(1, k \min_j p_j)`; valid under any dependence, strong where one score says it all;
* "fisher": :math:`P(\chi^2_{2k} > -2 \sum_j \log p_j)`; for independent scores, which two of one record rarely are;
* "cauchy": :math:`P(C > \frac1k \sum_j \tan(\pi(1/2 - p_j)))`, C Cauchy; nearly valid in the tail under any dependence.
  P-values above 0.99 count as 0.99.

None is exact for dependent scores. `calibrated_combination` is: it takes the combination as just another score and calibrates
it on held-out known records. What it combines need not be exact p-values then, and had better not be ranks, which tie for all
records beyond the reference: past its 90 % quantile u a score's p-value goes on as
:math:`p(s) = p(u) \exp(-(s - u) / e)`, with e the mean excess of the reference over u.

References
----------
Liu, Y. and Xie, J. (2020). Cauchy combination test: a powerful test with analytic p-value calculation under arbitrary
dependency structures. Journal of the American Statistical Association 115, 393-402.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from statml._validation import check_choice

from .conformal import conformal_p_values

Array = NDArray[np.float64]

LARGEST = 0.99  # p-value that "cauchy" takes
TAIL = 0.1  # share of the reference beyond which p-values fall off exponentially
SMALLEST = 1e-300
COMBINATIONS = ("bonferroni", "cauchy", "fisher")


def combine_p_values(p_values: ArrayLike, method: str = "bonferroni") -> Array:
    """Combine the p-values of each record under several scores.

    Parameters
    ----------
    p_values : array-like of shape (n, k)
        In (0, 1]; of each record under each of k scores.
    method : {"bonferroni", "cauchy", "fisher"}, default="bonferroni"

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If a p-value is outside (0, 1].

    Examples
    --------
    >>> combine_p_values([[0.01, 0.9]], "bonferroni")
    array([0.02])
    """
    check_choice("method", method, COMBINATIONS)
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 2 or p.shape[1] == 0:
        raise ValueError(f"p_values must have shape (n, k) with k >= 1, got {p.shape}")
    good = (p > 0) & (p <= 1)
    if not good.all():
        raise ValueError(f"p_values must lie in (0, 1], got {p[~good][0]}")
    if method == "bonferroni":
        return np.minimum(1.0, p.shape[1] * p.min(axis=1))
    if method == "fisher":
        return stats.chi2.sf(-2 * np.log(p).sum(axis=1), 2 * p.shape[1])
    # a p-value of 1 counts as minus infinity, and one score that finds nothing would silence all others
    return stats.cauchy.sf(np.tan(np.pi * (0.5 - np.minimum(p, LARGEST))).mean(axis=1))


def calibrated_combination(
    calibration: ArrayLike, scores: ArrayLike, method: str = "bonferroni"
) -> Array:
    """P-values from several scores at once, valid under any dependence among them.

    Half of the calibration records turns each score into p-values (by ranks, and beyond the 90 % quantile by an exponential
    tail), the other half calibrates their combination.

    Parameters
    ----------
    calibration : array-like of shape (m, k), m >= 2
        Scores of known records, held out and in random order; high is suspicious.
    scores : array-like of shape (n, k)
        Scores of the records to judge.
    method : {"bonferroni", "cauchy", "fisher"}, default="bonferroni"

    Returns
    -------
    ndarray of shape (n,)
        P(p <= alpha) <= alpha for a known record. None is smaller than about 2 / m.

    Raises
    ------
    ValueError
        For NaN, fewer than two calibration records or another number of columns.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> known = rng.normal(size=(400, 2))
    >>> calibrated_combination(known, [[0.0, 0.0], [6.0, 0.0]]).round(3)
    array([0.677, 0.005])
    """
    calibration, scores = np.asarray(calibration, dtype=float), np.asarray(scores, dtype=float)
    if calibration.ndim != 2 or scores.ndim != 2 or calibration.shape[1] != scores.shape[1]:
        raise ValueError(
            f"calibration and scores must have as many columns, got shapes {calibration.shape} and {scores.shape}"
        )
    if len(calibration) < 2:
        raise ValueError(f"calibration must hold at least two records, got {len(calibration)}")
    first, second = calibration[::2], calibration[1::2]

    def combined(values: Array) -> Array:
        columns = zip(first.T, values.T, strict=True)
        p = np.stack([_tailed_p_values(own, column) for own, column in columns], axis=1)
        return -combine_p_values(p, method)

    return conformal_p_values(combined(second), combined(scores))


def _tailed_p_values(reference: Array, scores: Array) -> Array:
    """P-values by ranks up to the reference's 90 % quantile, beyond it by an exponential tail, so that no two tie."""
    p = conformal_p_values(reference, scores)
    n = len(reference)
    k = int(np.ceil(TAIL * n))
    tail = np.sort(reference)[n - k :]
    excess = tail.mean() - tail[0]
    if k < 2 or not excess > 0:  # nothing to take a tail's scale from
        return p
    beyond = scores > tail[0]
    p[beyond] = (k + 1) / (n + 1) * np.exp(-(scores[beyond] - tail[0]) / excess)
    return np.maximum(p, SMALLEST)
