"""Random scores: the control that every criterion must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from ..records import Scoring
from ._base import SALIENCIES, Saliency


@SALIENCIES.register("random")
class Random(Saliency):
    """Uniform draws."""

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        return {
            name: torch.rand(w.shape, generator=scoring.generator, device=w.device)
            for name, w in scoring.weights.items()
        }
