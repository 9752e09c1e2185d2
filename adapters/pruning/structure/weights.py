"""Single weights: unstructured pruning."""

from __future__ import annotations

import torch
from torch import Tensor

from ..masks import Masks, largest
from ..records import Scoring
from ._base import STRUCTURES, Link, Structure, Units


@STRUCTURES.register("unstructured", "weight")
class Weights(Structure):
    """Each weight for itself: the highest accuracy at a given size, and no speed on dense hardware."""

    def units(self, scoring: Scoring) -> Units:
        return Units({}, sum(w.numel() for w in scoring.weights.values()))

    def choose(
        self,
        names: list[str],
        n_keep: int,
        terms: dict[str, Tensor],
        link: Link,
        masks: Masks,
        units: Units,
    ) -> Masks:
        scores = torch.cat([link(terms[name], 1.0).reshape(-1) for name in names])
        alive = torch.cat([masks[name].reshape(-1) for name in names])
        scores = scores.masked_fill(~alive, -torch.inf)
        parts = (largest(scores, n_keep) & alive).split([masks[name].numel() for name in names])
        return {name: part.view_as(masks[name]) for name, part in zip(names, parts, strict=True)}
