r"""SGD-influence: a training run differentiated backwards from the test loss.

The reverse mode of what `hydra` does forwards: with u the gradient of the value at θ_T, from the last step to the first,

.. math::  I(i) \mathrel{+}= \frac{\eta_t v_i}{|B_t|}\, u^\top g_i(\theta_t) \quad (i \in B_t), \qquad
           u \leftarrow u - \eta_t H_{B_t}(\theta_t)\, u .

With momentum the adjoint w of the velocity goes along: w ← μw + η_t u, which then takes the place of η_t u. Equal to
`HyDRA` to rounding, and cheaper for few test records: O(T) Hessian products of a batch each, O(p) memory beside the
recorded run. Full batches and T → ∞ give the influence function.

Hara et al. let each record carry its share of the weight decay (their counterfactual scales the batch's whole
gradient by |B∖i|/|B|); `penalty_share` does so.

Reference: Hara, S., Nitanda, A. and Maehara, T. (2019). Data cleansing for models trained with SGD. NeurIPS. Algorithm 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._dynamic import UnrolledInfluence
from .oracle import count, take
from .trajectory import Trajectory

Array = NDArray[np.float64]


class SGDInfluence(UnrolledInfluence):
    """Influence through a whole training run, unrolled backwards.

    Influence is the loss without a record minus the loss with it: positive is helpful.

    Parameters
    ----------
    trajectory : Trajectory or None, default=None
        The run; None: one of `record_sgd` with its defaults (convex models only).
    penalty_share : bool, default=False
        Let each record carry its share of the weight decay, as Hara et al. do, so that leaving it out weakens the decay.
    random_state : int, SeedSequence, Generator or None, default=None
        Of the run, where it is made here.

    Attributes
    ----------
    trajectory_ : Trajectory
    diagnostics_ : dict
        ``n_steps``; ``nonconvergence``, n‖∇J‖ at the end over the root mean square of ‖g_i‖.

    References
    ----------
    Hara, S., Nitanda, A. and Maehara, T. (2019). Data cleansing for models trained with SGD. NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from statml.influence import HyDRA, SGDInfluence, record_sgd
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> run = record_sgd(model, X, y, n_epochs=3, random_state=0)
    >>> backwards = SGDInfluence(trajectory=run).fit(model, X, y).influence(X[:2], y[:2])
    >>> bool(np.allclose(backwards, HyDRA(trajectory=run).fit(model, X, y).influence(X[:2], y[:2])))
    True
    """

    def __init__(
        self,
        trajectory: Trajectory | None = None,
        penalty_share: bool = False,
        random_state: int | np.random.SeedSequence | np.random.Generator | None = None,
    ):
        self.trajectory = trajectory
        self.penalty_share = penalty_share
        self.random_state = random_state

    def _influence(self, X, y, target) -> Array:
        sign = 1.0 if target == "loss" else -1.0
        oracle, run = self.oracle_, self.trajectory_
        out = np.empty((count(X), self.n_train_))
        for part in oracle.batches(count(X)):
            ends = oracle.value_grad(take(X, part), take(y, part), target, run.final)
            out[part] = unroll_backwards(oracle, run, ends, self.penalty_share)
        return sign * out

    def _parameter_change(self, index_sets) -> Array:
        # a parameter is a value too: its gradient is a unit vector
        ends = np.eye(self.oracle_.n_params)
        change = unroll_backwards(self.oracle_, self.trajectory_, ends, self.penalty_share).T
        if index_sets is None:
            return change
        return np.array([change[members].sum(axis=0) for members in index_sets])


def unroll_backwards(oracle, run: Trajectory, ends: Array, penalty_share: bool) -> Array:
    """Influence of every record on values whose gradients at θ_T are the rows of `ends`; shape (len(ends), n)."""
    U = np.array(ends, dtype=float)
    W = np.zeros_like(U)
    out = np.zeros((len(U), oracle.n_train))
    ridge = oracle.regulariser()
    for t in reversed(range(run.n_steps)):
        theta, batch, lr = run.thetas[t], run.batches[t], run.lrs[t]
        X, y, weight = take(oracle.X, batch), take(oracle.y, batch), oracle.sample_weight[batch]
        W = run.momentum * W + lr * U
        pull = oracle.grad_dot(W.T, X, y, theta=theta).T * weight
        if penalty_share:
            pull += (W @ (ridge * theta))[:, None]
        np.add.at(out, (slice(None), batch), pull / len(batch))
        U = U - oracle.hvp(W.T, X, y, weight, theta).T
    return out
