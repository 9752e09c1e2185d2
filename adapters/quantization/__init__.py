"""Zero-shot post-training quantization: small networks from trained ones, without the data that trained them."""

from .chaining import reconstruct_network
from .deployment_report import ExportReport
from .diagnostics import allocate_bits
from .displays import (
    AccuracyBitsDisplay,
    BNSLossDisplay,
    LayerSQNRDisplay,
    SyntheticImagesDisplay,
)
from .equalization import equalize
from .estimator import GenieQuantizer
from .integer import IntegerNetwork
from .lowering import round_to_nearest
from .networks import MobileNetV2, ResNet, as_input, mobilenet_v2, resnet8, resnet18, resnet50
from .onnx_export import export_onnx
from .parity import ParityReport, compare_codes
from .quantized_graph import Grid, Node, QuantizedGraph, Weight
from .quantizers import LSQActivation, WeightQuantizer, search_step
from .reconstruction import Settings, UnitRecord, reconstruct_unit, refit_step
from .rounding import ROUNDINGS, Learning, Rounding
from .statistics import bns_loss
from .sum_rounding import keep_sums, round_by_sums
from .swing import swing_conv
from .synthesizers import SYNTHESIZERS, Synthesizer
from .units import Unit, find_units

__all__ = [
    "ROUNDINGS",
    "SYNTHESIZERS",
    "AccuracyBitsDisplay",
    "BNSLossDisplay",
    "ExportReport",
    "GenieQuantizer",
    "Grid",
    "IntegerNetwork",
    "LSQActivation",
    "LayerSQNRDisplay",
    "Learning",
    "MobileNetV2",
    "Node",
    "ParityReport",
    "QuantizedGraph",
    "ResNet",
    "Rounding",
    "Settings",
    "Synthesizer",
    "SyntheticImagesDisplay",
    "Unit",
    "UnitRecord",
    "Weight",
    "WeightQuantizer",
    "allocate_bits",
    "as_input",
    "bns_loss",
    "compare_codes",
    "equalize",
    "export_onnx",
    "find_units",
    "keep_sums",
    "mobilenet_v2",
    "reconstruct_network",
    "reconstruct_unit",
    "refit_step",
    "resnet8",
    "resnet18",
    "resnet50",
    "round_by_sums",
    "round_to_nearest",
    "search_step",
    "swing_conv",
]
