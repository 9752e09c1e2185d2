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

Array = NDArray[np.float64]

LARGEST_STEP = 50.0  # of the logarithm of a weight: exp of more overflows
LEAST_WEIGHT = 1e-20  # a weight of zero could never grow again


class HardBatch:
    """Which records of a batch are in which group.

    Parameters
    ----------
    group : ndarray of int, shape (batch,)
    m : int
    weight : ndarray of shape (batch,), optional
    """

    def __init__(self, group: NDArray, m: int, weight: NDArray | None = None):
        self.group, self.m, self.weight = group, m, weight
        self.mass = np.bincount(group, weight, m)

    def sums(self, losses: NDArray) -> Array:
        """Sum of the losses of each group, (m,)."""
        return np.bincount(
            self.group, losses if self.weight is None else losses * self.weight, self.m
        )

    def row_weights(self, v: Array) -> Array:
        """What each record counts if the records of group g count v_g, (batch,)."""
        return v[self.group] if self.weight is None else v[self.group] * self.weight


class SoftBatch:
    """Memberships of the records of a batch; the interface of `HardBatch`.

    Parameters
    ----------
    P : ndarray of shape (batch, m)
    """

    def __init__(self, P: NDArray):
        self.P, self.mass = P, P.sum(axis=0)

    def sums(self, losses: NDArray) -> Array:
        """Sum of the losses of each group, (m,)."""
        return losses @ self.P

    def row_weights(self, v: Array) -> Array:
        """What each record counts if the records of group g count v_g, (batch,)."""
        return self.P @ v


def updated_weights(
    q: Array, losses: Array, present: NDArray[np.bool_], step: float, caps: Array | None = None
) -> Array:
    """One step of exponentiated gradient among the groups that are present; absent ones keep their weights.

    Parameters
    ----------
    q : ndarray of shape (m,)
    losses : ndarray of shape (m,)
        With their offsets.
    present : ndarray of bool, shape (m,)
    step : float
        eta_q.
    caps : ndarray of shape (m,) or None, default=None
        Largest weights; None: 1.

    Returns
    -------
    ndarray of shape (m,)

    Examples
    --------
    >>> import numpy as np
    >>> present = np.array([True, True, False])
    >>> updated_weights(np.array([0.5, 0.25, 0.25]), np.array([1.0, 0.0, 0.0]), present, np.log(2)).round(3).tolist()
    [0.6, 0.15, 0.25]
    """
    grown = q * np.exp(np.minimum(step * losses, LARGEST_STEP) * present)
    if present.all():
        q = grown / grown.sum()
    elif present.any():
        q = np.where(present, grown * (q[present].sum() / grown[present].sum()), q)
    q = np.maximum(q, LEAST_WEIGHT)
    return q if caps is None else entropic_projection(q, caps)


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
    q : ndarray of shape (m,)
    """

    def __init__(self, offsets: Array, caps: Array | None, step: float):
        self.m = len(offsets)
        self.q = np.full(self.m, 1 / self.m)
        if caps is not None:
            self.q = entropic_projection(np.ones(self.m), caps)
        self.offsets, self.caps, self.step = offsets, caps, step
        self.start_epoch()

    def start_epoch(self) -> None:
        """Begin the sums of an epoch."""
        self.loss_sum, self.mass_sum = np.zeros(self.m), np.zeros(self.m)

    def batch(self, y_true: dict[str, Tensor]) -> HardBatch | SoftBatch:
        """The groups of a batch."""
        weight = numbers(y_true["weight"]) if "weight" in y_true else None
        if "group" in y_true:
            return HardBatch(y_true["group"].cpu().numpy(), self.m, weight)
        P = numbers(y_true["membership"])
        return SoftBatch(P if weight is None else P * weight[:, None])

    def play(self, losses: Tensor, y_true: dict[str, Tensor]) -> Tensor:
        """Weigh the groups anew, and return the robust loss of the batch.

        Parameters
        ----------
        losses : Tensor of shape (batch,)
        y_true : dict of str to Tensor
            "group" (batch,) or "membership" (batch, m), and "weight" (batch,) if there are weights.

        Returns
        -------
        Tensor of shape ()
        """
        groups = self.batch(y_true)
        present = groups.mass > 0
        sums, mass = groups.sums(numbers(losses)), np.where(present, groups.mass, 1.0)
        seen = sums / mass + self.offsets
        self.q = updated_weights(self.q, seen, present, self.step, self.caps)
        self.loss_sum += sums
        self.mass_sum += groups.mass
        v = groups.row_weights(self.q / mass)
        return torch.from_numpy(v.astype(np.float32)).to(losses) @ losses

    def epoch_losses(self) -> list[float]:
        """Mean training loss of each group in the epoch; NaN for one that did not occur."""
        there = self.mass_sum > 0
        return np.where(there, self.loss_sum / np.where(there, self.mass_sum, 1), np.nan).tolist()

    def state(self) -> dict[str, Any]:
        return {"q": self.q.tolist()}

    def load(self, state: dict[str, Any]) -> None:
        self.q = np.array(state["q"])


def numbers(values: Tensor) -> NDArray[np.float32]:
    """A tensor without its gradient, in numpy: of a few numbers a step, that is faster."""
    return values.detach().float().cpu().numpy()


class GroupDROLoop(Net):
    """The training loop, with the robust loss; its `GroupPlayer` is ``player_``."""

    def objective(self, losses: Tensor, y_true: dict[str, Tensor], training: bool) -> Tensor:
        player = getattr(self, "player_", None)
        if player is None or not training:
            return super().objective(losses, y_true, training)
        return player.play(losses, y_true)


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
