"""The experiment that separates what pruning does by training longer from what it does by being smaller."""

from .displays import PruningEffectDisplay
from .effects import effects_of
from .experiment import decompose_pruning_effect, noisy_labels
from .result import PruningEffectResult

__all__ = [
    "PruningEffectDisplay",
    "PruningEffectResult",
    "decompose_pruning_effect",
    "effects_of",
    "noisy_labels",
]
