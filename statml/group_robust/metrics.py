r"""How well a model serves its worst group, with intervals that hold for all groups at once.

For groups g with metric :math:`M_g`, the worst group is :math:`\min_g M_g` (the largest value where smaller is better),
whatever the group's size. As the minimum of noisy numbers it is biased: on average it looks worse than the worst
group is. `group_report` therefore gives intervals :math:`[a_g, b_g]` that cover all group values at once with the
stated confidence, and from them :math:`[\min_g a_g, \min_g b_g]` for the worst one, which covers whenever they do.

For the mean of :math:`v_i` over the :math:`n_g` records of a group, with standard error :math:`s_g`, the intervals are
:math:`\bar v_g \pm c\, s_g`, and Wilson's with the same c where v is zero or one (they stay honest where every record is
right). The critical value c is

* "bonferroni": the normal or :math:`t_{n_g-1}` quantile at :math:`1 - a / 2m` for m groups;
* "sidak": at :math:`(1 + (1-a)^{1/m}) / 2`; exact for disjoint groups, whose means are independent;
* "bootstrap": the quantile of :math:`\max_g |\sum_{i \in g} e_i (v_i - \bar v_g)| / (n_g s_g)` with multipliers
  :math:`e_i \sim N(0, 1)`; sharper where groups overlap.

Cost: O(nm), and O(B n m) for B multiplier draws.

References
----------
Wilson, E. B. (1927). Probable inference, the law of succession, and statistical inference. Journal of the American
Statistical Association 22, 209-212.
Chernozhukov, V., Chetverikov, D. and Kato, K. (2013). Gaussian approximations and multiplier bootstrap for maxima of
sums of high-dimensional random vectors. Annals of Statistics 41, 2786-2819.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
)
from sklearn.utils import check_consistent_length
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import _check_sample_weight

from .._validation import (
    RandomState,
    as_generator,
    check_choice,
    check_integer,
    check_labels,
    check_level,
)
from .out_of_fold import log_losses

Array = NDArray[np.float64]

# name: (function, larger is better, what it takes)
METRICS: dict[str, tuple[Callable, bool, str]] = {
    "accuracy": (accuracy_score, True, "predict"),
    "balanced_accuracy": (balanced_accuracy_score, True, "predict"),
    "f1": (f1_score, True, "predict"),
    "r2": (r2_score, True, "predict"),
    "squared_error": (mean_squared_error, False, "predict"),
    "absolute_error": (mean_absolute_error, False, "predict"),
    "log_loss": (log_loss, False, "predict_proba"),
}
RECORD_METRICS = ("accuracy", "squared_error", "absolute_error", "log_loss")


# --- the worst group as one number ------------------------------------------------------------------


def worst_group_score(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | pd.DataFrame,
    metric: str | Callable[..., float] = "accuracy",
    *,
    greater_is_better: bool = True,
    sample_weight: ArrayLike | None = None,
    expected_groups: Iterable[Any] | None = None,
    labels: ArrayLike | None = None,
) -> float:
    """The metric in the group where it is worst, whatever that group's size.

    Parameters
    ----------
    y_true : array-like of shape (n,)
    y_pred : array-like of shape (n,) or (n, n_classes)
        What the metric takes: labels, or probabilities for "log_loss".
    groups : array-like of shape (n,), or DataFrame of shape (n, m)
        A label a record; or one column of 0 and 1 a group, for groups that overlap.
    metric : str or callable, default="accuracy"
        "accuracy", "balanced_accuracy", "f1", "r2", "squared_error", "absolute_error", "log_loss", or a function
        (y_true, y_pred) -> number, which also takes sample_weight if that is given.
    greater_is_better : bool, default=True
        For a function: whether the worst value is the lowest. Named metrics know it themselves.
    sample_weight : array-like of shape (n,) or None, default=None
    expected_groups : iterable or None, default=None
        The groups there have to be. One that is missing, and one that is not among them, is refused by name.
    labels : array-like of shape (n_classes,) or None, default=None
        For "log_loss": the classes in the order of the columns, needed where a group does not have them all.

    Returns
    -------
    float
        In the metric's own units: the lowest accuracy, the highest loss.

    Raises
    ------
    ValueError
        If lengths differ, a label is missing, a group is empty, unseen or missing, or the metric is undefined
        in a group (it is named).

    Examples
    --------
    >>> from statml.group_robust.metrics import worst_group_score
    >>> worst_group_score([1, 1, 0, 0], [1, 0, 0, 0], groups=["a", "b", "a", "b"])
    0.5
    """
    function, greater, _ = _metric(metric, greater_is_better)
    y_true, y_pred = _answers(y_true, y_pred)
    names, member = group_membership(groups, len(y_true), expected_groups)
    if sample_weight is not None:
        sample_weight = _check_sample_weight(
            sample_weight, y_true, dtype=np.float64, ensure_non_negative=True
        )
    if labels is None and metric == "log_loss":
        labels = np.unique(y_true)
    values = []
    for name, rows in zip(names, member.T, strict=True):
        extra = {} if sample_weight is None else {"sample_weight": sample_weight[rows]}
        if metric == "log_loss":
            extra["labels"] = labels
        value = float(function(y_true[rows], y_pred[rows], **extra))
        if np.isnan(value):
            raise ValueError(
                f"metric is undefined in group {name!r} ({int(rows.sum())} records): it is nan"
            )
        values.append(value)
    return min(values) if greater else max(values)


class WorstGroupScorer:
    """A scorer whose score is that of the worst group; made by `make_worst_group_scorer`.

    It requests ``groups`` through scikit-learn's metadata routing, so that a search that is given ``groups`` hands
    each fold's part on to it.
    """

    def __init__(self, metric, greater_is_better, response_method, expected_groups):
        self.metric = metric
        self.greater_is_better = greater_is_better
        self.response_method = response_method
        self.expected_groups = expected_groups
        self._requests = {"groups": True, "sample_weight": None}

    def __call__(self, estimator, X, y, *, groups=None, sample_weight=None) -> float:
        """The score of a fitted estimator, larger being better: losses come with a minus sign."""
        if groups is None:
            raise ValueError(
                "the worst-group scorer needs groups and got none. In a search or cross-validation they reach it "
                "through metadata routing only: call sklearn.set_config(enable_metadata_routing=True) and pass "
                "groups to fit (or in params)"
            )
        score = worst_group_score(
            y,
            getattr(estimator, self.response_method)(X),
            groups,
            self.metric,
            greater_is_better=self.greater_is_better,
            sample_weight=sample_weight,
            expected_groups=self.expected_groups,
            labels=estimator.classes_ if self.metric == "log_loss" else None,
        )
        return score if _metric(self.metric, self.greater_is_better)[1] else -score

    def set_score_request(self, **requests: bool | str | None) -> WorstGroupScorer:
        """Say under which names ``groups`` and ``sample_weight`` come.

        Parameters
        ----------
        groups, sample_weight : bool, str or None
            True: under that name; a string: under another (``groups="sex"``), so that a splitter which
            takes ``groups`` may get different ones; False or None as in scikit-learn.

        Returns
        -------
        self
        """
        unknown = set(requests) - set(self._requests)
        if unknown:
            raise TypeError(f"set_score_request takes groups and sample_weight, got {unknown}")
        self._requests = self._requests | requests
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """What scikit-learn's routing asks every consumer for."""
        request = MetadataRequest(owner=self)
        for param, alias in self._requests.items():
            request.score.add_request(param=param, alias=alias)
        return request

    def __repr__(self) -> str:
        return f"make_worst_group_scorer({self.metric!r})"


