r"""TracIn: inner products of gradients along a training run.

A step on record i at θ lowers the loss of z by about η g_iᵀ∇ℓ(z). Summed over a run of stochastic gradient descent:

* "ideal", batches of one record: the sum over its steps of ℓ(z; θ_t) − ℓ(z; θ_{t+1}); over all records it telescopes to
  the loss that training removed;
* "sgd": :math:`\sum_{t:\, i\in B_t} \frac{\eta_t v_i}{|B_t|}\, g_i(\theta_t)^\top \nabla\ell(z; \theta_t)`;
* "cp": :math:`\sum_{t\in\mathcal T} \eta_t v_i\, g_i(\theta_t)^\top \nabla\ell(z; \theta_t)` over a few checkpoints and *all*
  records, whichever batches they were in; so equal records have equal values;
* "fast": "cp" restricted to the last layer, whose record gradients are δaᵀ: (δ_iᵀδ_z)(a_iᵀa_z), and no record's gradient is
  ever formed.

Gradients may be projected to `proj_dim` random dimensions (TracInRP: unbiased), or restricted to some layers. `cosine`
replaces inner products by cosines (GAS), since records of low loss have small gradients whatever they taught, and a few
of high loss dominate every test record.

No Hessian, no stationarity. It assumes plain SGD (with momentum or Adam η_t is not the step) and sees first-order effects
of steps only: what later steps undo or repeat is not seen. Not invariant to the units of the features.

Cost: one gradient a record and checkpoint, O(np) a checkpoint. "sgd" and "ideal" retrace the run.

References: Pruthi, G., Liu, F., Kale, S. and Sundararajan, M. (2020). Estimating training data influence by tracing gradient
descent. NeurIPS. Sections 3.1 to 3.4; Hammoudeh, Z. and Lowd, D. (2022). Identifying a training-set attack's target using
renormalized influence estimation. CCS (GAS).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._validation import check_choice, check_integer, check_sequence
from ._base import BaseInfluence
from .oracle import count, take
from .projection import RandomProjection
from .solvers.ekfac import layer_blocks
from .trajectory import Trajectory

Array = NDArray[np.float64]


class TracIn(BaseInfluence):
    """Influence by tracing gradient descent.

    Influence is the loss without a record minus the loss with it: positive is helpful. "sgd" and "ideal" are on the scale
    of the loss; the scale of "cp" depends on the number of checkpoints.

    Parameters
    ----------
    checkpoints : Trajectory, array-like of shape (n_checkpoints, p) or None, default=None
        Parameters along the run. None: those of the fit alone, which makes "cp" the inner product of gradients (with
        `cosine`, their cosine). "sgd" and "ideal" need a Trajectory of every step.
    lrs : array-like of shape (n_checkpoints,), float or None, default=None
        Step size at each checkpoint. None: the Trajectory's; 1 where there is none.
    kind : {"cp", "sgd", "fast", "ideal"}, default="cp"
    proj_dim : int or None, default=None
        Random dimensions that gradients are projected to.
    layers : None, "last" or list of int, default=None
        Layers whose parameters count; None: all.
    cosine : bool, default=False
        Cosines in place of inner products (GAS).
    random_state : int, SeedSequence, Generator or None, default=None
        Of the projection.

    Attributes
    ----------
    checkpoints_ : ndarray of shape (n_checkpoints, p)
    lrs_ : ndarray of shape (n_checkpoints,)

    References
    ----------
    Pruthi, G. et al. (2020). Estimating training data influence by tracing gradient descent. NeurIPS.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from statml.influence import TracIn, record_sgd
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X, y)
    >>> run = record_sgd(model, X, y, every=25, random_state=0)
    >>> TracIn(run).fit(model, X, y).influence(X[:2], y[:2]).shape
    (2, 150)
    """

    def __init__(
        self,
        checkpoints: Trajectory | ArrayLike | None = None,
        lrs: ArrayLike | None = None,
        kind: str = "cp",
        proj_dim: int | None = None,
        layers: str | Sequence[int] | None = None,
        cosine: bool = False,
        random_state: int | np.random.SeedSequence | np.random.Generator | None = None,
    ):
        self.checkpoints = checkpoints
        self.lrs = lrs
        self.kind = kind
        self.proj_dim = proj_dim
        self.layers = layers
        self.cosine = cosine
        self.random_state = random_state

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val) -> None:
        check_choice("kind", self.kind, ("cp", "sgd", "fast", "ideal"))
        if self.proj_dim is not None:
            check_integer("proj_dim", self.proj_dim, low=1)
        run = self.checkpoints if isinstance(self.checkpoints, Trajectory) else None
        if self.kind in ("sgd", "ideal"):
            self._check_run(run)
        elif self.kind == "fast" and (self.proj_dim is not None or self.layers is not None):
            raise ValueError(
                'kind="fast" is the last layer, unprojected: leave proj_dim and layers'
            )
        if run is not None and run.momentum:
            warnings.warn(
                f"the run had momentum={run.momentum:g}; TracIn takes lr/(1 - momentum) for the step, which holds "
                "on average only (HyDRA and SGDInfluence take momentum exactly)",
                stacklevel=3,
            )
        self.checkpoints_, self.lrs_ = self._find_checkpoints(run)
        self._columns = self._find_columns()
        width = self.oracle_.n_params if self._columns is None else len(self._columns)
        self._project = RandomProjection(
            width, self.proj_dim, self.random_state, self._memory_limit
        )
        name = "GAS" if self.cosine else "TracIn"
        self.method_ = f"{name} ({self.kind}, {len(self.checkpoints_)} checkpoints)"
        self.diagnostics_ = {"n_checkpoints": len(self.checkpoints_)}

    def _check_run(self, run: Trajectory | None) -> None:
        if run is None:
            raise ValueError(
                f'kind="{self.kind}" retraces the run: checkpoints must be a Trajectory, as record_sgd gives it'
            )
        run.need_every_step("TracIn")
        if self.kind == "ideal":
            if any(len(batch) != 1 for batch in run.batches):
                raise ValueError('kind="ideal" needs a run with batch_size=1; take kind="sgd"')
            if self.cosine or self.proj_dim is not None or self.layers is not None:
                raise ValueError('kind="ideal" compares losses: leave cosine, proj_dim and layers')

    def _find_checkpoints(self, run: Trajectory | None) -> tuple[Array, Array]:
        p = self.oracle_.n_params
        if run is not None:
            if self.kind in ("sgd", "ideal"):
                thetas, lrs = run.thetas[:-1], run.lrs
            else:
                # the last is where no step follows: it takes the size of the step that led there
                thetas, lrs = run.thetas, run.lrs[np.minimum(run.steps, run.n_steps - 1)]
            lrs = lrs / (1 - run.momentum)
        elif self.checkpoints is None:
            thetas, lrs = np.asarray(self.oracle_.theta)[None], np.ones(1)
        else:
            thetas = np.atleast_2d(np.asarray(self.checkpoints, dtype=float))
            lrs = np.ones(len(thetas))
        if thetas.ndim != 2 or thetas.shape[1] != p:
            raise ValueError(
                f"checkpoints must have shape (n_checkpoints, {p}), got {thetas.shape}"
            )
        if not np.isfinite(thetas).all():
            raise ValueError("checkpoints must be finite")
        if self.lrs is not None:
            given = np.asarray(self.lrs, dtype=float)
            if given.shape not in ((), (len(thetas),)) or not (given > 0).all():
                raise ValueError(
                    f"lrs must be a positive number or one for each of {len(thetas)} checkpoints, got {self.lrs!r}"
                )
            lrs = np.broadcast_to(given, len(thetas)).astype(float)
        return thetas, lrs

    def _find_columns(self) -> NDArray[np.int64] | None:
        """Positions of the parameters that count."""
        if self.layers is None:
            return None
        blocks = [block for block, _ in layer_blocks(self.oracle_)]
        if isinstance(self.layers, str):
            check_choice("layers", self.layers, ("last",))
            chosen = [len(blocks) - 1]
        else:
            chosen = check_sequence("layers", self.layers, "layer numbers")
        if not chosen or any(
            not isinstance(l, (int, np.integer)) or not -len(blocks) <= l < len(blocks)
            for l in chosen
        ):
            raise ValueError(
                f'layers must be None, "last" or a list of layer numbers below {len(blocks)}, got {self.layers!r}'
            )
        return np.concatenate(
            [
                np.arange(blocks[l].start, blocks[l].stop)
                for l in sorted({l % len(blocks) for l in chosen})
            ]
        )

    # --- the hooks of BaseInfluence ---

    def _influence(self, X, y, target) -> Array:
        sign = 1.0 if target == "loss" else -1.0
        if self.kind == "ideal":
            return sign * self._losses_removed(X, y, target)
        if self.kind == "sgd":
            return sign * self._retrace(X, y, target)
        out = np.zeros((count(X), self.n_train_))
        for theta, lr in zip(self.checkpoints_, self.lrs_, strict=True):
            if self.kind == "fast":
                self._check_fast_target(target)
                out += lr * self._last_layer(X, y, theta)
            else:
                out += lr * self._checkpoint(X, y, target, theta)
        return sign * out * self._weights()

    def _self_influence(self) -> Array:
        if self.kind in ("sgd", "ideal"):
            return super()._self_influence()
        oracle = self.oracle_
        out = np.zeros(self.n_train_)
        for theta, lr in zip(self.checkpoints_, self.lrs_, strict=True):
            for part in oracle.batches():
                X, y = take(oracle.X, part), take(oracle.y, part)
                if self.cosine:
                    # 1, but for a record whose gradient vanishes
                    squares = self._squares(X, y, theta)
                    out[part] += lr * (squares > 0)
                else:
                    out[part] += lr * self._squares(X, y, theta)
        return out * self._weights()

    def _squares(self, X, y, theta) -> Array:
        if self.kind == "fast":
            a, delta = self._last_factors(X, y, theta)
            return np.sum(a**2, axis=1) * np.sum(delta**2, axis=1)
        return np.sum(self._gradients(X, y, "loss", theta) ** 2, axis=1)

    def _weights(self) -> Array:
        return np.ones(self.n_train_) if self.cosine else self.oracle_.sample_weight

    # --- one checkpoint ---

    def _gradients(self, X, y, target, theta) -> Array:
        g = self.oracle_.value_grad(X, y, target, theta)
        return self._project(g if self._columns is None else g[:, self._columns])

    def _checkpoint(self, X, y, target, theta) -> Array:
        oracle = self.oracle_
        out = np.empty((count(X), self.n_train_))
        plain = not self.cosine and self._project.identity and self._columns is None
        for rows in oracle.batches(count(X)):
            G = self._gradients(take(X, rows), take(y, rows), target, theta)
            if plain:
                out[rows] = oracle.grad_dot(G.T, oracle.X, oracle.y, theta=theta).T
                continue
            for part, g in self._training_gradients(theta):
                out[rows, part] = _products(G, g, self.cosine)
        return out

    def _training_gradients(self, theta) -> Iterator[tuple[slice, Array]]:
        oracle = self.oracle_
        for part in oracle.batches():
            yield part, self._gradients(take(oracle.X, part), take(oracle.y, part), "loss", theta)

    def _last_layer(self, X, y, theta) -> Array:
        oracle = self.oracle_
        a_z, delta_z = self._last_factors(X, y, theta)
        out = np.empty((count(X), self.n_train_))
        for part in oracle.batches():
            a, delta = self._last_factors(take(oracle.X, part), take(oracle.y, part), theta)
            out[:, part] = _products(a_z, a, self.cosine) * _products(delta_z, delta, self.cosine)
        return out

    def _last_factors(self, X, y, theta) -> tuple[Array, Array]:
        factors = self.oracle_.layer_factors(X, y, theta)
        if factors is None:
            raise ValueError(
                f'{type(self.oracle_).__name__} has no layers: take kind="cp" in place of "fast"'
            )
        a, delta = factors[-1]
        if a.ndim != 2:
            raise ValueError('the last layer is passed at several positions: take kind="cp"')
        return a, delta

    def _check_fast_target(self, target) -> None:
        if target != "loss":
            raise ValueError(f'kind="fast" takes target="loss" only, got {target!r}')

    # --- the whole run ---

    def _retrace(self, X, y, target) -> Array:
        oracle, run = self.oracle_, self.checkpoints
        out = np.zeros((count(X), self.n_train_))
        for theta, lr, batch in zip(self.checkpoints_, self.lrs_, run.batches, strict=True):
            g = self._gradients(take(oracle.X, batch), take(oracle.y, batch), "loss", theta)
            weight = np.ones(len(batch)) if self.cosine else oracle.sample_weight[batch]
            for rows in oracle.batches(count(X)):
                G = self._gradients(take(X, rows), take(y, rows), target, theta)
                step = _products(G, g, self.cosine) * (lr * weight / len(batch))
                np.add.at(out, (np.arange(rows.start, rows.stop)[:, None], batch[None]), step)
        return out

    def _losses_removed(self, X, y, target) -> Array:
        run = self.checkpoints
        out = np.zeros((count(X), self.n_train_))
        before = self.oracle_.value(X, y, target, run.thetas[0])
        for theta, (i,) in zip(run.thetas[1:], run.batches, strict=True):
            after = self.oracle_.value(X, y, target, theta)
            out[:, i] += before - after
            before = after
        return out


def _products(G: Array, g: Array, cosine: bool) -> Array:
    """Inner products, or cosines, of the rows of G and g; 0 where a row vanishes."""
    out = G @ g.T
    if cosine:
        left, right = np.linalg.norm(G, axis=1), np.linalg.norm(g, axis=1)
        size = np.outer(left, right)
        out = np.divide(out, size, out=np.zeros_like(out), where=size > 0)
    return out
