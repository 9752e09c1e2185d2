r"""Images of which everything is known: Gaussian classes in a latent space behind a fixed random decoder.

A class c has latents :math:`z \sim N(\delta e_c, I_d)`, with :math:`e_c` the c-th of d orthonormal directions, and an image is
:math:`x = \sigma(W_2 \tanh(W_1 z))` with random :math:`W_1, W_2` of full column rank, so that x determines z and the two problems
have the same Bayes error. For equally likely classes the best rule takes the largest :math:`z_c`, and errs with probability

.. math:: 1 - \int \varphi(t - \delta)\, \Phi(t)^{C - 1}\, dt .

Further classes of the same kind, along further directions, are unknown to the learner.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.ndimage import gaussian_filter
from scipy.special import expit
from scipy.stats import norm, ortho_group
from sklearn.utils import Bunch

from .._validation import (
    RandomState,
    as_generator,
    check_choice,
    check_integer,
    check_number,
)

CORRUPTIONS = ("noise", "blur", "inversion", "occlusion", "uniform", "foreign")
DECODER_SEED = 20_230  # the decoder is part of the problem, not of the sample


def make_latent_classes(
    n_per_class: int = 100,
    n_classes: int = 10,
    n_unknown: int = 2,
    latent_dim: int = 16,
    image_size: int = 14,
    separation: float = 5.0,
    random_state: RandomState = None,
) -> Bunch:
    """Simulate grey images of Gaussian classes, known and unknown.

    Parameters
    ----------
    n_per_class : int >= 1, default=100
    n_classes : int >= 1, default=10
    n_unknown : int >= 0, default=2
        Further classes, of which as many images each are drawn.
    latent_dim : int, default=16
        At least ``n_classes + n_unknown``.
    image_size : int, default=14
        Pixels along a side; ``image_size**2`` is at least `latent_dim`.
    separation : float > 0, default=5.0
        Distance of each class mean from the origin, in standard deviations; two means are sqrt(2) times as far apart.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Fixes the latents. The decoder depends on the sizes alone, so that samples with other seeds are of the same problem.

    Returns
    -------
    Bunch
        ``data``, shape (n_classes * n_per_class, image_size**2), in [0, 1]; ``target``, the classes in random order;
        ``latent``, shape (n, latent_dim); ``unknown`` and ``unknown_target`` (from n_classes on) for the unknown ones;
        ``means``, shape (n_classes + n_unknown, latent_dim); ``bayes_error``, of the known classes.

    Raises
    ------
    ValueError
        For sizes that do not fit.

    Examples
    --------
    >>> from statml.datasets import make_latent_classes
    >>> images = make_latent_classes(n_per_class=20, random_state=0)
    >>> images.data.shape, images.unknown.shape, round(images.bayes_error, 4)
    ((200, 196), (40, 196), 0.0017)
    """
    n_per_class = check_integer("n_per_class", n_per_class, low=1)
    n_classes = check_integer("n_classes", n_classes, low=1)
    n_unknown = check_integer("n_unknown", n_unknown, low=0)
    latent_dim = check_integer("latent_dim", latent_dim, low=n_classes + n_unknown)
    image_size = check_integer("image_size", image_size, low=int(np.ceil(np.sqrt(latent_dim))))
    separation = check_number("separation", separation, 0, low_open=True)
    rng = as_generator(random_state)

    fixed = np.random.default_rng([DECODER_SEED, latent_dim, image_size])
    directions = ortho_group.rvs(latent_dim, random_state=fixed) if latent_dim > 1 else np.eye(1)
    means = separation * directions[: n_classes + n_unknown]
    width = max(2 * latent_dim, 32)
    first = fixed.normal(size=(latent_dim, width)) * 0.5 / np.sqrt(latent_dim)
    second = fixed.normal(size=(width, image_size**2)) * 6 / np.sqrt(width)

    target = rng.permutation(np.repeat(np.arange(n_classes), n_per_class))
    unknown_target = rng.permutation(np.repeat(n_classes + np.arange(n_unknown), n_per_class))
    labels = np.concatenate([target, unknown_target])
    latent = means[labels] + rng.normal(size=(len(labels), latent_dim))
    images = expit(np.tanh(latent @ first) @ second)
    return Bunch(
        data=images[: len(target)],
        target=target,
        latent=latent[: len(target)],
        unknown=images[len(target) :],
        unknown_target=unknown_target,
        means=means,
        bayes_error=_bayes_error(separation, n_classes),
    )


def corrupt_images(
    images: ArrayLike,
    kind: str,
    strength: float = 0.5,
    *,
    foreign: ArrayLike | None = None,
    random_state: RandomState = None,
) -> NDArray[np.float64]:
    """Spoil images.

    Parameters
    ----------
    images : array-like of shape (n, side**2) or (n, side, side)
        In [0, 1].
    kind : {"noise", "blur", "inversion", "occlusion", "uniform", "foreign"}
        Gaussian noise of standard deviation `strength`; Gaussian blur of `strength` times an eighth of the side; a mixture of
        the image and its negative, of which `strength` is the share; a black square, at random, with `strength` times the side as its
        side; a mixture with uniform noise; a mixture with images of another kind, drawn from `foreign`.
    strength : float in [0, 1], default=0.5
        0 changes nothing; 1 of "inversion", "uniform" and "foreign" leaves nothing of the image.
    foreign : array-like of shape (m, side**2) or (m, side, side), optional
        For "foreign".
    random_state : int, SeedSequence, Generator, RandomState or None, default=None

    Returns
    -------
    ndarray of the shape of `images`
        In [0, 1].

    Raises
    ------
    ValueError
        For images outside [0, 1] or not square, or a missing or different `foreign`.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.datasets import corrupt_images
    >>> corrupt_images(np.array([[0.0, 1.0, 0.25, 0.5]]), "inversion", 1.0)
    array([[1.  , 0.  , 0.75, 0.5 ]])
    """
    check_choice("kind", kind, CORRUPTIONS)
    strength = check_number("strength", strength, 0, 1)
    square = _as_square("images", images)
    n, side, _ = square.shape
    rng = as_generator(random_state)
    if kind == "noise":
        spoiled = square + strength * rng.normal(size=square.shape)
    elif kind == "blur":
        sigma = strength * side / 8
        spoiled = gaussian_filter(square, (0, sigma, sigma), mode="nearest") if sigma else square
    elif kind == "inversion":
        spoiled = (1 - strength) * square + strength * (1 - square)
    elif kind == "occlusion":
        width = round(strength * side)
        corner = rng.integers(side - width + 1, size=(n, 2, 1))
        inside = (np.arange(side) >= corner) & (np.arange(side) < corner + width)
        spoiled = np.where(inside[:, 0, :, None] & inside[:, 1, None, :], 0.0, square)
    elif kind == "uniform":
        spoiled = (1 - strength) * square + strength * rng.uniform(size=square.shape)
    else:
        if foreign is None:
            raise ValueError('kind "foreign" needs foreign images, got None')
        others = _as_square("foreign", foreign)
        if others.shape[1:] != square.shape[1:] or len(others) == 0:
            raise ValueError(
                f"foreign must hold images of {side} x {side} pixels, got an array of shape {others.shape}"
            )
        spoiled = (1 - strength) * square + strength * others[rng.integers(len(others), size=n)]
    return np.clip(spoiled, 0, 1).reshape(np.shape(images))


def _as_square(name: str, images: ArrayLike) -> NDArray[np.float64]:
    images = np.asarray(images, dtype=float)
    side = round(np.sqrt(images[0].size)) if images.ndim in (2, 3) and len(images) else 0
    if side == 0 or images.shape[1:] not in ((side, side), (side**2,)):
        raise ValueError(
            f"{name} must have shape (n, side, side) or (n, side**2) with n >= 1, got {images.shape}"
        )
    if not ((images >= 0) & (images <= 1)).all():
        raise ValueError(f"{name} must lie in [0, 1]")
    return images.reshape(-1, side, side)


def _bayes_error(separation: float, n_classes: int) -> float:
    if n_classes == 1:
        return 0.0
    right, _ = quad(
        lambda t: norm.pdf(t - separation) * norm.cdf(t) ** (n_classes - 1),
        separation - 10,
        separation + 10,
    )
    return float(1 - right)
