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

**Which round?** More rounds fit what is hard rather than what was neglected. Rounds are judged by their *predicted*
worst group, out of fold and without group labels: merge the :math:`\max(1, \lfloor 0.2\, m \rfloor)` slices of lowest accuracy
into one, and take the smaller of its accuracy and that of the rest. Slices are those of the first round for all rounds
alike: they describe what the mean-loss classifier neglects, and a yardstick that moves with the rounds compares nothing.
The merged slice is small and its accuracy noisy, so that by default the first round within one standard error of
the best is taken.

The value lies in the restriction of the slicer. The worst of all slices of a mass is the conditional value at risk
(`CVaRClassifier`), which finds noise. And no restriction fits all data: an independent study of shifted image and text
data (Shen, Lin and Wang, 2026) found the original below plain training on two of three of them.

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
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_regressor
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data

from .._validation import (
    RandomState,
    as_generator,
    check_choice,
    check_integer,
    check_magnitude,
    check_number,
)
from ._linear_classifier import validated_classes
from ._partition import class_codes
from .game import Game, Round, Search, Slice, large_enough, predicted_worst, renamed, with_p_values
from .group_dro import GroupDROClassifier
from .out_of_fold import log_losses, seeded, stratified_folds
from .slicers import EstimatorSlicer, Slicer, TreeSlicer
from .soft_slicer import LinearSlicer

Array = NDArray[np.float64]

