r"""Models of subsets of the training data, and what they say of given records.

Everything that retrains goes through a *learner*: it fits the model to a subset and returns one output for each
evaluation record, the probability of its own class (classification) or the predicted value (regression). Values are
then functions of outputs: the loss is :math:`-\log p_y` or :math:`(y - f)^2 / 2`, the margin
:math:`\log\{p_y / (1 - p_y)\}` or f, the prediction the output itself.

* `CloneLearner` fits a clone of any scikit-learn estimator, Pipelines with all their steps.
* `NewtonLearner` fits a generalised linear model by Newton steps from a warm start, with the steps before a
  Pipeline's last held as they are. Where that is not the estimator's own fit (a class is missing, no unique
  optimum), it hands over to a `CloneLearner`.

A subset may lack classes. Each lacking class is given its share in the full training data and the probabilities
of the others shrink to make room, so that the empty subset, and one of a single class, give the shares of all classes.
For a regression the empty subset gives the mean response.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.utils import check_consistent_length
from threadpoolctl import ThreadpoolController

from .._validation import check_labels
from ..parallel import parallel_map
from .glm_families import Gaussian
from .glm_oracle import GLMOracle
from .glm_removal import newton_refit
from .oracle import check_weights, count, take

Array = NDArray[np.float64]

SMALLEST_P = 1e-15  # of a probability in a logarithm


class CloneLearner:
    """Fits clones of an estimator to subsets; see the module.

    Parameters
    ----------
    estimator : scikit-learn classifier with predict_proba, or regressor
        Need not be fitted.
    X, y, sample_weight : the training data
    """

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None):
        if not hasattr(estimator, "fit") or not hasattr(estimator, "get_params"):
            raise TypeError(
                f"estimator must be a scikit-learn estimator that can be refitted, got {estimator!r}"
            )
        self.classifies = is_classifier(estimator)
        if not self.classifies and not is_regressor(estimator):
            raise TypeError(f"estimator must be a classifier or a regressor, got {estimator!r}")
        if self.classifies and not hasattr(estimator, "predict_proba"):
            raise TypeError(
                f"{type(estimator).__name__} has no predict_proba, which the loss of a classifier needs; "
                "CalibratedClassifierCV adds it"
            )
        if y is None:
            raise ValueError("y must hold the training responses, got None")
        check_consistent_length(X, y)
        self.estimator = clone(estimator)
        self.X = X if hasattr(X, "shape") else np.asarray(X)
        self.y = np.asarray(y)
        self.sample_weight = None if sample_weight is None else check_weights(sample_weight, X)
        if self.classifies:
            self.y = check_labels("y", self.y)
            self.classes, counts = np.unique(self.y, return_counts=True)
            if len(self.classes) < 2:
                raise ValueError("y must hold two classes or more, got one")
            self.shares = counts / counts.sum()
        elif not np.isfinite(self.y.astype(float)).all():
            raise ValueError("y holds NaN or infinite values")

    def check_records(self, X: Any, y: Any) -> tuple[Any, Any]:
        """Evaluation records: coded labels, or responses as floats."""
        X = X if hasattr(X, "shape") else np.asarray(X)
        if y is None:
            return X, None
        check_consistent_length(X, y)
        return X, self.code(y)

    def code(self, y: Any) -> Array:
        y = np.asarray(y)
        if not self.classifies:
            y = y.astype(float)
            if not np.isfinite(y).all():
                raise ValueError("y holds NaN or infinite values")
            return y
        unseen = ~np.isin(y, self.classes)
        if unseen.any():
            raise ValueError(
                f"y holds labels that are not in the training data: {np.unique(y[unseen])[:5].tolist()}"
            )
        return np.searchsorted(self.classes, y).astype(float)

    def fit(self, members: NDArray[np.int64], rng: np.random.Generator | None = None) -> Any:
        """A fitted clone, or None where the subset is too poor for a fit (empty, or of one class)."""
        if not len(members) or (self.classifies and len(np.unique(self.y[members])) < 2):
            return None
        model = clone(self.estimator)
        if rng is not None:
            _seed(model, rng)
        given = {}
        if self.sample_weight is not None:
            name = "sample_weight"
            if hasattr(model, "steps"):  # a Pipeline passes weights to its last step
                name = f"{model.steps[-1][0]}__sample_weight"
            given[name] = self.sample_weight[members]
        with _one_thread():
            return model.fit(_rows(self.X, members), self.y[members], **given)

    def outputs(self, model: Any, X: Any, y: Array | None) -> Array:
        """Probability of the own class, or the predicted value, of each record."""
        if not self.classifies:
            if model is None:
                return np.full(count(X), float(np.mean(self.y)))
            with _one_thread():
                return np.asarray(model.predict(X), dtype=float).ravel()
        p = self.class_probabilities(model, X)
        return p[np.arange(len(p)), y.astype(int)]

    def class_probabilities(self, model: Any, X: Any) -> Array:
        """Probabilities of all classes, shape (m, C), completed where the subset lacked some."""
        if model is None:
            return np.tile(self.shares, (count(X), 1))
        seen = np.searchsorted(self.classes, model.classes_)
        with _one_thread():
            p_seen = model.predict_proba(X)
        if len(seen) == len(self.classes):
            return p_seen
        p = np.tile(self.shares, (count(X), 1))
        p[:, seen] = p_seen * self.shares[seen].sum()
        return p

    def fingerprint(self) -> str:
        """Changes with the model and the data; part of the identity of a checkpointed run."""
        X = self.X.to_numpy() if hasattr(self.X, "to_numpy") else self.X
        return joblib.hash((repr(self.estimator), X, self.y, self.sample_weight))[:12]


class NewtonLearner(CloneLearner):
    """Fits a generalised linear model to subsets by Newton steps; see the module.

    Parameters
    ----------
    oracle : GLMOracle
        Of the estimator at its full fit, from `make_oracle`.
    """

    def __init__(self, oracle: GLMOracle, estimator, X, y, sample_weight=None):
        super().__init__(estimator, X, y, sample_weight)
        self.oracle = oracle
        if self.classifies:
            self._codes = np.searchsorted(self.classes, self.y)

    def fit(self, members, rng=None, start: Array | None = None):
        """Parameters of the subset's optimum, a fitted clone where there is no unique one, or None."""
        if not len(members):
            return None
        if self.classifies:
            n_seen = np.count_nonzero(np.bincount(self._codes[members]))
            if n_seen < 2:
                return None
            if n_seen < len(self.classes):
                return super().fit(members, rng)
        theta = self.theta(members, self.oracle.theta if start is None else start)
        return super().fit(members, rng) if theta is None else theta

    def theta(self, members, start: Array) -> Array | None:
        part = self.oracle.restricted(members)
        penalty = part.n_train * part.regulariser()
        if self.oracle.penalty_scales:
            share = part.sample_weight.sum() / self.oracle.sample_weight.sum()
            penalty = penalty * share
            part.linear = part.linear * share
        theta, converged = newton_refit(
            part, part.sample_weight, start, penalty, tol=1e-8, max_iter=30
        )
        return theta if converged else None

    def outputs(self, model, X, y):
        if isinstance(model, np.ndarray):
            return self.oracle.output(self._design(X), y, "prediction", model)
        return super().outputs(model, X, y)

    def class_probabilities(self, model, X):
        if not isinstance(model, np.ndarray):
            return super().class_probabilities(model, X)
        design = self._design(X)
        columns = [
            self.oracle.output(design, np.full(design.shape[0], float(c)), "prediction", model)
            for c in range(len(self.classes))
        ]
        return np.stack(columns, axis=1)

    def _design(self, X):
        # the same evaluation records come again for every subset
        if getattr(self, "_last", (None,))[0] is not X:
            self._last = X, self.oracle.prepare(X)[0]
        return self._last[1]


