r"""A linear model trained on a mixture of losses whose weights move, in NumPy alone.

For z = W x + b the closed form of `head` is the whole gradient, and is exact. X may be sparse. The loop is that of the networks: epochs of shuffled
batches, stochastic gradient descent or Adam, a meta-step before the epochs in which weights are due. Starts from zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from statml._validation import check_choice
from statml.parallel import progress_bar

from .blocks import Losses, log_softmax
from .head import (
    cross_entropy_slope,
    head_alignment,
    head_direction,
    implicit_direction,
    logit_curvature,
)
from .mixing_weights import MixingWeights
from .plan import Plan, Trace

Array = NDArray[np.float64]


def fit_linear(
    X: Any,
    y: NDArray[np.int64],
    losses: Losses,
    mixing: MixingWeights,
    trace: Trace,
    plan: Plan,
    rows: NDArray[np.int64],
    val: NDArray[np.int64],
    weight: Array | None = None,
    optimizer: str = "adam",
    optimizer_options: Mapping[str, Any] | None = None,
    weight_decay: float = 0.0,
    seed: int = 0,
    progress: bool | str = False,
) -> tuple[Array, Array, list[float]]:
    """Train; `mixing` and `trace` are changed in place.

    Parameters
    ----------
    X : ndarray or CSR matrix of shape (n, p)
        All records, those for validation among them.
    y : ndarray of int of shape (n,)
        Positions of the classes, -1 for unlabelled.
    losses : Losses
    mixing : MixingWeights
    trace : Trace
    plan : Plan
    rows, val : ndarray of int
        Records that are trained on, and those for validation.
    weight : ndarray of shape (n,), optional
    optimizer : {"adam", "adamw", "sgd"}, default="adam"
    optimizer_options : dict, optional
        ``momentum`` and ``nesterov`` of "sgd", ``betas`` and ``eps`` of the others.
    weight_decay : float, default=0.0
    seed : int, default=0
        Of the order of the records.
    progress : "auto", True or False, default=False

    Returns
    -------
    coef : ndarray of shape (n_classes, p)
    intercept : ndarray of shape (n_classes,)
    loss_curve : list of float
    """
    n_classes = trace.one_hot.shape[1] - 1
    theta = [np.zeros((n_classes, X.shape[1])), np.zeros(n_classes)]
    steps = make_steps(optimizer, weight_decay, optimizer_options or {})
    rng, sweep_rng = np.random.default_rng(seed), np.random.default_rng(plan.seed)
    own = np.ones(len(y)) if weight is None else weight
    curve = []
    with (
        np.errstate(over="ignore", invalid="ignore"),  # what diverges is refused
        progress_bar(plan.epochs, progress, "AMALClassifier") as bar,
    ):
        for epoch in range(plan.epochs):
            lr = plan.lr * plan.schedule(epoch / plan.epochs)
            if not trace.path:
                trace.record(mixing, epoch)
            if plan.due(epoch):
                _meta_step(
                    X,
                    y,
                    losses,
                    mixing,
                    trace,
                    plan,
                    rows,
                    val,
                    own,
                    theta,
                    steps,
                    lr,
                    epoch,
                    sweep_rng,
                )
            weights, total = mixing.weights, 0.0
            for index in np.split(
                rows[rng.permutation(len(rows))],
                np.arange(plan.batch_size, len(rows), plan.batch_size),
            ):
                H = X[index]
                z = H @ theta[0].T + theta[1]
                mixed = weights[index] * own[index][:, None]
                if plan.dropout:
                    mixed[:, 1:] *= rng.random(mixed.shape[1] - 1) >= plan.dropout
                G = (mixed[:, :, None] * losses.gradients(z, index)).sum(axis=1) / len(index)
                total += float((mixed * losses.losses(z, index)).sum())
                steps.move(theta, [G.T @ H, G.sum(axis=0)], lr)
            curve.append(total / len(rows))
            if not np.isfinite([curve[-1], theta[0].sum()]).all():
                raise ValueError(
                    f"training diverged in epoch {epoch + 1}: the loss is not finite; lower lr ({plan.lr:g})"
                )
            bar.update()
    return theta[0], theta[1], curve


def _meta_step(
    X, y, losses, mixing, trace, plan, rows, val, own, theta, steps, lr, epoch, rng
) -> None:
    W, b = theta
    H_val, one_hot = X[val], np.eye(len(b))[y[val]]
    z_val = H_val @ W.T + b
    trace.val_losses.append(float(-(one_hot * log_softmax(z_val)).sum(axis=1).mean()))
    weights = mixing.weights * own[:, None]
    step = lr * plan.lookahead
    implicit = plan.meta == "implicit"
    scale = None if implicit else steps.scale()

    def slope(logits: Array) -> Array:
        return cross_entropy_slope(logits, one_hot)

    direction = None
    if implicit or not step:
        direction = head_direction(W, b, None, None, None, H_val, slope, 0.0, scale)
        if implicit:
            z = X[rows] @ W.T + b
            A = logit_curvature(losses, z, rows, weights[rows])
            direction = implicit_direction(X[rows], A, direction, plan.damping)
    M = np.zeros(mixing.mask.shape)
    order = rows[rng.permutation(len(rows))]
    for index in np.split(order, np.arange(plan.batch_size, len(rows), plan.batch_size)):
        H = X[index]
        gradients = losses.gradients(H @ W.T + b, index)
        v = direction or head_direction(
            W, b, H, gradients, weights[index], H_val, slope, step, scale
        )
        M[index] = own[index][:, None] * head_alignment(H, gradients, v)
    trace.alignment = np.where(mixing.mask, M, np.nan)
    mixing.step(M, plan.rate, plan.update, lr, min(plan.batch_size, len(rows)))
    trace.record(mixing, epoch)


# --- optimizers, as torch defines them --------------------------------------------------------------


class GradientDescent:
    """With momentum, plain or Nesterov's."""

    def __init__(self, weight_decay: float, momentum: float = 0.0, nesterov: bool = False):
        self.weight_decay, self.momentum, self.nesterov = weight_decay, momentum, nesterov
        self.buffer: list[Array] | None = None

    def scale(self) -> None:
        """No preconditioner."""

    def move(self, theta: list[Array], gradient: list[Array], lr: float) -> None:
        """Change theta by one step."""
        gradient = [g + self.weight_decay * t for g, t in zip(gradient, theta, strict=True)]
        if self.momentum:
            before = self.buffer or [np.zeros_like(g) for g in gradient]
            self.buffer = [self.momentum * m + g for m, g in zip(before, gradient, strict=True)]
            ahead = [g + self.momentum * m for m, g in zip(self.buffer, gradient, strict=True)]
            gradient = ahead if self.nesterov else self.buffer
        for k, g in enumerate(gradient):
            theta[k] = theta[k] - lr * g


