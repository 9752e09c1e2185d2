"""GBA: a generator that is fed new noise in every iteration, as in GDFQ; the baseline between noise and GENIE-D.

Xu, S., Li, H., Zhuang, B., Liu, J., Cao, J., Liang, C. and Tan, M. (2020). Generative low-bitwidth data free quantization. ECCV.
"""

from __future__ import annotations

import torch

from ._base import Synthesizer, descend
from ._generator import make_generator


class GBA(Synthesizer):
    """A generator alone, matched to the statistics of the network; images are its output for new noise."""

    def batch(self, teacher, request, n, generator, on_iteration):
        network = make_generator(request, generator)
        optimizer = torch.optim.Adam(network.parameters(), request.lr_g)
        decay = torch.optim.lr_scheduler.StepLR(optimizer, 100, gamma=0.95)

        def noise():
            return torch.randn(n, request.latent_dim, generator=generator, device=request.device)

        def images():
            optimizer.zero_grad(set_to_none=True)
            return request.scaled(network(noise()))

        def step(loss):
            optimizer.step()
            decay.step()

        curve = descend(teacher, request, images, step, on_iteration)
        with torch.no_grad():
            return request.scaled(network(noise())), curve
