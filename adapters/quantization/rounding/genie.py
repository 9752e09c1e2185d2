"""GENIE-M: as QDrop, with the steps of weights learnt too.

They can be, since the base B of the codes is held: see `quantizers`. The rounding term is weighed by 1 rather than 0.01: with
learnt steps a weak one leaves roundings undecided.

Jeon, Y., Lee, C. and Kim, H. (2023). Genie: show me the data for quantization. CVPR.
"""

from __future__ import annotations

from ._base import Learning, Rounding


class Genie(Rounding):
    """Roundings, steps of weights and steps of activations jointly."""

    learning = Learning(weight_step=True)
