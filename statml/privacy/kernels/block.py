r"""Block updates: B records are proposed, and accepted or refused, together.

Where the privacy budget is small, one record moves the density of the release by almost nothing; B records together are still
accepted with probability at least :math:`e^{-B \epsilon}`, and a sweep has n / B accept steps instead of n. A good size is
about :math:`1 / \epsilon`. A single block of all records is one joint Metropolis step from the prior predictive.

Cost of a sweep: n draws of a record, O(nm) additions, n / B accept steps, one posterior draw.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..protocols import Array, ChainState, Mechanism, RecordModel
from .chain import LogEta, is_additive, sweep_records


class BlockUpdates:
    """The paper's kernel with blocks of records in place of single ones.

    Parameters
    ----------
    model : RecordModel
    mechanism : Mechanism
    block_size : int or "auto", default="auto"
        Records a block; "auto" takes 1 / epsilon where the mechanism knows its epsilon, else 1.
    """

    name = "block"

    def __init__(self, model: RecordModel, mechanism: Mechanism, block_size: int | str = "auto"):
        if not is_additive(model):
            raise ValueError(
                'kernel="block" needs a statistic that is a sum over records; take kernel="mwg"'
            )
        self.model = model
        self.inverse_temperature = 1.0
        self.log_eta = LogEta(mechanism, model)
        self.block_size = suggested_size(mechanism) if block_size == "auto" else int(block_size)

    def sweep(
        self, state: ChainState, release: Array, rng: np.random.Generator
    ) -> tuple[ChainState, dict[str, Any]]:
        """Theta given the records, then each block of records given theta and the release."""
        state.theta = np.asarray(self.model.draw_posterior(state.x, state.theta, rng), dtype=float)
        state, accepted = sweep_records(
            self.model, self.log_eta, state, release, self.inverse_temperature, rng, self.block_size
        )
        return state, {"accepted": accepted}


def suggested_size(mechanism: Mechanism) -> int:
    """About 1 / epsilon, between 1 and 1000."""
    bound = mechanism.acceptance_bound()
    if bound <= 0:
        return 1
    return int(np.clip(np.round(1 / max(-np.log(bound), 1e-3)), 1, 1000))
