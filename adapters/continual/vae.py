r"""The joint model of open-set aware continual learning: a variational autoencoder whose latent is classified.

The joint density :math:`p(x, y, z) = p(y | z)\, p(x | z)\, p(z)` with :math:`p(z) = N(0, I_d)` has an encoder
:math:`q(z | x) = N(\mu(x), \mathrm{diag}\, s(x)^2)`, a decoder and a linear classifier W z without intercept that gains rows
as classes arrive. Its loss on B records of D values each, every term divided by its number of elements, is

.. math::

    L = \frac1B \sum_i \mathrm{CE}(W z_i, y_i) + \frac1{BD} \sum_i -\log p(x_i | z_i) + \frac{\beta}{Bd} \sum_i \mathrm{KL}_i,
    \qquad
    \mathrm{KL}_i = -\frac12 \sum_j \left[1 + \log s_{ij}^2 - \mu_{ij}^2 - s_{ij}^2\right].

In units of the evidence bound that is a weight D for the class loss and :math:`\beta D / d` for the divergence: beta = 0.1 with
28 × 28 images and d = 60 is a beta-VAE's 1.3. s is the raw output of a linear layer; only its square counts.

References
----------
Mundt, M., Pliushch, I., Majumder, S., Hong, Y. and Ramesh, V. (2022). Unified probabilistic deep continual learning through
generative replay and open set recognition. Journal of Imaging 8, 93.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .likelihoods import Bernoulli

EPS = 1e-8  # inside the logarithm of a scale that may be zero


class VAE(nn.Module):
    """Encoder, decoder and growing classifier.

    Parameters
    ----------
    shape : tuple of int
        Of one record: (features,), (height, width) or (channels, height, width).
    n_classes : int
    encoder, decoder : torch Module
        From a record to features of any width, and from a latent (batch, latent_dim) to a record. See `mlp_coder`,
        `convolutional_coder`.
    width : int
        Of the encoder's features.
    latent_dim : int
    noise : float, default=0.0
        Standard deviation of what is added to the records that are encoded in training.
    likelihood : torch Module or None, default=None
        What the decoder's output means, see `likelihoods`; None: `Bernoulli`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_classes: int,
        encoder: nn.Module,
        decoder: nn.Module,
        width: int,
        latent_dim: int,
        noise: float = 0.0,
        likelihood: nn.Module | None = None,
    ):
        super().__init__()
        self.shape, self.noise = tuple(shape), noise
        self.likelihood = Bernoulli(shape) if likelihood is None else likelihood
        self.encoder, self.decoder = encoder, decoder
        self.mean = nn.Linear(width, latent_dim, bias=False)
        self.scale = nn.Linear(width, latent_dim, bias=False)
        self.classifier = nn.Linear(latent_dim, n_classes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)

    def encode(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of q(z | x), each (batch, latent_dim)."""
        features = self.encoder(X).flatten(1)
        return self.mean(features), self.scale(features)

    def decode(self, Z: Tensor) -> Tensor:
        """What the decoder makes of latents, in the shape that the likelihood wants, usually that of the records."""
        return self.decoder(Z).reshape(len(Z), *self.likelihood.decoded_shape)

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class logits, decoded latent, and mean and scale of the latent, from one sample of it."""
        if self.training and self.noise:
            X = X + self.noise * torch.randn_like(X)
        mean, scale = self.encode(X)
        Z = mean + scale * torch.randn_like(mean)
        return self.classifier(Z), self.decode(Z), mean, scale

    def grow(self, n_classes: int) -> None:
        """Add rows to the classifier; the old ones stay bit for bit."""
        old = self.classifier
        more = n_classes - old.out_features
        if more <= 0:
            return
        new = nn.Linear(old.in_features, n_classes, bias=False).to(old.weight.device)
        with torch.no_grad():
            nn.init.kaiming_normal_(new.weight)
            new.weight[: old.out_features] = old.weight
        self.classifier = new


def kl_divergence(mean: Tensor, scale: Tensor) -> Tensor:
    """KL(N(mean, scale²) || N(0, 1)) of every record and dimension, in nats; the sign of the scale does not matter."""
    variance = scale.square()
    return -0.5 * (1 + torch.log(variance + EPS) - mean.square() - variance)


def mlp_coder(
    shape: tuple[int, ...],
    latent_dim: int,
    hidden: Sequence[int],
    decoded_shape: tuple[int, ...] | None = None,
) -> tuple[nn.Module, nn.Module, int]:
    """Fully connected encoder and its mirror image; returns them and the width of the features."""
    sizes = [math.prod(shape), *hidden]
    outputs = math.prod(shape if decoded_shape is None else decoded_shape)
    encoder = nn.Sequential(nn.Flatten(), *_dense(sizes))
    back = [latent_dim, *reversed(hidden)]
    decoder = nn.Sequential(*_dense(back), nn.Linear(back[-1], outputs, bias=False))
    return encoder, decoder, sizes[-1]


def convolutional_coder(
    shape: tuple[int, ...],
    latent_dim: int,
    hidden: Sequence[int],
    decoded_shape: tuple[int, ...] | None = None,
) -> tuple[nn.Module, nn.Module, int]:
    """Convolutions that halve the image once for each entry of `hidden` (their channels), and their mirror image.

    An image of any size: it is padded with zeros to a multiple of 2^len(hidden), and what is decoded is cropped.
    """
    channels, height, width = as_image(shape)
    outputs = channels if decoded_shape is None else as_image(decoded_shape)[0]
    cell = 2 ** len(hidden)
    rows, columns = -(-height // cell), -(-width // cell)
    pad = (0, columns * cell - width, 0, rows * cell - height)
    widths = [channels, *hidden]
    down: list[nn.Module] = [AsImage((channels, height, width)), nn.ZeroPad2d(pad)]
    for a, b in itertools.pairwise(widths):
        down += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    features = widths[-1] * rows * columns
    up: list[nn.Module] = [
        nn.Linear(latent_dim, features, bias=False),
        nn.BatchNorm1d(features),
        nn.ReLU(),
        nn.Unflatten(1, (widths[-1], rows, columns)),
    ]
    back = widths[::-1]
    for a, b in itertools.pairwise(back[:-1]):
        up += [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    up += [
        nn.ConvTranspose2d(back[-2], outputs, 4, 2, 1, bias=False),
        Crop(height, width),
    ]
    return nn.Sequential(*down), nn.Sequential(*up), features


def as_image(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Channels, height and width."""
    return shape if len(shape) == 3 else (1, *shape)


class AsImage(nn.Module):
    """Gives a record without channels its one channel."""

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        self.shape = shape

    def forward(self, X: Tensor) -> Tensor:
        return X.reshape(len(X), *self.shape)


class Crop(nn.Module):
    """The upper left corner."""

    def __init__(self, height: int, width: int):
        super().__init__()
        self.height, self.width = height, width

    def forward(self, X: Tensor) -> Tensor:
        return X[..., : self.height, : self.width]


def _dense(sizes: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
    return layers


CODERS: dict[str, Callable] = {"mlp": mlp_coder, "conv": convolutional_coder}
