r"""From a fitted model of scikit-learn or statsmodels to its gradient oracle.

Penalties, in the sum objective :math:`\sum_i v_i \ell_i + \frac12 \theta^T R \theta`: R = alpha for Ridge, 1/C for
LogisticRegression, :math:`\alpha \sum_i v_i` for PoissonRegressor and its kin, :math:`\alpha (1 - \mathrm{l1\_ratio})
\sum_i v_i` for ElasticNet; 0 for an intercept. With an L1 penalty the model is that of its active set, which is exact
while neither the set nor a sign changes (Beirami et al. 2017; Giordano et al. 2019).

``class_weight="balanced"`` is taken as fixed weights: those of the full data, also where a record is removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import sklearn.linear_model as lm
from numpy.typing import ArrayLike
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, check_consistent_length, compute_class_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from .._validation import check_magnitude
from .glm_families import Binomial, Gaussian, LinkedFamily, Poisson, Softmax
from .glm_oracle import GLMOracle
from .oracle import MEMORY_LIMIT, GradientOracle, check_weights

OTHER_METHODS = (
    "LeaveOneOut(warm_start=False), SubsetEnsemble and DataShapley work for any estimator, TreeInfluence for "
    "gradient-boosted trees, KNNShapley for nearest neighbours"
)


def make_oracle(
    estimator: Any,
    X: Any = None,
    y: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    *,
    memory_limit: int = MEMORY_LIMIT,
) -> GradientOracle:
    """Build the gradient oracle of a fitted model.

    Parameters
    ----------
    estimator : fitted model
        scikit-learn: LinearRegression, Ridge(CV), Lasso(CV), ElasticNet(CV), LogisticRegression(CV),
        PoissonRegressor, GammaRegressor, TweedieRegressor, KernelRidge, GaussianProcessRegressor, or a Pipeline
        that ends in one of these. statsmodels: results of OLS, WLS, GLM, Logit, Poisson, MNLogit. A
        GradientOracle is returned as it is.
    X, y : the data it was fitted to
        May be left out for statsmodels results.
    sample_weight : array-like of shape (n,), optional
        The weights it was fitted with.
    memory_limit : int, default=2**28
        Bytes of one temporary array.

    Returns
    -------
    GradientOracle

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the model is not fitted.
    TypeError
        If it has no gradients that are known here; names the methods that work without.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from statml.influence import make_oracle
    >>> X, y = load_diabetes(return_X_y=True)
    >>> make_oracle(Ridge(alpha=0.1).fit(X, y), X, y).n_params
    11
    """
    if isinstance(estimator, GradientOracle):
        return estimator.bind(X, y, sample_weight)
    if hasattr(estimator, "model") and hasattr(estimator.model, "exog"):
        return _from_statsmodels(estimator, X, y, sample_weight, memory_limit)
    if isinstance(estimator, type) or not hasattr(estimator, "fit"):
        raise TypeError(
            f"estimator must be a fitted model or a GradientOracle, got {estimator!r}; a torch network is taken as "
            "statml.adapters.influence.TorchOracle(module, loss_fn)"
        )
    if X is None or y is None:
        raise ValueError(
            "X and y must hold the training data of a scikit-learn estimator, got None"
        )
    check_is_fitted(
        estimator,
        msg="%(name)s is not fitted yet: call its fit with the training data first, then attribute.",
    )
    return _from_sklearn(estimator, X, y, sample_weight, memory_limit)


# --- scikit-learn -----------------------------------------------------------------------------------


def split_pipeline(estimator: Any) -> tuple[Callable[[Any], Any], Any]:
    """What a Pipeline does before its last step, and that step."""
    if not isinstance(estimator, Pipeline):
        return _identity, estimator
    last = estimator.steps[-1][1]
    before = estimator[:-1]
    if len(estimator.steps) == 1:
        return _identity, last
    return before.transform, last


def _identity(X):
    return X


def _from_sklearn(estimator, X, y, sample_weight, memory_limit):
    transform, final = split_pipeline(estimator)
    Z = _columns(final, transform(X))
    n = Z.shape[0]
    check_consistent_length(X, y)
    v = None if sample_weight is None else check_weights(sample_weight, Z)
    if isinstance(final, (KernelRidge, GaussianProcessRegressor)):
        from .kernel_oracle import kernel_oracle

        return kernel_oracle(final, transform, Z, _responses(y), v, memory_limit)
    weights = np.ones(n) if v is None else v
    if isinstance(final, (lm.LogisticRegression, lm.LogisticRegressionCV)):
        family, coef, weights, l2, l1 = _logistic(final, y, weights)
        code = _Coder(final.classes_)
        scales = False
    else:
        family, l2, l1, scales = _regression(final, weights)
        coef, code = np.atleast_2d(final.coef_), _responses
        if coef.shape[0] > 1:
            raise TypeError(
                "a regression of several responses at once is not taken; fit one by one"
            )
    intercept = np.atleast_1d(np.asarray(final.intercept_, dtype=float))
    has_intercept = bool(final.fit_intercept)
    # An L1 penalty leaves an active set, of columns here; for several classes, a column is kept if any uses it.
    active = np.flatnonzero((coef != 0).any(axis=0)) if l1 > 0 else np.arange(coef.shape[1])
    if l1 > 0 and coef.shape[0] > 1 and (coef[:, active] == 0).any():
        raise TypeError(
            f"an L1 penalty with several classes, whose active sets differ, is not taken. {OTHER_METHODS}"
        )

    # liblinear penalises the intercept, as the coefficient of a column of the value intercept_scaling
    liblinear = getattr(final, "solver", "") == "liblinear"
    theta = np.column_stack([intercept, coef[:, active]] if has_intercept else [coef[:, active]])
    R = np.full(theta.shape, l2)
    if has_intercept:
        R[:, 0] = l2 / final.intercept_scaling**2 if liblinear else 0.0
    R_linear = np.full(theta.shape, l1)
    if has_intercept:
        R_linear[:, 0] = l1 / final.intercept_scaling if liblinear else 0.0
    names = _names(transform, final, estimator, coef.shape[1])
    columns = (["intercept"] if has_intercept else []) + [names[j] for j in active]
    if len(theta) > 1:
        columns = [f"{c}:{name}" for c in final.classes_ for name in columns]
    design = _design(Z, has_intercept, active if l1 > 0 else None)
    return GLMOracle(
        family, theta, design, code(y), weights, R.ravel() / n,
        linear=np.sign(theta).ravel() * (R_linear / n).ravel(), penalty_scales=scales,
        prepare=_Preparation(final, transform, has_intercept, active if l1 > 0 else None, code),
        parameter_names=columns, memory_limit=memory_limit,
    )  # fmt: skip


def _regression(final, weights):
    """Family, L2 and L1 penalties of the sum objective, and whether the penalty shrinks with the data."""
    total = weights.sum()
    if isinstance(final, lm.LinearRegression):
        if final.positive:
            raise TypeError(
                f"LinearRegression(positive=True) has no gradient oracle. {OTHER_METHODS}"
            )
        return Gaussian(), 0.0, 0.0, False
    if isinstance(final, (lm.Ridge, lm.RidgeCV)) and not isinstance(final, lm.RidgeClassifier):
        alpha = final.alpha_ if hasattr(final, "alpha_") else final.alpha
        if (np.ndim(alpha) and np.size(alpha) > 1) or getattr(final, "positive", False):
            raise TypeError("Ridge is taken with one alpha and positive=False")
        return Gaussian(), float(np.ravel(alpha)[0]), 0.0, False
    if isinstance(final, (lm.ElasticNet, lm.ElasticNetCV, lm.Lasso, lm.LassoCV)):
        ratio = getattr(final, "l1_ratio_", final.l1_ratio) if hasattr(final, "l1_ratio") else 1.0
        alpha = final.alpha_ if hasattr(final, "alpha_") else final.alpha
        return Gaussian(), alpha * (1 - ratio) * total, alpha * ratio * total, True
    if isinstance(final, lm.PoissonRegressor):
        return Poisson(), final.alpha * total, 0.0, True
    if isinstance(final, (lm.GammaRegressor, lm.TweedieRegressor)):
        return LinkedFamily(_tweedie(final)), final.alpha * total, 0.0, True
    raise TypeError(f"{type(final).__name__} has no gradient oracle. {OTHER_METHODS}")


def _tweedie(final):
    import statsmodels.api as sm

    links = sm.families.links
    power = getattr(final, "power", 2.0)
    log_link = (
        isinstance(final, lm.GammaRegressor)
        or final.link == "log"
        or (final.link == "auto" and power > 0)
    )
    link = links.Log() if log_link else links.Identity()
    plain = {0: sm.families.Gaussian, 1: sm.families.Poisson, 2: sm.families.Gamma}
    plain[3] = sm.families.InverseGaussian
    if power in plain:
        return plain[power](link)
    return sm.families.Tweedie(link, var_power=power)


def _logistic(final, y, weights):
    C = float(np.ravel(final.C_)[0]) if hasattr(final, "C_") else float(final.C)
    if hasattr(final, "l1_ratio_"):
        ratio = np.ravel(final.l1_ratio_)[0] or 0.0
    else:
        ratio = final.l1_ratio or 0.0
    kind = final.penalty
    if kind in ("l1", "l2"):
        ratio = {"l1": 1.0, "l2": 0.0}[kind]
    strength = 0.0 if kind is None or np.isinf(C) else 1 / C
    classes = final.classes_
    coef = np.asarray(final.coef_, dtype=float)
    codes = _Coder(classes)(y)
    if final.class_weight is not None:
        by_class = compute_class_weight(final.class_weight, classes=classes, y=np.asarray(y))
        weights = weights * by_class[codes.astype(int)]
    if len(classes) > 2 and len(coef) != len(classes):
        raise TypeError(f"LogisticRegression with {len(coef)} rows of coefficients is not taken")
    family = Binomial() if len(classes) == 2 else Softmax(len(classes))
    l2 = strength * (1 - ratio)
    return family, coef, weights, l2, strength * ratio


@dataclass
class _Preparation:
    """From a user's records to the design and coded responses; an object, so that oracles can be pickled."""

    final: Any
    transform: Callable[[Any], Any]
    has_intercept: bool
    active: Any
    code: Callable[[Any], Any]

    def __call__(self, X, y):
        Z = _columns(self.final, self.transform(X))
        design = _design(Z, self.has_intercept, self.active)
        if y is None:
            return design, None
        check_consistent_length(Z, y)
        return design, self.code(y)


