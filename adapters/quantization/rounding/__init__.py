"""Rounding methods by name; see `_base`."""

from ._base import Learning, Rounding
from .adaround import AdaRound
from .brecq import BRECQ
from .genie import Genie
from .qdrop import QDrop
from .rtn_minmax import RTNMinMax
from .rtn_mse import RTNMSE
from .rtn_percentile import RTNPercentile

ROUNDINGS: dict[str, type[Rounding]] = {
    "rtn-minmax": RTNMinMax,
    "rtn-percentile": RTNPercentile,
    "rtn-mse": RTNMSE,
    "adaround": AdaRound,
    "brecq": BRECQ,
    "qdrop": QDrop,
    "genie": Genie,
}

__all__ = ["ROUNDINGS", "Learning", "Rounding"]
