r"""Probabilities of the cells of a table: :math:`p \sim \mathrm{Dirichlet}(\alpha)`, see `statml.privacy.models.DirichletCategorical`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from ..._validation import RandomState, check_integer, check_level, check_sequence
from ..mechanisms._release import numbers
from ..models import DirichletCategorical
from ..protocols import Array, Mechanism
from ._own_model import OwnModel


class PrivateContingencyTable(OwnModel):
    """Probabilities of the cells of a table, from noisy counts or from randomised answers.

    Parameters
    ----------
    mechanism : Mechanism
        Noise on every count, or `RandomizedResponse` over the cells in row-major order.
    n_records : int
        Public total of the true counts.
    shape : tuple of int or None, default=None
        Shape of the table; None takes that of the release. Needed for randomised answers.
    alpha : float or array-like of that shape, default=1.0
        Dirichlet prior of the cell probabilities.
    draws, tune, chains, kernel, n_jobs, progress, checkpoint_dir, random_state
        As in `PrivatePosterior`.

    Attributes
    ----------
    table_ : DataFrame or ndarray
        Posterior mean of the probability of each cell, labelled as the release was; an array where it has not two dimensions.
    shape_ : tuple of int
    model : DirichletCategorical
        And the attributes of `PrivatePosterior`. Terms are ``p[0]``, ``p[1]``, ... in row-major order, or the labels of a DataFrame.

    Examples
    --------
    >>> import pandas as pd
    >>> from statml.privacy import PrivateContingencyTable, mechanisms
    >>> release = pd.DataFrame({"admitted": [131, 47], "refused": [119, 122]}, index=["men", "women"])
    >>> fit = PrivateContingencyTable(mechanisms.DiscreteGaussian(6.25), n_records=400, random_state=0).fit(release)
    >>> fit.table_.round(2)
           admitted  refused
    men        0.31     0.29
    women      0.11     0.29
    >>> fit.odds_ratio().round(1)[["estimate", "conf_low", "conf_high"]]
       estimate  conf_low  conf_high
    0       3.0       1.8        5.3
    """

    def __init__(
        self,
        mechanism: Mechanism,
        n_records: int,
        shape: tuple[int, ...] | None = None,
        alpha: ArrayLike = 1.0,
        draws: int = 2000,
        tune: int = 1000,
        chains: int = 4,
        kernel: str = "auto",
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        random_state: RandomState = None,
    ):
        self.mechanism = mechanism
        self.n_records = n_records
        self.shape = shape
        self.alpha = alpha
        self.draws = draws
        self.tune = tune
        self.chains = chains
        self.kernel = kernel
        self.n_jobs = n_jobs
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state

    def fit(self, release: ArrayLike, y: None = None) -> Self:
        """Draw from the posterior.

        Parameters
        ----------
        release : DataFrame or array-like of the shape of the table; or the n randomised answers, cells numbered in row-major order
        y : ignored
        """
        self._labels = (
            (release.index, release.columns) if isinstance(release, pd.DataFrame) else None
        )
        values = numbers("release", release)
        if not isinstance(self.mechanism, Mechanism):
            raise TypeError(f"mechanism must be a Mechanism, got {type(self.mechanism).__name__}")
        answers = self.mechanism.factorises and not getattr(self.mechanism, "counts", False)
        shape = values.shape
        if self.shape is not None:
            shape = tuple(check_sequence("shape", self.shape, "integers"))
        if answers and self.shape is None:
            raise ValueError("shape must be given where the release holds randomised answers")
        if not answers and values.shape != shape:
            raise ValueError(f"release must be a table of shape {shape}, got shape {values.shape}")
        if not shape or any(check_integer("shape", size, low=1) < 1 for size in shape):
            raise ValueError(f"shape must be of at least one dimension, got {shape}")
        alpha = np.broadcast_to(np.asarray(self.alpha, dtype=float), shape)
        self._model = DirichletCategorical(alpha.ravel(), categories=self._cells(shape))
        self.shape_ = shape
        super().fit(values.ravel())
        table = self.posterior_mean_.reshape(shape)
        self.table_: pd.DataFrame = table
        if len(shape) == 2:
            index, columns = self._labels or (None, None)
            self.table_ = pd.DataFrame(table, index=index, columns=columns)
        return self

    def _cells(self, shape: tuple[int, ...]) -> list[str]:
        if self._labels is not None:
            return [f"{row}, {column}" for row in self._labels[0] for column in self._labels[1]]
        return [f"count[{','.join(map(str, cell))}]" for cell in np.ndindex(*shape)]

    def tidy(self, level: float = 0.95) -> pd.DataFrame:
        """As `PrivatePosterior.tidy`; the terms of a DataFrame's cells are their labels."""
        table = super().tidy(level)
        if self._labels is not None:
            table["term"] = self.model.statistic_names
        return table

    def conditional(self, axis: int = 1, level: float = 0.95) -> pd.DataFrame:
        """Probabilities along one axis given the others, such as those of the columns in each row.

        Parameters
        ----------
        axis : int, default=1
            Along which probabilities sum to one.
        level : float, default=0.95

        Returns
        -------
        DataFrame
            One row a cell, columns term, estimate, std_error, conf_low, conf_high.
        """
        check_is_fitted(self)
        check_integer("axis", axis, low=0, high=len(self.shape_) - 1)
        draws = self._tables()
        share = draws / draws.sum(axis=axis + 1, keepdims=True)
        return _intervals(self.model.statistic_names, share.reshape(len(draws), -1), level)

    def odds_ratio(self, level: float = 0.95) -> pd.DataFrame:
        """Odds ratio of a 2 by 2 table, (p00 p11) / (p01 p10): posterior median and credible interval.

        Parameters
        ----------
        level : float, default=0.95

        Returns
        -------
        DataFrame of 1 row
            Columns term, estimate, std_error (of the logarithm), conf_low, conf_high.
        """
        check_is_fitted(self)
        if self.shape_ != (2, 2):
            raise ValueError(f"odds_ratio needs a 2 by 2 table, got shape {self.shape_}")
        with np.errstate(divide="ignore"):
            log_p = np.log(self._tables())
        log_ratio = log_p[:, 0, 0] + log_p[:, 1, 1] - log_p[:, 0, 1] - log_p[:, 1, 0]
        table = _intervals(["odds ratio"], log_ratio[:, None], level)
        table["estimate"] = np.median(log_ratio)
        columns = ["estimate", "conf_low", "conf_high"]
        table[columns] = np.exp(table[columns])
        return table

    def _tables(self) -> Array:
        return self.draws_of().to_numpy().reshape(-1, *self.shape_)


def _intervals(terms: Sequence[str], draws: Array, level: float) -> pd.DataFrame:
    """Mean, standard deviation and quantiles of each column."""
    level = check_level(level)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return pd.DataFrame(
        {
            "term": list(terms),
            "estimate": draws.mean(axis=0),
            "std_error": draws.std(axis=0, ddof=1),
            "conf_low": low,
            "conf_high": high,
        }
    )
