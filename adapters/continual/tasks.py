"""The tasks of a continual learner, and what is refused of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statml._validation import check_labels


@dataclass(frozen=True)
class Task:
    """Training and test records of one task.

    Parameters
    ----------
    name : str
    X, y : arrays of shape (n, ...) and (n,)
    X_test, y_test : arrays of shape (m, ...) and (m,)
    """

    name: str
    X: NDArray
    y: NDArray
    X_test: NDArray
    y_test: NDArray


def check_tasks(tasks: Sequence[Any] | Mapping[str, Any]) -> list[Task]:
    """Tasks in one form, or an error that names the first that does not fit those before.

    Parameters
    ----------
    tasks : sequence of Task or of (X, y, X_test, y_test), or mapping of name to the latter

    Returns
    -------
    list of Task

    Raises
    ------
    ValueError
        For no task, parts or labels that are missing, empty or of unequal lengths, labels that change between numbers and text, or records
        that change their shape.
    """
    if isinstance(tasks, Mapping):
        named = list(tasks.items())
    else:
        named = [(getattr(task, "name", f"task {j + 1}"), task) for j, task in enumerate(tasks)]
    if not named:
        raise ValueError("tasks must hold at least one task, got none")
    checked: list[Task] = []
    for name, task in named:
        parts = (
            (task.X, task.y, task.X_test, task.y_test) if isinstance(task, Task) else tuple(task)
        )
        if len(parts) != 4:
            raise ValueError(
                f"task {name!r} must be (X, y, X_test, y_test), got {len(parts)} parts"
            )
        X, X_test = (np.asarray(part) for part in parts[::2])
        y, y_test = (check_labels(f"y of task {name!r}", part) for part in parts[1::2])
        for part, labels in ((X, y), (X_test, y_test)):
            if not part.ndim or len(part) != len(labels) or len(labels) == 0:
                raise ValueError(
                    f"task {name!r} must have one label a record and at least one record, in training and in test; "
                    f"got shapes {part.shape} and {labels.shape}"
                )
        checked.append(Task(str(name), X, y, X_test, y_test))
        first, this = checked[0], checked[-1]
        for labels in (y, y_test):
            if _kind(labels) != _kind(first.y):
                raise ValueError(
                    f"task {name!r} has labels of type {_kind(labels)}, those before are {_kind(first.y)}"
                )
        if {this.X.shape[1:], this.X_test.shape[1:]} != {first.X.shape[1:]}:
            raise ValueError(
                f"task {name!r} has records of shape {this.X.shape[1:]} and {this.X_test.shape[1:]} (test), "
                f"those before {first.X.shape[1:]}"
            )
    return checked


def _kind(y: NDArray) -> str:
    if y.dtype.kind in "biuf":
        return "number"
    if y.dtype.kind in "UST" or all(isinstance(label, str) for label in y):
        return "text"
    return "object"