def make_worst_group_scorer(
    metric: str | Callable[..., float] = "accuracy",
    *,
    greater_is_better: bool = True,
    response_method: str = "predict",
    expected_groups: Iterable[Any] | None = None,
) -> WorstGroupScorer:
    """A scorer for model selection by the worst group.

    Choosing by it needs group labels for the records that are scored; `AGROClassifier` chooses without them.

    Parameters
    ----------
    metric, greater_is_better, expected_groups
        As in `worst_group_score`.
    response_method : {"predict", "predict_proba", "decision_function"}, default="predict"
        What a function `metric` takes. Named metrics know it themselves.

    Returns
    -------
    WorstGroupScorer
        ``scorer(estimator, X, y, groups=...)``, larger being better.

    Examples
    --------
    >>> from sklearn import config_context
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from statml.datasets import make_spurious_gaussians
    >>> from statml.group_robust.metrics import make_worst_group_scorer
    >>> data = make_spurious_gaussians(n=500, random_state=0)
    >>> with config_context(enable_metadata_routing=True):
    ...     search = GridSearchCV(
    ...         LogisticRegression(), {"C": [0.001, 1.0]}, scoring=make_worst_group_scorer()
    ...     ).fit(data.X, data.y, groups=data.groups)
    >>> bool(0 <= search.best_score_ <= 1)
    True
    """
    check_choice(
        "response_method", response_method, ("predict", "predict_proba", "decision_function")
    )
    _, _, named = _metric(metric, greater_is_better)
    return WorstGroupScorer(metric, greater_is_better, named or response_method, expected_groups)


