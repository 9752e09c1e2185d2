r"""Gibbs sampling on counts, for local privacy: every person's category was replaced at random with known probabilities.

Given theta, the true categories are independent over persons,
:math:`P(x_i = k \mid s_i, \theta) \propto p_k(\theta) Q_{k s_i}`, so that of the persons who gave the same answer l the numbers in each
true category are multinomial. Only these numbers matter for theta, whose posterior given counts is conjugate. Hence no
record is ever stored and nothing is refused.

Cost of a sweep: O(KL) for K categories and L answers, whatever n is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..protocols import Array, ChainState, Mechanism, RecordModel


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
