"""Plain data: what can be written down in JSON and arrays, and read back without running any code.

`to_plain` and `from_plain` translate numbers, strings, None, arrays, and lists, tuples and dicts of these. Every file
that statml writes (checkpoints, saved networks) is made of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def to_plain(value: Any, arrays: list[np.ndarray], where: str) -> Any:
    """Translate a value into what JSON can hold; arrays go into a list of their own.

    Parameters
    ----------
    value : bool, int, float, str, None, numpy array or scalar, or a list, tuple or dict of these
        Arrays of objects are not taken; a dict has strings as keys.
    arrays : list of ndarray
        Arrays are appended to it.
    where : str
        What the value is, for the error.

    Returns
    -------
    object
        JSON in which every value but a number, a string, True, False and None is ``{kind: content}``.

    Raises
    ------
    TypeError
        If the value, or something in it, is of another type.

    Examples
    --------
    >>> import numpy as np
    >>> arrays = []
    >>> to_plain({"a": (1, np.arange(3))}, arrays, "the result")
    {'dict': {'a': {'tuple': [1, {'array': 0}]}}}
    >>> from_plain(_, arrays)
    {'a': (1, array([0, 1, 2]))}
    """
    kind = type(value)
    if kind in (bool, int, float, str, type(None)):
        return value
    if kind in (list, tuple):
        return {kind.__name__: [to_plain(v, arrays, f"{where}[{i}]") for i, v in enumerate(value)]}
    if kind is dict and all(type(name) is str for name in value):
        return {
            "dict": {name: to_plain(v, arrays, f"{where}[{name!r}]") for name, v in value.items()}
        }
    is_array = kind in (np.ndarray, np.memmap)  # joblib hands large arrays to workers as memmaps
    if (is_array or isinstance(value, np.generic)) and not value.dtype.hasobject:
        arrays.append(np.asarray(value))
        return {"array" if is_array else "scalar": len(arrays) - 1}
    what = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    if is_array:
        what += " of objects"
    if kind is dict:
        what += " with keys other than strings"
    raise TypeError(
        f"{where} is a {what}, which cannot be kept; what can are arrays, numbers, strings, None, "
        "and lists, tuples and dicts (with strings as keys) of these"
    )


def from_plain(node: Any, arrays: list[np.ndarray]) -> Any:
    """Translate back what `to_plain` made."""
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "dict":
        return {name: from_plain(v, arrays) for name, v in content.items()}
    if kind in ("list", "tuple"):
        values = [from_plain(v, arrays) for v in content]
        return values if kind == "list" else tuple(values)
    return arrays[content] if kind == "array" else arrays[content][()]
