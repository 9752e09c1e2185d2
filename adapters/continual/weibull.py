r"""The paper's bound: a Weibull distribution fitted to the largest distances of every class (meta-recognition).

Of the distances of a class, take the m largest, s the smallest of them, and :math:`u_i = d_i - s + t` with the
translation t = 1. The two-parameter Weibull distribution with maximal likelihood has the shape that solves

.. math:: \frac{\sum_i u_i^\kappa \log u_i}{\sum_i u_i^\kappa} - \frac1\kappa - \frac1m \sum_i \log u_i = 0,
          \qquad \lambda = \Big(\frac1m \sum_i u_i^\kappa\Big)^{1/\kappa},

and the shift is :math:`\tau = s - t`. A record at distance d of the class mean is an outlier with probability

.. math:: w_c(d) = 1 - \exp\!\big(-((d - \tau_c) / \lambda_c)^{\kappa_c}\big), \qquad 0 \text{ for } d \le \tau_c.

That is libMR's convention, parameter for parameter. It is a score and no exceedance probability: the tail alone is
fitted as if it were the whole. With Euclid's distance and a tail of 5 %, w = 0.5 lies near the 98 % quantile of the
class's own distances, and w = 0.01 near the 85 % to 90 % quantile; with the cosine distance t = 1 makes w depend on the
spread of the distances. Where a probability is meant, use `ConformalBound` or `PeaksOverThresholdBound`.

The equation is solved for all classes at once. With :math:`x = \log u`, standardised to mean 0 and variance 1, its left side
increases in :math:`\kappa`, with derivative :math:`\mathrm{Var}_{e^{\kappa x}}(x) + \kappa^{-2}`: there is one root, found by
Newton's method inside a bracket. A tail of equal values has none; its shape is `MAX_SHAPE`, a step at that value.

References
----------
Scheirer, W. J., Rocha, A., Micheals, R. J. and Boult, T. E. (2011). Meta-recognition: the theory and practice of
recognition score analysis. IEEE TPAMI 33, 1689-1695.
Mundt, M., Pliushch, I., Majumder, S., Hong, Y. and Ramesh, V. (2022). Unified probabilistic deep continual learning
through generative replay and open set recognition. Journal of Imaging 8, 93.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from statml._validation import check_integer, check_number

from .bound import Bound, warn_starved

Array = NDArray[np.float64]

MIN_TAIL = 3  # distances: fewer say nothing on a shape
MAX_SHAPE = 1e8
MAX_ITER = 200
TOL = 1e-9  # of the last step, whose error is of the order of its square


class WeibullBound(Bound):
    """Outlier probabilities from a Weibull distribution of every class's largest distances.

    Parameters
    ----------
    distance : {"cosine", "euclidean", "mixed"}, default="cosine"
        Between a latent and the mean of a class.
    tail : float in (0, 1] or int >= 3, default=0.05
        Share of a class's records that make its tail (at least 3), or their number.
    translate : float, default=1.0
        Distance from the tail's smallest value down to the shift; 1 is libMR's.
    bound : {"predicted", "min"}, default="predicted"
        Whether a record is judged by the class that the classifier says, or by the class that suits it best.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    means_ : ndarray of shape (n_classes, d)
        Of the correctly classified records.
    params_ : ndarray of shape (n_classes, 3)
        Columns scale, shape, shift.
    tail_sizes_ : ndarray of int, shape (n_classes,)
        Distances that were fitted.
    starved_ : ndarray of bool, shape (n_classes,)
        Classes with too few correct records for a tail of their own: fewer than `tail` of them, or, for a share, fewer
        than 3 / `tail`. Their parameters are between their own and those of all classes together, with the share of
        the records they have as weight.
    n_features_in_ : int

    See Also
    --------
    ConformalBound : Where the share of rejected known records shall be right.

    Notes
    -----
    Rejection in generative replay keeps a draw with w < 0.01. Of the training records themselves that keeps 17 % to
    77 % with cosine distances and nearly all with Euclid's.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.continual import WeibullBound
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat(["cat", "dog"], 500)
    >>> Z = rng.normal(size=(1000, 8)) + 4 * (y == "dog")[:, None]
    >>> bound = WeibullBound(distance="euclidean").fit(Z, y)
    >>> bound.outlier_proba([[0.0] * 8, [4.0] * 8, [9.0] * 8], ["cat", "dog", "dog"]).round(3)
    array([0., 0., 1.])
    >>> bound.tail_sizes_
    array([25, 25])
    """

    def __init__(
        self,
        distance: str = "cosine",
        tail: float | int = 0.05,
        translate: float = 1.0,
        bound: str = "predicted",
    ):
        self.distance = distance
        self.tail = tail
        self.translate = translate
        self.bound = bound

    def _fit_classes(self, distances: list[Array], n_seen: NDArray[np.int64]) -> None:
        translate = check_number("translate", self.translate, 0, low_open=True)
        sizes, needed = tail_sizes(self.tail, n_seen, MIN_TAIL)
        counts = np.array([len(d) for d in distances])
        self.starved_ = counts < needed
        is_share = isinstance(self.tail, (float, np.floating))
        n_pooled = max(int(self.tail * counts.sum()), MIN_TAIL) if is_share else int(self.tail)
        self.params_ = _fit(distances, sizes, counts / needed, translate, n_pooled)
        self.tail_sizes_ = np.minimum(sizes, counts)
        warn_starved(
            self.classes_, self.starved_, f"{needed} correctly classified records", stacklevel=3
        )

    def _w(self, distances: Array, c: NDArray[np.int64]) -> Array:
        return weibull_cdf(distances, *(self.params_[c, k] for k in range(3)))

    def _w_inverse(self, p: Array, c: NDArray[np.int64]) -> Array:
        return weibull_inverse(p, *(self.params_[c, k] for k in range(3)))


def fit_weibull_tail(
    distances: ArrayLike | Sequence[ArrayLike], tail_size: int | ArrayLike, translate: float = 1.0
) -> tuple[float, float, float] | tuple[Array, Array, Array]:
    """Fit a Weibull distribution to the largest distances of one class or of many.

    Parameters
    ----------
    distances : array-like of shape (n,), or a sequence of such
        Of one class, or of each class; classes may differ in length.
    tail_size : int >= 3, or one for each class
        How many of the largest are fitted. A class with fewer is *starved*: its parameters become a weighted mean of its
        own and of those of all classes together (shapes and scales on the log scale), with weight n / tail_size for its
        own, or 0 below three distances; a warning says so.
    translate : float, default=1.0
        See the module; 1 is libMR's.

    Returns
    -------
    scale, shape, shift : float, or ndarray of shape (n_classes,)
        Positive, positive, and any: the smallest of the tail minus `translate`.

    Raises
    ------
    ValueError
        For distances that are negative or not finite, a tail of fewer than three, or fewer than three distances in all.

    Examples
    --------
    The distances of 5,000 draws of a standard normal in 60 dimensions from their mean:

    >>> import numpy as np
    >>> d = np.sqrt(np.random.default_rng(0).chisquare(60, 5000))
    >>> scale, shape, shift = fit_weibull_tail(d, 250)
    >>> round(scale, 6), round(shape, 4), round(shift, 6)
    (1.424486, 4.945, 7.896894)
    """
    single = isinstance(distances, np.ndarray) and distances.ndim == 1
    single = single or all(np.ndim(d) == 0 for d in distances)
    classes = [np.asarray(d, dtype=float) for d in ([distances] if single else distances)]
    _check_distances(classes)
    translate = check_number("translate", translate, 0, low_open=True)
    sizes = np.atleast_1d(tail_size)
    if sizes.ndim != 1 or len(sizes) not in (1, len(classes)):
        raise ValueError(
            f"tail_size must be an integer or one for each of {len(classes)} classes, got {tail_size!r}"
        )
    sizes = np.array([check_integer("tail_size", m, low=MIN_TAIL) for m in sizes])
    sizes = np.broadcast_to(sizes, len(classes))
    counts = np.array([len(d) for d in classes])
    fitted = _fit(classes, sizes, counts / sizes, translate, int(sizes.max(initial=MIN_TAIL)))
    starved = counts < sizes
    warn_starved(np.arange(len(classes)), starved, "tail_size distances", stacklevel=2)
    if single:
        return tuple(float(value) for value in fitted[0])
    return tuple(fitted.T)


def weibull_cdf(
    distances: ArrayLike, scale: ArrayLike, shape: ArrayLike, shift: ArrayLike
) -> Array:
    """w(d) = 1 - exp(-((d - shift) / scale)^shape), 0 for d <= shift; arguments broadcast.

    Examples
    --------
    >>> float(weibull_cdf(9.3, 1.4, 4.9, 7.9).round(7))
    0.6321206
    """
    u = (np.asarray(distances, dtype=float) - shift) / scale
    inside = u > 0
    power = np.asarray(shape) * np.log(np.where(inside, u, 1.0))
    # exp(-exp(7)) is 0 in floating point already
    return np.where(inside, -np.expm1(-np.exp(np.minimum(power, 7.0))), 0.0)


def weibull_inverse(p: ArrayLike, scale: ArrayLike, shape: ArrayLike, shift: ArrayLike) -> Array:
    """Distance at which w is p: shift + scale (-log(1 - p))^(1 / shape), for p in [0, 1); arguments broadcast.

    Examples
    --------
    >>> float(weibull_inverse(0.5, 1.4, 4.9, 7.9).round(6))
    9.199103
    """
    return shift + scale * (-np.log1p(-np.asarray(p, dtype=float))) ** (1 / np.asarray(shape))


def tail_sizes(
    tail: float | int, n_seen: NDArray[np.int64], smallest: int
) -> tuple[NDArray[np.int64], int]:
    """Sizes of the tails of classes with so many records, and how many records a class needs for a tail of its own."""
    if isinstance(tail, (int, np.integer)) and not isinstance(tail, bool):
        tail = check_integer("tail", tail, low=smallest)
        return np.full(len(n_seen), tail), tail
    tail = check_number("tail", tail, 0, 1, low_open=True)
    # the small addition: 0.05 * 60 is 3.0000000000000004 in one order and 2.9999999999999996 in another
    sizes = np.floor(tail * n_seen * (1 + 1e-12)).astype(np.int64)
    return np.maximum(sizes, smallest), int(np.ceil(smallest / tail * (1 - 1e-12)))


# --- the fit ------------------------------------------------------------------------------------------


def _fit(
    classes: list[Array], sizes: Array, weights: Array, translate: float, n_pooled: int
) -> Array:
    """Parameters (scale, shape, shift) of all classes; those with a weight below 1 lean on the pooled fit.

    That is of the distances of all classes with weight 1, with a tail as large as theirs together; if there is none, of all
    distances, with a tail of n_pooled.
    """
    weights = np.where([len(d) < MIN_TAIL for d in classes], 0.0, np.minimum(weights, 1.0))
    tails = [_largest(d, m) for d, m in zip(classes, sizes, strict=True)]
    if (weights == 1).all():
        return _fit_tails(tails, translate)
    full = weights == 1 if (weights == 1).any() else np.ones(len(classes), dtype=bool)
    everything = np.concatenate([d for d, is_full in zip(classes, full, strict=True) if is_full])
    if len(everything) < MIN_TAIL:
        raise ValueError(
            f"a Weibull fit needs at least {MIN_TAIL} distances in all classes together, got {len(everything)}"
        )
    if (weights == 1).any():
        n_pooled = sum(len(tail) for tail, is_full in zip(tails, full, strict=True) if is_full)
    pooled = _largest(everything, n_pooled)
    rows = [tail if w > 0 else pooled for tail, w in zip(tails, weights, strict=True)]
    fits = _fit_tails([*rows, pooled], translate)
    fits[:, :2] = np.log(fits[:, :2])
    own, together = fits[:-1], fits[-1]
    mixed = weights[:, None] * own + (1 - weights[:, None]) * together
    mixed[:, :2] = np.exp(mixed[:, :2])
    return mixed


def _fit_tails(tails: list[Array], translate: float) -> Array:
    """The maximum likelihood fits; rows of unequal length are filled up, and ``there`` says where."""
    lengths = np.array([len(tail) for tail in tails])
    smallest = np.array([tail.min() for tail in tails])
    there = np.arange(lengths.max()) < lengths[:, None]
    x = np.zeros(there.shape)
    x[there] = np.concatenate(tails)
    x = np.log1p(np.where(there, x - smallest[:, None], 0.0) / translate)  # log(u / t)
    centre = x.sum(axis=1) / lengths
    standard = np.where(there, x - centre[:, None], 0.0)
    spread = np.sqrt(np.square(standard).sum(axis=1) / lengths)
    varied = spread > 0
    standard[varied] /= spread[varied, None]
    shape = np.full(len(tails), MAX_SHAPE)
    if varied.any():
        k = _solve_shape(standard[varied], there[varied])
        shape[varied] = np.minimum(k / spread[varied], MAX_SHAPE)
    scaled = np.where(there, shape[:, None] * (x - centre[:, None]), -np.inf)
    top = scaled.max(axis=1)
    log_mean = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1) / lengths)
    scale = translate * np.exp(centre + log_mean / shape)
    return np.stack([scale, shape, smallest - translate], axis=1)


def _solve_shape(x: Array, there: NDArray[np.bool_]) -> Array:
    """Roots k of E_k(x) - 1/k = 0, where E_k weights x by exp(k x); rows have mean 0 and variance 1."""
    top = x.max(axis=1)
    below = np.where(there, x - top[:, None], -np.inf)
    squared = x * x
    low = 1 / top  # E_k(x) <= top
    high = np.full(len(x), np.inf)
    # the root for an infinite sample of a Weibull distribution
    k = np.maximum(np.pi / np.sqrt(6), low)
    for _ in range(MAX_ITER):
        weight = np.exp(k[:, None] * below)
        total = weight.sum(axis=1)
        mean = np.einsum("ij,ij->i", weight, x) / total
        spread = np.maximum(np.einsum("ij,ij->i", weight, squared) / total - mean**2, 0.0)
        value = mean - 1 / k
        low = np.where(value <= 0, k, low)
        high = np.where(value >= 0, k, high)
        new = k - value / (spread + 1 / k**2)
        outside = (new < low) | (new > high)
        if outside.any():
            middle = np.where(np.isinf(high), 2 * low, low + (high - low) / 2)
            new = np.where(outside, middle, new)
        step = np.abs(new - k)
        k = new
        if (step <= TOL * k).all():
            break
    return k


def _largest(d: Array, m: int) -> Array:
    return np.partition(d, len(d) - m)[len(d) - m :] if m < len(d) else d


def _check_distances(classes: list[Array]) -> None:
    for d in classes:
        if d.ndim != 1:
            raise ValueError(f"distances of a class must have one dimension, got shape {d.shape}")
    everything = np.concatenate(classes) if classes else np.empty(0)
    good = np.isfinite(everything) & (everything >= 0)
    if not good.all():
        raise ValueError(f"distances must be finite and not negative, got {everything[~good][0]}")
