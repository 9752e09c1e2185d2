"""BRECQ: block by block, roundings first; then, in a second pass, the steps of activations.

Li, Y., Gong, R., Tan, X., Yang, Y., Hu, P., Zhang, Q., Yu, F., Wang, W. and Gu, S. (2021). BRECQ: pushing the limit of post-training
quantization by block reconstruction. ICLR.
"""

from __future__ import annotations

from ._base import Learning, Rounding


class BRECQ(Rounding):
    """Block reconstruction with fixed steps of weights; without the optional weighting by squared gradients."""

    learning = Learning(
        activation_step="after", quantize_activations=False, drop_prob=0.0, round_weight=0.01
    )
