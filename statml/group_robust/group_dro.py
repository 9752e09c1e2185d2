r"""Group DRO: the linear model whose worst group does best.

.. math::  \min_{w} \; \max_{q \in Q} \; \sum_g q_g \big( L_g(w) + a_g \big) + \tfrac{l_2}{2} \|w\|^2,
           \qquad L_g(w) = \frac{1}{n_g} \sum_{i \in g} \ell(x_i'w;\, y_i)

Q is the simplex (`alpha` None: the worst group), or its part with :math:`q_g \le p_g / \alpha` (CVaR over groups;
alpha = 1 is the ordinary mean loss); a are offsets (`offsets`). The intercept is not penalised. The problem is convex,
and its solution comes with a bound on its distance from the optimum (`solver`) and with confidence
intervals (`inference`).

Cost: O(n p^2 + m^3) a Newton step, five to ten of them; see `solver`.

Reference: Sagawa, S., Koh, P. W., Hashimoto, T. B. and Liang, P. (2020). Distributionally robust neural networks for
group shifts: on the importance of regularization for worst-case generalization. ICLR.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from .._validation import check_choice, check_finite, check_magnitude
from ._estimator import GroupDRO, check_weights, losses_by_group, warn_of_leak
from ._linear_classifier import LinearClassifier, validated_classes
from .losses import REGRESSION_LOSSES, LogLoss, Loss, MultinomialLogLoss, Poisson
from .membership import encode_groups
from .separation import refuse_separated
from .solver import Problem, Solution

Array = NDArray[np.float64]


class GroupDROClassifier(LinearClassifier, GroupDRO):
    """Logistic or multinomial regression with the least loss in the worst group.

    Parameters
    ----------
    loss : "log_loss", default="log_loss"
        Binary, or multinomial for more than two classes.
    l2 : float, default=1e-3
        Ridge: (l2 / 2) times the squared norm of the coefficients is added to the group mean loss.
    fit_intercept : bool, default=True
        The intercept is not penalised.
    alpha : float in (0, 1] or None, default=None
        CVaR over groups: the mean loss of the worst groups that make up a share alpha of the data. 1 is ordinary
        logistic regression; None, or a share below the smallest group's, is group DRO.
    offset : None, "null", "excess" or array-like of shape (n_groups,), default=None
        Added to the group losses before they are compared. "null": minus the group's loss without predictors
        (maximin effects). "excess": minus the group's own best penalised loss (minimax regret), for groups that differ in
        difficulty.
    adjustment : float, default=0.0
        C of the group adjustment C / sqrt(n_g), n_g the effective number of rows.
    solver : {"newton", "eg"}, default="newton"
        "newton" is exact. "eg" is the paper's online exponentiated gradient: the averaged iterate after `max_iter`
        passes over the data.
    tol : float, default=1e-8
        Duality gap, relative to max(1, abs(objective)), at which "newton" stops.
    max_iter : int, default=100
    random_state : int, Generator or None, default=None
        Batches of solver "eg", and subsamples of ``inference="subsample"``.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
    intercept_ : ndarray of shape (1,) or (n_classes,)
    classes_ : ndarray of shape (n_classes,)
    groups_ : ndarray of shape (n_groups,)
        Labels, sorted.
    group_sizes_ : ndarray of shape (n_groups,)
        Numbers of rows; sums of memberships for soft groups.
    group_losses_ : ndarray of shape (n_groups,)
        Mean loss of each group in training.
    group_weights_ : ndarray of shape (n_groups,)
        q*, the weights under which the fit is a weighted regression.
    group_offsets_ : ndarray of shape (n_groups,)
    worst_group_loss_ : float
    active_groups_ : ndarray
        Groups of positive weight.
    objective_, dual_objective_, duality_gap_ : float
        The optimum lies between the first two.
    n_iter_ : int
    history_ : DataFrame
        Objective, dual objective and gap of every iteration.

    See Also
    --------
    GroupDRORegressor : The same for numbers.
    statml.group_robust.group_report : Metrics by group with simultaneous intervals, for held-out data.

    Notes
    -----
    A flexible model drives the training loss of every group to zero, and group DRO is then ordinary training:
    what makes the difference is `l2` (Sagawa et al., section 3).

    Training data are kept for `path` and the intervals.

    References
    ----------
    Sagawa, S., Koh, P. W., Hashimoto, T. B. and Liang, P. (2020). Distributionally robust neural networks for
    group shifts. ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.preprocessing import scale
    >>> from statml.group_robust import GroupDROClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> rough = X[:, 1] > 18.84
    >>> model = GroupDROClassifier(l2=0.01).fit(scale(X), y, groups=2 * y + rough)
    >>> model.group_losses_.round(4).tolist()
    [0.0923, 0.0923, 0.0923, 0.0923]
    >>> model.group_weights_.round(2).tolist()
    [0.36, 0.2, 0.24, 0.21]
    >>> bool(0 <= model.duality_gap_ < 1e-8)
    True
    """

    def __init__(
        self,
        loss: str = "log_loss",
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
        super().__init__(
            loss, l2, fit_intercept, alpha, offset, adjustment, solver, tol, max_iter, random_state
        )

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        group_weights: ArrayLike | None = None,
    ) -> Self:
        """Fit.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,)
            Labels of any kind.
        groups : array-like of shape (n,) or None, default=None
            Labels of any kind; None means that every class is a group.
        sample_weight : array-like of shape (n,) or None, default=None
            Within the groups: a group does not gain by heavier rows.
        group_weights : array-like of shape (n, n_groups) or None, default=None
            Soft or overlapping memberships, in place of `groups`; a DataFrame's columns name the groups.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a group is empty, a label or number is missing, y has one class, or ``l2=0`` and the classes are
            separated, so that there is no minimiser.

        Warns
        -----
        UserWarning
            If there is one group only, or if groups that determine the class can be read off a column of X.
        ConvergenceWarning
            If the duality gap stays above `tol`.
        """
        check_choice("loss", self.loss, ("log_loss",))
        X, self.classes_, codes = validated_classes(self, X, y)
        n_classes = len(self.classes_)
        weight = check_weights(sample_weight, X)
        absent = self.classes_[np.bincount(codes, weight > 0, n_classes) == 0]
        if len(absent):
            raise ValueError(f"sample_weight leaves no row of class {absent.tolist()[0]!r}")
        loss: Loss = LogLoss() if n_classes == 2 else MultinomialLogLoss(n_classes)
        if groups is not None:
            warn_of_leak(X, codes, encode_groups(groups, len(X))[1], self)
        self._fit(
            X,
            codes.astype(float),
            loss,
            weight,
            groups,
            group_weights,
            (self.classes_, codes),
        )
        self.coef_, self.intercept_ = self._split(self._solution.w)
        return self

    def _refuse(self, problem: Problem, solution: Solution) -> None:
        if problem.l2 == 0:
            refuse_separated(problem, solution)

    def group_losses(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> pd.DataFrame:
        """Mean loss of each group on other data.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,)
        groups : array-like of shape (n,)
            Labels from ``groups_``.
        sample_weight : array-like of shape (n,) or None, default=None

        Returns
        -------
        DataFrame
            Columns group, n, loss, std_error, in the order of ``groups_``; NaN for groups without a row.

        Raises
        ------
        ValueError
            If a class or group was not seen in ``fit``.
        """
        check_is_fitted(self)
        X, y = validate_data(self, X, y, dtype=np.float64, reset=False)
        check_magnitude("X", X)
        unseen = np.setdiff1d(y, self.classes_)
        if len(unseen):
            raise ValueError(f"y holds classes that fit did not see: {unseen[:5].tolist()}")
        codes = np.searchsorted(self.classes_, y).astype(float)
        return losses_by_group(self, X, codes, self.coef_, groups, sample_weight)

    def _term_names(self, features: list[str]) -> list[str]:
        """Rows of w by column, flattened as the solver does."""
        if len(self.classes_) == 2:
            return features
        return [f"{feature}[{label}]" for feature in features for label in self.classes_]

    def _summary_title(self) -> str:
        return "Group DRO, log loss"


class GroupDRORegressor(RegressorMixin, GroupDRO):
    """Linear, robust or Poisson regression with the least loss in the worst group.

    Parameters
    ----------
    loss : {"squared_error", "huber", "poisson"} or Loss, default="squared_error"
        (y - z)^2; the same, linear beyond 1.35; or half the Poisson deviance with a log link. An object such as
        ``losses.Huber(epsilon=2.0)`` is taken as it is.
    l2, fit_intercept, alpha, offset, adjustment, solver, tol, max_iter, random_state
        As in `GroupDROClassifier`.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
    intercept_ : float
    groups_, group_sizes_, group_losses_, group_weights_, group_offsets_, worst_group_loss_, active_groups_, \
