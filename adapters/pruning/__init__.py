"""Pruning: networks with most of their weights removed, and what that does to them."""

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

__all__ = [
    "Masks",
    "PruneRounds",
    "apply_masks",
    "density",
    "full_masks",
    "gradient_factors",
    "layer_densities",
    "mask_gradients",
    "n_kept",
    "prunable_weights",
]
