r"""How good are influence estimates? Judged against retraining, never by eye.

* Linear datamodeling score (Park et al. 2023): over random subsets S, the rank correlation between a test record's value
  under the model of S and :math:`\sum_{i \in S} \tau_i`, averaged over test records.
* Correlation, and slope, with exact leave-one-out.
* Detection of mislabelled records: area under the ROC curve, always beside that of the plain loss, a baseline that is
  hard to beat.
* Brittleness: how often a prediction flips when the records that support it most are removed.
* Removal curves, overlap of the top k, stability over repetitions.

References: Park, S. M. et al. (2023). TRAK: attributing model behavior at scale. ICML. DeLong, E. R. et al. (1988).
Biometrics 44, 837-845.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_auc_score

from .._validation import (
    RandomState,
    as_generator,
    check_choice,
    check_finite,
    check_integer,
    check_level,
)
from ..parallel import parallel_map
from .retraining import CloneLearner, value_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearDatamodelingScore:
    """A linear datamodeling score with its uncertainty.

    Attributes
    ----------
    score : float
        Mean over test records.
    conf_low, conf_high : float
        Bootstrap interval over test records, the subsets as they are.
    per_test : ndarray of shape (n_test,)
    noise_ceiling : float
        The score that the truth itself would reach against outputs as noisy as these; NaN without repeated
        outputs.
    level : float
    """

    score: float
    conf_low: float
    conf_high: float
    per_test: Array
    noise_ceiling: float
    level: float


def linear_datamodeling_score(
    tau: ArrayLike,
    masks: ArrayLike,
    outputs: ArrayLike,
    *,
    target: str = "loss",
    n_boot: int = 200,
    level: float = 0.95,
    random_state: RandomState = 0,
) -> LinearDatamodelingScore:
    """Rank correlation of predicted and observed values under models of random subsets.

    Parameters
    ----------
    tau : array-like of shape (n_test, n_train)
        Influence, positive for helpful.
    masks : array-like of bool, shape (M, n_train)
        Membership in each subset, as from ``SubsetEnsemble.lds_truth``.
    outputs : array-like of shape (M, n_test) or (R, M, n_test)
        Values of the test records under each subset's model; with R repetitions (other seeds), their mean is taken and
        the noise ceiling follows from their agreement.
    target : {"loss", "margin", "prediction"}, default="loss"
        What `outputs` are; losses fall as helpful records are added.
    n_boot : int, default=200
    level : float, default=0.95
    random_state : int, Generator or None, default=0
        Of the bootstrap.

    Returns
    -------
    LinearDatamodelingScore

    Notes
    -----
    A constant row, of outputs or predictions, has no ranks and scores 0.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.influence.metrics import linear_datamodeling_score
    >>> rng = np.random.default_rng(0)
    >>> tau, masks = rng.normal(size=(4, 30)), rng.random((50, 30)) < 0.5
    >>> linear_datamodeling_score(tau, masks, -(masks @ tau.T)).score  # an additive loss
    1.0
    """
    check_choice("target", target, ("loss", "margin", "prediction"))
    check_integer("n_boot", n_boot, low=2)
    level = check_level(level)
    tau = np.asarray(tau, dtype=float)
    masks = np.asarray(masks, dtype=bool)
    outputs = np.asarray(outputs, dtype=float)
    repeated = outputs if outputs.ndim == 3 else outputs[None]
    if (
        tau.ndim != 2
        or masks.shape != (repeated.shape[1], tau.shape[1])
        or repeated.shape[2] != len(tau)
    ):
        raise ValueError(
            "tau (n_test, n_train), masks (M, n_train) and outputs (M, n_test) do not fit together, "
            f"got {tau.shape}, {masks.shape} and {outputs.shape}"
        )
    if not np.isfinite(tau).all():
        raise ValueError("tau holds NaN or infinite values")
    sign = -1.0 if target == "loss" else 1.0
    predicted = tau @ masks.T.astype(float)
    per_test = row_spearman(predicted, sign * repeated.mean(axis=0).T)
    rng = as_generator(random_state)
    draws = per_test[rng.integers(len(per_test), size=(n_boot, len(per_test)))].mean(axis=1)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return LinearDatamodelingScore(
        float(per_test.mean()), float(low), float(high), per_test, _noise_ceiling(repeated), level
    )


def _noise_ceiling(repeated: Array) -> float:
    """sqrt of the reliability of the mean of R repetitions (Spearman-Brown)."""
    R = len(repeated)
    if R < 2:
        return float("nan")
    agreement = np.mean(
        [row_spearman(repeated[a].T, repeated[b].T).mean() for a in range(R) for b in range(a)]
    )
    return float(np.sqrt(max(R * agreement / (1 + (R - 1) * agreement), 0.0)))


def loo_correlation(tau: ArrayLike, truth: ArrayLike) -> pd.Series:
    """Agreement with exact leave-one-out.

    Parameters
    ----------
    tau, truth : array-like of the same shape
        Estimated and exact influence.

    Returns
    -------
    Series
        pearson and spearman over all entries; slope, of the estimate on the truth through the origin (below 1: the
        estimate is too small); per_test_spearman, the mean over rows.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.influence.metrics import loo_correlation
    >>> truth = np.array([[1.0, -2.0, 3.0], [0.5, 0.1, -1.0]])
    >>> loo_correlation(0.6 * truth, truth).round(3).tolist()
    [1.0, 1.0, 0.6, 1.0]
    """
    tau = check_finite("tau", np.asarray(tau, dtype=float))
    truth = check_finite("truth", np.asarray(truth, dtype=float))
    if tau.shape != truth.shape:
        raise ValueError(f"tau and truth must have one shape, got {tau.shape} and {truth.shape}")
    a, b = tau.reshape(1, -1), truth.reshape(1, -1)
    return pd.Series(
        {
            "pearson": _row_correlation(a, b)[0],
            "spearman": row_spearman(a, b)[0],
            "slope": float((a @ b.T)[0, 0] / (b @ b.T)[0, 0]),
            "per_test_spearman": row_spearman(np.atleast_2d(tau), np.atleast_2d(truth)).mean(),
        }
    )


def mislabel_auc(
    scores: ArrayLike, is_bad: ArrayLike, loss: ArrayLike | None = None, *, level: float = 0.95
) -> pd.DataFrame:
    """Do high scores point to the bad records? With the plain loss beside it.

    Parameters
    ----------
    scores : array-like of shape (n_train,)
        Higher for suspects: self-influence, or minus the mean influence on clean validation data.
    is_bad : array-like of bool, shape (n_train,)
    loss : array-like of shape (n_train,), optional
        Training loss of each record; give it, since few scores beat it.
    level : float, default=0.95

    Returns
    -------
    DataFrame
        Rows "score" and, with `loss`, "loss" and "difference"; columns auc, std_error (DeLong), conf_low, conf_high.

    Examples
    --------
    >>> from statml.influence.metrics import mislabel_auc
    >>> float(mislabel_auc([0.9, 0.8, 0.1, 0.2, 0.3], [1, 0, 0, 1, 0]).loc["score", "auc"].round(3))
    0.667
    """
    level = check_level(level)
    is_bad = np.asarray(is_bad).astype(bool)
    if not 0 < is_bad.sum() < len(is_bad):
        raise ValueError("is_bad must hold both bad and good records")
    columns = {"score": scores} if loss is None else {"score": scores, "loss": loss}
    placements, aucs = [], []
    for name, values in columns.items():
        values = np.asarray(values, dtype=float)
        if values.shape != is_bad.shape or not np.isfinite(values).all():
            raise ValueError(
                f"{name} must hold one finite number for each of {len(is_bad)} records"
            )
        aucs.append(roc_auc_score(is_bad, values))
        ranks = rankdata(values)
        within = np.empty(len(values))
        within[is_bad], within[~is_bad] = rankdata(values[is_bad]), rankdata(values[~is_bad])
        n_bad, n_good = is_bad.sum(), (~is_bad).sum()
        v10 = (ranks - within)[is_bad] / n_good
        v01 = 1 - (ranks - within)[~is_bad] / n_bad
        placements.append((v10, v01))
    table = {}
    combinations = {"score": [1.0, 0.0], "loss": [0.0, 1.0], "difference": [1.0, -1.0]}
    for name, c in combinations.items():
        if loss is None and name != "score":
            continue
        c = c[: len(aucs)]
        v10 = sum(w * p[0] for w, p in zip(c, placements, strict=True))
        v01 = sum(w * p[1] for w, p in zip(c, placements, strict=True))
        auc = float(np.dot(c, aucs))
        variance = sum(v.var(ddof=1) / len(v) if len(v) > 1 else np.nan for v in (v10, v01))
        error = float(np.sqrt(variance))
        half = norm.ppf((1 + level) / 2) * error
        table[name] = (auc, error, auc - half, auc + half)
    return pd.DataFrame.from_dict(
        table, orient="index", columns=["auc", "std_error", "conf_low", "conf_high"]
    )


def brittleness(
    tau: ArrayLike,
    estimator: Any,
    X: Any,
    y: ArrayLike,
    X_test: Any,
    y_test: ArrayLike,
    ks: Sequence[int] = (10, 20, 40),
    *,
    n_jobs: int | None = None,
    progress: bool | str = "auto",
) -> pd.DataFrame:
    """Share of right predictions that flip when the k most helpful records of each are removed.

    Parameters
    ----------
    tau : array-like of shape (n_test, n_train)
        Influence, positive for helpful.
    estimator, X, y : classifier and its training data
        Refitted once for each test record and k.
    X_test, y_test : test records of the rows of `tau`
        Those that the full model gets wrong are left out.
    ks : sequence of int, default=(10, 20, 40)
    n_jobs, progress
        As in `statml.parallel.parallel_map`.

    Returns
    -------
    DataFrame
        Columns k, flipped (share), std_error (binomial), n_test.
    """
    tau = np.asarray(tau, dtype=float)
    learner = CloneLearner(estimator, X, y)
    if not learner.classifies:
        raise TypeError("brittleness is defined for classifiers")
    Z, codes = learner.check_records(X_test, y_test)
    n = len(learner.y)
    if tau.shape != (len(codes), n):
        raise ValueError(f"tau must have shape ({len(codes)}, {n}), got {tau.shape}")
    full = learner.class_probabilities(learner.fit(np.arange(n)), Z).argmax(axis=1)
    right = np.flatnonzero(full == codes)
    tasks = [(int(j), check_integer("k", k, 1, n - 1)) for k in ks for j in right]
    order = np.argsort(-tau, axis=1, kind="stable")

    flips = parallel_map(
        _Flip(learner, order, Z, codes), tasks, random_state=0, n_jobs=n_jobs, progress=progress,
        description="brittleness",
    )  # fmt: skip
    table = pd.DataFrame({"k": [k for _, k in tasks], "flipped": flips})
    share = table.groupby("k", sort=False)["flipped"].mean()
    return pd.DataFrame(
        {
            "k": share.index,
            "flipped": share.to_numpy(),
            "std_error": np.sqrt(share * (1 - share) / len(right)).to_numpy(),
            "n_test": len(right),
        }
    )


@dataclass
class _Flip:
    learner: CloneLearner
    order: NDArray[np.int64]
    Z: Any
    codes: Array

    def __call__(self, task, rng) -> bool:
        j, k = task
        kept = np.sort(self.order[j, k:])
        one = self.Z.iloc[[j]] if hasattr(self.Z, "iloc") else self.Z[[j]]
        p = self.learner.class_probabilities(self.learner.fit(kept), one)
        return bool(p.argmax(axis=1)[0] != self.codes[j])


def removal_curve(
    scores: ArrayLike,
    estimator: Any,
    X: Any,
    y: ArrayLike,
    X_test: Any,
    y_test: ArrayLike,
    fractions: ArrayLike = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4),
    *,
    order: str = "highest",
    n_random: int = 10,
    random_state: RandomState = 0,
    n_jobs: int | None = None,
    progress: bool | str = "auto",
) -> pd.DataFrame:
    """Mean test loss as records are removed in the order of a score, with random removal beside it.

    Parameters
    ----------
    scores : array-like of shape (n_train,)
        Value of each record, for instance the mean influence on the test records.
    estimator, X, y, X_test, y_test : model, training and test data
    fractions : array-like, default=(0, 0.05, 0.1, 0.2, 0.3, 0.4)
        Shares of the training data that are removed.
    order : {"highest", "lowest"}, default="highest"
        Remove the most helpful first (the loss should rise fast), or the most harmful (it should fall).
    n_random : int, default=10
        Random orders of the baseline.
    random_state, n_jobs, progress
        As in `statml.parallel.parallel_map`.

    Returns
    -------
    DataFrame
        Columns fraction, n_removed, loss, random_loss, random_std_error.
    """
    check_choice("order", order, ("highest", "lowest"))
    n_random = check_integer("n_random", n_random, low=2)
    scores = np.asarray(scores, dtype=float)
    learner = CloneLearner(estimator, X, y)
    n = len(learner.y)
    if scores.shape != (n,) or not np.isfinite(scores).all():
        raise ValueError(f"scores must hold one finite number for each of {n} records")
    fractions = np.atleast_1d(np.asarray(fractions, dtype=float))
    if ((fractions < 0) | (fractions >= 1)).any():
        raise ValueError(f"fractions must lie in [0, 1), got {fractions.tolist()}")
    removed = np.round(fractions * n).astype(int)
    rng = as_generator(random_state)
    ranked = np.argsort(-scores if order == "highest" else scores, kind="stable")
    orders = [ranked, *(rng.permutation(n) for _ in range(n_random))]
    tasks = [np.sort(sequence[m:]) for sequence in orders for m in removed]
    losses = parallel_map(
        _TestLoss(learner, *learner.check_records(X_test, y_test)), tasks, random_state=0,
        n_jobs=n_jobs, progress=progress, description="removal curve",
    )  # fmt: skip
    losses = np.reshape(losses, (len(orders), len(removed)))
    return pd.DataFrame(
        {
            "fraction": fractions,
            "n_removed": removed,
            "loss": losses[0],
            "random_loss": losses[1:].mean(axis=0),
            "random_std_error": losses[1:].std(axis=0, ddof=1) / np.sqrt(n_random),
        }
    )


@dataclass
class _TestLoss:
    learner: CloneLearner
    X: Any
    y: Array

    def __call__(self, members, rng) -> float:
        outputs = self.learner.outputs(self.learner.fit(members, rng), self.X, self.y)
        return float(value_of(outputs, self.y, self.learner.classifies).mean())


def top_k_overlap(a: ArrayLike, b: ArrayLike, k: int = 10) -> float:
    """Mean share of the k largest entries (in absolute value) that two estimates have in common, over rows.

    Parameters
    ----------
    a, b : array-like of shape (n_test, n_train) or (n_train,)
    k : int, default=10

    Examples
    --------
    >>> top_k_overlap([3.0, 2.0, 1.0], [3.0, 0.0, -2.0], k=2)
    0.5
    """
    a = check_finite("a", np.atleast_2d(np.asarray(a, dtype=float)))
    b = check_finite("b", np.atleast_2d(np.asarray(b, dtype=float)))
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {a.shape} and {b.shape}")
    k = check_integer("k", k, 1, a.shape[1])
    tops = [np.argsort(-np.abs(m), axis=1, kind="stable")[:, :k] for m in (a, b)]
    shared = [len(np.intersect1d(x, z)) / k for x, z in zip(*tops, strict=True)]
    return float(np.mean(shared))


def stability(repeats: Sequence[ArrayLike]) -> float:
    """Mean rank correlation between repetitions of an estimate, over rows and pairs.

    Parameters
    ----------
    repeats : sequence of array-like, each (n_test, n_train) or (n_train,)
        Estimates from other seeds or other bootstrap samples.

    Examples
    --------
    >>> stability([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]])
    1.0
    """
    rows = [check_finite("repeats", np.atleast_2d(np.asarray(r, dtype=float))) for r in repeats]
    if len(rows) < 2 or any(r.shape != rows[0].shape for r in rows):
        raise ValueError("repeats must hold two or more estimates of one shape")
    return float(
        np.mean([row_spearman(rows[a], rows[b]).mean() for a in range(len(rows)) for b in range(a)])
    )


def row_spearman(A: Array, B: Array) -> Array:
    """Spearman correlation of each row of A with that row of B; 0 where one is constant."""
    A, B = (check_finite(name, np.asarray(M, dtype=float)) for name, M in (("A", A), ("B", B)))
    if A.ndim != 2 or A.shape != B.shape:
        raise ValueError(f"A and B must be matrices of one shape, got {A.shape} and {B.shape}")
    return _row_correlation(rankdata(A, axis=1), rankdata(B, axis=1))


def _row_correlation(A: Array, B: Array) -> Array:
    A, B = A - A.mean(axis=1, keepdims=True), B - B.mean(axis=1, keepdims=True)
    scale = np.sqrt((A**2).sum(axis=1) * (B**2).sum(axis=1))
    return np.divide((A * B).sum(axis=1), scale, out=np.zeros(len(A)), where=scale > 0)
