"""A core set for rehearsal: a fixed number of stored records, spread over the classes, each class by one rule."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, check_consistent_length

from statml._validation import (
    RandomState,
    as_generator,
    check_integer,
    check_labels,
    check_magnitude,
)

from ..bound import class_codes
from .bound_filter import BoundFilter, check_band, in_band
from .pool import Pool, Rule, find_rule


def select_exemplars(
    Z: ArrayLike,
    y: ArrayLike,
    m: int,
    method: str | Rule = "herding",
    *,
    bound: Any = None,
    class_proba: ArrayLike | None = None,
    band: tuple[float, float] | None = None,
    refused: ArrayLike | None = None,
    random_state: RandomState = None,
) -> NDArray[np.int64]:
    """Choose records to keep.

    Parameters
    ----------
    Z : array-like of shape (n, d)
        Latents, or inputs.
    y : array-like of shape (n,)
        Classes; each gets an equal share of the set, and what a small class leaves goes to the others.
    m : int >= 1
        Size of the set.
    method : str or function, default="herding"
        "random", "entropy" (needs `class_proba`), "k_center", "herding", "k_means", "inverse_cdf" and "below_bound"
        (these two need `bound`), or a function ``(pool, n, rng) -> indices``; within each class.
    bound : Bound, optional
        Fitted on records of these classes.
    class_proba : array-like of shape (n, n_classes), optional
    band : (lo, hi), optional
        Offer only records with an outlier probability in this band under their own class, which needs `bound`:
        ``(0, 0.95)`` keeps foreign and mislabelled records out. "inverse_cdf" and "below_bound" use (0, 0.95) where none is
        given.
    refused : array-like of bool, shape (n,), optional
        Records that another judge calls foreign, as one that looks at reconstructions; their outlier probability counts as 1.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None

    Returns
    -------
    ndarray of int, shape (at most m,)
        All different, class by class in sorted order, best first within each. Fewer than m only where the records, or those
        in the band, are fewer.

    Raises
    ------
    ValueError
        For NaN, missing labels, unequal lengths, an unknown method, or a method without what it needs.

    Examples
    --------
    >>> import numpy as np
    >>> Z = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [15.0]])
    >>> select_exemplars(Z, ["a", "a", "a", "b", "b", "b"], 2)
    array([1, 4])
    """
    Z = check_magnitude("Z", check_array(Z, dtype=float, input_name="Z"))
    y = check_labels("y", y)
    check_consistent_length(Z, y)
    m = check_integer("m", m, low=1)
    rule = find_rule("method", method)
    if band is None and isinstance(method, str) and method in ("inverse_cdf", "below_bound"):
        band = (0.0, 0.95)
    if band is not None:
        check_band(band)
        if bound is None:
            raise ValueError(f"method {method!r} with band {band} needs a fitted bound, got None")
        rule = BoundFilter(method, band)
    rng = as_generator(random_state)
    w = None if bound is None else _own_outlier_proba(bound, Z, y)
    if w is not None and refused is not None:
        check_consistent_length(Z, refused)
        w = np.where(np.asarray(refused, dtype=bool), 1.0, w)
    pool = Pool(
        Z,
        labels=y,
        outlier_proba=w,
        class_proba=None if class_proba is None else np.asarray(class_proba, dtype=float),
        bound=bound,
    )
    available = np.ones(len(y), dtype=bool) if band is None else in_band(pool.outlier_proba, band)
    classes = np.unique(y)
    shares = equal_shares(
        m, np.array([np.count_nonzero(available & (y == c)) for c in classes]), rng
    )
    chosen = []
    for c, n in zip(classes, shares, strict=True):
        members = np.flatnonzero(y == c)
        chosen.append(members[rule(pool.subset(members), int(n), rng)] if n else members[:0])
    return np.concatenate(chosen)


def equal_shares(
    m: int, available: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Split m as equally as the available numbers allow; who gets one more is drawn by lot.

    Examples
    --------
    >>> import numpy as np
    >>> equal_shares(9, np.array([1, 10, 10]), np.random.default_rng(0))
    array([1, 4, 4])
    """
    shares = np.zeros(len(available), dtype=np.int64)
    left = min(m, int(available.sum()))
    while left:
        open_ = np.flatnonzero(shares < available)
        each = left // len(open_)
        if each == 0:
            shares[rng.permutation(open_)[:left]] += 1
            break
        new = np.minimum(shares[open_] + each, available[open_])
        left -= int((new - shares[open_]).sum())
        shares[open_] = new
    return shares


def _own_outlier_proba(bound: Any, Z: NDArray, y: NDArray) -> NDArray[np.float64]:
    """w under the record's own class, whatever ``bound.bound`` says."""
    code = class_codes("y", y, bound.classes_)
    return bound.outlier_proba_per_class(Z)[np.arange(len(Z)), code]
