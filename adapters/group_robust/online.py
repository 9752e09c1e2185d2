r"""Group DRO's online algorithm for networks: the weights of the groups, and batches in which all groups have a chance.

A batch has memberships :math:`P_{ig}` (zero and one for hard groups). Each step takes

.. math::  \hat L_g = \frac{\sum_i P_{ig}\, \ell_i}{\sum_i P_{ig}}, \qquad
           q_g \leftarrow c\, q_g \exp\{\eta_q (\hat L_g + a_g)\} \text{ for the groups in the batch},

c such that these have as much weight together as before (brings q below its caps, for CVaR over groups), and lets the network
descend on :math:`\sum_g q_g \hat L_g`. So a group that is absent keeps its weight. Published code lets the groups in the batch
grow and then scales all of them to sum to one; whether the others are skipped there or counted with a loss of zero comes to the
same: they lose weight, the more often they are absent, and of groups with the same loss the small ones end with none. Where all
groups are in every batch, as in the paper, the two rules agree.

Balanced batches draw record i with probability :math:`p_i = \frac1m \sum_g V_{ig}`, V the records' weights within
their groups (`statml.group_robust.membership`): groups have equal chances. Memberships are then
:math:`P_{ig} = V_{ig} / (m p_i)`, so that :math:`\hat L_g` estimates the weighted loss of the group; for hard groups, they are
one.

Cost: O(batch m) a step, beside the network's.

Reference: Sagawa, S., Koh, P. W., Hashimoto, T. B. and Liang, P. (2020). Distributionally robust neural networks for
group shifts. ICLR, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statml.group_robust.membership import HardGroups, SoftGroups
from statml.group_robust.simplex import entropic_projection

from .._net import Net

LARGEST_STEP = 50.0  # of the logarithm of a weight: exp of more overflows
LEAST_WEIGHT = 1e-20  # a weight of zero could never grow again


def group_means(losses: Tensor, membership: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss of each group in a batch, and the mass of the groups in it.

    Parameters
    ----------
    losses : Tensor of shape (batch,)
    membership : Tensor of shape (batch, m)

    Returns
    -------
    means : Tensor of shape (m,)
        Zero for a group that is absent.
    mass : Tensor of shape (m,)

    Examples
    --------
    >>> import torch
    >>> membership = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> means, mass = group_means(torch.tensor([1.0, 3.0, 5.0]), membership)
    >>> means.tolist(), mass.tolist()
    ([2.0, 5.0, 0.0], [2.0, 1.0, 0.0])
    """
    mass = membership.sum(0)
    return (losses @ membership) / mass.clamp_min(torch.finfo(mass.dtype).tiny), mass


def updated_weights(
    q: Tensor, losses: Tensor, present: Tensor, step: float, caps: NDArray | None = None
) -> Tensor:
    """One step of exponentiated gradient among the groups that are present; absent ones keep their weights.

    Parameters
    ----------
    q : Tensor of shape (m,)
    losses : Tensor of shape (m,)
        With their offsets.
    present : bool Tensor of shape (m,)
    step : float
        eta_q.
    caps : ndarray of shape (m,) or None, default=None
        Largest weights; None: 1.

    Returns
    -------
    Tensor of shape (m,)

    Examples
    --------
    >>> import torch
    >>> q = updated_weights(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([1.0, 0.0, 0.0]), torch.tensor([True, True, False]), 0.693147)
    >>> [round(weight, 3) for weight in q.tolist()]
    [0.6, 0.15, 0.25]
    """
    before = q * present
    after = before * (step * losses).clamp_max(LARGEST_STEP).exp()
    share = before.sum() / after.sum().clamp_min(torch.finfo(q.dtype).tiny)
    q = (q - before + after * share).clamp_min(LEAST_WEIGHT)
    if caps is None:
        return q
    projected = entropic_projection(q.double().cpu().numpy(), caps)
    return torch.as_tensor(projected, dtype=q.dtype, device=q.device)


