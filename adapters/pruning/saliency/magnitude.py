"""Magnitude |w|: prune what is small.

The oldest criterion and still the one to beat. Over layers of different scale it favours those with large weights, which
may empty a layer (``scope="erk"`` or ``"layer"`` prevents it), and it changes when a unit's input weights are scaled up and its
output weights down, although the network's function does not.
"""

from __future__ import annotations

from torch import Tensor

from ..records import Scoring
from ._base import SALIENCIES, Saliency


@SALIENCIES.register("magnitude")
class Magnitude(Saliency):
    """Absolute value; of a unit, the mean absolute value (Li et al. 2017)."""

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        return {name: w.detach().abs() for name, w in scoring.weights.items()}
