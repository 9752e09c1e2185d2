r"""Uncertainty sampling: the candidates with the largest predictive entropy :math:`-\sum_c p_c \log p_c`.

It takes what the classifier is unsure of, and so also what belongs to no class: in a pool with foreign records most of a budget
goes to them, unless a band of the bound keeps them out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from .pool import Pool, ordered, register


@register("entropy")
def entropy(pool: Pool, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Reads ``class_proba``; ties in random order."""
    pool.need("entropy", "class_proba")
    return ordered(predictive_entropy(pool.class_proba), rng)[:n]


def predictive_entropy(class_proba: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of each row, in nats.

    Examples
    --------
    >>> import numpy as np
    >>> predictive_entropy(np.array([[1.0, 0.0], [0.5, 0.5]])).round(4)
    array([0.    , 0.6931])
    """
    return np.abs(xlogy(class_proba, class_proba).sum(axis=1))  # abs: no negative zero
