"""The attack on a fitted network: for each record the attributes at which its loss is largest, as far as a search or a grid finds them.

It searches harder than a training does, which has to search in every step: many starts, and climbs from several of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from .attribute import Chain
from .objectives import make_objective
from .search import Box, frozen, grid_search, search

ATTACK_BATCH = 256


@dataclass
class AttackResult:
    """What an attack found.

    Attributes
    ----------
    attributes : DataFrame of shape (n_records, n_parameters)
        The worst attributes of each record, in their units.
    loss, clean_loss, start_loss : ndarray of shape (n_records,)
        Cross-entropy there, at the clean record, and at the first random start (on a grid: at its first corner).
    success : ndarray of bool, shape (n_records,)
        Whether the worst version is misclassified.
    images : ndarray of the shape of X
        The worst versions.
    gap : ndarray of shape (n_records,) or None
        On a grid, the largest difference of the loss between neighbouring points.
    """

    attributes: pd.DataFrame
    loss: NDArray[np.float64]
    clean_loss: NDArray[np.float64]
    start_loss: NDArray[np.float64]
    success: NDArray[np.bool_]
    images: NDArray[np.float32]
    gap: NDArray[np.float64] | None = None

    def __repr__(self) -> str:
        return (
            f"AttackResult({len(self.loss)} records: mean loss {self.clean_loss.mean():.3g} clean, {self.loss.mean():.3g} attacked; "
            f"{self.success.mean():.1%} misclassified)"
        )


def attack(
    module: nn.Module,
    chain: Chain,
    X: NDArray[np.float32],
    codes: NDArray[np.int64],
    *,
    n_starts: int,
    n_steps: int,
    n_climbs: int,
    grid: int | None,
    generator: torch.Generator,
) -> AttackResult:
    """Attack a network, batch by batch.

    Parameters
    ----------
    module : torch Module
        Gives logits.
    chain : Chain
    X : ndarray of shape (n_records, ...)
    codes : ndarray of shape (n_records,)
        Positions of the true classes among the logits.
    n_starts, n_steps, n_climbs : int
        Of the search.
    grid : int or None
        Points a side of a grid that takes the place of the search.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    AttackResult
    """
    device = next(module.parameters()).device
    parts, gaps = [], []
    with frozen(module):
        for rows in np.array_split(np.arange(len(X)), -(-len(X) // ATTACK_BATCH)):
            x = torch.from_numpy(X[rows]).to(device)
            true = torch.from_numpy(codes[rows]).to(device)
            box = Box.of(chain, x)
            objective = make_objective("adversarial", module, x, true, box.half)
            if grid is None:
                found = search(
                    objective,
                    chain,
                    x,
                    box,
                    n_starts=n_starts,
                    n_steps=n_steps,
                    n_climbs=n_climbs,
                    generator=generator,
                )
            else:
                found, gap = grid_search(
                    objective, chain, x, box, n_points=grid, generator=generator
                )
                gaps.append(gap.cpu().numpy())
            with torch.no_grad():
                clean_loss = objective(x, box.half)
                wrong = module(found.x).argmax(1) != true
            kept = (found.value, found.objective, clean_loss, found.start, wrong, found.x)
            parts.append([t.cpu().numpy() for t in kept])
    value, *losses, success, images = (np.concatenate(c) for c in zip(*parts, strict=True))
    value = np.clip(value.astype(float), chain.low, chain.high)  # which float32 may have rounded
    return AttackResult(
        pd.DataFrame(value, columns=list(chain.names)),
        *(v.astype(float) for v in losses),
        success,
        images,
        np.concatenate(gaps).astype(float) if gaps else None,
    )
