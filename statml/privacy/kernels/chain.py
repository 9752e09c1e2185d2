"""What every kernel shares: the first state of a chain, the sequential accept step, and the trace of a run.

A sweep proposes all n records at once from the model given theta, since proposals depend on nothing else; only the accept
step is sequential, because each decision needs the total that the decisions before it left. That step is one compiled
function for all models and mechanisms. Accepting all records against the total at the start of the sweep would be fast and
wrong: with little noise the posterior standard deviation comes out more than twice too large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..compiled import (
    CompiledDensity,
    CompiledModel,
    compiled_function,
    separable,
    separable_log_density,
)
from ..protocols import Array, ChainState, Mechanism, RecordModel

MOST_KNOWN = 10_000  # values of a density that is not compiled
PASSES = 3.0  # over the records in a plain sweep: draw, accept, posterior


@dataclass
class Trace:
    """What is kept of a run, row by row: warm-up first, then draws.

    Parameters
    ----------
    theta : ndarray of shape (T, k)
    S : ndarray of shape (T, m)
    log_eta : ndarray of shape (T,)
    accept_rate : ndarray of shape (T,)
    n : ndarray of shape (T,)
        Number of records.
    cost : ndarray of shape (T,)
        Passes over the records, the same on every machine; what an adaptive kernel compares schedules by.
    record_accepted : ndarray of int, shape (n,)
        How often each record moved since the warm-up ended.
    x : ndarray of shape (T, n, d) or None
        Latent records, where they are kept.
    n_warmup : int
        Rows before this one do not count in `record_accepted`.
    """

    theta: Array
    S: Array
    log_eta: Array
    accept_rate: Array
    n: NDArray[np.int64]
    cost: Array
    record_accepted: NDArray[np.int64]
    x: Array | None = None
    n_warmup: int = 0

    @classmethod
    def empty(cls, state: ChainState, n_rows: int, n_warmup: int, store_records: bool) -> Trace:
        """Room for n_rows sweeps of a chain that starts at a state."""
        return cls(
            theta=np.full((n_rows, len(state.theta)), np.nan),
            S=np.full((n_rows, len(state.S)), np.nan),
            log_eta=np.full(n_rows, np.nan),
            accept_rate=np.full(n_rows, np.nan),
            n=np.zeros(n_rows, np.int64),
            cost=np.full(n_rows, PASSES),
            record_accepted=np.zeros(len(state.x), np.int64),
            x=np.full((n_rows, *state.x.shape), np.nan) if store_records else None,
            n_warmup=n_warmup,
        )

    def record(self, row: int, state: ChainState, info: dict[str, Any]) -> None:
        """Keep one sweep."""
        self.theta[row], self.S[row], self.log_eta[row] = state.theta, state.S, state.log_eta
        self.n[row] = len(state.x)
        self.cost[row] = info.get("cost", PASSES)
        accepted = np.asarray(info["accepted"])
        self.accept_rate[row] = accepted.mean()
        if row >= self.n_warmup and accepted.shape == self.record_accepted.shape:
            self.record_accepted += accepted
        if self.x is not None:
            self.x[row] = state.x


def state_of(
    model: RecordModel, mechanism: Mechanism, release: Array, theta: Array, x: Array
) -> ChainState:
    """The state of a chain at these parameters and records."""
    t = statistics(model, mechanism, x, release)
    S = t.sum(axis=0)
    return ChainState(theta, x, t, S, float(mechanism.log_density(release, S)))


def statistics(model: RecordModel, mechanism: Mechanism, x: Array, release: Array) -> Array:
    """t_i for every record, (n, m), or the one row (1, m) of a statistic that is no sum over records."""
    t = np.asarray(mechanism.statistic(model, x, release), dtype=float)
    return np.ascontiguousarray(np.atleast_2d(t) if not is_additive(model) else t)


def is_additive(model: RecordModel) -> bool:
    return bool(getattr(model, "additive", True))


def sums_the_model(mechanism: Mechanism) -> bool:
    """Whether release and totals are those of the model's own statistic, entry by entry."""
    return not mechanism.needs_release and type(mechanism).statistic is Mechanism.statistic


def as_matrix(x: Array) -> Array:
    return np.ascontiguousarray(x, dtype=float)


def compiled_steps(
    model: RecordModel, mechanism: Mechanism
) -> tuple[CompiledModel, CompiledDensity] | None:
    """The compiled model and mechanism, if both are there and the statistic is the model's own."""
    if not sums_the_model(mechanism) or not is_additive(model):
        return None
    compiled_model = model.compiled() if hasattr(model, "compiled") else None
    density = mechanism.compiled(len(model.statistic_names))
    return None if compiled_model is None or density is None else (compiled_model, density)


# --- the density of the release -------------------------------------------------------------------------


