"""The small network that makes images of latent vectors, as in the authors' code, for any number of dimensions.

A linear layer makes a grid of a quarter of the size, which is doubled twice with a convolution after each; a last normalisation without
parameters standardises every colour over the batch. Records without places (vectors) come of two linear layers instead.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class ImageGenerator(nn.Module):
    """Latent vectors to images of zero mean and unit variance.

    Parameters
    ----------
    shape : tuple of int
        (n_channels, ...) or (n_features,).
    latent_dim : int
    channels : (int, int)
        After the linear layer and after the first convolution.
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, channels: tuple[int, int]):
        super().__init__()
        self.shape = shape
        first, second = channels
        n_dimensions = len(shape) - 1
        if n_dimensions == 0:
            self.start: tuple[int, ...] = (first,)
            self.body = nn.Sequential(
                nn.BatchNorm1d(first), nn.LeakyReLU(0.2), nn.Linear(first, shape[0])
            )
            self.last = nn.BatchNorm1d(shape[0], affine=False)
        else:
            conv, norm = CONV[n_dimensions], NORM[n_dimensions]
            self.start = (first, *(math.ceil(size / 4) for size in shape[1:]))
            self.body = nn.Sequential(
                norm(first),
                nn.Upsample(scale_factor=2),
                conv(first, second, 3, padding=1),
                norm(second),
                nn.LeakyReLU(0.2),
                nn.Upsample(scale_factor=2),
                conv(second, shape[0], 3, padding=1),
            )
            self.last = norm(shape[0], affine=False)
        self.linear = nn.Linear(latent_dim, math.prod(self.start))

    def forward(self, z: Tensor) -> Tensor:
        """Images of shape (n, *shape)."""
        x = torch.tanh(self.body(self.linear(z).reshape(-1, *self.start)))
        crop = tuple(slice(0, size) for size in self.shape[1:])
        return self.last(x[(..., *crop)])


def make_generator(request, generator: torch.Generator) -> ImageGenerator:
    """A new one, its weights drawn without touching torch's global state."""
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = ImageGenerator(request.shape, request.latent_dim, request.generator_channels)
    return made.to(request.device).train()
