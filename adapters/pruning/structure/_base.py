"""The protocol of structures, and the choice of the units that stay."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._registry import Described, Registry
from ..masks import Masks
from ..records import Scoring

Link = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Units:
    """Which weights belong together.

    Parameters
    ----------
    ids : dict of str to int64 Tensor
        The unit of each weight, by the weights' names and of their shapes; numbers from 0 on, unique over the network. Units may
        span several weights.
    n_units : int
    attached : dict of str to int64 Tensor, default={}
        Further parameters that go with a unit (biases, scales of normalisations), likewise.
    fixed : int, optional
        A unit that always stays.
    """

    ids: dict[str, Tensor]
    n_units: int
    attached: dict[str, Tensor] = field(default_factory=dict)
    fixed: int | None = None


class Structure(Described):
    """What is pruned as one piece.

    A structure numbers the units of a network (`units`); the units of a pool compete by their scores a weight (`choose`), until as
    many weights are left as the pool may keep. One whose shape leaves no such choice (N:M) overrides `choose`.

    Attributes
    ----------
    sparsity : float or None
        The only sparsity that it can end at; None: any.
    needs_data : bool
        Whether the units are found with a record.
    """

    sparsity: float | None = None
    needs_data = False

    def units(self, scoring: Scoring) -> Units:
        """The groups of weights that stay or go together."""
        raise NotImplementedError

    def choose(
        self,
        names: list[str],
        n_keep: int,
        terms: dict[str, Tensor],
        link: Link,
        masks: Masks,
        units: Units,
    ) -> Masks:
        """New masks of the weights of one pool, subsets of the old ones.

        Parameters
        ----------
        names : list of str
            The pool.
        n_keep : int
            How many of its weights stay. With units of more than one weight the number comes as near as they allow.
        terms : dict of str to Tensor
            As a `Saliency` gives them.
        link : callable
            (sums, sizes) -> scores a weight.
        masks : dict of str to bool Tensor
        units : Units

        Returns
        -------
        dict of str to bool Tensor
        """
        ids = torch.cat([units.ids[name].reshape(-1) for name in names])
        alive = torch.cat([masks[name].reshape(-1) for name in names])
        values = torch.cat([terms[name].reshape(-1) for name in names]).double()
        size = torch.zeros(units.n_units, dtype=torch.float64, device=ids.device)
        total = size.clone().index_add_(0, ids, torch.where(alive, values, 0.0))
        size.index_add_(0, ids, alive.double())
        there = torch.nonzero(size).squeeze(1)
        score = link(total[there], size[there])
        if units.fixed is not None:
            score = torch.where(there == units.fixed, torch.inf, score)
        order = there[torch.sort(score, descending=True, stable=True).indices]
        kept = torch.cat([size.new_zeros(1), size[order].cumsum(0)])
        n = int(
            (kept - n_keep).abs().argmin()
        )  # the first of two that are equally near: the sparser
        stays = torch.zeros(units.n_units, dtype=torch.bool, device=ids.device)
        stays[order[:n]] = True
        return {name: masks[name] & stays[units.ids[name]] for name in names}


STRUCTURES = Registry("structure", Structure)


def as_structure(structure: str | Structure) -> Structure:
    """A structure from its name; "2:4" and its like are patterns N:M."""
    if isinstance(structure, str) and (pattern := re.fullmatch(r"(\d+):(\d+)", structure)):
        from .n_of_m import NOfM

        return NOfM(int(pattern[1]), int(pattern[2]))
    return STRUCTURES.make(structure)
