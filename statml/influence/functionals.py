"""Functions of a model's parameters that can be attributed to training records.

Each is called with ``(theta, oracle)`` and returns a number; give it to ``functional_influence`` of a method with
parameter changes (NewtonStep, LeaveOneOut, InfluenceFunction). The result is the value with a record minus the value
without it, evaluated, not linearised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from .._validation import check_choice
from .oracle import GradientOracle


@dataclass
class Coefficient:
    """One parameter.

    Parameters
    ----------
    name : str or int
        Its name in ``oracle.parameter_names``, or its position.

    Examples
    --------
    >>> import statsmodels.api as sm
    >>> from statml.influence import NewtonStep
    >>> from statml.influence.functionals import Coefficient
    >>> data = sm.datasets.stackloss.load_pandas()
    >>> fit = sm.OLS(data.endog, sm.add_constant(data.exog)).fit()
    >>> effect = NewtonStep().fit(fit).functional_influence(Coefficient("AIRFLOW"))
    >>> int(abs(effect).argmax()), round(float(effect[20]), 3)
    (20, -0.173)
    """

    name: str | int

    def __call__(self, theta: NDArray[np.float64], oracle: GradientOracle) -> float:
        if isinstance(self.name, str):
            if self.name not in oracle.parameter_names:
                raise ValueError(
                    f"name must be one of {oracle.parameter_names[:10]}, got {self.name!r}"
                )
            return float(theta[oracle.parameter_names.index(self.name)])
        return float(theta[self.name])


class _OnRecords:
    """A functional of the model's outputs on fixed records, which are prepared once for each oracle."""

    def __init__(self, X: Any, y: ArrayLike):
        self.X = X
        self.y = y
        self._prepared: tuple[Any, Any, Any] = (None, None, None)

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self.y)} records"

    def _records(self, oracle: GradientOracle):
        if self._prepared[0] is not oracle:
            self._prepared = (oracle, *oracle.prepare(self.X, self.y))
        return self._prepared[1:]

    def _positive(self, theta, oracle, target):
        """Probability (or log-odds) of the second class."""
        X, y = self._records(oracle)
        if not getattr(oracle.family, "classifies", False) or not np.isin(y, (0, 1)).all():
            raise TypeError(f"{type(self).__name__} is defined for two classes")
        return oracle.output(X, np.ones(len(y)), target, theta), y


class MeanLoss(_OnRecords):
    """Mean loss of given records.

    Examples
    --------
    >>> MeanLoss([[0.0], [1.0]], [0, 1])
    MeanLoss of 2 records
    """

    def __call__(self, theta: NDArray[np.float64], oracle: GradientOracle) -> float:
        return float(oracle.loss(*self._records(oracle), theta).mean())


class AUROC(_OnRecords):
    """Area under the ROC curve of a two-class model on given records."""

    def __call__(self, theta: NDArray[np.float64], oracle: GradientOracle) -> float:
        score, y = self._positive(theta, oracle, "margin")
        return float(roc_auc_score(y, score))


class FairnessGap(_OnRecords):
    """Difference of mean predicted probabilities of the second class between two groups.

    Parameters
    ----------
    X, y : records
    groups : array-like of shape (m,)
        Two labels; the gap is that of the second, in sorted order, minus that of the first.
    kind : {"demographic_parity", "equal_opportunity"}, default="demographic_parity"
        Over all records, or over those whose class is the second.
    """

    def __init__(self, X: Any, y: ArrayLike, groups: ArrayLike, kind: str = "demographic_parity"):
        super().__init__(X, y)
        check_choice("kind", kind, ("demographic_parity", "equal_opportunity"))
        self.kind = kind
        self.groups = np.asarray(groups)
        self.labels = np.unique(self.groups)
        if len(self.labels) != 2:
            raise ValueError(f"groups must hold two labels, got {len(self.labels)}")

    def __call__(self, theta: NDArray[np.float64], oracle: GradientOracle) -> float:
        p, y = self._positive(theta, oracle, "prediction")
        if len(p) != len(self.groups):
            raise ValueError(f"groups must hold {len(p)} labels, got {len(self.groups)}")
        counted = y == 1 if self.kind == "equal_opportunity" else np.ones(len(y), dtype=bool)
        means = []
        for label in self.labels:
            members = counted & (self.groups == label)
            if not members.any():
                raise ValueError(f"group {label!r} has no records to compare")
            means.append(p[members].mean())
        return float(means[1] - means[0])
