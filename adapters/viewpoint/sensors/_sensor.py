"""What a sensor is, and what several of them need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from ..noise import Noise


@dataclass
class Looks:
    """The looks at all targets in one step.

    Parameters
    ----------
    relative : array of shape (E, N, 3)
        Poses in the drone's frame: metres ahead, metres to the left, heading minus yaw (rad).
    seen : array of bool of shape (E, N)
        Whether the camera sees the target.
    classes : array of int of shape (E, N)
        True classes, which nobody but the sensor knows.
    n_classes : int
    noise : Noise
        Random numbers keyed by episode.
    time : array of int of shape (E,)
        Steps since the start.
    """

    relative: np.ndarray
    seen: np.ndarray
    classes: np.ndarray
    n_classes: int
    noise: Noise
    time: np.ndarray


@runtime_checkable
class Sensor(Protocol):
    """What says the classes; a sensor keeps no episode in itself.

    A sensor with ``quality(relative, n_classes)``, an array like relative[..., 0] of how much more often than by chance a look is right,
    also serves the policies that know the sensor.
    """

    def look(self, looks: Looks) -> np.ndarray:
        """Probability vectors (E, N, K), uniform for what is not seen."""
        ...


def peaked(labels: np.ndarray, q: np.ndarray, n_classes: int) -> np.ndarray:
    """Vectors (..., K) with 1/K + q at the label and equal shares elsewhere; q in [0, 1 - 1/K]."""
    out = np.empty((*labels.shape, n_classes))
    out[...] = ((1 - 1 / n_classes - q) / (n_classes - 1))[..., None]
    np.put_along_axis(out, labels[..., None], (1 / n_classes + q)[..., None], -1)
    return out
