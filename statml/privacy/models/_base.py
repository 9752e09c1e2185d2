"""What the models of this folder share: how they print, arguments that recur, and Python faces of compiled steps."""

from __future__ import annotations

import inspect

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..._validation import check_choice
from ..compiled import CompiledModel

Array = NDArray[np.float64]
NEIGHBOURS = ("replace", "add-remove")


class DataModel:
    """Base of the models: they print as they were made."""

    prior_is_proper = True
    parameter_names: list[str]
    statistic_names: list[str]

    def __repr__(self) -> str:
        shown = []
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            value = getattr(self, name, None)
            if name == "self" or value is None or _equal(value, parameter.default):
                continue
            value = value.tolist() if isinstance(value, np.ndarray) else value
            shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class CompiledDataModel(DataModel):
    """A model whose steps are written once, for the compiler; the methods of the protocol call them.

    A member has `n_columns`, the length d of a record, and `compiled`.
    """

    n_columns: int

    def compiled(self) -> CompiledModel:
        """The compiled steps."""
        raise NotImplementedError

    def sample_records(self, theta: Array, n: int, rng: np.random.Generator) -> Array:
        """n independent records given theta, shape (n, d)."""
        steps, x, t = self.compiled(), *self._room(n)
        steps.records(owned(theta), steps.constants, rng, x, t)
        return x

    def draw_posterior(self, x: Array, theta: Array, rng: np.random.Generator) -> Array:
        """The next theta given complete records, shape (k,)."""
        steps, theta = self.compiled(), owned(theta)
        steps.posterior(owned(x), theta, steps.constants, rng)
        return theta

    def _room(self, n: int) -> tuple[Array, Array]:
        return np.empty((n, self.n_columns)), np.empty((n, len(self.statistic_names)))


class AncillaryDataModel(CompiledDataModel):
    """The same for a model whose records are a function of theta and of noise free of it."""

    def to_ancillary(self, x: Array, theta: Array, rng: np.random.Generator) -> Array:
        """Noise u that makes these records of theta, shape (n, d)."""
        steps, u = self.compiled(), np.empty((len(x), self.n_columns))
        steps.to_ancillary(owned(x), owned(theta), steps.constants, rng, u)
        return u

    def from_ancillary(self, u: Array, theta: Array) -> Array:
        """The records that theta makes of noise u, shape (n, d)."""
        steps, x, t = self.compiled(), *self._room(len(u))
        steps.from_ancillary(owned(u), owned(theta), steps.constants, x, t)
        return x


def owned(values: ArrayLike) -> Array:
    """A contiguous, writeable copy, as compiled steps take it."""
    return np.array(values, dtype=float, order="C")


def vector(name: str, value: ArrayLike, size: int, *, positive: bool = False) -> Array:
    """A number, or one for each of `size` entries, as an array (size,) of finite numbers.

    Raises
    ------
    ValueError
        If the shape is another, or an entry is not finite (or not > 0, where it has to be).
    """
    taken = f"{name} must be a finite number{' > 0' if positive else ''}, or {size} of them"
    try:
        values = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"{taken}, got {value!r}") from None
    if values.shape not in ((), (size,)):
        raise ValueError(f"{taken}, got shape {values.shape}")
    if not np.isfinite(values).all() or (positive and (values <= 0).any()):
        raise ValueError(f"{taken}, got {value!r}")
    return np.broadcast_to(values, (size,)).copy()


def covariance_matrix(name: str, value: ArrayLike, size: int) -> Array:
    """A positive definite matrix (size, size); a number means that multiple of the identity."""
    taken = f"{name} must be a number > 0 or a positive definite matrix of shape ({size}, {size})"
    try:
        values = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"{taken}, got {value!r}") from None
    if values.ndim == 0:
        values = values * np.eye(size)
    if values.shape != (size, size):
        raise ValueError(f"{taken}, got shape {values.shape}")
    if not np.isfinite(values).all() or not np.allclose(values, values.T, rtol=1e-8):
        raise ValueError(f"{taken}, got {value!r}")
    if np.linalg.eigvalsh(values).min() <= 0:
        raise ValueError(f"{taken}, got {value!r}")
    return values.copy()


def check_neighbours(neighbours: str, norm: int) -> None:
    """Check the arguments of a sensitivity."""
    check_choice("neighbours", neighbours, NEIGHBOURS)
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2, got {norm!r}")


def refuse_improper(model: DataModel, argument: str) -> None:
    """Refuse to draw from a prior that is no distribution."""
    if not model.prior_is_proper:
        raise ValueError(
            f"{type(model).__name__} has an improper prior ({argument}), from which nothing can be drawn; "
            "give a proper one, or a first value of the parameters"
        )


def _equal(value: object, default: object) -> bool:
    try:
        return bool(np.all(np.asarray(value) == np.asarray(default)))
    except (TypeError, ValueError):
        return False
