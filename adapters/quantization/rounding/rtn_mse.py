"""Round to nearest, on the grids of least mean :math:`|x - \\hat x|^p`; p = 2 gives the least squared error."""

from __future__ import annotations

from ._base import Rounding


class RTNMSE(Rounding):
    """Round to nearest on searched grids, of power ``init_p``."""
