"""What the group DRO estimators share: fitting, groups on new data, the path."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from threadpoolctl import ThreadpoolController

from .._validation import as_generator, check_choice, check_integer, check_number
from .inference import GroupInferenceMixin
from .membership import HardGroups, SoftGroups, check_group_weights, encode_groups, refuse_empty
from .offsets import group_offsets
from .online import exponentiated_gradient
from .path import GroupPath, group_path
from .solver import Problem, Solution, solve_any_shape

Array = NDArray[np.float64]

SMALL = 500  # parameters up to which more than one BLAS thread costs more than it brings


class GroupDRO(GroupInferenceMixin, BaseEstimator):
    """What classifier and regressor share: fitting, losses of groups, the path."""

    def __init__(
        self,
        loss,
        l2: float = 1e-3,
        fit_intercept: bool = True,
        alpha: float | None = None,
        offset: str | ArrayLike | None = None,
        adjustment: float = 0.0,
        solver: str = "newton",
        tol: float = 1e-8,
        max_iter: int = 100,
        random_state: int | np.random.Generator | None = None,
    ):
        self.loss = loss
        self.l2 = l2
        self.fit_intercept = fit_intercept
        self.alpha = alpha
        self.offset = offset
        self.adjustment = adjustment
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def _fit(self, X, y, loss, weight, groups, group_weights, default) -> Self:
        """Solve; y holds numbers as the loss takes them, `default` the (labels, codes) of groups=None."""
        l2 = check_number("l2", self.l2, 0)
        check_number("adjustment", self.adjustment, 0)
        check_number("tol", self.tol, 0, low_open=True)
        check_integer("max_iter", self.max_iter, low=1)
        check_choice("solver", self.solver, ("newton", "eg"))
        if groups is not None and group_weights is not None:
            raise ValueError("groups and group_weights both say who is in which group; give one")
        if group_weights is not None:
            labels, membership = check_group_weights(group_weights, len(X))
            members = SoftGroups(membership, weight)
        else:
            labels, codes = default if groups is None else encode_groups(groups, len(X))
            members = HardGroups(codes, weight, len(labels))
        refuse_empty(members, labels)
        if groups is not None and len(labels) == 1:
            warnings.warn(
                f"groups holds one label only, {labels.tolist()[0]!r}: the fit is that of the mean loss",
                UserWarning,
                stacklevel=4,
            )
        design = X[members.order]
        if self.fit_intercept:
            design = np.column_stack([design, np.ones(len(design))])
        problem = Problem(
            np.ascontiguousarray(design), y[members.order], loss, members, l2, self.fit_intercept
        )
        with _few_threads(problem):
            offsets, baseline = group_offsets(problem, self.offset, self.adjustment)
            caps = group_caps(members, self.alpha)
            if self.solver == "eg":
                rng = as_generator(self.random_state)
                solution = exponentiated_gradient(problem, offsets, caps, self.max_iter, rng)
            else:
                solution = solve_any_shape(problem, offsets, caps, self.tol, self.max_iter)
            self._refuse(problem, solution)
        self.groups_, self._problem, self._caps = labels, problem, caps
        self._offsets, self._baseline = offsets, baseline
        self._store(solution)
        return self

    def _refuse(self, problem: Problem, solution: Solution) -> None:
        """Raise an error if there is no minimiser, where that can be told."""

    def _store(self, solution: Solution) -> None:
        self._solution = solution
        self.group_sizes_ = self._problem.groups.sizes.copy()
        if isinstance(self._problem.groups, HardGroups):
            self.group_sizes_ = self.group_sizes_.astype(int)
        self.group_losses_ = solution.point.group_losses
        self.group_offsets_ = self._offsets
        self.group_weights_ = solution.q
        self.worst_group_loss_ = float(self.group_losses_.max())
        self.objective_, self.dual_objective_ = solution.primal, solution.dual
        self.duality_gap_, self.n_iter_ = solution.gap, solution.n_iter
        self.active_groups_ = self.groups_[solution.q > 0]
        self.history_ = pd.DataFrame(
            solution.history, columns=["objective", "dual_objective", "duality_gap"]
        )
        self._inference = self._subsampled = None
        if not solution.converged:
            warnings.warn(
                f"the duality gap is {solution.gap:.2g} after {solution.n_iter} iterations, above tol={self.tol:g}; "
                "scale the columns of X (for a Huber loss, y), raise l2, or raise max_iter",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _split(self, w: Array) -> tuple[Array, Array]:
        """Coefficients (K, p) and intercepts (K,) of w."""
        if self.fit_intercept:
            return w[:-1].T.copy(), w[-1].copy()
        return w.T.copy(), np.zeros(w.shape[1])

    def path(self, alphas: ArrayLike | None = None, l2s: ArrayLike | None = None) -> GroupPath:
        """Refit along values of `alpha` and `l2`, each from the solution before it.

        Parameters
        ----------
        alphas : array-like or None, default=None
            Levels of CVaR over groups in (0, 1]. None: the estimator's own `alpha` if `l2s` is given, else 20
            values from 1 (the mean loss) down to the smallest share of a group (group DRO).
        l2s : array-like or None, default=None
            Ridge strengths. None: the estimator's own.

        Returns
        -------
        GroupPath
            One fit for each pair; ``table`` has one row a fit and group.

        Examples
        --------
        >>> import numpy as np
        >>> from statml.group_robust import GroupDRORegressor
        >>> X, groups = np.arange(6.0)[:, None], [0, 0, 0, 0, 1, 1]
        >>> y = np.array([0.0, 1.0, 2.0, 3.0, 2.0, 2.0])
        >>> model = GroupDRORegressor(l2=0).fit(X, y, groups)
        >>> model.path(alphas=[1.0, 0.4]).table[["alpha", "group", "loss", "weight"]].round(3)
           alpha  group   loss  weight
        0    1.0      0  0.504   0.667
        1    1.0      1  0.258   0.333
        2    0.4      0  0.432   0.739
        3    0.4      1  0.432   0.261
        """
        check_is_fitted(self)
        with _few_threads(self._problem):
            return group_path(self, alphas, l2s)


def check_weights(sample_weight: ArrayLike | None, X: Array) -> Array:
    """Sample weights, (n,)."""
    weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    if (weight < 0).any():
        raise ValueError(f"sample_weight must not be negative, got {weight.min():g}")
    return weight


def group_caps(groups: HardGroups | SoftGroups, alpha: float | None) -> Array:
    """Largest weight of each group: 1, or its share of the mass over alpha."""
    if alpha is None:
        return np.ones(len(groups.mass))
    alpha = check_number("alpha", alpha, 0, 1, low_open=True)
    return np.minimum(groups.mass / groups.mass.sum() / alpha, 1.0)


def losses_by_group(model, X, y, coef, groups, sample_weight) -> pd.DataFrame:
    weight = check_weights(sample_weight, X)
    labels, codes = encode_groups(groups, len(X))
    unseen = [label for label in labels.tolist() if label not in set(model.groups_.tolist())]
    if unseen:
        raise ValueError(
            f"groups holds labels that fit did not see: {unseen[:5]}; known are {model.groups_[:5].tolist()}"
            + ("" if len(model.groups_) <= 5 else " and others")
        )
    losses = model._problem.loss.value(y, X @ coef.T + model.intercept_)
    rows = []
    at = {label: k for k, label in enumerate(labels.tolist())}
    for label in model.groups_.tolist():
        own = codes == at.get(label, -1)
        share = weight[own] / weight[own].sum() if weight[own].any() else np.full(own.sum(), np.nan)
        mean = share @ losses[own] if len(share) else np.nan
        error = np.sqrt((share**2) @ (losses[own] - mean) ** 2) if len(share) > 1 else np.nan
        rows.append((label, int(own.sum()), mean, error))
    return pd.DataFrame(rows, columns=["group", "n", "loss", "std_error"])


def warn_of_leak(X: Array, classes: NDArray, groups: NDArray, model: BaseEstimator) -> None:
    """Warn of a column that is constant within groups and tells the class, where groups tell it too."""
    order = np.lexsort((classes, groups))
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) > 0])
    ends = np.r_[starts[1:], len(order)] - 1
    if (classes[order[starts]] != classes[order[ends]]).any() or len(starts) < 2:
        return
    first = X[order[starts]]
    constant = (np.maximum.reduceat(X[order], starts) == first) & (
        np.minimum.reduceat(X[order], starts) == first
    )
    leaks = []
    for j in np.flatnonzero(constant.all(axis=0)):
        values = pd.Series(classes[order[starts]]).groupby(first[:, j]).nunique()
        if len(values) > 1 and (values == 1).any():
            leaks.append(j)
    if leaks:
        names = getattr(model, "feature_names_in_", None)
        shown = ", ".join(str(j if names is None else names[j]) for j in leaks[:5])
        warnings.warn(
            f"groups determine the class, and column(s) {shown} of X determine the group: the class can be read off "
            "them. Leave out of X what the groups were made of",
            UserWarning,
            stacklevel=3,
        )


@lru_cache(maxsize=1)
def _threadpools() -> ThreadpoolController:
    return ThreadpoolController()


def _few_threads(problem: Problem):
    p, K = problem.shape
    return _threadpools().limit(limits=1 if p * K <= SMALL else None, user_api="blas")
