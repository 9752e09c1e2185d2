"""Zero-shot post-training quantization: small networks from trained ones, without the data that trained them."""

from .chaining import reconstruct_network
from .diagnostics import allocate_bits
from .displays import (
    AccuracyBitsDisplay,
    BNSLossDisplay,
    LayerSQNRDisplay,
    SyntheticImagesDisplay,
)
from .estimator import GenieQuantizer
from .lowering import round_to_nearest
from .quantized_graph import Grid, Node, QuantizedGraph, Weight
from .quantizers import LSQActivation, WeightQuantizer, search_step
from .reconstruction import Settings, UnitRecord, reconstruct_unit, refit_step
from .rounding import ROUNDINGS, Learning, Rounding
from .statistics import bns_loss
from .swing import swing_conv
from .synthesizers import SYNTHESIZERS, Synthesizer
from .units import Unit, find_units

__all__ = [
    "ROUNDINGS",
    "SYNTHESIZERS",
    "AccuracyBitsDisplay",
    "BNSLossDisplay",
    "GenieQuantizer",
    "Grid",
    "LSQActivation",
    "LayerSQNRDisplay",
    "Learning",
    "Node",
    "QuantizedGraph",
    "Rounding",
    "Settings",
    "Synthesizer",
    "SyntheticImagesDisplay",
    "Unit",
    "UnitRecord",
    "Weight",
    "WeightQuantizer",
    "allocate_bits",
    "bns_loss",
    "find_units",
    "reconstruct_network",
    "reconstruct_unit",
    "refit_step",
    "round_to_nearest",
    "search_step",
    "swing_conv",
]
