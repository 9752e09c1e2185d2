r"""The exact renderer of the scenes of `statml.datasets.make_attribute_images`, as an attribute of images.

G(x, alpha') is the scene of x with other attributes: what an image-editing network only approximates, without an error and with
the true derivative in alpha'. All that a scene has beyond its attributes is its colour, which is read from the image: floor and
light change all channels alike or in proportion, so that the colours of a pixel less its smallest one point the way of the object's.

References
----------
Gokhale, T. et al. (2021). Attribute-guided adversarial training for robustness to natural perturbations. AAAI (first setting).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from statml._validation import check_choice
from statml.datasets._attribute_images import SCENE_ATTRIBUTES, SCENE_COLOURS, render_scenes

from .attribute import Attribute

GREY = 1e-3  # a coloured object differs by 0.1 among its channels
TOLERANCE = 0.02  # of the direction of a colour; those of CLEVR's table are 0.3 apart


class AttributeRenderer(Attribute):
    """Shape, size, place, light and background of a scene of one object, set anew.

    Parameters
    ----------
    low : float or sequence of k floats, default=1.0
        Without `high`, every attribute is between -low and low; [-1, 1] is the whole domain.
    high : float or sequence of k floats, optional
    attributes : sequence of str or None, default=None
        Those that are set, as in `make_attribute_images`; None means all six. The others become 0, their value where they
        do not vary.
    hard : bool, default=False
        Of hard scenes, see `make_attribute_images`.

    Notes
    -----
    The values take the place of the image's own attributes, so that there is no value at which every image stays as it is: `clean` is the middle
    of the source domain, 0.

    Raises
    ------
    ValueError
        If the box leaves [-1, 1], or, from `apply`, if images are no such scenes (noise, other colours).

    Examples
    --------
    >>> import torch
    >>> from statml.datasets import make_attribute_images
    >>> from statml.adapters.attribute_robust import AttributeRenderer
    >>> scenes = make_attribute_images(3, random_state=0)
    >>> x, values = torch.from_numpy(scenes.images), torch.from_numpy(scenes.attributes).float()
    >>> torch.allclose(AttributeRenderer().apply(x, values), x, atol=1e-6)
    True
    """

    kind, channels, value_range, limits = "images", 3, (0.0, 1.0), (-1.0, 1.0)

    def __init__(
        self,
        low: float | Sequence[float] = 1.0,
        high: float | Sequence[float] | None = None,
        attributes: Sequence[str] | None = None,
        hard: bool = False,
    ):
        self.names = SCENE_ATTRIBUTES if attributes is None else tuple(attributes)
        for name in self.names:
            check_choice("each of attributes", name, SCENE_ATTRIBUTES)
        self.units = ("of the domain",) * len(self.names)
        self.hard = hard
        self.clean = (0.0,) * len(self.names)
        super().__init__(low, high)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, attributes={self.names}{', hard=True' * self.hard})"

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        if shape[2] != shape[3]:
            raise ValueError(
                f"AttributeRenderer takes square images, got X of shape {tuple(shape)}"
            )

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        where = {"dtype": value.dtype, "device": value.device}
        columns = [
            value[:, self.names.index(name)] if name in self.names else torch.zeros(len(x), **where)
            for name in SCENE_ATTRIBUTES
        ]
        table = torch.tensor(list(SCENE_COLOURS.values()), **where) / 255
        scenes = render_scenes(
            torch.stack(columns, 1),
            table[scene_colours(x)],
            x.shape[-1],
            torch,
            where,
            hard=self.hard,
        )
        return scenes.to(x.dtype)


def scene_colours(x: Tensor) -> Tensor:
    """The colour of the object in each scene, as an index into CLEVR's table.

    Parameters
    ----------
    x : Tensor of shape (n, 3, size, size)

    Returns
    -------
    Tensor of int64, shape (n,)

    Raises
    ------
    ValueError
        If an image holds another colour.
    """
    pixels = x.detach().flatten(2).mT
    spread, where = (pixels.amax(-1) - pixels.amin(-1)).max(1)
    brightest = pixels[torch.arange(len(x), device=x.device), where]
    table = torch.tensor(list(SCENE_COLOURS.values()), dtype=x.dtype, device=x.device)
    distance, index = torch.cdist(_direction(brightest), _direction(table)[1:]).min(1)
    grey = spread < GREY
    if (distance[~grey] > TOLERANCE).any():
        raise ValueError(
            "AttributeRenderer takes the scenes of make_attribute_images as they are; the images hold other colours, or "
            "were changed (by noise, say)"
        )
    return torch.where(grey, 0, index + 1)


def _direction(colours: Tensor) -> Tensor:
    """Which way a colour leaves grey."""
    rest = colours - colours.amin(-1, keepdim=True)
    return rest / rest.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(rest.dtype).tiny)
