"""Exact draws: independent draws of theta from the posterior given the release, where the model knows how.

Tables, proportions and naive Bayes with independent noise, and normal means; the model's `draw_exact` does the work (see
`statml.privacy.exact`). No chain, no warm-up, no convergence to judge.
"""

from __future__ import annotations

import numpy as np

from ..protocols import Array, Mechanism, RecordModel
from .chain import sums_the_model


def exact_draws(
    model: RecordModel,
    mechanism: Mechanism,
    release: Array,
    n_records: int,
    size: int,
    rng: np.random.Generator,
) -> Array:
    """Independent draws of theta, shape (size, k).

    Raises
    ------
    ValueError
        If model and mechanism have no exact sampler.
    """
    if not may_be_exact(mechanism):
        raise ValueError(
            f'kernel="exact" needs a release of the statistics of the model, one each; got {mechanism!r}; take kernel="auto"'
        )
    try:
        return np.asarray(model.draw_exact(release, mechanism, n_records, size, rng), dtype=float)
    except (AttributeError, NotImplementedError) as error:
        if hasattr(model, "draw_exact") and isinstance(error, AttributeError):
            raise
        raise ValueError(
            f'kernel="exact": {type(model).__name__} has no exact sampler for a release by '
            f'{type(mechanism).__name__}; take kernel="auto"'
        ) from error


def has_exact(model: RecordModel, mechanism: Mechanism, release: Array, n_records: int) -> bool:
    """Whether the model has an exact sampler for this release; one draw is tried."""
    if not hasattr(model, "draw_exact") or not may_be_exact(mechanism):
        return False
    try:
        model.draw_exact(release, mechanism, n_records, 1, np.random.default_rng(0))
    except NotImplementedError:
        return False
    return True


def may_be_exact(mechanism: Mechanism) -> bool:
    """Whether the release is laid out as models expect: noise on their statistics, or randomised answers."""
    return sums_the_model(mechanism) or (mechanism.factorises and hasattr(mechanism, "Q"))