@dataclass
class _Coder:
    """Labels to 0..C-1."""

    classes: Any

    def __call__(self, y):
        y = np.asarray(y)
        if y.ndim != 1:
            raise ValueError(f"y must have shape (m,), got {y.shape}")
        unseen = ~np.isin(y, self.classes)
        if unseen.any():
            raise ValueError(
                f"y holds labels that the model was not trained with: {np.unique(y[unseen])[:5].tolist()}; "
                f"it knows {self.classes.tolist()}"
            )
        return np.searchsorted(self.classes, y).astype(float)


def _responses(y):
    return check_array(y, ensure_2d=False, dtype=float, input_name="y").ravel()


def _columns(final, Z):
    """The features as the final estimator takes them: the same columns, finite, dense or csr."""
    Z = validate_data(
        final, Z, reset=False, accept_sparse="csr", dtype=np.float64, ensure_min_samples=1
    )
    return check_magnitude("X", Z)


def _design(Z, has_intercept, active=None):
    if active is not None:
        Z = Z[:, active]
    if not has_intercept:
        return Z
    ones = np.ones((Z.shape[0], 1))
    return sp.hstack([ones, Z], format="csr") if sp.issparse(Z) else np.hstack([ones, Z])


def _names(transform, final, estimator, n_features):
    if isinstance(estimator, Pipeline) and len(estimator.steps) > 1:
        try:
            return [str(name) for name in estimator[:-1].get_feature_names_out()]
        except (AttributeError, ValueError, NotFittedError):
            pass  # a step that gives no names: the columns are numbered below
    names = getattr(final, "feature_names_in_", None)
    return [f"x{j}" for j in range(n_features)] if names is None else [str(name) for name in names]


