"""N:M sparsity: of every M consecutive weights along the input dimension, N stay (2:4 is what Ampere's tensor cores run)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..masks import Masks
from ..records import Scoring
from ._base import STRUCTURES, Link, Structure, Units


@STRUCTURES.register("n:m")
class NOfM(Structure):
    """N of M consecutive inputs of each output stay, for convolutions at each place of the kernel.

    On the way to its sparsity 1 - N/M an iterative schedule takes away one of the M after the other. Where M does
    not divide the number of inputs, the last group is smaller and keeps the same share, rounded up.

    Parameters
    ----------
    n, m : int, default=2, 4
    """

    def __init__(self, n: int = 2, m: int = 4):
        if not 0 < n < m:
            raise ValueError(f"structure n:m needs 0 < n < m, got {n}:{m}")
        self.n, self.m = n, m
        self.sparsity = 1 - n / m

    def units(self, scoring: Scoring) -> Units:
        return Units({}, 0)

    def choose(
        self,
        names: list[str],
        n_keep: int,
        terms: dict[str, Tensor],
        link: Link,
        masks: Masks,
        units: Units,
    ) -> Masks:
        share = n_keep / sum(masks[name].numel() for name in names)
        chosen = {}
        for name in names:
            scores = link(terms[name], 1.0).masked_fill(~masks[name], -torch.inf)
            chosen[name] = masks[name] & self.best(scores, share)
        return chosen

    def best(self, scores: Tensor, share: float) -> Tensor:
        """The best of each group; ties are settled by position.

        Parameters
        ----------
        scores : Tensor of shape (outputs, inputs, ...)
        share : float
            Of the weights that is to stay; at least n/m do.

        Returns
        -------
        bool Tensor of the same shape
        """
        by_input = scores.movedim(1, -1)
        width = by_input.shape[-1]
        padded = F.pad(by_input, (0, -width % self.m), value=-torch.inf)
        groups = padded.unflatten(-1, (-1, self.m))
        keep = max(self.n, min(self.m, math.ceil(share * self.m - 1e-6)))
        order = torch.sort(groups, dim=-1, descending=True, stable=True).indices
        rank = torch.empty_like(order).scatter_(
            -1, order, torch.arange(self.m, device=scores.device).expand_as(order)
        )
        allowed = torch.full(groups.shape[-2:-1], keep, device=scores.device)
        if width % self.m:
            allowed[-1] = math.ceil((width % self.m) * keep / self.m)
        stays = (rank < allowed[:, None]).flatten(-2)[..., :width]
        return stays.movedim(-1, 1)
