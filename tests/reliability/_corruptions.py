"""What can be wrong with data, and what is only written otherwise.

A corruption takes the arguments of one call by name, and returns them damaged in a place that a random generator chooses, or None where
that cannot be. Four tables, by what must come of it: `REFUSED` is never taken; `SETTLED` is refused, or its result is finite;
`EQUIVALENT` gives the result of the clean data; `OPTIONAL` does too, or is refused.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

Arguments = dict[str, Any]
Corruption = Callable[[Arguments, np.random.Generator], Arguments | None]

FEATURES = ("X", "X_val", "X_new")
LABELS = ("y", "y_pred", "y_val", "y_new")
ROWS = ("groups", "sample_weight", "y_pred", "attributes_clean", "held_out")
RECORDS = ("X", "y", *ROWS)  # one entry a training record
WEIGHTS = ("sample_weight",)
INTEGERS = ("votes",)
ARRAYS = (
    *FEATURES,
    *LABELS,
    "groups",
    "sample_weight",
    "attributes_clean",
    "held_out",
    "votes",
    "A",
    "release",
)


def anywhere(values, rng, what) -> np.ndarray:
    """A copy with one entry replaced."""
    values = np.array(values, dtype=object if what is None else float)
    values.flat[rng.integers(values.size)] = what
    return values


def on(names, change: Callable) -> dict[str, Corruption]:
    """A change of one argument, for each of several."""

    def make(name):
        def corrupt(given, rng):
            if name not in given:
                return None
            changed = change(given[name], rng)
            return None if changed is None else given | {name: changed}

        return corrupt

    return {name: make(name) for name in names}


def together(names, change: Callable) -> Corruption:
    """One change of several arguments, those that are there."""

    def corrupt(given, rng):
        changed = {name: change(given[name]) for name in names if name in given}
        return given | changed if changed and all(v is not None for v in changed.values()) else None

    return corrupt


def numeric(values) -> bool:
    return np.asarray(values).dtype.kind in "iufb"


def as_text(values, rng):
    values = np.asarray(values).astype(str).astype(object)
    values.flat[rng.integers(values.size)] = "many"
    return values


def shorter(values, rng):
    return values[:-1]


def flat(values, rng):
    return np.ravel(values)[: len(values)] if np.ndim(values) > 1 else None


def table(**changes: dict[str, Corruption]) -> dict[str, Corruption]:
    """All corruptions by a readable name."""
    return {
        f"{what.replace('_', ' ')} {name}".strip(): corrupt
        for what, by_name in changes.items()
        for name, corrupt in by_name.items()
    }


NUMBERS = (*FEATURES, *WEIGHTS, "attributes_clean", "votes", "A", "release")

REFUSED = table(
    NaN_in=on(NUMBERS, lambda v, rng: anywhere(v, rng, np.nan)),
    infinity_in=on(NUMBERS, lambda v, rng: anywhere(v, rng, np.inf)),
    minus_infinity_in=on(NUMBERS, lambda v, rng: anywhere(v, rng, -np.inf)),
    NaN_among=on(LABELS, lambda v, rng: anywhere(v, rng, np.nan) if numeric(v) else None),
    None_among=on((*NUMBERS, *LABELS), lambda v, rng: anywhere(v, rng, None)),
    text_in=on(NUMBERS, as_text),
    complex_numbers_in=on(NUMBERS, lambda v, rng: np.asarray(v) + 1j),
    too_few=on((*RECORDS, "y_val"), shorter),
    one_dimensional=on((*FEATURES, "attributes_clean", "votes", "A"), flat),
    a_number_for=on((*FEATURES, "y", "groups", "y_pred", "attributes_clean", "held_out", "votes", "A"), lambda v, rng: 3.0),
    nothing_for=on(("X", "y", "X_new", "votes", "A", "release"), lambda v, rng: None),
    a_word_for=on((*FEATURES, "votes", "A", "release"), lambda v, rng: "data"),
    a_dict_for=on((*FEATURES, "votes", "A"), lambda v, rng: {"a": 1}),
    a_ragged_list_for=on((*FEATURES, "votes", "A"), lambda v, rng: [[1.0, 2.0], [3.0], *[[0.0, 1.0]] * (len(v) - 2)]),
    two_columns_of=on(ROWS, lambda v, rng: np.column_stack([v, v])),
    no_columns_in=on(("X", "votes"), lambda v, rng: np.asarray(v)[:, :0]),
    a_column_less_in=on(("X_new",), lambda v, rng: v[:, :-1]),
    one_more_of=on(("release",), lambda v, rng: [*v, v[0]]),
    one_less_of=on(("release",), lambda v, rng: v[:-1]),
    negative=on(WEIGHTS, lambda v, rng: anywhere(v, rng, -1.0)),
    no_positive=on(WEIGHTS, lambda v, rng: np.zeros_like(v)),
    not_square=on(("A",), lambda v, rng: np.asarray(v)[:-1]),
    no_edges_in=on(("A",), lambda v, rng: np.zeros_like(v)),
    a_fraction_among=on(("votes",), lambda v, rng: anywhere(v, rng, 0.5)),
    no_class_among=on(("votes",), lambda v, rng: anywhere(v, rng, -7)),
    no_booleans_in=on(("held_out",), lambda v, rng: np.asarray(v).astype(float)),
    no_records={"": together((*RECORDS, "votes", "A"), lambda v: v[:0])},
)  # fmt: skip

SETTLED = table(
    huge_values_in=on(FEATURES, lambda v, rng: anywhere(v, rng, 1e300)),
    huge=on(FEATURES, lambda v, rng: np.asarray(v, float) * 1e300),
    large=on(FEATURES, lambda v, rng: np.asarray(v, float) * 1e30),
    huge_values_among=on((*WEIGHTS, "release", "A"), lambda v, rng: anywhere(v, rng, 1e300)),
    tiny=on((*FEATURES, *WEIGHTS), lambda v, rng: np.asarray(v, float) * 1e-300),
    a_constant_column_in=on(("X",), lambda v, rng: constant(v, [rng.integers(v.shape[1])])),
    only_constant_columns_in=on(("X",), lambda v, rng: constant(v, range(v.shape[1]))),
    zeros_in=on(("X",), lambda v, rng: np.zeros_like(v)),
    two_equal_columns_in=on(("X",), lambda v, rng: np.concatenate([v[:, :-1], v[:, :1]], axis=1)),
    one_value_of=on(("y", "y_pred", "groups", "held_out", "votes"), lambda v, rng: np.full_like(v, v[0])),
    a_value_of_its_own_for_each_of=on(("y", "groups"), lambda v, rng: np.arange(len(v))),
    a_value_seen_once_in=on(("y", "y_pred", "groups"), lambda v, rng: anywhere(v, rng, 7).astype(int) if numeric(v) else None),
    a_row_of=on(("y",), lambda v, rng: np.asarray(v)[None]),
    a_column_of=on(("y",), lambda v, rng: np.asarray(v)[:, None]),
    fractions_for=on(("y",), lambda v, rng: np.asarray(v) + rng.random(len(v)) if numeric(v) else None),
    text_for=on(("y",), lambda v, rng: np.asarray(v).astype(str)),
    missing=on(("groups",), lambda v, rng: anywhere(v, rng, np.nan) if numeric(v) else None),
    ones_alone=on(("A",), lambda v, rng: np.abs(v)),
    every_edge=on(("A",), lambda v, rng: 1 - np.eye(len(v))),
    a_node_alone_in=on(("A",), lambda v, rng: np.asarray(v) * np.outer(np.arange(len(v)) > 0, np.arange(len(v)) > 0)),
    two_parts_of=on(("A",), lambda v, rng: np.asarray(v) * np.equal.outer(np.arange(len(v)) % 2, np.arange(len(v)) % 2)),
    other_weights_in=on(("A",), lambda v, rng: anywhere(v, rng, 2.5)),
    negative_numbers_in=on(("release",), lambda v, rng: [-np.asarray(one) - 1000 for one in v]),
    no_vote_at_all={"": together(("votes",), lambda v: np.full_like(v, -1))},
    one_record={"": together((*RECORDS, "votes"), lambda v: v[:1])},
    two_records={"": together((*RECORDS, "votes"), lambda v: v[:2])},
    one_record_again_and_again={"": together((*RECORDS, "votes"), lambda v: np.repeat(v[:1], len(v), axis=0))},
    no_new_records={"": together(("X_new", "y_new"), lambda v: v[:0])},
    a_new_class={"": on(("y_new",), lambda v, rng: anywhere(v, rng, 7).astype(int) if numeric(v) else None)["y_new"]},
)  # fmt: skip


def constant(values, columns):
    values = np.array(values)
    values[:, list(columns)] = 3
    return values


def read_only(values):
    values = np.array(values)
    values.flags.writeable = False
    return values


def strided(values):
    """A view of every second entry of a larger array."""
    return np.repeat(np.asarray(values), 2, axis=0)[::2]


def frame(values):
    values = np.asarray(values)
    return (
        pd.DataFrame(values, columns=[f"x{j}" for j in range(values.shape[1])])
        if values.ndim == 2
        else None
    )


def halved(given, rng):
    """Every record twice, with half its weight."""
    if "sample_weight" not in given:
        return None
    twice = {n: np.concatenate([given[n]] * 2) for n in RECORDS if n in given}
    return given | twice | {"sample_weight": twice["sample_weight"] / 2}


MATRICES = (*FEATURES, "votes")
EQUIVALENT = {
    "read-only arrays": together(ARRAYS, read_only),
    "arrays in Fortran order": together(ARRAYS, np.asfortranarray),
    "strided views": together((*FEATURES, *LABELS, "groups", "sample_weight", "votes"), strided),
    "lists": together(
        (*FEATURES, *LABELS, "groups", "sample_weight", "votes"), lambda v: np.asarray(v).tolist()
    ),
    "big-endian numbers": together(
        (*FEATURES, "sample_weight", "A"), lambda v: np.asarray(v).astype(">f8")
    ),
    "pandas frames": together(MATRICES, frame),
    "pandas columns": together(
        (*LABELS, "groups", "sample_weight"), lambda v: pd.Series(v, index=range(5, 5 + len(v)))
    ),
    "float32": together(FEATURES, lambda v: np.asarray(v, np.float32)),
    "half the weight twice": halved,
}

# An estimator may refuse these forms; where it takes one, it is the same data.
OPTIONAL = {
    "arrays of objects": together(
        (*FEATURES, "sample_weight"), lambda v: np.asarray(v).astype(object)
    ),
    "sparse matrices": together(
        (*FEATURES, "A"), lambda v: sp.csr_array(np.asarray(v)) if np.ndim(v) == 2 else None
    ),
    "a masked array without a mask": together((*FEATURES, "votes"), np.ma.asarray),
}