class LogEta:
    """log g(s, S) as a function of (release, S), through compiled code where there is some.

    Parameters
    ----------
    mechanism : Mechanism
    model : RecordModel
    """

    def __init__(self, mechanism: Mechanism, model: RecordModel):
        self.mechanism = mechanism
        self.compiled = mechanism.compiled(len(model.statistic_names))
        self.is_separable = (
            self.compiled is not None and self.compiled.log_density is separable_log_density
        )
        self._constant: tuple[bytes, float] = (b"", 0.0)
        self._known: dict[tuple[bytes, bytes], float] = {}

    def __call__(self, release: Array, S: Array) -> float:
        if self.compiled is None:
            # totals of counts come back again and again
            key = (release.tobytes(), S.tobytes())
            if key not in self._known:
                if len(self._known) >= MOST_KNOWN:
                    self._known.clear()
                self._known[key] = float(self.mechanism.log_density(release, S))
            return self._known[key]
        return self.shifted(release, S) + self.constant(release)

    def shifted(self, release: Array, S: Array) -> float:
        """The compiled density, which may leave out a constant."""
        return self.compiled.log_density(release, S, self.compiled.constants)

    def constant(self, release: Array) -> float:
        """What the compiled density of additive noise leaves out: the log density at no noise.

        It must not depend on where a chain stands, or a resumed run would differ in its last digits.
        """
        if not self.is_separable:
            return 0.0
        key = release.tobytes()
        if self._constant[0] != key:
            self._constant = (key, float(self.mechanism.log_density(release, release)))
        return self._constant[1]


def refuse_nan(mechanism: Mechanism, log_eta: float | Array) -> None:
    """A density that is NaN decides nothing: it must not pass for one that accepts everything."""
    if np.isnan(log_eta).any():
        raise ValueError(
            f"the log density of {type(mechanism).__name__} is NaN for some totals of the records: it must be a number or "
            "-inf for all of them"
        )


# --- the accept step ----------------------------------------------------------------------------------


def accept_records(
    log_eta_of: LogEta,
    release: Array,
    t: Array,
    t_new: Array,
    S: Array,
    log_eta: float,
    inverse_temperature: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.bool_], Array, float]:
    """Accept or refuse proposals one after another on the running total.

    Parameters
    ----------
    log_eta_of : LogEta
        Without a compiled density, the mechanism's own is called proposal by proposal.
    release : ndarray of shape (m,)
    t, t_new : ndarray of shape (n, m)
        Statistics of current and of proposed units (records, or blocks of them).
    S : ndarray of shape (m,)
        Their running total.
    log_eta : float
        Log density at S.
    inverse_temperature : float
        Multiplies log densities; 1 but in early warm-up.
    rng : Generator

    Returns
    -------
    accepted : ndarray of bool, shape (n,)
    S : ndarray of shape (m,)
    log_eta : float
    """
    thresholds = -rng.standard_exponential(len(t))  # log uniforms
    density = log_eta_of.compiled
    if log_eta_of.mechanism.factorises:  # a record's own term of the sum is its log density
        change = (t_new - t).sum(axis=1)
        accepted = ~(inverse_temperature * change < thresholds)  # true where the change is NaN
        S = S + (t_new - t)[accepted].sum(axis=0)
        return accepted, S, float(S.sum())
    if density is not None:
        accepted, S = np.zeros(len(t), np.int64), S.copy()
        rest = (density.constants, release, t, t_new, S, inverse_temperature, thresholds, accepted)
        if log_eta_of.is_separable:
            log_eta = _accept_separable(*rest)
        else:
            log_eta = _accept_any(density.log_density, *rest)
        refuse_nan(log_eta_of.mechanism, log_eta)
        return accepted.astype(bool), S, log_eta + log_eta_of.constant(release)
    accepted = np.zeros(len(t), bool)
    for i in range(len(t)):
        S_new = S - t[i] + t_new[i]
        log_eta_new = log_eta_of(release, S_new)
        with np.errstate(invalid="ignore"):
            refused = inverse_temperature * (log_eta_new - log_eta) < thresholds[i]
        # outside the support the difference is NaN, and the chain is free to move until it is inside
        if not refused:
            accepted[i], S, log_eta = True, S_new, log_eta_new
    return accepted, S, log_eta


@numba.njit(inline="always")  # so that a density which is known beforehand is compiled in
def _accept(
    log_density, noise, release, t, t_new, S, log_eta, inverse_temperature, thresholds, accepted
):
    """Sequential accept steps; updates S and accepted (not t), returns the log density at the end, NaN if it was ever NaN."""
    n, m = t.shape
    S_new = np.empty(m)
    for i in range(n):
        for j in range(m):
            S_new[j] = S[j] - t[i, j] + t_new[i, j]
        log_eta_new = log_density(release, S_new, noise)
        if np.isnan(log_eta_new):
            return log_eta_new
        # true also where the difference is NaN: both totals are outside the support, and the move is free
        if not inverse_temperature * (log_eta_new - log_eta) < thresholds[i]:
            accepted[i] = 1
            log_eta = log_eta_new
            for j in range(m):
                S[j] = S_new[j]
    return log_eta


