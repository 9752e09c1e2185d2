r"""The corruptions of CIFAR-10-C, for images of any size in [0, 1].

Seventeen of the nineteen corruptions of Hendrycks and Dietterich (2019), with the constants that made CIFAR-10-C (those of
ImageNet-C differ), each at five severities:

======================= ======================================================== ======================================
corruption              what it does                                             constants, severity 1 to 5
======================= ======================================================== ======================================
gaussian_noise          x + N(0, c²)                                             c = .04 .06 .08 .09 .10
shot_noise              Poisson(c x) / c                                         c = 500 250 100 75 50
impulse_noise           a share c of the values becomes 0 or 1                   c = .01 .02 .03 .05 .07
speckle_noise           x (1 + N(0, c²))                                         c = .06 .10 .12 .16 .20
gaussian_blur           Gaussian of sd c                                         c = .4 .6 .7 .8 1
glass_blur              pixels change places with a neighbour, between two blurs (sd, reach, rounds)
defocus_blur            3 x 3 kernel: a disc of radius r, smoothed               (r, sd)
motion_blur             half a Gaussian along a line at -45 to 45 degrees        (reach, sd)
zoom_blur               mean of the image magnified by 1, 1.01, ...              up to 1.06 1.11 1.16 1.21 1.26
fog                     plasma fractal added, range restored                     (amount, decay)
snow                    bright streaks over a whitened image                     seven numbers
brightness              c added to V of HSV                                      c = .05 .10 .15 .20 .30
contrast                deviations from a channel's mean times c                 c = .75 .5 .4 .3 .15
saturate                S of HSV becomes a S + b                                 (a, b)
elastic_transform       random affine map, then a smooth displacement            (size, smoothness, shift)
pixelate                box-resampled to a share c of the size and back          c = .95 .9 .85 .75 .65
jpeg_compression        JPEG of quality c                                        c = 80 65 58 50 40
======================= ======================================================== ======================================

Lengths are in pixels of a 32-pixel image and stay in pixels for other sizes, but those of elastic_transform, which are shares
of the size. Left out: frost, which pastes photographs, and spatter.

Where this differs from the script that made CIFAR-10-C: results are not rounded to 256 levels (but by jpeg_compression and
pixelate, which work on these); motion blur is our own rather than ImageMagick's; glass_blur exchanges the two pixels, where
the script's assignment of overlapping views copies one over the other. Published CIFAR-10-C numbers need its files:
`statml.datasets.fetch_cifar10c`.

References
----------
Hendrycks, D. and Dietterich, T. (2019). Benchmarking neural network robustness to common corruptions and perturbations.
International Conference on Learning Representations.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from statml._validation import RandomState, as_generator, check_choice, check_integer

Array = NDArray[np.float64]


def corrupt(
    images: ArrayLike, corruption: str, severity: int, random_state: RandomState = None
) -> NDArray:
    """Images under one of the corruptions of CIFAR-10-C.

    Parameters
    ----------
    images : array-like of shape (n, channels, height, width) or (n, height, width)
        One or three channels, in [0, 1].
    corruption : str
        A name of `CORRUPTIONS`; see the module's docstring.
    severity : int
        1 to 5.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None

    Returns
    -------
    ndarray
        Of the same shape, in [0, 1]; float32 where the images are, else float64.

    Raises
    ------
    ValueError
        If the images are not in [0, 1], have another number of channels, or are grey for "saturate", which would do nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.attribute_robust import corrupt
    >>> images = np.full((2, 3, 8, 8), 0.5)
    >>> corrupt(images, "brightness", severity=3)[0, :, 0, 0]
    array([0.65, 0.65, 0.65])
    """
    check_choice("corruption", corruption, CORRUPTIONS)
    severity = check_integer("severity", severity, 1, 5)
    given = np.asarray(images)
    x = np.array(given, dtype=np.float64)
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(
            "images must have shape (n, channels, height, width) with 1 or 3 channels, or (n, height, width), "
            f"got {given.shape}{_channels_last(given.shape)}"
        )
    if x.size and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], got values from {x.min():g} to {x.max():g}")
    if corruption == "saturate" and x.shape[1] == 1:
        raise ValueError('"saturate" needs images of three channels: grey ones have no saturation')
    if len(x):
        function, constants = CORRUPTIONS[corruption]
        x = np.clip(function(x, constants[severity - 1], as_generator(random_state)), 0, 1)
    return x.reshape(given.shape).astype(given.dtype if given.dtype == np.float32 else np.float64)


def _channels_last(shape: tuple[int, ...]) -> str:
    last = len(shape) == 4 and shape[-1] in (1, 3)
    return " (channels stand last: use images.transpose(0, 3, 1, 2))" if last else ""


# --- noise -------------------------------------------------------------------------------------------


def gaussian_noise(x: Array, c: float, rng: np.random.Generator) -> Array:
    return x + rng.normal(0, c, x.shape)


def shot_noise(x: Array, c: float, rng: np.random.Generator) -> Array:
    return rng.poisson(x * c) / c


def impulse_noise(x: Array, c: float, rng: np.random.Generator) -> Array:
    hit, white = rng.random(x.shape) < c, rng.random(x.shape) < 0.5
    return np.where(hit, white, x)


def speckle_noise(x: Array, c: float, rng: np.random.Generator) -> Array:
    return x + x * rng.normal(0, c, x.shape)


# --- blur --------------------------------------------------------------------------------------------


def gaussian_blur(x: Array, c: float, rng: np.random.Generator) -> Array:
    return ndimage.gaussian_filter(x, c, mode="nearest", axes=(2, 3))


def glass_blur(x: Array, c: tuple[float, int, int], rng: np.random.Generator) -> Array:
    sd, reach, rounds = c
    x = ndimage.gaussian_filter(x, sd, mode="nearest", axes=(2, 3))
    records = np.arange(len(x))
    height, width = x.shape[2:]
    for _ in range(rounds):
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                dw, dh = rng.integers(-reach, reach, (2, len(x)))
                here = x[:, :, h, w].copy()
                x[:, :, h, w] = x[records, :, h + dh, w + dw]
                x[records, :, h + dh, w + dw] = here
    return ndimage.gaussian_filter(x, sd, mode="nearest", axes=(2, 3))


def defocus_blur(x: Array, c: tuple[float, float], rng: np.random.Generator) -> Array:
    radius, sd = c
    u = np.arange(-8, 9)
    disc = (u[:, None] ** 2 + u**2 <= radius**2).astype(float)
    smooth = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sd**2))
    smooth /= smooth.sum()
    kernel = ndimage.convolve(disc / disc.sum(), np.outer(smooth, smooth), mode="mirror")
    return ndimage.convolve(x, kernel[None, None], mode="mirror")


def motion_blur(x: Array, c: tuple[int, float], rng: np.random.Generator) -> Array:
    return _streaks(x, *c, rng.uniform(-45, 45, len(x)))


def _streaks(x: Array, reach: int, sd: float, degrees: Array) -> Array:
    """Half a Gaussian along a line, one angle an image: the mean of shifted images, to the nearest pixel."""
    steps = np.arange(2 * reach + 1)
    weights = np.exp(-(steps**2) / (2 * sd**2))
    weights /= weights.sum()
    turn = np.deg2rad(degrees)[:, None]
    down = np.rint(steps * np.sin(turn)).astype(int)
    right = np.rint(steps * np.cos(turn)).astype(int)
    height, width = x.shape[2:]
    records, channels = np.arange(len(x))[:, None, None, None], np.arange(x.shape[1])[:, None, None]
    out = np.zeros_like(x)
    for k, weight in enumerate(weights):
        rows = np.clip(np.arange(height) + down[:, k, None], 0, height - 1)[:, None, :, None]
        columns = np.clip(np.arange(width) + right[:, k, None], 0, width - 1)[:, None, None, :]
        out += weight * x[records, channels, rows, columns]
    return out


def zoom_blur(x: Array, c: float, rng: np.random.Generator) -> Array:
    factors = np.arange(1, c, 0.01)
    return (x + sum(_magnified(x, factor) for factor in factors)) / (len(factors) + 1)


def _magnified(x: Array, factor: float) -> Array:
    """The middle of the images, magnified to the whole size (bilinear)."""
    return ndimage.affine_transform(
        x,
        np.array([1, 1, 1 / factor, 1 / factor]),
        [0, 0, *((s - 1) / 2 * (1 - 1 / factor) for s in x.shape[2:])],
        order=1,
        mode="nearest",
    )


# --- weather -----------------------------------------------------------------------------------------


def fog(x: Array, c: tuple[float, float], rng: np.random.Generator) -> Array:
    amount, decay = c
    height, width = x.shape[2:]
    size = max(32, 1 << (max(height, width) - 1).bit_length())
    plasma = np.stack([_plasma(size, decay, rng) for _ in x])[:, None, :height, :width]
    top = x.max(axis=(1, 2, 3), keepdims=True)
    return (x + amount * plasma) * top / (top + amount)


def _plasma(size: int, decay: float, rng: np.random.Generator) -> Array:
    """Plasma fractal by diamonds and squares on a torus, scaled to [0, 1]; every halving divides the noise by `decay`."""
    field = np.zeros((size, size))
    step, wobble = size, 100.0
    while step > 1:
        half = step // 2
        noise = lambda n, wobble=wobble: wobble * rng.uniform(-1, 1, (n, n))  # noqa: E731
        n = size // step
        corners = field[::step, ::step]
        across = corners + np.roll(corners, -1, 1)
        centres = (across + np.roll(across, -1, 0)) / 4 + noise(n)
        field[half::step, half::step] = centres
        field[::step, half::step] = (
            corners + np.roll(corners, -1, 1) + centres + np.roll(centres, 1, 0)
        ) / 4 + noise(n)
        field[half::step, ::step] = (
            corners + np.roll(corners, -1, 0) + centres + np.roll(centres, 1, 1)
        ) / 4 + noise(n)
        step, wobble = half, wobble / decay
    field -= field.min()
    return field / field.max()


def snow(x: Array, c: tuple[float, ...], rng: np.random.Generator) -> Array:
    mean, sd, magnification, threshold, reach, blur, kept = c
    flakes = rng.normal(mean, sd, (len(x), 1, *x.shape[2:]))
    flakes = _magnified(flakes, magnification)
    flakes = np.where(flakes < threshold, 0, np.clip(flakes, 0, 1))
    flakes = _streaks(flakes, int(reach), blur, rng.uniform(-135, -45, len(x)))
    grey = np.tensordot([0.299, 0.587, 0.114], x, (0, 1))[:, None] if x.shape[1] == 3 else x
    whitened = kept * x + (1 - kept) * np.maximum(x, 1.5 * grey + 0.5)
    return whitened + flakes + flakes[:, :, ::-1, ::-1]


# --- colour ------------------------------------------------------------------------------------------


def brightness(x: Array, c: float, rng: np.random.Generator) -> Array:
    top = x.max(axis=1, keepdims=True)
    # V is the largest channel; at the same hue and saturation the others grow in proportion, and black becomes grey
    raised = np.clip(top + c, 0, 1)
    return np.where(top > 0, x / np.where(top > 0, top, 1) * raised, raised)


def contrast(x: Array, c: float, rng: np.random.Generator) -> Array:
    mean = x.mean(axis=(2, 3), keepdims=True)
    return mean + c * (x - mean)


def saturate(x: Array, c: tuple[float, float], rng: np.random.Generator) -> Array:
    factor, offset = c
    top, bottom = x.max(axis=1, keepdims=True), x.min(axis=1, keepdims=True)
    spread = top - bottom
    old = np.where(top > 0, spread / np.where(top > 0, top, 1), 0)
    new = np.clip(factor * old + offset, 0, 1)
    # a grey pixel has hue 0 (red) by convention, which an offset brings out
    red = np.array([1.0, 0.0, 0.0])[:, None, None]
    place = np.where(spread > 0, (x - bottom) / np.where(spread > 0, spread, 1), red)
    return top * (1 - new * (1 - place))


# --- digital -----------------------------------------------------------------------------------------


def elastic_transform(x: Array, c: tuple[float, float, float], rng: np.random.Generator) -> Array:
    height, width = x.shape[2:]
    side = min(height, width)
    size, smoothness, shift = (side * share for share in c)
    rows, columns = np.mgrid[:height, :width].astype(float)
    reach = side // 3
    centre = np.array([height // 2, width // 2], float)
    corners = centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    out = np.empty_like(x)
    for i in range(len(x)):
        moved = corners + rng.uniform(-shift, shift, corners.shape)
        affine = np.linalg.solve(np.c_[moved, np.ones(3)], corners)  # from output to input
        grid = np.stack([rows, columns, np.ones_like(rows)], -1) @ affine
        if size:
            for axis in (0, 1):
                noise = rng.uniform(-1, 1, (height, width))
                grid[..., axis] += size * ndimage.gaussian_filter(noise, smoothness, truncate=3)
        for channel in range(x.shape[1]):
            out[i, channel] = ndimage.map_coordinates(
                x[i, channel], grid.transpose(2, 0, 1), order=1, mode="mirror"
            )
    return out


def pixelate(x: Array, c: float, rng: np.random.Generator) -> Array:
    from PIL import Image

    box = Image.Resampling.BOX
    height, width = x.shape[2:]
    small = (max(1, int(width * c)), max(1, int(height * c)))
    return _through_pil(x, lambda image: image.resize(small, box).resize((width, height), box))


def jpeg_compression(x: Array, c: int, rng: np.random.Generator) -> Array:
    from PIL import Image

    def compressed(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=c)
        return Image.open(file)

    return _through_pil(x, compressed)


def _through_pil(x: Array, function: Callable) -> Array:
    """Each image as PIL's, in 256 levels."""
    from PIL import Image

    levels = np.rint(255 * x).astype(np.uint8).transpose(0, 2, 3, 1)
    grey = x.shape[1] == 1
    images = [Image.fromarray(image[..., 0] if grey else image) for image in levels]
    out = np.stack([np.asarray(function(image)) for image in images]) / 255
    return out[:, None] if grey else out.transpose(0, 3, 1, 2)


CORRUPTIONS: dict[str, tuple[Callable[..., Array], tuple[Any, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle_noise": (speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1)),
    "glass_blur": (
        glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    ),
    "defocus_blur": (
        defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ),
    "motion_blur": (motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": (zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "fog": (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "snow": (
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "saturate": (saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
    "elastic_transform": (
        elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40)),
}
