"""Logged looks: what a sensor said from random poses, beside the truth; and how reliable that is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from statml._validation import RandomState, as_generator, check_integer, check_level

from ..fusion._fusion import check_probabilities
from ..geometry import wrap
from ..noise import Noise
from ..scenario import draw_keys
from ._sensor import Looks, Sensor

NEAREST, FARTHEST = 1.5, 9.0  # m
WIDEST_ASPECT, WIDEST_BEARING = np.radians(85.0), np.radians(15.0)


def log_looks(
    sensor: Sensor, n_classes: int, n_looks: int = 20_000, random_state: RandomState = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Look at one target each from random poses, all in view.

    Parameters
    ----------
    sensor : Sensor
    n_classes : int
        K; classes are drawn with equal chance.
    n_looks : int, default=20000
        M.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None

    Returns
    -------
    relative : array of shape (M, 3)
        Poses in the drone's frame: distance uniform on 1.5 to 9 m, aspect within 85 degrees, bearing within 15.
    classes : array of int of shape (M,)
    probabilities : array of shape (M, K)

    Examples
    --------
    >>> from statml.adapters.viewpoint import AnalyticSensor, log_looks
    >>> relative, classes, probabilities = log_looks(AnalyticSensor(), 6, 100, random_state=0)
    >>> probabilities.shape
    (100, 6)
    """
    m = check_integer("n_looks", n_looks, 1)
    rng = as_generator(random_state)
    distance = rng.uniform(NEAREST, FARTHEST, m)
    bearing = rng.uniform(-WIDEST_BEARING, WIDEST_BEARING, m)
    aspect = rng.uniform(-WIDEST_ASPECT, WIDEST_ASPECT, m)
    heading = wrap(bearing + np.pi - aspect)
    relative = np.stack([distance * np.cos(bearing), distance * np.sin(bearing), heading], -1)
    classes = rng.integers(n_classes, size=m)
    looks = Looks(
        relative[:, None],
        np.ones((m, 1), bool),
        classes[:, None],
        n_classes,
        Noise(draw_keys(rng, m)),
        np.ones(m, int),
    )
    return relative, classes, sensor.look(looks)[:, 0]


def reliability(
    probabilities: np.ndarray, classes: np.ndarray, n_bins: int = 10, level: float = 0.95
) -> pd.DataFrame:
    """How often the most probable class is right, beside how probable it was said to be.

    For single looks, or for beliefs at declaration.

    Parameters
    ----------
    probabilities : array of shape (M, K)
    classes : array of int of shape (M,)
        True classes.
    n_bins : int, default=10
        Bins of equal width of the largest probability, from 1/K to 1.
    level : float, default=0.95
        Of the Wilson intervals.

    Returns
    -------
    DataFrame
        A row for each bin that is not empty: `low`, `high`, `n`, mean `confidence`, `accuracy`, `conf_low`, `conf_high`.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.viewpoint import reliability
    >>> reliability(np.tile([0.8, 0.2], (10, 1)), np.repeat([0, 1], [8, 2])).round(2)
       low  high   n  confidence  accuracy  conf_low  conf_high
    0  0.8  0.85  10         0.8       0.8      0.49       0.94
    """
    p = check_probabilities("probabilities", probabilities)
    classes = np.asarray(classes)
    if classes.shape != p.shape[:-1]:
        raise ValueError(f"classes must have shape {p.shape[:-1]}, got {classes.shape}")
    level = check_level(level)
    confidence, right = p.max(-1), p.argmax(-1) == classes
    edges = np.linspace(1 / p.shape[-1], 1, check_integer("n_bins", n_bins, 1) + 1)
    which = np.clip(np.searchsorted(edges, confidence + 1e-12, side="right") - 1, 0, n_bins - 1)
    rows = []
    for i in np.unique(which):
        here = which == i
        n, hits = int(here.sum()), int(right[here].sum())
        low, high = proportion_confint(hits, n, 1 - level, method="wilson")
        rows.append((edges[i], edges[i + 1], n, confidence[here].mean(), hits / n, low, high))
    columns = ["low", "high", "n", "confidence", "accuracy", "conf_low", "conf_high"]
    return pd.DataFrame(rows, columns=columns)