ADDED = 0.05  # p-value up to which a later round's slice is added
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
        The robust classifier: takes ``group_weights`` in ``fit`` and has a parameter ``alpha``, of which 1 means the
        mean loss. None is ``GroupDROClassifier()``.
    slicer : {"tree", "stump", "linear"}, regressor or Slicer, default="tree"
        A pruned tree a class; a single split a class; soft slices of a linear model. A ``DecisionTreeRegressor`` gives
        its own leaves, any other regressor levels of the loss that it predicts. Or an object with the methods of
        `slicers.Slicer`.
    n_slices : int, default=6
        At most so many slices a round, shared equally among the classes if `by_class`. The leaves of a tree of
        yours are not counted.
    by_class : bool, default=True
        Whether a slice belongs to one class.
    init : {"confusion", "domino", "random"}, default="confusion"
        Where soft slices start.
    cv : int, default=5
        Folds for out-of-fold losses.
    min_mass : float in [0, 1), default=0.02
        Smallest share of all records in a slice. Soft slices that fall below are left out, and their records
        shared among the others. A rarer class is a slice by itself.
    marginal_reg, entropy_reg : float, default=0.0
        Penalty on unequal masses of soft slices, and reward for softness.
    schedule : {"cutting-plane", "two-stage", "alternate"}, default="cutting-plane"
        See the top of this module.
    n_rounds : int, default=5
        Most rounds. With "two-stage" there is one.
    adversary : {"worst", "greedy-reverse"}, default="worst"
        Whose loss soft slices raise: that of the worst ones, or, as in the authors' code, of all but these.
    selection : {"predicted-worst"} or None, default="predicted-worst"
        Which round to keep: by predicted worst group, see the top of this module; or the last.
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
        ``n_slices``, ``worst_slice_loss`` (out of fold), ``predicted_worst``, ``std_error``, ``violation`` (by how much the new
        slices' worst loss exceeds that of the slices before), ``selected``.
    classes_ : ndarray of shape (n_classes,)

    Notes
    -----
    Slices describe where the loss is high. Whether that is neglect or difficulty, the data alone do not say; read the
    rules. A p-value says that a slice is more than noise, not that it is a spurious feature. Where labels are noisy, robustness
    over the slices can cost all records accuracy, and ``offset="excess"`` does not help: in a slice of one class the smallest
    possible loss is zero.

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
            If no slice is found: the result is the mean-loss classifier or, if `by_class`, robust over classes.
        """
        self._check_parameters()
        X, self.classes_, codes = validated_classes(self, X, y)
        if self.by_class and self.n_slices < len(self.classes_):
            raise ValueError(
                f"n_slices must be at least the number of classes, {len(self.classes_)}, with by_class=True; "
                f"got {self.n_slices}"
            )
        rng = as_generator(self.random_state)
        robust = seeded(GroupDROClassifier() if self.estimator is None else self.estimator, rng)
        game = Game(robust, X, codes, stratified_folds(codes, self.cv, rng))
        self.erm_, game.erm_proba = game.play(None)
        slicer, proba = self._make_slicer(), game.erm_proba
        slices: list[Slice] = []
        rounds: list[Round] = []
        for k in range(1 if self.schedule == "two-stage" else self.n_rounds):
            slicer = copy.deepcopy(slicer)  # earlier slices keep theirs
            found = self._slice(slicer, game, proba, k, rng)
            so_far = rounds[-1].worst_loss if rounds else -np.inf
            violation = max(s.loss for s in found) - so_far
            if rounds and self.schedule == "cutting-plane":
                found = [s for s in found if s.loss > so_far and not s.is_among(slices)]
                found = [
                    s for s in with_p_values(found, game, self.by_class, rng) if s.p_value <= ADDED
                ]
                if not found:
                    break
                slices = [*slices, *renamed(found, slices)]
            else:
                slices = renamed(found, [])
            model, proba = game.play(slices)
            rounds.append(Round(model, proba, slices, violation, codes))

        yardstick = np.column_stack([s.member for s in rounds[0].slices])
        for r in rounds:
            right = r.proba.argmax(axis=1) == codes
            r.predicted_worst, r.std_error = predicted_worst(right, yardstick)
        chosen = rounds[-1]
        if self.selection is not None:
            best = max(rounds, key=lambda r: r.predicted_worst)
            enough = best.predicted_worst - best.std_error
            chosen = next(r for r in rounds if r.predicted_worst >= enough)
        slices = with_p_values(chosen.slices, game, self.by_class, rng)
        if all(s.is_whole_class(codes) for s in slices):
            found = "no slice was found beyond " + (
                "all records together; the result is the mean-loss classifier"
                if len(slices) == 1
                else "the classes; the result is robust over these"
            )
            warnings.warn(
                f"{found}. Allow more slices, a smaller min_mass, or another slicer", stacklevel=2
            )
        self.estimator_ = chosen.model
        self._slices = slices
        self.slices_: pd.DataFrame = chosen.table(slices)
        self.history_: pd.DataFrame = pd.DataFrame(
            {
                "round": range(len(rounds)),
                "n_slices": [len(r.slices) for r in rounds],
                "worst_slice_loss": [r.worst_loss for r in rounds],
                "predicted_worst": [r.predicted_worst for r in rounds],
                "std_error": [r.std_error for r in rounds],
                "violation": [r.violation if k else np.nan for k, r in enumerate(rounds)],
                "selected": [r is chosen for r in rounds],
            }
        )
        for s in slices:
            s.forget_records()
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
            In the order of `slices_`. Zero or one for trees. Rows sum to one unless there are slices of several
            rounds.

        Raises
        ------
        ValueError
            If y holds a class that was not there in ``fit``.
        """
        check_is_fitted(self)
        X, y = validate_data(self, X, y, dtype=np.float64, reset=False)
        codes = class_codes(y, self.classes_)
        proba = self.erm_.predict_proba(X)
        found = {id(s.search): s.search.membership(X, codes, proba) for s in self._slices}
        return np.column_stack([found[id(s.search)][:, s.column] for s in self._slices])

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
        X = check_magnitude("X", validate_data(self, X, dtype=np.float64, reset=False))
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
        proba = self.predict_proba(X)  # which checks that the model is fitted
        return self.classes_[proba.argmax(axis=1)]

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
        elif not _is_regressor(self.slicer) and not all(
            hasattr(self.slicer, m) for m in ("fit_membership", "membership", "rules", "null")
        ):
            raise TypeError(
                'slicer must be "tree", "stump", "linear", a regressor, or an object with fit_membership, membership, '
                f"rules and null, got {self.slicer!r}"
            )
        if not isinstance(self.slicer, str) or self.slicer != "linear":
            for name, default in SOFT_OPTIONS.items():
                if getattr(self, name) != default:
                    raise ValueError(
                        f'{name} acts on the soft slices of slicer="linear" only, got {name}='
                        f"{getattr(self, name)!r} with slicer={self.slicer!r}"
                    )
        estimator = self.estimator
        if estimator is not None and not (
            hasattr(estimator, "predict_proba")
            and "alpha" in estimator.get_params()
            and has_fit_parameter(estimator, "group_weights")
        ):
            raise TypeError(
                "estimator must be a GroupDROClassifier, or a classifier with predict_proba, a parameter alpha and "
                f"group_weights in fit; got {type(estimator).__name__}"
            )

    def _make_slicer(self) -> Slicer:
        each = self.n_slices // (len(self.classes_) if self.by_class else 1)
        if isinstance(self.slicer, DecisionTreeRegressor):
            template = clone(self.slicer)
            if template.random_state is None:
                template.set_params(random_state=0)  # it breaks ties between columns only
            return TreeSlicer(each, self.min_mass, self.by_class, template=template)
        if _is_regressor(self.slicer):
            return EstimatorSlicer(self.slicer, each, self.min_mass, self.by_class)
        if not isinstance(self.slicer, str):
            return copy.deepcopy(self.slicer)
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

    def _slice(self, slicer, game, proba, k, rng) -> list[Slice]:
        """The slices of a slicer fitted to the losses of the current classifier."""
        losses = log_losses(proba, game.codes)
        # the slicer sees the mean-loss classifier's probabilities, as `slice_proba` does for other records
        P = slicer.fit_membership(game.X, game.codes, game.erm_proba, losses, rng)
        search = Search(slicer, large_enough(P, self.min_mass), P, losses)
        names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(game.X.shape[1])])
        rules = slicer.rules(names, self.classes_.tolist())
        members = search.normalised(P)
        return [
            Slice(search, column, rules[g], members[:, column], k)
            for column, g in enumerate(search.kept)
        ]


def _is_regressor(slicer) -> bool:
    return isinstance(slicer, BaseEstimator) and is_regressor(slicer)
