r"""The homotopy from the mean loss to the worst group, and along the ridge strength.

CVaR over groups at level alpha is the mean loss at alpha = 1 and group DRO once alpha is at most the smallest share
of a group; between them it shows what the worst groups' gain costs the others. Each fit starts from the one before.

Cost: a fit to the first pair, and two or three Newton steps for each further one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .._validation import check_number
from .offsets import group_offsets
from .solver import Problem, solve_any_shape

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GroupPath:
    """Fits along `alpha` and `l2`.

    Attributes
    ----------
    alphas, l2s : ndarray of shape (k,)
        Of each fit; NaN stands for alpha=None.
    coefs : ndarray of shape (k, n_outputs, n_features)
    intercepts : ndarray of shape (k, n_outputs)
    table : DataFrame
        A row for each fit and group: alpha, l2, group, loss, weight, objective, duality_gap.
    """

    alphas: Array
    l2s: Array
    coefs: Array
    intercepts: Array
    table: pd.DataFrame


def group_path(model, alphas: ArrayLike | None, l2s: ArrayLike | None) -> GroupPath:
    """Refit a fitted model along a grid; see `GroupDROClassifier.path`."""
    problem = model._problem
    share = problem.groups.mass / problem.groups.mass.sum()
    if alphas is None:
        alphas = [model.alpha] if l2s is not None else np.geomspace(1.0, share.min(), 20)
    l2s = [model.l2] if l2s is None else l2s
    fits, rows = [], []
    start: dict[str, Array] = {}
    for l2 in np.atleast_1d(l2s):
        l2 = check_number("l2s", l2, 0)
        at = Problem(problem.X, problem.y, problem.loss, problem.groups, l2, problem.intercept)
        offsets, _ = group_offsets(at, model.offset, model.adjustment)
        for alpha in alphas:
            if alpha is None:
                caps = np.ones(len(share))
            else:
                alpha = check_number("alphas", alpha, 0, 1, low_open=True)
                caps = np.minimum(share / alpha, 1.0)
            fit = solve_any_shape(at, offsets, caps, model.tol, model.max_iter, **start)
            # A weight of exactly zero may be wanted again, at little cost if it is not.
            start = {"w": fit.w, "q": 0.99 * fit.q + 0.01 * share}
            coef, intercept = model._split(fit.w)
            alpha = np.nan if alpha is None else alpha
            fits.append((alpha, l2, coef, intercept))
            rows.append(
                pd.DataFrame(
                    {
                        "alpha": alpha,
                        "l2": l2,
                        "group": model.groups_,
                        "loss": fit.point.group_losses,
                        "weight": fit.q,
                        "objective": fit.primal,
                        "duality_gap": fit.gap,
                    }
                )
            )
    return GroupPath(
        *(np.array(column) for column in zip(*fits, strict=True)),
        table=pd.concat(rows, ignore_index=True),
    )
