"""Optimal brain surgeon (Hassibi and Stork 1993) with the Fisher matrix in blocks (WoodFisher, Singh and Alistarh 2020).

When w_i is removed and the others move to make up for it, the loss grows by w_i^2 / (2 [H^-1]_ii). For H stands
F = damping I + (1/N) sum_n g_n g_n', g_n the gradient of one record's loss, in blocks of consecutive weights of a layer; its inverse comes
from N rank-one updates (Sherman and Morrison), starting at I / damping, some at a time:

    F^-1  <-  F^-1 - (F^-1 g)(F^-1 g)' / (N + g' F^-1 g).

Weights Q of a block that go together cost w_Q' ([F^-1]_QQ)^-1 w_Q / 2, and the others move by
-[F^-1]_:Q ([F^-1]_QQ)^-1 w_Q (``compensate="obs"``).

Cost: N gradients, and N B operations and B numbers a weight for blocks of B.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..records import Scoring
from ._base import SALIENCIES, Saliency


@SALIENCIES.register("obs", "woodfisher")
class WoodFisher(Saliency):
    """Second-order change of the loss after the best move of the block's other weights.

    Parameters
    ----------
    block : int, default=64
        Weights in a block.
    damping : float, default=1e-4
        Added to the diagonal of F.
    """

    needs_data = True

    def __init__(self, block: int = 64, damping: float = 1e-4):
        self.block, self.damping = block, damping

    def terms(self, scoring: Scoring) -> dict[str, Tensor]:
        inverse = block_inverse_fisher(scoring, self.block, self.damping)
        terms = {}
        for name, w in scoring.weights.items():
            diagonal = inverse[name].diagonal(dim1=1, dim2=2).reshape(-1)[: w.numel()]
            terms[name] = w.detach().square() / (2 * diagonal.reshape(w.shape))
        return terms


def block_inverse_fisher(scoring: Scoring, block: int, damping: float) -> dict[str, Tensor]:
    """Inverse of the Fisher matrix in blocks of consecutive weights.

    Parameters
    ----------
    scoring : Scoring
        Gradients of pruned weights are taken as zero.
    block : int
    damping : float

    Returns
    -------
    dict of str to Tensor of shape (blocks, b, b)
        b is `block`, or the number of weights where that is smaller. The last block is filled up with zeros of the gradient.
    """
    inverse: dict[str, Tensor] = {}
    for gradients in scoring.record_gradients():
        for name, g in gradients.items():
            g = in_blocks((g * scoring.masks[name]).flatten(1), block)  # (records, blocks, b)
            if name not in inverse:
                eye = torch.eye(g.shape[2], dtype=g.dtype, device=g.device) / damping
                inverse[name] = eye.repeat(g.shape[1], 1, 1)
            add_records(inverse[name], g, scoring.n_records)
    return inverse


def add_records(inverse: Tensor, gradients: Tensor, n_records: int) -> None:
    """Add records to F in each block, in place: the rank-one updates of all of them at once (Woodbury).

    Parameters
    ----------
    inverse : Tensor of shape (blocks, b, b)
    gradients : Tensor of shape (records, blocks, b)
    n_records : int
        N, by which F divides.
    """
    G = gradients.permute(1, 2, 0)  # (blocks, b, records)
    moved = inverse @ G  # F^-1 G
    inner = G.transpose(1, 2) @ moved
    inner.diagonal(dim1=1, dim2=2).add_(n_records)
    inverse.sub_(moved @ torch.linalg.solve(inner, moved.transpose(1, 2)))


def in_blocks(values: Tensor, block: int) -> Tensor:
    """(m, weights) as (m, blocks, b), filled up with zeros."""
    n = values.shape[1]
    b = min(block, n)
    padding = -n % b
    return torch.nn.functional.pad(values, (0, padding)).reshape(len(values), -1, b)
