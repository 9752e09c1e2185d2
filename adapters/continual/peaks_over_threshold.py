r"""A calibrated bound from extreme value theory: a generalised Pareto tail over a threshold.

Of n distances of a class, let u be the largest outside the tail of m. Beyond u, the excesses y = d - u follow nearly a
generalised Pareto distribution (Pickands; Balkema and de Haan), so that

.. math:: w_c(d) = 1 - \frac{m}{n} \Big(1 + \xi \frac{d - u}{\sigma}\Big)_+^{-1/\xi} \text{ for } d > u,

and below u the interpolated empirical distribution function, which is 1 - m/n at u. Unlike the `WeibullBound`'s, this w
estimates the distribution function of the class's own distances: w > 0.99 for one new record in a hundred, and it goes on rising
far out where no record of the sample lies. The price of the estimate is its error: of new records, a share somewhat above p has
w > 1 - p where p is below ten over the number of records (0.002 for p = 0.001 and 1,000 records). Only `ConformalBound` promises a
rate.

Maximum likelihood by the profile in :math:`\theta = \xi / \sigma` (Grimshaw): :math:`\xi(\theta)` is the mean of
:math:`\log(1 + \theta y)`, and the mean log-likelihood :math:`-\log(\xi(\theta)/\theta) - \xi(\theta) - 1`, with the limit
:math:`-\log \bar y - 1` at 0. It is unbounded for :math:`\xi < -1` and not regular for :math:`\xi < -1/2` (Smith), so that
:math:`\xi \ge -1/2` is kept.

References
----------
Grimshaw, S. D. (1993). Computing maximum likelihood estimates for the generalized Pareto distribution. Technometrics 35,
185-191.
Smith, R. L. (1985). Maximum likelihood estimation in a class of nonregular cases. Biometrika 72, 67-90.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from statml._validation import check_integer

from .bound import Bound, warn_starved
from .weibull import _check_distances, tail_sizes

Array = NDArray[np.float64]

MIN_EXCESSES = 10
SMALLEST_SHAPE = -0.5
# Grid of the profile: theta times the largest excess, > -1, and theta times the mean excess.
NEGATIVE = -(1 - np.geomspace(1e-6, 1, 40))[:-1]
POSITIVE = np.geomspace(1e-4, 1e3, 40)


class PeaksOverThresholdBound(Bound):
    """Calibrated outlier probabilities from a generalised Pareto tail of every class's distances.

    Parameters
    ----------
    distance : {"cosine", "euclidean", "mixed"}, default="cosine"
        Between a latent and the mean of a class.
    tail : float in (0, 1) or int >= 10, default=0.1
        Share of a class's records over the threshold (at least 10), or their number.
    bound : {"predicted", "min"}, default="predicted"
        Whether a record is judged by the class that the classifier says, or by the class that suits it best. Calibrated
        is the first, for records that are classified correctly.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    means_ : ndarray of shape (n_classes, d)
        Of the correctly classified records.
    params_ : ndarray of shape (n_classes, 4)
        Columns threshold, scale, shape, and the share of the tail.
    bodies_ : list of ndarray
        Sorted distances up to the threshold, for each class.
    tail_sizes_ : ndarray of int, shape (n_classes,)
    starved_ : ndarray of bool, shape (n_classes,)
        Classes with too few correct records for a tail of their own; they are judged by the distances of all classes
        together.
    n_features_in_ : int

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.continual import PeaksOverThresholdBound
    >>> rng = np.random.default_rng(0)
    >>> bound = PeaksOverThresholdBound("euclidean").fit(rng.normal(size=(2000, 8)), np.zeros(2000, int))
    >>> w = bound.outlier_proba(rng.normal(size=(20000, 8)))
    >>> bool(abs((w > 0.99).mean() - 0.01) < 0.005)
    True
    """

    def __init__(self, distance: str = "cosine", tail: float | int = 0.1, bound: str = "predicted"):
        self.distance = distance
        self.tail = tail
        self.bound = bound

    def _fit_classes(self, distances: list[Array], n_seen: NDArray[np.int64]) -> None:
        sizes, needed = tail_sizes(self.tail, n_seen, MIN_EXCESSES)
        needed = max(needed, MIN_EXCESSES + 1)  # one record below the threshold
        counts = np.array([len(d) for d in distances])
        self.starved_ = counts < needed
        everything = np.concatenate(distances)
        if self.starved_.any() and len(everything) <= MIN_EXCESSES:
            raise ValueError(
                f"a Pareto tail needs more than {MIN_EXCESSES} distances in all classes together, "
                f"got {len(everything)}"
            )
        share = sizes.sum() / n_seen.sum()
        rows, self.bodies_, self.tail_sizes_ = [], [], np.zeros(len(counts), dtype=np.int64)
        for c, d in enumerate(distances):
            m = min(sizes[c], counts[c] - 1)
            if self.starved_[c]:
                d = everything
                m = min(max(int(share * len(d)), MIN_EXCESSES), len(d) - 1)
            threshold, scale, shape = fit_gpd_tail(d, m)
            rows.append((threshold, scale, shape, m / len(d)))
            self.bodies_.append(np.sort(d)[: len(d) - m])
            self.tail_sizes_[c] = m
        self.params_ = np.array(rows)
        warn_starved(
            self.classes_, self.starved_, f"{needed} correctly classified records", stacklevel=3
        )

    def _w(self, distances: Array, c: NDArray[np.int64]) -> Array:
        c = np.broadcast_to(c, distances.shape)
        threshold, scale, shape, share = (self.params_[c, k] for k in range(4))
        w = 1 - share * gpd_survival(distances - threshold, scale, shape)
        for k in np.unique(c[distances <= threshold]):
            low = (c == k) & (distances <= threshold)
            body = self.bodies_[k]
            at = np.append(0.0, body)
            w[low] = np.interp(distances[low], at, (1 - share[low][0]) * _ranks(len(body)))
        return w

    def _w_inverse(self, p: Array, c: NDArray[np.int64]) -> Array:
        p, c = np.broadcast_arrays(p, c)
        threshold, scale, shape, share = (self.params_[c, k] for k in range(4))
        beyond = np.clip((1 - p) / share, np.finfo(float).tiny, 1.0)
        log = -np.log(beyond)
        flat = np.abs(shape) < 1e-12
        xi = np.where(flat, 1.0, shape)
        d = threshold + scale * np.where(flat, log, np.expm1(xi * log) / xi)
        for k in np.unique(c[p < 1 - share]):
            low = (c == k) & (p < 1 - share)
            body = self.bodies_[k]
            ranks = (1 - self.params_[k, 3]) * _ranks(len(body))
            d[low] = np.interp(p[low], ranks, np.append(0.0, body))
        return d


def fit_gpd_tail(distances: ArrayLike, tail_size: int) -> tuple[float, float, float]:
    """Fit a generalised Pareto distribution to what the largest distances exceed the next one by.

    Parameters
    ----------
    distances : array-like of shape (n,)
    tail_size : int, at least 1 and below n
        Number of excesses. Below ten or so the shape is mostly noise.

    Returns
    -------
    threshold : float
        The largest distance outside the tail.
    scale : float
        0 if all excesses are.
    shape : float
        At least -1/2.

    Raises
    ------
    ValueError
        For distances that are negative or not finite, or fewer than tail_size + 1 of them.

    Examples
    --------
    >>> import numpy as np
    >>> d = np.random.default_rng(0).exponential(2.0, 20000)
    >>> threshold, scale, shape = fit_gpd_tail(d, 2000)
    >>> bool(abs(scale - 2) < 0.2), bool(abs(shape) < 0.1)
    (True, True)
    """
    d = np.asarray(distances, dtype=float)
    _check_distances([d])
    m = check_integer("tail_size", tail_size, low=1)
    if m >= len(d):
        raise ValueError(f"tail_size must be below the number of distances, {len(d)}, got {m}")
    ordered = np.partition(d, len(d) - m - 1)
    threshold = float(ordered[len(d) - m - 1])
    excess = ordered[len(d) - m :] - threshold
    scale, shape = _fit_excesses(excess)
    return threshold, scale, shape


def gpd_survival(excess: ArrayLike, scale: ArrayLike, shape: ArrayLike) -> Array:
    """(1 + shape excess / scale)^(-1 / shape), exp(-excess / scale) for shape 0; 1 below 0; arguments broadcast."""
    excess, scale, shape = np.broadcast_arrays(
        np.asarray(excess, dtype=float), np.asarray(scale, float), np.asarray(shape, float)
    )
    y = np.divide(excess, scale, out=np.where(excess > 0, np.inf, 0.0), where=scale > 0)
    y = np.maximum(y, 0.0)
    flat = np.abs(shape) < 1e-12
    xi = np.where(flat, 1.0, shape)
    endless = np.isinf(y)
    inside = 1 + xi * np.where(endless, 0.0, y)
    power = np.where(flat, np.where(endless, 0.0, y), np.log(np.maximum(inside, 1e-300)) / xi)
    return np.where(endless | (inside <= 0) & ~flat, 0.0, np.exp(-power))


def _fit_excesses(y: Array) -> tuple[float, float]:
    """Scale and shape of maximal likelihood."""
    unit = y.mean()
    if unit == 0:
        return 0.0, 0.0
    y = y / unit
    largest = y.max()
    grid = np.concatenate([NEGATIVE / largest, [0.0], POSITIVE])
    profile = np.array([_minus_profile(theta, y) for theta in grid])
    best = int(profile.argmin())
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(
        _minus_profile, bounds=(low, high), args=(y,), method="bounded", options={"xatol": 1e-10}
    )
    theta = found.x if found.fun <= profile[best] else grid[best]
    shape = float(np.log1p(theta * y).mean())
    if shape >= SMALLEST_SHAPE:
        # the limit of shape / theta at 0 is the mean excess, 1 here
        return float(unit * (shape / theta if abs(theta) > 1e-9 else 1.0)), shape
    # at the fixed shape, -log(scale) - (1 + 1 / shape) mean log(1 + shape y / scale), which has one maximum
    edge = -SMALLEST_SHAPE * largest
    found = minimize_scalar(
        lambda s: np.log(s) + (1 + 1 / SMALLEST_SHAPE) * np.log1p(SMALLEST_SHAPE * y / s).mean(),
        bounds=(edge * (1 + 1e-9), edge + 2),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(unit * found.x), SMALLEST_SHAPE


def _minus_profile(theta: float, y: Array) -> float:
    xi = np.log1p(theta * y).mean()
    return float((np.log(xi / theta) if abs(theta) > 1e-9 else 0.0) + xi + 1)


def _ranks(n: int) -> Array:
    return np.arange(n + 1) / n
