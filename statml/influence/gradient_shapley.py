r"""The game of G-Shapley: a model trained by one pass of stochastic gradient descent over the records, in order.

Ghorbani and Zou (2019), algorithm 2. The learner starts from the untrained model (zero parameters) and takes one step
:math:`\theta \leftarrow \theta - \eta \nabla \ell(z_i; \theta)` a record; the marginal contribution is what that step does
to the utility. The step size is the one of :math:`10^{-1}, 10^{-1.5}, \dots, 10^{-4.5}` whose mean utility after one
pass, less its standard deviation, is largest over ten passes.
"""

from __future__ import annotations

import joblib
import numpy as np
from numpy.typing import NDArray

from .oracle import GradientOracle, take

Array = NDArray[np.float64]

STEP_SIZES = 10.0 ** -np.arange(1, 4.75, 0.5)
PASSES = 10


class GradientGame:
    """Utility of prefixes of a permutation after one SGD step a record."""

    def __init__(self, oracle: GradientOracle, records, X_val, y_val, seed: np.random.SeedSequence):
        self.oracle = oracle
        self.records = records
        self._design, self._y = oracle.prepare(X_val, y_val)
        self._seed = seed
        self.step_size = self._choose_step()

    def value(self, theta: Array) -> Array:
        with np.errstate(over="ignore"):
            return -self.oracle.loss(self._design, self._y, theta)

    def utility(self, members: NDArray[np.int64], rng=None) -> Array:
        """After a pass over the members in their order."""
        return self.value(self._end(members, self.step_size))

    def walk(self, order, rng):
        for theta in self._pass(order, self.step_size):
            yield self.value(theta)

    def fingerprint(self) -> str:
        return joblib.hash((self.oracle.theta, self._design, self._y, self.step_size))[:12]

    def _pass(self, order, step_size):
        oracle = self.oracle
        theta = np.zeros(oracle.n_params)
        for i in order:
            one = [int(i)]
            gradient = oracle.grad(take(oracle.X, one), take(oracle.y, one), theta)[0]
            theta = theta - step_size * oracle.sample_weight[i] * gradient
            yield theta

    def _end(self, order, step_size) -> Array:
        path = [np.zeros(self.oracle.n_params), *self._pass(order, step_size)]
        return path[-1]

    def _choose_step(self) -> float:
        rng = np.random.default_rng(self._seed.spawn(1)[0])
        orders = [rng.permutation(self.oracle.n_train) for _ in range(PASSES)]
        scores = []
        for step in STEP_SIZES:
            ends = []
            for order in orders:
                ends.append(self.value(self._end(order, step)).mean())
            with np.errstate(invalid="ignore"):
                score = np.mean(ends) - np.std(ends)
            scores.append(score if np.isfinite(score) else -np.inf)
        return float(STEP_SIZES[int(np.argmax(scores))])
