r"""Compiled steps: what a model or a mechanism may offer so that a whole chain runs without the interpreter.

A step is a plain function of arrays under one of the decorators below. It is compiled by numba at its first use, with the
one signature of its kind (so that the kernels, which call it through a pointer, are compiled once for all models), and the
machine code is kept on disk. Whatever a step needs to know beyond its arguments (a known variance, bounds, a prior) comes
in as ``constants``, one flat float array. Randomness comes from ``rng``, a numpy Generator: numba draws from the same
stream as numpy does, so that its state can be saved and a chain resumed.

Example of a model with records :math:`x_i \sim N(\theta, \sigma^2)` and the total as statistic::

    @record_step
    def _records(theta, constants, rng, x, t):
        for i in range(x.shape[0]):
            x[i, 0] = theta[0] + constants[0] * rng.standard_normal()
            t[i, 0] = x[i, 0]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Step:
    """A function that is compiled at its first use; it can be called, and passed on to a compiled function.

    Parameters
    ----------
    result : {"void", "float64", "int64"}
    arguments : str
        Their types, separated by spaces, as `signature` takes them.
    function : callable
        In the subset of Python that numba compiles; it may call functions under ``numba.njit(cache=True)``.
    """

    def __init__(self, result: str, arguments: str, function: Callable):
        self.result = result
        self.arguments = arguments
        self.function = function
        self.name = function.__qualname__
        self.__doc__ = function.__doc__

    @cached_property
    def compiled(self) -> Any:
        """The compiled function, as numba's dispatcher."""
        import numba

        # A function typed in at the prompt has no file beside which its machine code could be kept.
        in_a_file = not self.function.__code__.co_filename.startswith("<")
        return numba.njit(
            signature(self.result, self.arguments), cache=in_a_file, error_model="numpy"
        )(self.function)

    def __call__(self, *arguments):
        return self.compiled(*(a.compiled if isinstance(a, Step) else a for a in arguments))

    def __reduce__(self):
        return _named_step, (self.function.__module__, self.name)


def _named_step(module: str, name: str) -> Step:
    import importlib

    return getattr(importlib.import_module(module), name)


KINDS = {  # result, arguments
    "records": ("void", "f f g F F"),
    "posterior": ("void", "F f f g"),
    "to_ancillary": ("void", "F f f g F"),
    "from_ancillary": ("void", "F f f F F"),
    "log_prior": ("float64", "f f"),
    "log_density": ("float64", "f f f"),
}


@cache
def signature(result: str, arguments: str) -> Any:
    """The numba signature of a compiled function.

    Each argument is f (vector of floats), F (matrix of floats), i (integer), x (number), I (vector of integers),
    g (Generator), or the name of a kind of step; all arrays are contiguous.
    """
    import numba
    from numba import types

    letters = {
        "f": types.Array(types.float64, 1, "C"),
        "F": types.Array(types.float64, 2, "C"),
        "I": types.Array(types.int64, 1, "C"),
        "i": types.int64,
        "x": types.float64,
        "g": numba.typeof(np.random.default_rng(0)),
    }

    def one(name: str):
        return letters[name] if name in letters else types.FunctionType(signature(*KINDS[name]))

    return getattr(types, result)(*map(one, arguments.split()))


def compiled_function(result: str, arguments: str) -> Callable[[Callable], Step]:
    """Decorator: compile a function with this signature (see `signature`) at its first use."""
    return lambda function: Step(result, arguments, function)


def record_step(function: Callable) -> Step:
    """``(theta, constants, rng, x, t)``: fill x (n, d) with records drawn given theta, and t (n, m) with their statistics."""
    return Step(*KINDS["records"], function)


def posterior_step(function: Callable) -> Step:
    """``(x, theta, constants, rng)``: overwrite theta (k,) with the next one given the records x (n, d)."""
    return Step(*KINDS["posterior"], function)


def to_ancillary_step(function: Callable) -> Step:
    """``(x, theta, constants, rng, u)``: fill u (n, d) with the noise that makes x from theta; drawn given x where x is discrete."""
    return Step(*KINDS["to_ancillary"], function)


def from_ancillary_step(function: Callable) -> Step:
    """``(u, theta, constants, x, t)``: fill x (n, d) with the records that theta makes of u, and t (n, m) with their statistics."""
    return Step(*KINDS["from_ancillary"], function)


def log_prior_step(function: Callable) -> Step:
    """``(theta, constants) -> float``: log prior density up to a constant, -inf outside the support."""
    return Step(*KINDS["log_prior"], function)


def density_step(function: Callable) -> Step:
    """``(release, totals, constants) -> float``: log density of a release (m,) given totals (m,), up to a constant."""
    return Step(*KINDS["log_density"], function)


@dataclass(frozen=True)
class CompiledModel:
    """The compiled steps of a record model; u has the shape of x.

    Parameters
    ----------
    records, posterior : Step
    constants : array-like of shape (any,)
    to_ancillary, from_ancillary : Step or None, default=None
        For interweaving; both or neither.
    log_prior : Step or None, default=None
        For interweaving where the prior is not Gaussian.
    """

    records: Step
    posterior: Step
    constants: Array = field(default_factory=lambda: np.zeros(1))
    to_ancillary: Step | None = None
    from_ancillary: Step | None = None
    log_prior: Step | None = None

    def __post_init__(self):
        constants = np.ascontiguousarray(self.constants, dtype=float).ravel()
        object.__setattr__(self, "constants", constants if len(constants) else np.zeros(1))


@dataclass(frozen=True)
class CompiledDensity:
    """The compiled log density of a mechanism.

    Parameters
    ----------
    log_density : Step
    constants : array-like of shape (any,)
    """

    log_density: Step
    constants: Array = field(default_factory=lambda: np.zeros(1))

    def __post_init__(self):
        constants = np.ascontiguousarray(self.constants, dtype=float).ravel()
        object.__setattr__(self, "constants", constants if len(constants) else np.zeros(1))


def separable(release, totals, constants):
    """- sum_j weight_j |s_j - S_j|^power_j, with constants = (power, weight); for numba."""
    m = release.shape[0]
    total = 0.0
    for j in range(m):
        distance = abs(release[j] - totals[j])
        if constants[j] == 2.0:
            distance *= distance
        total -= constants[m + j] * distance
    return total


separable_log_density = density_step(separable)
separable_log_density.name = "separable_log_density"  # under which a pickle finds it


@density_step
def sum_of_totals(release, totals, constants):
    """For mechanisms whose statistics are log densities, record by record."""
    return totals.sum()
