"""What a replay sees of the past, and what it returns; how replays are found by name.

A replay is a function ``replay(past, n, rng) -> Replayed``: about n records of the classes seen before, equally many of each
where it can. It is registered by name with ``@register("name")``; a new one is a new file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Images = NDArray[np.float32]


@dataclass(frozen=True)
class Past:
    """The state that a task leaves to the next. Classes are codes 0, 1, ... in the order of their arrival.

    Parameters
    ----------
    decode : function
        Latents (n, d) to records (n, ...), means of the decoder.
    weights : ndarray of shape (n_classes, d)
        Of the linear classifier.
    bound : Bound
        On sampled latents, with the codes as labels.
    omega : float
        A draw is kept if its outlier probability is below.
    means, covariances : ndarray of shape (n_classes, d) and (n_classes, d, d)
        Of the sampled latents of each class, which is all that is kept of them.
    stored : tuple of ndarray (m, ...) and ndarray (m,)
        Records that are kept, and their codes; empty where nothing is stored.
    """

    decode: Callable[[Array], Images]
    weights: Array
    bound: Any
    omega: float
    means: Array
    covariances: Array
    stored: tuple[Images, NDArray[np.int64]]

    @property
    def n_classes(self) -> int:
        """Number of classes seen so far."""
        return len(self.weights)

    def classify(self, Z: Array) -> NDArray[np.int64]:
        """The classifier's code of each latent."""
        return (Z @ self.weights.T).argmax(axis=1)


@dataclass(frozen=True)
class Replayed:
    """Records for the next training.

    Attributes
    ----------
    X : ndarray of shape (n, ...)
    y : ndarray of shape (n,)
        Codes.
    acceptance : ndarray of shape (n_classes,)
        Share of each class's draws that was kept; NaN where nothing is drawn.
    starved : list of int
        Classes that had to be filled up with draws beyond the bound.
    """

    X: Images
    y: NDArray[np.int64]
    acceptance: Array
    starved: list[int] = field(default_factory=list)


Replay = Callable[[Past, int, np.random.Generator], Replayed]
REPLAYS: dict[str, Replay] = {}


def register(name: str) -> Callable[[Replay], Replay]:
    """Decorator: the replay goes by this name."""

    def add(replay: Replay) -> Replay:
        REPLAYS[name] = replay
        return replay

    return add


def share_out(n: int, n_classes: int) -> NDArray[np.int64]:
    """n in equal parts; the first classes get what is left over."""
    return n // n_classes + (np.arange(n_classes) < n % n_classes)


def assemble(past: Past, Z: list[Array], acceptance: Array, starved: list[int]) -> Replayed:
    """Decode the latents of every class."""
    y = np.repeat(np.arange(len(Z)), [len(z) for z in Z])
    return Replayed(past.decode(np.concatenate(Z)), y, acceptance, starved)
