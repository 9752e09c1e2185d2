"""The analytic classifier of the paper: an oracle that is clear near the front of a target and vague elsewhere."""

from __future__ import annotations

import numpy as np

from ..camera import plate_quality
from ._sensor import Looks, Sensor, peaked


class AnalyticSensor(Sensor):
    """p(true class) = 1/K + q, equal shares for the others, with q of ``plate_quality`` for a seen target and 0 else.

    It never favours a wrong class, so that no belief that rests on it is ever wrong: good for parity with the paper, not for claims about
    declarations. ``NoisySensor`` errs as often as it says.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.viewpoint import AnalyticSensor
    >>> AnalyticSensor().quality(np.array([2.7, 0.0, np.pi]), n_classes=6)
    np.float64(0.5)
    """

    def look(self, looks: Looks) -> np.ndarray:
        q = np.where(looks.seen, self.quality(looks.relative, looks.n_classes), 0.0)
        return peaked(looks.classes, q, looks.n_classes)

    def quality(self, relative: np.ndarray, n_classes: int) -> np.ndarray:
        """q of looks from poses in the drone's frame (..., 3), were the targets seen."""
        return plate_quality(relative)

    def __repr__(self) -> str:
        return "AnalyticSensor()"
