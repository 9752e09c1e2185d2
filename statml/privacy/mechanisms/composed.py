r"""Several releases on the same data: statistics are stacked, log densities added.

.. math:: \log g(s, S) = \sum_k \log g_k(s_k, S_k)

A record moves all of them at once, so that the privacy losses add up too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..protocols import Mechanism, RecordModel, SeparableNoise

Array = NDArray[np.float64]


class Composed(Mechanism):
    """Several mechanisms, each on some of the statistics; one statistic may be released more than once.

    Parameters
    ----------
    mechanisms : sequence of Mechanism
    columns : sequence of sequences of int, or None, default=None
        For every mechanism the statistics that it noises, in the order of its release. None: the k-th mechanism noises
        the k-th statistic.

    Examples
    --------
    A total released twice, and a count beside it.

    >>> from statml.privacy import mechanisms
    >>> both = mechanisms.Composed(
    ...     [mechanisms.Laplace(2.0), mechanisms.Laplace(1.0), mechanisms.DiscreteLaplace(3)],
    ...     columns=[[0], [0], [1]],
    ... )
    >>> both.check_release([[10.2], [9.7], [31]], ["total", "count"])
    array([10.2,  9.7, 31. ])
    >>> both.separable(2).weight.round(2)
    array([0.5 , 1.  , 0.33])
    """

    def __init__(
        self,
        mechanisms: Sequence[Mechanism],
        columns: Sequence[Sequence[int]] | None = None,
    ):
        self.mechanisms = list(mechanisms)
        if not self.mechanisms:
            raise ValueError("mechanisms must be at least one, got an empty sequence")
        for k, mechanism in enumerate(self.mechanisms):
            if not isinstance(mechanism, Mechanism):
                raise TypeError(
                    f"mechanisms[{k}] must be a Mechanism, got {type(mechanism).__name__}"
                )
        if columns is None:
            columns = [[k] for k in range(len(self.mechanisms))]
        if len(columns) != len(self.mechanisms):
            raise ValueError(
                f"columns must be given for each of the {len(self.mechanisms)} mechanisms, got {len(columns)}"
            )
        self.columns = [np.atleast_1d(np.asarray(c, dtype=np.int64)) for c in columns]
        if any((c < 0).any() or len(c) == 0 for c in self.columns):
            raise ValueError(
                "columns must be positions >= 0 of statistics, at least one a mechanism"
            )
        unknown = [k for k, m in enumerate(self.mechanisms) if m.release_size(1) is None]
        if len(unknown) > 1:
            raise ValueError("at most one mechanism may release an answer of every record")
        self.needs_release = any(m.needs_release for m in self.mechanisms)
        self.factorises = all(m.factorises for m in self.mechanisms)

    # --- how release and totals are divided -----------------------------------------------------------

    def _release_parts(self, release: Array) -> list[Array]:
        sizes = [m.release_size(len(c)) for m, c in zip(self.mechanisms, self.columns, strict=True)]
        rest = len(release) - sum(size for size in sizes if size is not None)
        sizes = [rest if size is None else size for size in sizes]
        return np.split(release, np.cumsum(sizes)[:-1])

    def statistic(self, model: RecordModel, x: Array, release: Array | None) -> Array:
        """The statistics of all mechanisms side by side, shape (n, sum of their numbers)."""
        parts = [None] * len(self.mechanisms) if release is None else self._release_parts(release)
        return np.concatenate(self._statistics(model, x, parts), axis=1)

    def _statistics(
        self, model: RecordModel, x: Array, parts: Sequence[Array | None]
    ) -> list[Array]:
        t = np.asarray(model.statistic(x), dtype=float)
        highest = max(int(c.max()) for c in self.columns)
        if highest >= t.shape[1]:
            raise ValueError(f"columns name statistic {highest}, but there are {t.shape[1]}")
        return [
            mechanism.statistic(_Columns(t[:, c]), x, part)
            for mechanism, c, part in zip(self.mechanisms, self.columns, parts, strict=True)
        ]

    def _totals_parts(self, totals: Array) -> list[Array]:
        sizes = [m.n_totals(len(c)) for m, c in zip(self.mechanisms, self.columns, strict=True)]
        if sum(sizes) != totals.shape[-1]:
            raise ValueError(f"totals must have {sum(sizes)} entries, got {totals.shape[-1]}")
        return np.split(totals, np.cumsum(sizes)[:-1], axis=-1)

    # --- the mechanism ------------------------------------------------------------------------------

    def log_density(self, release: Array, totals: Array) -> Array:
        """The sum of the log densities.

        Parameters
        ----------
        release : ndarray of shape (m,)
            Releases of all mechanisms, one after the other.
        totals : ndarray of shape (..., M)
            Totals of `statistic`.

        Returns
        -------
        ndarray of shape (...)
        """
        release, totals = np.asarray(release, dtype=float), np.asarray(totals, dtype=float)
        parts = self._release_parts(release)
        divided = self._totals_parts(totals)
        return sum(
            m.log_density(s, S) for m, s, S in zip(self.mechanisms, parts, divided, strict=True)
        )

    def randomise(self, totals: ArrayLike, rng: np.random.Generator) -> Array:
        """Releases of all mechanisms, one after the other, given the totals of `statistic`. For simulation."""
        if self.needs_release:
            raise ValueError(
                "one of the mechanisms is no noise on a total: use simulate(model, x, rng)"
            )
        divided = self._totals_parts(np.asarray(totals, dtype=float))
        return np.concatenate(
            [m.randomise(S, rng) for m, S in zip(self.mechanisms, divided, strict=True)]
        )

    def simulate(self, model: RecordModel, x: Array, rng: np.random.Generator) -> Array:
        """Releases of all mechanisms given complete records of a model, one after the other."""
        t = np.asarray(model.statistic(x), dtype=float)
        return np.concatenate(
            [
                m.simulate(_Columns(t[:, c]), x, rng)
                for m, c in zip(self.mechanisms, self.columns, strict=True)
            ]
        )

    def check_release(
        self, release: Any, statistic_names: list[str], n_records: int | None = None
    ) -> Array:
        """The releases one after the other.

        Parameters
        ----------
        release : sequence of one release a mechanism, or array-like of shape (m,)
            Each as its mechanism takes it; or all of them in one flat array.
        statistic_names : list of str
            Names of the model's statistics.

        Raises
        ------
        ValueError
            If their number is another, or a mechanism refuses its own; the message says which.
        """
        each = not isinstance(release, (np.ndarray, dict, str)) and len(release) == len(
            self.mechanisms
        )
        if not each and not isinstance(release, (dict, str)):
            each = all(np.ndim(part) == 0 for part in release)
            release = self._release_parts(np.asarray(release, dtype=float)) if each else release
        if not each:
            raise ValueError(
                f"release must be a sequence of {len(self.mechanisms)} releases, one for each of {self.mechanisms}, "
                f"or all of them in one flat array; got {type(release).__name__} of length {len(release)}"
            )
        checked = []
        for k, (mechanism, c, part) in enumerate(
            zip(self.mechanisms, self.columns, release, strict=True)
        ):
            names = [statistic_names[j] for j in c]
            try:
                checked.append(mechanism.check_release(part, names, n_records))
            except ValueError as error:
                raise ValueError(f"release {k} ({mechanism}): {error}") from error
        return np.concatenate(checked)

    def n_totals(self, n_statistics: int) -> int:
        """Number of columns of `statistic`."""
        return sum(m.n_totals(len(c)) for m, c in zip(self.mechanisms, self.columns, strict=True))

    def release_size(self, n_statistics: int) -> int | None:
        """Number of entries of all releases; None where one of them has an answer for every record."""
        sizes = [m.release_size(len(c)) for m, c in zip(self.mechanisms, self.columns, strict=True)]
        return None if None in sizes else sum(sizes)

    def separable(self, n_statistics: int) -> SeparableNoise | None:
        """Powers and weights side by side, in the order of `statistic`; None if a mechanism has none."""
        parts = [m.separable(len(c)) for m, c in zip(self.mechanisms, self.columns, strict=True)]
        if any(part is None for part in parts):
            return None
        return SeparableNoise(
            np.concatenate([part.power for part in parts]),
            np.concatenate([part.weight for part in parts]),
        )

    def epsilon(self, sensitivity: Sequence[ArrayLike | None] | None = None) -> float:
        """The sum of the privacy losses, given one sensitivity a mechanism (None: the mechanism's own)."""
        if sensitivity is None:
            sensitivity = [None] * len(self.mechanisms)
        if np.ndim(sensitivity) == 0 or len(sensitivity) != len(self.mechanisms):
            raise ValueError(
                f"sensitivity must be given for each of the {len(self.mechanisms)} mechanisms, got {sensitivity!r}"
            )
        return float(sum(m.epsilon(d) for m, d in zip(self.mechanisms, sensitivity, strict=True)))

    def acceptance_bound(
        self, sensitivity: Sequence[ArrayLike | None] | None = None, *, average: bool = False
    ) -> float:
        """As for one mechanism; on average also one minus the sum of their total variation distances."""
        bound = super().acceptance_bound(sensitivity, average=average)
        if not average:
            return bound
        given = [None] * len(self.mechanisms) if sensitivity is None else sensitivity
        distances = [
            1 - m.acceptance_bound(d, average=True)
            for m, d in zip(self.mechanisms, given, strict=True)
        ]
        return max(bound, 1 - sum(distances), 0.0)

    def __repr__(self) -> str:
        return f"Composed({self.mechanisms})"


class _Columns:
    """A model as one mechanism of a composition sees it: some of its statistics."""

    def __init__(self, t: Array):
        self._t = t

    def statistic(self, x: Array) -> Array:
        return self._t
