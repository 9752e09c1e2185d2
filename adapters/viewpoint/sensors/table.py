"""A sensor from a table of confusion matrices by distance and aspect, as estimated from logged looks."""

from __future__ import annotations

import numpy as np

from statml._validation import RandomState, check_number

from ..fusion._fusion import check_probabilities
from ..geometry import distance_and_aspect
from ._sensor import Looks, Sensor
from .logs import log_looks

DISTANCES = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.5, 8.0)
ASPECTS = (0.0, 10.0, 20.0, 30.0, 45.0, 60.0, 80.0)


class TableSensor(Sensor):
    """Labels drawn from a confusion matrix that depends on the pose.

    Row c of the matrix at a node holds the probabilities of the labels that a look at class c gives; between nodes matrices are interpolated
    bilinearly, beyond them the nearest counts. A look draws a label l, and its vector is the likelihood of l under every class, normalised.

    Parameters
    ----------
    table : array of shape (D, A, K, K)
        Confusion matrices at the nodes; rows sum to one.
    distances : array of shape (D,), default=(1.5, 2, 2.5, 3, 4, 5, 6.5, 8)
        Nodes, increasing, m.
    aspects : array of shape (A,), default=(0, 10, 20, 30, 45, 60, 80)
        Nodes, increasing, degrees from the target's front, either way.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters.viewpoint import NoisySensor, TableSensor
    >>> table = TableSensor.from_sensor(NoisySensor(), n_classes=6, random_state=0)
    >>> near, far = np.array([2.5, 0.0, np.pi]), np.array([6.0, 0.0, np.pi])
    >>> bool(table.quality(near, 6) > 0.2 > table.quality(far, 6))
    True
    """

    def __init__(
        self, table: np.ndarray, distances: np.ndarray = DISTANCES, aspects: np.ndarray = ASPECTS
    ):
        self.distances = _nodes("distances", distances)
        self.aspects = _nodes("aspects", aspects)
        self.table = check_probabilities("table", table)
        d, a, k = len(self.distances), len(self.aspects), self.table.shape[-1]
        if self.table.shape != (d, a, k, k):
            raise ValueError(
                f"table must have shape ({d}, {a}, K, K), as many matrices as nodes, got {self.table.shape}"
            )

    @classmethod
    def from_looks(
        cls,
        relative: np.ndarray,
        classes: np.ndarray,
        probabilities: np.ndarray,
        distances: np.ndarray = DISTANCES,
        aspects: np.ndarray = ASPECTS,
        smoothing: float = 1.0,
    ) -> TableSensor:
        """The table of logged looks.

        Each look counts for its nearest node, and its label is its most probable class; `smoothing` looks spread over all labels are added
        to every row, so that rows never seen are uniform.

        Parameters
        ----------
        relative : array of shape (M, 3)
            Poses in the drone's frame.
        classes : array of int of shape (M,)
            True classes.
        probabilities : array of shape (M, K)
            What the sensor said; the column is the class.
        distances, aspects : arrays
            Nodes.
        smoothing : float, default=1.0
            Above 0.
        """
        smoothing = check_number("smoothing", smoothing, 0, low_open=True)
        p = check_probabilities("probabilities", probabilities)
        k = p.shape[-1]
        distances, aspects = _nodes("distances", distances), _nodes("aspects", aspects)
        distance, aspect = distance_and_aspect(np.asarray(relative, float))
        i = np.abs(distance[:, None] - distances).argmin(-1)
        j = np.abs(np.degrees(np.abs(aspect))[:, None] - aspects).argmin(-1)
        table = np.full((len(distances), len(aspects), k, k), smoothing / k)
        np.add.at(table, (i, j, np.asarray(classes, int), p.argmax(-1)), 1.0)
        return cls(table / table.sum(-1, keepdims=True), distances, aspects)

    @classmethod
    def from_sensor(
        cls, sensor: Sensor, n_classes: int, n_looks: int = 20_000, random_state: RandomState = None
    ) -> TableSensor:
        """The table of `n_looks` looks of another sensor from random poses before targets, as ``log_looks`` takes them."""
        return cls.from_looks(*log_looks(sensor, n_classes, n_looks, random_state))

    def confusion(self, relative: np.ndarray) -> np.ndarray:
        """Interpolated matrices (..., K, K) at poses (..., 3) in the drone's frame."""
        distance, aspect = distance_and_aspect(relative)
        i, s = _between(self.distances, distance)
        j, t = _between(self.aspects, np.degrees(np.abs(aspect)))
        s, t = s[..., None, None], t[..., None, None]
        low = (1 - t) * self.table[i, j] + t * self.table[i, j + 1]
        high = (1 - t) * self.table[i + 1, j] + t * self.table[i + 1, j + 1]
        return (1 - s) * low + s * high

    def look(self, looks: Looks) -> np.ndarray:
        if looks.n_classes != self.table.shape[-1]:
            raise ValueError(
                f"table must be of n_classes={looks.n_classes} classes, got {self.table.shape[-1]}"
            )
        evidence = np.full((*looks.classes.shape, looks.n_classes), 1 / looks.n_classes)
        e, n = np.nonzero(looks.seen)
        if not len(e):
            return evidence
        draw = looks.noise.uniform("label", looks.time, looks.classes.shape[1:])[e, n]
        confusion = self.confusion(looks.relative[e, n])
        rows = np.arange(len(e))
        chances = confusion[rows, looks.classes[e, n]]
        labels = (draw[:, None] > np.cumsum(chances, -1)[:, :-1]).sum(-1)
        likelihood = confusion[rows, :, labels]
        evidence[e, n] = likelihood / likelihood.sum(-1, keepdims=True)
        return evidence

    def quality(self, relative: np.ndarray, n_classes: int) -> np.ndarray:
        """Mean accuracy over the classes above chance, at poses (..., 3) in the drone's frame."""
        right = np.einsum("dakk->da", self.table) / n_classes  # interpolates like the matrices
        distance, aspect = distance_and_aspect(relative)
        i, s = _between(self.distances, distance)
        j, t = _between(self.aspects, np.degrees(np.abs(aspect)))
        low = (1 - t) * right[i, j] + t * right[i, j + 1]
        high = (1 - t) * right[i + 1, j] + t * right[i + 1, j + 1]
        return np.clip((1 - s) * low + s * high - 1 / n_classes, 0.0, 1 - 1 / n_classes)

    def __repr__(self) -> str:
        d, a, k = self.table.shape[:3]
        return f"TableSensor({d} distances x {a} aspects, {k} classes)"


def _nodes(name: str, value) -> np.ndarray:
    nodes = np.asarray(value, float)
    if nodes.ndim != 1 or len(nodes) < 2 or not (np.diff(nodes) > 0).all():
        raise ValueError(f"{name} must be at least 2 increasing numbers, got {value!r}")
    return nodes


def _between(nodes: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The node below each x, and how far x is on the way to the next, in [0, 1]."""
    below = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, len(nodes) - 2)
    share = (x - nodes[below]) / (nodes[below + 1] - nodes[below])
    return below, np.clip(share, 0.0, 1.0)