# --- all groups, with their uncertainty -------------------------------------------------------------


@dataclass(frozen=True)
class GroupReport:
    """A metric in every group, with simultaneous intervals; prints itself.

    Attributes
    ----------
    table : DataFrame, one row a group, the worst first
        Columns ``group``, ``n``, ``share`` (of all records), ``estimate``, ``std_error``, ``conf_low``, ``conf_high``.
        A group of one record has no standard error, and an interval only for the accuracy.
    metric : str
    overall : float
        The metric over all records, which the table takes apart.
    worst_group : object
        Label of the group with the worst estimate.
    worst, worst_low, worst_high : float
        Its estimate, and an interval for the value of the worst group, whichever it is.
    level : float
    method : str
    """

    table: pd.DataFrame
    metric: str
    overall: float
    worst_group: Any
    worst: float
    worst_low: float
    worst_high: float
    level: float
    method: str

    def __str__(self) -> str:
        return (
            f"{self.metric} by group ({100 * self.level:g}% simultaneous intervals, {self.method})\n"
            f"{self.table.to_string(index=False, float_format='{:.3f}'.format)}\n"
            f"overall {self.overall:.3f}; worst group {self.worst_group}: {self.worst:.3f} "
            f"({100 * self.level:g}% interval for the worst of all groups {self.worst_low:.3f} to {self.worst_high:.3f})"
        )

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False, float_format="{:.3f}".format)


