"""Runs any estimator through a sequence of tasks, and measures everything that the report tells.

One call of ``partial_fit`` is one task; after each the estimator predicts the test records of all tasks, those to come
included, without being told the task. Anything with ``partial_fit`` and ``predict`` can be run, scikit-learn's incremental classifiers
among them, and with ``strategy="joint"`` anything with ``fit``: the same model trained anew on all data so far, which bounds from
above what can be reached.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils import check_consistent_length

from statml._validation import (
    RandomState,
    as_generator,
    check_choice,
    check_integer,
    check_labels,
    check_number,
)
from statml.parallel import parallel_map, qualified_name

from .report import ContinualReport
from .selection.entropy import predictive_entropy
from .tasks import Task, check_tasks

Array = NDArray[np.float64]
Score = Callable[[Any, NDArray], Array]

# what an estimator may say of itself after training, and what the report calls it
FACTS = {
    "n_parameters_": "parameters",
    "n_updates_": "optimization_steps",
    "n_stored_": "stored_data",
    "n_generated_": "generated_data",
}


def softmax_score(estimator: Any, X: NDArray) -> Array:
    """1 minus the largest predicted probability: the usual baseline of rejection."""
    return 1 - estimator.predict_proba(X).max(axis=1)


def entropy_score(estimator: Any, X: NDArray) -> Array:
    """Entropy of the predicted probabilities."""
    return predictive_entropy(estimator.predict_proba(X))


def bound_score(estimator: Any, X: NDArray) -> Array:
    """The estimator's own outlier probability."""
    return estimator.outlier_proba(X)


