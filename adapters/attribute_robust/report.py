r"""`robustness_report`: what a classifier does over a box of attributes, with intervals.

Every record is changed `n_draws` times at random and judged each time. With :math:`c_{ir}` whether record i is right in draw r:

- clean: share of records that are right as they are;
- mean: average of all :math:`c_{ir}`; records are the independent units, so that its Wilson interval counts
  :math:`n_{eff} = \hat p (1 - \hat p) / \widehat{var}(\hat p)` records, the variance being that of the records' own means;
- worst of k: share of records that are right in all of their first k draws, which falls with k: an upper bound of the accuracy under the worst attributes.

Severity s of S puts an attribute at s/S of the way from its clean value to the ends of its box, the others at their clean values, and averages over
the ends. Sensitivity is the root mean square of the derivative of the log-loss in an attribute, in half-widths of its box, at random places
(central differences, so that any classifier has one).

Two models are compared on the same records, draws and noise by McNemar's exact test; for all draws together by the paired differences of the
records' means. The ratio in the manner of mCE (Hendrycks and Dietterich 2019) is the error summed over severities over a baseline's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from sklearn.utils.validation import check_array
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from statml._validation import (
    RandomState,
    as_seed_sequence,
    check_integer,
    check_labels,
    check_level,
    check_number,
)
from statml.parallel import check_progress, progress_bar

from .attribute import Attribute, Chain

if TYPE_CHECKING:
    from .displays import AttributeGridDisplay, AttributeImagesDisplay, SeverityDisplay

DIFFERENCE = 0.05  # of the central differences, in half-widths


class RobustnessReport:
    """What a classifier does over a box of attributes; made by `robustness_report`.

    Attributes
    ----------
    name : str
    table : DataFrame
        Rows "clean", "mean" and "worst of k": ``accuracy``, ``conf_low``, ``conf_high``, ``n`` (records).
    severity_table : DataFrame
        ``attribute`` (of a parameter, or "all" of them at random within the shrunken box), ``severity``, ``accuracy``, ``conf_low``, ``conf_high``.
    sensitivity_table : DataFrame
        ``attribute``, ``units``, ``sensitivity`` (log-loss a half-width of the box), ``std_error``.
    correct : ndarray of bool, shape (n_records, n_draws)
    correct_clean : ndarray of bool, shape (n_records,)
    values : ndarray of shape (n_draws, n_records, n_parameters)
        The attributes drawn.
    level : float
    """

    def __init__(
        self, estimator: Any, X: NDArray, y: NDArray, chain: Chain, name: str, level: float
    ):
        self.estimator, self.X, self.y, self.chain = estimator, X, y, chain
        self.name, self.level = name, level

    def __repr__(self) -> str:
        rows = ", ".join(f"{i} {r.accuracy:.3f}" for i, r in self.table.iterrows())
        return f"RobustnessReport({self.name}: {rows}; {len(self.y)} records)"

    def compare(self, other: RobustnessReport) -> pd.DataFrame:
        """Compare with another model that was judged on the same records and draws.

        Parameters
        ----------
        other : RobustnessReport
            Of the same X, y, attributes and `random_state`.

        Returns
        -------
        DataFrame
            Rows "clean" and "worst of k": discordant records (``only_this``, ``only_other`` right), ``difference`` of the accuracies with its
            paired interval, and the exact McNemar ``p_value``; "mean": the difference of the records' means and a z-test.
        """
        if not isinstance(other, RobustnessReport):
            raise TypeError(f"other must be a RobustnessReport, got {other!r}")
        if (
            self.values.shape != other.values.shape
            or not np.array_equal(self.values, other.values)
            or not np.array_equal(self.X, other.X)
            or not np.array_equal(self.y, other.y)
        ):
            raise ValueError(
                "the two reports must be of the same records, attributes, n_draws, and random_state, to be paired"
            )
        if self.worst_of != other.worst_of:
            raise ValueError(
                f"worst_of must be the same to be compared, got {self.worst_of} and {other.worst_of}"
            )
        z = norm.isf((1 - self.level) / 2)
        rows = {}
        for row, of in {
            "clean": lambda r: r.correct_clean,
            "mean": lambda r: r.correct.mean(1),
            f"worst of {self.worst_of}": lambda r: r.correct[:, : r.worst_of].all(1),
        }.items():
            one, two = of(self), of(other)
            d = one.astype(float) - two
            error = d.std(ddof=1) / np.sqrt(len(d))
            if row == "mean":
                only = [np.nan, np.nan]
                p = 2 * norm.sf(abs(d.mean() / error)) if error else 1.0
            else:
                only = [int((one & ~two).sum()), int((two & ~one).sum())]
                p = mcnemar([[0, only[0]], [only[1], 0]], exact=True).pvalue
            rows[row] = [d.mean(), d.mean() - z * error, d.mean() + z * error, *only, float(p)]
        columns = ["difference", "conf_low", "conf_high", "only_this", "only_other", "p_value"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def corruption_error(self, baseline: RobustnessReport) -> pd.Series:
        """Error over all severities of each attribute, divided by a baseline's, and the mean of these ratios ("mean").

        Parameters
        ----------
        baseline : RobustnessReport
            With the same attributes and severities.

        Returns
        -------
        Series
            Below 1 is better than the baseline; NaN where the baseline makes no error.
        """
        mine, its = (
            (1 - r.severity_table.set_index(["attribute", "severity"])["accuracy"])
            for r in (self, baseline)
        )
        if not mine.index.equals(its.index):
            raise ValueError("baseline must have the same attributes and severities")
        mine, its = (e.groupby("attribute", sort=False).sum().drop("all") for e in (mine, its))
        ratio = (mine / its.where(its > 0)).rename(f"error relative to {baseline.name}")
        return pd.concat([ratio, pd.Series({"mean": ratio.mean()}, name=ratio.name)])

    def accuracy_grid(
        self, first: str | int = 0, second: str | int = 1, n_points: int = 9
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Accuracy over a grid of two parameters, the others at their clean values.

        Parameters
        ----------
        first, second : str or int
            Names or positions of the parameters.
        n_points : int, default=9
            A side.

        Returns
        -------
        first_values, second_values : ndarray of shape (n_points,)
        accuracy : ndarray of shape (n_points, n_points)
            With a row for each value of the first.
        """
        i, j = self._position(first), self._position(second)
        if i == j:
            raise ValueError(f"first and second must differ, got {first!r} twice")
        axes = [np.linspace(self.chain.low[k], self.chain.high[k], n_points) for k in (i, j)]
        values = np.repeat(self.chain.clean[None], len(self.X), 0)
        accuracy = np.empty((n_points, n_points))
        for r, a in enumerate(axes[0]):
            for s, b in enumerate(axes[1]):
                values[:, [i, j]] = a, b
                accuracy[r, s] = (self._predict(self._changed(values)) == self.y).mean()
        return *axes, accuracy

    def plot_severity(self, *others: RobustnessReport, ax: Any = None) -> SeverityDisplay:
        """Curves of accuracy against severity, of this and other reports; see `SeverityDisplay`."""
        from .displays import SeverityDisplay

        return SeverityDisplay([self, *others]).plot(ax)

    def plot_attribute_grid(
        self, first: str | int = 0, second: str | int = 1, n_points: int = 9, ax: Any = None
    ) -> AttributeGridDisplay:
        """Heat map of the accuracy over two parameters; see `AttributeGridDisplay`."""
        from .displays import AttributeGridDisplay

        i, j = self._position(first), self._position(second)
        grid = self.accuracy_grid(i, j, n_points)
        names = [f"{self.chain.names[k]} ({self.chain.units[k]})" for k in (i, j)]
        return AttributeGridDisplay(*grid, names, self.name).plot(ax)

    def plot_images(
        self, rows: Sequence[int] = (0, 1, 2), n_points: int = 5
    ) -> AttributeImagesDisplay:
        """Records under each attribute, from one end of its box to the other; see `AttributeImagesDisplay`."""
        from .displays import AttributeImagesDisplay

        return AttributeImagesDisplay(self.X[list(rows)], self.chain, n_points).plot()

    # --- internals --------------------------------------------------------------------------------------

    def _position(self, which: str | int) -> int:
        if isinstance(which, str):
            if which not in self.chain.names:
                raise ValueError(f"parameters are {', '.join(self.chain.names)}, got {which!r}")
            return self.chain.names.index(which)
        return check_integer("a parameter's position", which, 0, self.chain.n_parameters - 1)

    def _changed(self, values: NDArray, rows: slice = slice(None)) -> NDArray[np.float32]:
        """Records at these attributes, all with the same noise whoever asks."""
        x = torch.from_numpy(self.X[rows])
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            noise = self.chain.draw_noise(x, generator)
            return self.chain.apply(x, torch.as_tensor(values, dtype=x.dtype), noise).numpy()

    def _predict(self, X: NDArray) -> NDArray:
        return np.asarray(self.estimator.predict(X))


