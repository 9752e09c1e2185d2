r"""Scores of learning task by task, and of saying "unknown".

**Continual.** :math:`A_{tj}` is the accuracy on task j after task t, of T. With :math:`b_j` the accuracy of the untrained model,

* ACC :math:`= \frac1T \sum_j A_{Tj}`;
* backward transfer BWT :math:`= \frac1{T-1} \sum_{j<T} (A_{Tj} - A_{jj})`;
* forward transfer FWT :math:`= \frac1{T-1} \sum_{j>1} (A_{j-1,j} - b_j)` (Lopez-Paz and Ranzato);
* forgetting :math:`= \frac1{T-1} \sum_{j<T} (\max_{l<T} A_{lj} - A_{Tj})` (Chaudhry et al.), and the other definition in use,
  with :math:`A_{jj}` in place of the maximum, which is -BWT;
* average incremental accuracy: the mean over t of the mean accuracy on the tasks seen by then;
* base and new: :math:`A_{T1}` and :math:`A_{TT}`.

**Open set.** Scores are high for what is unknown. AUROC: the chance that an unknown record scores above a known one. FPR95: the share of
unknown records that pass where 95 % of the known ones do. OSCR: the area under the share of known records that pass *and* are
classified correctly, over the share of unknown ones that pass. Openness :math:`= 1 - \sqrt{2 N_{train} / (N_{target} + N_{test})}` in
numbers of classes (Scheirer et al.).

References
----------
Lopez-Paz, D. and Ranzato, M. (2017). Gradient episodic memory for continual learning. NeurIPS.
Chaudhry, A., Dokania, P. K., Ajanthan, T. and Torr, P. H. S. (2018). Riemannian walk for incremental learning. ECCV.
Dhamija, A. R., Günther, M. and Boult, T. E. (2018). Reducing network agnostophobia. NeurIPS. OSCR.
Scheirer, W. J., Rocha, A., Sapkota, A. and Boult, T. E. (2013). Toward open set recognition. IEEE TPAMI 35, 1757-1772.
Newcombe, R. G. (2006). Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2. Statistics in
Medicine 25, 559-573. Method 5.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import norm, rankdata
from statsmodels.stats.proportion import proportion_confint

from statml._validation import check_integer, check_level, check_number

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ContinualScores:
    """Scores of one accuracy matrix; see `continual_scores`. NaN where there is nothing to compute one from.

    Attributes
    ----------
    acc, bwt, fwt : float
    forgetting : float
        From the best accuracy before the last task.
    forgetting_since_learned : float
        From the accuracy just after the task; -bwt.
    average_incremental, base, new : float
    """

    acc: float
    bwt: float
    fwt: float
    forgetting: float
    forgetting_since_learned: float
    average_incremental: float
    base: float
    new: float

    def as_dict(self) -> dict[str, float]:
        """Name to value."""
        return asdict(self)


def continual_scores(
    A: ArrayLike, baseline: ArrayLike | None = None, weights: ArrayLike | None = None
) -> ContinualScores:
    """Score a matrix of accuracies.

    Parameters
    ----------
    A : array-like of shape (T, T)
        Row t: accuracies on all tasks after task t. Above the diagonal NaN is taken, where nothing was measured.
    baseline : array-like of shape (T,), optional
        Accuracies of the untrained model. Without them, or with NaN just above the diagonal, forward transfer is NaN.
    weights : array-like of shape (T,), optional
        Of the tasks in ``acc`` and ``average_incremental``, as their numbers of classes; default: equal.

    Returns
    -------
    ContinualScores

    Raises
    ------
    ValueError
        For a matrix that is not square, values outside [0, 1], NaN on or below the diagonal, or other shapes.

    Examples
    --------
    >>> scores = continual_scores([[0.9, 0.1], [0.6, 0.8]], baseline=[0.5, 0.05])
    >>> round(scores.acc, 3), round(scores.bwt, 3), round(scores.fwt, 3), round(scores.forgetting, 3)
    (0.7, -0.3, 0.05, 0.3)
    """
    A = np.asarray(A, dtype=float)
    if A.ndim != 2 or A.shape[0] != A.shape[1] or len(A) == 0:
        raise ValueError(
            f"A must be a square matrix, one row and column a task, got shape {A.shape}"
        )
    T = len(A)
    if np.isnan(A[np.tril_indices(T)]).any():
        raise ValueError("A must have numbers on and below the diagonal, got NaN")
    if ((A < 0) | (A > 1)).any():
        raise ValueError(f"A must lie in [0, 1], got {A[(A < 0) | (A > 1)][0]}")
    weights = _per_task("weights", np.ones(T) if weights is None else weights, T)
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError("weights must be positive and finite")
    learned, last = A.diagonal(), A[-1]
    fwt = bwt = forgetting = np.nan
    if T > 1:
        bwt = float((last - learned)[:-1].mean())
        best = np.nanmax(A[:-1, :-1], axis=0)
        forgetting = float((best - last[:-1]).mean())
        if baseline is not None:
            before = A.diagonal(1)
            fwt = float((before - _per_task("baseline", baseline, T)[1:]).mean())
    return ContinualScores(
        acc=float(np.average(last, weights=weights)),
        bwt=bwt,
        fwt=fwt,
        forgetting=forgetting,
        forgetting_since_learned=-bwt,
        average_incremental=float(
            np.mean([np.average(A[t, : t + 1], weights=weights[: t + 1]) for t in range(T)])
        ),
        base=float(last[0]),
        new=float(last[-1]),
    )


@dataclass(frozen=True)
class OpenSetScores:
    """How well a score tells unknown records from known ones; see `open_set_scores`.

    Attributes
    ----------
    auroc, fpr95, oscr : float
    outlier_rate : float
        Share of the unknown records that is rejected at ``threshold``.
    inlier_rate : float
        Share of the known records that is rejected there: near the one asked for, not equal.
    threshold : float
        Reject above it.
    n_in, n_out : int
    """

    auroc: float
    fpr95: float
    oscr: float
    outlier_rate: float
    inlier_rate: float
    threshold: float
    n_in: int
    n_out: int

    def as_dict(self) -> dict[str, float]:
        """Name to value."""
        return asdict(self)

    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        """Intervals for other records, this network and this threshold being given.

        Parameters
        ----------
        level : float, default=0.95

        Returns
        -------
        DataFrame
            Indexed by auroc (Newcombe's method 5), outlier_rate and inlier_rate (Wilson's); columns estimate, conf_low,
            conf_high. Where the threshold was set on the known records themselves, that of inlier_rate says nothing.
        """
        level = check_level(level)
        rows = {"auroc": (self.auroc, *auroc_interval(self.auroc, self.n_in, self.n_out, level))}
        for name, n in (("outlier_rate", self.n_out), ("inlier_rate", self.n_in)):
            rate = getattr(self, name)
            interval = proportion_confint(round(rate * n), n, alpha=1 - level, method="wilson")
            rows[name] = (rate, *map(float, interval))
        return pd.DataFrame.from_dict(
            rows, orient="index", columns=["estimate", "conf_low", "conf_high"]
        )


def open_set_scores(
    score_in: ArrayLike,
    correct: ArrayLike,
    score_out: ArrayLike,
    *,
    score_val: ArrayLike | None = None,
    inlier_rejection: float = 0.05,
) -> OpenSetScores:
    """Score how unknown records are told from known ones.

    Parameters
    ----------
    score_in : array-like of shape (n,)
        Of known test records; high means unknown. All of them, not only the correctly classified.
    correct : array-like of bool, shape (n,)
        Whether each is classified correctly.
    score_out : array-like of shape (m,)
        Of unknown records.
    score_val : array-like, optional
        Of other known records, on which the threshold is set. Default: `score_in` itself, whose rejected share is then
        not above `inlier_rejection` by construction.
    inlier_rejection : float in (0, 1), default=0.05
        The threshold is the smallest score that at most this share of the known records exceeds.

    Returns
    -------
    OpenSetScores

    Raises
    ------
    ValueError
        For NaN, empty sets or unequal lengths.

    Examples
    --------
    >>> scores = open_set_scores([0.1, 0.2, 0.3, 0.4], [True, True, False, True], [0.25, 0.35, 0.5])
    >>> round(scores.oscr, 6), scores.auroc
    (0.583333, 0.75)
    """
    score_in, score_out = _scores("score_in", score_in), _scores("score_out", score_out)
    held = score_in if score_val is None else _scores("score_val", score_val)
    correct = np.asarray(correct)
    if correct.shape != score_in.shape:
        raise ValueError(
            f"correct must have shape {score_in.shape} as score_in, got {correct.shape}"
        )
    if correct.dtype != bool and not np.isin(correct, (0, 1)).all():
        raise ValueError("correct must hold booleans, or 0 and 1")
    share = check_number("inlier_rejection", inlier_rejection, 0, 1, low_open=True, high_open=True)
    threshold = rejection_threshold(held, share)
    return OpenSetScores(
        auroc=_auroc(score_in, score_out),
        fpr95=float(np.mean(score_out <= rejection_threshold(score_in, 0.05))),
        oscr=_oscr(score_in, correct.astype(bool), score_out),
        outlier_rate=float(np.mean(score_out > threshold)),
        inlier_rate=float(np.mean(score_in > threshold)),
        threshold=threshold,
        n_in=len(score_in),
        n_out=len(score_out),
    )


def rejection_threshold(scores: ArrayLike, inlier_rejection: float = 0.05) -> float:
    """Smallest of the scores that at most this share of them exceeds.

    Examples
    --------
    >>> rejection_threshold([1.0, 2.0, 3.0, 4.0], 0.25)
    3.0
    """
    ordered = np.sort(_scores("scores", scores))
    share = check_number("inlier_rejection", inlier_rejection, 0, 1, high_open=True)
    n_above = int(np.floor(share * len(ordered) * (1 + 1e-12)))
    return float(ordered[len(ordered) - 1 - n_above])


def openness(n_train: int, n_test: int, n_target: int | None = None) -> float:
    """Openness of a problem, 0 for a closed one.

    Parameters
    ----------
    n_train : int >= 1
        Classes known in training.
    n_test : int
        Classes met in testing, known and unknown.
    n_target : int, optional
        Classes to be recognised; default `n_train`.

    Returns
    -------
    float in [0, 1)

    Examples
    --------
    >>> round(openness(6, 10), 6)
    0.133975
    """
    n_train = check_integer("n_train", n_train, low=1)
    n_target = n_train if n_target is None else check_integer("n_target", n_target, low=1)
    n_test = check_integer("n_test", n_test, low=n_train)
    return (
        1 - float(np.sqrt(2 * n_train / (n_target + n_test)))
        if n_target + n_test > 2 * n_train
        else 0.0
    )


def auroc_interval(auroc: float, n_in: int, n_out: int, level: float = 0.95) -> tuple[float, float]:
    """Newcombe's score-like interval: the values whose standard error, by Hanley and McNeil, reaches the estimate.

    Examples
    --------
    >>> [round(end, 3) for end in auroc_interval(1.0, 50, 50)]
    [0.96, 1.0]
    """
    z = norm.ppf((1 + check_level(level)) / 2)
    half = (n_in + n_out) / 2 - 1

    def gap(theta: float, side: int) -> float:
        spread = 1 + half * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return side * (auroc - theta) - z * np.sqrt(theta * (1 - theta) * spread / (n_in * n_out))

    low = 0.0 if auroc == 0 else brentq(gap, 0.0, min(auroc, 1 - 1e-12), args=(1,))
    high = 1.0 if auroc == 1 else brentq(gap, max(auroc, 1e-12), 1.0, args=(-1,))
    return float(low), float(high)


def _auroc(score_in: Array, score_out: Array) -> float:
    n, m = len(score_in), len(score_out)
    ranks = rankdata(np.concatenate([score_out, score_in]))  # ties count half
    return float((ranks[:m].sum() - m * (m + 1) / 2) / (n * m))


def _oscr(score_in: Array, correct: NDArray[np.bool_], score_out: Array) -> float:
    """Mean over unknown records of the share of known ones that are correct and score lower; ties count half."""
    right = np.sort(score_in[correct])
    below = np.searchsorted(right, score_out, "left") + np.searchsorted(right, score_out, "right")
    return float(below.mean() / 2 / len(score_in))


def _scores(name: str, values: ArrayLike) -> Array:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{name} must have shape (n,) with n >= 1, got {values.shape}")
    if np.isnan(values).any():
        raise ValueError(f"{name} must not hold NaN")
    return values


def _per_task(name: str, values: ArrayLike, T: int) -> Array:
    values = np.asarray(values, dtype=float)
    if values.shape != (T,):
        raise ValueError(f"{name} must have shape ({T},), one value a task, got {values.shape}")
    return values
