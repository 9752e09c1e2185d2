r"""Which rows make up which group: hard labels, or an n x m matrix of soft or overlapping memberships.

The loss of group g is :math:`L_g = \sum_i V_{ig}\, \ell_i`, with row weights
:math:`V_{ig} = s_i \Pi_{ig} / \sum_j s_j \Pi_{jg}` (s the sample weights, Pi the memberships). Everything else of
group DRO sees groups only through V: with weights q on the groups, row i counts :math:`v_i = \sum_g V_{ig} q_g`.

Cost: O(n) a sum over groups for hard groups, O(nm) for soft ones.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class HardGroups:
    """Every row in one group. Rows are held sorted by group, so that a group is a slice.

    Parameters
    ----------
    codes : ndarray of int, shape (n,)
        Position of each row's group, 0 to m - 1.
    weight : ndarray of shape (n,)
        Sample weights; rows of weight zero are left out.
    m : int

    Attributes
    ----------
    order : ndarray of int
        The rows kept, sorted by group; arrays given to the methods are in this order.
    mass : ndarray of shape (m,)
        Sum of weights.
    sizes : ndarray of shape (m,)
        Number of rows.
    """

    def __init__(self, codes: NDArray[np.int64], weight: Array, m: int):
        order = np.argsort(codes, kind="stable")
        self.order = order[weight[order] > 0]
        self.codes = codes[self.order]
        self.weight = weight[self.order]
        self.mass = np.bincount(self.codes, self.weight, m)
        self.sizes = np.bincount(self.codes, minlength=m).astype(float)
        if (self.mass > 0).all():
            self.row_weight = self.weight / self.mass[self.codes]
        self.bounds = np.r_[0, np.cumsum(self.sizes).astype(int)]

    def means(self, values: Array) -> Array:
        """Weighted mean of (n,) in each group: (m,)."""
        return np.add.reduceat(self.row_weight * values, self.bounds[:-1])

    def row_weights(self, q: Array) -> Array:
        """Weight v of each row under group weights q."""
        return self.row_weight * q[self.codes]

    def cross_means(self, X: Array, U: Array) -> Array:
        """Weighted mean of the outer products of X (n, p) and U (n, K) in each group: (m, p, K)."""
        weighted = self.row_weight[:, None] * U
        slices = zip(self.bounds[:-1], self.bounds[1:], strict=True)
        return np.stack([X[a:b].T @ weighted[a:b] for a, b in slices])

    def columns(self, groups: NDArray[np.int64]) -> Array:
        """Columns of V: (n, len(groups))."""
        return np.where(self.codes[:, None] == groups, self.row_weight[:, None], 0.0)

    def effective_sizes(self) -> Array:
        """Number of equally weighted rows of the same precision (Kish): 1 / sum_i V_ig^2."""
        return 1 / np.add.reduceat(self.row_weight**2, self.bounds[:-1])

    def take(self, rows: NDArray[np.int64]) -> HardGroups:
        """Memberships of some rows, given by position in `order`."""
        return HardGroups(self.codes[rows], self.weight[rows], len(self.mass))


class SoftGroups:
    """Rows with memberships in several groups; the interface of `HardGroups`.

    Parameters
    ----------
    membership : ndarray of shape (n, m)
        Not negative.
    weight : ndarray of shape (n,)
        Sample weights; rows of weight zero are left out.
    """

    def __init__(self, membership: Array, weight: Array):
        self.order = np.flatnonzero((weight > 0) & (membership > 0).any(axis=1))
        self.membership = membership[self.order]
        self.weight = weight[self.order]
        V = self.weight[:, None] * self.membership
        self.mass = V.sum(axis=0)
        self.sizes = self.membership.sum(axis=0)
        if (self.mass > 0).all():
            self.V = V / self.mass

    def means(self, values: Array) -> Array:
        """Weighted mean of (n,) in each group: (m,)."""
        return values @ self.V

    def row_weights(self, q: Array) -> Array:
        """Weight v of each row under group weights q."""
        return self.V @ q

    def cross_means(self, X: Array, U: Array) -> Array:
        """Weighted mean of the outer products of X (n, p) and U (n, K) in each group: (m, p, K)."""
        return np.stack([(self.V * u[:, None]).T @ X for u in U.T], axis=2)

    def columns(self, groups: NDArray[np.int64]) -> Array:
        """Columns of V: (n, len(groups))."""
        return self.V[:, groups]

    def effective_sizes(self) -> Array:
        """Number of equally weighted rows of the same precision (Kish): 1 / sum_i V_ig^2."""
        return 1 / (self.V**2).sum(axis=0)

    def take(self, rows: NDArray[np.int64]) -> SoftGroups:
        """Memberships of some rows, given by position in `order`."""
        return SoftGroups(self.membership[rows], self.weight[rows])


Groups = HardGroups | SoftGroups


def encode_groups(groups: ArrayLike, n: int) -> tuple[NDArray, NDArray[np.int64]]:
    """Distinct labels, sorted, and the position of each row's label among them.

    Parameters
    ----------
    groups : array-like of shape (n,)
        Labels of any kind; none may be missing.
    n : int

    Returns
    -------
    labels : ndarray of shape (m,)
    codes : ndarray of int, shape (n,)

    Raises
    ------
    ValueError
        If the length is not n or a label is missing.

    Examples
    --------
    >>> from statml.group_robust.membership import encode_groups
    >>> labels, codes = encode_groups(["b", "a", "b"], 3)
    >>> labels.tolist(), codes.tolist()
    (['a', 'b'], [1, 0, 1])
    """
    given = groups if isinstance(groups, (pd.Series, pd.Index)) else np.asarray(groups)
    if given.ndim == 2 and given.shape[1] == 1:
        given = np.asarray(given)[:, 0]
    if given.ndim != 1 or len(given) != n:
        raise ValueError(
            f"groups must hold one label for each of the {n} rows of X, got shape {given.shape} "
            "(memberships in several groups go into group_weights)"
        )
    values = np.asarray(given)
    missing = pd.isna(values)
    if missing.any():
        raise ValueError(f"groups must not hold missing labels, got {int(missing.sum())}")
    try:
        labels, codes = np.unique(values, return_inverse=True)
    except TypeError:  # labels of several types have no order: that of their appearance
        codes, labels = pd.factorize(values)
    return labels, codes.astype(np.int64)


def check_group_weights(group_weights: ArrayLike, n: int) -> tuple[NDArray, Array]:
    """Labels and matrix of soft or overlapping groups.

    Parameters
    ----------
    group_weights : array-like or DataFrame of shape (n, m)
        Memberships, not negative; a DataFrame's columns name the groups.
    n : int

    Returns
    -------
    labels : ndarray of shape (m,)
    membership : ndarray of shape (n, m)

    Raises
    ------
    ValueError
        If the shape is wrong, or a membership is negative, infinite or NaN.
    """
    if isinstance(group_weights, pd.DataFrame):
        labels = group_weights.columns.to_numpy()
    else:
        labels = None
    membership = np.asarray(group_weights, dtype=float)
    if membership.ndim != 2 or membership.shape[0] != n or membership.shape[1] == 0:
        raise ValueError(
            f"group_weights must have shape ({n}, m), one row for each row of X, got {membership.shape}"
        )
    if not np.isfinite(membership).all() or (membership < 0).any():
        raise ValueError("group_weights must hold finite memberships >= 0")
    return np.arange(membership.shape[1]) if labels is None else labels, membership


def refuse_empty(groups: Groups, labels: NDArray) -> None:
    """Raise a ValueError that names the groups without a row of positive weight."""
    empty = labels[groups.mass <= 0]
    if len(empty):
        shown = ", ".join(repr(label) for label in empty[:5].tolist())
        raise ValueError(
            f"every group needs a row of positive weight, but {len(empty)} of {len(labels)} are empty: {shown}. "
            "Leave them out of groups or group_weights"
        )
