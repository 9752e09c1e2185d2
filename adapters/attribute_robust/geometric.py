r"""Geometric attributes: images turned, moved, scaled and sheared, in one resampling.

Each attribute is an affine map of the plane, written as the 3 x 3 matrix M from a place in the output to the place in the input
that is seen there, in pixels from the centre of the image (x to the right, y down):

=============== ======================= ======================== =====================
attribute       positive values         units                    M
=============== ======================= ======================== =====================
`Rotation`      turn counter-clockwise  degrees                  [c, -s; s, c]
`Translate`     move right, down        shares of width, height  x - t_x W, y - t_y H
`Scale`         above 1 enlarge         factor                   x / s, y / s
`Shear`         top leans to the right  degrees                  x + y tan(phi)
=============== ======================= ======================== =====================

Attributes that follow one another in a chain multiply, x'(p) = x(M_1 M_2 ... p), so that an image is interpolated once (bilinear)
however many there are. Parameters at their clean values return the image bit for bit.
The surrogate of Gokhale et al. (2021) in their second setting, after the spatial transformers of Jaderberg et al. (2015).

References
----------
Gokhale, T. et al. (2021). Attribute-guided adversarial training for robustness to natural perturbations. AAAI.
Jaderberg, M., Simonyan, K., Zisserman, A. and Kavukcuoglu, K. (2015). Spatial transformer networks. NeurIPS.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from statml._validation import check_choice

from .attribute import Attribute

PADDINGS = ("zeros", "border", "reflection")


def compose(x: Tensor, attributes: Sequence[Affine], values: Sequence[Tensor]) -> Tensor:
    """Affine attributes one after the other, in one resampling.

    Parameters
    ----------
    x : Tensor of shape (n, channels, height, width)
    attributes : sequence of Affine
        In the order in which they are applied. Those whose paddings differ are resampled one after the other.
    values : sequence of Tensor of shape (n, k)
        Of each of them.

    Returns
    -------
    Tensor of the shape of x
    """
    height, width = x.shape[2:]
    links = zip(attributes, values, strict=True)
    for padding, group in groupby(links, lambda link: link[0].padding):
        whole = None
        for attribute, value in group:  # maps lead from output to input: the last one is used first
            matrix = attribute.matrix(value, height, width)
            whole = matrix if whole is None else whole @ matrix
        x = affine_warp(x, affine_theta(whole, height, width), padding)
    return x


class Affine(Attribute):
    """An attribute that is an affine map of the plane; neighbours in a chain are multiplied.

    Parameters
    ----------
    low, high : float or sequence of k floats
        As in `Attribute`.
    padding : {"zeros", "border", "reflection"}, default="zeros"
        What is seen beyond the border. Where the background is not 0, "zeros" paints corners that tell how far an image was
        turned.
    """

    kind = "images"
    together = compose

    def __init__(
        self,
        low: float | Sequence[float],
        high: float | Sequence[float] | None = None,
        padding: str = "zeros",
    ):
        super().__init__(low, high)
        self.padding = check_choice("padding", padding, PADDINGS)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, padding={self.padding!r})"

    def matrix(self, value: Tensor, height: int, width: int) -> Tensor:
        """Maps from output to input in pixels from the centre, shape (n, 3, 3), of values of shape (n, k)."""
        raise NotImplementedError

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return compose(x, [self], [value])


class Rotation(Affine):
    """The image turned counter-clockwise about its centre.

    Parameters
    ----------
    low : float
        Degrees; without `high`, the box is from -low to low. Beyond 90 degrees a fit warns that the class may change: at 180 a 6 is a 9.
    high : float, optional
    padding : {"zeros", "border", "reflection"}, default="zeros"
        What is seen beyond the border.

    Examples
    --------
    >>> import torch
    >>> from statml.adapters.attribute_robust import Rotation
    >>> quarter = Rotation(90).apply(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[90.0]]))
    >>> quarter[0, 0].round().tolist()
    [[2.0, 4.0], [1.0, 3.0]]
    """

    names, units, clean = ("rotation",), ("degrees",), (0.0,)
    label_safe = (-90.0, 90.0)

    def matrix(self, value: Tensor, height: int, width: int) -> Tensor:
        return rotation_matrix(value[:, 0])


class Translate(Affine):
    """The image moved, to the right and down by shares of its width and height.

    Parameters
    ----------
    low : float or (float, float)
        Shares of the width and of the height; without `high`, the box is from -low to low. 0.15 of 28 pixels are 4.2 pixels. Beyond 0.5
        what was in the middle leaves the image.
    high : float or (float, float), optional
    padding : {"zeros", "border", "reflection"}, default="zeros"
        What is seen beyond the border.
    """

    names, units, clean = ("right", "down"), ("widths", "heights"), (0.0, 0.0)
    label_safe = (-0.5, 0.5)

    def matrix(self, value: Tensor, height: int, width: int) -> Tensor:
        return translation_matrix(value[:, 0] * width, value[:, 1] * height)


class Scale(Affine):
    """The image enlarged about its centre.

    Parameters
    ----------
    low : float
        Factor of at least 0.01, above 1 enlarges; without `high`, the box is from 1 - low to 1 + low.
    high : float, optional
    padding : {"zeros", "border", "reflection"}, default="zeros"
        What is seen beyond the border.
    """

    names, units, clean = ("scale",), ("factor",), (1.0,)
    limits = (0.01, 100.0)

    def matrix(self, value: Tensor, height: int, width: int) -> Tensor:
        return scale_matrix(value[:, 0])


class Shear(Affine):
    """The image sheared horizontally: for positive angles its upper part leans to the right.

    Parameters
    ----------
    low : float
        Degrees, at most 85; without `high`, the box is from -low to low.
    high : float, optional
    padding : {"zeros", "border", "reflection"}, default="zeros"
        What is seen beyond the border.
    """

    names, units, clean = ("shear",), ("degrees",), (0.0,)
    limits = (-85.0, 85.0)

    def matrix(self, value: Tensor, height: int, width: int) -> Tensor:
        return shear_matrix(value[:, 0])


def affine_warp(x: Tensor, theta: Tensor, padding: str = "zeros") -> Tensor:
    """Images seen through affine maps; differentiable in both.

    Parameters
    ----------
    x : Tensor of shape (n, channels, height, width)
    theta : Tensor of shape (n, 2, 3)
        From a place in the output to the place in the input, in torch's coordinates: the image reaches from -1 to 1, border to
        border (``align_corners=False``). A third column of 2 / width moves the image one pixel to the left.
    padding : {"zeros", "border", "reflection"}, default="zeros"
        What is seen beyond the border.

    Returns
    -------
    Tensor of the shape of x
        Records with the identity as map are the input bit for bit.
    """
    n, _, height, width = x.shape
    u, v = _centres(width, theta), _centres(height, theta)
    # torch's affine_grid costs more than the sampling; here a row of the grid is (1, v) times two rows of the map
    along = u[:, None] * theta[:, None, :, 0] + theta[:, None, :, 2]
    rows = torch.stack([along, theta[:, None, :, 1].expand_as(along)], 1).flatten(2)
    grid = torch.stack([torch.ones_like(v), v], 1) @ rows
    grid = grid.view(n, height, width, 2)
    warped = F.grid_sample(x, grid, padding_mode=padding, align_corners=False)
    same = (theta == torch.eye(2, 3, dtype=theta.dtype, device=theta.device)).flatten(1).all(1)
    return _Exactly.apply(warped, x, same[:, None, None, None]) if same.any() else warped


def _centres(size: int, like: Tensor) -> Tensor:
    """Centres of the pixels along a side that reaches from -1 to 1."""
    return (2 * torch.arange(size, dtype=like.dtype, device=like.device) + 1) / size - 1


class _Exactly(torch.autograd.Function):
    """x itself where `same`, with the derivatives of what it stands for: sampling rounds, even at the identity."""

    @staticmethod
    def forward(ctx, warped: Tensor, x: Tensor, same: Tensor) -> Tensor:
        return torch.where(same, x, warped)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


def affine_theta(matrix: Tensor, height: int, width: int) -> Tensor:
    """Matrices in pixels, shape (n, 3, 3), as `affine_warp` takes them, shape (n, 2, 3)."""
    units = torch.tensor(
        [[1, height / width, 2 / width], [width / height, 1, 2 / height]],
        dtype=matrix.dtype,
        device=matrix.device,
    )
    return matrix[:, :2] * units


def rotation_matrix(degrees: Tensor) -> Tensor:
    """Counter-clockwise turns, shape (n, 3, 3)."""
    turn = torch.deg2rad(degrees)
    c, s = torch.cos(turn), torch.sin(turn)
    return _matrix([[c, -s, 0], [s, c, 0]])


def translation_matrix(right: Tensor, down: Tensor) -> Tensor:
    """Moves by pixels, shape (n, 3, 3)."""
    return _matrix([[1, 0, -right], [0, 1, -down]])


def scale_matrix(factor: Tensor) -> Tensor:
    """Enlargements, shape (n, 3, 3)."""
    return _matrix([[1 / factor, 0, 0], [0, 1 / factor, 0]])


def shear_matrix(degrees: Tensor) -> Tensor:
    """Horizontal shears, shape (n, 3, 3)."""
    return _matrix([[1, torch.tan(torch.deg2rad(degrees)), 0], [0, 1, 0]])


def _matrix(rows: Sequence[Sequence[Tensor | float]]) -> Tensor:
    entries = [entry for row in (*rows, [0, 0, 1]) for entry in row]
    like = next(entry for entry in entries if isinstance(entry, Tensor))
    filled = [e if isinstance(e, Tensor) else torch.full_like(like, e) for e in entries]
    return torch.stack(filled, -1).unflatten(-1, (3, 3))
