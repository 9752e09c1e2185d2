"""GENIE-D: a generator and its latent vectors are learnt together, anew for every batch.

Between pixels that share nothing and a generator that is fed new noise: images share the generator, and every image has a latent vector
that is learnt for it. No labels take part.

Jeon, Y., Lee, C. and Kim, H. (2023). Genie: show me the data for quantization. CVPR. Schedules are those of the authors' code.
"""

from __future__ import annotations

import torch

from ._base import Synthesizer, descend
from ._generator import make_generator


class GenieD(Synthesizer):
    """Latent vectors and generator, matched to the statistics of the network."""

    def batch(self, teacher, request, n, generator, on_iteration):
        device = request.device
        z = torch.randn(n, request.latent_dim, generator=generator, device=device).requires_grad_()
        network = make_generator(request, generator)
        of_z = torch.optim.Adam([z], request.lr_z)
        of_network = torch.optim.Adam(network.parameters(), request.lr_g)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            of_z, factor=0.1, patience=100, min_lr=1e-4
        )
        decay = torch.optim.lr_scheduler.StepLR(of_network, 100, gamma=0.95)

        def images():
            of_z.zero_grad(set_to_none=True)
            of_network.zero_grad(set_to_none=True)
            return request.scaled(network(z))

        def step(loss):
            of_z.step()
            of_network.step()
            plateau.step(loss)
            decay.step()

        curve = descend(teacher, request, images, step, on_iteration)
        with torch.no_grad():  # after the last step
            return request.scaled(network(z)), curve
