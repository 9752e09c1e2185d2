"""Optimal brain damage (LeCun, Denker and Solla 1990): the loss to second order, weight by weight.

At a minimum the loss grows by about w_i^2 H_ii / 2 when w_i is removed and the others stay. H is the generalised Gauss-Newton matrix,
whose diagonal is exact (`Scoring.curvature_diagonal`).
"""

from __future__ import annotations

from torch import Tensor

from ..records import Scoring
from ._base import SALIENCIES, Saliency


@SALIENCIES.register("obd")
class OBD(Saliency):
    """Second-order change of the loss, curvature taken as diagonal."""

    needs_data = True

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        curvature = scoring.curvature_diagonal()
        return {
            name: w.detach().square() * curvature[name] / 2 for name, w in scoring.weights.items()
        }
