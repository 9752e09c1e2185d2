"""QDrop: block by block, with half of the activations unquantised at random while learning.

Wei, X., Gong, R., Li, Y., Liu, X. and Yu, F. (2022). QDrop: randomly dropping quantization for extremely low-bit post-training
quantization. ICLR.
"""

from __future__ import annotations

from ._base import Learning, Rounding


class QDrop(Rounding):
    """Roundings and the steps of activations jointly; asymmetric grids of tensors."""

    learning = Learning(round_weight=0.01)
    symmetric_activations = False