# --- statsmodels ------------------------------------------------------------------------------------


def _from_statsmodels(results, X, y, sample_weight, memory_limit):
    import statsmodels.api as sm
    from statsmodels.discrete import discrete_model as discrete

    model = results.model
    if sample_weight is not None:
        raise ValueError(
            "sample_weight must be None for statsmodels results, which carry their weights"
        )
    offset = getattr(model, "offset", None)
    if (offset is not None and np.any(offset)) or np.any(getattr(model, "exposure", None)):
        raise TypeError("models with an offset or exposure are not taken")
    if getattr(results, "method", "") == "elastic_net" or hasattr(results, "regularized"):
        raise TypeError(
            "statsmodels' regularized fits are not taken; use scikit-learn's ElasticNet"
        )
    design, endog = np.asarray(model.exog, float), np.asarray(model.endog, float)
    weights = np.ones(len(endog))
    params = np.asarray(results.params, dtype=float)
    names = list(model.exog_names)
    classes = None
    if isinstance(model, sm.GLM):
        weights = np.broadcast_to(model.freq_weights * model.var_weights, endog.shape).astype(float)
        if isinstance(model.family, sm.families.Binomial):
            weights = weights * model.n_trials
        family = _glm_family(model.family)
    elif isinstance(model, (sm.OLS, sm.WLS)):
        family = Gaussian()
        weights = np.broadcast_to(np.asarray(model.weights, float), endog.shape)
    elif isinstance(model, discrete.Logit):
        family = Binomial()
    elif isinstance(model, discrete.Poisson):
        family = Poisson()
    elif isinstance(model, discrete.MNLogit):
        classes = list(range(int(model.J)))
        family = Softmax(len(classes), reference=True)
        params = params.T.ravel()
        names = [f"{c}:{name}" for c in classes[1:] for name in names]
    else:
        raise TypeError(
            f"statsmodels' {type(model).__name__} has no gradient oracle. {OTHER_METHODS}"
        )

    oracle = GLMOracle(
        family, params, design, endog, weights, None,
        prepare=_StatsmodelsPreparation(results, classes), parameter_names=names, memory_limit=memory_limit,
    )  # fmt: skip
    if X is not None and len(X) != oracle.n_train:
        raise ValueError(
            f"X has {len(X)} records, but the statsmodels results were fitted to {oracle.n_train}"
        )
    return oracle