class GroupPlayer:
    """The player who weighs the groups.

    Parameters
    ----------
    offsets : ndarray of shape (m,)
        Added to the losses before groups are compared.
    caps : ndarray of shape (m,) or None
        Largest weights; None: 1.
    step : float
        eta_q.

    Attributes
    ----------
    q : Tensor of shape (m,)
    mean_q : Tensor of shape (m,) or None
        Average over the steps that are averaged.
    """

    def __init__(self, offsets: NDArray, caps: NDArray | None, step: float):
        m = len(offsets)
        start = np.full(m, 1 / m) if caps is None else entropic_projection(np.ones(m), caps)
        self.q = torch.tensor(start, dtype=torch.float32)
        self.offsets = torch.tensor(offsets, dtype=torch.float32)
        self.labels = torch.arange(m)
        self.caps, self.step = caps, step
        self.start_epoch()

    def start_epoch(self) -> None:
        """Begin the sums of an epoch."""
        self.loss_sum, self.mass_sum = torch.zeros_like(self.q), torch.zeros_like(self.q)

    def to(self, device: torch.device | str) -> None:
        """Move to where the network is."""
        for name in ("q", "offsets", "labels", "loss_sum", "mass_sum"):
            setattr(self, name, getattr(self, name).to(device))

    def membership(self, y_true: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        """(batch, m), with the weights of the records."""
        P = y_true.get("membership")
        if P is None:
            P = (y_true["group"][:, None] == self.labels).to(dtype)
        weight = y_true.get("weight")
        return P if weight is None else P * weight[:, None]

    def play(self, losses: Tensor, P: Tensor) -> Tensor:
        """Weigh the groups anew, and return the robust loss of the batch.

        Parameters
        ----------
        losses : Tensor of shape (batch,)
        P : Tensor of shape (batch, m)

        Returns
        -------
        Tensor of shape ()
        """
        means, mass = group_means(losses.to(P.dtype), P)
        seen = means.detach()
        self.q = updated_weights(self.q, seen + self.offsets, mass > 0, self.step, self.caps)
        self.loss_sum.addcmul_(seen, mass)
        self.mass_sum.add_(mass)
        return self.q @ means

    def epoch_losses(self) -> list[float]:
        """Mean training loss of each group in the epoch; NaN for one that did not occur."""
        return (self.loss_sum / self.mass_sum).tolist()

    def state(self) -> dict[str, Any]:
        return {"q": self.q.cpu()}

    def load(self, state: dict[str, Any]) -> None:
        self.q = state["q"].to(self.q.device)


class GroupDROLoop(Net):
    """The training loop, with the robust loss; its `GroupPlayer` is ``player_``."""

    def objective(self, losses: Tensor, y_true: dict[str, Tensor], training: bool) -> Tensor:
        player = getattr(self, "player_", None)
        if player is None or not training:
            return super().objective(losses, y_true, training)
        return player.play(losses, player.membership(y_true, losses.dtype))


class BalancedSampler:
    """Records of one epoch, drawn with replacement so that all groups have the same number of draws.

    Parameters
    ----------
    groups : HardGroups or SoftGroups
        A record's chance within its group is its weight there.
    n : int
        Draws an epoch.
    generator : torch.Generator

    Examples
    --------
    >>> import numpy as np, torch
    >>> from statml.group_robust.membership import HardGroups
    >>> codes = np.array([0] * 97 + [1] * 3)
    >>> sampler = BalancedSampler(HardGroups(codes, np.ones(100), 2), 100, torch.Generator().manual_seed(0))
    >>> np.bincount(codes[list(sampler)]).tolist()
    [50, 50]
    """

    def __init__(self, groups: HardGroups | SoftGroups, n: int, generator: torch.Generator):
        m = len(groups.mass)
        if isinstance(groups, HardGroups):  # kept in the order of the groups
            rows, of_group = groups.order, groups.codes
            chance = groups.row_weight
        else:
            of_group, position = np.nonzero(groups.V.T)
            rows, chance = groups.order[position], groups.V[position, of_group]
        self.rows = torch.from_numpy(np.ascontiguousarray(rows))
        self.cumulative = torch.from_numpy(np.cumsum(chance))  # rises by 1 over each group
        self.last = torch.from_numpy(np.cumsum(np.bincount(of_group, minlength=m)) - 1)
        self.n, self.m, self.generator = n, m, generator

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        # which groups get one draw more than others changes from epoch to epoch
        first = int(torch.randint(self.m, (1,), generator=self.generator))
        group = (torch.arange(self.n) + first) % self.m
        group = group[torch.randperm(self.n, generator=self.generator)]
        chance = torch.rand(self.n, dtype=torch.float64, generator=self.generator)
        at = torch.searchsorted(self.cumulative, group + chance, right=True)
        return iter(self.rows[torch.minimum(at, self.last[group])].tolist())


def balanced_membership(groups: SoftGroups, n: int) -> NDArray[np.float32]:
    """Memberships :math:`V_{ig} / (m p_i)` under balanced draws, (n, m); zero for records that are never drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.group_robust.membership import SoftGroups
    >>> balanced_membership(SoftGroups(np.array([[1.0, 0.0], [1.0, 1.0]]), np.ones(2)), 2).round(3).tolist()
    [[1.0, 0.0], [0.3330000042915344, 0.6669999957084656]]
    """
    P = np.zeros((n, len(groups.mass)), dtype=np.float32)
    P[groups.order] = groups.V / groups.V.sum(axis=1, keepdims=True)
    return P