class Adam:
    """Adam, and AdamW with `decoupled`."""

    def __init__(
        self,
        weight_decay: float,
        decoupled: bool,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        self.weight_decay, self.decoupled = weight_decay, decoupled
        self.betas, self.eps = betas, eps
        self.t = 0
        self.first: list[Any] = [0.0, 0.0]
        self.second: list[Any] = [0.0, 0.0]

    def scale(self) -> tuple[Array, Array] | None:
        """What a gradient is multiplied by."""
        if not self.t:
            return None
        correction = 1 - self.betas[1] ** self.t
        return tuple(1 / (np.sqrt(v / correction) + self.eps) for v in self.second)

    def move(self, theta: list[Array], gradient: list[Array], lr: float) -> None:
        """Change theta by one step."""
        self.t += 1
        for k, g in enumerate(gradient):
            if self.decoupled:
                theta[k] = theta[k] * (1 - lr * self.weight_decay)
            else:
                g = g + self.weight_decay * theta[k]
            self.first[k] = self.betas[0] * self.first[k] + (1 - self.betas[0]) * g
            self.second[k] = self.betas[1] * self.second[k] + (1 - self.betas[1]) * g**2
            mean = self.first[k] / (1 - self.betas[0] ** self.t)
            theta[k] = theta[k] - lr * mean * self.scale()[k]


def make_steps(optimizer: str, weight_decay: float, options: Mapping[str, Any]) -> Any:
    """The optimizer of a name."""
    if not isinstance(optimizer, str):
        raise TypeError(
            f'module="linear" is trained without torch and takes optimizer "adam", "adamw" or "sgd", got {optimizer!r}'
        )
    check_choice("optimizer", optimizer, ("adam", "adamw", "sgd"))
    try:
        if optimizer == "sgd":
            return GradientDescent(weight_decay, **options)
        return Adam(weight_decay, optimizer == "adamw", **options)
    except TypeError as error:
        raise TypeError(f'module="linear" with optimizer {optimizer!r}: {error}') from error
