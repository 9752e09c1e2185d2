"""Estimators for common releases: a proportion, a table, naive Bayes, a linear regression.

Each is a `PrivatePosterior` that builds its model itself, from the shape or the names of the release; all of its methods
(`summary`, `conf_int`, `naive_posterior`, `sample_predictive`, ...) and attributes (`idata_`, ...) are there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from .._validation import RandomState, check_integer, check_level
from .mechanisms._release import numbers
from .models import BetaBernoulli, DirichletCategorical, LinearRegression, NaiveBayesLogLinear
from .posterior import PrivatePosterior
from .prediction import expected_response
from .protocols import Array, Mechanism


class _OwnModel(PrivatePosterior):
    """A posterior that makes its model from a release."""

    # what the estimators do not ask for
    block_size = 1
    n_prior = n_mechanism = None
    init = "prior"
    store_records = allow_improper = False

    @property
    def model(self):
        """The data model; built by `fit`."""
        check_is_fitted(self, "_model")
        return self._model


class PrivateProportion(_OwnModel):
    """A proportion, from a noisy count of ones or from randomised answers.

    Parameters
    ----------
    mechanism : Mechanism
        Noise on the count, or `RandomizedResponse` of two categories.
    n_records : int
        Public number of records.
    a, b : float, default=1.0
        Beta prior of the proportion; 1 and 1 make it uniform.
    draws, tune, chains, kernel, n_jobs, progress, checkpoint_dir, random_state
        As in `PrivatePosterior`.

    Attributes
    ----------
    proportion_ : float
        Posterior mean.
    model : BetaBernoulli
        And the attributes of `PrivatePosterior`.

    Examples
    --------
    >>> from statml.privacy import PrivateProportion, mechanisms
    >>> fit = PrivateProportion(mechanisms.DiscreteLaplace(scale=2), n_records=30, random_state=0).fit(17)
    >>> round(fit.proportion_, 2)
    0.56
    """

    def __init__(
        self,
        mechanism: Mechanism,
        n_records: int,
        a: float = 1.0,
        b: float = 1.0,
        draws: int = 2000,
        tune: int = 1000,
        chains: int = 4,
        kernel: str = "auto",
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        random_state: RandomState = None,
    ):
        self.mechanism = mechanism
        self.n_records = n_records
        self.a = a
        self.b = b
        self.draws = draws
        self.tune = tune
        self.chains = chains
        self.kernel = kernel
        self.n_jobs = n_jobs
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state

    def fit(self, release: ArrayLike | Mapping[str, float], y: None = None) -> Self:
        """Draw from the posterior.

        Parameters
        ----------
        release : float, array-like of shape (1,) or dict with the key "count"; or the n randomised answers, or their two counts
        y : ignored
        """
        self._model = BetaBernoulli(self.a, self.b)
        super().fit(release)
        self.proportion_ = float(self.posterior_mean_[0])
        return self


class PrivateContingencyTable(_OwnModel):
    """Probabilities of the cells of a table, from noisy counts or from randomised answers.

    Parameters
    ----------
    mechanism : Mechanism
        Noise on every count, or `RandomizedResponse` over the cells in row-major order.
    n_records : int
        Public total of the true counts.
    shape : tuple of int or None, default=None
        Shape of the table; None takes that of the release. Needed for randomised answers.
    alpha : float or array-like of that shape, default=1.0
        Dirichlet prior of the cell probabilities.
    draws, tune, chains, kernel, n_jobs, progress, checkpoint_dir, random_state
        As in `PrivatePosterior`.

    Attributes
    ----------
    table_ : DataFrame or ndarray
        Posterior mean of the probability of each cell, labelled as the release was; an array where it has not two dimensions.
    shape_ : tuple of int
    model : DirichletCategorical
        And the attributes of `PrivatePosterior`. Terms are ``p[0]``, ``p[1]``, ... in row-major order, or the labels of a DataFrame.

    Examples
    --------
    >>> import pandas as pd
    >>> from statml.privacy import PrivateContingencyTable, mechanisms
    >>> release = pd.DataFrame({"admitted": [131, 47], "refused": [119, 122]}, index=["men", "women"])
    >>> fit = PrivateContingencyTable(mechanisms.DiscreteGaussian(6.25), n_records=400, random_state=0).fit(release)
    >>> fit.table_.round(2)
           admitted  refused
    men        0.31     0.29
    women      0.11     0.29
    >>> fit.odds_ratio().round(1)[["estimate", "conf_low", "conf_high"]]
       estimate  conf_low  conf_high
    0       3.0       1.8        5.3
    """

    def __init__(
        self,
        mechanism: Mechanism,
        n_records: int,
        shape: tuple[int, ...] | None = None,
        alpha: ArrayLike = 1.0,
        draws: int = 2000,
        tune: int = 1000,
        chains: int = 4,
        kernel: str = "auto",
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        random_state: RandomState = None,
    ):
        self.mechanism = mechanism
        self.n_records = n_records
        self.shape = shape
        self.alpha = alpha
        self.draws = draws
        self.tune = tune
        self.chains = chains
        self.kernel = kernel
        self.n_jobs = n_jobs
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state

    def fit(self, release: ArrayLike, y: None = None) -> Self:
        """Draw from the posterior.

        Parameters
        ----------
        release : DataFrame or array-like of the shape of the table; or the n randomised answers, cells numbered in row-major order
        y : ignored
        """
        self._labels = (
            (release.index, release.columns) if isinstance(release, pd.DataFrame) else None
        )
        values = numbers("release", release)
        answers = self.mechanism.factorises and not getattr(self.mechanism, "counts", False)
        shape = values.shape if self.shape is None else tuple(self.shape)
        if answers and self.shape is None:
            raise ValueError("shape must be given where the release holds randomised answers")
        if not answers and values.shape != shape:
            raise ValueError(f"release must be a table of shape {shape}, got shape {values.shape}")
        if not shape or any(check_integer("shape", size, low=1) < 1 for size in shape):
            raise ValueError(f"shape must be of at least one dimension, got {shape}")
        alpha = np.broadcast_to(np.asarray(self.alpha, dtype=float), shape)
        self._model = DirichletCategorical(alpha.ravel(), categories=self._cells(shape))
        self.shape_ = shape
        super().fit(values.ravel())
        table = self.posterior_mean_.reshape(shape)
        self.table_ = table
        if len(shape) == 2:
            index, columns = self._labels or (None, None)
            self.table_ = pd.DataFrame(table, index=index, columns=columns)
        return self

    def _cells(self, shape: tuple[int, ...]) -> list[str]:
        if self._labels is not None:
            return [f"{row}, {column}" for row in self._labels[0] for column in self._labels[1]]
        return [f"count[{','.join(map(str, cell))}]" for cell in np.ndindex(*shape)]

    def tidy(self, level: float = 0.95) -> pd.DataFrame:
        """As `PrivatePosterior.tidy`; the terms of a DataFrame's cells are their labels."""
        table = super().tidy(level)
        if self._labels is not None:
            table["term"] = self.model.statistic_names
        return table

    def conditional(self, axis: int = 1, level: float = 0.95) -> pd.DataFrame:
        """Probabilities along one axis given the others, such as those of the columns in each row.

        Parameters
        ----------
        axis : int, default=1
            Along which probabilities sum to one.
        level : float, default=0.95

        Returns
        -------
        DataFrame
            One row a cell, columns term, estimate, std_error, conf_low, conf_high.
        """
        check_is_fitted(self)
        check_integer("axis", axis, low=0, high=len(self.shape_) - 1)
        draws = self._tables()
        share = draws / draws.sum(axis=axis + 1, keepdims=True)
        return _intervals(self.model.statistic_names, share.reshape(len(draws), -1), level)

    def odds_ratio(self, level: float = 0.95) -> pd.DataFrame:
        """Odds ratio of a 2 by 2 table, (p00 p11) / (p01 p10): posterior median and credible interval.

        Parameters
        ----------
        level : float, default=0.95

        Returns
        -------
        DataFrame of 1 row
            Columns term, estimate, std_error (of the logarithm), conf_low, conf_high.
        """
        check_is_fitted(self)
        if self.shape_ != (2, 2):
            raise ValueError(f"odds_ratio needs a 2 by 2 table, got shape {self.shape_}")
        with np.errstate(divide="ignore"):
            log_p = np.log(self._tables())
        log_ratio = log_p[:, 0, 0] + log_p[:, 1, 1] - log_p[:, 0, 1] - log_p[:, 1, 0]
        table = _intervals(["odds ratio"], log_ratio[:, None], level)
        table["estimate"] = np.median(log_ratio)
        columns = ["estimate", "conf_low", "conf_high"]
        table[columns] = np.exp(table[columns])
        return table

    def _tables(self) -> Array:
        return self.draws_of().to_numpy().reshape(-1, *self.shape_)