def robustness_report(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
    attributes: Sequence[Attribute] | None = None,
    *,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    n_draws: int = 20,
    worst_of: int = 20,
    level: float = 0.95,
    name: str | None = None,
    random_state: RandomState = 0,
    progress: bool | str = "auto",
) -> RobustnessReport:
    """Judge a fitted classifier over a box of attributes.

    Parameters
    ----------
    estimator : classifier
        With ``predict`` and, for sensitivities, ``predict_proba``; of statml or not.
    X : array-like of shape (n_records, ...)
        Held-out records, as the attributes take them.
    y : array-like of shape (n_records,)
    attributes : sequence of Attribute or None, default=None
        None: those of the estimator.
    severities : sequence of int, default=(1, 2, 3, 4, 5)
        The largest is the whole box.
    n_draws : int, default=20
        Random attributes a record.
    worst_of : int, default=20
        k, at most `n_draws`.
    level : float, default=0.95
        Of the intervals.
    name : str, optional
        Of the model, in plots; its class by default.
    random_state : int, SeedSequence, Generator, RandomState or None, default=0
        Fixes the draws: reports with the same one can be compared.
    progress : "auto", True or False, default="auto"

    Returns
    -------
    RobustnessReport

    Raises
    ------
    ValueError
        For NaN, unequal lengths, fewer than two records, labels that the estimator does not know, or attributes that do not fit the records.

    Notes
    -----
    The intervals are for the records as a sample, one attribute against another: no allowance is made for the many rows of a table. With few records wrong or
    right everywhere, the interval of the mean rests on few.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from statml.adapters.attribute_robust import Custom, robustness_report
    >>> X, y = load_iris(return_X_y=True)
    >>> drift = Custom(lambda x, a: x + a, -0.5, 0.5, names="drift", units="cm")
    >>> report = robustness_report(LogisticRegression(max_iter=1000).fit(X[::2], y[::2]), X[1::2], y[1::2], [drift])
    >>> report.table.round(2)
                 accuracy  conf_low  conf_high   n
    clean            0.96      0.89       0.99  75
    mean             0.92      0.88       0.95  75
    worst of 20      0.68      0.57       0.77  75
    """
    check_level(level)
    check_progress(progress)
    n_draws = check_integer("n_draws", n_draws, low=2)
    worst_of = check_integer("worst_of", worst_of, 1, n_draws)
    severities = [check_number("severities", s, 0, low_open=True) for s in severities]
    if attributes is None:
        attributes = getattr(estimator, "attributes", None)
    if not attributes:
        raise ValueError("attributes must hold at least one attribute, got none")
    chain = Chain(attributes)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as infinite
        X = check_array(
            X, dtype=np.float32, allow_nd=True, order="C", input_name="X", ensure_min_samples=2
        )
    y = check_labels("y", y)
    if len(y) != len(X):
        raise ValueError(f"y must hold {len(X)} labels, one a record of X, got {len(y)}")
    unknown = y[~np.isin(y, getattr(estimator, "classes_", y))]
    if len(unknown):
        raise ValueError(f"y must hold classes of the estimator, got {unknown.tolist()[0]!r}")
    if X.ndim == 3 and any(a.kind == "images" for a in chain.attributes):
        X = X[:, None]
    chain.check(X)
    report = RobustnessReport(
        estimator, X, y, chain, type(estimator).__name__ if name is None else name, level
    )
    report.worst_of = worst_of
    seeds = as_seed_sequence(random_state).spawn(2)
    rng = np.random.default_rng(seeds[0])
    report.seed = seeds[1].generate_state(1).item()
    report.values = rng.uniform(chain.low, chain.high, (n_draws, len(X), chain.n_parameters))
    n_steps = n_draws + len(severities) * (chain.n_parameters + 1) + 1
    with progress_bar(n_steps, progress, "robustness") as bar:

        def right(values: NDArray) -> NDArray[np.bool_]:
            bar.update()
            return report._predict(report._changed(values)) == y

        report.correct_clean = report._predict(X) == y
        report.correct = np.stack([right(v) for v in report.values], 1)
        report.table = _table(report)
        report.severity_table = _severities(report, severities, right)
        report.sensitivity_table = _sensitivities(report)
        bar.update()
    return report