objective_, dual_objective_, duality_gap_, n_iter_, history_
        As in `GroupDROClassifier`.

    Notes
    -----
    One group and squared error is ridge regression with ``alpha = n l2 / 2`` in scikit-learn's terms.

    References
    ----------
    Sagawa, S., Koh, P. W., Hashimoto, T. B. and Liang, P. (2020). Distributionally robust neural networks for
    group shifts. ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from statml.group_robust import GroupDRORegressor
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> X, men = X * 442**0.5, X["sex"] > 0
    >>> model = GroupDRORegressor(l2=0).fit(X.drop(columns="sex"), y / 100, groups=men)
    >>> model.tidy().set_index("term").loc["worst-group loss", ["estimate", "std_error"]].round(4).tolist()
    [0.3012, 0.0207]
    """

    def __init__(
        self,
        loss: str | Loss = "squared_error",
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
        super().__init__(
            loss, l2, fit_intercept, alpha, offset, adjustment, solver, tol, max_iter, random_state
        )

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        group_weights: ArrayLike | None = None,
    ) -> Self:
        """Fit.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,)
            Numbers; not negative for the Poisson loss.
        groups, sample_weight, group_weights
            As in `GroupDROClassifier.fit`, except that without groups all rows are one group.

        Returns
        -------
        self
        """
        X, y = _validated_numbers(self, X, y)
        loss = self.loss
        if isinstance(loss, str):
            loss = REGRESSION_LOSSES[check_choice("loss", loss, tuple(REGRESSION_LOSSES))]()
        elif not isinstance(loss, tuple(REGRESSION_LOSSES.values())):
            listed = ", ".join(f'"{name}"' for name in REGRESSION_LOSSES)
            raise TypeError(
                f"loss must be one of {listed} or an object of their classes, got {loss!r}"
            )
        if isinstance(loss, Poisson) and (y < 0).any():
            raise ValueError(f"y must not be negative for the Poisson loss, got {y.min():g}")
        everyone = np.array(["all"]), np.zeros(len(X), dtype=np.int64)
        weight = check_weights(sample_weight, X)
        self._fit(X, y, loss, weight, groups, group_weights, everyone)
        coef, intercept = self._split(self._solution.w)
        self.coef_, self.intercept_ = coef[0], float(intercept[0])
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Predicted values; means for the Poisson loss.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n,)
        """
        check_is_fitted(self)
        X = check_magnitude("X", validate_data(self, X, dtype=np.float64, reset=False))
        return self._problem.loss.predict((X @ self.coef_ + self.intercept_)[:, None])

    def group_losses(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> pd.DataFrame:
        """Mean loss of each group on other data, as in `GroupDROClassifier.group_losses`."""
        check_is_fitted(self)
        X, y = _validated_numbers(self, X, y, reset=False)
        return losses_by_group(self, X, y, self.coef_[None], groups, sample_weight)

    def _term_names(self, features: list[str]) -> list[str]:
        return features

    def _summary_title(self) -> str:
        return f"Group DRO, {type(self._problem.loss).__name__} loss"


def _validated_numbers(model: GroupDRO, X: ArrayLike, y: ArrayLike, **how) -> tuple[Array, Array]:
    """X and y as finite floats whose products are finite too."""
    X, y = validate_data(model, X, y, dtype=np.float64, y_numeric=True, **how)
    return check_magnitude("X", X), check_magnitude("y", check_finite("y", y.astype(np.float64)))