@dataclass
class _StatsmodelsPreparation:
    results: Any
    classes: list[int] | None

    def __call__(self, X, y):
        model = self.results.model
        has_formula = getattr(model.data, "model_spec", None) is not None
        if has_formula and isinstance(X, pd.DataFrame):
            design = np.asarray(_from_formula(self.results, X), float)
        else:
            design = check_array(X, dtype=float, input_name="X")
        if design.shape[1] != model.exog.shape[1]:
            raise ValueError(
                f"X must have the {model.exog.shape[1]} columns of the model ({', '.join(model.exog_names)}), "
                f"got {design.shape[1]}"
            )
        if y is None:
            return design, None
        y = _responses(y)
        check_consistent_length(design, y)
        if self.classes is not None and not np.isin(y, self.classes).all():
            raise ValueError(f"y must hold the model's codes of classes, {self.classes}")
        return design, y


def _from_formula(results, X_new):
    from statsmodels.formula._manager import FormulaManager

    return FormulaManager().get_matrices(results.model.data.model_spec, X_new, pandas=False)


def _glm_family(family):
    import statsmodels.api as sm

    links = sm.families.links
    canonical = {
        sm.families.Gaussian: (links.Identity, Gaussian),
        sm.families.Binomial: (links.Logit, Binomial),
        sm.families.Poisson: (links.Log, Poisson),
    }
    for kind, (link, ours) in canonical.items():
        if isinstance(family, kind) and type(family.link) is link:
            return ours()
    return LinkedFamily(family)
