r"""The game of AGRO: slices, the classifier's answer to them, and how a round is judged.

Reference: Paranjape, B., Dasigi, P., Srikumar, V., Zettlemoyer, L. and Hajishirzi, H. (2023). AGRO: adversarial discovery of
error-prone groups for robust optimization. International Conference on Learning Representations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from .out_of_fold import log_losses, out_of_fold_proba
from .slicers import Slicer, permutation_p_values
from .soft_slicer import WORST_MASS

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(eq=False)
class Search:
    """A slicer fitted once, which of its slices are kept, and what it was fitted to."""

    slicer: Slicer
    kept: NDArray[np.int64]
    P: Array | None  # (n, m)
    losses: Array | None  # (n,)

    def normalised(self, P: Array) -> Array:
        """Memberships in the slices kept, as if there were no others."""
        P = P[:, self.kept]
        total = P.sum(axis=1, keepdims=True)
        return P / np.where(total > 0, total, 1.0)

    def membership(self, X: Array, codes, proba: Array) -> Array:
        return self.normalised(self.slicer.membership(X, codes, proba))


@dataclass(eq=False)
class Slice:
    """A slice, and the losses that it was found in."""

    search: Search
    column: int  # among those kept
    rule: str
    member: Array | None  # (n,)
    round: int
    p_value: float | None = None

    def __post_init__(self):
        self.mass = float(self.member.mean())
        self.loss = float(self.member @ self.search.losses / self.member.sum())
        self.lift = self.loss / float(self.search.losses.mean())

    def is_among(self, others: list[Slice]) -> bool:
        return any(np.array_equal(self.member, other.member) for other in others)

    def is_whole_class(self, codes) -> bool:
        """Or all records, or several classes."""
        sizes = np.bincount(codes)
        inside = np.bincount(codes, self.member)
        return bool(((inside == 0) | (inside == sizes)).all())

    def forget_records(self) -> None:
        self.member = self.search.P = self.search.losses = None


def large_enough(P: Array, min_mass: float) -> NDArray[np.int64]:
    """Slices of at least a share of the records, and smaller ones without which a record were in none.

    Examples
    --------
    >>> import numpy as np
    >>> large_enough(np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.0, 0.0, 1.0]]), 0.34).tolist()
    [0, 2]
    """
    kept = P.mean(axis=0) >= min_mass
    orphans = P[P[:, kept].sum(axis=1) == 0]
    kept[orphans.argmax(axis=1)] = True
    return np.flatnonzero(kept & (P.sum(axis=0) > 0))


def renamed(found: list[Slice], known: list[Slice]) -> list[Slice]:
    """The slices found, with rules that are all different: two may agree in the digits shown."""
    taken = {s.rule for s in known}
    for s in found:
        rule, copies = s.rule, 1
        while s.rule in taken:
            copies += 1
            s.rule = f"{rule} ({copies})"
        taken.add(s.rule)
    return found


def with_p_values(slices: list[Slice], game: Game, by_class: bool, rng) -> list[Slice]:
    """The same slices with their p-values, computed once for all slices of one search."""
    for search in {id(s.search): s.search for s in slices if s.p_value is None}.values():
        p = permutation_p_values(
            search.slicer,
            search.P,
            game.X,
            game.codes,
            game.erm_proba,
            search.losses,
            by_class,
            rng,
        )
        for s in slices:
            if s.search is search:
                s.p_value = float(p[search.kept[s.column]])
    return slices


class Game:
    """The classifier's moves: robust fits to slices, with out-of-fold probabilities."""

    def __init__(self, robust, X, codes, fold):
        self.robust, self.X, self.codes, self.fold = robust, X, codes, fold
        self.erm_proba: Array | None = None

    def play(self, slices: list[Slice] | None) -> tuple[BaseEstimator, Array]:
        """Fit to the slices (None, or a single one: to the mean loss)."""
        fit_params: Callable[[NDArray], dict]
        if slices is None or len(slices) == 1:
            estimator, fit_params = clone(self.robust).set_params(alpha=1.0), lambda train: {}
        else:
            estimator = clone(self.robust)
            member = pd.DataFrame({s.rule: s.member for s in slices})

            def fit_params(train):
                part = member[train]
                # a small slice may lie in the left-out fold
                return {"group_weights": part.loc[:, part.sum() > 0]}

        everyone = np.ones(len(self.X), dtype=bool)
        model = clone(estimator).fit(self.X, self.codes, **fit_params(everyone))
        return model, out_of_fold_proba(estimator, self.X, self.codes, self.fold, fit_params)


class Round:
    """A robust classifier, its slices and its out-of-fold losses."""

    def __init__(self, model, proba, slices, violation, codes):
        self.model, self.proba, self.slices, self.violation = model, proba, slices, violation
        losses = log_losses(proba, codes)
        self.slice_losses = [float(s.member @ losses / s.member.sum()) for s in slices]
        self.worst_loss = max(self.slice_losses)
        self.predicted_worst = self.std_error = np.nan

    def table(self, slices: list[Slice]) -> pd.DataFrame:
        q = self.model.group_weights_ if len(slices) > 1 else np.ones(1)
        return pd.DataFrame(
            {
                "rule": [s.rule for s in slices],
                "mass": [s.mass for s in slices],
                "loss": [s.loss for s in slices],
                "lift": [s.lift for s in slices],
                "p_value": [s.p_value for s in slices],
                "robust_loss": self.slice_losses,
                "weight": q,
                "round": [s.round for s in slices],
            }
        )


def predicted_worst(
    right: NDArray[np.bool_], member: Array, mass: float = WORST_MASS
) -> tuple[float, float]:
    """Accuracy of the worst group as far as slices know: the worse of the worst slices together and the rest.

    Parameters
    ----------
    right : ndarray of bool, shape (n,)
        Whether each record is classified correctly.
    member : ndarray of shape (n, m)
        Each record counts in the slice of its largest membership; in none, if it has none.
    mass : float, default=0.2
        Share of the slices that are merged; at least one is, also where int(mass * m) is zero.

    Returns
    -------
    accuracy, std_error : float

    Examples
    --------
    >>> import numpy as np
    >>> right = np.array([True, True, False, True])
    >>> predicted_worst(right, np.array([[1, 0], [1, 0], [0, 1], [0, 1]]))[0]
    0.5
    """
    own = np.where(member.sum(axis=1) > 0, member.argmax(axis=1), -1)
    slices = np.unique(own[own >= 0])
    accuracy = np.array([right[own == g].mean() for g in slices])
    k = max(1, int(mass * len(slices)))
    worst = np.isin(own, slices[np.argsort(accuracy, kind="stable")[:k]])
    p, n = min((right[part].mean(), part.sum()) for part in (worst, ~worst) if part.any())
    return float(p), float(np.sqrt(p * (1 - p) / n))
