r"""Semivalues: weighted averages of a record's marginal contributions over the size of the coalition it joins.

.. math::  \phi_i = \sum_{S \not\ni i} w(|S|)\, [\nu(S \cup i) - \nu(S)], \qquad \sum_{s=0}^{n-1} \binom{n-1}{s} w(s) = 1

* Shapley: :math:`w(s) = 1 / \{n \binom{n-1}{s}\}`; the only efficient one (values add up to the utility of all).
* Banzhaf: :math:`w(s) = 2^{-(n-1)}`; the most robust to noise in the utility (Wang and Jia 2023).
* Leave-one-out: all weight on s = n - 1.
* Beta(a, b): :math:`w(s) = B(s + b, n - s - 1 + a) / B(a, b)` (Kwon and Zou 2022). Beta(1, 1) is Shapley;
  Beta(16, 1) favours small coalitions, Beta(1, 16) large ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, gammaln

from .._validation import check_choice, check_integer, check_number

Array = NDArray[np.float64]
Semivalue = str | tuple[str, float, float]


def log_weights(semivalue: Semivalue, n: int) -> Array:
    """Logarithms of w(0), ..., w(n - 1).

    Parameters
    ----------
    semivalue : {"shapley", "banzhaf", "loo"} or ("beta", a, b)
    n : int
        Number of records.

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> np.exp(size_log_weights("shapley", 4)).round(3).tolist()
    [0.25, 0.25, 0.25, 0.25]
    >>> np.exp(size_log_weights(("beta", 16, 1), 6)).round(2).tolist()
    [0.76, 0.19, 0.04, 0.01, 0.0, 0.0]
    """
    check_integer("n", n, low=1)
    s = np.arange(n)
    if isinstance(semivalue, (tuple, list)):
        if len(semivalue) != 3 or semivalue[0] != "beta":
            raise ValueError(f'semivalue must be a name or ("beta", a, b), got {semivalue!r}')
        a = check_number("a of the beta semivalue", semivalue[1], 0, low_open=True)
        b = check_number("b of the beta semivalue", semivalue[2], 0, low_open=True)
        return betaln(s + b, n - s - 1 + a) - betaln(a, b)
    check_choice("semivalue", semivalue, ("shapley", "banzhaf", "loo"))
    if semivalue == "shapley":
        return -np.log(n) - log_binomial(n - 1, s)
    if semivalue == "banzhaf":
        return np.full(n, -(n - 1) * np.log(2))
    return np.where(s == n - 1, 0.0, -np.inf)


def size_log_weights(semivalue: Semivalue, n: int) -> Array:
    """Logarithms of the total weight of each size of coalition, C(n - 1, s) w(s)."""
    return log_weights(semivalue, n) + log_binomial(n - 1, np.arange(n))


def log_binomial(n: int, k: NDArray[np.int64]) -> Array:
    """log C(n, k); -inf outside 0..n."""
    k = np.asarray(k)
    inside = (k >= 0) & (k <= n)
    kept = np.where(inside, k, 0)
    return np.where(inside, gammaln(n + 1) - gammaln(kept + 1) - gammaln(n - kept + 1), -np.inf)
