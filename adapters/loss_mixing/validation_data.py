"""The validation data that weights are learned on: given beside the training data, set aside from them, or fold after fold of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.multiclass import check_classification_targets

from statml._validation import check_finite, check_integer, check_number

from .auxiliary import UNLABELLED


def given_data(
    validation: float | int | tuple[ArrayLike, ArrayLike], X_val: Any, y_val: Any
) -> tuple[Any, Any]:
    """Validation data given to `fit` or, as a pair, to the constructor; (None, None) if some are to be set aside."""
    if (X_val is None) != (y_val is None):
        raise ValueError("X_val and y_val go together, got one of them")
    if X_val is None and isinstance(validation, (tuple, list)):
        if len(validation) != 2:
            raise ValueError(f"validation must be (X_val, y_val), got {len(validation)} items")
        return tuple(validation)
    return X_val, y_val


def check_labels_of(n_val: int, y_val: ArrayLike) -> NDArray:
    """Labels of n_val validation records, every one of them known."""
    y_val = np.asarray(y_val)
    if y_val.dtype.kind == "f":
        check_finite("y_val", y_val)
    if y_val.shape != (n_val,) or not len(y_val):
        raise ValueError(
            f"y_val must have one label for each of the {n_val} rows of X_val, at least one, got shape {y_val.shape}"
        )
    check_classification_targets(y_val)
    if y_val.dtype.kind not in "OU" and (y_val == UNLABELLED).any():
        raise ValueError("y_val must hold labels only, got -1, which marks unlabelled records")
    return y_val


def encode(y: NDArray, y_val: NDArray | None) -> tuple[NDArray, NDArray[np.int64]]:
    """The classes, and labels of all records, those of the validation data last, as positions in them; -1 for unlabelled."""
    labelled = np.ones(len(y), bool) if y.dtype.kind in "OU" else y != UNLABELLED
    known = y[labelled]
    if y_val is not None:
        known = np.concatenate([known, y_val]) if len(known) else y_val
    classes = np.unique(known)
    if len(classes) < 2:
        shown = f"one class only, {classes[0]}" if len(classes) else "no label"
        hint = "" if labelled.all() else " (-1 marks unlabelled records)"
        raise ValueError(f"y holds {shown}; a classifier needs at least two classes{hint}")
    codes = np.full(len(y), UNLABELLED, dtype=np.int64)
    codes[labelled] = np.searchsorted(classes, y[labelled])
    return classes, codes if y_val is None else np.append(codes, np.searchsorted(classes, y_val))


def set_aside(
    validation: float | int, y: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64] | list[NDArray[np.int64]]:
    """Labelled records for validation, as positions; or a list of folds."""
    known = np.flatnonzero(y != UNLABELLED)
    if (
        isinstance(validation, (int, np.integer))
        and not isinstance(validation, bool)
        and validation
    ):
        folds = check_integer("validation", validation, low=2)
        if len(known) < folds or np.bincount(y[known]).max() < folds:
            raise ValueError(
                f"validation={folds} folds need as many labelled records of a class, got {len(known)} labelled ones"
            )
        splits = StratifiedKFold(folds, shuffle=True, random_state=int(rng.integers(2**31)))
        with warnings.catch_warnings():  # a class with fewer records than folds is fine
            warnings.filterwarnings("ignore", "The least populated class")
            return [known[test] for _, test in splits.split(known, y[known])]
    fraction = check_number("validation", validation, 0, 1, high_open=True)
    val = stratified(y, known, fraction, rng)
    if not len(val):
        raise ValueError(
            f"there are no validation data: validation={fraction:g} of {len(known)} labelled records leaves none. Pass X_val "
            "and y_val, or a larger share"
        )
    return val


def stratified(
    y: NDArray[np.int64], known: NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """A share of the labelled records of each class, at least one of every class with two or more; as positions."""
    if not fraction:
        return known[:0]
    parts = []
    for c in np.unique(y[known]):
        rows = rng.permutation(known[y[known] == c])
        take = round(fraction * len(rows))
        parts.append(rows[: min(max(take, 1), len(rows) - 1)])
    return np.sort(np.concatenate(parts))
