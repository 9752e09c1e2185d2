"""DBA: pixels are learnt, and images share nothing; the distillation baseline of the GENIE paper."""

from __future__ import annotations

import torch

from ._base import Synthesizer, descend


class DBA(Synthesizer):
    """Pixels, matched to the statistics of the network over a batch."""

    def batch(self, teacher, request, n, generator, on_iteration):
        draws = torch.randn(n, *request.shape, generator=generator, device=request.device)
        x = request.scaled(draws).detach().requires_grad_()
        optimizer = torch.optim.Adam([x], request.lr_z)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.1, patience=100, min_lr=1e-4
        )

        def images():
            optimizer.zero_grad(set_to_none=True)
            return x if request.limits is None else x.clamp(*request.limits)

        def step(loss):
            optimizer.step()
            plateau.step(loss)

        curve = descend(teacher, request, images, step, on_iteration)
        return images().detach(), curve
