r"""The exponential mechanism over finitely many outputs.

.. math:: P(s = r \mid x) = \frac{\exp(S_r / c)}{\sum_{r'} \exp(S_{r'} / c)}, \qquad S_r = \sum_i u(r, x_i)

where u is the utility of output r for a record. With :math:`\Delta` the largest change of any :math:`S_r` between
neighbours it is :math:`\epsilon`-differentially private for :math:`c = 2 \Delta / \epsilon` [1]_. The normaliser depends on the data
and is kept: without it the posterior would be another one.

References
----------
.. [1] F. McSherry, K. Talwar (2007). Mechanism design via differential privacy. FOCS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..._validation import check_number
from ..protocols import Mechanism, RecordModel, UnknownSensitivity
from ._release import positive

Array = NDArray[np.float64]


class FiniteExponential(Mechanism):
    """One of finitely many outputs, drawn with probability increasing in its total utility.

    Parameters
    ----------
    outputs : sequence
        The possible outputs, labels of any kind. The release is one of them.
    scale : float
        c = 2 * sensitivity / epsilon.
    utility : callable or None, default=None
        ``(x of shape (n, d)) -> (n, number of outputs)``: the utility of every output for every record. None takes
        the statistic of the model.
    sensitivity : float or None, default=None
        Largest change of any total utility when one record is replaced.

    Examples
    --------
    >>> from statml.privacy import mechanisms
    >>> vote = mechanisms.FiniteExponential.from_epsilon(["red", "green"], 1.0, sensitivity=1)
    >>> vote.check_release("green", ["red", "green"])
    array([1.])
    >>> vote.log_density([1.0], [10.0, 12.0]).round(4)
    np.float64(-0.3133)
    """

    def __init__(
        self,
        outputs: Sequence,
        scale: float,
        utility: Callable[[Array], Array] | None = None,
        sensitivity: float | None = None,
    ):
        self.outputs = list(outputs)
        if len(self.outputs) < 2:
            raise ValueError(f"outputs must be at least two, got {len(self.outputs)}")
        self.scale = check_number("scale", scale, 0, low_open=True)
        self.utility = utility
        self.sensitivity = None if sensitivity is None else positive("sensitivity", sensitivity)

    @classmethod
    def from_epsilon(
        cls,
        outputs: Sequence,
        epsilon: float,
        sensitivity: float,
        utility: Callable[[Array], Array] | None = None,
    ) -> FiniteExponential:
        """The mechanism with privacy loss epsilon: c = 2 * sensitivity / epsilon."""
        epsilon = check_number("epsilon", epsilon, 0, low_open=True)
        sensitivity = check_number("sensitivity", sensitivity, 0, low_open=True)
        return cls(outputs, 2 * sensitivity / epsilon, utility, sensitivity)

    def statistic(self, model: RecordModel, x: Array, release: Array | None) -> Array:
        """The utility of every output for every record, shape (n, number of outputs)."""
        t = model.statistic(x) if self.utility is None else np.asarray(self.utility(x), dtype=float)
        if t.ndim != 2 or t.shape[1] != len(self.outputs):
            raise ValueError(
                f"there are {len(self.outputs)} outputs, but the utilities have shape {t.shape}"
            )
        return t

    def log_density(self, release: Array, totals: Array) -> Array:
        """log P(s | S).

        Parameters
        ----------
        release : array-like of shape (1,)
            The position of the output in `outputs`.
        totals : ndarray of shape (..., number of outputs)

        Returns
        -------
        ndarray of shape (...)
        """
        z = np.asarray(totals, dtype=float) / self.scale
        z = z - z.max(axis=-1, keepdims=True)
        return z[..., int(release[0])] - np.log(np.exp(z).sum(axis=-1))

    def randomise(self, totals: ArrayLike, rng: np.random.Generator) -> Array:
        """The position of an output, shape (1,), reproducible from `rng`. For simulation, not for publishing."""
        z = np.asarray(totals, dtype=float) / self.scale
        return np.array([np.argmax(z + rng.gumbel(size=z.shape))], dtype=float)

    def simulate(self, model: RecordModel, x: Array, rng: np.random.Generator) -> Array:
        """The position of an output given complete records of a model, for rehearsals."""
        return self.randomise(self.statistic(model, x, None).sum(axis=0), rng)

    def check_release(
        self,
        release: ArrayLike | Mapping[str, float],
        statistic_names: list[str],
        n_records: int | None = None,
    ) -> Array:
        """The position of the released output, shape (1,); `release` is the output or an array of its position.

        Raises
        ------
        ValueError
            If it is none of `outputs`.
        """
        is_array = isinstance(release, np.ndarray) and release.shape == (1,)
        if is_array and release[0] in range(len(self.outputs)):
            return release.astype(float)
        matches = [k for k, output in enumerate(self.outputs) if np.array_equal(output, release)]
        if not matches:
            raise ValueError(f"release must be one of {self.outputs}, got {release!r}")
        return np.array([matches[0]], dtype=float)

    def n_totals(self, n_statistics: int) -> int:
        """One utility an output."""
        return len(self.outputs)

    def release_size(self, n_statistics: int) -> int:
        """One: the position of the output."""
        return 1

    def epsilon(self, sensitivity: ArrayLike | None = None) -> float:
        """The privacy loss 2 * sensitivity / c, with the sensitivity of the constructor by default."""
        given = self.sensitivity if sensitivity is None else positive("sensitivity", sensitivity)
        if given is None:
            raise UnknownSensitivity("sensitivity is needed: epsilon(sensitivity)")
        return float(2 * given.max() / self.scale)

    def __repr__(self) -> str:
        return f"FiniteExponential({len(self.outputs)} outputs, scale={self.scale:.6g})"
