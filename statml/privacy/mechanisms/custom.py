"""Any other mechanism with a density: a function of the release and the total."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..compiled import KINDS, CompiledDensity, Step, signature
from ..protocols import Mechanism
from ._release import as_release

Array = NDArray[np.float64]
NOTHING = np.zeros(1)  # constants that the function does not take


class Custom(Mechanism):
    """A mechanism given by its log density.

    Parameters
    ----------
    log_density : callable
        ``(release of shape (m,), total of shape (m,)) -> float``: log g(s, S). A constant that depends on the release
        alone may be left out; one that depends on the total may not.
    randomise : callable or None, default=None
        ``(totals of shape (m,), Generator) -> release``; only simulation needs it.
    compile : bool, default=False
        Compile `log_density` by numba, so that it costs nanoseconds a record. It must then be written in the subset of
        Python that numba takes. A function that is compiled already is recognised.
    epsilon : float or None, default=None
        The privacy loss, where it is known: gives `acceptance_bound`.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.privacy import mechanisms
    >>> def student(release, total):
    ...     return -2.0 * np.sum(np.log1p((release - total) ** 2 / 3))
    >>> mechanism = mechanisms.Custom(student)
    >>> mechanism.log_density(np.array([1.0]), np.array([[1.0], [3.0]])).round(4)
    array([-0.    , -1.6946])
    """

    def __init__(
        self,
        log_density: Callable[[Array, Array], float],
        randomise: Callable[[Array, np.random.Generator], ArrayLike] | None = None,
        *,
        compile: bool = False,
        epsilon: float | None = None,
    ):
        if not callable(log_density):
            raise TypeError(f"log_density must be callable, got {type(log_density).__name__}")
        self.function = log_density
        self.randomise_function = randomise
        self.compile = bool(compile) or hasattr(log_density, "py_func")
        self._epsilon = epsilon

    def log_density(self, release: Array, totals: Array) -> Array:
        """log g(s, S) for a release (m,) and totals (..., m); the shape of the result is (...)."""
        release = np.ascontiguousarray(release, dtype=float)
        totals = np.ascontiguousarray(totals, dtype=float)
        rows = totals.reshape(-1, totals.shape[-1])
        if self.compile:
            values = np.array([self._step(release, row, NOTHING) for row in rows])
        else:
            values = np.array([float(self.function(release, row)) for row in rows])
        if np.isnan(values).any():
            raise ValueError(f"log_density gave NaN for the release {release}")
        return values.reshape(totals.shape[:-1])[()]

    def compiled(self, n_statistics: int) -> CompiledDensity | None:
        """The compiled log density, with ``compile=True``."""
        return CompiledDensity(self._step) if self.compile else None

    @cached_property
    def _step(self) -> Step:
        import numba

        one = self.function
        one = one if hasattr(one, "py_func") else numba.njit(one)

        def log_density(release, totals, constants):
            return one(release, totals)

        return _UserStep(*KINDS["log_density"], log_density)

    def __getstate__(self) -> dict[str, Any]:
        # compiled code is made again where the mechanism arrives
        return {name: value for name, value in self.__dict__.items() if name != "_step"}

    def randomise(self, totals: ArrayLike, rng: np.random.Generator) -> Array:
        """A release from the function of the constructor.

        Raises
        ------
        ValueError
            If it was not given.
        """
        if self.randomise_function is None:
            raise ValueError("randomise was not given: Custom(log_density, randomise=...)")
        totals = np.asarray(totals, dtype=float)
        return np.atleast_1d(np.asarray(self.randomise_function(totals, rng), dtype=float))

    def check_release(
        self,
        release: ArrayLike | Mapping[str, float],
        statistic_names: list[str],
        n_records: int | None = None,
    ) -> Array:
        """The release as an array of one number a statistic; ValueError if it is another, NaN or infinite."""
        return as_release(release, statistic_names)

    def epsilon(self, sensitivity: ArrayLike | None = None) -> float:
        """The privacy loss that the constructor was told; NotImplementedError without it."""
        if self._epsilon is None:
            raise NotImplementedError("epsilon was not given: Custom(log_density, epsilon=...)")
        return float(self._epsilon)

    def __repr__(self) -> str:
        return f"Custom({getattr(self.function, '__name__', self.function)})"


class _UserStep(Step):
    """A step whose machine code is not kept on disk, since it closes over a function of the user."""

    @cached_property
    def compiled(self) -> Any:
        import numba

        return numba.njit(signature(self.result, self.arguments), error_model="numpy")(
            self.function
        )