class PrivateNaiveBayes(_OwnModel):
    """Naive Bayes classification learned from noisy tables of class by feature.

    Parameters
    ----------
    mechanism : Mechanism
        Noise on every cell of every table.
    n_records : int
        Public number of records.
    n_levels : sequence of K int or None, default=None
        Levels of each feature; None takes them from the shapes of the tables.
    n_classes : int or None, default=None
        Only needed where the release is a flat array.
    prior_class, prior_level : float, default=1.0
        Dirichlet priors of the class probabilities, and of the levels given a class.
    draws, tune, chains, kernel, n_jobs, progress, checkpoint_dir, random_state
        As in `PrivatePosterior`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        0, 1, ...
    class_prior_ : ndarray of shape (n_classes,)
        Posterior mean of the class probabilities.
    model : NaiveBayesLogLinear
        And the attributes of `PrivatePosterior`.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import PrivateNaiveBayes, mechanisms
    >>> tables = [np.array([[40, 8], [10, 42]]), np.array([[30, 15, 5], [4, 16, 30]])]  # class by level
    >>> fit = PrivateNaiveBayes(mechanisms.DiscreteLaplace(4), n_records=100, random_state=0).fit(tables)
    >>> fit.predict([[0, 0], [1, 2]])
    array([0, 1])
    """

    def __init__(
        self,
        mechanism: Mechanism,
        n_records: int,
        n_levels: Sequence[int] | None = None,
        n_classes: int | None = None,
        prior_class: float = 1.0,
        prior_level: float = 1.0,
        draws: int = 2000,
        tune: int = 1000,
        chains: int = 4,
        kernel: str = "auto",
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        random_state: RandomState = None,
    ):
        self.mechanism = mechanism
        self.n_records = n_records
        self.n_levels = n_levels
        self.n_classes = n_classes
        self.prior_class = prior_class
        self.prior_level = prior_level
        self.draws = draws
        self.tune = tune
        self.chains = chains
        self.kernel = kernel
        self.n_jobs = n_jobs
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state

    def fit(self, release: Sequence[ArrayLike] | ArrayLike, y: None = None) -> Self:
        """Draw from the posterior.

        Parameters
        ----------
        release : sequence of K array-likes of shape (n_classes, n_levels[k]), or all of their cells in one flat array
            Feature after feature, class after class.
        y : ignored
        """
        n_classes, n_levels = self.n_classes, self.n_levels
        if not isinstance(release, Mapping) and all(np.ndim(table) == 2 for table in release):
            tables = [numbers("release", table) for table in release]
            shapes = [table.shape for table in tables]
            n_classes = shapes[0][0] if n_classes is None else n_classes
            n_levels = [shape[1] for shape in shapes] if n_levels is None else list(n_levels)
            expected = [(n_classes, J) for J in n_levels]
            if shapes != expected:
                raise ValueError(
                    f"release must be one table of class by level for each feature, of shapes {expected}; got {shapes}"
                )
            release = np.concatenate([table.ravel() for table in tables])
        elif n_classes is None or n_levels is None:
            raise ValueError(
                "n_classes and n_levels must be given where the release is no list of tables"
            )
        self._model = NaiveBayesLogLinear(n_classes, n_levels, self.prior_class, self.prior_level)
        super().fit(release)
        self.classes_ = np.arange(n_classes)
        self.class_prior_ = self.posterior_mean_[:n_classes]
        return self

    def predict_proba(self, X: ArrayLike) -> Array:
        """Class probabilities of new cases, averaged over the posterior.

        Parameters
        ----------
        X : array-like of int, shape (n, K)
            Level of each feature, 0, 1, ...

        Returns
        -------
        ndarray of shape (n, n_classes)
        """
        check_is_fitted(self)
        X = numbers("X", X)
        n_levels = np.array(self.model.n_levels)
        if X.ndim != 2 or not len(X) or X.shape[1] != len(n_levels):
            raise ValueError(f"X must have shape (n, {len(n_levels)}), got {X.shape}")
        if not np.isin(X, np.arange(n_levels.max())).all() or (X.max(axis=0) >= n_levels).any():
            raise ValueError(
                f"X must hold levels 0, ..., n_levels - 1 of features with {n_levels.tolist()} levels"
            )
        X = X.astype(np.int64)
        theta = self.draws_of().to_numpy()
        I = len(self.classes_)
        joint = np.repeat(theta[:, None, :I], len(X), axis=1)  # draws, cases, classes
        for k, table in enumerate(self.model.tables(theta[:, I:])):
            joint *= np.moveaxis(table[:, :, X[:, k]], 1, 2)
        p = joint.mean(axis=0)
        return p / p.sum(axis=1, keepdims=True)

    def predict(self, X: ArrayLike) -> Array:
        """The most probable class of new cases, shape (n,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class PrivateLinearRegression(_OwnModel):
    """Linear regression from noisy sums of products: the entries of X'X, X'y and y'y.

    The sums are over variables clamped to `bounds` and mapped to [-1, 1] (the raw variables without bounds), each product once, the
    number of records not among them. Coefficients are on the scale of the raw variables.

    Parameters
    ----------
    mechanism : Mechanism
        Noise on every sum.
    n_records : int
        Public number of records.
    formula : str or None, default=None
        ``"income ~ age + education"`` names the variables; they must be plain, since the release was made of them. None: y, x1, x2, ...
    bounds : (lower, upper), dict of such pairs, or array-like of shape (p + 1, 2), or None, default=None
        What the curator clamped to: one pair for all, one for each of x_1, ..., x_p, y in this order, or by name.
    x_mean, x_cov, sigma2 : default=None
        Known mean (p,) and covariance (p, p) of the covariates, and variance of the errors; None: unknown.
    prior_mean, prior_scale : float, array-like of shape (p + 1,), or None, default=None
        Normal prior of the intercept and the slopes; the scale in units of the error's standard deviation where `sigma2` is
        unknown. None: see Notes.
    draws, tune, chains, kernel, n_jobs, progress, checkpoint_dir, random_state
        As in `PrivatePosterior`.

    Attributes
    ----------
    coef_ : ndarray of shape (p,)
    intercept_ : float
        Posterior means.
    feature_names_in_ : ndarray of p str
    model : LinearRegression
        And the attributes of `PrivatePosterior`.

    Notes
    -----
    Priors that are not given follow from `bounds`, which are public: covariates and errors lie mostly within them. With half widths h and
    centres c, the mean of the covariates is about c with covariance diag(h^2 / 4), the error's variance about h_y^2 / 4, a slope within
    about 2 h_y / h_j of zero, and the intercept such that the response at the centre is about c_y. Without bounds the defaults of
    `statml.privacy.models.LinearRegression` hold, which suit standardised variables.

    Examples
    --------
    >>> from statml.privacy import PrivateLinearRegression, mechanisms
    >>> release = {"y": -17.2, "x1 y": -5.2, "x2 y": 1.6, "y^2": 11.0, "x1": 3.5, "x1^2": 6.8, "x2": -6.9,
    ...            "x1 x2": 1.1, "x2^2": -2.1}
    >>> fit = PrivateLinearRegression(
    ...     mechanisms.Laplace(scale=1.5), n_records=50, bounds=(-10, 10), x_mean=[0.9, -1.17], x_cov=1.0, sigma2=2.0,
    ...     prior_mean=0.0, prior_scale=2.0, draws=4000, random_state=0,
    ... ).fit(release)
    >>> fit.tidy()["term"].tolist()
    ['Intercept', 'x1', 'x2']
    """

    def __init__(
        self,
        mechanism: Mechanism,
        n_records: int,
        formula: str | None = None,
        bounds: ArrayLike | Mapping[str, ArrayLike] | None = None,
        x_mean: ArrayLike | None = None,
        x_cov: ArrayLike | None = None,
        sigma2: float | None = None,
        prior_mean: ArrayLike | None = None,
        prior_scale: ArrayLike | None = None,
        draws: int = 2000,
        tune: int = 1000,
        chains: int = 4,
        kernel: str = "auto",
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
        random_state: RandomState = None,
    ):
        self.mechanism = mechanism
        self.n_records = n_records
        self.formula = formula
        self.bounds = bounds
        self.x_mean = x_mean
        self.x_cov = x_cov
        self.sigma2 = sigma2
        self.prior_mean = prior_mean
        self.prior_scale = prior_scale
        self.draws = draws
        self.tune = tune
        self.chains = chains
        self.kernel = kernel
        self.n_jobs = n_jobs
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state

    def fit(self, release: ArrayLike | Mapping[str, ArrayLike], y: None = None) -> Self:
        """Draw from the posterior.

        Parameters
        ----------
        release : dict or array-like of shape (m,)
            By name: ``{"income": ..., "age income": ..., "income^2": ..., "age": ..., ...}`` (the order of a product's factors does
            not matter); or the matrices ``{"XtX": (p + 1, p + 1), "Xty": (p + 1,), "yty": float}`` with the intercept first,
            symmetric, the (0, 0) entry being n, which has no noise; or flat, in the order of ``model.statistic_names``.
        y : ignored

        Raises
        ------
        ValueError
            As `PrivatePosterior.fit`; if a matrix is not symmetric or its (0, 0) entry is not n.
        """
        response, features = variables_of(self.formula, release)
        p = len(features)
        self._model = LinearRegression(p, **self._model_arguments(response, features))
        layout = [
            _product(*_factors(name, response, features)) for name in self._model.statistic_names
        ]
        if isinstance(release, Mapping):
            if "XtX" in release:
                release = flat_moments(release, p, self.n_records)
            else:
                release = _by_layout(release, layout, response, features)
        self._model.statistic_names = layout
        super().fit(release)
        self.feature_names_in_ = np.array(features, dtype=object)
        self.intercept_ = float(self.posterior_mean_[0])
        self.coef_ = self.posterior_mean_[1 : p + 1]
        return self

    def _model_arguments(self, response: str, features: list[str]) -> dict[str, object]:
        p, bounds = len(features), self.bounds
        if isinstance(bounds, Mapping):
            wanted = [*features, response]
            if set(bounds) != set(wanted):
                raise ValueError(
                    f"bounds must have the keys {', '.join(wanted)}, got {', '.join(map(str, bounds))}"
                )
            bounds = [bounds[name] for name in wanted]
        arguments: dict[str, object] = {
            "x_mean": self.x_mean, "x_cov": self.x_cov, "sigma2": self.sigma2, "bounds": bounds,
        }  # fmt: skip
        if bounds is not None:
            checked = LinearRegression(p, x_mean=0.0, x_cov=1.0, bounds=bounds).bounds
            arguments |= priors_from_bounds(checked, known_sigma2=self.sigma2)
        if self.prior_mean is not None:
            arguments["prior_mean"] = self.prior_mean
        if self.prior_scale is not None:
            arguments["prior_scale"] = self.prior_scale
        return arguments

    def tidy(self, level: float = 0.95) -> pd.DataFrame:
        """As `PrivatePosterior.tidy`; the coefficients' terms are Intercept and the names of the features."""
        table = super().tidy(level)
        names = ["Intercept", *self.feature_names_in_]
        table["term"] = [*names, *table["term"][len(names) :]]
        return table

    def predict(self, X: ArrayLike | pd.DataFrame, return_std: bool = False):
        """Expected response of new cases.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n, p)
            Raw features; of a DataFrame the columns of the formula are taken.
        return_std : bool, default=False
            Whether to give the standard deviation of a new response too (error and uncertainty of the coefficients).

        Returns
        -------
        mean : ndarray of shape (n,)
        std : ndarray of shape (n,)
            Only with `return_std`.
        """
        check_is_fitted(self)
        if isinstance(X, pd.DataFrame):
            missing = [name for name in self.feature_names_in_ if name not in X]
            if missing:
                raise ValueError(
                    f"X must have the columns {', '.join(self.feature_names_in_)}; missing: {', '.join(missing)}"
                )
            X = X[list(self.feature_names_in_)]
        draws = self.draws_of()
        response = expected_response(self.model, draws.to_numpy(), X)
        if not return_std:
            return response.mean(axis=0)
        sigma2 = self.sigma2 if self.sigma2 is not None else draws["sigma2"].mean()
        return response.mean(axis=0), np.sqrt(response.var(axis=0, ddof=1) + sigma2)