def newton_learner_or_none(oracle, estimator, X, y, sample_weight) -> NewtonLearner | None:
    """A NewtonLearner where the loss is that of `CloneLearner`: squared error or log-loss."""
    if not isinstance(oracle, GLMOracle) or (oracle.linear != 0).any():
        return None
    squared = type(oracle.family) is Gaussian and type(oracle) is GLMOracle
    if not (squared or oracle.family.classifies):
        return None
    if getattr(_last_step(estimator), "class_weight", None) == "balanced":
        return None  # the weights would change with the subset
    return NewtonLearner(oracle, estimator, X, y, sample_weight)


def value_of(outputs: Array, y: Array | None, classifies: bool, target: str = "loss") -> Array:
    """Loss, margin or prediction from outputs (..., m) and coded responses (m,)."""
    if target == "prediction" or (target == "margin" and not classifies):
        return outputs
    if not classifies:
        return (y - outputs) ** 2 / 2
    p = np.clip(outputs, SMALLEST_P, 1.0)
    if target == "loss":
        return -np.log(p)
    return np.log(p) - np.log(np.maximum(1 - outputs, SMALLEST_P))


def content_key(records: tuple[Any, Any]) -> str:
    """Equal for equal evaluation records."""
    X, y = records
    return joblib.hash((X.to_numpy() if hasattr(X, "to_numpy") else X, y))


def fit_subsets(
    learner: CloneLearner,
    subsets: list[NDArray[np.int64]],
    records: list[tuple[Any, Array]],
    *,
    seeds: int = 1,
    keep_models: bool = False,
    random_state=None,
    n_jobs=None,
    progress="auto",
    checkpoint_dir=None,
    description="",
) -> tuple[Array, list[list[Any]] | None]:
    """Outputs of the models of all subsets on lists of evaluation records, and the models if wanted.

    Returns
    -------
    outputs : ndarray of shape (len(subsets), total number of records)
        Mean over `seeds` fits that differ in the estimator's random_state.
    models : list of lists, or None
    """
    if keep_models and checkpoint_dir is not None:
        raise ValueError(
            'checkpoint_dir cannot keep models: name X_val and y_val in fit and use store="outputs"'
        )
    task = partial(_fit_one, learner, records, seeds, keep_models)
    results = parallel_map(
        task,
        subsets,
        random_state=random_state,
        n_jobs=n_jobs,
        progress=progress,
        checkpoint_dir=checkpoint_dir,
        description=f"{description} {learner.fingerprint()}" if checkpoint_dir else description,
    )
    models = [r[1] for r in results] if keep_models else None
    return np.stack([r[0] for r in results]), models


def _fit_one(learner, records, seeds, keep_models, members, rng):
    models = [learner.fit(members, rng) for _ in range(seeds)]
    outputs = np.mean(
        [np.concatenate([learner.outputs(m, X, y) for X, y in records]) for m in models], axis=0
    )
    return outputs, models if keep_models else None


def _seed(model, rng: np.random.Generator) -> None:
    """Give every random_state inside the model a number of its own."""
    names = [
        name
        for name in model.get_params(deep=True)
        if name == "random_state" or name.endswith("__random_state")
    ]
    if names:
        model.set_params(**{name: int(rng.integers(2**31 - 1)) for name in sorted(names)})


def _rows(X, members):
    return X.iloc[members] if hasattr(X, "iloc") else take(X, members)


def _last_step(estimator):
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def _one_thread():
    """Small fits in many workers must not each start threads."""
    return _controller().limit(limits=1)
