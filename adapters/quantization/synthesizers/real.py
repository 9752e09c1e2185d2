"""Real images, as few-shot methods have them: a random sample without replacement, in place of synthetic ones."""

from __future__ import annotations

import torch
from torch import Tensor

from ._base import Synthesizer


class Real(Synthesizer):
    """A sample of the images given.

    Parameters
    ----------
    X : Tensor of shape (n_records, ...)
    """

    needs_norms = False

    def __init__(self, X: Tensor):
        self.X = X

    def batch(self, teacher, request, n, generator, on_iteration):
        on_iteration()
        draws = torch.randperm(len(self.X), generator=generator, device=generator.device)
        return self.X[draws[:n].to(self.X.device)], []
