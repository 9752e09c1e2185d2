"""Pruning: networks with most of their weights removed, and what that does to them."""

from .channel_ids import ChannelGroup, find_groups
from .compaction import compact
from .decomposition import PruningEffectDisplay, PruningEffectResult, decompose_pruning_effect
from .deployment import DeploymentMixin
from .displays import LayerDensityDisplay, MaskDisplay, PruningPathDisplay
from .distribution import DISTRIBUTIONS, Distribution, apportion, erk_densities
from .efficiency import (
    accuracy_density,
    efficiency_table,
    parameter_efficiency,
    parameter_slack,
    sensitivity_scan,
)
from .estimator import PruningClassifier, PruningRegressor
from .growth import GROWTHS, Growth
from .masks import (
    Masks,
    PruneRounds,
    apply_masks,
    density,
    full_masks,
    gradient_factors,
    layer_densities,
    mask_gradients,
    n_kept,
    prunable_weights,
)
from .onnx_export import export_onnx, run_onnx
from .pruning import prune, prune_step, reestimate_normalisations
from .records import Scoring
from .saliency import SALIENCIES, Saliency, score_weights
from .schedule import SCHEDULES, Schedule, cubic_sparsity
from .sparse_formats import (
    SparseLinear,
    load_pruned,
    save_pruned,
    sparsity_report,
    storage_bytes,
    to_sparse,
)
from .structure import STRUCTURES, Structure
from .timing import benchmark
from .training import PruningCallback

__all__ = [
    "DISTRIBUTIONS",
    "GROWTHS",
    "SALIENCIES",
    "SCHEDULES",
    "STRUCTURES",
    "ChannelGroup",
    "DeploymentMixin",
    "Distribution",
    "Growth",
    "LayerDensityDisplay",
    "MaskDisplay",
    "Masks",
    "PruneRounds",
    "PruningCallback",
    "PruningClassifier",
    "PruningEffectDisplay",
    "PruningEffectResult",
    "PruningPathDisplay",
    "PruningRegressor",
    "Saliency",
    "Schedule",
    "Scoring",
    "SparseLinear",
    "Structure",
    "accuracy_density",
    "apply_masks",
    "apportion",
    "benchmark",
    "compact",
    "cubic_sparsity",
    "decompose_pruning_effect",
    "density",
    "efficiency_table",
    "erk_densities",
    "export_onnx",
    "find_groups",
    "full_masks",
    "gradient_factors",
    "layer_densities",
    "load_pruned",
    "mask_gradients",
    "n_kept",
    "parameter_efficiency",
    "parameter_slack",
    "prunable_weights",
    "prune",
    "prune_step",
    "reestimate_normalisations",
    "run_onnx",
    "save_pruned",
    "score_weights",
    "sensitivity_scan",
    "sparsity_report",
    "storage_bytes",
    "to_sparse",
]
