"""ZeroQ: pixels are learnt so that every single image has the statistics of the network.

Cai, Y., Yao, Z., Dong, Z., Gholami, A., Mahoney, M. W. and Keutzer, K. (2020). ZeroQ: a novel zero shot quantization framework. CVPR.
"""

from __future__ import annotations

import torch

from ..statistics import per_image_loss
from ._base import Synthesizer, descend

LR = 0.5


class ZeroQ(Synthesizer):
    """Pixels, matched to the statistics of the network image by image; no swing."""

    uses_swing = False

    def batch(self, teacher, request, n, generator, on_iteration):
        draws = torch.randn(n, *request.shape, generator=generator, device=request.device)
        x = request.scaled(draws).detach().requires_grad_()
        optimizer = torch.optim.Adam([x], LR)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=100, min_lr=1e-4)

        def images():
            optimizer.zero_grad(set_to_none=True)
            return x if request.limits is None else x.clamp(*request.limits)

        def step(loss):
            optimizer.step()
            plateau.step(loss)

        curve = descend(teacher, request, images, step, on_iteration, per_image_loss)
        return images().detach(), curve
