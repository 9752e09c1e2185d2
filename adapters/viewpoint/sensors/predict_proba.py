"""Any classifier with ``predict_proba`` as the black box, given a renderer of what the camera sees; and its calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from statml._validation import RandomState, check_integer

from ..geometry import distance_and_aspect
from ._sensor import Looks, Sensor
from .logs import log_looks


class PredictProbaSensor(Sensor):
    """What a classifier says about rendered views.

    Parameters
    ----------
    classifier : estimator
        With ``predict_proba(X)`` of shape (M, K); column c is class c of the scene.
    renderer : callable
        ``renderer(relative, classes, rng)`` gives the M rows of X for targets of `classes` (M,) at `relative` (M, 3), metres ahead, metres to
        the left and relative heading in the drone's frame. `rng` has numpy's ``random``, ``uniform``, ``normal`` and ``integers``, whose
        `size` starts with M: row i of what it gives belongs to look i, whatever the batch; ``rng.of_target(name)`` gives M uniform numbers
        that stay the same for a target throughout the episode.
    calibration : (float, float, float), default=(0.0, 0.0, 0.0)
        (a, b, c): vectors are raised to the power exp(a + b distance + c abs(aspect)), metres and radians, and normalised, that is scaled by the
        inverse of that as a temperature. ``fit_sensor`` finds them.
    prior : array of shape (K,), default=None
        Class shares of the data that the classifier was trained on; vectors are divided by them. None: equal shares.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from statml.adapters.viewpoint import DigitPlateRenderer, PredictProbaSensor, log_looks
    >>> renderer = DigitPlateRenderer(n_classes=3)
    >>> X, y = renderer.training_views(2000, random_state=0)
    >>> sensor = PredictProbaSensor(LogisticRegression(max_iter=500).fit(X, y), renderer)
    >>> relative, classes, p = log_looks(sensor, n_classes=3, n_looks=500, random_state=0)
    >>> bool((p.argmax(1) == classes).mean() > 0.5)
    True
    """

    def __init__(
        self,
        classifier: Any,
        renderer: Callable,
        calibration: tuple[float, float, float] = (0.0, 0.0, 0.0),
        prior: np.ndarray | None = None,
    ):
        if not hasattr(classifier, "predict_proba"):
            raise TypeError(f"classifier must have predict_proba, got {classifier!r}")
        self.classifier, self.renderer = classifier, renderer
        self.calibration = tuple(float(c) for c in calibration)
        self.prior = None if prior is None else np.asarray(prior, float)

    def look(self, looks: Looks) -> np.ndarray:
        k = looks.n_classes
        evidence = np.full((*looks.classes.shape, k), 1 / k)
        e, n = np.nonzero(looks.seen)
        if not len(e):
            return evidence
        relative = looks.relative[e, n]
        X = self.renderer(relative, looks.classes[e, n], looks.noise.rows(looks.time, e, n))
        p = np.asarray(self.classifier.predict_proba(X), float)
        if p.shape != (len(e), k):
            raise ValueError(
                f"classifier must give {k} probabilities for each of {len(e)} views, got shape {p.shape}"
            )
        # float32 classifiers sum to one only nearly
        total = p.sum(-1, keepdims=True)
        if not (np.abs(total - 1) <= 1e-3).all() or p.min() < 0:
            raise ValueError(
                "classifier must give probabilities that sum to one, got a row that sums to"
                f" {float(total.flat[np.abs(total - 1).argmax()]):g}, smallest entry {p.min():g}"
            )
        evidence[e, n] = self._calibrated(p / total, relative)
        return evidence

    def _calibrated(self, p: np.ndarray, relative: np.ndarray) -> np.ndarray:
        if self.prior is not None:
            p = p / self.prior
        scaled = _powers(self.calibration, relative)[:, None] * _log(p)
        p = np.exp(scaled - scaled.max(-1, keepdims=True))
        return p / p.sum(-1, keepdims=True)

    def __repr__(self) -> str:
        shown = ", ".join(f"{c:.3g}" for c in self.calibration)
        return f"PredictProbaSensor({self.classifier!r}, calibration=({shown}))"


def fit_sensor(
    sensor: PredictProbaSensor,
    n_classes: int,
    n_looks: int = 5000,
    random_state: RandomState = None,
) -> PredictProbaSensor:
    """Calibrate a classifier as a sensor: temperature scaling (Guo et al. 2017), log-linear in distance and aspect.

    Parameters
    ----------
    sensor : PredictProbaSensor
    n_classes : int
        K.
    n_looks : int, default=5000
        Logged looks from random poses, on which (a, b, c) maximises the likelihood of the true classes.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None

    Returns
    -------
    PredictProbaSensor
        The same with its calibration; the given one is left as it was.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun and K. Weinberger, "On calibration of modern neural networks", ICML 2017.
    """
    check_integer("n_looks", n_looks, 10)
    raw = PredictProbaSensor(sensor.classifier, sensor.renderer, prior=sensor.prior)
    relative, classes, p = log_looks(raw, n_classes, n_looks, random_state)
    log_p, rows = _log(p), np.arange(len(classes))

    def loss(calibration: np.ndarray) -> float:
        scaled = _powers(calibration, relative)[:, None] * log_p
        return float((logsumexp(scaled, -1) - scaled[rows, classes]).mean())

    found = minimize(loss, np.zeros(3), method="Nelder-Mead")
    return PredictProbaSensor(sensor.classifier, sensor.renderer, tuple(found.x), sensor.prior)


def _powers(calibration: Sequence[float], relative: np.ndarray) -> np.ndarray:
    distance, aspect = distance_and_aspect(relative)
    a, b, c = calibration
    return np.exp(np.clip(a + b * distance + c * np.abs(aspect), -10, 10))


def _log(p: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(p, np.finfo(float).tiny))
