r"""PixelVAE: the decoder's output conditions an autoregressive model of the values, pixel after pixel and colour after colour.

.. math:: p(x | z) = \prod_i p(x_i | x_{<i}, s), \qquad s = \mathrm{sigmoid}(\mathrm{dec}(z)),

each factor a categorical distribution over 256 grey levels, in raster order. The network is a gated PixelCNN: a *vertical*
stack sees all rows above, a *horizontal* one what is to the left and, through the vertical one, above, so that there is
no blind spot. In every layer, with f and g convolutions of the stack's input plus a 1 x 1 convolution of s,

.. math:: h \leftarrow \tanh(f) \odot \mathrm{sigmoid}(g).

The likelihood takes one pass; drawing a record takes one for each of its values, each over the rows within reach. That is slow:
784 passes for 28 x 28 images.

References
----------
Gulrajani, I., Kumar, K., Ahmed, F., Taiga, A. A., Visin, F., Vazquez, D. and Courville, A. (2017). PixelVAE: a latent variable
model for natural images. International Conference on Learning Representations.
van den Oord, A., Kalchbrenner, N., Vinyals, O., Espeholt, L., Graves, A. and Kavukcuoglu, K. (2016). Conditional image
generation with PixelCNN decoders. Advances in Neural Information Processing Systems 29.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 256
WIDTH = 60  # channels of the decoder's output and of every layer
KERNEL = 7
N_LAYERS = 3
REACH = N_LAYERS * (KERNEL // 2) + 1  # rows above that a pixel's distribution depends on


class PixelCNN(nn.Module):
    """Grey levels of images with values in [0, 1], given the decoder's features; see the module's docstring.

    Parameters
    ----------
    shape : tuple of int
        (height, width) or (channels, height, width), of at most 60 channels.

    Raises
    ------
    ValueError
        For records that are no images.
    """

    differentiable = False  # records are drawn

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] > WIDTH):
            raise ValueError(
                'likelihood="pixelcnn" takes images, (height, width) or (channels, height, width) with at most '
                f"{WIDTH} channels, got records of shape {tuple(shape)}"
            )
        self.shape = tuple(shape)
        self.image = tuple(shape) if len(shape) == 3 else (1, *shape)
        colours, height, width = self.image
        self.decoded_shape = (WIDTH, height, width)
        self.layers = nn.ModuleList(
            GatedLayer(WIDTH if k else colours, colours, first=k == 0) for k in range(N_LAYERS)
        )
        self.hidden = ColourConv(WIDTH, WIDTH, 1, colours)
        self.out = ColourConv(WIDTH, LEVELS * colours, 1, colours)

    def nll(self, X: Tensor, decoded: Tensor) -> Tensor:
        """Cross-entropy of every value's grey level."""
        image = X.reshape(len(X), *self.image)
        levels = (image * (LEVELS - 1)).round().long()
        return F.cross_entropy(self.logits(image, decoded), levels, reduction="none").reshape(
            X.shape
        )

    def logits(self, image: Tensor, decoded: Tensor) -> Tensor:
        """Of each grey level of each value, (n, 256, channels, height, width)."""
        features = decoded.sigmoid()
        above = beside = 2 * image - 1
        for layer in self.layers:
            above, beside = layer(above, beside, features)
        out = self.out(F.relu(self.hidden(F.relu(beside))))
        return out.unflatten(1, (self.image[0], LEVELS)).transpose(1, 2)

    def records(self, decoded: Tensor, rng: np.random.Generator) -> Tensor:
        """Draws, value by value."""
        colours, height, width = self.image
        image = torch.zeros(len(decoded), *self.image, device=decoded.device)
        for row in range(height):
            top = max(0, row - REACH)
            features = decoded[:, :, top : row + 1]
            for column in range(width):
                for colour in range(colours):
                    logits = self.logits(image[:, :, top : row + 1], features)
                    proba = logits[:, :, colour, -1, column].softmax(1).cumsum(1)
                    u = torch.from_numpy(rng.random((len(image), 1))).to(proba)
                    level = (proba < u * proba[:, -1:]).sum(1)
                    image[:, colour, row, column] = level / (LEVELS - 1)
        return image.reshape(len(image), *self.shape)


class GatedLayer(nn.Module):
    """One layer of both stacks. In the first the pixel itself is not seen, in later ones what was made of those before it is."""

    def __init__(self, n_inputs: int, colours: int, first: bool):
        super().__init__()
        half = KERNEL // 2
        self.half, self.first = half, first
        self.vertical = nn.Conv2d(n_inputs, 2 * WIDTH, (half + 1, KERNEL))
        self.down = nn.Conv2d(2 * WIDTH, 2 * WIDTH, 1)
        self.horizontal = ColourConv(n_inputs, 2 * WIDTH, half + 1, colours, strict=first)
        self.mix = ColourConv(WIDTH, WIDTH, 1, colours)
        self.condition = nn.Conv2d(WIDTH, 4 * WIDTH, 1)

    def forward(self, above: Tensor, beside: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        to_vertical, to_horizontal = self.condition(features).chunk(2, 1)
        rows = self.vertical(F.pad(above, (self.half, self.half, self.half, 0)))
        shifted = F.pad(rows, (0, 0, 1, 0))[
            :, :, :-1
        ]  # the row of the pixel itself is no row above it
        line = self.horizontal(F.pad(beside, (self.half, 0))) + self.down(shifted)
        mixed = self.mix(gate(line + to_horizontal))
        return gate(rows + to_vertical), mixed if self.first else beside + mixed


class ColourConv(nn.Conv2d):
    """Convolution over a pixel and those to its left, in which a colour sees of its own pixel only the colours up to itself.

    Channels belong to the colours in equal parts, in order; the two halves of a gate each do. ``strict``: the colours before itself.
    """

    def __init__(self, n_inputs: int, n_outputs: int, width: int, colours: int, strict=False):
        super().__init__(n_inputs, n_outputs, (1, width))
        gates = 2 if n_outputs == 2 * WIDTH else 1
        of_input = torch.arange(n_inputs) * colours // n_inputs
        of_output = (torch.arange(n_outputs // gates) * colours // (n_outputs // gates)).repeat(
            gates
        )
        seen = of_input[None] + int(strict) <= of_output[:, None]
        mask = torch.ones_like(self.weight)
        mask[:, :, 0, -1] = seen.float()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, X: Tensor) -> Tensor:
        return self._conv_forward(X, self.weight * self.mask, self.bias)


def gate(values: Tensor) -> Tensor:
    """tanh of one half of the channels times the sigmoid of the other."""
    f, g = values.chunk(2, 1)
    return f.tanh() * g.sigmoid()
