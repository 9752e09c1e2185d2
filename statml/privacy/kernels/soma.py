r"""SOMA: one new record is offered to all n places at once.

Draw :math:`x^* \sim f(\cdot \mid \theta)`; let :math:`w_i` be the density of the release with record i replaced by it and
:math:`w_0` the present one. Pick a place i with probability :math:`w_i / W`, :math:`W = w_1 + \dots + w_n`, and accept with
probability

.. math::  \min\{1,\; W / (W - w_i + w_0)\}:

Liu's metropolised Gibbs step on which of the n + 1 records is left out. It accepts at least with probability
:math:`n / (n + e^\epsilon - 1)`, and so helps where epsilon is large and the paper's kernel refuses most proposals.

It is valid only if all records are exchangeable and have the same statistic: with a statistic that depends on the place (randomised
response) the reverse move has other weights. Such mechanisms and models are refused.

Cost: O(nm) an offer, hence O(n^2 m) for the n offers of a sweep.

Reference: Xiong, Y. and Ju, N. (2025). SOMA: a novel sampler for Bayesian inference from privatized data. arXiv 2505.00635.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ..compiled import compiled_function, separable
from ..protocols import Array, ChainState, Mechanism, RecordModel
from .chain import LogEta, as_matrix, is_additive, statistics


class Soma:
    """One offer to all places at once, n times a sweep.

    Parameters
    ----------
    model : RecordModel
        Of exchangeable records.
    mechanism : Mechanism

    Raises
    ------
    ValueError
        If the statistic of a record depends on its place or on the release of its place.
    """

    name = "soma"

    def __init__(self, model: RecordModel, mechanism: Mechanism):
        if (
            mechanism.factorises
            or not is_additive(model)
            or not getattr(model, "exchangeable", True)
        ):
            raise ValueError(
                'kernel="soma" needs exchangeable records with one and the same statistic, which '
                f"{type(model).__name__} with {type(mechanism).__name__} does not have; "
                'take kernel="mwg"'
            )
        self.model = model
        self.mechanism = mechanism
        self.log_eta = LogEta(mechanism, model)
        self.inverse_temperature = 1.0
        self._checked = False

    def sweep(
        self, state: ChainState, release: Array, rng: np.random.Generator
    ) -> tuple[ChainState, dict[str, Any]]:
        """Theta given the records, then n offers."""
        if not self._checked:
            check_exchangeable(self.model, self.mechanism, state.x, release)
            self._checked = True
        n = len(state.x)
        state.theta = np.asarray(self.model.draw_posterior(state.x, state.theta, rng), dtype=float)
        offers = as_matrix(self.model.sample_records(state.theta, n, rng))
        t_offers = statistics(self.model, self.mechanism, offers, release)
        uniforms, S = rng.random((n, 2)), state.t.sum(axis=0)
        place = np.full(n, -1, dtype=np.int64)  # where an offer ends; -1: nowhere
        beta = self.inverse_temperature
        compiled = self.log_eta.compiled
        if compiled is not None and self.log_eta.is_separable:
            _offer_all(compiled.constants, release, state.t, t_offers, S, beta, uniforms, place)
        else:
            self._offer_all(release, state.t, t_offers, S, beta, uniforms, place)
        for k in np.flatnonzero(place >= 0):
            state.x[place[k]] = offers[k]
        state.S, state.log_eta = S, self.log_eta(release, S)
        return state, {"accepted": float((place >= 0).mean()), "cost": float(n)}

    def _offer_all(self, release, t, t_offers, S, beta, uniforms, place) -> None:
        for k, t_offer in enumerate(t_offers):
            now = beta * self.mechanism.log_density(release, S)
            log_w = beta * self.mechanism.log_density(release, S - t + t_offer)
            i, accepted = _choose(np.asarray(log_w, dtype=float), float(now), *uniforms[k])
            if accepted:
                S += t_offer - t[i]
                t[i] = t_offer
                place[k] = i


def check_exchangeable(model: RecordModel, mechanism: Mechanism, x: Array, release: Array) -> None:
    """Refuse a statistic that changes with the order of the records."""
    t = statistics(model, mechanism, x, release)
    if not np.allclose(statistics(model, mechanism, x[::-1], release)[::-1], t, rtol=1e-9):
        raise ValueError(
            'kernel="soma" needs the same statistic for every record, but that of '
            f'{type(model).__name__} depends on the place of the record; take kernel="mwg"'
        )


@numba.njit(cache=True)
def _choose(log_w, log_w0, u_place, u_accept):
    """The place picked with probability proportional to w, and whether the offer is accepted there."""
    top = max(log_w.max(), log_w0)
    if top == -np.inf:  # outside the support every move is free
        return int(u_place * len(log_w)), True
    w = np.exp(log_w - top)
    total = w.sum()
    if total == 0.0:
        return 0, False
    i, partial = 0, w[0]
    while partial < u_place * total and i < len(w) - 1:
        i += 1
        partial += w[i]
    others = total - w[i] + np.exp(log_w0 - top)
    return i, u_accept * others < total


_separable = numba.njit(cache=True, error_model="numpy")(separable)


@compiled_function("void", "f f F F f x F I")
def _offer_all(noise, release, t, t_offers, S, beta, uniforms, place):
    n, m = t.shape
    S_new, log_w = np.empty(m), np.empty(n)
    for k in range(n):
        for i in range(n):
            for j in range(m):
                S_new[j] = S[j] - t[i, j] + t_offers[k, j]
            log_w[i] = beta * _separable(release, S_new, noise)
        now = beta * _separable(release, S, noise)
        i, accepted = _choose(log_w, now, uniforms[k, 0], uniforms[k, 1])
        if accepted:
            place[k] = i
            for j in range(m):
                S[j] += t_offers[k, j] - t[i, j]
                t[i, j] = t_offers[k, j]
