"""What a selection rule sees: candidates, and what is known of them; and how rules are found by name.

A rule is a function ``rule(pool, n, rng) -> indices``: which n of the pool's candidates to take, best first, all different.
It says in its docstring which parts of the pool it reads. A rule is registered by name with ``@register("name")``; a new one is a
new file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..bound import class_codes

Array = NDArray[np.float64]
Rule = Callable[["Pool", int, np.random.Generator], NDArray[np.int64]]

RULES: dict[str, Rule] = {}


@dataclass(frozen=True)
class Pool:
    """Candidates for a selection.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
        Latents, or inputs for selection in the space of inputs.
    labels : ndarray of shape (n,), optional
        Of exemplars the true classes, of a query the classifier's.
    outlier_proba : ndarray of shape (n,), optional
        w of each candidate for its label.
    class_proba : ndarray of shape (n, n_classes), optional
        The classifier's probabilities.
    bound : Bound, optional
        Fitted; "inverse_cdf" draws from it.
    labelled : ndarray of shape (m, d), optional
        Latents of what was chosen before, which "k_center" keeps away from.
    hi : float, default=1.0
        Largest w that "inverse_cdf" aims at.
    """

    Z: Array
    labels: NDArray | None = None
    outlier_proba: Array | None = None
    class_proba: Array | None = None
    bound: Any = None
    labelled: Array | None = None
    hi: float = 1.0

    def __len__(self) -> int:
        return len(self.Z)

    def own_distances(self) -> Array:
        """Distance of each candidate to the mean of its label's class, shape (n,)."""
        code = class_codes("labels", self.labels, self.bound.classes_)
        return self.bound.distances(self.Z)[np.arange(len(self)), code]

    def subset(self, chosen: NDArray[np.int64]) -> Self:
        """The pool of some candidates."""
        parts = {
            name: getattr(self, name)[chosen]
            for name in ("Z", "labels", "outlier_proba", "class_proba")
            if getattr(self, name) is not None
        }
        return replace(self, **parts)

    def need(self, rule: str, *names: str) -> None:
        """Refuse a pool without what a rule reads."""
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(f"the rule {rule!r} needs {name} of the pool, got None")


def register(name: str) -> Callable[[Rule], Rule]:
    """Decorator: the rule goes by this name."""

    def add(rule: Rule) -> Rule:
        RULES[name] = rule
        return rule

    return add


def find_rule(argument: str, value: str | Rule) -> Rule:
    """A rule from its name; a function is taken as it is."""
    if callable(value):
        return value
    if isinstance(value, str) and value in RULES:
        return RULES[value]
    listed = ", ".join(f'"{name}"' for name in sorted(RULES))
    problem = f"{argument} must be one of {listed}, or a function (pool, n, rng), got {value!r}"
    raise ValueError(problem) if isinstance(value, str) else TypeError(problem)


def ordered(score: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions from the largest score down, ties in random order."""
    shuffled = rng.permutation(len(score))
    return shuffled[np.argsort(-score[shuffled], kind="stable")]
