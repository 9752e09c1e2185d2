"""Gaussian noise with the mean and deviation of real inputs: what every other synthesizer has to beat."""

from __future__ import annotations

import torch

from ._base import Synthesizer


class Noise(Synthesizer):
    """Images of independent normal pixels."""

    needs_norms = False

    def batch(self, teacher, request, n, generator, on_iteration):
        draws = torch.randn(n, *request.shape, generator=generator, device=request.device)
        on_iteration()
        return request.scaled(draws), []
