r"""The smallest set of records, as found greedily, whose removal changes a conclusion.

Does a coefficient keep its sign without a few records? The search adds, again and again, the record whose Newton step
lowers :math:`\mathrm{sign}(c^T\hat\theta)\, c^T \theta` most, given those already removed:

.. math::  c^T \Delta_i = \frac{c^T A^{-1} x_i\, v_i s_i}{1 - h_i},

then steps there and updates A (by a rank-one formula for squared loss, anew otherwise). It ends when the sign has
flipped or `max_size` is reached, and an exact refit without the set verifies the result. Greedy search finds *a*
set: a smaller one may exist (Moitra and Rohatgi 2023), so a set that is found proves fragility while a failure to
find one does not prove robustness. The plain influence ranking of AMIP (Broderick et al. 2020) misses sets of records
that mask each other.

Reference: Broderick, T., Giordano, R. and Meager, R. (2020). An automatic finite-sample robustness metric.
arXiv:2011.14999.

Cost: O(n p + p^2) a record for squared loss, O(n p^2 + p^3) otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .._validation import check_integer
from ._removal import RemovalInfluence
from .glm_families import Gaussian
from .glm_oracle import Factor
from .glm_removal import newton_refit


@dataclass(frozen=True, repr=False)
class InfluentialSubset:
    """A set of records and what their removal does.

    Attributes
    ----------
    rows : ndarray of int
        Positions, in the order of removal.
    path : DataFrame
        Columns n_removed, row, value: the functional after each removal, by Newton steps.
    value_full, value_without : float
        The functional with all records, and in the exact refit without the set.
    flipped : bool
        Whether the exact refit has the other sign.
    """

    rows: NDArray[np.int64]
    path: pd.DataFrame
    value_full: float
    value_without: float
    flipped: bool
    n_train: int

    def __repr__(self) -> str:
        share = len(self.rows) / self.n_train
        verdict = "flips" if self.flipped else "does not flip"
        return (
            f"InfluentialSubset: removing {len(self.rows)} of {self.n_train} records ({share:.1%}) {verdict} the sign "
            f"({self.value_full:.4g} -> {self.value_without:.4g})"
        )


def most_influential_subset(
    method: RemovalInfluence,
    coefficient: str | int | ArrayLike,
    max_size: int | None = None,
) -> InfluentialSubset:
    """Search for few records whose removal flips the sign of a coefficient.

    Parameters
    ----------
    method : fitted NewtonStep or LeaveOneOut
        Of a model with one linear predictor.
    coefficient : str, int or array-like of shape (p,)
        A parameter by name or position, or the weights c of a linear combination.
    max_size : int, optional
        Of the set; default a tenth of the records.

    Returns
    -------
    InfluentialSubset

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import LinearRegression
    >>> from statml.influence import NewtonStep, most_influential_subset
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> step = NewtonStep().fit(LinearRegression().fit(X, y), X, y)
    >>> most_influential_subset(step, "age")
    InfluentialSubset: removing 1 of 442 records (0.2%) flips the sign (-10.01 -> 7.672)
    """
    if not isinstance(method, RemovalInfluence) or not hasattr(method, "_factor"):
        raise TypeError(
            f"method must be a NewtonStep or a LeaveOneOut with warm_start=True, fitted, got {type(method).__name__}"
        )
    oracle = method._one_predictor()
    n, p = oracle.n_train, oracle.n_params
    max_size = check_integer(
        "max_size", max(1, n // 10) if max_size is None else max_size, 1, n - 1
    )
    if np.ndim(coefficient) == 1:
        c = np.asarray(coefficient, dtype=float)
        if c.shape != (p,):
            raise ValueError(f"coefficient must have shape ({p},), got {c.shape}")
    else:
        names = oracle.parameter_names
        if isinstance(coefficient, str) and coefficient not in names:
            raise ValueError(f"coefficient must be one of {names[:10]}, got {coefficient!r}")
        position = names.index(coefficient) if isinstance(coefficient, str) else int(coefficient)
        c = np.eye(p)[position]
    penalty = n * oracle.regulariser()
    weight = oracle.sample_weight.copy()
    theta = oracle.theta.copy()
    inverse = method._factor.inverse()
    start = float(c @ theta)
    sign = 1.0 if start >= 0 else -1.0
    rows: list[int] = []
    path = []
    for _ in range(max_size):
        s = oracle.scores(oracle.X, oracle.y, theta)[:, 0] * weight
        w = oracle.curvatures(oracle.X, oracle.y, theta)[:, 0, 0] * weight
        XA = oracle.X @ inverse
        h = w * np.asarray((oracle.X * XA if isinstance(XA, np.ndarray) and not hasattr(oracle.X, "multiply")
                            else oracle.X.multiply(XA)).sum(axis=1)).ravel()  # fmt: skip
        room = 1 - h
        effect = np.where((weight > 0) & (room > 1e-8), (XA @ c) * s / np.maximum(room, 1e-8), 0)
        worst = int(np.argmin(sign * effect))
        if sign * effect[worst] >= 0:
            break  # no single record moves it towards zero
        rows.append(worst)
        theta = theta + XA[worst] * s[worst] / room[worst]
        weight[worst] = 0.0
        if isinstance(oracle.family, Gaussian):
            # (A - w x x^T)^{-1}
            inverse = inverse + np.outer(XA[worst], XA[worst]) * w[worst] / room[worst]
        else:
            theta, _ = newton_refit(oracle, weight, theta, penalty, tol=0.0, max_iter=1)
            inverse = Factor(oracle.information(theta, weight), oracle.gauge(), n).inverse()
        path.append({"n_removed": len(rows), "row": worst, "value": float(c @ theta)})
        if sign * (c @ theta) < 0:
            break
    exact, converged = newton_refit(oracle, weight, theta, penalty, tol=1e-10, max_iter=100)
    value = float(c @ exact) if converged else float("nan")
    return InfluentialSubset(
        np.array(rows, dtype=np.int64), pd.DataFrame(path, columns=["n_removed", "row", "value"]),
        start, value, bool(sign * value < 0), n,
    )  # fmt: skip
