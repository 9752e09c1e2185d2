r"""Data Shapley and other semivalues of the utility of a trained model, by sampling permutations.

The utility :math:`\nu(S)` of a set of training records is minus the loss on validation records of the model trained on
it, kept *for each validation record*, so that one set of fits gives the whole matrix. In a random permutation the
marginal contribution of the record at position s + 1 has expectation :math:`\frac{1}{n}\sum_s \Delta_s`; weighted by
:math:`n \binom{n-1}{s} w(s)` it is unbiased for the semivalue w (`semivalues`).

* "permutation": independent permutations.
* "antithetic": a permutation and its reverse form one draw, which cancels what is linear in the position (Mitchell et al.
  2022); the gain is small where marginal contributions depend on who came before rather than on how many.
* "tmc": truncated Monte Carlo (Ghorbani and Zou 2019): once the utility has stayed within
  :math:`\mathrm{tol} \cdot |\nu(D) - \nu(\emptyset)|` of that of all records for more than `patience` prefixes, the rest
  of the permutation gets 0. Saves most of the fits, at the price of a bias towards 0 for late positions.
* "stratified": for every record, coalitions of every size in equal numbers (Maleki et al. 2013); for semivalues that
  put their weight on few sizes.
* "gradient": G-Shapley: no refits, one SGD step a record along the permutation, from the untrained model. Measures
  a different game, of that one-pass learner.
* "exact": all 2^n subsets, for at most 16 records.

The model of the empty set predicts the class shares (or the mean response) of the full data; see `retraining` for
subsets that lack a class. Generalised linear models are fitted by Newton steps from the previous prefix.

References: Ghorbani, A. and Zou, J. (2019). Data Shapley. ICML. Kwon, Y. and Zou, J. (2022). Beta Shapley. AISTATS.
Hammoudeh and Lowd (2024), Machine Learning 113, equations (17)-(18).

Cost: n fits a permutation, fewer where truncated.
"""

from __future__ import annotations

import os
import warnings
from functools import partial
from typing import Any

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from .._validation import RandomState, as_seed_sequence, check_choice, check_integer, check_number
from ..parallel import parallel_map
from ._base import BaseInfluence
from .gradient_shapley import GradientGame
from .models import make_oracle
from .monte_carlo import MonteCarloValues
from .oracle import count
from .retraining import CloneLearner, NewtonLearner, content_key, newton_learner_or_none, value_of
from .semivalues import Semivalue, log_weights, size_log_weights

Array = NDArray[np.float64]

METHODS = ("tmc", "permutation", "antithetic", "stratified", "gradient", "exact")
MOST_EXACT = 16
CHUNK = 10  # permutations of one parallel task


