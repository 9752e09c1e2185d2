r"""Interweaving: plain sweeps, and between them moves of theta that take the latent records along.

Given the records, theta can only move as far as n complete records allow, though the noisy release allows far more; so the
plain sampler crawls when the privacy budget is small. Write the records as :math:`x = G(u, \theta)` with noise u whose law
does not depend on theta (residuals, quantiles). Given u,

.. math::  p(\theta \mid u, s) \propto p(\theta)\; g\{s, \textstyle\sum_i t_i(G_i(u, \theta))\},

in which only the noise of the release holds theta back. After each plain sweep one draws u given (x, theta), moves theta
in this distribution, and sets x = G(u, theta) (the ancillarity-sufficiency interweaving strategy). The move is

- an elliptical slice where the prior of theta is Gaussian;
- else a slice for each coordinate, where the model knows its log prior;
- else a proposal from the prior, accepted with the ratio of g.

All leave the posterior exactly invariant. With very little noise the move is small and not worth its cost: an adaptive
kernel compares the expected squared jump distance over cost with and without it during warm-up, then keeps to the better.
Cost is counted in passes over the records rather than in seconds, so that results do not depend on the machine.

Cost: a plain sweep, and O(nm) for each point at which a slice looks (some 3 to 10).

References: Yu, Y. and Meng, X.-L. (2011). To center or not to center: that is not the question. Journal of Computational
and Graphical Statistics 20, 531-570. Murray, I., Adams, R. P. and MacKay, D. J. C. (2010). Elliptical slice sampling.
AISTATS. Neal, R. M. (2003). Slice sampling. Annals of Statistics 31, 705-767.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from ..compiled import compiled_function
from ..protocols import Array, ChainState, Mechanism, RecordModel
from .chain import (
    PASSES,
    Trace,
    as_matrix,
    compiled_steps,
    statistics,
    sweep_compiled,
    total,
)
from .mwg import MetropolisWithinGibbs, finish_run

ELLIPTICAL, SLICE, PRIOR = 0, 1, 2
MOST_STEPS = 60  # of a slice, so that rounding errors cannot hold it up for ever
N_PRIOR_DRAWS = 200


class Interweaving:
    """Plain sweeps with a move of theta given the ancillary noise after each.

    Parameters
    ----------
    model : RecordModel
        With `to_ancillary` and `from_ancillary`.
    mechanism : Mechanism
    adaptive : bool, default=False
        Whether to leave the move out where warm-up shows that it is not worth its cost.

    Attributes
    ----------
    settings : dict
        ``interweave`` (1 or 0) and ``widths`` (k,) of the coordinates' slices: set in warm-up, then frozen.
    """

    name = "interweave"

    def __init__(self, model: RecordModel, mechanism: Mechanism, adaptive: bool = False):
        if not has_ancillary(model):
            raise ValueError(
                f'kernel="interweave" needs a model with to_ancillary and from_ancillary, which '
                f'{type(model).__name__} does not have; take kernel="mwg"'
            )
        self.model = model
        self.mechanism = mechanism
        self.plain = MetropolisWithinGibbs(model, mechanism)
        self.move = move_of(model)
        self.inverse_temperature = 1.0
        self.settings: dict[str, Any] = {"interweave": 1, "widths": prior_widths(model)}
        self.trials = [{"interweave": 1}, {"interweave": 0}] if adaptive else []
        self.mean, self.factor = np.zeros(1), np.zeros((1, 1))
        if self.move == ELLIPTICAL:
            mean, covariance = model.prior_gaussian()
            self.mean = np.ascontiguousarray(mean, dtype=float)
            self.factor = np.ascontiguousarray(np.linalg.cholesky(np.atleast_2d(covariance)))
        self.steps = compiled_steps(model, mechanism)
        self.can_run = (
            self.steps is not None
            and self.steps[0].to_ancillary is not None
            and (self.move == ELLIPTICAL or self.steps[0].log_prior is not None)
        )

    def tune(self, theta: Array) -> None:
        """Set the widths of the slices from draws of theta (rows, k) in warm-up."""
        spread = np.std(theta, axis=0)
        self.settings["widths"] = np.where(spread > 0, 3 * spread, self.settings["widths"])

    def sweep(
        self, state: ChainState, release: Array, rng: np.random.Generator
    ) -> tuple[ChainState, dict[str, Any]]:
        """A plain sweep, then theta given the ancillary noise and the release."""
        self.plain.inverse_temperature = self.inverse_temperature
        state, info = self.plain.sweep(state, release, rng)
        if not self.settings["interweave"]:
            return state, {**info, "cost": PASSES}
        model, beta = self.model, self.inverse_temperature
        u = model.to_ancillary(state.x, state.theta, rng)
        n_looks = 0

        def look(theta: Array) -> tuple[float, ChainState]:
            nonlocal n_looks
            n_looks += 1
            x = as_matrix(model.from_ancillary(u, theta))
            t = statistics(model, self.mechanism, x, release)
            S = t.sum(axis=0)
            log_eta = self.plain.log_eta(release, S)
            return beta * log_eta, ChainState(theta, x, t, S, log_eta)

        if self.move == ELLIPTICAL:
            state = elliptical_slice(state, beta * state.log_eta, look, self.mean, self.factor, rng)
        elif self.move == SLICE:
            state = coordinate_slices(
                state, beta, look, model.log_prior, self.settings["widths"], rng
            )
        else:
            level = beta * state.log_eta - rng.standard_exponential()
            log_eta, proposal = look(np.asarray(model.sample_prior(rng), dtype=float))
            state = proposal if log_eta > level else state
        return state, {**info, "cost": PASSES + 1 + n_looks}

    def run(
        self, state: ChainState, release: Array, rng: np.random.Generator, trace: Trace, rows: range
    ) -> ChainState:
        """Many sweeps without leaving compiled code."""
        if not self.settings["interweave"]:
            self.plain.inverse_temperature = self.inverse_temperature
            return self.plain.run(state, release, rng, trace, rows)
        model, density = self.steps
        _run(
            model.posterior, model.records, model.to_ancillary, model.from_ancillary,
            # a Gaussian prior's density is not looked at; any step of its kind stands in
            _no_log_prior if model.log_prior is None else model.log_prior,
            model.constants, density.log_density, density.constants,
            release, state.theta, state.x, state.t, state.S, self.inverse_temperature, rng,
            self.move, self.mean, self.factor, np.asarray(self.settings["widths"], dtype=float),
            trace.theta, trace.S, trace.log_eta, trace.accept_rate, trace.cost, trace.record_accepted,
            rows.start, rows.stop, trace.n_warmup,
        )  # fmt: skip
        return finish_run(self.plain.log_eta, state, release, trace, rows)


def has_ancillary(model: RecordModel) -> bool:
    """Whether records can be written as a function of theta and of noise free of it."""
    return hasattr(model, "to_ancillary") and hasattr(model, "from_ancillary")


def can_interweave(model: RecordModel) -> bool:
    """Whether there is a move of theta given the noise: proposals from the prior need one that can be drawn from."""
    if not has_ancillary(model):
        return False
    if move_of(model) == PRIOR:
        try:
            model.sample_prior(np.random.default_rng(0))
        except ValueError:
            return False
    return True


def move_of(model: RecordModel) -> int:
    """Which of the three moves a model allows."""
    if hasattr(model, "prior_gaussian") and model.prior_gaussian() is not None:
        return ELLIPTICAL
    return SLICE if hasattr(model, "log_prior") else PRIOR


def prior_widths(model: RecordModel) -> Array:
    """Interquartile ranges of the prior: widths that slices start with (fixed seed, so that all chains agree)."""
    rng = np.random.default_rng(0)
    try:
        draws = np.array([model.sample_prior(rng) for _ in range(N_PRIOR_DRAWS)])
    except ValueError:  # an improper prior
        return np.ones(len(model.parameter_names))
    low, high = np.quantile(draws, [0.25, 0.75], axis=0)
    return np.where(high > low, high - low, 1.0)


def elliptical_slice(
    state: ChainState,
    log_likelihood: float,
    look: Callable[[Array], tuple[float, ChainState]],
    mean: Array,
    factor: Array,
    rng: np.random.Generator,
) -> ChainState:
    """One draw on a random ellipse through theta, under a Gaussian prior (mean, factor factor')."""
    nu = factor @ rng.standard_normal(len(mean))
    level = log_likelihood - rng.standard_exponential()
    angle = 2 * np.pi * rng.random()
    low, high = angle - 2 * np.pi, angle
    for _ in range(MOST_STEPS):
        log_likelihood, proposal = look(
            mean + (state.theta - mean) * np.cos(angle) + nu * np.sin(angle)
        )
        if log_likelihood > level:
            return proposal
        low, high = (angle, high) if angle < 0 else (low, angle)
        angle = low + (high - low) * rng.random()
    return state


def coordinate_slices(
    state: ChainState,
    inverse_temperature: float,
    look: Callable[[Array], tuple[float, ChainState]],
    log_prior: Callable[[Array], float],
    widths: Array,
    rng: np.random.Generator,
) -> ChainState:
    """A slice for each coordinate of theta in turn, stepping out and shrinking."""

    def at(j: int, value: float) -> tuple[float, ChainState | None]:
        theta = state.theta.copy()
        theta[j] = value
        prior = log_prior(theta)
        if not prior > -np.inf:
            return -np.inf, None
        log_likelihood, proposal = look(theta)
        return prior + log_likelihood, proposal

    for j in range(len(state.theta)):
        here = state.theta[j]
        level = (
            log_prior(state.theta)
            + inverse_temperature * state.log_eta
            - rng.standard_exponential()
        )
        low = here - widths[j] * rng.random()
        high = low + widths[j]
        n_left = int(MOST_STEPS * rng.random())  # a random share, so that the limit keeps the law
        for _ in range(n_left):
            if not at(j, low)[0] > level:
                break
            low -= widths[j]
        for _ in range(MOST_STEPS - 1 - n_left):
            if not at(j, high)[0] > level:
                break
            high += widths[j]
        for _ in range(MOST_STEPS):
            value = low + (high - low) * rng.random()
            density, proposal = at(j, value)
            if density > level:
                state = proposal
                break
            low, high = (value, high) if value < here else (low, value)
    return state


# --- compiled ---------------------------------------------------------------------------------------


@numba.njit(cache=True, error_model="numpy")
def _look(from_ancillary, constants, log_density, noise, release, u, theta, x_new, t_new, S_new):
    from_ancillary(u, theta, constants, x_new, t_new)
    total(t_new, S_new)
    return log_density(release, S_new, noise)


@numba.njit(cache=True, error_model="numpy")
def _elliptical(
    from_ancillary, constants, log_density, noise, release, u, theta, x, t, S, log_eta,
    theta_new, x_new, t_new, S_new, inverse_temperature, mean, factor, rng,
):  # fmt: skip
    k = len(theta)
    z, nu = np.empty(k), np.zeros(k)
    for j in range(k):
        z[j] = rng.standard_normal()
        for l in range(j + 1):
            nu[j] += factor[j, l] * z[l]
    level = inverse_temperature * log_eta - rng.standard_exponential()
    angle = 2 * np.pi * rng.random()
    low, high = angle - 2 * np.pi, angle
    for look in range(MOST_STEPS):
        for j in range(k):
            theta_new[j] = mean[j] + (theta[j] - mean[j]) * np.cos(angle) + nu[j] * np.sin(angle)
        log_eta_new = _look(
            from_ancillary,
            constants,
            log_density,
            noise,
            release,
            u,
            theta_new,
            x_new,
            t_new,
            S_new,
        )
        if np.isnan(log_eta_new):
            return log_eta_new, look + 1
        if inverse_temperature * log_eta_new > level:
            theta[:], x[:], t[:], S[:] = theta_new, x_new, t_new, S_new
            return log_eta_new, look + 1
        if angle < 0:
            low = angle
        else:
            high = angle
        angle = low + (high - low) * rng.random()
    return log_eta, MOST_STEPS


@numba.njit(cache=True, error_model="numpy")
def _slices(
    from_ancillary, log_prior, constants, log_density, noise, release, u, theta, x, t, S, log_eta,
    theta_new, x_new, t_new, S_new, inverse_temperature, widths, rng,
):  # fmt: skip
    n_looks = 0
    for j in range(len(theta)):
        here = theta[j]
        theta_new[:] = theta
        level = (
            log_prior(theta, constants) + inverse_temperature * log_eta - rng.standard_exponential()
        )
        low = here - widths[j] * rng.random()
        high = low + widths[j]
        ends = np.array([low, high])
        n_left = int(MOST_STEPS * rng.random())
        for end in range(2):
            for _ in range(n_left if end == 0 else MOST_STEPS - 1 - n_left):
                theta_new[j] = ends[end]
                density = log_prior(theta_new, constants)
                if density > -np.inf:
                    n_looks += 1
                    density += inverse_temperature * _look(
                        from_ancillary, constants, log_density, noise, release, u,
                        theta_new, x_new, t_new, S_new,
                    )  # fmt: skip
                if not density > level:
                    break
                ends[end] += widths[j] if end == 1 else -widths[j]
        low, high = ends
        for _ in range(MOST_STEPS):
            theta_new[j] = low + (high - low) * rng.random()
            density, log_eta_new = log_prior(theta_new, constants), log_eta
            if density > -np.inf:
                n_looks += 1
                log_eta_new = _look(
                    from_ancillary, constants, log_density, noise, release, u,
                    theta_new, x_new, t_new, S_new,
                )  # fmt: skip
                density += inverse_temperature * log_eta_new
            if density > level:
                theta[:], x[:], t[:], S[:], log_eta = theta_new, x_new, t_new, S_new, log_eta_new
                break
            if theta_new[j] < here:
                low = theta_new[j]
            else:
                high = theta_new[j]
    return log_eta, n_looks


@compiled_function(
    "void",
    "posterior records to_ancillary from_ancillary log_prior f log_density f f f F F f x g i f F f "
    "F F f f f I i i i",
)
def _run(
    posterior, records, to_ancillary, from_ancillary, log_prior, constants, log_density, noise,
    release, theta, x, t, S, inverse_temperature, rng, move, mean, factor, widths,
    trace_theta, trace_S, trace_log_eta, trace_rate, trace_cost, record_accepted, start, stop, n_warmup,
):  # fmt: skip
    n = x.shape[0]
    u, x_new, t_new = np.empty_like(x), np.empty_like(x), np.empty_like(t)
    theta_new, S_new = np.empty_like(theta), np.empty_like(S)
    thresholds, accepted = np.empty(n), np.zeros(n, np.int64)
    for row in range(start, stop):
        log_eta = sweep_compiled(
            posterior, records, constants, log_density, noise, release, theta, x, t, S,
            x_new, t_new, thresholds, accepted, inverse_temperature, rng,
        )  # fmt: skip
        to_ancillary(x, theta, constants, rng, u)
        if move == ELLIPTICAL:
            log_eta, n_looks = _elliptical(
                from_ancillary, constants, log_density, noise, release, u, theta, x, t, S, log_eta,
                theta_new, x_new, t_new, S_new, inverse_temperature, mean, factor, rng,
            )  # fmt: skip
        else:
            log_eta, n_looks = _slices(
                from_ancillary, log_prior, constants, log_density, noise, release, u, theta, x, t, S,
                log_eta, theta_new, x_new, t_new, S_new, inverse_temperature, widths, rng,
            )  # fmt: skip
        n_accepted = 0
        for i in range(n):
            n_accepted += accepted[i]
            if row >= n_warmup:
                record_accepted[i] += accepted[i]
        trace_rate[row] = n_accepted / n
        trace_cost[row] = PASSES + 1 + n_looks
        trace_theta[row] = theta
        trace_S[row] = S
        trace_log_eta[row] = log_eta


@compiled_function("float64", "f f")
def _no_log_prior(theta, constants):
    return 0.0
