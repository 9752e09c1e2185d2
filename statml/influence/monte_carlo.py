"""Values that were estimated by sampling, with their standard errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm, t

from .._validation import check_level, check_number
from ..inference import fdr_threshold

Array = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class MonteCarloValues:
    """Estimates with the standard errors of their sampling.

    Attributes
    ----------
    value : ndarray of shape (n_test, n_train), or (n_train,)
    std_error : ndarray of the same shape
        Of the sampling of subsets alone: what would change if the same model and data were sampled again. NaN
        where the method gives none.
    df : float or ndarray of the same shape, default=inf
        Degrees of freedom of the standard errors, for intervals and tests by Student's t.

    Examples
    --------
    >>> import numpy as np
    >>> values = MonteCarloValues(np.array([0.5, 0.1]), np.array([0.1, 0.1]))
    >>> values.conf_int(level=0.9)[0].round(3).tolist()
    [0.336, -0.064]
    >>> values.influential(q=0.05)["row"].tolist()
    [0]
    """

    value: Array
    std_error: Array
    df: float | Array = np.inf

    def __repr__(self) -> str:
        return f"MonteCarloValues(shape={self.value.shape}, median std_error={np.nanmedian(self.std_error):.3g})"

    def conf_int(self, level: float = 0.95) -> tuple[Array, Array]:
        """Lower and upper ends of intervals for the value that infinitely many draws would give."""
        half = t.ppf((1 + check_level(level)) / 2, self.df) * self.std_error
        return self.value - half, self.value + half

    def influential(self, q: float = 0.1, method: str = "bh") -> pd.DataFrame:
        """Values that differ from zero beyond sampling noise, at false discovery rate q.

        Returns
        -------
        DataFrame
            Columns row (and test, of a matrix), influence, std_error, statistic; largest statistic first.
        """
        q = check_number("q", q, 0, 1, low_open=True, high_open=True)
        error = self.std_error
        z = np.divide(self.value, error, out=np.zeros_like(self.value), where=error > 0)
        # normal scores of the same p-values
        score = np.abs(norm.isf(np.maximum(t.sf(np.abs(z), self.df), 1e-300)))
        cut = fdr_threshold(lambda: iter([score]), z.size, q, method)
        where = np.nonzero(score >= cut.threshold)
        table = pd.DataFrame(dict(zip(("test", "row")[2 - z.ndim :], where, strict=True)))
        table = table.assign(
            influence=self.value[where], std_error=error[where], statistic=z[where]
        )
        order = np.argsort(-table["statistic"].abs().to_numpy(), kind="stable")
        return table.iloc[order].reset_index(drop=True)


def weighted_contrast(masks: NDArray[np.bool_], outputs: Array) -> MonteCarloValues:
    """Mean output with each record less mean output without, from random subsets, with two-sample errors.

    Parameters
    ----------
    masks : ndarray of bool, shape (K, n)
    outputs : ndarray of shape (K, m)

    Returns
    -------
    MonteCarloValues of shape (m, n)
    """
    M = masks.astype(float)
    K = len(M)
    n_in = M.sum(axis=0)
    n_out = K - n_in
    centred = outputs - outputs.mean(axis=0)
    squares = centred**2
    sum_in, square_in = centred.T @ M, squares.T @ M
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_in, mean_out = sum_in / n_in, (0.0 - sum_in) / n_out
        var_in = (square_in - n_in * mean_in**2) / (n_in - 1)
        var_out = (squares.sum(axis=0)[:, None] - square_in - n_out * mean_out**2) / (n_out - 1)
        a, b = np.maximum(var_in, 0) / n_in, np.maximum(var_out, 0) / n_out
        error = np.sqrt(a + b)
        df = (a + b) ** 2 / (a**2 / (n_in - 1) + b**2 / (n_out - 1))  # Welch and Satterthwaite
    enough = (n_in > 1) & (n_out > 1)
    return MonteCarloValues(
        np.where(enough, mean_in - mean_out, np.nan),
        np.where(enough, error, np.nan),
        np.where(np.isfinite(df), df, 1.0),
    )