@compiled_function("float64", "log_density f f F F f x f I")
def _accept_any(
    log_density, noise, release, t, t_new, S, inverse_temperature, thresholds, accepted
):
    return _accept(
        log_density, noise, release, t, t_new, S, log_density(release, S, noise),
        inverse_temperature, thresholds, accepted,
    )  # fmt: skip


_separable = numba.njit(cache=True, error_model="numpy")(separable)


@compiled_function("float64", "f f F F f x f I")
def _accept_separable(noise, release, t, t_new, S, inverse_temperature, thresholds, accepted):
    """The same for separable noise; to hand a function over from Python costs more than a sweep."""
    return _accept(
        _separable, noise, release, t, t_new, S, _separable(release, S, noise),
        inverse_temperature, thresholds, accepted,
    )  # fmt: skip


@numba.njit(cache=True, error_model="numpy")
def sweep_compiled(
    posterior, records, constants, log_density, noise, release,
    theta, x, t, S, x_new, t_new, thresholds, accepted, inverse_temperature, rng,
):  # fmt: skip
    """Theta given records, then every record given theta and the release; returns the log density."""
    n, m = t.shape
    posterior(x, theta, constants, rng)
    records(theta, constants, rng, x_new, t_new)
    total(t, S)  # summed anew in every sweep, so that rounding errors cannot pile up
    for i in range(n):
        accepted[i] = 0
        thresholds[i] = -rng.standard_exponential()
    log_eta = _accept(
        log_density, noise, release, t, t_new, S, log_density(release, S, noise),
        inverse_temperature, thresholds, accepted,
    )  # fmt: skip
    for i in range(n):
        if accepted[i]:
            for j in range(m):
                t[i, j] = t_new[i, j]
            for j in range(x.shape[1]):
                x[i, j] = x_new[i, j]
    return log_eta


@numba.njit(cache=True)
def total(t, S):
    """S = the column sums of t."""
    for j in range(t.shape[1]):
        S[j] = 0.0
    for i in range(t.shape[0]):
        for j in range(t.shape[1]):
            S[j] += t[i, j]


# --- sweeps that stay in Python ------------------------------------------------------------------------


def sweep_records(
    model: RecordModel,
    log_eta_of: LogEta,
    state: ChainState,
    release: Array,
    inverse_temperature: float,
    rng: np.random.Generator,
    block_size: int = 1,
) -> tuple[ChainState, NDArray[np.bool_]]:
    """Move every record given theta and the release, `block_size` records at a time."""
    n, mechanism = len(state.x), log_eta_of.mechanism
    x_new = as_matrix(model.sample_records(state.theta, n, rng))
    if not is_additive(model):
        return _sweep_whole_statistic(
            model, log_eta_of, state, x_new, release, inverse_temperature, rng
        )
    t_new = statistics(model, mechanism, x_new, release)
    S = state.t.sum(axis=0)
    t_unit, t_new_unit, starts = state.t, t_new, np.arange(0, n, block_size)
    if block_size > 1:
        t_unit, t_new_unit = np.add.reduceat(state.t, starts), np.add.reduceat(t_new, starts)
    accepted, S, log_eta = accept_records(
        log_eta_of, release, t_unit, t_new_unit, S, state.log_eta, inverse_temperature, rng
    )
    if block_size > 1:
        accepted = np.repeat(accepted, np.diff(np.append(starts, n)))
    state.x[accepted], state.t[accepted] = x_new[accepted], t_new[accepted]
    return ChainState(state.theta, state.x, state.t, S, log_eta), accepted


def _sweep_whole_statistic(model, log_eta_of, state, x_new, release, inverse_temperature, rng):
    x, t, S, log_eta = state.x, state.t, state.S, state.log_eta
    thresholds = -rng.standard_exponential(len(x))
    accepted = np.zeros(len(x), bool)
    for i in range(len(x)):
        old = x[i].copy()
        x[i] = x_new[i]
        t_new = statistics(model, log_eta_of.mechanism, x, release)
        log_eta_new = log_eta_of(release, t_new[0])
        with np.errstate(invalid="ignore"):
            refused = inverse_temperature * (log_eta_new - log_eta) < thresholds[i]
        if refused:
            x[i] = old
        else:
            accepted[i], t, S, log_eta = True, t_new, t_new[0], log_eta_new
    return ChainState(state.theta, x, t, S, log_eta), accepted


def run_sweeps(
    kernel, state: ChainState, release: Array, rng: np.random.Generator, trace: Trace, rows: range
) -> ChainState:
    """Many sweeps, compiled where the kernel can, kept in the rows of a trace."""
    compiled = getattr(kernel, "can_run", False)
    if compiled and trace.x is None:
        return kernel.run(state, release, rng, trace, rows)
    for row in rows:
        if compiled:
            state = kernel.run(state, release, rng, trace, range(row, row + 1))
        else:
            state, info = kernel.sweep(state, release, rng)
            trace.record(row, state, info)
    return state
