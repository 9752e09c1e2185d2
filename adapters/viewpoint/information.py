"""Entropy and information in bits."""

from __future__ import annotations

import numpy as np


def entropy(p: np.ndarray) -> np.ndarray:
    """H2(p) = - sum p log2 p over the last axis, bits; 0 log 0 is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.viewpoint.information import entropy
    >>> float(entropy(np.array([0.5, 0.5, 0.0])))
    1.0
    """
    # the smallest number above zero makes 0 log 0 = 0 without a branch
    return -np.einsum("...k,...k->...", p, np.log2(np.maximum(p, np.finfo(float).tiny)))


def information(p: np.ndarray) -> np.ndarray:
    """log2 K - H2(p), bits: 0 for a uniform vector, log2 K for a certain one."""
    return np.maximum(np.log2(p.shape[-1]) - entropy(p), 0.0)


def expected_information(beliefs: np.ndarray, likelihood: np.ndarray) -> np.ndarray:
    """Expected drop of the belief's entropy by one look: the mutual information of class and label, bits.

    Parameters
    ----------
    beliefs : array of shape (..., K)
    likelihood : array of shape (..., K, L)
        Row c: probabilities of the labels that a look at class c can give.

    Returns
    -------
    array of shape (...)
        H2(mean row under the belief) - mean H2(row).

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.viewpoint.information import expected_information
    >>> rows = np.full((3, 3), 0.2) + 0.4 * np.eye(3)
    >>> round(float(expected_information(np.array([0.5, 0.3, 0.2]), rows)), 12)
    0.198074979189
    """
    mean = np.einsum("...k,...kl->...l", beliefs, likelihood)
    return entropy(mean) - np.einsum("...k,...k->...", beliefs, entropy(likelihood))