class ContinualEvaluator:
    """A benchmark of tasks that come one after another.

    Parameters
    ----------
    tasks : sequence of Task or of (X, y, X_test, y_test), or mapping of name to the latter
        In the order in which they come. Labels are of one kind, numbers or text, throughout.
    outliers : mapping of name to array-like, optional
        Sets of unknown records, met after the last task.
    scores : mapping of name to function (estimator, X) -> array of shape (n,), optional
        Scores that are high for what is unknown, for `outliers`. Default: "outlier_proba" where the estimator has that method,
        and "softmax" and "entropy" where it has ``predict_proba``.
    baseline : "chance", array-like of shape (n_tasks,) or None, default="chance"
        Accuracy of the untrained model on each task, for the forward transfer: one over the number of classes of all tasks;
        the given numbers; none.
    inlier_rejection : float in (0, 1), default=0.05
        Share of known records that the threshold of each score may reject; it is set on a random half of the test records,
        correctly classified or not, and judged on the other half.

    Raises
    ------
    ValueError
        For no task, labels that change their kind, records that change their shape, unequal lengths or an empty set.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import SGDClassifier
    >>> from statml.adapters.continual import ContinualEvaluator
    >>> X, y = load_digits(return_X_y=True)
    >>> evaluator = ContinualEvaluator.from_classes(X[::2], y[::2], X[1::2], y[1::2], n_classes=5)
    >>> report = evaluator.run(SGDClassifier(random_state=0))
    >>> joint = evaluator.run(SGDClassifier(random_state=0), strategy="joint")
    >>> report.scores()["acc"][0] < 0.6 < 0.9 < joint.scores()["acc"][0]
    np.True_
    """

    def __init__(
        self,
        tasks: Sequence[Any] | Mapping[str, Any],
        *,
        outliers: Mapping[str, ArrayLike] | None = None,
        scores: Mapping[str, Score] | None = None,
        baseline: str | ArrayLike | None = "chance",
        inlier_rejection: float = 0.05,
    ):
        self.tasks = check_tasks(tasks)
        shape = self.tasks[0].X.shape[1:]
        self.outliers = {name: np.asarray(X) for name, X in (outliers or {}).items()}
        for name, X in self.outliers.items():
            if X.shape[1:] != shape or len(X) == 0:
                raise ValueError(
                    f"outliers {name!r} must hold records of shape {shape}, got an array of {X.shape}"
                )
        self.scores = scores
        self.classes = np.unique(np.concatenate([task.y for task in self.tasks]))
        if isinstance(baseline, str):
            check_choice("baseline", baseline, ("chance",))
            self.baseline = np.full(len(self.tasks), 1 / len(self.classes))
        else:
            self.baseline = None if baseline is None else np.asarray(baseline, dtype=float)
            if self.baseline is not None and self.baseline.shape != (len(self.tasks),):
                raise ValueError(
                    f"baseline must have shape ({len(self.tasks)},), one value a task, got {self.baseline.shape}"
                )
        self.inlier_rejection = check_number(
            "inlier_rejection", inlier_rejection, 0, 1, low_open=True, high_open=True
        )

    @classmethod
    def from_classes(
        cls,
        X: ArrayLike,
        y: ArrayLike,
        X_test: ArrayLike,
        y_test: ArrayLike,
        n_classes: int = 2,
        order: ArrayLike | None = None,
        **options: Any,
    ) -> Self:
        """Split one classification problem into tasks of new classes.

        Parameters
        ----------
        X, y, X_test, y_test : array-like
            Training and test records with their classes.
        n_classes : int >= 1, default=2
            Classes a task; the last task takes what is left.
        order : array-like, optional
            The classes in the order of their arrival; default: sorted.
        **options
            Further arguments of `ContinualEvaluator`.

        Returns
        -------
        ContinualEvaluator

        Raises
        ------
        ValueError
            For missing labels, unequal lengths, or an `order` that does not name classes of y, each once.
        """
        X, y, X_test, y_test = (
            np.asarray(X),
            check_labels("y", y),
            np.asarray(X_test),
            check_labels("y_test", y_test),
        )
        check_consistent_length(X, y)
        check_consistent_length(X_test, y_test)
        n_classes = check_integer("n_classes", n_classes, low=1)
        order = np.unique(y) if order is None else check_labels("order", order)
        if len(np.unique(order)) != len(order) or not np.isin(order, y).all():
            raise ValueError("order must name classes of y, each once")
        tasks = {}
        for start in range(0, len(order), n_classes):
            group = order[start : start + n_classes]
            here, there = np.isin(y, group), np.isin(y_test, group)
            name = "+".join(str(c) for c in group)
            tasks[name] = (X[here], y[here], X_test[there], y_test[there])
        return cls(tasks, **options)

    def run(
        self,
        estimator: Any,
        *,
        strategy: str = "continual",
        n_repeats: int = 1,
        orders: str | Sequence[Sequence[int]] | None = None,
        label: str | None = None,
        random_state: RandomState = None,
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike | None = None,
    ) -> ContinualReport:
        """Train a clone of the estimator task by task, and measure.

        Parameters
        ----------
        estimator : scikit-learn estimator
            With ``predict``, and ``partial_fit`` or (``"joint"``) ``fit``. It is cloned, never changed. An incremental
            estimator that demands ``classes`` at its first call is told all classes, which none that grows needs. After
            training, ``n_parameters_``, ``n_updates_``, ``n_stored_`` and ``n_generated_`` (numbers of weights, of steps, of
            records stored and generated) are noted where the estimator has them.
        strategy : {"continual", "joint"}, default="continual"
            ``partial_fit`` with each task's records, or ``fit`` of a new clone with those of all tasks so far.
        n_repeats : int >= 1, default=1
            Runs. With more than one, or with a `random_state`, each sets the estimator's ``random_state``, where it has one, to
            a number of its own; the same for equal `random_state`, so that reports can be compared pair by pair.
        orders : "random", sequence of permutations, or None, default=None
            Order of the tasks in each run: drawn anew; those given (one a run, and `n_repeats` is their number); as they are.
        label : str, optional
            Name in tables and plots; default: the estimator's class.
        random_state : int, SeedSequence, Generator, RandomState or None, default=None
        n_jobs, progress, checkpoint_dir
            As in `statml.parallel.parallel_map`; a run is one parallel task.

        Returns
        -------
        ContinualReport

        Raises
        ------
        TypeError
            If the estimator lacks a method.
        """
        check_choice("strategy", strategy, ("continual", "joint"))
        for method in ("predict", "partial_fit" if strategy == "continual" else "fit"):
            if not hasattr(estimator, method):
                raise TypeError(
                    f"estimator must have {method}() for strategy {strategy!r}, got {type(estimator).__name__}"
                )
        scores = self._scores_of(estimator)
        orders, seeds = self._orders(n_repeats, orders, random_state)
        reseed = len(orders) > 1 or random_state is not None
        identity = (
            self.tasks,
            self.outliers,
            sorted(scores),
            strategy,
            _plain_parameters(estimator),
        )
        fingerprint = "" if checkpoint_dir is None else joblib.hash(identity)
        runs = parallel_map(
            partial(_run, self, estimator, strategy, scores, reseed),
            [(order, seed, fingerprint) for order, seed in zip(orders, seeds, strict=True)],
            random_state=0,  # all randomness is in the tasks
            n_jobs=n_jobs,
            progress=progress,
            checkpoint_dir=checkpoint_dir,
            description=label or type(estimator).__name__,
        )
        return ContinualReport(
            runs,
            [task.name for task in self.tasks],
            n_classes=np.array([len(np.unique(task.y)) for task in self.tasks]),
            baseline=self.baseline,
            inlier_rejection=self.inlier_rejection,
            label=label or type(estimator).__name__,
            strategy=strategy,
        )

    def _scores_of(self, estimator: Any) -> dict[str, Score]:
        if not self.outliers:
            return {}
        if self.scores is not None:
            return dict(self.scores)
        scores: dict[str, Score] = {}
        if hasattr(estimator, "outlier_proba"):
            scores["outlier_proba"] = bound_score
        if hasattr(estimator, "predict_proba"):
            scores |= {"softmax": softmax_score, "entropy": entropy_score}
        if not scores:
            raise TypeError(
                f"outliers are given, but {type(estimator).__name__} has neither outlier_proba nor predict_proba; "
                "pass scores"
            )
        return scores

    def _orders(self, n_repeats, orders, random_state):
        n_repeats = check_integer("n_repeats", n_repeats, low=1)
        rng, T = as_generator(random_state), len(self.tasks)
        if orders is None:
            orders = [list(range(T))] * n_repeats
        elif isinstance(orders, str):
            check_choice("orders", orders, ("random",))
            orders = [rng.permutation(T).tolist() for _ in range(n_repeats)]
        else:
            orders = [[int(j) for j in order] for order in orders]
            for order in orders:
                if sorted(order) != list(range(T)):
                    raise ValueError(f"orders must be permutations of 0, ..., {T - 1}, got {order}")
        return orders, rng.integers(2**31, size=len(orders)).tolist()