def variables_of(formula: str | None, release: object) -> tuple[str, list[str]]:
    """Names of the response and of the features."""
    if formula is not None:
        return _parse(formula)
    if isinstance(release, Mapping):
        if "XtX" in release:
            p = len(np.atleast_2d(np.asarray(release["XtX"]))) - 1
        else:
            p = _features_of_size(len(release))
    else:
        p = _features_of_size(np.size(release))
    if p < 1:
        raise ValueError("release must be of at least one feature")
    return "y", [f"x{j + 1}" for j in range(p)]


def _features_of_size(m: int) -> int:
    """p of the m = (p + 1)(p + 4) / 2 sums."""
    p = round((np.sqrt(8 * m + 9) - 5) / 2)
    if p < 1 or (p + 1) * (p + 4) != 2 * m:
        raise ValueError(
            f"release must have 5, 9, 14, 20, ... entries for 1, 2, 3, 4, ... features (each product of variables once, without n), got {m}"
        )
    return p


def _parse(formula: str) -> tuple[str, list[str]]:
    """Response and features of ``"y ~ a + b"``; formulaic parses it."""
    from formulaic import Formula

    taken = 'formula must be of the form "y ~ a + b" with plain variables and an intercept'
    if not isinstance(formula, str):
        raise TypeError(f"{taken}, got {formula!r}")
    parsed = Formula(formula)
    if not hasattr(parsed, "lhs") or len(parsed.lhs) != 1:
        raise ValueError(f"{taken}, got {formula!r}")
    response, terms = str(parsed.lhs[0]), [str(term) for term in parsed.rhs]
    features = [term for term in terms if term != "1"]
    plain = all(name.isidentifier() for name in [response, *features])
    if not plain or "1" not in terms or not features or response in features:
        raise ValueError(f"{taken}, got {formula!r}")
    return response, features


