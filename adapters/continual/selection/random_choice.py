"""Any n candidates with equal chances: what every other rule has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .pool import Pool, register


@register("random")
def random_choice(pool: Pool, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw without replacement; reads nothing."""
    return rng.permutation(len(pool))[:n]
