"""Checks of scalar arguments; what scikit-learn's ``validate_data`` does for arrays.

Each check returns the value in its plain Python type, or refuses it in one sentence that names the argument,
what it takes and what it got: a TypeError for a value of the wrong type, a ValueError for a value of the right
type that is not taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import column_or_1d

RandomState = int | np.random.SeedSequence | np.random.Generator | np.random.RandomState | None


def check_level(level: float) -> float:
    """Check a confidence level.

    Parameters
    ----------
    level : float
        Strictly between 0 and 1.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If `level` is not a number.
    ValueError
        If it is not strictly between 0 and 1.

    Examples
    --------
    >>> check_level(95)
    Traceback (most recent call last):
    ...
    ValueError: level must be a number strictly between 0 and 1, got 95 (did you mean 0.95?)
    """
    taken = "level must be a number strictly between 0 and 1"
    if not _is_real(level):
        raise TypeError(f"{taken}, got {level!r}")
    if 1 < level < 100:
        raise ValueError(f"{taken}, got {_shown(level)} (did you mean {level / 100:g}?)")
    if not 0 < level < 1:
        raise ValueError(f"{taken}, got {_shown(level)}")
    return float(level)


def check_number(
    name: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> float:
    """Check a finite real number.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    value : float
        Its value; booleans are not numbers.
    low, high : float or None, default=None
        Bounds; None means no bound.
    low_open, high_open : bool, default=False
        Whether the bound itself is refused.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is NaN, infinite or out of bounds.

    Examples
    --------
    >>> check_number("tol", 0, low=0, low_open=True)
    Traceback (most recent call last):
    ...
    ValueError: tol must be a finite number > 0, got 0
    """
    taken = f"{name} must be a finite number{_bounds(low, high, low_open, high_open)}"
    if not _is_real(value):
        raise TypeError(f"{taken}, got {value!r}")
    if not math.isfinite(value) or _outside(value, low, high, low_open, high_open):
        raise ValueError(f"{taken}, got {_shown(value)}")
    return float(value)


def check_integer(name: str, value: int, low: int | None = None, high: int | None = None) -> int:
    """Check a whole number.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    value : int
        Its value, of a Python or numpy integer type; booleans and floats are refused.
    low, high : int or None, default=None
        Smallest and largest value taken; None means no bound.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If `value` is not an integer.
    ValueError
        If it is out of bounds.

    Examples
    --------
    >>> check_integer("max_iter", 0, low=1)
    Traceback (most recent call last):
    ...
    ValueError: max_iter must be an integer >= 1, got 0
    """
    taken = f"{name} must be an integer{_bounds(low, high)}"
    if not isinstance(value, Integral) or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{taken}, got {value!r}")
    if _outside(value, low, high):
        raise ValueError(f"{taken}, got {_shown(value)}")
    return int(value)


def check_sequence(name: str, values: Any, of: str) -> list:
    """Check an argument that takes several values.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    values : iterable
        A string, which would fall into its letters, and a mapping are refused.
    of : str
        What it holds, for the error.

    Returns
    -------
    list

    Raises
    ------
    TypeError
        If `values` is no sequence.

    Examples
    --------
    >>> check_sequence("hidden", 64, "integers")
    Traceback (most recent call last):
    ...
    TypeError: hidden must be a sequence of integers, got 64
    """
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of {of}, got {values!r}")
    return list(values)


def check_finite(name: str, values: Any) -> Any:
    """Refuse NaN and infinity; also what was None, and has passed scikit-learn's checks as an object.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    values : ndarray of numbers

    Returns
    -------
    ndarray
        As given.

    Raises
    ------
    ValueError
        If a value is NaN or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> check_finite("y", np.array([0.0, np.nan, np.nan]))
    Traceback (most recent call last):
    ...
    ValueError: y holds NaN or infinite values, 2 of 3
    """
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{name} holds NaN or infinite values, {bad} of {np.size(values)}")
    return values


def check_labels(name: str, labels: Any) -> NDArray:
    """Check labels of records: of one dimension, of types that can be compared, none of them missing.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    labels : array-like of shape (n_records,)
        A column is flattened.

    Returns
    -------
    ndarray of shape (n_records,)

    Raises
    ------
    ValueError
        If they have another shape, or a label is None, NaN or NaT.
    TypeError
        If labels cannot be sorted, as numbers among strings.

    Examples
    --------
    >>> check_labels("y", [0, None, 1])
    Traceback (most recent call last):
    ...
    ValueError: y must hold a label for every record, got None or NaN for 1 of 3
    """
    labels = column_or_1d(labels)
    missing = int(pd.isna(labels).sum())
    if missing:
        raise ValueError(
            f"{name} must hold a label for every record, got None or NaN for {missing} of {len(labels)}"
        )
    if labels.dtype == object:
        try:
            np.sort(labels)
        except TypeError:
            types = ", ".join(sorted({type(label).__name__ for label in labels}))
            raise TypeError(f"{name} must hold labels of one type, got {types}") from None
    return labels


LARGEST = 1e75  # its fourth power is still a number


def check_magnitude(name: str, values: Any) -> Any:
    """Refuse numbers whose products would overflow, which would end in silent infinities.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    values : ndarray or scipy sparse array
        Finite.

    Returns
    -------
    ndarray or scipy sparse array
        As given.

    Raises
    ------
    ValueError
        If a number is above 1e75 in absolute value.

    Examples
    --------
    >>> import numpy as np
    >>> check_magnitude("X", np.array([[1.0, -1e300]]))
    Traceback (most recent call last):
    ...
    ValueError: X must hold numbers of at most 1e+75 in absolute value, since their products overflow, got -1e+300; rescale it
    """
    numbers = getattr(values, "data", values) if hasattr(values, "tocsr") else values
    if numbers.size and not (numbers.min() >= -LARGEST and numbers.max() <= LARGEST):
        worst = numbers.flat[np.abs(numbers).argmax()]
        raise ValueError(
            f"{name} must hold numbers of at most {LARGEST:g} in absolute value, since their products overflow, "
            f"got {worst:g}; rescale it"
        )
    return values


def check_outputs(outputs: NDArray) -> NDArray:
    """Refuse what a network makes of records for which its numbers overflow.

    Parameters
    ----------
    outputs : ndarray

    Returns
    -------
    ndarray
        As given.

    Raises
    ------
    ValueError
        If an output is NaN or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> check_outputs(np.array([0.0, np.inf]))
    Traceback (most recent call last):
    ...
    ValueError: X holds values for which the network's outputs are no finite numbers; scale it as the training data were
    """
    if not np.isfinite(outputs).all():
        raise ValueError(
            "X holds values for which the network's outputs are no finite numbers; scale it as the training data were"
        )
    return outputs


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Check an argument that takes one of a few strings.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    value : str
        Its value.
    choices : iterable of str
        What is taken.

    Returns
    -------
    str

    Raises
    ------
    TypeError
        If `value` is not a string.
    ValueError
        If it is none of `choices`.

    Examples
    --------
    >>> check_choice("side", "both", ("in", "out"))
    Traceback (most recent call last):
    ...
    ValueError: side must be "in" or "out", got 'both'
    """
    choices = tuple(choices)
    quoted = [f'"{choice}"' for choice in choices]
    listed = " or ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be {listed}, got {value!r}")
    if value not in choices:
        raise ValueError(f"{name} must be {listed}, got {value!r}")
    return str(value)


