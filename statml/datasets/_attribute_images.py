r"""Images whose nuisances are known: one coloured object a scene, and CIFAR-10 under corruptions.

`make_attribute_images` renders scenes in the manner of CLEVR-Singles: one object in one of CLEVR's eight colours (the class),
with six attributes a in [-1, 1] that say nothing about the class. With pixel centres (u, v) in [-1, 1] x [-1, 1], v downwards,

    centre   (0.4 a_x, 0.4 a_y)                      radius      r = 0.34 · 2^(a_size / 2)
    distance d = (1 - t) sqrt(u'^2 + v'^2) + t max(|u'|, |v'|),  t = (1 + a_shape) / 2, (u', v') seen from the centre
    cover    m = sigmoid((r - d) / 0.04)             shade       s = 0.63 exp(0.45 a_light) exp(-0.3 (d / r)^2)
    pixel    m s · rgb + (1 - m) (0.5 + 0.4 a_background)

or, of hard scenes, with smaller objects and more of everything else,

    centre   (0.6 a_x, 0.6 a_y)                      radius      r = 0.22 · 2^(0.7 a_size)
    shade    s = 0.49 exp(0.7 a_light) exp(-0.3 (d / r)^2)       floor       0.5 + 0.45 a_background

so that a_shape leads from a disc (-1) to a square (1). Every pixel lies in [0, 1] without clipping, and is differentiable in the
attributes: `statml.adapters.attribute_robust.AttributeRenderer` is the same formula in torch.

References
----------
Gokhale, T., Anirudh, R., Kailkhura, B., Thiagarajan, J. J., Baral, C. and Yang, Y. (2021). Attribute-guided adversarial
training for robustness to natural perturbations. AAAI Conference on Artificial Intelligence.
Johnson, J. et al. (2017). CLEVR: a diagnostic dataset for compositional language and elementary visual reasoning. CVPR.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from .._validation import RandomState, as_generator, check_choice, check_integer, check_number
from ._base import fetch_file

SCENE_ATTRIBUTES = ("shape", "size", "x", "y", "light", "background")
# CLEVR's table
SCENE_COLOURS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
# reach of the centre, radius, powers of 2 of the size, shade, its exponent of the light, reach of the floor
PLAIN, HARD = (0.4, 0.34, 0.5, 0.63, 0.45, 0.4), (0.6, 0.22, 0.7, 0.49, 0.7, 0.45)
SOFTNESS = 0.04  # of the object's edge, in half-widths of the image


def make_attribute_images(
    n: int = 1500,
    attributes: Sequence[str] | None = None,
    *,
    source: float = 0.3,
    size: int = 24,
    hard: bool = False,
    random_state: RandomState = None,
) -> Bunch:
    """Scenes of one object, whose colour is to be told whatever its shape, size, place, light and background.

    Parameters
    ----------
    n : int, default=1500
        Number of images; the classes are drawn uniformly.
    attributes : sequence of str or None, default=None
        Names of the attributes that vary, of "shape", "size", "x", "y", "light" and "background"; None means all. The others
        are 0.
    source : float, default=0.3
        Those that vary are uniform on [-source, source]. The whole domain is 1: train on 0.3, test on 1.
    size : int, default=24
        Height and width in pixels.
    hard : bool, default=False
        Smaller objects, and places, light and backgrounds that vary more.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Equal seeds and sizes give the same classes and the same draws, stretched by `source`.

    Returns
    -------
    sklearn.utils.Bunch
        images : ndarray of float32, shape (n, 3, size, size), in [0, 1];
        target : ndarray of int64, shape (n,), the colour; target_names : list of its 8 names;
        attributes : ndarray of float64, shape (n, 6); attribute_names : list of str.

    Raises
    ------
    ValueError
        If an attribute is unknown or named twice, or a number is out of range.

    References
    ----------
    See the module's docstring, which gives the formula of a pixel.

    Examples
    --------
    >>> from statml.datasets import make_attribute_images
    >>> scenes = make_attribute_images(5, random_state=0)
    >>> scenes.images.shape, [scenes.target_names[k] for k in scenes.target]
    ((5, 3, 24, 24), ['cyan', 'purple', 'brown', 'blue', 'blue'])
    """
    n, size = check_integer("n", n, low=1), check_integer("size", size, low=4)
    source = check_number("source", source, 0, 1)
    names = SCENE_ATTRIBUTES if attributes is None else tuple(attributes)
    for name in names:
        check_choice("each of attributes", name, SCENE_ATTRIBUTES)
    if len(set(names)) < len(names):
        raise ValueError(f"attributes must be named once each, got {names}")
    rng = as_generator(random_state)
    target = rng.integers(len(SCENE_COLOURS), size=n)
    values = source * rng.uniform(-1, 1, (n, len(SCENE_ATTRIBUTES)))
    values[:, [name not in names for name in SCENE_ATTRIBUTES]] = 0.0
    rgb = np.array(list(SCENE_COLOURS.values()))[target] / 255
    return Bunch(
        images=render_scenes(values, rgb, size, hard=hard).astype(np.float32),
        target=target,
        target_names=list(SCENE_COLOURS),
        attributes=values,
        attribute_names=list(SCENE_ATTRIBUTES),
    )


def render_scenes(
    attributes: Any, rgb: Any, size: int, xp: Any = np, where: Any = None, hard: bool = False
) -> Any:
    """The pixels of scenes; one formula for numpy and torch.

    Parameters
    ----------
    attributes : array of shape (n, 6)
        In the order of `SCENE_ATTRIBUTES`, in [-1, 1].
    rgb : array of shape (n, 3)
        Colour of the object, in [0, 1].
    size : int
        Height and width in pixels.
    xp : module, default=numpy
        numpy or torch, of which the arrays are.
    where : dict, optional
        ``dtype`` and ``device`` of a torch computation.
    hard : bool, default=False
        As in `make_attribute_images`.

    Returns
    -------
    array of shape (n, 3, size, size)
    """
    shape, scale, x, y, light, background = (attributes[:, k, None, None] for k in range(6))
    reach, radius, power, bright, glow, floors = HARD if hard else PLAIN
    centres = (2 * xp.arange(size, **(where or {})) + 1) / size - 1
    u, v = centres[None, None, :] - reach * x, centres[None, :, None] - reach * y
    t = (1 + shape) / 2
    # the small number keeps the root differentiable at the centre
    d = (1 - t) * xp.sqrt(u**2 + v**2 + 1e-8) + t * xp.maximum(abs(u) + 0 * v, abs(v) + 0 * u)
    r = radius * 2 ** (power * scale)
    cover = 1 / (1 + xp.exp((d - r) / SOFTNESS))
    shade = bright * xp.exp(glow * light - 0.3 * (d / r) ** 2)
    floor = (1 - cover) * (0.5 + floors * background)
    return (cover * shade)[:, None] * rgb[:, :, None, None] + floor[:, None]


CIFAR10C = (
    "CIFAR-10-C.tar",
    "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
    "c72763e101c723b7c507b96205f7e938912a5d587376173b825850cf3cb876a7",
)
CIFAR10C_CORRUPTIONS = (
    "brightness",
    "contrast",
    "defocus_blur",
    "elastic_transform",
    "fog",
    "frost",
    "gaussian_blur",
    "gaussian_noise",
    "glass_blur",
    "impulse_noise",
    "jpeg_compression",
    "motion_blur",
    "pixelate",
    "saturate",
    "shot_noise",
    "snow",
    "spatter",
    "speckle_noise",
    "zoom_blur",
)
N_CIFAR10C = 10_000  # images of one severity


def fetch_cifar10c(
    corruption: str, severity: int, data_home: str | os.PathLike | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The 10,000 test images of CIFAR-10 under one corruption (CIFAR-10-C).

    Parameters
    ----------
    corruption : str
        "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
        "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression", or one of the four
        held for validation: "speckle_noise", "gaussian_blur", "spatter", "saturate".
    severity : int
        1 to 5.
    data_home : path or None, default=None
        Cache folder, as in `statml.datasets`. The archive of 2.9 GB stays packed; its checksum is compared on every call,
        which takes seconds.

    Returns
    -------
    images : ndarray of uint8, shape (10000, 3, 32, 32)
    labels : ndarray of uint8, shape (10000,)
        0 airplane, 1 automobile, 2 bird, 3 cat, 4 deer, 5 dog, 6 frog, 7 horse, 8 ship, 9 truck.

    Raises
    ------
    OSError
        If the archive is in no folder and cannot be downloaded.
    ValueError
        If its checksum is wrong, or there is no such corruption or severity.

    References
    ----------
    Hendrycks, D. and Dietterich, T. (2019). Benchmarking neural network robustness to common corruptions and perturbations.
    International Conference on Learning Representations. CC BY 4.0.
    """
    check_choice("corruption", corruption, CIFAR10C_CORRUPTIONS)
    severity = check_integer("severity", severity, 1, 5)
    path = fetch_file(*CIFAR10C, data_home)
    start = (severity - 1) * N_CIFAR10C
    with tarfile.open(path) as archive:
        images = _rows(archive, corruption, start)
        labels = _rows(archive, "labels", start)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels


def _rows(archive: tarfile.TarFile, name: str, start: int) -> NDArray[np.uint8]:
    """`N_CIFAR10C` rows of an array in the archive, without reading the others."""
    file = archive.extractfile(f"CIFAR-10-C/{name}.npy")
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    (_, *shape), _, dtype = read_header(file)
    row = int(np.prod(shape)) * dtype.itemsize
    file.seek(start * row, 1)
    values = np.frombuffer(file.read(N_CIFAR10C * row), dtype).reshape(N_CIFAR10C, *shape)
    return values.astype(np.uint8)
