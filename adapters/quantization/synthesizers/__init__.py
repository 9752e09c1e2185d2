"""Image synthesizers by name; see `_base`."""

from ._base import Request, Synthesizer, synthesize
from .dba import DBA
from .gba import GBA
from .genie import GenieD
from .noise import Noise
from .real import Real
from .zeroq import ZeroQ

SYNTHESIZERS: dict[str, type[Synthesizer]] = {
    "genie": GenieD,
    "dba": DBA,
    "gba": GBA,
    "zeroq": ZeroQ,
    "noise": Noise,
}

__all__ = ["SYNTHESIZERS", "Real", "Request", "Synthesizer", "synthesize"]
