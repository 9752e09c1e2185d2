"""Plain generative replay: draws from the prior, with the classifier's word for their classes (Shin et al. 2017).

z ~ N(0, I), x the decoder's mean, y = argmax W z. Nothing says that the encoder ever put a record near z, nor are the classes
equally many.
"""

from __future__ import annotations

import numpy as np

from .past import Past, Replayed, register


@register("prior")
def prior(past: Past, n: int, rng: np.random.Generator) -> Replayed:
    """n draws from the prior."""
    Z = rng.standard_normal((n, past.weights.shape[1]))
    return Replayed(past.decode(Z), past.classify(Z), np.full(past.n_classes, np.nan))
