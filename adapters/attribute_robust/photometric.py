r"""Photometric attributes: light and colour of images in [0, 1].

=============== ============================================== =========== =================
attribute       x'                                             clean value units
=============== ============================================== =========== =================
`Brightness`    x + a                                          0           those of x
`Contrast`      m + a (x - m), m the mean of each channel      1           factor
`Gamma`         x^a, for x in [0, 1]                           1           exponent
`Hue`           colours turned by a about the grey axis        0           degrees
`Saturation`    l + a (x - l), l the luminance                 1           factor
=============== ============================================== =========== =================

None of them clips: a value beyond 1 keeps its derivative, where clipping would hide from a search that it may go back. `Hue` and `Saturation` take images of three
channels and keep the luminance 0.299 R + 0.587 G + 0.114 B.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .attribute import Attribute

LUMINANCE = (0.299, 0.587, 0.114)


class Brightness(Attribute):
    """Light added to every pixel: x + a.

    Parameters
    ----------
    low : float
        In the units of x; without `high`, the box is from -low to low.
    high : float, optional

    Examples
    --------
    >>> import torch
    >>> from statml.adapters.attribute_robust import Brightness
    >>> Brightness(0.3).apply(torch.full((1, 1, 1, 2), 0.5), torch.tensor([[0.25]])).tolist()
    [[[[0.75, 0.75]]]]
    """

    names, units, clean = ("brightness",), ("those of x",), (0.0,)
    kind = "images"

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return x + value[:, :, None, None]


class Contrast(Attribute):
    """Deviations from the mean of each channel, multiplied: m + a (x - m).

    Parameters
    ----------
    low : float
        Factor >= 0; without `high`, the box is from 1 - low to 1 + low. A fit warns below 0.05, where next to nothing is left of an
        image.
    high : float, optional
    """

    names, units, clean = ("contrast",), ("factor",), (1.0,)
    kind, limits, label_safe = "images", (0.0, np.inf), (0.05, np.inf)

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        # x + (a - 1)(x - m) rather than m + a (x - m), so that 1 is the identity bit for bit
        return x + (value[:, :, None, None] - 1) * (x - x.mean((2, 3), keepdim=True))


class Gamma(Attribute):
    """Tones bent by a power: x^a, for x in [0, 1]; above 1 darkens.

    Parameters
    ----------
    low : float
        Exponent of at least 0.01; without `high`, the box is from 1 - low to 1 + low.
    high : float, optional

    Notes
    -----
    Values below 0, which an attribute before it in a chain may leave, have no power and stay as they are.
    """

    names, units, clean = ("gamma",), ("exponent",), (1.0,)
    kind, limits, value_range = "images", (0.01, 100.0), (0.0, 1.0)

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return gamma_curve(x, value[:, 0])


class Hue(Attribute):
    """Colours turned about the grey axis, at the same luminance; for images of three channels.

    Parameters
    ----------
    low : float
        Degrees; without `high`, the box is from -low to low. As on the wheel of HSV, 120 degrees take red near to green.
    high : float, optional
    """

    names, units, clean = ("hue",), ("degrees",), (0.0,)
    kind, channels = "images", 3

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return turn_hue(x, value[:, 0])


class Saturation(Attribute):
    """Distances from grey of the same luminance, multiplied; for images of three channels.

    Parameters
    ----------
    low : float
        Factor >= 0, 0 is grey; without `high`, the box is from 1 - low to 1 + low.
    high : float, optional
    """

    names, units, clean = ("saturation",), ("factor",), (1.0,)
    kind, channels, limits = "images", 3, (0.0, np.inf)

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        weights = torch.tensor(LUMINANCE, dtype=x.dtype, device=x.device)[:, None, None]
        return x + (value[:, :, None, None] - 1) * (x - (weights * x).sum(1, keepdim=True))


def gamma_curve(x: Tensor, gamma: Tensor) -> Tensor:
    """x^gamma with gamma one number a record; 0 stays 0, with derivative 0."""
    positive = x > 0
    power = torch.where(positive, x, 1.0) ** gamma[:, None, None, None]
    return torch.where(positive, power, x)


def turn_hue(x: Tensor, degrees: Tensor) -> Tensor:
    """Colours turned about the grey axis at the same luminance, shape (n, 3, ...).

    In the coordinates (Y, I, Q) of NTSC the plane (I, Q) is turned; what is added is 0, bit for bit, at 0 degrees.
    """
    turn = torch.deg2rad(degrees)[:, None, None]
    to_yiq = torch.tensor(
        [LUMINANCE, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]],
        dtype=torch.float64,
    )
    back = torch.linalg.inv(to_yiq)
    # R(a) = I + (cos a - 1) P + sin a J, with P onto the plane and J a quarter turn in it
    plane = torch.diag(torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    quarter = torch.tensor([[0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)
    plane, quarter = ((back @ m @ to_yiq).to(x) for m in (plane, quarter))
    change = -2 * torch.sin(turn / 2) ** 2 * plane + torch.sin(turn) * quarter
    return x + (change @ x.flatten(2)).view_as(x)