class DataShapley(BaseInfluence):
    """Shapley values and other semivalues of training records, with standard errors.

    Parameters
    ----------
    method : {"tmc", "permutation", "antithetic", "stratified", "gradient", "exact"}, default="tmc"
    semivalue : {"shapley", "banzhaf", "loo"} or ("beta", a, b), default="shapley"
    tol : float, default=0.01
        Truncation of "tmc", relative to the range of the utility.
    patience : int, default=5
        Prefixes within `tol` that are seen before truncation.
    max_permutations : int, default=1000
        Permutations at most ("stratified": draws for each record and size).
    stop : float, default=0.05
        Stop once the root mean square standard error of the mean values is this share of their standard deviation
        between records; 0 goes on to `max_permutations`.
    utility : {"neg_log_loss", "neg_squared_error", "accuracy", "auto"}, default="auto"
        "auto" is minus the log-loss of a classifier or half the squared error of a regression. "accuracy" is flat (most
        single records change nothing) and warns.
    warm_start : bool or "auto", default="auto"
        Newton steps instead of refits. "auto": for a fitted linear or logistic model. The steps before a
        Pipeline's last are then those of the full data.
    random_state : int, Generator or None, default=None
    n_jobs, progress, checkpoint_dir
        As in `statml.parallel.parallel_map`.

    Attributes
    ----------
    values_ : ndarray of shape (n_train,)
        Value of each record for the mean utility of the validation records.
    std_error_ : ndarray of shape (n_train,)
    influence_std_ : ndarray of shape (n_val, n_train)
    n_permutations_, n_fits_ : int
    utility_full_, utility_empty_ : float
    converged_ : bool
        Whether `stop` was met.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import scale
    >>> from statml.influence import DataShapley
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = scale(X)[:, :5]
    >>> model = LogisticRegression().fit(X[:20], y[:20])
    >>> shapley = DataShapley(max_permutations=40, random_state=0)
    >>> shapley = shapley.fit(model, X[:20], y[:20], X_val=X[20:60], y_val=y[20:60])
    >>> shapley.values_.shape, shapley.influence(X[20:60], y[20:60]).shape
    ((20,), (40, 20))
    """

    _needs_oracle = False

    def __init__(
        self,
        method: str = "tmc",
        semivalue: Semivalue = "shapley",
        tol: float = 0.01,
        patience: int = 5,
        max_permutations: int = 1000,
        stop: float = 0.05,
        utility: str = "auto",
        warm_start: bool | str = "auto",
        random_state: RandomState = None,
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike[str] | None = None,
    ):
        self.method = method
        self.semivalue = semivalue
        self.tol = tol
        self.patience = patience
        self.max_permutations = max_permutations
        self.stop = stop
        self.utility = utility
        self.warm_start = warm_start
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val):
        check_choice("method", self.method, METHODS)
        check_number("tol", self.tol, 0)
        check_number("stop", self.stop, 0)
        check_integer("patience", self.patience, low=0)
        check_integer("max_permutations", self.max_permutations, low=2)
        if X_val is None or y_val is None:
            raise ValueError(
                "X_val and y_val must hold the validation records that define the utility"
            )
        if self.checkpoint_dir is not None and self.random_state is None:
            raise ValueError("random_state must be given with checkpoint_dir")
        self._val = X_val, y_val
        n = self.n_train_
        log_w = log_weights(self.semivalue, n)
        game = self._game(estimator, X, y, sample_weight, X_val, y_val)
        self._key = content_key(game.records)
        full, empty = game.utility(np.arange(n)), game.utility(np.arange(0))
        self.utility_full_, self.utility_empty_ = float(full.mean()), float(empty.mean())
        self.method_ = f"{self.method} {self.semivalue}"
        if self.method == "exact":
            value = exact_semivalues(game, n, log_w, self.n_jobs, self.progress)
            self._matrix = MonteCarloValues(value, np.zeros_like(value))
            self.values_, self.std_error_ = value.mean(axis=0), np.zeros(n)
            self.n_permutations_, self.n_fits_, self.converged_ = 0, 2**n, True
            return
        self._sample(game, n, full)
        if not self.converged_ and self.stop > 0:
            warnings.warn(
                f"the standard errors are still {self.diagnostics_['relative_error']:.2g} of the spread of the "
                f"values after max_permutations={self.max_permutations}; they say how far to trust each",
                stacklevel=3,
            )

    def _game(self, estimator, X, y, sample_weight, X_val, y_val) -> Game:
        check_choice(
            "utility", self.utility, ("auto", "neg_log_loss", "neg_squared_error", "accuracy")
        )
        if self.warm_start not in (True, False, "auto"):
            raise ValueError(f'warm_start must be True, False or "auto", got {self.warm_start!r}')
        if self.method == "gradient":
            learner = CloneLearner(estimator, X, y, sample_weight)
            oracle = make_oracle(estimator, X, y, sample_weight)
            return GradientGame(
                oracle, learner.check_records(X_val, y_val), X_val, y_val,
                as_seed_sequence(self.random_state),
            )  # fmt: skip
        learner = None
        if self.warm_start:
            try:
                oracle = make_oracle(estimator, X, y, sample_weight)
                learner = newton_learner_or_none(oracle, estimator, X, y, sample_weight)
            except (TypeError, NotFittedError):
                if self.warm_start is True:
                    raise
        if learner is None:
            if self.warm_start is True:
                raise ValueError(
                    "warm_start=True takes linear and logistic models without an L1 penalty"
                )
            learner = CloneLearner(estimator, X, y, sample_weight)
        wanted = "neg_log_loss" if learner.classifies else "neg_squared_error"
        if self.utility not in ("auto", wanted, "accuracy" if learner.classifies else wanted):
            raise ValueError(
                f'utility must be "{wanted}" for a {"classifier" if learner.classifies else "regression"}, '
                f"got {self.utility!r}"
            )
        if self.utility == "accuracy":
            warnings.warn(
                "accuracy is flat: removing one record rarely changes a predicted class, so values are mostly "
                'sampling noise; utility="neg_log_loss" separates records better',
                stacklevel=4,
            )
        return Game(learner, learner.check_records(X_val, y_val), self.utility == "accuracy")

    def _sample(self, game, n: int, full: Array) -> None:
        """Rounds of parallel tasks until `stop` or `max_permutations`."""
        factor = np.exp(np.log(n) + size_log_weights(self.semivalue, n))
        if self.method == "stratified":
            task = partial(_stratified, game, n, factor / n)
        else:
            band = self.tol * abs(self.utility_full_ - self.utility_empty_)
            task = partial(
                _walk, game, n, factor, float(full.mean()),
                band if self.method == "tmc" else None, self.patience, self.method == "antithetic",
            )  # fmt: skip
        done, n_fits, rounds = 0, 2, 0
        total = Totals.empty(n, len(full))
        # each round has a seed of its own, so that a resumed or longer run repeats the same draws
        seeds = as_seed_sequence(self.random_state)
        relative = np.inf
        while done < self.max_permutations and relative > self.stop:
            wanted = min(max(CHUNK * 4, done // 2), self.max_permutations - done)
            sizes = [CHUNK] * (wanted // CHUNK) + ([wanted % CHUNK] if wanted % CHUNK else [])
            folder = None
            if self.checkpoint_dir is not None:
                folder = os.path.join(self.checkpoint_dir, f"round_{rounds:03d}")
            results = parallel_map(
                task, sizes, random_state=seeds.spawn(1)[0], n_jobs=self.n_jobs,
                progress=self.progress, checkpoint_dir=folder,
                description=f"{self.method} {game.fingerprint()}" if folder else self.method,
            )  # fmt: skip
            for part in results:
                total = total.add(part)
                n_fits += part["n_fits"]
            done += wanted
            rounds += 1
            self.values_, self.std_error_ = total.mean_values()
            spread = self.values_.std()
            relative = np.sqrt(np.mean(self.std_error_**2)) / spread if spread > 0 else np.inf
        self._matrix = total.matrix()
        self.n_permutations_, self.n_fits_ = done, n_fits
        self.converged_ = bool(relative <= self.stop)
        self.diagnostics_: dict[str, Any] = {
            "n_permutations": done,
            "relative_error": float(relative),
            "utility_full": self.utility_full_,
            "utility_empty": self.utility_empty_,
            "efficiency_gap": float(self.values_.sum() - self.utility_full_ + self.utility_empty_),
        }
        if self.semivalue != "shapley":
            del self.diagnostics_["efficiency_gap"]

    # --- hooks of BaseInfluence ---

    def _prepare(self, X, y, target):
        if target != "loss":
            raise ValueError(f'target must be "loss" (the utility), got {target!r}')
        if y is None:
            raise ValueError("y_test must be given")
        return X, y

    def influence(
        self,
        X_test: Any = None,
        y_test: ArrayLike | None = None,
        *,
        target: str = "loss",
        groups: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Value of every training record for every validation record.

        Parameters
        ----------
        X_test, y_test : optional
            The X_val and y_val of ``fit``, whose utility was sampled; None means those.
        target : "loss"
        groups : array-like of shape (n_train,), optional
            Adds up the records of each group.

        Returns
        -------
        ndarray of shape (n_val, n_train) or (n_val, n_groups)
        """
        check_is_fitted(self)
        if X_test is None:
            X_test, y_test = self._val
        return super().influence(X_test, y_test, target=target, groups=groups)

    def _influence(self, X, y, target):
        if count(X) == len(self._matrix.value) and joblib.hash(np.asarray(X)) == joblib.hash(
            np.asarray(self._val[0])
        ):
            self.influence_std_ = self._matrix.std_error
            return self._matrix.value
        raise ValueError("X_test must be the X_val of fit: other records would need other fits")

    def _mean_values(self, X, y):
        self._influence(X, y, "loss")
        return MonteCarloValues(self.values_, self.std_error_, max(1, self.n_permutations_ - 1))

    def _self_influence(self):
        raise TypeError(
            "DataShapley values records for its validation data; for self-influence give the training data as X_val"
        )

    def _blocks(self, m, n_arrays=1):
        yield slice(0, m)


class Game:
    """Utility vectors of subsets: one number for each validation record."""

    def __init__(self, learner: CloneLearner, records: tuple[Any, Array], accuracy: bool = False):
        self.learner = learner
        self.records = records
        self.accuracy = accuracy

    def utility(self, members: NDArray[np.int64], rng=None) -> Array:
        return self.value(self.model(members, rng))

    def model(self, members, rng=None, previous=None):
        """The model of a subset, from that of a subset with one record less where that helps."""
        if isinstance(self.learner, NewtonLearner):
            start = previous if isinstance(previous, np.ndarray) else None
            return self.learner.fit(members, rng, start)
        return self.learner.fit(members, rng)

    def value(self, model) -> Array:
        X, y = self.records
        if self.accuracy:
            return (self.learner.class_probabilities(model, X).argmax(axis=1) == y).astype(float)
        outputs = self.learner.outputs(model, X, y)
        return -value_of(outputs, y, self.learner.classifies)

    def walk(self, order: NDArray[np.int64], rng):
        """Utility of each prefix of a permutation, the shortest first."""
        model = None
        for k in range(1, len(order) + 1):
            model = self.model(order[:k], rng, model)
            yield self.value(model)

    def fingerprint(self) -> str:
        return joblib.hash((self.learner.fingerprint(), content_key(self.records), self.accuracy))[
            :12
        ]


class Totals:
    """Sums over draws of the marginal contributions, from which means and errors follow."""

    def __init__(self, n_draws, total, square, mean_square):
        self.n_draws, self.total, self.square, self.mean_square = (
            n_draws,
            total,
            square,
            mean_square,
        )

    @classmethod
    def empty(cls, n, m):
        return cls(0, np.zeros((n, m)), np.zeros((n, m)), np.zeros(n))

    def add(self, part: dict) -> Totals:
        return Totals(
            self.n_draws + part["n_draws"],
            self.total + part["total"],
            self.square + part["square"],
            self.mean_square + part["mean_square"],
        )

    def mean_values(self) -> tuple[Array, Array]:
        mean = self.total.mean(axis=1) / self.n_draws
        variance = np.maximum(self.mean_square / self.n_draws - mean**2, 0)
        return mean, np.sqrt(variance / (self.n_draws - 1))

    def matrix(self) -> MonteCarloValues:
        mean = self.total / self.n_draws
        variance = np.maximum(self.square / self.n_draws - mean**2, 0)
        return MonteCarloValues(mean.T, np.sqrt(variance / (self.n_draws - 1)).T)


def _walk(game, n, factor, full, band, patience, antithetic, n_permutations, rng) -> dict:
    """Sums over some permutations; the task of one worker."""
    empty = game.utility(np.arange(0))
    m = len(empty)
    part = Totals.empty(n, m)
    n_fits = 0
    # all orders first, so that they do not depend on what a fit draws
    for order in [rng.permutation(n) for _ in range(n_permutations)]:
        draw = np.zeros((n, m))
        orders = (order, order[::-1]) if antithetic else (order,)
        for sequence in orders:
            before, close = empty, 0
            for s, after in enumerate(game.walk(sequence, rng)):
                n_fits += 1
                draw[sequence[s]] += factor[s] * (after - before)
                before = after
                close = close + 1 if band is not None and abs(after.mean() - full) <= band else 0
                if close > patience:
                    break
        draw /= len(orders)
        part.total += draw
        part.square += draw**2
        part.mean_square += draw.mean(axis=1) ** 2
        part.n_draws += 1
    return {
        "n_draws": part.n_draws, "total": part.total, "square": part.square,
        "mean_square": part.mean_square, "n_fits": n_fits,
    }  # fmt: skip


def _stratified(game, n, weight, n_draws, rng) -> dict:
    """Draws in which every record joins one random coalition of every size that carries weight."""
    m = len(game.utility(np.arange(0)))
    part = Totals.empty(n, m)
    n_fits = 0
    sizes = np.flatnonzero(weight > 1e-12 * weight.max())
    for _ in range(n_draws):
        draw = np.zeros((n, m))
        for i in range(n):
            others = np.delete(np.arange(n), i)
            for s in sizes:
                members = rng.choice(others, size=s, replace=False)
                with_i = game.utility(np.append(members, i), rng)
                draw[i] += weight[s] * (with_i - game.utility(members, rng))
                n_fits += 2
        part.total += draw
        part.square += draw**2
        part.mean_square += draw.mean(axis=1) ** 2
        part.n_draws += 1
    return {
        "n_draws": part.n_draws, "total": part.total, "square": part.square,
        "mean_square": part.mean_square, "n_fits": n_fits,
    }  # fmt: skip


def exact_semivalues(game, n: int, log_w: Array, n_jobs=None, progress="auto") -> Array:
    """Semivalues (m, n) from the utilities of all subsets."""
    if n > MOST_EXACT:
        raise ValueError(
            f'method="exact" fits 2^n models and takes at most {MOST_EXACT} records, got {n}'
        )
    codes = np.arange(2**n)
    bits = (codes[:, None] >> np.arange(n)) & 1
    chunks = np.array_split(codes, max(1, len(codes) // 64))
    task = partial(_utilities, game, n)
    parts = parallel_map(
        task, chunks, random_state=0, n_jobs=n_jobs, progress=progress, description="exact"
    )
    utilities = np.concatenate(parts)
    size = bits.sum(axis=1)
    w = np.exp(log_w)
    value = np.empty((utilities.shape[1], n))
    for i in range(n):
        without = codes[bits[:, i] == 0]
        marginal = utilities[without | (1 << i)] - utilities[without]
        value[:, i] = w[size[without]] @ marginal
    return value


def _utilities(game, n, codes, rng):
    return np.stack([game.utility(np.flatnonzero((c >> np.arange(n)) & 1), rng) for c in codes])
