r"""AGRO: find the groups that a classifier neglects, then train it to be robust over them. No group labels.

An adversary with slices :math:`P_\phi(g \mid x, y)` and a classifier theta play

.. math::  \min_\theta \max_\phi \max_{h \in H} \sum_g h_g \bar L_g(\theta, \phi), \qquad
           \bar L_g = \frac{\sum_i P_\phi(g \mid x_i, y_i)\, \ell_i(\theta)}{\sum_i P_\phi(g \mid x_i, y_i)},

H the simplex of group DRO. The original trains two networks by gradient steps. Here, for tables, both moves are exact or
readable: the classifier's is the certified solver of `GroupDROClassifier`, and the adversary's by default a small tree a
class, fitted to *out-of-fold* losses, whose leaves are rules ("x5 <= 0.1 & y = 1").

A round fits the slicer to the losses of the current classifier (at first, the mean-loss one) and the classifier to the
slices, by one of three schedules:

* "cutting-plane": slices of a later round that have a larger loss than every slice so far, and are more than noise,
  are added; if there are none, the game is over.
* "two-stage": the slicer is fitted once, against the mean-loss classifier, as in the scripts of the paper.
* "alternate": the slices of a round replace those before.

**Which round?** More rounds fit what is hard rather than what was neglected. By default the round with the best
*predicted* worst group is taken, out of fold and without group labels: merge the :math:`\max(1, \lfloor 0.2\, m \rfloor)` slices of
lowest accuracy into one, and take the smaller of its accuracy and that of the rest. Slices are those of the first round
for all rounds alike: they describe what the mean-loss classifier neglects, and a yardstick that moves with the
rounds compares nothing.

The value lies in the restriction of the slicer. The worst of all slices of a mass is the conditional value at risk
(`CVaRClassifier`), which finds noise. And no restriction fits all data: an independent study (Shen, Lin and Wang, 2026)
found the original below plain training on two of three image and text benchmarks.

Cost: (cv + 1) classifier fits, one slicer and, for p-values, `n_permutations` further slicers a round.

References
----------
Paranjape, B., Dasigi, P., Srikumar, V., Zettlemoyer, L. and Hajishirzi, H. (2023). AGRO: adversarial discovery of
error-prone groups for robust optimization. International Conference on Learning Representations. Objective and schedules
as in the authors' code; the adversary "greedy-reverse" is theirs.
Sagawa, S., Koh, P. W., Hashimoto, T. B. and Liang, P. (2020). Distributionally robust neural networks for group shifts.
International Conference on Learning Representations.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from .._validation import RandomState, as_generator, check_choice, check_integer, check_number
from ._linear_classifier import validated_classes
from ._partition import class_codes
from .group_dro import GroupDROClassifier
from .out_of_fold import log_losses, out_of_fold_proba, stratified_folds
from .slicers import WORST_MASS, LinearSlicer, Slicer, TreeSlicer, permutation_p_values

Array = NDArray[np.float64]

SIGNIFICANT = 0.05  # p-value up to which a later round's slice is added
SOFT_OPTIONS = {
    "init": "confusion",
    "marginal_reg": 0.0,
    "entropy_reg": 0.0,
    "adversary": "worst",
}


class AGROClassifier(ClassifierMixin, BaseEstimator):
    """Group DRO over slices that are found where the classifier errs.

    Parameters
    ----------
    estimator : GroupDROClassifier or None, default=None
        The robust classifier: takes ``groups`` and ``group_weights`` in ``fit`` and has a parameter ``alpha``, of
        which 1 means the mean loss. None is ``GroupDROClassifier()``.
    slicer : {"tree", "stump", "linear"} or Slicer, default="tree"
        A pruned tree a class; a single split a class; soft slices of a linear model; or an object with the methods
        of `slicers.Slicer`.
    n_slices : int, default=6
        At most so many slices a round, shared equally among the classes if `by_class`.
    by_class : bool, default=True
        Whether a slice belongs to one class.
    init : {"confusion", "domino", "random"}, default="confusion"
        Where soft slices start.
    cv : int, default=5
        Folds for out-of-fold losses.
    min_mass : float in [0, 1), default=0.02
        Smallest share of all records in a slice; soft slices that fall below are left out.
    marginal_reg, entropy_reg : float, default=0.0
        Penalty on unequal masses of soft slices, and reward for softness.
    schedule : {"cutting-plane", "two-stage", "alternate"}, default="cutting-plane"
        See the top of this module.
    n_rounds : int, default=5
        Most rounds. With "two-stage" there is one.
    adversary : {"worst", "greedy-reverse"}, default="worst"
        Whose loss soft slices raise: that of the worst ones, or, as in the authors' code, of all but these.
    selection : {"predicted-worst"} or None, default="predicted-worst"
        Which round to keep: the best by predicted worst group, or the last.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Fixes folds, starts and permutations.

    Attributes
    ----------
    estimator_ : GroupDROClassifier
        Robust over the slices; its ``groups_`` are their rules and its classes positions 0, 1, ...
    erm_ : GroupDROClassifier
        The mean-loss classifier, from which the rounds start.
    slices_ : DataFrame, one row a slice
        ``rule``; ``mass`` (share of records), ``loss`` (mean out-of-fold log loss of the classifier that the slice was
        found against), ``lift`` (ratio to that classifier's mean loss), ``p_value`` (of a permutation test that repeats
        the search; in its class, the slice is worse than noise would be), ``robust_loss`` (out-of-fold loss of the
        robust classifier), ``weight`` (the adversary's q), ``round``.
    history_ : DataFrame, one row a round
        ``n_slices``, ``worst_slice_loss`` (out of fold), ``predicted_worst``, ``violation`` (by how much the new
        slices' worst loss exceeds that of the slices before), ``selected``.
    classes_ : ndarray of shape (n_classes,)

    Notes
    -----
    Slices describe where the loss is high. Whether that is neglect or difficulty, the data alone do not say; read the
    rules. A p-value says that a slice is more than noise, not that it is a spurious feature.

    References
    ----------
    Paranjape et al. (2023).

    Examples
    --------
    >>> from statml.datasets import make_spurious_gaussians
    >>> from statml.group_robust.agro import AGROClassifier
    >>> data = make_spurious_gaussians(random_state=0)
    >>> model = AGROClassifier(schedule="two-stage", random_state=0).fit(data.X, data.y)
    >>> [rule.split(" ")[0] for rule in model.slices_["rule"]]  # x5 is the spurious feature
    ['x5', 'x5', 'x5', 'x5']
    """

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        slicer: str | Slicer = "tree",
        n_slices: int = 6,
        by_class: bool = True,
        init: str = "confusion",
        cv: int = 5,
        min_mass: float = 0.02,
        marginal_reg: float = 0.0,
        entropy_reg: float = 0.0,
        schedule: str = "cutting-plane",
        n_rounds: int = 5,
        adversary: str = "worst",
        selection: str | None = "predicted-worst",
        random_state: RandomState = None,
    ):
        self.estimator = estimator
        self.slicer = slicer
        self.n_slices = n_slices
        self.by_class = by_class
        self.init = init
        self.cv = cv
        self.min_mass = min_mass
        self.marginal_reg = marginal_reg
        self.entropy_reg = entropy_reg
        self.schedule = schedule
        self.n_rounds = n_rounds
        self.adversary = adversary
        self.selection = selection
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Find slices and fit the robust classifier to them.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,)

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, an option of soft slices is set for a slicer that has none, y has one
            class, or there are more classes than slices.
        TypeError
            If `estimator` cannot be made robust.

        Warns
        -----
        UserWarning
            If no slice is found, so that the result is the mean-loss classifier.
        """
        self._check_parameters()
        X, self.classes_, codes = validated_classes(self, X, y)
        if self.by_class and self.n_slices < len(self.classes_):
            raise ValueError(
                f"n_slices must be at least the number of classes, {len(self.classes_)}, with by_class=True; "
                f"got {self.n_slices}"
            )
        robust = GroupDROClassifier() if self.estimator is None else self.estimator
        rng = as_generator(self.random_state)
        game = _Game(robust, X, codes, stratified_folds(codes, self.cv, rng))
        self.erm_, proba = game.play(None)
        slicer = self._make_slicer()
        slices: list[_Slice] = []
        rounds: list[_Round] = []
        for k in range(1 if self.schedule == "two-stage" else self.n_rounds):
            slicer = copy.deepcopy(slicer)  # earlier slices keep theirs
            found = self._slice(slicer, game, proba, k, rng)
            so_far = rounds[-1].worst_loss if rounds else -np.inf
            violation = max(s.loss for s in found) - so_far
            if rounds and self.schedule == "cutting-plane":
                known = {s.rule for s in slices}
                found = [s for s in found if s.loss > so_far and s.rule not in known]
                found = [s for s in self._tested(found, game, rng) if s.p_value <= SIGNIFICANT]
                if not found:
                    break
                slices = [*slices, *found]
            else:
                slices = found
            model, proba = game.play(slices)
            rounds.append(_Round(model, proba, slices, violation, game))

        yardstick = np.column_stack([s.member for s in rounds[0].slices])
        for r in rounds:
            r.predicted_worst = predicted_worst(r.proba.argmax(axis=1) == codes, yardstick)
        chosen = rounds[-1]
        if self.selection is not None:
            chosen = max(rounds, key=lambda r: r.predicted_worst)  # the first among equals
        slices = self._tested(chosen.slices, game, rng)
        if len(slices) == 1:
            warnings.warn(
                "no slice was found beyond all records together; the result is the mean-loss classifier. Allow "
                "more slices, a smaller min_mass, or another slicer",
                stacklevel=2,
            )
        self.estimator_ = chosen.model
        self._slices = slices
        self.slices_ = chosen.table(slices)
        self.history_ = pd.DataFrame(
            {
                "round": range(len(rounds)),
                "n_slices": [len(r.slices) for r in rounds],
                "worst_slice_loss": [r.worst_loss for r in rounds],
                "predicted_worst": [r.predicted_worst for r in rounds],
                "violation": [r.violation if k else np.nan for k, r in enumerate(rounds)],
                "selected": [r is chosen for r in rounds],
            }
        )
        for s in slices:
            s.member = None  # memberships of the training records are cheap to make again
            s.seen = None
        return self

    def slice_proba(self, X: ArrayLike, y: ArrayLike) -> Array:
        """Membership of labelled records in the slices.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        y : array-like of shape (n,)
            Classes: a slice may depend on them.

        Returns
        -------
        ndarray of shape (n, n_slices)
            In the order of `slices_`. Zero or one for trees. Rows sum to one unless slices of several rounds
            overlap, or soft ones were left out.

        Raises
        ------
        ValueError
            If y holds a class that was not there in ``fit``.
        """
        check_is_fitted(self)
        X, y = validate_data(self, X, y, dtype=np.float64, reset=False)
        codes = class_codes(y, self.classes_)
        proba = self.erm_.predict_proba(X)
        return np.column_stack(
            [s.slicer.membership(X, codes, proba)[:, s.column] for s in self._slices]
        )

    def predict_proba(self, X: ArrayLike) -> Array:
        """Class probabilities of the robust classifier.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n, n_classes)
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self.estimator_.predict_proba(X)

    def predict(self, X: ArrayLike) -> NDArray:
        """Most probable classes.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n,)
        """
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def _check_parameters(self) -> None:
        check_integer("n_slices", self.n_slices, low=1)
        check_integer("cv", self.cv, low=2)
        check_integer("n_rounds", self.n_rounds, low=1)
        check_number("min_mass", self.min_mass, 0, 1, high_open=True)
        check_number("marginal_reg", self.marginal_reg, 0)
        check_number("entropy_reg", self.entropy_reg, 0)
        check_choice("init", self.init, ("confusion", "domino", "random"))
        check_choice("schedule", self.schedule, ("cutting-plane", "two-stage", "alternate"))
        check_choice("adversary", self.adversary, ("worst", "greedy-reverse"))
        if self.selection is not None:
            check_choice("selection", self.selection, ("predicted-worst",))
        if isinstance(self.slicer, str):
            check_choice("slicer", self.slicer, ("tree", "stump", "linear"))
        elif not all(hasattr(self.slicer, m) for m in ("fit", "membership", "rules", "null")):
            raise TypeError(
                'slicer must be "tree", "stump", "linear" or an object with fit, membership, rules and null, '
                f"got {self.slicer!r}"
            )
        if self.slicer != "linear":
            for name, default in SOFT_OPTIONS.items():
                if getattr(self, name) != default:
                    raise ValueError(
                        f'{name} acts on the soft slices of slicer="linear" only, got {name}='
                        f"{getattr(self, name)!r} with slicer={self.slicer!r}"
                    )
        estimator = self.estimator
        if estimator is not None and not (
            hasattr(estimator, "predict_proba") and "alpha" in estimator.get_params()
        ):
            raise TypeError(
                "estimator must be a GroupDROClassifier, or a classifier with predict_proba, a parameter alpha and "
                f"group_weights in fit; got {type(estimator).__name__}"
            )

    def _make_slicer(self) -> Slicer:
        if not isinstance(self.slicer, str):
            return copy.deepcopy(self.slicer)
        each = self.n_slices // (len(self.classes_) if self.by_class else 1)
        if self.slicer == "tree":
            return TreeSlicer(each, self.min_mass, self.by_class)
        if self.slicer == "stump":
            return TreeSlicer(min(each, 2), self.min_mass, self.by_class, prune=False)
        alternate = self.schedule == "alternate"
        return LinearSlicer(
            each,
            self.by_class,
            self.init,
            self.min_mass,
            self.marginal_reg,
            self.entropy_reg,
            self.adversary,
            n_looks=1 if alternate else self.n_rounds,
            warm_start=alternate,
        )

    def _slice(self, slicer, game, proba, k, rng) -> list[_Slice]:
        """The slices of a slicer fitted to the losses of the current classifier."""
        X, codes = game.X, game.codes
        losses = log_losses(proba, codes)
        # the slicer sees the mean-loss classifier's probabilities, as `slice_proba` does for other records
        inputs = game.erm_proba
        P = slicer.fit(X, codes, inputs, losses, rng).membership(X, codes, inputs)
        names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(X.shape[1])])
        rules = slicer.rules(names, self.classes_.tolist())
        mass = P.mean(axis=0)
        large = np.flatnonzero((mass >= self.min_mass) & (mass > 0))
        if not len(large):
            large = np.array([int(mass.argmax())])
        return [_Slice(slicer, int(g), rules[g], P[:, g], losses, float(mass[g]), k) for g in large]

    def _tested(self, slices: list[_Slice], game: _Game, rng) -> list[_Slice]:
        """The same slices with their p-values, computed once for all slices of one slicer."""
        for slicer in {id(s.slicer): s.slicer for s in slices if s.p_value is None}.values():
            mine = [s for s in slices if s.slicer is slicer]
            p = permutation_p_values(
                slicer, game.X, game.codes, game.erm_proba, mine[0].seen, self.by_class, rng
            )
            for s in mine:
                s.p_value = float(p[s.column])
        return slices


@dataclass(eq=False)
class _Slice:
    """A slice, and the losses that it was found in."""

    slicer: Slicer
    column: int
    rule: str
    member: Array | None  # (n,)
    seen: Array | None  # losses, (n,)
    mass: float
    round: int
    p_value: float | None = None

    def __post_init__(self):
        self.loss = float(self.member @ self.seen / self.member.sum())
        self.lift = self.loss / float(self.seen.mean())


class _Game:
    """The classifier's moves: robust fits to slices, with out-of-fold probabilities."""

    def __init__(self, robust, X, codes, fold):
        self.robust, self.X, self.codes, self.fold = robust, X, codes, fold
        self.erm_proba: Array | None = None

    def play(self, slices: list[_Slice] | None):
        """Fit to the slices (None, or a single one: to the mean loss)."""
        if slices is None or len(slices) == 1:
            estimator, groups = clone(self.robust).set_params(alpha=1.0), None
        else:
            estimator = clone(self.robust)
            groups = pd.DataFrame({s.rule: s.member for s in slices})

        def of(train):
            if groups is None:
                return {}
            part = groups[train]
            part = part.loc[:, part.sum() > 0]  # a small slice may lie in the left-out fold
            one_each = part.isin((0, 1)).all(axis=None) and (part.sum(axis=1) == 1).all()
            if one_each:
                return {"groups": part.columns.to_numpy(dtype=str)[part.to_numpy().argmax(axis=1)]}
            return {"group_weights": part}

        model = clone(estimator).fit(self.X, self.codes, **of(np.ones(len(self.X), dtype=bool)))
        proba = out_of_fold_proba(estimator, self.X, self.codes, self.fold, of)
        if self.erm_proba is None:
            self.erm_proba = proba
        return model, proba


class _Round:
    """A robust classifier, its slices and its out-of-fold losses."""

    def __init__(self, model, proba, slices, violation, game):
        self.model, self.proba, self.slices, self.violation = model, proba, slices, violation
        losses = log_losses(proba, game.codes)
        self.slice_losses = [float(s.member @ losses / s.member.sum()) for s in slices]
        self.worst_loss = max(self.slice_losses)
        self.predicted_worst = np.nan

    def table(self, slices: list[_Slice]) -> pd.DataFrame:
        weight = {}
        if len(slices) > 1:
            weight = dict(zip(self.model.groups_, self.model.group_weights_, strict=True))
        return pd.DataFrame(
            {
                "rule": [s.rule for s in slices],
                "mass": [s.mass for s in slices],
                "loss": [s.loss for s in slices],
                "lift": [s.lift for s in slices],
                "p_value": [s.p_value for s in slices],
                "robust_loss": self.slice_losses,
                "weight": [float(weight.get(s.rule, 1.0)) for s in slices],
                "round": [s.round for s in slices],
            }
        )


def predicted_worst(right: NDArray[np.bool_], member: Array, mass: float = WORST_MASS) -> float:
    """Accuracy of the worst group as far as slices know: the worse of the worst slices together and the rest.

    Parameters
    ----------
    right : ndarray of bool, shape (n,)
        Whether each record is classified correctly.
    member : ndarray of shape (n, m)
        Each record counts in the slice of its largest membership.
    mass : float, default=0.2
        Share of the slices that are merged; at least one is, also where int(mass * m) is zero.

    Returns
    -------
    float

    Examples
    --------
    >>> import numpy as np
    >>> right = np.array([True, True, False, True])
    >>> predicted_worst(right, np.array([[1, 0], [1, 0], [0, 1], [0, 1]]))
    0.5
    """
    slices, own = np.unique(member.argmax(axis=1), return_inverse=True)
    accuracy = np.array([right[own == g].mean() for g in range(len(slices))])
    k = max(1, int(mass * len(slices)))
    worst = np.isin(own, np.argsort(accuracy, kind="stable")[:k])
    values = [right[part].mean() for part in (worst, ~worst) if part.any()]
    return float(min(values))
