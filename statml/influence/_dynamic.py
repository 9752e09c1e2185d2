"""What the methods that unroll a training run share: the run itself, and attribution at its end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._base import BaseInfluence
from .oracle import take
from .trajectory import Trajectory, record_sgd

Array = NDArray[np.float64]


class UnrolledInfluence(BaseInfluence):
    """Base of HyDRA, SGDInfluence and Source: influence on the parameters where the run ended."""

    _every_step = True

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val) -> None:
        self.trajectory_ = self._find_trajectory()
        if self._every_step:
            self.trajectory_.need_every_step(type(self).__name__)
        largest = max((int(b.max()) for b in self.trajectory_.batches or []), default=0)
        if largest >= self.n_train_:
            raise ValueError(
                f"trajectory names record {largest}, but the training data hold {self.n_train_}"
            )
        self.diagnostics_ = {
            "n_steps": self.trajectory_.n_steps,
            "nonconvergence": nonconvergence(self.oracle_, self.trajectory_.final),
        }
        self._prepare_run()

    def _find_trajectory(self) -> Trajectory:
        oracle, run = self.oracle_, self.trajectory
        if run is None:
            if not oracle.convex:
                raise ValueError(
                    f"{type(self).__name__} attributes a training run: pass trajectory=record_sgd(oracle, ...), or a "
                    "Trajectory of your own"
                )
            self.n_fits_ = 1
            return record_sgd(oracle, random_state=self.random_state)
        if not isinstance(run, Trajectory):
            raise TypeError(f"trajectory must be a Trajectory or None, got {type(run).__name__}")
        if run.thetas.shape[1] != oracle.n_params:
            raise ValueError(
                f"trajectory holds {run.thetas.shape[1]} parameters, the model has {oracle.n_params}"
            )
        return run

    def _prepare_run(self) -> None:
        """Whatever is computed once, given ``trajectory_``."""


def nonconvergence(oracle, theta: Array) -> float:
    """n‖∇J‖ over the root mean square of ‖g_i‖ at theta: what is left to go, in units of one record's pull."""
    squares = 0.0
    for part in oracle.batches():
        g = oracle.grad(take(oracle.X, part), take(oracle.y, part), theta)
        squares += float(np.sum(g**2))
    rms = np.sqrt(squares / oracle.n_train)
    left = np.linalg.norm(oracle.objective_grad(theta))
    return float(oracle.n_train * left / rms) if rms > 0 else 0.0
