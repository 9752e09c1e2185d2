r"""HyDRA: a training run differentiated forwards with respect to the weight of each record.

With D_t the change of θ_t when record i is left out of every batch (whose size stays |B|), the run of `trajectory`
gives, to first order,

.. math::  m_{t+1}' = \mu m_t' + H_{B_t}(\theta_t) D_t - \frac{v_i}{|B_t|} 1[i \in B_t]\, g_i(\theta_t), \qquad
           D_{t+1} = D_t - \eta_t m_{t+1}',

and the influence is ∇ℓ(z; θ_T)ᵀD_T. The fast form drops the Hessian of the loss (not the penalty): it is TracIn with every
test gradient taken at the end. No convexity, no stationarity; but the run must be (momentum) SGD with the recorded
batches, and what it estimates belongs to this run, this order of batches and this start.

Cost: T products of a batch's Hessian with n vectors, O(npT) time (times the batch size), O(np) memory; beyond
`memory_limit` the run is unrolled anew for block after block of records. Afterwards O(np) a test record.

Reference: Chen, Y., Li, B., Yu, H., Wu, P. and Miao, C. (2021). HyDRA: hypergradient data relevance analysis for
interpreting deep neural networks. AAAI. Equations 6 to 9.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._dynamic import UnrolledInfluence
from .oracle import count, take
from .trajectory import Trajectory

Array = NDArray[np.float64]


class HyDRA(UnrolledInfluence):
    """Influence through a whole training run, unrolled forwards.

    Influence is the loss without a record minus the loss with it: positive is helpful.

    Parameters
    ----------
    fast : bool, default=False
        Leave out the Hessians of the loss: no products with them, and about the accuracy of TracIn.
    trajectory : Trajectory or None, default=None
        The run; None: one of `record_sgd` with its defaults (convex models only).
    random_state : int, SeedSequence, Generator or None, default=None
        Of the run, where it is made here.

    Attributes
    ----------
    trajectory_ : Trajectory
    diagnostics_ : dict
        ``n_steps``; ``nonconvergence``, n‖∇J‖ at the end over the root mean square of ‖g_i‖.

    References
    ----------
    Chen, Y. et al. (2021). HyDRA: hypergradient data relevance analysis for interpreting deep neural networks. AAAI.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from statml.influence import HyDRA
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> HyDRA(random_state=0).fit(model, X, y).influence(X[:2], y[:2]).shape
    (2, 150)
    """

    def __init__(
        self,
        fast: bool = False,
        trajectory: Trajectory | None = None,
        random_state: int | np.random.SeedSequence | np.random.Generator | None = None,
    ):
        self.fast = fast
        self.trajectory = trajectory
        self.random_state = random_state

    def _prepare_run(self) -> None:
        self.method_ = "HyDRA (fast)" if self.fast else "HyDRA"
        blocks = list(self.oracle_.batches())
        # kept where it fits; otherwise every question unrolls the run block by block
        self._change = self._unroll(blocks[0]) if len(blocks) == 1 else None

    def _blocks_of_changes(self):
        if self._change is not None:
            yield slice(0, self.n_train_), self._change
            return
        for part in self.oracle_.batches():
            yield part, self._unroll(part)

    def _unroll(self, part: slice) -> Array:
        return unroll_forwards(self.oracle_, self.trajectory_, part, self.fast)

    def _influence(self, X, y, target) -> Array:
        sign = 1.0 if target == "loss" else -1.0
        out = np.empty((count(X), self.n_train_))
        for part, change in self._blocks_of_changes():
            out[:, part] = self.oracle_.grad_dot(change.T, X, y, target, self.trajectory_.final)
        return sign * out

    def _self_influence(self) -> Array:
        oracle = self.oracle_
        out = np.empty(self.n_train_)
        for part, change in self._blocks_of_changes():
            g = oracle.grad(take(oracle.X, part), take(oracle.y, part), self.trajectory_.final)
            out[part] = np.einsum("ij,ij->i", g, change)
        return out

    def _parameter_change(self, index_sets) -> Array:
        if index_sets is None:
            return np.vstack([change for _, change in self._blocks_of_changes()])
        out = np.zeros((len(index_sets), self.oracle_.n_params))
        for part, change in self._blocks_of_changes():
            for k, members in enumerate(index_sets):
                inside = members[(members >= part.start) & (members < part.stop)]
                out[k] += change[inside - part.start].sum(axis=0)
        return out


def unroll_forwards(oracle, run: Trajectory, part: slice, fast: bool) -> Array:
    """D_T of the records in `part`, shape (len(part), p)."""
    rows = part.stop - part.start
    D = np.zeros((rows, oracle.n_params))
    M = np.zeros_like(D) if run.momentum else None
    ridge = oracle.regulariser()
    for theta, batch, lr in zip(run.thetas, run.batches, run.lrs, strict=False):
        X, y, weight = take(oracle.X, batch), take(oracle.y, batch), oracle.sample_weight[batch]
        if fast:
            step = ridge * D
        else:
            step = oracle.hvp(D.T, X, y, weight, theta).T
        inside = np.flatnonzero((batch >= part.start) & (batch < part.stop))
        if len(inside):
            g = oracle.grad(take(X, inside), take(y, inside), theta)
            # a record may stand twice in a batch drawn with replacement
            np.subtract.at(
                step, batch[inside] - part.start, g * (weight[inside, None] / len(batch))
            )
        if M is not None:
            M = run.momentum * M + step
            step = M
        D = D - lr * step
    return D
