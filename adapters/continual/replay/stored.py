"""Replay of records that were kept: exemplars in a memory of fixed size, or everything (joint training)."""

from __future__ import annotations

import numpy as np

from .past import Past, Replayed, register, share_out


@register("exemplar")
def exemplar(past: Past, n: int, rng: np.random.Generator) -> Replayed:
    """The stored records, each class repeated up to its share of n: minibatches stay balanced between old and new."""
    X, y = past.stored
    chosen = []
    for c, wanted in enumerate(share_out(n, past.n_classes)):
        own = np.flatnonzero(y == c)
        if len(own):
            chosen.append(np.resize(rng.permutation(own), wanted))
    index = np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)
    return Replayed(X[index], y[index], np.full(past.n_classes, np.nan))


@register("joint")
def joint(past: Past, n: int, rng: np.random.Generator) -> Replayed:
    """Every record ever seen: not continual, but the upper bound for all that is."""
    X, y = past.stored
    return Replayed(X, y, np.full(past.n_classes, np.nan))


@register("none")
def none(past: Past, n: int, rng: np.random.Generator) -> Replayed:
    """Nothing: plain fine-tuning, the lower bound."""
    X, y = past.stored
    return Replayed(X[:0], y[:0], np.full(past.n_classes, np.nan))
