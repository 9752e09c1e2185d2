"""Distributions with one pool, in which all weights compete."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..masks import Masks
from ._base import DISTRIBUTIONS, Distribution


class _OnePool(Distribution):
    layerwise = False

    def pools(
        self, weights: dict[str, nn.Parameter], masks: Masks, n_keep: int
    ) -> list[tuple[list[str], int]]:
        return [(list(weights), n_keep)]


@DISTRIBUTIONS.register("global")
class Global(_OnePool):
    """All weights compete by their scores."""


@DISTRIBUTIONS.register("lamp")
class LAMP(_OnePool):
    """Layer-adaptive magnitudes (Lee et al. 2021).

    All weights compete by w_i^2 over the sum of the w_j^2 of the same layer that are at least as large. The largest of a layer
    scores 1, so that no layer is emptied.
    """

    def rescale(self, scores: dict[str, Tensor], masks: Masks) -> dict[str, Tensor]:
        return {name: lamp(scores[name], masks[name]) for name in scores}


@DISTRIBUTIONS.register("row")
class Row(_OnePool):
    """Each output of each layer keeps the same share of its weights (to within one): Wanda's comparison group."""

    def rescale(self, scores: dict[str, Tensor], masks: Masks) -> dict[str, Tensor]:
        return {name: rank_in_row(scores[name], masks[name]) for name in scores}


def lamp(magnitude: Tensor, mask: Tensor) -> Tensor:
    """LAMP scores of one layer; 0 where the mask is off.

    Examples
    --------
    >>> import torch
    >>> lamp(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([True, True, True]))
    tensor([0.1667, 1.0000, 0.1667], dtype=torch.float64)
    """
    squares = torch.where(mask, magnitude.double().square(), 0.0).reshape(-1)
    ordered, order = squares.sort()
    at_least = ordered.flip(0).cumsum(0).flip(0)
    # equal weights share the sum that starts at the first of them
    first = torch.searchsorted(ordered, ordered, side="left")
    denominators = at_least[first].clamp(min=torch.finfo(torch.float64).tiny)
    scores = torch.empty_like(squares).scatter_(0, order, ordered / denominators)
    return scores.view_as(magnitude)


def rank_in_row(scores: Tensor, mask: Tensor) -> Tensor:
    """Minus the rank within the output, as a share of the row: the same for the k-th best of every output."""
    by_row = scores.masked_fill(~mask, -torch.inf).flatten(1)
    order = by_row.sort(dim=1, descending=True, stable=True).indices
    rank = torch.arange(by_row.shape[1], device=scores.device, dtype=torch.float64)
    ranks = torch.empty(by_row.shape, dtype=torch.float64, device=scores.device)
    ranks.scatter_(1, order, ((rank + 0.5) / by_row.shape[1]).expand_as(ranks).contiguous())
    return -ranks.view_as(scores)
