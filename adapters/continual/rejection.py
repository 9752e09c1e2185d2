r"""Known or unknown? Two scores of a record, and one verdict with a promise.

* The **latent** score: the distance of :math:`\mu(x)` to the mean of the class that the classifier says.
* The **reconstruction** score: how untypical the reconstruction error r(x) is *for that class*,
  :math:`|\log r(x) - m_c| / s_c`, with m and s the median and the median absolute deviation of the class's known records. Two-sided:
  an image of another kind can be reconstructed too well as well as too badly. (Digits are emptier than clothes; under a
  model of clothes their error is *smaller*, and the one-sided score of the literature finds none of them.)

Neither sees everything. Their combination is calibrated on held-out records like any other score (`calibrated_combination`),
so that the share of known records that is rejected stays at its level. The **entropy** and the **softmax** (1 minus the
largest probability) of the classifier are there to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .combining import calibrated_combination
from .conformal import conformal_p_values

Array = NDArray[np.float64]

SCORES = ("combined", "latent", "reconstruction", "entropy", "softmax")


@dataclass(frozen=True)
class Typicality:
    """Median and spread of the log reconstruction error of each class, shape (n_classes,) each."""

    centre: Array
    spread: Array

    @classmethod
    def fit(cls, nll: Array, codes: NDArray[np.int64], n_classes: int) -> Typicality:
        """Of known records; a class that has none takes the values of all together."""
        log = np.log(nll)
        centre = np.full(n_classes, np.median(log))
        spread = np.full(n_classes, _mad(log))
        for c in range(n_classes):
            own = log[codes == c]
            if len(own) > 2:
                centre[c], spread[c] = np.median(own), _mad(own)
        return cls(centre, spread)

    def score(self, nll: Array, codes: NDArray[np.int64]) -> Array:
        """How many spreads the log error lies from the class's median."""
        return np.abs(np.log(nll) - self.centre[codes]) / self.spread[codes]


def p_values(calibration: Array, scores: Array, score: str) -> Array:
    """Conformal p-values of a column (latent, reconstruction, entropy, softmax), or of the first two together."""
    if score == "combined":
        return calibrated_combination(calibration[:, :2], scores[:, :2], "bonferroni")
    column = SCORES.index(score) - 1
    return conformal_p_values(calibration[:, column], scores[:, column])


def _mad(values: Array) -> float:
    return max(float(np.median(np.abs(values - np.median(values)))), 1e-12)
