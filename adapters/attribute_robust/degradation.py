r"""Degradations of images: blur, noise, and the coarser ones that have no derivative.

=============== ============================================= ========================= =================
attribute       x'                                            units                     differentiable
=============== ============================================= ========================= =================
`Blur`          Gaussian of standard deviation sd             pixels                    yes
`Noise`         x + sd · xi, xi standard normal               those of x                yes, given xi
`Pixelate`      means of squares of a x a pixels              pixels                    no
`Jpeg`          JPEG of quality 100 - a                       quality lost              no
=============== ============================================= ========================= =================

Each is the image itself at its clean value: 0, or a square of 1 pixel. `Noise` is reparametrised: xi is drawn once a record and held, so that the loss is a smooth function of sd
and its derivative is that of a fixed image; fresh noise in every step of a search would only make it climb the noise.

References
----------
Gokhale, T. et al. (2021). Attribute-guided adversarial training for robustness to natural perturbations. AAAI (third setting).
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .attribute import Attribute


class Blur(Attribute):
    """Gaussian blur, mirrored at the borders.

    Parameters
    ----------
    low : float
        Standard deviation, in pixels; without `high`, the box is from 0 to low.
    high : float, optional
        At most a quarter of the shorter side of the images.

    Examples
    --------
    >>> import torch
    >>> from statml.adapters.attribute_robust import Blur
    >>> point = torch.zeros(1, 1, 9, 9)
    >>> point[0, 0, 4, 4] = 1.0
    >>> round(Blur(2.0).apply(point, torch.tensor([[1.0]])).max().item(), 4)
    0.1592
    """

    names, units, clean = ("blur",), ("pixels",), (0.0,)
    kind, limits = "images", (0.0, np.inf)

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        most = min(shape[2:]) / 4
        if self.high[0] > most:
            raise ValueError(
                f"Blur takes standard deviations of at most {most:g} pixels, a quarter of the shorter side, for X of shape "
                f"{tuple(shape)}; the box ends at {self.high[0]:g}"
            )

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return gaussian_blur(x, value[:, 0])


class Noise(Attribute):
    """Independent normal noise on every value, of images, series or tables.

    Parameters
    ----------
    low : float
        Standard deviation, in the units of x; without `high`, the box is from 0 to low.
    high : float, optional
    """

    names, units, clean = ("noise",), ("those of x",), (0.0,)
    limits = (0.0, np.inf)

    def draw_noise(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal numbers of the shape of x."""
        return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return x + value.reshape(-1, *[1] * (x.ndim - 1)) * noise


class Pixelate(Attribute):
    """Every square of a x a pixels becomes its mean, a rounded to a whole number; no derivative.

    Parameters
    ----------
    low : float
        Side of a square, in pixels, of at least 1, which is the image itself.
    high : float, optional
        Without it, the box is from 1 to 1 + low.
    """

    names, units, clean = ("pixelate",), ("pixels",), (1.0,)
    kind, limits, differentiable = "images", (1.0, np.inf), False

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        sides = value[:, 0].detach().round().clamp(min=1).long()
        out = x.clone()
        for side in sides.unique().tolist():
            if side > 1:
                records = sides == side
                out[records] = _boxes(_boxes(x[records], side).mT, side).mT
        return out


class Jpeg(Attribute):
    """JPEG compression, for images of one or three channels in [0, 1]; no derivative.

    Parameters
    ----------
    low : float
        Quality lost, 0 to 99: 60 is JPEG quality 40, 0 the image itself. Values are rounded to whole numbers, pixels to 256
        levels. Without `high`, the box is from 0 to low.
    high : float, optional
    """

    names, units, clean = ("jpeg",), ("quality lost",), (0.0,)
    kind, limits, value_range, differentiable = "images", (0.0, 99.0), (0.0, 1.0), False

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        if shape[1] not in (1, 3):
            raise ValueError(f"Jpeg takes images of 1 or 3 channels, got X of shape {tuple(shape)}")

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        quality = (100 - value[:, 0].detach().round()).long().tolist()
        levels = (255 * x.detach().clamp(0, 1)).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        out = x.clone()
        for i, q in enumerate(quality):
            if q < 100:
                out[i] = _jpeg(levels[i], q).to(x)
        return out


def _boxes(x: Tensor, side: int) -> Tensor:
    """Means over `side` places along the last axis, repeated; the last box is what is left."""
    length = x.shape[-1]
    parts = x.split(side, -1)
    return torch.cat([part.mean(-1, keepdim=True).expand_as(part) for part in parts], -1)[
        ..., :length
    ]


def _jpeg(levels: np.ndarray, quality: int) -> Tensor:
    """One image in 256 levels, shape (height, width, channels), through a JPEG file; shape (channels, height, width)."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels).save(
        file, "JPEG", quality=quality
    )
    back = torch.from_numpy(np.array(Image.open(file), dtype=np.float32)) / 255
    return back[None] if back.ndim == 2 else back.permute(2, 0, 1)


def gaussian_blur(x: Tensor, sd: Tensor) -> Tensor:
    """Records blurred by their own standard deviation; differentiable in both.

    Parameters
    ----------
    x : Tensor of shape (n, channels, height, width) or (n, channels, length)
        Mirrored at its borders.
    sd : Tensor of shape (n,)
        In pixels, at most a quarter of the shorter side. 0 leaves a record as it is, bit for bit.

    Returns
    -------
    Tensor of the shape of x
    """
    x = x @ _blur_matrix(x.shape[-1], sd)[:, None].mT
    return _blur_matrix(x.shape[-2], sd)[:, None] @ x if x.ndim == 4 else x


def _blur_matrix(size: int, sd: Tensor) -> Tensor:
    """Gaussian weights of each place on each place, shape (n, size, size)."""
    i = torch.arange(size, dtype=sd.dtype, device=sd.device)
    # a place is seen directly and in the mirrors at both ends; farther reflections are below 1e-30
    distance = torch.stack([i[:, None] - i, i[:, None] + i + 1, 2 * size - 1 - i[:, None] - i])
    # the small number makes sd = 0 the identity, with derivative 0, which is the limit
    weights = torch.exp(-(distance**2) / (2 * sd[:, None, None, None] ** 2 + 1e-12)).sum(1)
    return weights / weights.sum(-1, keepdim=True)