def _factors(name: str, response: str, features: list[str]) -> list[str]:
    """The variables of a statistic that is named by y, x1, x2, ..."""
    names = {"y": response} | {f"x{j + 1}": feature for j, feature in enumerate(features)}
    base, squared, _ = name.partition("^2")
    return [names[part] for part in base.split()] * (2 if squared else 1)


def _product(first: str, second: str | None = None) -> str:
    if second is None:
        return first
    return f"{first}^2" if first == second else f"{first} {second}"


def _by_layout(
    release: Mapping[str, ArrayLike], layout: list[str], response: str, features: list[str]
) -> dict[str, ArrayLike]:
    """A release whose products may be written in either order, with a space, * or :, by the names of the layout."""

    def key(name: str) -> tuple[str, ...]:
        parts = str(name).replace("*", " ").replace(":", " ").split()
        parts = [part for p in parts for part in ([p[:-2]] * 2 if p.endswith("^2") else [p])]
        return tuple(sorted(parts))

    known = {key(name): name for name in layout}
    renamed = {known.get(key(name), name): value for name, value in release.items()}
    if len(renamed) != len(release):
        raise ValueError(f"release names a product twice: {', '.join(map(str, release))}")
    return renamed


def flat_moments(release: Mapping[str, ArrayLike], p: int, n_records: int) -> Array:
    """X'X, X'y and y'y as one array in the order of the regression model's statistics."""
    if set(release) != {"XtX", "Xty", "yty"}:
        raise ValueError(f"release must have XtX, Xty and yty, got {', '.join(map(str, release))}")
    XtX, Xty, yty = (numbers(name, release[name]) for name in ("XtX", "Xty", "yty"))
    if XtX.shape != (p + 1, p + 1) or Xty.shape != (p + 1,) or yty.size != 1:
        raise ValueError(
            f"XtX, Xty and yty must have shapes ({p + 1}, {p + 1}), ({p + 1},) and (), the intercept first; "
            f"got {XtX.shape}, {Xty.shape} and {yty.shape}"
        )
    if not np.isclose(XtX[0, 0], n_records, rtol=1e-12):
        raise ValueError(
            f"XtX[0, 0] must be n_records = {n_records}, which is public and has no noise; got {XtX[0, 0]:g}"
        )
    if not np.array_equal(XtX, XtX.T, equal_nan=True):
        raise ValueError(
            "XtX must be symmetric: each product is released once. Two noisy values of one product are two releases; "
            "average them and say so in the mechanism's scale"
        )
    squares = [XtX[j, : j + 1] for j in range(1, p + 1)]  # x_j, x_j x_1, ..., x_j^2
    return np.concatenate([Xty, yty.ravel(), *squares])