def group_report(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    groups: ArrayLike | pd.DataFrame,
    metric: str | Callable[[NDArray, NDArray], ArrayLike] = "accuracy",
    *,
    greater_is_better: bool = False,
    level: float = 0.95,
    method: str = "bonferroni",
    n_boot: int = 2000,
    expected_groups: Iterable[Any] | None = None,
    labels: ArrayLike | None = None,
    random_state: RandomState = None,
) -> GroupReport:
    """The metric in every group, with intervals that hold for all of them at once.

    Parameters
    ----------
    y_true : array-like of shape (n,)
    y_pred : array-like of shape (n,) or (n, n_classes)
        Labels or numbers; probabilities for "log_loss".
    groups : array-like of shape (n,), or DataFrame of shape (n, m)
        A label a record; or one column of 0 and 1 a group, for groups that overlap.
    metric : {"accuracy", "squared_error", "absolute_error", "log_loss"} or callable, default="accuracy"
        A mean over records. A function (y_true, y_pred) -> array of shape (n,) gives one value a record.
    greater_is_better : bool, default=False
        For a function; named metrics know it themselves.
    level : float, default=0.95
        Probability that all intervals cover.
    method : {"bonferroni", "sidak", "bootstrap"}, default="bonferroni"
        See the top of this module.
    n_boot : int, default=2000
        Multiplier draws.
    expected_groups : iterable or None, default=None
        As in `worst_group_score`.
    labels : array-like of shape (n_classes,) or None, default=None
        For "log_loss": the classes in the order of the columns; None: those of `y_true`, sorted.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        For the bootstrap.

    Returns
    -------
    GroupReport

    Raises
    ------
    ValueError
        As `worst_group_score`, and if a value is not finite.

    Notes
    -----
    The records are taken as independent, and the model as given: train it on others. Intervals for losses rest on the
    normal limit: for squared errors of forty records, which are very skewed, those of level 95 % hold for four groups
    at once in about 85 % of samples.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.group_robust.metrics import group_report
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 1000)
    >>> sex = rng.choice(["f", "m"], 1000)
    >>> right = rng.random(1000) < np.where(sex == "f", 0.7, 0.9)
    >>> print(group_report(y, np.where(right, y, 1 - y), sex))
    accuracy by group (95% simultaneous intervals, bonferroni)
    group   n  share  estimate  std_error  conf_low  conf_high
        f 494  0.494     0.715      0.020     0.667      0.758
        m 506  0.506     0.889      0.014     0.854      0.917
    overall 0.803; worst group f: 0.715 (95% interval for the worst of all groups 0.667 to 0.758)
    """
    level = check_level(level)
    check_choice("method", method, ("bonferroni", "sidak", "bootstrap"))
    n_boot = check_integer("n_boot", n_boot, low=1)
    y_true, y_pred = _answers(y_true, y_pred)
    names, member = group_membership(groups, len(y_true), expected_groups)
    value, greater = _record_values(y_true, y_pred, metric, greater_is_better, labels)

    n = member.sum(axis=0)
    mean = member.T @ value / n
    deviation = np.where(member, value[:, None] - mean, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        std_error = np.sqrt((deviation**2).sum(axis=0) / (n - 1) / n)
    binary = bool(np.isin(value, (0, 1)).all())
    if method == "bootstrap":
        critical = _bootstrap_critical(deviation, n, std_error, level, n_boot, random_state)
    else:
        m = len(names)
        tail = (1 - level) / m if method == "bonferroni" else 1 - level ** (1 / m)
        # a proportion has no unknown variance under its own hypothesis, so Wilson takes the normal quantile
        critical = norm.isf(tail / 2) if binary else _t_quantile(tail / 2, n - 1)
    if binary:
        std_error = np.sqrt(mean * (1 - mean) / n)
        low, high = wilson_interval(mean, n, critical)
    else:
        low, high = mean - critical * std_error, mean + critical * std_error

    table = pd.DataFrame(
        {
            "group": names,
            "n": n,
            "share": n / len(y_true),
            "estimate": mean,
            "std_error": std_error,
            "conf_low": low,
            "conf_high": high,
        }
    ).sort_values("estimate", ascending=greater, kind="stable", ignore_index=True)
    extreme = np.min if greater else np.max  # NaN, where one is, says that nothing is known
    return GroupReport(
        table=table,
        metric=metric if isinstance(metric, str) else getattr(metric, "__name__", "metric"),
        overall=float(value.mean()),
        worst_group=table["group"].iloc[0],
        worst=float(table["estimate"].iloc[0]),
        worst_low=float(extreme(low)),
        worst_high=float(extreme(high)),
        level=level,
        method=method,
    )


def wilson_interval(mean: Array, n: NDArray, critical: float) -> tuple[Array, Array]:
    """Wilson's interval for a proportion, |mean - p| <= critical * sqrt(p (1 - p) / n)."""
    c2 = critical**2 / n
    centre = (mean + c2 / 2) / (1 + c2)
    half = np.sqrt(c2 * mean * (1 - mean) + c2**2 / 4) / (1 + c2)
    # where all or none are right one end is exact, and rounding must not move it
    low = np.where(mean == 0, 0.0, centre - half)
    return low, np.where(mean == 1, 1.0, centre + half)


def group_membership(
    groups: ArrayLike | pd.DataFrame, n: int, expected_groups: Iterable[Any] | None = None
) -> tuple[list[Any], NDArray[np.bool_]]:
    """Names of the groups, and which record belongs to which.

    Parameters
    ----------
    groups : array-like of shape (n,), or DataFrame or array of shape (n, m)
        Labels, or 0 and 1.
    n : int
        Number of records there have to be.
    expected_groups : iterable or None, default=None

    Returns
    -------
    names : list of length m
    member : ndarray of bool, shape (n, m)

    Raises
    ------
    ValueError
        If lengths differ, labels are missing, or a group is empty, unseen or missing.

    Examples
    --------
    >>> group_membership(["b", "a", "b"], 3)
    (['a', 'b'], array([[False,  True],
           [ True, False],
           [False,  True]]))
    """
    array = np.asarray(groups)
    if array.ndim not in (1, 2) or len(array) != n:
        raise ValueError(
            f"groups must hold one label for each of the {n} records, or a column of 0 and 1 a group; "
            f"got shape {array.shape}"
        )
    if pd.isna(array).any():
        raise ValueError(
            f"groups must not hold missing values, got {int(pd.isna(array).sum())}; "
            "drop those records or make them a group of their own"
        )
    if array.ndim == 1:
        codes, names = pd.factorize(array, sort=True)
        names = names.tolist()
        member = codes[:, None] == np.arange(len(names))
    else:
        if not np.isin(array, (0, 1)).all():
            raise ValueError("groups of shape (n, m) must hold only 0 and 1 (or False and True)")
        member = array.astype(bool)
        names = list(groups.columns) if hasattr(groups, "columns") else list(range(array.shape[1]))
        empty = [name for name, size in zip(names, member.sum(axis=0), strict=True) if size == 0]
        if empty:
            raise ValueError(f"groups must not be empty, but no record is in {_listed(empty)}")
    if not names:
        raise ValueError("groups must hold at least one record, got none")
    if expected_groups is not None:
        expected = list(expected_groups)
        unseen = [name for name in names if name not in expected]
        missing = [name for name in expected if name not in names]
        if unseen:
            raise ValueError(
                f"groups holds {_listed(unseen)}, which is not among the expected groups {_listed(expected)}"
            )
        if missing:
            raise ValueError(
                f"groups holds no record of {_listed(missing)}, so that the worst group is unknown; "
                "use larger or stratified folds"
            )
    return names, member


def _listed(names: list) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _answers(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[NDArray, NDArray]:
    """What is true, one a record, and what a model says, one or several a record; nothing is missing."""
    y_true, y_pred = check_labels("y_true", y_true), np.asarray(y_pred)
    if y_pred.ndim == 1:
        y_pred = check_labels("y_pred", y_pred)
    elif y_pred.ndim != 2 or pd.isna(y_pred).any():
        raise ValueError(
            f"y_pred must hold one entry or one row of numbers a record, none of them missing, got shape {y_pred.shape}"
        )
    check_consistent_length(y_true, y_pred)
    return y_true, y_pred


def _metric(metric, greater_is_better: bool) -> tuple[Callable, bool, str | None]:
    if callable(metric):
        return metric, greater_is_better, None
    check_choice("metric", metric, tuple(METRICS))
    return METRICS[metric]


def _record_values(y_true, y_pred, metric, greater_is_better, labels) -> tuple[Array, bool]:
    """One value a record, and whether larger is better."""
    if callable(metric):
        value = np.asarray(metric(y_true, y_pred), dtype=float)
        if value.shape != y_true.shape:
            raise ValueError(
                f"metric must return one value a record, shape {y_true.shape}, got {value.shape}"
            )
    else:
        check_choice("metric", metric, RECORD_METRICS)
        greater_is_better = METRICS[metric][1]
        if metric != "log_loss" and y_pred.ndim != 1:
            raise ValueError(
                f"y_pred must hold one label or number a record, got shape {y_pred.shape}"
            )
        if metric == "accuracy":
            value = (y_true == y_pred).astype(float)
        elif metric == "log_loss":
            value = _log_losses(y_true, y_pred, labels)
        else:
            error = y_true.astype(float) - y_pred.astype(float)
            value = error**2 if metric == "squared_error" else np.abs(error)
    if not np.isfinite(value).all():
        raise ValueError(
            f"metric must be finite for every record, got {int((~np.isfinite(value)).sum())} values that are not"
        )
    return value, greater_is_better


def _log_losses(y_true, y_pred, labels) -> Array:
    labels = np.unique(y_true) if labels is None else np.asarray(labels)
    if y_pred.ndim == 1 and len(labels) == 2:
        y_pred = np.column_stack([1 - y_pred, y_pred])
    if y_pred.shape != (len(y_true), len(labels)):
        raise ValueError(
            f"y_pred must hold probabilities of {len(labels)} classes, shape {(len(y_true), len(labels))}, "
            f"got {y_pred.shape}"
        )
    unknown = ~np.isin(y_true, labels)
    if unknown.any():
        raise ValueError(f"y_true holds {y_true[unknown].tolist()[0]!r}, which is not in labels")
    return log_losses(y_pred.astype(float), np.argmax(y_true[:, None] == labels, axis=1))


def _t_quantile(tail: float, df: NDArray) -> Array:
    return np.where(df > 0, t.isf(tail, np.maximum(df, 1)), np.nan)


def _bootstrap_critical(deviation, n, std_error, level, n_boot, random_state) -> float:
    rng = as_generator(random_state)
    usable = std_error > 0  # the others have one record, or no variation to draw from
    if not usable.any():
        return float(norm.isf((1 - level) / 2 / len(n)))
    scaled = deviation[:, usable] / (n * std_error)[usable]
    block = max(1, 10_000_000 // len(deviation))
    largest = [
        np.abs(rng.standard_normal((min(block, n_boot - start), len(deviation))) @ scaled).max(1)
        for start in range(0, n_boot, block)
    ]
    return float(np.quantile(np.concatenate(largest), level))
