"""`RecordSweepStep`: the sweep over latent records as a step inside ``pm.sample``, where PyMC's own sampler moves the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .kernels.chain import LogEta, accept_records, as_matrix
from .protocols import Array, Mechanism
from .pymc_bridge import compile_function, pm, reseed, unconstrained


class RecordSweepStep(pm.step_methods.compound.BlockedStep):
    """The record sweep as a step for ``pm.sample``: latent records given all else and the release.

    Proposals for every record come from the PyMC model given the other variables; each is accepted by the ratio of the mechanism's
    density, one after another. All other variables keep the samplers that PyMC gives them.

    Parameters
    ----------
    vars : variable
        The free variable that holds the records; its first axis is the record. Records must be independent given the other
        variables.
    statistic : callable
        ``(x of shape (n, d)) -> (n, m)``: what was summed for the release.
    mechanism : Mechanism
    release : array-like of shape (m,)
    model : pm.Model or None, default=None
        None takes that of the context.
    rng, blocked
        As PyMC passes them.

    Notes
    -----
    The sampler statistics are ``accept_rate`` and ``log_eta``. The model itself must not know the release.

    Examples
    --------
    >>> import pymc as pm
    >>> from statml.privacy import RecordSweepStep, mechanisms
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 0, 2)
    ...     x = pm.Normal("x", mu, 1, shape=20)
    ...     step = RecordSweepStep(x, lambda x: x / len(x), mechanisms.Gaussian(0.5), [1.5])
    ...     idata = pm.sample(step=step)  # doctest: +SKIP
    """

    name = "record_sweep"
    _state_class = pm.step_methods.compound.StepMethodState
    stats_dtypes_shapes = {  # noqa: RUF012
        "accept_rate": (np.float64, []),
        "log_eta": (np.float64, []),
    }

    def __init__(
        self,
        vars: Any,
        statistic: Callable[[Array], ArrayLike],
        mechanism: Mechanism,
        release: ArrayLike,
        *,
        model: Any = None,
        blocked: bool = True,
        rng: Any = None,
    ):
        variables = list(vars) if isinstance(vars, (list, tuple)) else [vars]
        if len(variables) != 1:
            raise ValueError(
                f"vars must be the one variable that holds the records, got {variables}"
            )
        if not isinstance(mechanism, Mechanism):
            raise TypeError(f"mechanism must be a Mechanism, got {type(mechanism).__name__}")
        if not callable(statistic):
            raise TypeError(f"statistic must be callable, got {type(statistic).__name__}")
        model = pm.modelcontext(model)
        x = model.values_to_rvs.get(variables[0], variables[0])
        if x not in model.free_RVs:
            raise ValueError(f"vars must be a free variable of the model, got {variables[0]}")
        self.vars = [model.rvs_to_values[x]]
        self.var_names = tuple(v.name for v in self.vars)
        self.rng = pm.util.get_random_generator(rng)
        others = [rv for rv in model.free_RVs if rv is not x]
        values = [model.rvs_to_values[rv] for rv in others]
        self._others = [v.name for v in values]
        given = x.type("given")
        self._natural = compile_function(
            model, [*values, *self.vars], model.replace_rvs_by_values([*others, x])
        )
        self._records = compile_function(model, others, x)
        self._back = compile_function(model, [given, *others], unconstrained(model, x, given))
        self.mechanism = mechanism
        self._statistic = _Statistic(statistic)
        _, x, _ = self._draw(model.initial_point())
        t = self._statistic.statistic(_rows(x))
        names = [f"S[{j}]" for j in range(t.shape[1])]
        self._statistic.statistic_names = names
        self.release = mechanism.check_release(release, names, len(t))
        self._log_eta = LogEta(mechanism, self._statistic)

    def step(self, point: dict[str, Array]) -> tuple[dict[str, Array], list[dict[str, float]]]:
        """One sweep over the records."""
        others, x, x_new = self._draw(point)
        t = self._t(_rows(x))
        S = t.sum(axis=0)
        accepted, _, log_eta = accept_records(
            self._log_eta, self.release, t, self._t(_rows(x_new)), S,
            float(self.mechanism.log_density(self.release, S)), 1.0, self.rng,
        )  # fmt: skip
        x = x.copy()
        x[accepted] = x_new[accepted]
        stats = {"accept_rate": float(accepted.mean()), "log_eta": float(log_eta)}
        return {**point, self.var_names[0]: np.asarray(self._back(x, *others))}, [stats]

    def _draw(self, point: dict[str, Array]) -> tuple[list[Array], Array, Array]:
        """The other variables, the records and new ones, on their natural scale."""
        *others, x = self._natural(*(point[name] for name in [*self._others, *self.var_names]))
        reseed(self._records, self.rng)
        return others, np.asarray(x), np.asarray(self._records(*others))

    def _t(self, x: Array) -> Array:
        return as_matrix(self.mechanism.statistic(self._statistic, x, self.release))


class _Statistic:
    """As much of a data model as mechanisms look at."""

    def __init__(self, function: Callable[[Array], ArrayLike]):
        self.function = function
        self.statistic_names: list[str] = []

    def statistic(self, x: Array) -> Array:
        t = np.asarray(self.function(x), dtype=float)
        if t.ndim != 2 or len(t) != len(x):
            raise ValueError(
                f"statistic must give one row for each of {len(x)} records, got shape {t.shape}"
            )
        return t


def _rows(x: Any) -> Array:
    x = np.asarray(x, dtype=float)
    return x.reshape(len(x), -1)
