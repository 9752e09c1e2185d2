"""What a rounding method is: two grids, and how the roundings are learnt, if they are.

A member is one small file with one class; `ROUNDINGS` names it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..quantizers import search_step


@dataclass(frozen=True)
class Learning:
    """What of a unit is learnt, and how.

    Parameters
    ----------
    granularity : {"block", "layer"}, default="block"
        What is reconstructed at a time.
    weight_step : bool, default=False
        Whether the steps of weights are learnt with the roundings.
    activation_step : {"jointly", "after", None}, default="jointly"
        When the steps of activations are learnt: with the roundings, in a second pass, or never.
    quantize_activations : bool, default=True
        Whether activations are quantised while roundings are learnt.
    drop_prob : float, default=0.5
        Share of activations that pass as they are while learning, and share of the unit's inputs that come from the float network.
    round_weight : float, default=1.0
        Lambda, the weight of the term that drives roundings to 0 or 1.
    """

    granularity: str = "block"
    weight_step: bool = False
    activation_step: str | None = "jointly"
    quantize_activations: bool = True
    drop_prob: float = 0.5
    round_weight: float = 1.0


class Rounding:
    """Base of the methods: grids searched at power `p`, nothing learnt."""

    learning: Learning | None = None
    symmetric_activations = True

    def weight_grid(
        self, weight: Tensor, n_bits: int, symmetric: bool, p: float
    ) -> tuple[Tensor, Tensor]:
        """Step and zero-point of every output channel of a weight."""
        return search_step(weight, n_bits, p, per_channel=True, symmetric=symmetric)

    def activation_grid(self, x: Tensor, n_bits: int, p: float) -> tuple[Tensor, Tensor]:
        """Step and zero-point of a tensor."""
        return search_step(x, n_bits, p, symmetric=self.symmetric_activations)
