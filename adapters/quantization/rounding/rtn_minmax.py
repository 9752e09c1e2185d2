"""Round to nearest, on grids that cover everything: nothing is clipped, and one outlier makes a coarse grid."""

from __future__ import annotations

from torch import Tensor

from ..quantizers import range_step
from ._base import Rounding


class RTNMinMax(Rounding):
    """Round to nearest between minimum and maximum."""

    def weight_grid(
        self, weight: Tensor, n_bits: int, symmetric: bool, p: float
    ) -> tuple[Tensor, Tensor]:
        return range_step(weight, n_bits, per_channel=True, symmetric=symmetric)

    def activation_grid(self, x: Tensor, n_bits: int, p: float) -> tuple[Tensor, Tensor]:
        return range_step(x, n_bits, symmetric=True)
