r"""What every influence method has in common: one face, one sign, tables and ranking.

The sign, everywhere: the influence of training record i on a test record is **the loss without i minus the loss
with i**. Positive: i is helpful. Values that are better when larger (a margin, a prediction of the right class) are
attributed as the value with i minus the value without i, so that positive always means that i raises the value or
lowers the loss.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from statsmodels.iolib.summary import Summary

from .._validation import check_choice, check_integer
from ..inference.summaries import fact, facts_table, summary_of, text_table
from .monte_carlo import MonteCarloValues
from .oracle import MEMORY_LIMIT, TARGETS, count, take

Array = NDArray[np.float64]


class BaseInfluence(BaseEstimator):
    """The face that all influence methods share. Subclasses supply the underscored hooks.

    A method is fitted to a model and its training data rather than to (X, y), so scikit-learn's checks of
    estimators do not apply; parameters, cloning and pickling do.

    Attributes
    ----------
    n_train_ : int
        Number of training records, the columns of every result.
    labels_ : Index of length n_train
        Names of the training records: the index of X where that is a DataFrame, else 0, 1, ...
    oracle_ : GradientOracle or None
        The model as gradient-based methods see it.
    method_ : str
        What was computed.
    n_fits_ : int
        Number of model fits that were needed.
    diagnostics_ : dict
        What the accuracy of the result rests on.
    influence_std_ : ndarray
        Of Monte-Carlo methods: standard errors of the result.
    """

    # Every method that needs gradients leaves this at True; others get the estimator and data themselves.
    _needs_oracle = True

    def fit(
        self,
        estimator: Any,
        X: Any = None,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        memory_limit: int = MEMORY_LIMIT,
    ) -> Self:
        """Take in a fitted model and the data that it was fitted to.

        Parameters
        ----------
        estimator : fitted scikit-learn estimator or Pipeline, statsmodels results, or GradientOracle
            It is not changed; methods that refit use clones.
        X : array-like, sparse matrix or DataFrame of shape (n_train, n_features), optional
            Training data; may be left out where the model carries it (statsmodels results, an oracle).
        y : array-like of shape (n_train,), optional
        sample_weight : array-like of shape (n_train,), optional
            The weights that the estimator was fitted with.
        X_val, y_val : optional
            Validation data, for methods with a utility.
        memory_limit : int, default=2**28
            Bytes that one temporary array may take.

        Returns
        -------
        self
        """
        check_integer("memory_limit", memory_limit, low=1)
        self.diagnostics_ = {}
        self.n_fits_ = 0
        self.method_ = type(self).__name__
        index = X.index if isinstance(X, pd.DataFrame) else None
        if self._needs_oracle:
            from .models import make_oracle

            self.oracle_ = make_oracle(estimator, X, y, sample_weight, memory_limit=memory_limit)
            self.n_train_ = self.oracle_.n_train
        else:
            self.oracle_ = None
            self.n_train_ = count(X)
        self.labels_ = pd.RangeIndex(self.n_train_) if index is None else pd.Index(index)
        self._memory_limit = memory_limit
        self._fit(estimator, X, y, sample_weight, X_val, y_val)
        return self

    # --- hooks ---

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val) -> None:
        """Whatever is computed once, before test records are known."""

    @abstractmethod
    def _influence(self, X: Any, y: Any, target: str) -> Array:
        """(n_test, n_train), for test records in the oracle's form (or as given, where there is no oracle)."""

    def _self_influence(self) -> Array:
        """(n_train,); the default takes the diagonal of `_influence` in blocks, of losses."""
        X, y = self._training_records()
        out = np.empty(self.n_train_)
        for part in self._blocks(self.n_train_):
            block = self._influence(take(X, part), take(y, part), "loss")
            out[part] = block[np.arange(len(block)), np.arange(part.start, part.stop)]
        return out

    def _group_influence(self, index_sets: list[NDArray[np.int64]], X, y, target: str) -> Array:
        """(n_test, n_groups); the default adds up the members, which is what a linear method means."""
        out = np.zeros((count(X), len(index_sets)))
        for part in self._blocks(count(X)):
            block = self._influence(take(X, part), take(y, part), target)
            for k, members in enumerate(index_sets):
                out[part, k] = block[:, members].sum(axis=1)
        return out

    def _parameter_change(self, index_sets: list[NDArray[np.int64]] | None) -> Array:
        raise NotImplementedError(
            f"{type(self).__name__} attributes losses, not parameters; NewtonStep, LeaveOneOut and "
            "InfluenceFunction give parameter changes"
        )

    def _training_records(self) -> tuple[Any, Any]:
        return self.oracle_.X, self.oracle_.y

    def _prepare(self, X, y, target: str) -> tuple[Any, Any]:
        """Test records in the form that `_influence` takes."""
        check_choice("target", target, TARGETS)
        if X is None:
            raise ValueError("X_test must hold test records, got None")
        if self.oracle_ is not None:
            X, y = self.oracle_.prepare(X, y)
        if y is None and target == "loss":
            raise ValueError('y_test must be given for target="loss"')
        return X, y

    # --- results ---

    def influence(
        self,
        X_test: Any,
        y_test: ArrayLike | None = None,
        *,
        target: str = "loss",
        groups: ArrayLike | None = None,
    ) -> Array:
        """Influence of every training record on every test record.

        Parameters
        ----------
        X_test : array-like of shape (n_test, n_features)
        y_test : array-like of shape (n_test,), optional
            Needed for losses, and for margins and predictions of a classification.
        target : {"loss", "margin", "prediction"}, default="loss"
            "loss": loss without the record minus loss with it. "margin" and "prediction": value with it minus
            value without it. Positive is helpful in all three.
        groups : array-like of shape (n_train,), optional
            A group label of each training record; the columns are then the groups, in the order of ``np.unique``.

        Returns
        -------
        ndarray of shape (n_test, n_train) or (n_test, n_groups)
        """
        check_is_fitted(self)
        if groups is not None:
            groups = np.asarray(groups)
            if groups.shape != (self.n_train_,):
                raise ValueError(
                    f"groups must hold one label for each of {self.n_train_} training records, got shape {groups.shape}"
                )
            sets = [np.flatnonzero(groups == label) for label in np.unique(groups)]
            return self.group_influence(sets, X_test, y_test, target=target)
        X, y = self._prepare(X_test, y_test, target)
        return self._influence(X, y, target)

    def self_influence(self) -> Array:
        """Influence of every training record on its own loss (memorisation).

        Returns
        -------
        ndarray of shape (n_train,)
        """
        check_is_fitted(self)
        return self._self_influence()

    def group_influence(
        self,
        index_sets: Sequence[ArrayLike],
        X_test: Any,
        y_test: ArrayLike | None = None,
        *,
        target: str = "loss",
    ) -> Array:
        """Influence of sets of training records, each set removed as a whole.

        Parameters
        ----------
        index_sets : sequence of arrays
            Positions of the members, or masks of length n_train.
        X_test, y_test, target
            As in `influence`.

        Returns
        -------
        ndarray of shape (n_test, n_groups)
        """
        check_is_fitted(self)
        sets = self._check_sets(index_sets)
        X, y = self._prepare(X_test, y_test, target)
        return self._group_influence(sets, X, y, target)

    def parameter_change(self, index_sets: Sequence[ArrayLike] | None = None) -> Array:
        """Parameters without a record (or a set of records) minus parameters with it.

        Parameters
        ----------
        index_sets : sequence of arrays, optional
            As in `group_influence`; None: each record alone.

        Returns
        -------
        ndarray of shape (n_train, p) or (n_groups, p)
            Columns as in ``oracle_.parameter_names``. statsmodels' ``dfbeta`` has the opposite sign.
        """
        check_is_fitted(self)
        return self._parameter_change(None if index_sets is None else self._check_sets(index_sets))

    def functional_influence(
        self, functional: Any, index_sets: Sequence[ArrayLike] | None = None
    ) -> Array:
        """Influence on any function of the parameters: a coefficient, a fairness gap, an AUROC.

        Parameters
        ----------
        functional : callable
            (theta, oracle) -> float; see `statml.influence.functionals`.
        index_sets : sequence of arrays, optional
            As in `group_influence`; None: each record alone.

        Returns
        -------
        ndarray of shape (n_train,) or (n_groups,)
            Value with the record(s) minus value without: positive where the record raises the value.
        """
        if not callable(functional):
            raise TypeError(
                f"functional must be callable with (theta, oracle), got {type(functional).__name__}"
            )
        change = self.parameter_change(index_sets)
        theta = self.oracle_.theta
        full = functional(theta, self.oracle_)
        return np.array([full - functional(theta + delta, self.oracle_) for delta in change])

    def rank(
        self,
        X_test: Any,
        y_test: ArrayLike | None = None,
        k: int = 10,
        *,
        by: str = "absolute",
        per_test: bool = False,
        target: str = "loss",
    ) -> pd.DataFrame:
        """The k training records that matter most.

        Parameters
        ----------
        X_test, y_test, target
            As in `influence`.
        k : int, default=10
        by : {"absolute", "helpful", "harmful"}, default="absolute"
            Largest in absolute value, most positive or most negative.
        per_test : bool, default=False
            Rank for each test record rather than by the mean over all of them. Rows of the influence matrix are
            computed in blocks and let go, so that memory stays at `memory_limit`.

        Returns
        -------
        DataFrame
            Columns rank, row (position in the training data), label (its index), influence, effect ("helps" or
            "hurts"); with `per_test` also test, the position of the test record.
        """
        check_is_fitted(self)
        check_choice("by", by, ("absolute", "helpful", "harmful"))
        k = min(check_integer("k", k, low=1), self.n_train_)
        X, y = self._prepare(X_test, y_test, target)
        tables = []
        total = np.zeros(self.n_train_)
        for part in self._blocks(count(X)):
            block = self._influence(take(X, part), take(y, part), target)
            if per_test:
                tables += [
                    self._top(row, k, by).assign(test=part.start + j) for j, row in enumerate(block)
                ]
            else:
                total += block.sum(axis=0)
        if per_test:
            table = pd.concat(tables, ignore_index=True)
            return table[["test", *table.columns.drop("test")]]
        return self._top(total / count(X), k, by)

    def influential(
        self, X_test: Any, y_test: ArrayLike | None = None, q: float = 0.1, *, method: str = "bh"
    ) -> pd.DataFrame:
        """Training records whose mean influence differs from zero beyond Monte-Carlo noise, at FDR q.

        Parameters
        ----------
        X_test, y_test
            As in `influence`.
        q : float, default=0.1
            Bound on the expected share of records in the table whose true value is zero.
        method : {"bh", "by", "storey", "liu"}, default="bh"

        Returns
        -------
        DataFrame
            As from `rank`, with std_error and statistic; largest statistic first.

        Raises
        ------
        TypeError
            If the method is not a Monte-Carlo one: there is then no noise to test against.
        """
        check_is_fitted(self)
        X, y = self._prepare(X_test, y_test, "loss")
        values = self._mean_values(X, y)
        found = values.influential(q, method)
        table = self._table(found["row"].to_numpy(), values.value)
        return table.assign(
            std_error=found["std_error"].to_numpy(), statistic=found["statistic"].to_numpy()
        )

    def _mean_values(self, X, y) -> MonteCarloValues:
        """Influence on the mean loss of test records, with its standard error, (n_train,)."""
        raise TypeError(
            f"{type(self).__name__} is deterministic, so its values have no standard errors to test with; "
            "SubsetEnsemble and DataShapley have them"
        )

    def to_frame(
        self, X_test: Any, y_test: ArrayLike | None = None, *, target: str = "loss"
    ) -> pd.DataFrame:
        """`influence` as a DataFrame, with the names of test records as rows and of training records as columns."""
        values = self.influence(X_test, y_test, target=target)
        index = X_test.index if isinstance(X_test, pd.DataFrame) else None
        return pd.DataFrame(
            values,
            index=pd.RangeIndex(len(values)) if index is None else index,
            columns=self.labels_,
        )

    def summary(self, k: int = 10) -> Summary:
        """What was computed, what its accuracy rests on, and the k largest self-influences.

        Returns
        -------
        statsmodels.iolib.summary.Summary
        """
        check_is_fitted(self)
        values = self.self_influence()
        top = self._top(values, min(check_integer("k", k, low=1), self.n_train_), "absolute")
        body = text_table(
            [(str(r.row), f"{r.influence:.5g}", r.effect) for r in top.itertuples()],
            ["position", "self-influence", "its own loss"],
            [str(label) for label in top["label"]],
        )
        facts = {"n_train": self.n_train_, "n_fits": self.n_fits_}
        if self.oracle_ is not None:
            facts["n_params"] = self.oracle_.n_params
        facts |= {
            name: value
            for name, value in self.diagnostics_.items()
            if np.ndim(value) == 0 and fact(value)
        }
        width = len(str(body).partition("\n")[0])
        return summary_of(
            facts_table(f"Influence: {self.method_}", facts, width),
            body,
            notes=["Influence is the loss without a record minus the loss with it."],
        )

    # --- small things ---

    def _top(self, values: Array, k: int, by: str) -> pd.DataFrame:
        key = {"absolute": np.abs(values), "helpful": values, "harmful": -values}[by]
        return self._table(np.argsort(-key, kind="stable")[:k], values)

    def _table(self, rows: NDArray[np.int64], values: Array) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "rank": np.arange(1, len(rows) + 1),
                "row": rows,
                "label": self.labels_[rows],
                "influence": values[rows],
                "effect": np.select(
                    [values[rows] > 0, values[rows] < 0], ["helps", "hurts"], "none"
                ),
            }
        )

    def _blocks(self, m: int, n_arrays: int = 1) -> Iterator[slice]:
        """Slices of m test records such that `n_arrays` blocks of rows of the result fit the memory limit."""
        size = max(1, int(self._memory_limit // (8 * self.n_train_ * n_arrays)))
        for start in range(0, m, size):
            yield slice(start, min(start + size, m))

    def _check_sets(self, index_sets: Sequence[ArrayLike]) -> list[NDArray[np.int64]]:
        sets = []
        for k, members in enumerate(index_sets):
            members = np.asarray(members)
            if members.dtype == bool:
                if members.shape != (self.n_train_,):
                    raise ValueError(
                        f"index_sets[{k}] is a mask of shape {members.shape}; it must have length {self.n_train_}"
                    )
                members = np.flatnonzero(members)
            if members.ndim != 1 or (members.size and members.dtype.kind not in "iu"):
                raise ValueError(
                    f"index_sets[{k}] must be a list of positions or a mask, got {members.dtype} of shape {members.shape}"
                )
            members = members.astype(np.int64)
            if members.size and not (members.min() >= 0 and members.max() < self.n_train_):
                raise ValueError(
                    f"index_sets[{k}] must hold positions in 0..{self.n_train_ - 1}, got {members.min()}..{members.max()}"
                )
            if len(np.unique(members)) < members.size:
                raise ValueError(f"index_sets[{k}] names a record twice")
            sets.append(members)
        return sets
