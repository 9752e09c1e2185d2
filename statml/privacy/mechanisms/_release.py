"""A release as a checked array: what every mechanism asks of what the curator published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..._validation import LARGEST

Array = NDArray[np.float64]


def as_release(release: ArrayLike | Mapping[str, float], names: Sequence[str]) -> Array:
    """The release in the order of its entries' names.

    Parameters
    ----------
    release : array-like of shape (m,), or dict of numbers
        A dict is put in order by its keys, which have to be exactly `names`. A single number is taken where m = 1.
    names : sequence of m str
        The expected entries, in order.

    Returns
    -------
    ndarray of shape (m,), dtype float

    Raises
    ------
    ValueError
        If the shape or the keys are others, or an entry is NaN or infinite.
    TypeError
        If the entries are no numbers.

    Examples
    --------
    >>> as_release({"sum_y": 2, "n": 1}, ["n", "sum_y"])
    array([1., 2.])
    >>> as_release([1, 2, 3], ["n", "sum_y"])
    Traceback (most recent call last):
    ...
    ValueError: release must have 2 entries, in this order: n, sum_y; got shape (3,)
    """
    names = list(names)
    expected = f"release must have {len(names)} entries, in this order: {', '.join(names)}"
    if isinstance(release, Mapping):
        missing = [name for name in names if name not in release]
        unknown = [str(name) for name in release if name not in names]
        if missing or unknown or len(release) != len(names):
            parts = [f"missing: {', '.join(missing)}"] if missing else []
            parts += [f"not expected: {', '.join(unknown)}"] if unknown else []
            raise ValueError(f"{expected}; {'; '.join(parts)}")
        release = [release[name] for name in names]
    values = numbers("release", release)
    if values.ndim == 0 and len(names) == 1:
        values = values[None]
    if values.shape != (len(names),):
        raise ValueError(f"{expected}; got shape {values.shape}")
    refuse("is not a finite number", ~np.isfinite(values), values, names)
    refuse("is too large, since its powers overflow", np.abs(values) > LARGEST, values, names)
    return values


def numbers(name: str, values: Any) -> Array:
    """An array of floats, or a TypeError."""
    try:
        raw = np.asarray(values)
        if raw.dtype.kind not in "biuf" and not (raw.dtype.kind == "O" and raw.size):
            raise TypeError
        return raw.astype(float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be numbers, got {values!r}") from error


def refuse(what: str, bad: NDArray[np.bool_], values: Array, names: Sequence[str]) -> None:
    """A ValueError that names the first entry that is bad, if one is."""
    if bad.any():
        j = int(np.flatnonzero(bad)[0])
        raise ValueError(f"release[{j}] ({names[j]}) {what}: got {values[j]:g}")


def positive(name: str, value: ArrayLike, m: int | None = None) -> Array:
    """A positive finite number, or one for each of m components, as an array of shape () or (m,)."""
    taken = f"{name} must be a positive finite number, or one for each statistic"
    values = numbers(name, value)
    if values.ndim > 1 or values.size == 0 or (m is not None and values.shape not in ((), (m,))):
        raise ValueError(f"{taken}, got shape {values.shape}")
    if not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(f"{taken}, got {np.array2string(values, threshold=6)}")
    return values


def log1mexp(x: ArrayLike) -> Array:
    """log(1 - exp(x)) for x <= 0, accurate at both ends; -inf at 0.

    Examples
    --------
    >>> float(log1mexp(-1e-20))
    -46.051...
    """
    x = np.asarray(x, dtype=float)
    near = x > -0.6931471805599453
    with np.errstate(divide="ignore"):
        return np.where(
            near,
            np.log(-np.expm1(np.where(near, x, -1.0))),
            np.log1p(-np.exp(np.where(near, -1.0, x))),
        )
