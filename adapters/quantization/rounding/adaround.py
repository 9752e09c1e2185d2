"""AdaRound: layer by layer, roundings that keep the layer's output, with its inputs from the quantised network.

Nagel, M., Amjad, R. A., van Baalen, M., Louizos, C. and Blankevoort, T. (2020). Up or down? Adaptive rounding for post-training
quantization. ICML.
"""

from __future__ import annotations

from ._base import Learning, Rounding


class AdaRound(Rounding):
    """Roundings alone are learnt; steps stay, and activations are quantised only afterwards."""

    learning = Learning(
        granularity="layer",
        activation_step=None,
        quantize_activations=False,
        drop_prob=0.0,
        round_weight=0.01,
    )
