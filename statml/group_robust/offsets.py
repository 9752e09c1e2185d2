r"""Offsets: what is added to the loss of a group before groups are compared.

===========  ==============================================================  ===================================
`offset`     :math:`a_g`                                                      the robust optimum is then
===========  ==============================================================  ===================================
None         0                                                                group DRO
"null"       minus the loss of the group's best constant                      maximin effects (largest loss
             (of the zero predictor, without an intercept)                    explained in the worst group)
"excess"     minus the least penalised loss that the group can have alone     minimax regret (excess risk)
array        as given
===========  ==============================================================  ===================================

To each, the group adjustment :math:`C / \sqrt{n_g}` is added, which guards small groups against their larger gap
between training and new data.

References
----------
Sagawa, S., Koh, P. W., Hashimoto, T. B. and Liang, P. (2020). ICLR, section 3.3 (adjustment).
Meinshausen, N. and Bühlmann, P. (2015). Maximin effects in inhomogeneous large-scale data. Annals of Statistics 43, 1801-1830.
Agarwal, A. and Zhang, T. (2022). Minimax regret optimization for robust machine learning under distribution shift. COLT.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._validation import check_choice
from .membership import HardGroups
from .solver import Problem, solve

Array = NDArray[np.float64]


def group_offsets(
    problem: Problem, offset: str | ArrayLike | None, adjustment: float
) -> tuple[Array, Array]:
    """The offsets, and the row losses that they are means of.

    Parameters
    ----------
    problem : Problem
    offset : None, "null", "excess" or array-like of shape (m,)
    adjustment : float

    Returns
    -------
    offsets : ndarray of shape (m,)
    baseline : ndarray of shape (n, m)
        Row losses whose group mean was subtracted (zero where none was): the offsets are estimates, too, and
        intervals need to know of what.
    """
    m, n = len(problem.groups.mass), len(problem.y)
    fixed = np.zeros(m)
    if adjustment:
        fixed = adjustment / np.sqrt(problem.groups.effective_sizes())
    if offset is None:
        return fixed, np.zeros((n, 1))
    if not isinstance(offset, str):
        given = np.asarray(offset, dtype=float)
        if given.shape != (m,) or not np.isfinite(given).all():
            raise ValueError(
                f"offset must hold one finite number for each of the {m} groups, in the order of groups_, "
                f"got shape {given.shape}"
            )
        return fixed + given, np.zeros((n, 1))
    check_choice("offset", offset, ("null", "excess"))
    baseline, offsets = np.zeros((n, m)), fixed
    for g in range(m):
        weight = problem.groups.columns(np.array([g]))[:, 0]
        rows = np.flatnonzero(weight)
        losses, penalty = _BASELINES[offset](problem, rows, weight[rows])
        baseline[rows, g] = losses
        offsets[g] -= weight[rows] @ losses + penalty
    return offsets, baseline


def _null(problem: Problem, rows: NDArray[np.int64], weight: Array) -> tuple[Array, float]:
    y = problem.y[rows]
    if problem.intercept:
        return problem.loss.constant(y, weight), 0.0
    return problem.loss.value(y, np.zeros((len(y), problem.loss.n_outputs))), 0.0


def _alone(problem: Problem, rows: NDArray[np.int64], weight: Array) -> tuple[Array, float]:
    alone = Problem(
        problem.X[rows],
        problem.y[rows],
        problem.loss,
        HardGroups(np.zeros(len(rows), dtype=np.int64), weight, 1),
        problem.l2,
        problem.intercept,
    )
    best = solve(alone, np.zeros(1), np.ones(1), tol=1e-12)
    return best.point.losses, problem.ridge(best.w)


_BASELINES = {"null": _null, "excess": _alone}
