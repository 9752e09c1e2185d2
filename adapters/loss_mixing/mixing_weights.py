r"""The weights lambda of every loss of every record, and how a step changes them.

With M the alignment of a loss's gradient with that of the validation loss, so that d L_V / d lambda_ik = -(eta/B) M_ik, a step is

.. math::

    \text{rms:} \quad \lambda \leftarrow \Pi(\lambda + r\, M / \mathrm{rms}(M)), \qquad
    \text{raw:} \quad \lambda \leftarrow \Pi(\lambda + r\, (\eta/B)\, M),

where Pi projects onto the box or each record's row onto the simplex (Duchi et al. 2008). "rms" does not change when eta, B, the temperature or the
scale of the logits do; "raw" is the step of the authors' code, and needs a rate of its own for each of them.

References
----------
Sivasubramanian, D., Maheshwari, A., Prathosh, A. P., Shenoy, P. and Ramakrishnan, G. (2023). Adaptive mixing of auxiliary
losses in supervised learning. AAAI.
Duchi, J., Shalev-Shwartz, S., Singer, Y. and Chandra, T. (2008). Efficient projections onto the l1-ball for learning in high
dimensions. International Conference on Machine Learning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from statml._validation import check_choice, check_number

Array = NDArray[np.float64]
GROUPS = ("instance", "class", "loss")
UPDATES = ("rms", "raw")


class MixingWeights:
    """A table of weights, one row a group of records and one column a loss.

    Parameters
    ----------
    mask : ndarray of bool of shape (n, K)
        Which record has which loss.
    init : ndarray of shape (n, K)
    groups : ndarray of int of shape (n,) or None
        The row of each record; None gives each its own.
    bounds : (low, high)
    simplex : bool
    """

    def __init__(
        self,
        mask: NDArray[np.bool_],
        init: Array,
        groups: NDArray[np.int64] | None,
        bounds: tuple[float, float],
        simplex: bool,
    ):
        self.mask, self.groups, self.bounds, self.simplex = mask, groups, bounds, simplex
        self.available = self._sums(mask.astype(float)) > 0
        counts = np.maximum(self._sums(mask.astype(float)), 1.0)
        self.table = self._projected(self._sums(np.where(mask, init, 0.0)) / counts)

    @property
    def weights(self) -> Array:
        """The weights of all records, (n, K); 0 outside the mask."""
        rows = self.table if self.groups is None else self.table[self.groups]
        return np.where(self.mask, rows, 0.0)

    def step(self, alignment: Array, rate: float, update: str, eta: float, batch: int) -> None:
        """Move all weights by an alignment of shape (n, K)."""
        M = self._sums(np.where(self.mask, alignment, 0.0))
        if update == "raw":
            move = rate * eta / batch * M
        else:
            size = np.sqrt(np.mean(M[self.available] ** 2)) if self.available.any() else 0.0
            move = rate * M / size if size > 0 else 0.0 * M
        self.table = self._projected(self.table + move)

    def _sums(self, values: Array) -> Array:
        """Sums over the records of each group."""
        if self.groups is None:
            return values
        sums = np.zeros((self.groups.max() + 1, values.shape[1]))
        np.add.at(sums, self.groups, values)
        return sums

    def _projected(self, table: Array) -> Array:
        if self.simplex:
            return project_simplex(table, self.available)
        return np.where(self.available, np.clip(table, *self.bounds), 0.0)


def project_simplex(values: Array, available: NDArray[np.bool_]) -> Array:
    """Nearest point with non-negative entries that sum to 1, in each row over what is available there.

    Parameters
    ----------
    values : ndarray of shape (n, K)
    available : ndarray of bool of shape (n, K)

    Returns
    -------
    ndarray of shape (n, K)
        0 where nothing is available.

    Examples
    --------
    >>> import numpy as np
    >>> project_simplex(np.array([[1.0, 0.5, 9.0]]), np.array([[True, True, False]]))
    array([[0.75, 0.25, 0.  ]])
    """
    ordered = -np.sort(-np.where(available, values, -np.inf), axis=1)
    finite = np.isfinite(ordered)
    excess = np.cumsum(np.where(finite, ordered, 0.0), axis=1) - 1.0
    ranks = np.arange(1, values.shape[1] + 1)
    kept = np.maximum((finite & (ordered * ranks > excess)).sum(axis=1), 1)
    threshold = excess[np.arange(len(values)), kept - 1] / kept
    return np.where(available, np.maximum(values - threshold[:, None], 0.0), 0.0)


def as_groups(lambda_groups: Any, y: NDArray[np.int64], n: int) -> NDArray[np.int64] | None:
    """The row of the table of each record, for `MixingWeights`.

    Parameters
    ----------
    lambda_groups : None, "instance", "class", "loss" or array-like of shape (n,)
    y : ndarray of int of shape (n + m,)
        -1 is a group too.
    n : int
        Number of records that were handed to `fit`; m more are for validation.

    Returns
    -------
    ndarray of int of shape (n + m,), or None
    """
    if lambda_groups is None:
        return None
    if isinstance(lambda_groups, str):
        check_choice("lambda_groups", lambda_groups, GROUPS)
        if lambda_groups == "instance":
            return None
        return np.unique(y if lambda_groups == "class" else 0 * y, return_inverse=True)[1]
    groups = np.asarray(lambda_groups)
    if groups.shape != (n,):
        raise ValueError(
            f"lambda_groups must be {', '.join(map(repr, GROUPS))} or a label for each of the {n} records, got shape {groups.shape}"
        )
    codes = np.unique(groups, return_inverse=True)[1]
    return np.append(codes, np.full(len(y) - n, codes.max() + 1))


def check_bounds(bounds: Any) -> tuple[float, float]:
    """Refuse bounds that are no two numbers 0 <= low < high."""
    try:
        low, high = bounds
    except (TypeError, ValueError) as error:
        raise TypeError(f"lambda_bounds must be two numbers, got {bounds!r}") from error
    low = check_number("lambda_bounds[0]", low, 0)
    return low, check_number("lambda_bounds[1]", high, low, low_open=True)


def check_init(init: ArrayLike, mask: NDArray[np.bool_], n: int) -> Array:
    """Starting weights (n + m, K), those of the n records of X and of m more for validation; 0 outside the mask."""
    start = np.asarray(init, dtype=float)
    K = mask.shape[1]
    if start.shape not in ((), (K,), (n, K)):
        raise ValueError(
            f"lambda_init must be a number, one number for each of the {K} losses, or an array of shape ({n}, {K}), "
            f"got shape {start.shape}"
        )
    if start.ndim == 2:
        start = np.vstack([start, np.ones((len(mask) - n, K))])
    start = np.where(mask, np.broadcast_to(start, mask.shape), 0.0)
    if not (np.isfinite(start).all() and (start >= 0).all()):
        raise ValueError("lambda_init must hold finite numbers of at least 0")
    return start


# --- what the weights say ---------------------------------------------------------------------------


def effective_number(weights: Array, mask: NDArray[np.bool_]) -> Array:
    """(sum lambda)^2 / sum lambda^2 of each loss: as many records of equal weight say as much."""
    weights = np.where(mask, weights, 0.0)
    squares = (weights**2).sum(axis=0)
    return np.where(squares > 0, weights.sum(axis=0) ** 2 / np.where(squares > 0, squares, 1), 0.0)


def shares_at_bounds(
    weights: Array, mask: NDArray[np.bool_], bounds: tuple[float, float]
) -> tuple[Array, Array]:
    """Share of the records of each loss whose weight is at the lower and at the upper bound."""
    n = np.maximum(mask.sum(axis=0), 1)
    slack = 1e-9 * max(1.0, bounds[1])
    low = (mask & (weights <= bounds[0] + slack)).sum(axis=0) / n
    high = (mask & (weights >= bounds[1] - slack)).sum(axis=0) / n
    return low, high
