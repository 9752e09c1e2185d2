"""Bounds as plain data, for files that hold no code."""

from __future__ import annotations

from typing import Any

from .bound import Bound
from .conformal import ConformalBound
from .peaks_over_threshold import PeaksOverThresholdBound
from .weibull import WeibullBound

BOUNDS = {
    bound.__name__: bound for bound in (WeibullBound, PeaksOverThresholdBound, ConformalBound)
}


def bound_as_plain(bound: Bound) -> dict[str, Any]:
    """Class, parameters and what was fitted."""
    name = type(bound).__name__
    if name not in BOUNDS:
        raise TypeError(
            f"a bound of class {name} cannot be kept in a file; {', '.join(BOUNDS)} can"
        )
    parameters = {k: v for k, v in bound.get_params().items() if k != "random_state"}
    return {
        "class": name,
        "parameters": parameters,
        "fitted": {k: v for k, v in vars(bound).items() if k.endswith("_")},
    }


def bound_from_plain(plain: dict[str, Any]) -> Bound:
    """Undo `bound_as_plain`."""
    bound = BOUNDS[plain["class"]](**plain["parameters"])
    for name, value in plain["fitted"].items():
        setattr(bound, name, value)
    return bound
