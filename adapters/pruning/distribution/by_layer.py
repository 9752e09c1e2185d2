"""Distributions by which every layer keeps the same share."""

from __future__ import annotations

from torch import nn

from ._base import DISTRIBUTIONS, Distribution


@DISTRIBUTIONS.register("layer")
class Layer(Distribution):
    """The same share of every layer."""

    def densities(self, weights: dict[str, nn.Parameter], density: float) -> dict[str, float]:
        return dict.fromkeys(weights, density)


@DISTRIBUTIONS.register("uniform")
class Uniform(Distribution):
    """The first layer stays dense (Evci et al. 2020), the others keep the same share, so that the total is what was asked for."""

    def densities(self, weights: dict[str, nn.Parameter], density: float) -> dict[str, float]:
        (first, kept), *others = ((name, w.numel()) for name, w in weights.items())
        rest = sum(n for _, n in others)
        share = (density * (kept + rest) - kept) / rest if rest else -1.0
        if share <= 0:
            raise ValueError(
                f'scope="uniform" keeps the first layer, {first}, dense; it alone holds {kept} of {kept + rest} prunable '
                f'weights, so that density {density:.3g} cannot be reached: use scope="erk" or "layer"'
            )
        return {first: 1.0} | dict.fromkeys([name for name, _ in others], share)