def as_generator(random_state: RandomState = None) -> np.random.Generator:
    """Turn any accepted `random_state` into a numpy Generator.

    Parameters
    ----------
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        A Generator is returned as it is; a RandomState gives a Generator seeded by four of its draws, so that
        equal states give equal Generators; None gives fresh entropy from the system.

    Returns
    -------
    numpy.random.Generator

    Raises
    ------
    TypeError
        If `random_state` is of another type.
    ValueError
        If it is a negative integer.

    Examples
    --------
    >>> as_generator(0).integers(10) == as_generator(0).integers(10)
    np.True_
    """
    if isinstance(random_state, np.random.Generator):
        return random_state
    return np.random.default_rng(as_seed_sequence(random_state))


def as_seed_sequence(random_state: RandomState = None) -> np.random.SeedSequence:
    """Turn any accepted `random_state` into a numpy SeedSequence.

    Parameters
    ----------
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        A Generator or RandomState is asked for four 32-bit words, which advances it; the same SeedSequence
        gives the same children every time, whatever was spawned from it before.

    Returns
    -------
    numpy.random.SeedSequence

    Raises
    ------
    TypeError
        If `random_state` is of another type.
    ValueError
        If it is a negative integer.

    Examples
    --------
    >>> as_seed_sequence(7).entropy
    7
    """
    if random_state is None:
        return np.random.SeedSequence()
    if isinstance(random_state, np.random.SeedSequence):
        # a copy, since spawning changes the original
        return np.random.SeedSequence(
            random_state.entropy,
            spawn_key=random_state.spawn_key,
            pool_size=random_state.pool_size,
        )
    if isinstance(random_state, np.random.Generator):
        return np.random.SeedSequence(random_state.integers(2**32, size=4).tolist())
    if isinstance(random_state, np.random.RandomState):
        return np.random.SeedSequence(random_state.randint(2**32, size=4, dtype=np.uint32).tolist())
    taken = "random_state must be None, an integer >= 0, or a numpy SeedSequence, Generator or RandomState"
    if not isinstance(random_state, Integral) or isinstance(random_state, (bool, np.bool_)):
        raise TypeError(f"{taken}, got {random_state!r}")
    if random_state < 0:
        raise ValueError(f"{taken}, got {_shown(random_state)}")
    return np.random.SeedSequence(int(random_state))


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def _shown(value: Real) -> str:
    """A number as a user types it: 95, not np.int64(95)."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def _bounds(low, high, low_open=False, high_open=False) -> str:
    if low is None and high is None:
        return ""
    if high is None:
        return f" {'>' if low_open else '>='} {low}"
    if low is None:
        return f" {'<' if high_open else '<='} {high}"
    return f" in {'(' if low_open else '['}{low}, {high}{')' if high_open else ']'}"


def _outside(value, low, high, low_open=False, high_open=False) -> bool:
    return (low is not None and (value <= low if low_open else value < low)) or (
        high is not None and (value >= high if high_open else value > high)
    )
