r"""Gibbs sampling on counts, for local privacy: every person's category was replaced at random with known probabilities.

Given theta, the true categories are independent over persons,
:math:`P(x_i = k \mid s_i, \theta) \propto p_k(\theta) Q_{k s_i}`, so that of the persons who gave the same answer l the numbers in each
true category are multinomial. Only these numbers matter for theta, whose posterior given counts is conjugate. Hence no
record is ever stored and nothing is refused.

Cost of a sweep: O(KL) for K categories and L answers, whatever n is. Where theta are the probabilities themselves, with a Dirichlet prior
``model.alpha``, sweeps run compiled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..compiled import compiled_function
from ..protocols import Array, ChainState, Mechanism, RecordModel
from .chain import Trace


class CountGibbs:
    """True counts given theta and the answers, then theta given the counts.

    Parameters
    ----------
    model : RecordModel
        Of categories: its statistic is one-hot, or 0 and 1. With `moments` and `draw_from_totals`.
    mechanism : RandomizedResponse
    """

    name = "gibbs"

    def __init__(self, model: RecordModel, mechanism: Mechanism):
        if not allows_gibbs(model, mechanism):
            raise ValueError(
                'kernel="gibbs" needs RandomizedResponse and a model of categories whose statistic is one-hot (or 0 and '
                f"1), with moments and draw_from_totals; got {type(mechanism).__name__} and "
                f"{type(model).__name__}"
            )
        self.model = model
        self.mechanism = mechanism
        self.inverse_temperature = 1.0
        alpha = getattr(model, "alpha", None)
        self.can_run = alpha is not None and len(model.parameter_names) == len(mechanism.Q) == len(
            alpha
        )

    def run(
        self, state: ChainState, release: Array, rng: np.random.Generator, trace: Trace, rows: range
    ) -> ChainState:
        """Many sweeps without leaving compiled code."""
        Q = self.mechanism.Q
        answers = np.bincount(release.astype(np.int64), minlength=Q.shape[1])
        theta, S = np.array(state.theta, dtype=float), np.array(state.S, dtype=float)
        _run(
            np.asarray(self.model.alpha, dtype=float), np.ascontiguousarray(Q.T), answers, theta, S, rng,
            trace.theta, trace.S, trace.log_eta, rows.start, rows.stop,
        )  # fmt: skip
        here = slice(rows.start, rows.stop)
        trace.accept_rate[here], trace.cost[here], trace.n[here] = 1.0, 1.0, len(release)
        return replace(state, theta=theta, S=S, log_eta=float(trace.log_eta[rows.stop - 1]))

    def start(self, state: ChainState) -> ChainState:
        """The first state: its S holds the counts of the latent records."""
        return replace(state, S=np.asarray(self.model.statistic(state.x), dtype=float).sum(axis=0))

    def sweep(
        self, state: ChainState, release: Array, rng: np.random.Generator
    ) -> tuple[ChainState, dict[str, Any]]:
        """One sweep; the latent records of the state stay as they are, its S holds the true counts."""
        n, Q = len(release), self.mechanism.Q
        one_column = len(self.model.statistic_names) == 1
        answers = np.bincount(release.astype(np.int64), minlength=Q.shape[1])
        p = np.clip(self.model.moments(state.theta, n)[0], 0, 1)
        p = np.array([1 - p[0], p[0]]) if one_column else p / p.sum()
        true = np.zeros(len(p))
        log_eta = 0.0
        for answer in np.flatnonzero(answers):
            weights = p * Q[:, answer]
            drawn = rng.multinomial(answers[answer], weights / weights.sum())
            true += drawn
            moved = drawn > 0
            log_eta += float(drawn[moved] @ np.log(Q[moved, answer]))
        S = true[1:] if one_column else true
        theta = np.asarray(self.model.draw_from_totals(S, n, state.theta, rng), dtype=float)
        return ChainState(theta, state.x, state.t, S, log_eta), {"accepted": 1.0, "cost": 1.0}


def allows_gibbs(model: RecordModel, mechanism: Mechanism) -> bool:
    """Whether answers are categories replaced at random, and the model is conjugate for category counts."""
    Q = getattr(mechanism, "Q", None)
    if not mechanism.factorises or Q is None:
        return False
    if not (hasattr(model, "moments") and hasattr(model, "draw_from_totals")):
        return False
    n_columns = len(model.statistic_names)
    if len(Q) != (2 if n_columns == 1 else n_columns):
        return False
    rng = np.random.default_rng(0)
    try:
        t = np.asarray(model.statistic(model.sample_records(model.sample_prior(rng), 50, rng)))
    except ValueError:  # an improper prior
        return False
    one_hot = np.isin(t, (0, 1)).all()
    return bool(one_hot and (n_columns == 1 or (t.sum(axis=1) == 1).all()))


@compiled_function("void", "f F I f f g F F f i i")
def _run(
    alpha, Q_of_answer, answers, theta, S, rng, trace_theta, trace_S, trace_log_eta, start, stop
):
    """Multinomial counts as a chain of binomials, then Dirichlet probabilities as normalised gammas."""
    L, K = Q_of_answer.shape
    for row in range(start, stop):
        S[:] = 0.0
        log_eta = 0.0
        for l in range(L):
            rest, weight = answers[l], 0.0
            for k in range(K):
                weight += theta[k] * Q_of_answer[l, k]
            for k in range(K):
                if rest == 0:
                    break
                share = theta[k] * Q_of_answer[l, k]
                if share >= weight:
                    drawn = rest  # the last category that is possible takes what is left
                elif share > 0.0:
                    drawn = rng.binomial(rest, share / weight)
                else:
                    drawn = 0
                weight -= share
                rest -= drawn
                S[k] += drawn
                if drawn > 0:
                    log_eta += drawn * np.log(Q_of_answer[l, k])
        total = 0.0
        for k in range(K):
            theta[k] = rng.standard_gamma(alpha[k] + S[k])
            total += theta[k]
        for k in range(K):
            theta[k] /= total
        trace_theta[row], trace_S[row], trace_log_eta[row] = theta, S, log_eta
