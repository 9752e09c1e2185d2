r"""The path of a training run, and stochastic gradient descent that keeps it.

Dynamic methods attribute the run, not the point where it ended. What they need of it: parameters θ_t before every step,
the batch B_t, the step size η_t and the momentum μ of

.. math::  G_t = \frac{1}{|B_t|}\sum_{i\in B_t} v_i g_i(\theta_t) + r\,\theta_t, \qquad
           m_{t+1} = \mu m_t + G_t, \qquad \theta_{t+1} = \theta_t - \eta_t m_{t+1}.

A run of one's own (a torch loop) becomes a `Trajectory` of its recorded parameters; it must have been of this form
for methods that unroll it, and not Adam, whose steps are not multiples of η.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from .._validation import RandomState, as_generator, check_integer, check_number
from .models import make_oracle
from .oracle import GradientOracle, take
from .solvers.lissa import largest_eigenvalue

Array = NDArray[np.float64]


@dataclass
class Trajectory:
    """Parameters, batches and step sizes of a training run of T steps.

    Parameters
    ----------
    thetas : array-like of shape (len(steps), p)
        Parameters before the steps named in `steps`; the last row is the end of the run.
    lrs : array-like of shape (T,) or float
        Step sizes.
    batches : sequence of T integer arrays or None, default=None
        Positions in the training data of each step's records; None if they were not kept.
    steps : array-like of int or None, default=None
        Which steps `thetas` belongs to, increasing, the last one T; None: 0, 1, ..., T.
    momentum : float, default=0.0

    Examples
    --------
    >>> run = Trajectory([[0.0], [0.1], [0.2]], lrs=0.5, batches=[[0], [1]])
    >>> run.n_steps, run.lrs
    (2, array([0.5, 0.5]))
    """

    thetas: Array
    lrs: Array
    batches: list[NDArray[np.int64]] | None = None
    steps: NDArray[np.int64] | None = None
    momentum: float = 0.0
    n_steps: int = field(init=False)

    def __post_init__(self):
        self.thetas = np.asarray(self.thetas, dtype=float)
        if self.thetas.ndim != 2 or len(self.thetas) < 2:
            raise ValueError(
                f"thetas must have shape (at least 2, n_params), got {self.thetas.shape}"
            )
        if not np.isfinite(self.thetas).all():
            raise ValueError("thetas must be finite: the run has diverged; take a smaller lr")
        if self.steps is None:
            self.steps = np.arange(len(self.thetas))
        self.steps = np.asarray(self.steps, dtype=np.int64)
        if self.steps.shape != (len(self.thetas),) or np.any(np.diff(self.steps) <= 0):
            raise ValueError(
                f"steps must name an increasing step for each of {len(self.thetas)} rows of thetas, got {self.steps}"
            )
        self.n_steps = int(self.steps[-1])
        self.lrs = np.asarray(self.lrs, dtype=float)
        if self.lrs.ndim == 0:
            self.lrs = np.full(self.n_steps, float(self.lrs))
        if self.lrs.shape != (self.n_steps,):
            raise ValueError(
                f"lrs must be a number or have one entry for each of {self.n_steps} steps, got shape {self.lrs.shape}"
            )
        if self.batches is not None:
            self.batches = [np.asarray(batch, dtype=np.int64) for batch in self.batches]
            if len(self.batches) != self.n_steps or min(map(len, self.batches)) == 0:
                raise ValueError(
                    f"batches must hold a non-empty batch for each of {self.n_steps} steps, got {len(self.batches)}"
                )
        self.momentum = check_number("momentum", self.momentum, 0, 1, high_open=True)

    @property
    def final(self) -> Array:
        """Parameters at the end, shape (p,)."""
        return self.thetas[-1]

    def need_every_step(self, name: str) -> None:
        """Refuse a run of which not every step was kept."""
        if self.batches is None:
            raise ValueError(f"{name} unrolls every step: trajectory must hold its batches")
        if len(self.thetas) != self.n_steps + 1:
            raise ValueError(
                f"{name} unrolls every step: trajectory holds {len(self.thetas)} of {self.n_steps + 1} parameter "
                "vectors; record with every=1, or use Source or TracIn"
            )


def record_sgd(
    estimator: Any,
    X: Any = None,
    y: Any = None,
    *,
    lr: float | Sequence[float] | None = None,
    n_epochs: int = 20,
    batch_size: int | None = 32,
    momentum: float = 0.0,
    start: ArrayLike | None = None,
    every: int = 1,
    random_state: RandomState = None,
    progress: bool | str = "auto",
) -> Trajectory:
    """Train a model by stochastic gradient descent and keep the run.

    Parameters
    ----------
    estimator : fitted scikit-learn estimator, statsmodels results or GradientOracle
        Gives the loss and its penalty (which acts as weight decay), not the parameters to start from.
    X, y : training data, as in `fit` of every influence method
    lr : float, array-like of length n_steps or None, default=None
        Step size; None: one over the largest curvature at the start, times 1 − momentum.
    n_epochs : int, default=20
    batch_size : int or None, default=32
        None: all records in every step (gradient descent).
    momentum : float, default=0.0
    start : array-like of shape (p,) or None, default=None
        None: zeros for a convex model, the oracle's present parameters for any other.
    every : int, default=1
        Keep the parameters of every so many steps (and of the last).
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Shuffles the records of each epoch.
    progress : "auto", True or False, default="auto"

    Returns
    -------
    Trajectory

    Raises
    ------
    ValueError
        If the run diverges.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> run = record_sgd(LogisticRegression(max_iter=1000).fit(X, y), X, y, n_epochs=2, random_state=0)
    >>> run.thetas.shape  # 150 records in batches of 32 are 5 steps an epoch
    (11, 15)
    """
    oracle = make_oracle(estimator, X, y)
    n = oracle.n_train
    check_integer("n_epochs", n_epochs, low=1)
    check_integer("every", every, low=1)
    momentum = check_number("momentum", momentum, 0, 1, high_open=True)
    batch_size = n if batch_size is None else min(n, check_integer("batch_size", batch_size, low=1))
    rng = as_generator(random_state)
    theta = _start(oracle, start)
    batches = [
        np.sort(order[k : k + batch_size])
        for order in (rng.permutation(n) for _ in range(n_epochs))
        for k in range(0, n, batch_size)
    ]
    lrs = _step_sizes(oracle, theta, lr, momentum, len(batches))
    velocity = np.zeros_like(theta)
    kept, steps = [theta], [0]
    bar = tqdm(
        batches,
        desc="stochastic gradient descent",
        delay=2.0 if progress == "auto" else 0,
        disable={True: False, False: True, "auto": None}[progress],
    )
    for t, batch in enumerate(bar, start=1):
        velocity = momentum * velocity + batch_gradient(oracle, batch, theta)
        theta = theta - lrs[t - 1] * velocity
        if not np.isfinite(theta).all():
            raise ValueError(f"the run diverged at step {t}; take lr below {lrs[t - 1]:.3g}")
        if t % every == 0 or t == len(batches):
            kept.append(theta)
            steps.append(t)
    return Trajectory(np.array(kept), lrs, batches, np.array(steps), momentum)


def batch_gradient(oracle: GradientOracle, batch: NDArray[np.int64], theta: Array) -> Array:
    """Gradient of the batch's mean objective, penalty included, shape (p,)."""
    weight = oracle.sample_weight[batch, None]
    total = oracle.grad_sum(weight, take(oracle.X, batch), take(oracle.y, batch), theta)[:, 0]
    return total / len(batch) + oracle.regulariser() * theta


def _start(oracle: GradientOracle, start: ArrayLike | None) -> Array:
    if start is None:
        return np.zeros(oracle.n_params) if oracle.convex else np.array(oracle.theta, dtype=float)
    theta = np.array(start, dtype=float)
    if theta.shape != (oracle.n_params,):
        raise ValueError(f"start must have shape ({oracle.n_params},), got {theta.shape}")
    return theta


def _step_sizes(oracle, theta, lr, momentum, n_steps) -> Array:
    if lr is None:
        product = oracle.hvp if oracle.convex else oracle.ggn_vp
        steepest = largest_eigenvalue(
            lambda V: product(V.T, theta=theta).T, oracle.n_params, np.random.default_rng(0)
        )
        return np.full(n_steps, (1 - momentum) / (1.1 * steepest))
    lrs = np.asarray(lr, dtype=float)
    if lrs.ndim == 0:
        check_number("lr", float(lrs), low=0, low_open=True)
        return np.full(n_steps, float(lrs))
    if lrs.shape != (n_steps,) or not (lrs > 0).all():
        raise ValueError(
            f"lr must be a positive number or one for each of {n_steps} steps, got shape {lrs.shape}"
        )
    return lrs
