r"""How far a latent representation lies from the mean of a class.

For a latent z and a class mean m,

* Euclid: :math:`f(m, z) = \lVert z - m \rVert`;
* cosine: :math:`f(m, z) = 1 - \langle z, m\rangle / (\lVert z\rVert \lVert m\rVert)`, in [0, 2]; 1 where a
  vector is zero and has no direction;
* mixed: half of each.

The cosine distance does not change when z is scaled, Euclid's does not when everything is rotated. In generative
replay the cosine is the one that rejects: draws from a standard normal prior have small norms and lie nearer to every
class mean, in Euclid's distance, than the training records do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from statml._validation import check_choice

Array = NDArray[np.float64]

DISTANCES = ("cosine", "euclidean", "mixed")


def class_distances(Z: Array, means: Array, distance: str = "cosine") -> Array:
    """Distances of records to every class mean.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
    means : ndarray of shape (n_classes, d)
    distance : {"cosine", "euclidean", "mixed"}, default="cosine"

    Returns
    -------
    ndarray of shape (n, n_classes)

    Examples
    --------
    >>> import numpy as np
    >>> class_distances(np.array([[3.0, 4.0]]), np.array([[1.0, 0.0], [3.0, 4.0]]), "euclidean").round(3)
    array([[4.472, 0.   ]])
    """
    check_choice("distance", distance, DISTANCES)
    Z, means = np.asarray(Z, dtype=float), np.asarray(means, dtype=float)
    columns = [record_distances(Z, mean, distance) for mean in means]
    return np.stack(columns, axis=1) if columns else np.empty((len(Z), 0))


def record_distances(Z: Array, means: Array, distance: str = "cosine") -> Array:
    """Distance of each record to a mean of its own.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
    means : ndarray of shape (d,) or (n, d)
        One for all records, or one a record.
    distance : {"cosine", "euclidean", "mixed"}, default="cosine"

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> record_distances(np.array([[2.0, 0.0], [0.0, 3.0]]), np.array([1.0, 0.0]))
    array([0., 1.])
    """
    if distance == "cosine":
        return _cosine(Z, means)
    if distance == "euclidean":
        return _euclid(Z, means)
    return 0.5 * _cosine(Z, means) + 0.5 * _euclid(Z, means)


def _euclid(Z: Array, means: Array) -> Array:
    # the difference itself, not |z|^2 - 2<z,m> + |m|^2, which loses its digits near the mean
    return np.sqrt(np.square(Z - means).sum(axis=-1))


def _cosine(Z: Array, means: Array) -> Array:
    # |u - v|^2 / 2 of the unit vectors: exact zero for the same direction, never negative
    u, v = _unit(Z), _unit(means)
    half = np.square(u - v).sum(axis=-1) / 2
    no_direction = ~(u.any(axis=-1) & v.any(axis=-1))
    return np.where(no_direction, 1.0, half)


def _unit(A: Array) -> Array:
    largest = np.abs(A).max(
        axis=-1, keepdims=True, initial=0.0
    )  # so that squares neither vanish nor overflow
    A = np.divide(A, largest, out=np.zeros_like(A), where=largest > 0)
    norm = np.sqrt(np.square(A).sum(axis=-1, keepdims=True))
    return np.divide(A, norm, out=np.zeros_like(A), where=norm > 0)