def accuracy_interval(correct: NDArray, level: float) -> tuple[float, float, float]:
    """Accuracy and its Wilson interval; several judgements of a record are one observation.

    Parameters
    ----------
    correct : ndarray of bool, shape (n_records,) or (n_records, n_judgements)
    level : float

    Returns
    -------
    accuracy, conf_low, conf_high : float

    Examples
    --------
    >>> import numpy as np
    >>> correct = np.arange(100) < 90
    >>> one = accuracy_interval(correct, 0.95)
    >>> five = accuracy_interval(np.stack([correct] * 5, 1), 0.95)  # judged five times, always alike
    >>> [round(v, 3) for v in one]
    [0.9, 0.826, 0.945]
    >>> np.allclose(one, five)
    True
    """
    shares = correct.reshape(len(correct), -1).mean(1)
    p, n = float(shares.mean()), len(shares)
    spread = shares.var() / n  # of all-or-nothing records it is p (1 - p) / n
    size = p * (1 - p) / spread if spread > 0 else n * (correct.size // n if 0 < p < 1 else 1)
    size = min(size, correct.size)
    low, high = proportion_confint(p * size, size, 1 - level, method="wilson")
    return p, float(low), float(high)


def _table(report: RobustnessReport) -> pd.DataFrame:
    rows = {
        "clean": report.correct_clean,
        "mean": report.correct,
        f"worst of {report.worst_of}": report.correct[:, : report.worst_of].all(1),
    }
    columns = ["accuracy", "conf_low", "conf_high"]
    intervals = {row: accuracy_interval(c, report.level) for row, c in rows.items()}
    return pd.DataFrame.from_dict(intervals, orient="index", columns=columns).assign(
        n=len(report.y)
    )


def _severities(report: RobustnessReport, severities: list[float], right: Any) -> pd.DataFrame:
    chain, rows = report.chain, []
    for severity in severities:
        reach = severity / max(severities)
        for k, name in enumerate(chain.names):
            judged = []
            for end in sorted({chain.low[k], chain.high[k]} - {chain.clean[k]}):
                values = np.repeat(chain.clean[None], len(report.X), 0)
                values[:, k] += reach * (end - chain.clean[k])
                judged.append(right(values))
            judged = judged or [report.correct_clean]
            row = accuracy_interval(np.stack(judged, 1), report.level)
            rows.append((name, severity, *row))
        values = chain.clean + reach * (report.values[0] - chain.clean)
        rows.append(("all", severity, *accuracy_interval(right(values), report.level)))
    columns = ["attribute", "severity", "accuracy", "conf_low", "conf_high"]
    table = pd.DataFrame(rows, columns=columns)
    order = {name: i for i, name in enumerate((*chain.names, "all"))}
    return table.sort_values(
        "attribute", key=lambda c: c.map(order), kind="stable", ignore_index=True
    )


def _sensitivities(report: RobustnessReport) -> pd.DataFrame:
    """Root mean squares of derivatives of the log-loss, with standard errors by the delta method."""
    chain, half = report.chain, (report.chain.high - report.chain.low) / 2
    rows = []
    columns = ["attribute", "units", "sensitivity", "std_error"]
    if not hasattr(report.estimator, "predict_proba"):
        return pd.DataFrame(columns=columns)
    codes = np.searchsorted(report.estimator.classes_, report.y)

    def log_loss(values: NDArray) -> NDArray:
        p = np.asarray(report.estimator.predict_proba(report._changed(values)), dtype=float)
        return -np.log(p[np.arange(len(codes)), codes].clip(1e-12))

    for k, name in enumerate(chain.names):
        ends = [report.values[0].copy() for _ in range(2)]
        for end, side in zip(ends, (-1, 1), strict=True):
            end[:, k] = np.clip(
                end[:, k] + side * DIFFERENCE * half[k], chain.low[k], chain.high[k]
            )
        width = (ends[1] - ends[0])[:, k] / half[k] if half[k] else np.ones(len(codes))
        squares = ((log_loss(ends[1]) - log_loss(ends[0])) / width) ** 2
        value = np.sqrt(squares.mean())
        error = squares.std(ddof=1) / np.sqrt(len(squares)) / (2 * value) if value else 0.0
        rows.append((name, chain.units[k], value, error))
    return pd.DataFrame(rows, columns=columns)
