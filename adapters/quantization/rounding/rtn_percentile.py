"""Round to nearest, with the tensors' ranges cut at a percentile of their absolute values; weights as in min-max."""

from __future__ import annotations

from torch import Tensor

from ..quantizers import range_step
from .rtn_minmax import RTNMinMax


class RTNPercentile(RTNMinMax):
    """Round to nearest, tensors clipped at a percentile.

    Parameters
    ----------
    percentile : float, default=99.99
    """

    def __init__(self, percentile: float = 99.99):
        self.percentile = percentile

    def activation_grid(self, x: Tensor, n_bits: int, p: float) -> tuple[Tensor, Tensor]:
        return range_step(x, n_bits, self.percentile, symmetric=True)
