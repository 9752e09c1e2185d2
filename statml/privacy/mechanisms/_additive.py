r"""What mechanisms of the form :math:`s_j = S_j + Z_j` share: independent noise on every entry of the total.

A member supplies the log density of its noise, the log probability of an interval and a sampler; the rest (checking a
release, post-processing, publishing) is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..protocols import Mechanism, UnknownSensitivity
from . import _opendp
from ._release import as_release, positive, refuse

Array = NDArray[np.float64]


class AdditiveNoise(Mechanism):
    """Independent noise of one kind on every entry of the total; base of the members, not for use alone.

    Parameters
    ----------
    scale : float or array-like of shape (m,)
        Scale of the noise, in the units of the statistic; one for all entries or one for each.
    sensitivity : float, array-like of shape (m,), or None, default=None
        How far one record can move the total: a bound of the norm of the move (for all entries together), or
        a bound for each entry. Only `epsilon` and `acceptance_bound` use it.
    """

    discrete = False  # whether releases are integers
    kind = ""  # "laplace" or "gaussian": what OpenDP calls it

    def __init__(self, scale: ArrayLike, sensitivity: ArrayLike | None = None):
        self.scale = positive("scale", scale)
        self.sensitivity = None if sensitivity is None else positive("sensitivity", sensitivity)

    # --- supplied by the member ---------------------------------------------------------------------

    def _log_noise(self, z: Array) -> Array:
        """log density of the noise, entry by entry."""
        raise NotImplementedError

    def _log_interval(self, low: Array, high: Array) -> Array:
        """log P(low <= Z <= high), entry by entry, for low <= high; infinite bounds are taken."""
        raise NotImplementedError

    # --- densities ----------------------------------------------------------------------------------

    def log_density(self, release: Array, totals: Array) -> Array:
        """log g(s, S), normalised.

        Parameters
        ----------
        release : ndarray of shape (m,)
        totals : ndarray of shape (..., m)

        Returns
        -------
        ndarray of shape (...)
        """
        return self.log_density_terms(release, totals).sum(axis=-1)

    def log_density_terms(self, release: Array, totals: Array) -> Array:
        """The log density entry by entry, shape (..., m)."""
        z = np.asarray(release, dtype=float) - np.asarray(totals, dtype=float)
        terms = self._log_noise(z)
        return np.where(z == np.rint(z), terms, -np.inf) if self.discrete else terms

    def log_interval(self, low: ArrayLike, high: ArrayLike, totals: Array) -> Array:
        """log P(low <= s <= high | S) entry by entry.

        Parameters
        ----------
        low, high : array-like, broadcast against `totals`
            Bounds of what is known of each entry of the release; may be infinite.
        totals : ndarray of shape (..., m)

        Returns
        -------
        ndarray of shape (..., m)
        """
        totals = np.asarray(totals, dtype=float)
        low, high = np.broadcast_arrays(low - totals, high - totals)
        if self.discrete:
            low, high = np.ceil(low), np.floor(high)
        empty = low > high
        inside = self._log_interval(np.where(empty, 0.0, low), np.where(empty, 0.0, high))
        return np.where(empty, -np.inf, inside)

    # --- releases -----------------------------------------------------------------------------------

    def check_release(
        self,
        release: ArrayLike | Mapping[str, float],
        statistic_names: list[str],
        n_records: int | None = None,
    ) -> Array:
        """The release as an array, in the order of `statistic_names`.

        Raises
        ------
        ValueError
            If its shape or names are others, an entry is NaN or infinite, or no integer where the noise is discrete.
        """
        if self.scale.shape not in ((), (len(statistic_names),)):
            raise ValueError(
                f"scale has {len(self.scale)} entries, but there are {len(statistic_names)} statistics: "
                f"{', '.join(statistic_names)}"
            )
        values = as_release(release, statistic_names)
        if self.discrete:
            what = f"is not an integer, which every release of {type(self).__name__} is"
            refuse(what, values != np.rint(values), values, statistic_names)
        return values

    def release(self, totals: ArrayLike) -> Array:
        """A release to publish: the totals plus noise from OpenDP's vetted, floating-point-safe sampler.

        It cannot be seeded, on purpose. OpenDP has to be installed; rehearsals use `randomise`.

        Parameters
        ----------
        totals : array-like of shape (m,)
            True totals; integers for discrete noise.

        Returns
        -------
        ndarray of shape (m,)

        Raises
        ------
        ImportError
            If OpenDP is missing.
        ValueError
            If the noise is discrete and a total is no integer.
        """
        totals = np.asarray(totals, dtype=float)
        if self.discrete and (totals != np.rint(totals)).any():
            raise ValueError(f"totals must be integers for {type(self).__name__}, got {totals}")
        scales = np.broadcast_to(self.scale, totals.shape)
        return _opendp.add_noise(self.kind, totals, scales, self.discrete)

    # --- privacy ------------------------------------------------------------------------------------

    def _relative_sensitivity(self, sensitivity: ArrayLike | None, norm: int) -> float:
        """The largest norm of (move / scale): exact for one scale, an upper bound for several."""
        given = self.sensitivity if sensitivity is None else positive("sensitivity", sensitivity)
        if given is None:
            raise UnknownSensitivity(
                f"sensitivity is needed: epsilon(sensitivity), or {type(self).__name__}(scale, sensitivity=...)"
            )
        if given.ndim:
            if self.scale.ndim and len(given) != len(self.scale):
                raise ValueError(
                    f"sensitivity has {len(given)} entries, but scale has {len(self.scale)}"
                )
            return float(np.linalg.norm(given / self.scale, norm))
        return float(given / self.scale.min())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(scale={shown(self.scale)})"


def shown(values: Array) -> str:
    """A number or a list of numbers, as typed."""
    return (
        f"{values:.6g}" if values.ndim == 0 else "[" + ", ".join(f"{v:.6g}" for v in values) + "]"
    )
