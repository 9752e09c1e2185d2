r"""Steps of theta given complete records, on an unconstrained scale: Hamiltonian Monte Carlo of fixed length, or slices.

Both leave the target invariant, and cost little, since one is taken in every sweep: a trajectory has a few leapfrog steps [1]_. The
step size (dual averaging towards 80 % acceptance [2]_) and a diagonal metric are tuned in warm-up and then frozen. The metric is the
mean square of the gradients that the chain sees, which at stationarity is the mean precision of :math:`p(\theta \mid x)`: the
spread of the chain itself would not do, since theta given the release is far wider than theta given records.

References
----------
.. [1] R. M. Neal (2011). MCMC using Hamiltonian dynamics. Handbook of Markov Chain Monte Carlo.
.. [2] M. D. Hoffman, A. Gelman (2014). The no-U-turn sampler. JMLR 15. Section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .protocols import Array

TARGET_ACCEPTANCE = 0.8
JITTER = 0.2  # of the step size, against trajectories that return to where they began
FIRST_METRIC = 50  # steps before the metric is set; then after twice as many, and so on
MOST_SLICE_STEPS = 50


def untuned(k: int) -> dict[str, Any]:
    """The tuning of a chain before it starts: numbers and arrays, which a checkpoint keeps."""
    return {
        "frozen": 0,
        "scale": np.ones(k),  # of q: the metric is diag(scale^-2)
        "log_size": 0.0,
        "mean_log_size": 0.0,
        "error": 0.0,
        "n_adapted": 0,
        "centre": 0.0,
        "squares": np.zeros(k),
        "n_squares": 0,
        "window": FIRST_METRIC,
    }


def hamiltonian_step(
    target: Callable[[Array], tuple[float, Array]],
    q: Array,
    n_steps: int,
    state: dict[str, Any],
    rng: np.random.Generator,
) -> Array:
    """One trajectory of `n_steps` leapfrog steps, and the tuning that it teaches while warm-up lasts.

    Parameters
    ----------
    target : callable
        q -> (log density, gradient).
    q : ndarray of shape (k,)
    n_steps : int
    state : dict
        As `untuned` makes it; changed in place until it is frozen.
    rng : Generator

    Returns
    -------
    ndarray of shape (k,)
    """
    scale = state["scale"]
    size = np.exp(state["log_size"]) * (1 + JITTER * (2 * rng.random() - 1))
    momentum, threshold = rng.standard_normal(len(q)), -rng.standard_exponential()
    log_p, gradient = target(q)
    if not np.isfinite(log_p):
        raise ValueError(
            f"the model has log density {log_p} at parameters and records that it drew itself"
        )
    if not state["frozen"]:
        state["squares"] = state["squares"] + gradient**2
        state["n_squares"] += 1
    start, energy = q, log_p - 0.5 * momentum @ momentum
    with np.errstate(over="ignore", invalid="ignore"):  # a trajectory may diverge; it is refused
        for _ in range(n_steps):
            momentum = momentum + 0.5 * size * scale * gradient
            q = q + size * scale * momentum
            log_p, gradient = target(q)
            momentum = momentum + 0.5 * size * scale * gradient
        change = log_p - 0.5 * momentum @ momentum - energy
    acceptance = np.exp(min(change, 0.0)) if np.isfinite(change) else 0.0
    if not state["frozen"]:
        _tune(state, acceptance)
    return q if np.isfinite(change) and change > threshold else start


def _tune(state: dict[str, Any], acceptance: float) -> None:
    """Dual averaging of the step size (Hoffman and Gelman, Algorithm 5), and now and then a new metric."""
    state["n_adapted"] += 1
    m = state["n_adapted"]
    state["error"] += (TARGET_ACCEPTANCE - acceptance - state["error"]) / (m + 10)
    state["log_size"] = state["centre"] - np.sqrt(m) / 0.05 * state["error"]
    weight = m**-0.75
    state["mean_log_size"] += weight * (state["log_size"] - state["mean_log_size"])
    if state["n_squares"] >= state["window"]:
        precision = state["squares"] / state["n_squares"]
        known = precision > 0
        state["scale"] = np.where(known, 1 / np.sqrt(np.where(known, precision, 1.0)), 1.0)
        state["squares"], state["n_squares"] = np.zeros_like(precision), 0
        state["window"] *= 2
        # on the new scale the best step is of order one
        state.update(log_size=0.0, mean_log_size=0.0, error=0.0, n_adapted=0, centre=0.0)


def slice_rounds(
    log_density: Callable[[Array], float],
    q: Array,
    n_rounds: int,
    state: dict[str, Any],
    rng: np.random.Generator,
) -> Array:
    """Rounds of slices, one coordinate after another (Neal 2003, Figures 3 and 5); widths are tuned until they are frozen."""
    q = q.copy()
    here = log_density(q)
    for _ in range(n_rounds):
        for j in range(len(q)):
            level, at = here - rng.standard_exponential(), q[j]
            width = state["scale"][j]
            low = at - width * rng.random()
            high = low + width
            n_left = int(MOST_SLICE_STEPS * rng.random())

            def value(point: float, j: int = j) -> float:
                q[j] = point
                return log_density(q)

            for _ in range(n_left):
                if not value(low) > level:
                    break
                low -= width
            for _ in range(MOST_SLICE_STEPS - 1 - n_left):
                if not value(high) > level:
                    break
                high += width
            widest = high - low
            while True:
                point = low + (high - low) * rng.random()
                density = value(point)
                if density > level or point == at:
                    break
                low, high = (point, high) if point < at else (low, point)
            here = density
            if not state["frozen"]:
                state["n_adapted"] += 1
                state["scale"] = state["scale"].copy()
                state["scale"][j] += (widest / 2 - width) / np.sqrt(state["n_adapted"] + 1)
    return q
