"""A real black box offline: targets that wear handwritten digits, seen from where the drone is."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from statml._validation import RandomState, as_generator, check_choice, check_integer, check_number

from ..geometry import distance_and_aspect, wrap

FULL_RESOLUTION = 2.9  # m, from where the plate shows all its 8 x 8 pixels
NEAREST, FARTHEST = 1.5, 9.0  # of training views, m
WIDEST_ASPECT = np.radians(85.0)
_GRID = np.arange(8.0)
_MIDDLE = 3.5


class DigitPlateRenderer:
    """Renders views of a plate with a handwritten digit (scikit-learn's, 8 x 8) on the target's front.

    At aspect psi the plate is cos psi as wide; at distance x its resolution is min(1, 2.9 / x) of 8 pixels, the rest is blur; normal noise is
    added to pixels in [0, 1]. Class c is the digit c. Views show digits of one half of the data, and the other half is for training, so that
    a classifier meets handwritings that it does not know.

    Parameters
    ----------
    n_classes : int, default=6
        Digits 0 to n_classes - 1; at most 10.
    noise : float, default=0.25
        Standard deviation of the noise.
    half : {"test", "train"}, default="test"
        Which half of the digits ``renderer(relative, classes, rng)`` shows.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.viewpoint import DigitPlateRenderer
    >>> views = DigitPlateRenderer()
    >>> views(np.array([[2.0, 0.0, np.pi]]), np.array([3]), np.random.default_rng(0)).shape
    (1, 64)
    """

    def __init__(self, n_classes: int = 6, noise: float = 0.25, half: str = "test"):
        self.n_classes = check_integer("n_classes", n_classes, 2, 10)
        self.noise = check_number("noise", noise, 0)
        self.half = check_choice("half", half, ("test", "train"))
        images, digits = load_digits(return_X_y=True)
        part = slice(1, None, 2) if half == "test" else slice(0, None, 2)
        images, digits = images[part].reshape(-1, 8, 8) / 16, digits[part]
        self._images = [images[digits == digit] for digit in range(self.n_classes)]

    def __call__(self, relative: np.ndarray, classes: np.ndarray, rng: Any) -> np.ndarray:
        """Views (M, 64) of targets of `classes` (M,) at poses `relative` (M, 3) in the drone's frame."""
        m = len(classes)
        # in a scene each target wears one handwriting all the time, so that looks at it repeat each other's errors
        draw = rng.of_target("plate") if hasattr(rng, "of_target") else rng.random((m,))
        plates = np.empty((m, 8, 8))
        for digit in np.unique(classes):
            of_digit, here = self._images[digit], classes == digit
            plates[here] = of_digit[(draw[here] * len(of_digit)).astype(int)]
        distance, aspect = distance_and_aspect(relative)
        blur = _blur(np.maximum(distance / FULL_RESOLUTION, 1.0))
        wide = blur @ _squeeze(np.maximum(np.cos(aspect), 0.05))
        seen = blur @ plates @ wide.transpose(0, 2, 1)
        return seen.reshape(m, 64) + self.noise * rng.normal(size=(m, 64))

    def training_views(
        self, n_views: int = 20_000, random_state: RandomState = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Views (M, 64) of the training half from random poses, and their classes (M,)."""
        rng = as_generator(random_state)
        m = check_integer("n_views", n_views, 1)
        distance = rng.uniform(NEAREST, FARTHEST, m)
        aspect = rng.uniform(-WIDEST_ASPECT, WIDEST_ASPECT, m)
        relative = np.stack([distance, np.zeros(m), wrap(np.pi - aspect)], -1)
        classes = rng.integers(self.n_classes, size=m)
        training = DigitPlateRenderer(self.n_classes, self.noise, half="train")
        return training(relative, classes, rng), classes

    def __repr__(self) -> str:
        return f"DigitPlateRenderer(n_classes={self.n_classes}, noise={self.noise:g}, half={self.half!r})"


def _squeeze(width: np.ndarray) -> np.ndarray:
    """Matrices (M, 8, 8) that draw a row of pixels narrower about its middle; outside the plate is dark."""
    source = (_GRID - _MIDDLE)[None] / width[:, None] + _MIDDLE
    return np.maximum(1 - np.abs(source[..., None] - _GRID), 0.0)


def _blur(factor: np.ndarray) -> np.ndarray:
    """Matrices (M, 8, 8) that average over `factor` pixels, a triangle of that half width."""
    weight = np.maximum(1 - np.abs(_GRID[:, None] - _GRID)[None] / factor[:, None, None], 0.0)
    return weight / weight.sum(-1, keepdims=True)
