"""Linear regression from noisy moments; the model is `statml.privacy.models.LinearRegression`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from ..._validation import RandomState
from ..mechanisms._release import numbers
from ..models import LinearRegression
from ..prediction import expected_response
from ..protocols import Array, Mechanism
from ._own_model import OwnModel


class PrivateLinearRegression(OwnModel):
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
    about h_y / h_j of zero, and the intercept such that the response at the centre is within about h_y of c_y. Without bounds the defaults of
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
        checkpoint_dir: str | os.PathLike[str] | None = None,
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
        self.coef_: Array = self.posterior_mean_[1 : p + 1]
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

    def predict(
        self, X: ArrayLike | pd.DataFrame, return_std: bool = False
    ) -> Array | tuple[Array, Array]:
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
    slopes = half[-1] / half[:-1]
    scale = np.concatenate([[half[-1] / 2], slopes])
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
