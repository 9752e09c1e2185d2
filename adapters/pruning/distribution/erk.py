"""Erdos-Renyi-kernel densities (Mocanu et al. 2018; Evci et al. 2020): wide layers are thinned more.

The density of a layer is proportional to (sum of its dimensions) / (product of its dimensions), capped at 1, with a factor such
that the total is right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from statml._validation import check_number

from ._base import DISTRIBUTIONS, Distribution


@DISTRIBUTIONS.register("erk")
class ERK(Distribution):
    """Densities of `erk_densities`."""

    def densities(self, weights: dict[str, nn.Parameter], density: float) -> dict[str, float]:
        shapes = [tuple(w.shape) for w in weights.values()]
        return dict(zip(weights, erk_densities(shapes, density), strict=True))


def erk_densities(shapes: Sequence[Sequence[int]], density: float) -> list[float]:
    """Erdos-Renyi-kernel densities of layers.

    Parameters
    ----------
    shapes : sequence of shapes
        Of the layers' weights: (outputs, inputs, and the kernel's size for convolutions).
    density : float
        Share of all weights that is kept, in (0, 1].

    Returns
    -------
    list of float
        Share of each layer's weights; the layers' sizes weighted by it sum to `density` times the total.

    Raises
    ------
    ValueError
        If `density` is not in (0, 1], or a dimension is not positive.

    Examples
    --------
    >>> from statml.adapters.pruning import erk_densities
    >>> [round(d, 6) for d in erk_densities([(300, 784), (100, 300), (10, 100)], 0.1)]
    [0.079568, 0.230189, 1.0]
    """
    density = check_number("density", density, 0, 1, low_open=True)
    if not len(shapes):
        raise ValueError("shapes must hold at least one shape, got none")
    for shape in shapes:
        if not len(shape) or min(shape) < 1:
            raise ValueError(f"shapes must hold positive dimensions, got {tuple(shape)}")
    size = np.array([np.prod(shape, dtype=float) for shape in shapes])
    raw = np.array([np.sum(shape, dtype=float) for shape in shapes]) / size
    dense = np.zeros(len(shapes), dtype=bool)
    while True:
        free = ~dense
        if not free.any():
            return [1.0] * len(shapes)
        factor = (density * size.sum() - size[dense].sum()) / (raw * size)[free].sum()
        over = free & (factor * raw > 1 + 1e-12)
        if not over.any():
            return np.where(dense, 1.0, np.minimum(factor * raw, 1.0)).tolist()
        # the most overfull first: to cap all at once could cap one that need not be
        dense |= over & (raw == raw[over].max())
