"""Channels: neurons, filters and attention heads, with everything that makes them; what dense hardware runs faster without.

Which slices of which parameters form a channel is read off the network's graph (`find_groups`): the outputs of layers that meet
in a residual sum are one channel, and its biases and normalisation parameters go with it, so that a pruned channel is zero
whatever the input and ``compact()`` can cut it out.
"""

from __future__ import annotations

import torch

from ..channel_ids import find_groups
from ..records import Scoring
from ._base import STRUCTURES, Structure, Units


@STRUCTURES.register("channel")
class Channel(Structure):
    """Whole channels; those that cannot be removed (the network's outputs, say) stay."""

    needs_data = True

    def units(self, scoring: Scoring) -> Units:
        scoring.need_records('structure="channel"')
        parameters = dict(scoring.module.named_parameters())
        groups = [
            group
            for group in find_groups(scoring.module, scoring.batches[0][0][:2])
            if group.kept_because is None
            and any(name in scoring.weights for name, _, _ in group.outputs)
        ]
        if not groups:
            raise ValueError('structure="channel" finds no channel that could be removed')
        fixed = len(groups)  # one unit for all that stays
        ids = {name: torch.full(p.shape, fixed) for name, p in parameters.items()}
        for unit, group in enumerate(groups):
            for name, dim, index in group.outputs:
                if name in ids:  # not a buffer
                    ids[name].select(dim, index).fill_(unit)
        ids = {name: numbers.to(parameters[name].device) for name, numbers in ids.items()}
        attached = {
            name: numbers
            for name, numbers in ids.items()
            if name not in scoring.weights and (numbers != fixed).any()
        }
        return Units({n: ids[n] for n in scoring.weights}, fixed + 1, attached, fixed)
