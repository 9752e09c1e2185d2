"""The protocol of distributions, and the sharing out of whole numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from .._registry import Described, Registry
from ..masks import Masks


class Distribution(Described):
    """How many weights each layer keeps.

    Weights compete within pools; a distribution says which layers form a pool and how many weights it keeps. The total is
    the number asked for, exactly.
    """

    layerwise = True  # whether each pool is one layer

    def pools(
        self, weights: dict[str, nn.Parameter], masks: Masks, n_keep: int
    ) -> list[tuple[list[str], int]]:
        """Pools (names, number of weights kept), every weight in one of them."""
        densities = self.densities(weights, n_keep / sum(w.numel() for w in weights.values()))
        targets = [densities[name] * w.numel() for name, w in weights.items()]
        counts = apportion(targets, n_keep, [int(masks[name].sum()) for name in weights])
        return [([name], count) for name, count in zip(weights, counts, strict=True)]

    def densities(self, weights: dict[str, nn.Parameter], density: float) -> dict[str, float]:
        """Share of the weights that each layer keeps."""
        raise NotImplementedError

    def rescale(self, scores: dict[str, Tensor], masks: Masks) -> dict[str, Tensor] | None:
        """Scores made comparable between layers; None: as they are."""
        return None


DISTRIBUTIONS = Registry("scope", Distribution)


def apportion(targets: Sequence[float], total: int, most: Sequence[int]) -> list[int]:
    """Whole numbers near the targets that sum to the total.

    Parameters
    ----------
    targets : sequence of float
    total : int
        At most ``sum(most)``.
    most : sequence of int
        Upper bounds. What a bound takes away from one goes to the others, in proportion to their targets.

    Returns
    -------
    list of int
        Rounded by largest remainders.

    Examples
    --------
    >>> apportion([1.5, 2.25, 6.25], 10, [9, 9, 9])
    [2, 2, 6]
    >>> apportion([1.5, 2.25, 6.25], 10, [9, 9, 4])
    [2, 4, 4]
    """
    targets, most = np.asarray(targets, float), np.asarray(most)
    if total > most.sum():
        raise ValueError(f"{total} do not fit into {most.sum()}")
    shares = targets * (total / targets.sum())
    while (over := shares > most).any():
        shares = np.where(over, most, shares)
        free = shares < most
        missing = total - shares.sum()
        if missing <= 1e-9 * max(total, 1):
            break
        base = np.where(free, shares, 0.0)
        weight = base / base.sum() if base.sum() > 0 else free / free.sum()
        shares = shares + missing * weight
    shares = np.minimum(shares, most)
    counts = np.floor(shares + 1e-9).astype(int)
    order = np.argsort(-(shares - counts), kind="stable")
    for i in [*order, *order] if len(order) else []:
        if counts.sum() == total:
            break
        counts[i] += counts[i] < most[i]
    return counts.tolist()
