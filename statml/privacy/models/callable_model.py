"""A data model made of a user's own functions: what a user of the R package dapper writes, in vectorised numpy.

=====================  ======================================================================================
dapper                 here
=====================  ======================================================================================
``posterior_f``        ``posterior_f(x, theta, rng)``: the next theta given complete records
``latent_f``           ``latent_f(theta, n, rng)``: all n records at once
``statistic_f``        ``statistic_f(x)``: the statistics of all records at once, one row a record
``mechanism_f``        a mechanism of `statml.privacy.mechanisms`; any other density: ``mechanisms.Custom(log_density)``
``init_par``           ``prior_f(rng)``, or ``init`` of `PrivatePosterior`
``varnames``           ``parameter_names``
=====================  ======================================================================================

Proposals and their statistics are drawn by these functions for all records together; only the accept step goes record by record,
and it is compiled. Statistics that depend on the release belong to the mechanism (`Mechanism.statistic`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..protocols import UnknownSensitivity
from ._base import DataModel, check_neighbours

Array = NDArray[np.float64]


class CallableModel(DataModel):
    """A record model from functions.

    Parameters
    ----------
    posterior_f : callable
        ``(x of shape (n, d), theta of shape (k,), rng) -> theta of shape (k,)``: a draw from p(theta | x), or a Markov step from
        theta that leaves it invariant.
    latent_f : callable
        ``(theta, n, rng) -> x of shape (n, d)``: n independent records. For d = 1 the shape (n,) is taken, too.
    statistic_f : callable
        ``(x) -> t of shape (n, m)``: what each record adds to the totals; clamping belongs here. For m = 1 the shape (n,)
        is taken, too.
    prior_f : callable or None, default=None
        ``(rng) -> theta of shape (k,)``. Without it `PrivatePosterior` needs `init`.
    parameter_names, statistic_names : sequence of str
        Names of the k parameters and of the m statistics, in order.
    log_prior_f : callable or None, default=None
        ``(theta) -> float``, log prior density up to a constant.
    to_ancillary_f, from_ancillary_f : callable or None, default=None
        ``(x, theta, rng) -> u`` and ``(u, theta) -> x``, where records are a function of theta and of noise u free of theta; both
        or neither. With them, chains interweave.
    totals_posterior_f : callable or None, default=None
        ``(S of shape (m,), n, theta, rng) -> theta``, theta given totals, for `PrivatePosterior.naive_posterior`.
    sensitivity : float or None, default=None
        How far, in the mechanism's norm, one record can move the totals under the curator's notion of neighbours.
    exchangeable : bool, default=True
        False where records have different laws or statistics.
    additive : bool, default=True
        False where ``statistic_f(x)`` is no sum over records: it then returns what was released of all of them together,
        shape (m,), and every proposal computes it anew.

    Examples
    --------
    A normal mean of records clamped to [-3, 3].

    >>> import numpy as np
    >>> from statml.privacy import PrivatePosterior, mechanisms, models
    >>> def posterior(x, theta, rng):
    ...     precision = 1 / 4 + len(x)
    ...     return rng.normal(x.sum() / precision, precision**-0.5, 1)
    >>> model = models.CallableModel(
    ...     posterior_f=posterior,
    ...     latent_f=lambda theta, n, rng: rng.normal(theta[0], 1, n),
    ...     statistic_f=lambda x: np.clip(x, -3, 3),
    ...     prior_f=lambda rng: rng.normal(0, 2, 1),
    ...     parameter_names=["mu"],
    ...     statistic_names=["sum"],
    ... )
    >>> chain = PrivatePosterior(
    ...     model, mechanisms.Laplace(scale=6), n_records=100, draws=4000, random_state=0, progress=False
    ... ).fit([52.0])
    >>> chain.kernel_, bool(abs(chain.posterior_mean_[0] - 0.52) < 0.05)
    ('mwg', True)
    """

    def __init__(
        self,
        posterior_f: Callable[[Array, Array, np.random.Generator], Array],
        latent_f: Callable[[Array, int, np.random.Generator], Array],
        statistic_f: Callable[[Array], Array],
        prior_f: Callable[[np.random.Generator], Array] | None = None,
        *,
        parameter_names: Sequence[str],
        statistic_names: Sequence[str],
        log_prior_f: Callable[[Array], float] | None = None,
        to_ancillary_f: Callable[[Array, Array, np.random.Generator], Array] | None = None,
        from_ancillary_f: Callable[[Array, Array], Array] | None = None,
        totals_posterior_f: Callable[[Array, int, Array, np.random.Generator], Array] | None = None,
        sensitivity: float | None = None,
        exchangeable: bool = True,
        additive: bool = True,
    ):
        functions = {
            "posterior_f": posterior_f,
            "latent_f": latent_f,
            "statistic_f": statistic_f,
            "prior_f": prior_f,
            "log_prior_f": log_prior_f,
            "to_ancillary_f": to_ancillary_f,
            "from_ancillary_f": from_ancillary_f,
            "totals_posterior_f": totals_posterior_f,
        }
        for name, function in functions.items():
            needed = name in ("posterior_f", "latent_f", "statistic_f")
            if not callable(function) and (needed or function is not None):
                raise TypeError(f"{name} must be a function, got {function!r}")
            setattr(self, name, function)
        if (to_ancillary_f is None) != (from_ancillary_f is None):
            raise ValueError(
                "to_ancillary_f and from_ancillary_f must be given together, or neither"
            )
        self.parameter_names = _names("parameter_names", parameter_names)
        self.statistic_names = _names("statistic_names", statistic_names)
        self.exchangeable, self.additive = bool(exchangeable), bool(additive)
        self._sensitivity = sensitivity
        # Kernels look for these by name, so that a model has them only where they were given.
        if log_prior_f is not None:
            self.log_prior = log_prior_f
        if to_ancillary_f is not None:
            self.to_ancillary, self.from_ancillary = to_ancillary_f, from_ancillary_f
        if totals_posterior_f is not None:
            self.draw_from_totals = totals_posterior_f

    def sample_prior(self, rng: np.random.Generator) -> Array:
        """One draw of theta, shape (k,); ValueError without `prior_f`."""
        if self.prior_f is None:
            raise ValueError(
                "prior_f was not given: give it, or where chains start with init=... of PrivatePosterior"
            )
        return self._theta("prior_f", self.prior_f(rng))

    def sample_records(self, theta: Array, n: int, rng: np.random.Generator) -> Array:
        """n records given theta, shape (n, d)."""
        x = np.asarray(self.latent_f(theta, n, rng), dtype=float)
        x = x[:, None] if x.ndim == 1 else x
        if x.ndim != 2 or len(x) != n:
            raise ValueError(f"latent_f must return {n} records, shape ({n}, d), got {x.shape}")
        return x

    def statistic(self, x: Array) -> Array:
        """t(x_i) for every record, shape (n, m)."""
        t, m = np.asarray(self.statistic_f(x), dtype=float), len(self.statistic_names)
        if self.additive:
            t = t[:, None] if t.ndim == 1 and m == 1 else t
            shape, what = (len(x), m), "one row a record"
        else:
            shape, what = (m,), "the statistic of all records"
        if t.shape != shape:
            raise ValueError(f"statistic_f must return {what}, shape {shape}, got {t.shape}")
        if not np.isfinite(t.sum()):
            raise ValueError("statistic_f must return finite numbers, got NaN or infinity")
        return t

    def draw_posterior(self, x: Array, theta: Array, rng: np.random.Generator) -> Array:
        """The next theta given complete records, shape (k,)."""
        return self._theta("posterior_f", self.posterior_f(x, theta, rng))

    def sensitivity(self, neighbours: str = "replace", norm: int = 1) -> float:
        """The number that the constructor was given, whatever the arguments.

        Raises
        ------
        UnknownSensitivity
            If it was not given.
        """
        check_neighbours(neighbours, norm)
        if self._sensitivity is None:
            raise UnknownSensitivity("sensitivity was not given: CallableModel(..., sensitivity=)")
        return float(self._sensitivity)

    def _theta(self, name: str, theta: Array) -> Array:
        theta, k = np.atleast_1d(np.asarray(theta, dtype=float)), len(self.parameter_names)
        if theta.shape != (k,) or not np.isfinite(theta).all():
            raise ValueError(
                f"{name} must return {k} finite numbers ({', '.join(self.parameter_names)}), got {theta}"
            )
        return theta

    def __repr__(self) -> str:
        return f"CallableModel({', '.join(self.parameter_names)} from {', '.join(self.statistic_names)})"


def _names(argument: str, names: Sequence[str]) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{argument} must be a sequence of strings, got {names!r}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{argument} must be different names, at least one, got {names!r}")
    return list(names)
