r"""Unknown number of records: reversible jumps between a sweep and the next.

Where adding or removing a record must stay hidden as well (unbounded differential privacy), the number n of records is not
public; it has a prior p(n) and often a noisy release :math:`s_n` of its own. A jump tries, with probability 1/2 each,

- a birth: :math:`x^* \sim f(\cdot \mid \theta)`, put at a place drawn from the n + 1 possible ones;
- a death of one of the n records, drawn uniformly.

The two are each other's reverse with equal probabilities, and the model's density cancels, so that the acceptance ratio is

.. math::  \frac{g(s, S^*)\; g_n(s_n, n^*)\; p(n^*)}{g(s, S)\; g_n(s_n, n)\; p(n)};

a jump to n = 0 is refused. The birth must be at a random place: with births at the end and a systematic sweep over the records,
as in published code, places carry information and the posterior is not exactly invariant.

Cost: that of a plain sweep, and as much again for as many jumps as there are records.

Reference: Awan, J., Barrientos, A. F. and Ju, N. (2024). Statistical inference for privatized data with unknown sample size.
arXiv 2406.06231. The random place is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled_function, separable
from ..protocols import Array, ChainState, Kernel, Mechanism, RecordModel
from .chain import PASSES, LogEta, as_matrix, is_additive, statistics

FEWEST_JUMPS, MOST_JUMPS = 10, 1000  # a sweep


class ReversibleJump:
    """Jumps in the number of records after each sweep of another kernel.

    Parameters
    ----------
    inner : Kernel
        Moves parameters and records while n stays.
    model : RecordModel
        Its statistic must not depend on n.
    mechanism : Mechanism
    log_prior_n : callable
        Array of numbers of records -> log p(n), up to a constant.
    n_mechanism : Mechanism or None
        How the number of records was noised, where it was released: the last entry of the release.
    n_typical : int, default=100
        About as many jumps are tried a sweep. It is fixed for the whole chain: a number of jumps that followed the present n
        would not leave the posterior invariant.

    Raises
    ------
    ValueError
        If the mechanism or the statistic depends on the number of records.
    """

    def __init__(
        self,
        inner: Kernel,
        model: RecordModel,
        mechanism: Mechanism,
        log_prior_n: Callable[[NDArray[np.int64]], Array],
        n_mechanism: Mechanism | None = None,
        n_typical: int = 100,
    ):
        check_statistic_free_of_n(model, mechanism)
        self.inner = inner
        self.model = model
        self.mechanism = mechanism
        self.log_prior_n = log_prior_n
        self.n_mechanism = n_mechanism
        self.n_jumps = int(np.clip(n_typical, FEWEST_JUMPS, MOST_JUMPS))
        self.log_eta = LogEta(mechanism, model)
        self.name = f"{inner.name} with jumps in n"
        self.inverse_temperature = 1.0

    def sweep(
        self, state: ChainState, release: Array, rng: np.random.Generator
    ) -> tuple[ChainState, dict[str, Any]]:
        """A sweep of the inner kernel, then jumps."""
        s = release if self.n_mechanism is None else release[:-1]
        self.inner.inverse_temperature = self.inverse_temperature
        # not inner.run: to hand compiled steps over for a single sweep costs more than the sweep
        state, info = self.inner.sweep(state, s, rng)
        state, rate = self.jump(state, release, s, rng)
        return state, {
            "accepted": float(np.mean(info["accepted"])),
            "jump_rate": rate,
            "cost": info.get("cost", PASSES) + 2.0,
        }

    def jump(
        self, state: ChainState, release: Array, s: Array, rng: np.random.Generator
    ) -> tuple[ChainState, float]:
        """`n_jumps` jumps; returns the share of them that was accepted."""
        n, n_jumps = len(state.x), self.n_jumps
        births = as_matrix(self.model.sample_records(state.theta, n_jumps, rng))
        t_all = np.concatenate([state.t, statistics(self.model, self.mechanism, births, s)])
        n_low = max(n - n_jumps, 1)
        log_n = self.log_weight(np.arange(n_low, n + n_jumps + 1), release)
        order = np.concatenate([np.arange(n), np.zeros(n_jumps, dtype=np.int64)])
        S, uniforms = state.t.sum(axis=0), rng.random((n_jumps, 3))
        arguments = (
            s, t_all, order, n, S, log_n, n_low, self.inverse_temperature, uniforms
        )  # fmt: skip
        if self.log_eta.is_separable:
            n_new, n_accepted = divmod(
                _jump_separable(self.log_eta.compiled.constants, *arguments), n_jumps + 1
            )
        else:
            n_new, n_accepted = _jump_all(self.log_eta, *arguments)
        kept = order[:n_new]
        x, t = np.concatenate([state.x, births])[kept], t_all[kept]
        return ChainState(state.theta, x, t, S, self.log_eta(s, S)), n_accepted / n_jumps

    def log_weight(self, n: NDArray[np.int64], release: Array) -> Array:
        """log p(n) + log g_n(s_n, n)."""
        log_weight = np.asarray(self.log_prior_n(n), dtype=float)
        if self.n_mechanism is not None:
            log_weight = log_weight + self.n_mechanism.log_density(
                release[-1:], n[:, None].astype(float)
            )
        return log_weight


def check_statistic_free_of_n(model: RecordModel, mechanism: Mechanism) -> None:
    """Refuse what has no meaning with another number of records."""
    if mechanism.factorises or mechanism.release_size(len(model.statistic_names)) is None:
        raise ValueError(
            f"n_prior: {type(mechanism).__name__} releases an answer of every record, so that their number is known"
        )
    if getattr(model, "one_n_only", False):
        raise ValueError(f"n_prior: {type(model).__name__} is compiled for one number of records")
    rng = np.random.default_rng(0)
    x = as_matrix(model.sample_records(model.sample_prior(rng), 3, rng))
    if not is_additive(model) or not np.allclose(model.statistic(x[:1])[0], model.statistic(x)[0]):
        raise ValueError(
            f"n_prior: the statistic of {type(model).__name__} depends on the number of records (it is a mean, say); "
            "with unknown n take a model whose statistic is a sum"
        )


@numba.njit(inline="always")
def _jump(log_density, noise, release, t_all, order, n, S, log_n, n_low, beta, uniforms):
    n_start, n_accepted = n, 0
    log_eta = log_density(release, S, noise)
    for k in range(len(uniforms)):
        birth = uniforms[k, 0] < 0.5
        if birth:
            place, new = int(uniforms[k, 1] * (n + 1)), n_start + k
            S_new, n_new = S + t_all[new], n + 1
        else:
            place = int(uniforms[k, 1] * n)
            S_new, n_new = S - t_all[order[place]], n - 1
        if n_new < 1:
            continue
        log_eta_new = log_density(release, S_new, noise)
        change = beta * (log_eta_new - log_eta) + log_n[n_new - n_low] - log_n[n - n_low]
        if change >= 0 or uniforms[k, 2] < np.exp(change):
            if birth:
                for i in range(n, place, -1):
                    order[i] = order[i - 1]
                order[place] = new
            else:
                for i in range(place, n - 1):
                    order[i] = order[i + 1]
            n, log_eta = n_new, log_eta_new
            S[:] = S_new
            n_accepted += 1
    return n, n_accepted


def _jump_all(log_eta_of, *arguments):
    """The same loop in Python, for mechanisms without a compiled density."""
    return _jump.py_func(lambda s, S, _: log_eta_of(s, S), None, *arguments)


_separable = numba.njit(cache=True, error_model="numpy")(separable)


@compiled_function("int64", "f f F I i f f i x F")
def _jump_separable(noise, release, t_all, order, n, S, log_n, n_low, beta, uniforms):
    """The new n and the number of accepted jumps in one integer."""
    n, n_accepted = _jump(
        _separable, noise, release, t_all, order, n, S, log_n, n_low, beta, uniforms
    )
    return n * (len(uniforms) + 1) + n_accepted
