"""An honest stochastic classifier: it errs as often as it says."""

from __future__ import annotations

import numpy as np

from ..camera import plate_quality
from ._sensor import Looks, Sensor, peaked


class NoisySensor(Sensor):
    """A label drawn with chance 1/K + q of being right, and its likelihood vector.

    With q of ``plate_quality`` the label l of a target of class c is c with probability 1/K + q and each other class with equal shares of the
    rest; the vector is the likelihood of l under every class, normalised: 1/K + q at l. Looks are independent given the class and
    the pose, so that Bayes' rule is exact and beliefs of 95 % are right 95 % of the time.
    """

    def look(self, looks: Looks) -> np.ndarray:
        k = looks.n_classes
        q = np.where(looks.seen, self.quality(looks.relative, k), 0.0)
        draw = looks.noise.uniform("label", looks.time, looks.classes.shape[1:])
        right = 1 / k + q
        # what is left of the draw above `right`, cut in K - 1 equal parts, names how far from the class the label is
        shift = np.where(
            draw < right, 0, 1 + (draw - right) / np.maximum(1 - right, 1e-15) * (k - 1)
        )
        labels = (looks.classes + np.minimum(shift, k - 1).astype(int)) % k
        return peaked(labels, q, k)

    def quality(self, relative: np.ndarray, n_classes: int) -> np.ndarray:
        """q of looks from poses in the drone's frame (..., 3), were the targets seen."""
        return plate_quality(relative)

    def __repr__(self) -> str:
        return "NoisySensor()"
