r"""One set of models of random subsets, and all estimators that it serves.

K subsets :math:`D_1, \dots, D_K` are drawn, a model is fitted to each, and its outputs on test records are kept.
How the subsets are drawn decides what can be estimated:

============ ======================================== ==========================================================
sampling     subsets                                  estimators
============ ======================================== ==========================================================
"fixed"      m = fraction * n records, uniformly      downsampling, memorisation, datamodel, consistency score
"bernoulli"  each record with probability 1/2         Banzhaf (maximum sample reuse), memorisation, datamodel
"ame"        each record with probability p, p uniform AME
             on {.2, .4, .6, .8} for each subset
"bootstrap"  n records with replacement               Data-OOB, memorisation
============ ======================================== ==========================================================

Downsampling (Feldman and Zhang 2020) contrasts the mean loss of models without and with i,

.. math::  \hat I(z_i, z) = \mathrm{mean}_{k: i \notin D_k} L(z; \theta_k) - \mathrm{mean}_{k: i \in D_k} L(z; \theta_k).

At finite n its limit is the expected effect of adding i to a set of m - 1 *minus* what any record at all does there,
because subsets with i have one other record less. With probability 1/2 the same contrast is the Banzhaf value, without
that shift (Wang and Jia 2023). A datamodel (Ilyas et al. 2022) regresses outputs on the masks.

References: Feldman, V. and Zhang, C. (2020), NeurIPS 33. Wang, J. T. and Jia, R. (2023), AISTATS. Ilyas, A. et al.
(2022), ICML. Lin, J. et al. (2022), ICML (AME). Kwon, Y. and Zou, J. (2023), ICML (Data-OOB). Jiang, Z. et al.
(2021), ICML (consistency score).

Cost: K fits; every estimator after that is a matrix product of masks and outputs.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import Lasso
from sklearn.utils.validation import check_is_fitted

from .._validation import RandomState, as_seed_sequence, check_choice, check_integer, check_number
from ._base import BaseInfluence
from .models import make_oracle
from .monte_carlo import MonteCarloValues, weighted_contrast
from .oracle import count
from .retraining import (
    CloneLearner,
    content_key,
    fit_subsets,
    newton_learner_or_none,
    value_of,
)

Array = NDArray[np.float64]

AME_PROBABILITIES = np.array([0.2, 0.4, 0.6, 0.8])


class SubsetEnsemble(BaseInfluence):
    """Models of random subsets: downsampling, memorisation, datamodels, Banzhaf, AME, Data-OOB.

    Parameters
    ----------
    n_subsets : int, default=300
        K, the number of models.
    fraction : float or sequence of floats, default=0.7
        Share of records in a subset for sampling="fixed". Several give subsets of all these sizes in turn, for
        `consistency_score` over sizes.
    sampling : {"fixed", "bernoulli", "ame", "bootstrap"}, default="fixed"
    seeds : int, default=1
        Fits a subset, with different random_state of the estimator, whose outputs are averaged.
    warm_start : bool, default=False
        Fit generalised linear models by Newton steps from the full fit (needs a fitted estimator); the steps
        before a Pipeline's last are then not refitted.
    store : {"models", "outputs"}, default="models"
        "models" keeps every model, for test records that are not known yet. "outputs" keeps the outputs on the
        training records and on the X_val of ``fit`` alone; needed with checkpoint_dir.
    random_state : int, Generator or None, default=None
    n_jobs, progress, checkpoint_dir
        As in `statml.parallel.parallel_map`; results do not depend on n_jobs or the backend.

    Attributes
    ----------
    masks_ : ndarray of bool, shape (n_subsets, n_train)
    influence_std_ : ndarray of shape (n_test, n_train)
        Standard errors of the last result of ``influence``.
    n_fits_ : int

    Notes
    -----
    ``influence`` is the estimator that belongs to the sampling: downsampling for "fixed", Banzhaf for "bernoulli", AME
    for "ame"; for "bootstrap" the contrast of models without and with the record. Positive is helpful.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from statml.influence import SubsetEnsemble
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000)
    >>> ensemble = SubsetEnsemble(n_subsets=40, random_state=0).fit(model, X[::3], y[::3])
    >>> ensemble.influence(X[1::3], y[1::3]).shape
    (50, 50)
    >>> ensemble.memorization().value.shape
    (50,)
    """

    _needs_oracle = False

    def __init__(
        self,
        n_subsets: int = 300,
        fraction: float | ArrayLike = 0.7,
        sampling: str = "fixed",
        seeds: int = 1,
        warm_start: bool = False,
        store: str = "models",
        random_state: RandomState = None,
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike[str] | None = None,
    ):
        self.n_subsets = n_subsets
        self.fraction = fraction
        self.sampling = sampling
        self.seeds = seeds
        self.warm_start = warm_start
        self.store = store
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val):
        K = check_integer("n_subsets", self.n_subsets, low=2)
        check_integer("seeds", self.seeds, low=1)
        check_choice("store", self.store, ("models", "outputs"))
        self._learner = None
        if self.warm_start:
            oracle = make_oracle(estimator, X, y, sample_weight)
            self._learner = newton_learner_or_none(oracle, estimator, X, y, sample_weight)
            if self._learner is None:
                raise ValueError(
                    "warm_start=True takes linear and logistic models without an L1 penalty or balanced class "
                    "weights; use warm_start=False"
                )
        else:
            self._learner = CloneLearner(estimator, X, y, sample_weight)
        root = as_seed_sequence(self.random_state)
        if self.checkpoint_dir is not None and self.random_state is None:
            raise ValueError(
                "random_state must be given with checkpoint_dir, to draw the same subsets"
            )
        for_masks, for_fits = root.spawn(2)
        subsets = draw_subsets(
            self.sampling, self.n_train_, K, self.fraction, np.random.default_rng(for_masks)
        )
        if self.sampling == "ame":
            self._probabilities, subsets = subsets
        self.masks_: NDArray[np.bool_] = np.zeros((K, self.n_train_), dtype=bool)
        for k, members in enumerate(subsets):
            self.masks_[k, members] = True
        self._records = [self._learner.check_records(X, y)]
        if X_val is not None:
            self._records.append(self._learner.check_records(X_val, y_val))
        outputs, self._models = fit_subsets(
            self._learner, subsets, self._records,
            seeds=self.seeds, keep_models=self.store == "models", random_state=for_fits,
            n_jobs=self.n_jobs, progress=self.progress, checkpoint_dir=self.checkpoint_dir,
            description="subset ensemble",
        )  # fmt: skip
        start = 0
        self._outputs = {}
        for records in self._records:
            stop = start + count(records[0])
            self._outputs[content_key(records)] = outputs[:, start:stop]
            start = stop
        self.n_fits_ = K * self.seeds
        self.method_ = f"subset ensemble ({self.sampling}, {K} subsets)"

    # --- estimators ---

    def downsampling(
        self, X_test: Any, y_test: ArrayLike, target: str = "loss"
    ) -> MonteCarloValues:
        """Mean loss without each record less mean loss with it, over subsets of one size.

        Returns
        -------
        MonteCarloValues of shape (n_test, n_train)
        """
        self._require("downsampling", "fixed")
        return self._contrast(X_test, y_test, target)

    def banzhaf(
        self, X_test: Any, y_test: ArrayLike, target: str = "loss", *, aggregate: bool = False
    ) -> MonteCarloValues:
        """Banzhaf values by maximum sample reuse.

        Parameters
        ----------
        X_test, y_test, target
            As in ``influence``.
        aggregate : bool, default=False
            Value on the mean over the test records, with its own standard error.

        Returns
        -------
        MonteCarloValues of shape (n_test, n_train) or (n_train,)
        """
        self._require("banzhaf", "bernoulli")
        return self._contrast(X_test, y_test, target, aggregate)

    def memorization(self) -> MonteCarloValues:
        """Influence of each record on its own loss (Feldman and Zhang 2020).

        Returns
        -------
        MonteCarloValues of shape (n_train,)
        """
        check_is_fitted(self)
        losses = self._values(*self._records[0], "loss")
        out = MonteCarloValues(np.empty(self.n_train_), np.empty(self.n_train_))
        for i in range(self.n_train_):
            own = weighted_contrast(self.masks_[:, [i]], losses[:, [i]])
            out.value[i], out.std_error[i] = -own.value[0, 0], own.std_error[0, 0]
        return out

    def consistency_score(self, target: str = "loss") -> MonteCarloValues:
        """How well each record is predicted by models that have not seen it; large means easy.

        Returns
        -------
        MonteCarloValues of shape (n_train,)
            Minus the mean loss (or the mean margin, or prediction) over the subsets that lack the record.
        """
        check_is_fitted(self)
        values = self._values(*self._records[0], target)
        values = -values if target == "loss" else values
        return _mean_where(values, ~self.masks_)

    def data_oob(self, target: str = "prediction") -> MonteCarloValues:
        """Mean quality of the out-of-bag predictions of each record (Kwon and Zou 2023).

        Parameters
        ----------
        target : {"prediction", "loss", "margin"}, default="prediction"
            "prediction": the probability of the record's class; "loss": minus its loss, the one to take for a
            regression.
        """
        self._require("data_oob", "bootstrap")
        if target == "prediction" and not self._learner.classifies:
            raise ValueError('target must be "loss" for a regression: a prediction is no quality')
        return self.consistency_score(target)

    def datamodel(
        self, X_test: Any, y_test: ArrayLike, alpha: float | str = "auto", *, kind: str = "ridge",
        target: str = "loss",
    ) -> MonteCarloValues:  # fmt: skip
        """Linear regression of each test record's value on which records were in the subset.

        Parameters
        ----------
        X_test, y_test, target
            As in ``influence``.
        alpha : float or "auto", default="auto"
            Penalty on the sum of squared residuals (ridge) or scikit-learn's (lasso); "auto" minimises the
            generalised cross-validation error over all test records, for the ridge.
        kind : {"ridge", "lasso"}, default="ridge"

        Returns
        -------
        MonteCarloValues of shape (n_test, n_train)
            Signed so that positive is helpful. The ridge's standard errors are those of its (shrunken)
            coefficients under equal residual variance; the lasso has none.
        """
        if self.sampling not in ("fixed", "bernoulli"):
            self._require("datamodel", "fixed")
        check_choice("kind", kind, ("ridge", "lasso"))
        X, y = self._prepare(X_test, y_test, target)
        F = self._values(X, y, target)
        sign = -1.0 if target == "loss" else 1.0
        M = self.masks_ - self.masks_.mean(axis=0)
        F = F - F.mean(axis=0)
        if kind == "lasso":
            alpha = check_number("alpha", alpha, 0, low_open=True)
            coef = np.stack([Lasso(alpha=alpha, max_iter=10_000).fit(M, f).coef_ for f in F.T])
            return MonteCarloValues(sign * coef, np.full(coef.shape, np.nan))
        if alpha != "auto":
            check_number("alpha", alpha, 0, low_open=True)
        coef, error = ridge_datamodel(M, F, None if alpha == "auto" else alpha)
        return MonteCarloValues(sign * coef, error)

    def ame(
        self, X_test: Any, y_test: ArrayLike, alpha: float | None = None, *, target: str = "loss"
    ) -> MonteCarloValues:
        """Average marginal effect over subsets of all four inclusion probabilities (Lin et al. 2022).

        Parameters
        ----------
        X_test, y_test, target
            As in ``influence``.
        alpha : float, optional
            Penalty of the authors' lasso on the coding 1/p (in) and -1/(1 - p) (out), for few subsets and few
            records that matter; it has no standard errors. None: the unbiased moment estimator.

        Returns
        -------
        MonteCarloValues of shape (n_test, n_train)
        """
        self._require("ame", "ame")
        X, y = self._prepare(X_test, y_test, target)
        F = self._values(X, y, target)
        F = -(F - F.mean(axis=0)) if target == "loss" else F - F.mean(axis=0)
        p = self._probabilities[:, None]
        code = np.where(
            self.masks_, 1 / p, -1 / (1 - p)
        )  # E[code * U] is the average marginal effect
        K = len(code)
        if alpha is not None:
            scale = np.mean(
                1 / (AME_PROBABILITIES * (1 - AME_PROBABILITIES))
            )  # variance of the code
            lasso = Lasso(alpha=check_number("alpha", alpha, 0, low_open=True), max_iter=10_000)
            coef = np.stack([lasso.fit(code, f).coef_ for f in F.T]) * scale
            return MonteCarloValues(coef, np.full(coef.shape, np.nan))
        value = F.T @ code / K
        second = (F**2).T @ code**2 / K
        return MonteCarloValues(value * K / (K - 1), np.sqrt((second - value**2) / K))

    def lds_truth(
        self, X_test: Any, y_test: ArrayLike, target: str = "loss"
    ) -> tuple[NDArray[np.bool_], Array]:
        """Masks (K, n_train) and test values (K, n_test), for `metrics.linear_datamodeling_score`."""
        X, y = self._prepare(X_test, y_test, target)
        return self.masks_.copy(), self._values(X, y, target).copy()

    # --- hooks of BaseInfluence ---

    def _influence(self, X, y, target):
        estimate = self._estimate(X, y, target)
        self.influence_std_ = estimate.std_error
        never = ~np.isfinite(estimate.value).all(axis=0)
        if never.any():
            warnings.warn(
                f"{never.sum()} records were in or out of fewer than two subsets; their influence is NaN. "
                "Raise n_subsets",
                stacklevel=3,
            )
        return estimate.value

    def _estimate(self, X, y, target) -> MonteCarloValues:
        if self.sampling == "ame":
            return self.ame(X, self._uncoded(y), target=target)
        values = self._values(X, y, target)
        return weighted_contrast(self.masks_, -values if target == "loss" else values)

    def _contrast(self, X_test, y_test, target, aggregate=False):
        X, y = self._prepare(X_test, y_test, target)
        values = self._values(X, y, target)
        if aggregate:
            values = values.mean(axis=1, keepdims=True)
        found = weighted_contrast(self.masks_, -values if target == "loss" else values)
        if not aggregate:
            return found
        return MonteCarloValues(found.value[0], found.std_error[0], found.df[0])

    def _mean_values(self, X, y):
        if self.sampling == "ame":
            raise TypeError('sampling="ame" has no test of the mean; use ame(...).influential(q)')
        mean = -self._values(X, y, "loss").mean(axis=1, keepdims=True)
        found = weighted_contrast(self.masks_, mean)
        return MonteCarloValues(found.value[0], found.std_error[0], found.df[0])

    def _self_influence(self):
        return self.memorization().value

    def _prepare(self, X, y, target):
        check_is_fitted(self)
        check_choice("target", target, ("loss", "margin", "prediction"))
        if X is None:
            raise ValueError("X_test must hold test records, got None")
        X, y = self._learner.check_records(X, y)
        if y is None and (target == "loss" or self._learner.classifies):
            raise ValueError(f'y_test must be given for target="{target}"')
        return X, y

    def _training_records(self):
        return self._records[0]

    def _uncoded(self, y):
        return self._learner.classes[y.astype(int)] if self._learner.classifies else y

    def _values(self, X, y, target) -> Array:
        """Values (K, m) of the models on test records."""
        key = content_key((X, y))
        outputs = self._outputs.get(key)
        if outputs is None:
            if self._models is None:
                raise ValueError(
                    "no models were kept, so X_test and y_test must be the X_val and y_val of fit or its training "
                    'data; name them there, or use store="models"'
                )
            outputs = np.stack(
                [
                    np.mean([self._learner.outputs(m, X, y) for m in ms], axis=0)
                    for ms in self._models
                ]
            )
        return value_of(outputs, y, self._learner.classifies, target)

    def _require(self, name: str, sampling: str) -> None:
        check_is_fitted(self)
        if self.sampling != sampling:
            raise ValueError(
                f'{name}() needs sampling="{sampling}", got "{self.sampling}": how subsets are drawn decides what '
                "can be estimated"
            )
        if sampling == "fixed" and np.ndim(self.fraction):
            raise ValueError(
                f"{name}() needs one fraction: with several, subsets with a record are larger than those without"
            )


def draw_subsets(sampling: str, n: int, K: int, fraction, rng: np.random.Generator):
    """Members of K random subsets; for "ame" also their inclusion probabilities."""
    check_choice("sampling", sampling, ("fixed", "bernoulli", "ame", "bootstrap"))
    if sampling == "bootstrap":
        return [rng.integers(n, size=n) for _ in range(K)]
    if sampling == "bernoulli":
        return [np.flatnonzero(rng.random(n) < 0.5) for _ in range(K)]
    if sampling == "ame":
        p = rng.choice(AME_PROBABILITIES, size=K)
        return p, [np.flatnonzero(rng.random(n) < share) for share in p]
    fractions = np.atleast_1d(np.asarray(fraction, dtype=float))
    for share in fractions:
        check_number("fraction", float(share), 0, 1, low_open=True, high_open=True)
    sizes = np.ceil(fractions * n - 1e-9).astype(int)
    if sizes.min() < 1 or sizes.max() > n - 1:
        raise ValueError(f"fraction must leave a record in and one out of {n}, got {fraction!r}")
    return [np.sort(rng.permutation(n)[: sizes[k % len(sizes)]]) for k in range(K)]


def ridge_datamodel(M: Array, F: Array, alpha: float | None) -> tuple[Array, Array]:
    """Ridge coefficients (m, n) of centred outputs F (K, m) on centred masks M (K, n), and standard errors."""
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    keep = s > 1e-10 * s[0]
    U, s, Vt = U[:, keep], s[keep], Vt[keep]
    UF = U.T @ F
    outside = (F**2).sum(axis=0) - (UF**2).sum(axis=0)
    K = len(M)

    def residual(a):  # of each output, and the degrees of freedom that are left
        shrink = a / (s**2 + a)
        return ((shrink[:, None] * UF) ** 2).sum(axis=0) + np.maximum(outside, 0), K - 1 - (
            1 - shrink
        ).sum()

    if alpha is None:
        grid = s[0] ** 2 * np.logspace(-6, 2, 60)
        scores = []
        for a in grid:
            rss, df = residual(a)
            scores.append(rss.sum() / df**2)
        alpha = float(grid[int(np.argmin(scores))])
    factor = s / (s**2 + alpha)
    coef = (UF.T * factor) @ Vt
    rss, df = residual(alpha)
    spread = np.sqrt(((factor[:, None] * Vt) ** 2).sum(axis=0))
    return coef, np.sqrt(rss / df)[:, None] * spread


def _mean_where(values: Array, where: NDArray[np.bool_]) -> MonteCarloValues:
    """Column means over the rows in `where`, with standard errors."""
    m = where.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(where, values, 0).sum(axis=0) / m
        variance = (np.where(where, values - mean, 0) ** 2).sum(axis=0) / (m - 1)
        error = np.sqrt(variance / m)
    return MonteCarloValues(np.where(m > 0, mean, np.nan), np.where(m > 1, error, np.nan))
