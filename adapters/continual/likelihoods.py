"""What the decoder's output means: the distribution of a record's values given its latent.

A likelihood is a torch Module, since some have weights of their own, with

    Likelihood(shape)                 -> for records of that shape
    likelihood.decoded_shape          -> what the decoder has to give
    likelihood.differentiable         -> whether gradients pass through `records`
    likelihood.nll(X, decoded)        -> minus the log-likelihood of every value, in nats, shape of X
    likelihood.records(decoded, rng)  -> records; rng, numpy's, for those that have to be drawn
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from .pixel_cnn import PixelCNN


class Bernoulli(nn.Module):
    """Values in [0, 1], of which the decoder gives the logits; a record is its mean."""

    differentiable = True

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.decoded_shape = tuple(shape)

    def nll(self, X: Tensor, decoded: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.binary_cross_entropy_with_logits(decoded, X, reduction="none")

    def records(self, decoded: Tensor, rng: np.random.Generator) -> Tensor:
        """Means."""
        return decoded.sigmoid()


class Gaussian(Bernoulli):
    """Any values, with unit variance, of which the decoder gives the mean."""

    def nll(self, X: Tensor, decoded: Tensor) -> Tensor:
        """Half the squared error, that is, up to a constant."""
        return 0.5 * (decoded - X).square()

    def records(self, decoded: Tensor, rng: np.random.Generator) -> Tensor:
        """Means."""
        return decoded


LIKELIHOODS: dict[str, type[nn.Module]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "pixelcnn": PixelCNN,
}
