"""What a solver needs to know of the matrix that it inverts."""

from __future__ import annotations

from typing import Protocol

from numpy.typing import NDArray


class Curvature(Protocol):
    """A symmetric matrix H of shape (p, p) with p = ``n_params``, known by its products."""

    n_params: int

    def matvec(self, V: NDArray) -> NDArray:
        """Hv of every row v of an array of shape (k, p)."""


class DenseCurvature(Curvature, Protocol):
    """A curvature that can be written out; an error message speaks of its ``kind`` and ``damping``."""

    kind: str
    damping: float

    def dense(self) -> NDArray:
        """H, shape (p, p)."""
