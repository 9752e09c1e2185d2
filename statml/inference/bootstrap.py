"""The parametric bootstrap: the distribution of a statistic under a fitted model, by simulating from it.

References
----------
Davison, A. C. and Hinkley, D. V. (1997). Bootstrap Methods and their Application. Cambridge. Sections 4.2
(p-values with one added to both counts, so that none is zero) and 5.3 (percentile intervals).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._validation import RandomState, check_choice, check_integer, check_level
from ..parallel import parallel_map

Array = NDArray[np.float64]


def parametric_bootstrap(
    simulate: Callable[[np.random.Generator], Any],
    statistic: Callable[[Any], ArrayLike],
    n_boot: int,
    *,
    random_state: RandomState = None,
    n_jobs: int | None = None,
    progress: bool | str = "auto",
    checkpoint_dir: str | os.PathLike | None = None,
) -> Array:
    """Simulate data many times and compute a statistic of each.

    Parameters
    ----------
    simulate : callable
        Generator -> data.
    statistic : callable
        Data -> array of shape (k,), or a number.
    n_boot : int
        Number of simulations, at least 1.
    random_state, n_jobs, progress, checkpoint_dir
        As in `statml.parallel.parallel_map`.

    Returns
    -------
    ndarray of shape (n_boot, k)

    Raises
    ------
    ValueError
        If the statistic has more than one dimension, or not always the same length.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.inference import parametric_bootstrap
    >>> draws = parametric_bootstrap(lambda rng: rng.normal(size=25), np.mean, 200, random_state=0)
    >>> draws.shape
    (200, 1)
    >>> bool(abs(draws.std() - 1 / 5) < 0.03)
    True
    """
    check_integer("n_boot", n_boot, low=1)
    named = getattr(statistic, "func", statistic)  # what a partial is of
    name = getattr(named, "__name__", type(named).__name__)
    draws = parallel_map(
        partial(_draw, simulate, statistic),
        range(n_boot),
        random_state=random_state,
        n_jobs=n_jobs,
        progress=progress,
        checkpoint_dir=checkpoint_dir,
        description=f"bootstrap of {name}",
    )
    shapes = {draw.shape for draw in draws}
    if len(shapes) > 1 or len(*shapes) > 1:
        raise ValueError(
            f"statistic must always return an array of one shape (k,), got shapes {sorted(shapes)}"
        )
    return np.array(draws).reshape(n_boot, -1)


def bootstrap_p_value(observed: float, draws: ArrayLike, alternative: str = "two-sided") -> float:
    """Compare an observed statistic with its draws under the hypothesis.

    Parameters
    ----------
    observed : float
    draws : array-like of shape (n_boot,)
    alternative : {"two-sided", "greater", "less"}, default="two-sided"
        "greater": large values speak against the hypothesis. "two-sided" doubles the smaller tail.

    Returns
    -------
    float
        (1 + number of draws as extreme) / (1 + n_boot), at most 1.

    Raises
    ------
    ValueError
        If there are no draws, or a value is NaN.

    Examples
    --------
    >>> from statml.inference import bootstrap_p_value
    >>> bootstrap_p_value(3.0, [1.0, 2.0, 4.0], alternative="greater")
    0.5
    """
    check_choice("alternative", alternative, ("two-sided", "greater", "less"))
    draws = _checked_draws(draws, ndims=(1,))
    if np.isnan(observed):
        raise ValueError("observed must be a number, got nan")
    greater = (1 + np.count_nonzero(draws >= observed)) / (1 + len(draws))
    less = (1 + np.count_nonzero(draws <= observed)) / (1 + len(draws))
    both = min(2 * min(greater, less), 1.0)
    return float({"two-sided": both, "greater": greater, "less": less}[alternative])


def percentile_interval(draws: ArrayLike, level: float = 0.95) -> Array:
    """The central part of bootstrap draws, as an interval for each statistic.

    Parameters
    ----------
    draws : array-like of shape (n_boot,) or (n_boot, k)
    level : float, default=0.95

    Returns
    -------
    ndarray of shape (2,) or (k, 2)
        Lower and upper ends.

    Raises
    ------
    ValueError
        If there are no draws, or one is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.inference import percentile_interval
    >>> percentile_interval(np.arange(101.0), level=0.9)
    array([ 5., 95.])
    """
    level = check_level(level)
    draws = _checked_draws(draws, ndims=(1, 2))
    return np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0).T


def _draw(simulate, statistic, _, rng: np.random.Generator) -> Array:
    return np.asarray(statistic(simulate(rng)), dtype=float)


def _checked_draws(draws: ArrayLike, ndims: tuple[int, ...]) -> Array:
    draws = np.asarray(draws, dtype=float)
    if draws.ndim not in ndims or draws.size == 0:
        shapes = " or ".join(("(n_boot,)", "(n_boot, k)")[ndim - 1] for ndim in ndims)
        raise ValueError(
            f"draws must have shape {shapes} and not be empty, got shape {draws.shape}"
        )
    if np.isnan(draws).any():
        raise ValueError(f"draws must not hold NaN, got {np.isnan(draws).sum()} of {draws.size}")
    return draws
