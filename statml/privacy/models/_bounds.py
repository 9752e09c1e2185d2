"""Clamping to bounds, and the moments of what comes out of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from ..protocols import UnknownSensitivity

Array = NDArray[np.float64]


def check_bounds(bounds: ArrayLike | None, names: list[str]) -> Array | None:
    """Bounds as an array (len(names), 2) of lower and upper ends; None stays None.

    Parameters
    ----------
    bounds : (lower, upper), array-like of shape (q, 2), or None
        One pair for all variables, or one for each of `names` in order.
    names : list of q str

    Raises
    ------
    ValueError
        If a bound is not finite, or a lower one is not below its upper one.
    """
    if bounds is None:
        return None
    taken = "bounds must be (lower, upper)"
    if len(names) > 1:
        taken += f", or one such pair for each of {', '.join(names)}"
    try:
        values = np.asarray(bounds, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"{taken}, got {bounds!r}") from None
    if values.shape not in ((2,), (len(names), 2)):
        raise ValueError(f"{taken}, got shape {values.shape}")
    values = np.broadcast_to(values, (len(names), 2)).copy()
    if not np.isfinite(values).all() or (values[:, 0] >= values[:, 1]).any():
        raise ValueError(f"{taken}, finite and with lower < upper, got {bounds!r}")
    return values


def clamp_to_unit(x: Array, bounds: Array | None) -> Array:
    """Clamp each column to its bounds and map these to [-1, 1]; without bounds, x as it is."""
    if bounds is None:
        return x
    low, high = bounds[:, 0], bounds[:, 1]
    return 2 * (np.clip(x, low, high) - low) / (high - low) - 1


def needs_bounds(bounds: object, model: str, argument: str = "bounds") -> None:
    """Refuse to state a sensitivity where one record can move the statistic without limit."""
    if bounds is None:
        raise UnknownSensitivity(
            f"the sensitivity of {model} without {argument} is infinite: give {argument}"
        )


def clipped_normal_moments(mean: float, sd: float, low: float, high: float) -> tuple[float, float]:
    """Mean and variance of a normal variable clipped to [low, high].

    Examples
    --------
    >>> mean, variance = clipped_normal_moments(0.0, 1.0, -8.0, 8.0)
    >>> round(mean, 6), round(variance, 6)
    (0.0, 1.0)
    """
    a, b = (low - mean) / sd, (high - mean) / sd
    density_a, density_b = np.exp([-(a**2) / 2, -(b**2) / 2]) / np.sqrt(2 * np.pi)
    below, inside, above = ndtr(a), ndtr(b) - ndtr(a), ndtr(-b)
    # of the standardised variable Z clipped to [a, b]
    first = density_a - density_b + a * below + b * above
    second = inside + a * density_a - b * density_b + a**2 * below + b**2 * above
    return float(mean + sd * first), float(max(sd**2 * (second - first**2), 1e-300))
