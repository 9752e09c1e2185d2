"""What a motion is, and what two of them need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from ..noise import Noise

State = dict[str, np.ndarray]
Moved = tuple[np.ndarray, np.ndarray, State]  # targets, velocities, state


@dataclass
class Crowd:
    """The targets of E episodes, as a motion meets them.

    Parameters
    ----------
    targets : array of shape (E, N, 3)
        x, y (m) and heading (rad), world frame.
    velocities : array of shape (E, N, 2)
        m/s, world frame.
    active : array of bool of shape (E, N)
        False for padding.
    side : array of shape (E,)
        Half the edge of the square, m.
    dt : float
        Seconds a step.
    noise : Noise
        Random numbers keyed by episode.
    time : array of int of shape (E,)
        Steps since the start: with the episode, the key of this step's random numbers.
    state : dict of arrays, first axes (E,)
        What the motion carries along.
    """

    targets: np.ndarray
    velocities: np.ndarray
    active: np.ndarray
    side: np.ndarray
    dt: float
    noise: Noise
    time: np.ndarray
    state: State = field(default_factory=dict)


@runtime_checkable
class Motion(Protocol):
    """Motion of targets, in two pure functions; an object keeps no episode in itself.

    The drone is no part of a crowd: what targets do never depends on it.
    """

    def start(self, crowd: Crowd) -> Moved:
        """Targets, velocities and state at time 0, from places and random headings."""
        ...

    def move(self, crowd: Crowd) -> Moved:
        """The three one step later."""
        ...


class FunctionMotion(Motion):
    """A motion from a function.

    Parameters
    ----------
    function : callable
        ``function(targets, velocities, dt)`` gives the new targets (E, N, 3) and velocities (E, N, 2). Targets start at rest with
        random headings.
    """

    def __init__(self, function: Callable):
        self.function = function

    def start(self, crowd: Crowd) -> Moved:
        return crowd.targets, crowd.velocities, {}

    def move(self, crowd: Crowd) -> Moved:
        moved = self.function(crowd.targets.copy(), crowd.velocities.copy(), crowd.dt)
        shapes = [np.shape(part) for part in moved] if isinstance(moved, tuple) else None
        if shapes != [crowd.targets.shape, crowd.velocities.shape]:
            raise ValueError(
                "the function given as target_motion must return (targets, velocities) of shapes"
                f" {crowd.targets.shape} and {crowd.velocities.shape}, got {shapes or type(moved)}"
            )
        targets, velocities = (np.asarray(part, float) for part in moved)
        if not (np.isfinite(targets).all() and np.isfinite(velocities).all()):
            raise ValueError("the function given as target_motion returned NaN or infinite values")
        return targets, velocities, {}

    def __repr__(self) -> str:
        return f"FunctionMotion({self.function!r})"


def squared_distances(a: np.ndarray, b: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Squared distances (E, N, N) of places a_i and b_j; infinite on the diagonal and for padding."""
    x = a[..., :, None, 0] - b[..., None, :, 0]
    y = a[..., :, None, 1] - b[..., None, :, 1]
    squared = x * x + y * y
    n = squared.shape[-1]
    squared.reshape(-1, n * n)[:, :: n + 1] = np.inf
    if not active.all():
        squared[~(active[:, :, None] & active[:, None, :])] = np.inf
    return squared
