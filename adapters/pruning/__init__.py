"""Pruning: networks with most of their weights removed, and what that does to them."""

from .distribution import DISTRIBUTIONS, Distribution, apportion, erk_densities
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
from .pruning import prune, prune_step, reestimate_normalisations
from .records import Scoring
from .saliency import SALIENCIES, Saliency, score_weights
from .schedule import SCHEDULES, Schedule, cubic_sparsity
from .structure import STRUCTURES, Structure

__all__ = [
    "DISTRIBUTIONS",
    "GROWTHS",
    "SALIENCIES",
    "SCHEDULES",
    "STRUCTURES",
    "Distribution",
    "Growth",
    "Masks",
    "PruneRounds",
    "Saliency",
    "Schedule",
    "Scoring",
    "Structure",
    "apply_masks",
    "apportion",
    "cubic_sparsity",
    "density",
    "erk_densities",
    "full_masks",
    "gradient_factors",
    "layer_densities",
    "mask_gradients",
    "n_kept",
    "prunable_weights",
    "prune",
    "prune_step",
    "reestimate_normalisations",
    "score_weights",
]