# --- one run -----------------------------------------------------------------------------------------


def _run(evaluator, estimator, strategy, scores, reseed, run, _rng) -> dict[str, Any]:
    """Everything measured in one run, as plain data."""
    order, seed, _ = run
    tasks = [evaluator.tasks[j] for j in order]
    model = clone(estimator)
    if reseed and "random_state" in model.get_params():
        model.set_params(random_state=seed)
    fresh, matrix, seconds = model, [], []
    for t, task in enumerate(tasks):
        start = time.process_time()
        if strategy == "joint":
            model = clone(fresh)
            model.fit(
                *(np.concatenate([getattr(s, k) for s in tasks[: t + 1]]) for k in ("X", "y"))
            )
        elif t == 0:
            model = _first_task(model, task, evaluator.classes)
        else:
            model.partial_fit(task.X, task.y)
        seconds.append(time.process_time() - start)
        matrix.append([_mean_recall(s.y_test, model.predict(s.X_test)) for s in tasks])
    return {
        "order": list(order),
        "matrix": np.array(matrix),
        "seconds": np.array(seconds),
        "n_records": np.array([len(task.y) for task in tasks]),
        "facts": _facts(model),
        "open_set": _open_set(evaluator, model, scores, np.random.default_rng(seed)),
    }


def _first_task(model: Any, task: Task, classes: NDArray) -> Any:
    """The first call of partial_fit; scikit-learn's own want to be told all classes."""
    fresh = clone(model)
    try:
        return model.partial_fit(task.X, task.y)
    except ValueError as error:
        if "classes must be passed" not in str(error):
            raise
    return fresh.partial_fit(task.X, task.y, classes=classes)


def _mean_recall(y: NDArray, predicted: NDArray) -> float:
    """Accuracy in which every class counts the same."""
    right = np.asarray(predicted) == y
    return float(np.mean([right[y == c].mean() for c in np.unique(y)]))


def _open_set(evaluator, model, scores, rng) -> dict[str, Any]:
    if not scores:
        return {}
    X = np.concatenate([task.X_test for task in evaluator.tasks])
    y = np.concatenate([task.y_test for task in evaluator.tasks])
    # half of every class sets the threshold, the other half is judged
    threshold = np.zeros(len(y), dtype=bool)
    for c in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == c))
        threshold[members[: len(members) // 2]] = True
    correct = np.asarray(model.predict(X) == y)
    found = {}
    for name, score in scores.items():
        known = _checked_score(name, score(model, X), len(X))
        found[name] = {
            "val": known[threshold],
            "in": known[~threshold],
            "correct": correct[~threshold],
            "out": {
                outliers: _checked_score(name, score(model, foreign), len(foreign))
                for outliers, foreign in evaluator.outliers.items()
            },
        }
    return found


def _checked_score(name: str, values: ArrayLike, n: int) -> Array:
    values = np.asarray(values, dtype=float)
    if values.shape != (n,) or np.isnan(values).any():
        raise ValueError(
            f"score {name!r} must give one number a record, got shape {values.shape} for {n} records"
            + (" with NaN" if np.isnan(values).any() else "")
        )
    return values


def _facts(model: Any) -> dict[str, int]:
    """What the model says of itself, and the bytes that it takes when pickled."""
    facts = {
        name: int(getattr(model, attribute))
        for attribute, name in FACTS.items()
        if getattr(model, attribute, None) is not None
    }
    if "optimization_steps" not in facts and hasattr(model, "t_"):
        # scikit-learn's stochastic gradient counts from 1
        facts["optimization_steps"] = int(model.t_) - 1
    # a model that cannot be pickled has no such size
    with suppress(pickle.PicklingError, TypeError, AttributeError):
        facts["memory"] = len(pickle.dumps(model))
    return facts


def _plain_parameters(estimator: Any) -> dict[str, Any]:
    """Parameters as far as they mean the same in another process."""
    plain = (int, float, str, bool, type(None), np.generic)

    def shown(value: Any) -> Any:
        if isinstance(value, plain):
            return value
        if isinstance(value, (tuple, list)):
            return [shown(v) for v in value]
        return qualified_name(value if callable(value) else type(value))

    parameters = {k: shown(v) for k, v in sorted(estimator.get_params(deep=True).items())}
    return parameters | {"": qualified_name(type(estimator))}