def priors_from_bounds(bounds: Array, known_sigma2: float | None) -> dict[str, object]:
    """Weakly informative priors for variables within public bounds (p + 1, 2), the response last."""
    low, high = bounds.T
    centre, half = (low + high) / 2, (high - low) / 2
    slopes = 2 * half[-1] / half[:-1]
    scale = np.concatenate([[half[-1]], slopes])
    scale[0] = np.sqrt(scale[0] ** 2 + ((slopes * centre[:-1]) ** 2).sum())
    if known_sigma2 is None:
        scale = scale / (half[-1] / 2)  # the prior standard deviation of the errors
    return {
        "prior_mean": np.concatenate([[centre[-1]], np.zeros(len(slopes))]),
        "prior_scale": scale,
        "prior_rate": half[-1] ** 2 / 4,
        "x_prior_mean": centre[:-1],
        "x_prior_cov": np.diag(half[:-1] ** 2 / 4),
    }


def _intervals(terms: Sequence[str], draws: Array, level: float) -> pd.DataFrame:
    """Mean, standard deviation and quantiles of each column."""
    level = check_level(level)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return pd.DataFrame(
        {
            "term": list(terms),
            "estimate": draws.mean(axis=0),
            "std_error": draws.std(axis=0, ddof=1),
            "conf_low": low,
            "conf_high": high,
        }
    )
