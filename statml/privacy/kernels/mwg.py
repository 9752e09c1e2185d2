r"""Metropolis within Gibbs: the data-augmentation sampler of the paper.

One sweep:

1. :math:`\theta \sim p(\theta \mid x)`, or any step that leaves it invariant;
2. for i = 1, ..., n: propose :math:`x_i^* \sim f(\cdot \mid \theta)`, let :math:`S^* = S - t_i(x_i) + t_i(x_i^*)`, and accept
   with probability :math:`\min\{1, g(s, S^*) / g(s, S)\}`.

The model's density cancels, so that only the mechanism enters. If the mechanism is epsilon-differentially private, every
acceptance probability is at least :math:`e^{-\epsilon}`; on average it is far higher.

Cost of a sweep: n draws of a record, O(nm) for the accept step, one posterior draw.

Reference: Ju, N., Awan, J. A., Gong, R. and Rao, V. A. (2022). Data augmentation MCMC for Bayesian inference from
privatized data. NeurIPS.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compiled import compiled_function
from ..protocols import Array, ChainState, Mechanism, RecordModel
from .chain import LogEta, Trace, compiled_steps, refuse_nan, sweep_compiled, sweep_records


class MetropolisWithinGibbs:
    """The paper's kernel.

    Parameters
    ----------
    model : RecordModel
    mechanism : Mechanism

    Attributes
    ----------
    inverse_temperature : float
        Power of the release's density; 1 but in early warm-up.
    can_run : bool
        Whether model and mechanism are compiled, so that `run` can be used.
    """

    name = "mwg"

    def __init__(self, model: RecordModel, mechanism: Mechanism):
        self.model = model
        self.mechanism = mechanism
        self.inverse_temperature = 1.0
        self.log_eta = LogEta(mechanism, model)
        self.steps = compiled_steps(model, mechanism)
        self.can_run = self.steps is not None

    def sweep(
        self, state: ChainState, release: Array, rng: np.random.Generator
    ) -> tuple[ChainState, dict[str, Any]]:
        """Theta given the records, then each record given theta and the release."""
        state.theta = np.asarray(self.model.draw_posterior(state.x, state.theta, rng), dtype=float)
        state, accepted = sweep_records(
            self.model, self.log_eta, state, release, self.inverse_temperature, rng
        )
        return state, {"accepted": accepted}

    def run(
        self,
        state: ChainState,
        release: Array,
        rng: np.random.Generator,
        trace: Trace,
        rows: range,
    ) -> ChainState:
        """Many sweeps without leaving compiled code."""
        model, density = self.steps
        _run(
            model.posterior, model.records, model.constants, density.log_density, density.constants,
            release, state.theta, state.x, state.t, state.S, self.inverse_temperature, rng,
            trace.theta, trace.S, trace.log_eta, trace.accept_rate, trace.record_accepted,
            rows.start, rows.stop, trace.n_warmup,
        )  # fmt: skip
        return finish_run(self.log_eta, state, release, trace, rows)


def finish_run(
    log_eta: LogEta, state: ChainState, release: Array, trace: Trace, rows: range
) -> ChainState:
    """Complete what compiled sweeps have written."""
    state.log_eta = log_eta(release, state.S)
    trace.log_eta[rows.start : rows.stop] += log_eta.constant(release)
    refuse_nan(log_eta.mechanism, trace.log_eta[rows.start : rows.stop])
    if trace.x is not None:
        trace.x[rows.stop - 1] = state.x
    trace.n[rows.start : rows.stop] = len(state.x)
    return state


@compiled_function("void", "posterior records f log_density f f f F F f x g F F f f I i i i")
def _run(
    posterior, records, constants, log_density, noise, release, theta, x, t, S,
    inverse_temperature, rng,
    trace_theta, trace_S, trace_log_eta, trace_rate, record_accepted, start, stop, n_warmup,
):  # fmt: skip
    n = x.shape[0]
    x_new, t_new = np.empty_like(x), np.empty_like(t)
    thresholds, accepted = np.empty(n), np.zeros(n, np.int64)
    for row in range(start, stop):
        trace_log_eta[row] = sweep_compiled(
            posterior, records, constants, log_density, noise, release, theta, x, t, S,
            x_new, t_new, thresholds, accepted, inverse_temperature, rng,
        )  # fmt: skip
        n_accepted = 0
        for i in range(n):
            n_accepted += accepted[i]
            if row >= n_warmup:
                record_accepted[i] += accepted[i]
        trace_rate[row] = n_accepted / n
        trace_theta[row] = theta
        trace_S[row] = S
