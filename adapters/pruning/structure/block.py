"""Blocks of b x b weights, which sparse kernels run through at the speed of dense ones."""

from __future__ import annotations

import torch

from ..records import Scoring
from ._base import STRUCTURES, Structure, Units


@STRUCTURES.register("block")
class Block(Structure):
    """Square blocks of a weight as a matrix (outputs, everything else); those at the edges are smaller.

    Parameters
    ----------
    size : int, default=4
    """

    def __init__(self, size: int = 4):
        if size < 1:
            raise ValueError(f"size must be an integer >= 1, got {size}")
        self.size = size

    def units(self, scoring: Scoring) -> Units:
        ids, first = {}, 0
        for name, w in scoring.weights.items():
            height, width = w.flatten(1).shape
            across = -(-width // self.size)
            row = torch.arange(height, device=w.device) // self.size
            column = torch.arange(width, device=w.device) // self.size
            numbers = first + row[:, None] * across + column
            ids[name] = numbers.reshape(w.shape)
            first += -(-height // self.size) * across
        return Units(ids, first)
