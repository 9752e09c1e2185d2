"""Training a network on a mixture of losses whose weights move: the net, the meta-step between epochs, the checkpoint.

Before an epoch in which weights are due, one sweep over the records in batches, at fixed theta: each batch has its look-ahead step, and gives
the alignment M of its records. Then all weights move at once (`mixing_weights`). Everything goes by the record's own index, so
that the order of records does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from skorch.utils import to_tensor
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .._net import Checkpoint, Net
from .blocks import Losses
from .head import (
    cross_entropy_slope,
    head_alignment,
    head_direction,
    implicit_direction,
    logit_curvature,
)
from .mixing_weights import MixingWeights
from .one_step import alignment, evaluating, features, last_layer
from .plan import Plan, Trace

SWEEP_BATCH = 256  # larger ones leave the cache
ADAM = (torch.optim.Adam, torch.optim.AdamW)


class MixingNet(Net):
    """A net whose loss is the weighted sum of all losses of a record."""

    mixture_: MetaStep | None = None

    def get_loss(self, y_pred: Tensor, y_true: dict[str, Tensor], X=None, training=False):
        y_true = to_tensor(y_true, device=self.device)
        losses = self.mixture_.mixed(y_pred.float(), y_true["index"], training)
        return self.objective(losses, y_true, training)


class MetaStep(Callback):
    """The weights of the losses, and how they move between epochs.

    Parameters
    ----------
    plan : Plan
    mixing : MixingWeights
        Of all n records.
    losses : Losses
    trace : Trace
    X : Tensor of shape (n, ...)
        All records, those for validation among them.
    y : ndarray of int of shape (n,)
    rows, val : ndarray of int
        Those that are trained on, and those for validation.
    weight : ndarray of shape (n,) or None
    """

    def __init__(
        self,
        plan: Plan,
        mixing: MixingWeights,
        losses: Losses,
        trace: Trace,
        X: Tensor,
        y: NDArray[np.int64],
        rows: NDArray[np.int64],
        val: NDArray[np.int64],
        weight: NDArray | None,
    ):
        self.plan, self.mixing, self.bound, self.trace = plan, mixing, losses, trace
        self.X, self.y, self.rows, self.val, self.weight = X, y, rows, val, weight
        self.order = torch.Generator().manual_seed(plan.seed)

    def on_train_begin(self, net, **kwargs):
        self.device_ = next(net.module_.parameters()).device
        self.losses_ = self.bound.tensors(self.device_, torch.float32)
        self.y_val_ = torch.from_numpy(self.y[self.val]).to(self.device_)
        self.refresh()
        net.mixture_ = self

    def refresh(self) -> None:
        """Bring the weights to where the network is."""
        self.weights_ = torch.from_numpy(self.mixing.weights).float().to(self.device_)

    def mixed(self, logits: Tensor, index: Tensor, training: bool) -> Tensor:
        """Weighted sums (b,) of the losses of a batch of records."""
        weights = self.weights_[index]
        if self.plan.dropout and training:  # a teacher is left out of the batch
            kept = torch.rand(weights.shape[1] - 1, device=weights.device) >= self.plan.dropout
            weights = torch.cat([weights[:, :1], weights[:, 1:] * kept], dim=1)
        return (weights * self.losses_.losses(logits, index)).sum(1)

    def on_epoch_begin(self, net, **kwargs):
        epoch = len(net.history) - 1
        factor = self.plan.schedule(epoch / max(self.plan.epochs, 1))
        for group in net.optimizer_.param_groups:
            group["lr"] = self.plan.lr * factor
        if not self.trace.path:
            self.trace.record(self.mixing, epoch)
        if self.plan.due(epoch):
            self.step(net, epoch)

    def step(self, net, epoch: int) -> None:
        """One sweep, one move of all weights."""
        lr = net.optimizer_.param_groups[0]["lr"]
        module = _bare(net.module_)
        with evaluating(module):
            sweep = self._sweep_network if self.plan.meta == "full" else self._sweep_head
            M = sweep(module, net.optimizer_, lr * self.plan.lookahead)
        moved = np.zeros(self.mixing.mask.shape)
        moved[self.rows] = M.double().cpu().numpy()
        if not np.isfinite(moved).all():
            raise ValueError(
                f"training diverged before epoch {epoch + 1}: a gradient is not finite; lower lr ({self.plan.lr:g})"
            )
        batch = min(self.plan.batch_size, len(self.rows))
        self.trace.alignment = np.where(self.mixing.mask, moved, np.nan)
        self.mixing.step(moved, self.plan.rate, self.plan.update, lr, batch)
        self.trace.record(self.mixing, epoch)
        self.refresh()

    def _batches(self) -> tuple[Tensor, ...]:
        """Positions in `rows`, shuffled."""
        return torch.randperm(len(self.rows), generator=self.order).split(self.plan.batch_size)

    def _sample_weight(self, index: Tensor) -> Tensor:
        if self.weight is None:
            return torch.ones(len(index), 1, device=self.device_)
        return torch.from_numpy(self.weight).float().to(self.device_)[index][:, None]

    def _sweep_head(self, module: nn.Module, optimizer: Any, step: float) -> Tensor:
        _, layer = last_layer(module, self.X[:2].to(self.device_))
        if self.plan.meta == "implicit" and layer.bias is None:
            raise ValueError('meta="implicit" needs a last layer with a bias')
        H, z = features(module, layer, self.X[torch.from_numpy(self.rows)], SWEEP_BATCH)
        H_val, z_val = features(module, layer, self.X[torch.from_numpy(self.val)], SWEEP_BATCH)
        W = layer.weight.detach()
        H, H_val = H.to(W.dtype), H_val.to(W.dtype)  # mixed precision
        z, z_val = z.to(W.dtype), z_val.to(W.dtype)
        self.trace.val_losses.append(float(cross_entropy(z_val, self.y_val_)))
        one_hot = nn.functional.one_hot(self.y_val_, z.shape[1]).to(W.dtype)
        b = W.new_zeros(len(W)) if layer.bias is None else layer.bias.detach()
        index = torch.from_numpy(self.rows).to(self.device_)
        own = self._sample_weight(index)
        weights = self.weights_[index] * own

        def slope(logits: Tensor) -> Tensor:
            return cross_entropy_slope(logits, one_hot)

        scale = None
        implicit = self.plan.meta == "implicit"
        stretch = None if implicit else preconditioner(optimizer, [layer.weight, layer.bias])
        if stretch is not None or layer.bias is None:
            scale = (
                torch.ones_like(W) if stretch is None else stretch[0],
                torch.zeros_like(b) if layer.bias is None else stretch[1],
            )
        M = torch.empty(len(H), len(self.losses_.names), device=self.device_)
        if implicit or not step:
            direction = head_direction(W, b, H, None, None, H_val, slope, 0.0, scale)
            if implicit:
                direction = self._implicit(H, z, weights, direction)
            for part in torch.arange(len(H)).split(SWEEP_BATCH):
                gradients = self.losses_.gradients(z[part], index[part])
                M[part] = head_alignment(H[part], gradients, direction)
            return own * M
        for part in self._batches():
            gradients = self.losses_.gradients(z[part], index[part])
            direction = head_direction(
                W, b, H[part], gradients, weights[part], H_val, slope, step, scale
            )
            M[part] = head_alignment(H[part], gradients, direction)
        return own * M

    def _implicit(self, H: Tensor, z: Tensor, weights: Tensor, direction: tuple) -> tuple:
        H, z, weights = (t.double().cpu().numpy() for t in (H, z, weights))
        A = logit_curvature(self.bound, z, self.rows, weights)
        plain = tuple(d.double().cpu().numpy() for d in direction)
        found = implicit_direction(H, A, plain, self.plan.damping)
        return tuple(
            torch.from_numpy(np.ascontiguousarray(d)).float().to(self.device_) for d in found
        )

    def _sweep_network(self, module: nn.Module, optimizer: Any, step: float) -> Tensor:
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        stretch = preconditioner(optimizer, [p for p in module.parameters() if p.requires_grad])
        scale = None if stretch is None else dict(zip(names, stretch, strict=True))
        X_val = self.X[torch.from_numpy(self.val)].to(self.device_)
        direction, total = self._val_direction(module, X_val, names, scale)
        self.trace.val_losses.append(total)
        parts = torch.arange(len(self.val)).split(max(self.plan.batch_size, 1))
        M = torch.empty(len(self.rows), len(self.losses_.names), device=self.device_)
        rows = torch.from_numpy(self.rows)
        for turn, part in enumerate(self._batches()):
            index = rows[part].to(self.device_)
            own = self._sample_weight(index)
            val = parts[turn % len(parts)].to(self.device_)
            M[part.to(self.device_)] = own * alignment(
                module,
                self.X[rows[part]].to(self.device_),
                lambda z, index=index: self.losses_.losses(z, index),
                self.weights_[index] * own,
                X_val[val],
                lambda z, val=val: cross_entropy(z, self.y_val_[val]),
                step,
                scale,
                direction=None if step else direction,
            )
        return M

    def _val_direction(
        self, module: nn.Module, X_val: Tensor, names: list[str], scale: Mapping[str, Tensor] | None
    ) -> tuple[dict[str, Tensor], float]:
        """The gradient of the whole validation loss where the network is, and that loss."""
        trained = [p for p in module.parameters() if p.requires_grad]
        total = 0.0
        slopes = [torch.zeros_like(p) for p in trained]
        for part in torch.arange(len(X_val)).split(SWEEP_BATCH):
            loss = cross_entropy(module(X_val[part]), self.y_val_[part]) * len(part) / len(X_val)
            total += float(loss.detach())
            for slope, more in zip(slopes, torch.autograd.grad(loss, trained), strict=True):
                slope += more
        v = dict(zip(names, slopes, strict=True))
        return (v if scale is None else {n: scale[n] * g for n, g in v.items()}), total


class MixingCheckpoint(Checkpoint):
    """A checkpoint that holds the weights of the losses too."""

    meta: MetaStep

    def further_state(self) -> dict[str, Any]:
        return {
            "lambda": torch.from_numpy(self.meta.mixing.table),
            "meta_order": self.meta.order.get_state(),
            "trace": _as_tensors(self.meta.trace.state()),
        }

    def restore_further(self, state: dict[str, Any]) -> None:
        self.meta.mixing.table = state["lambda"].numpy()
        self.meta.order.set_state(state["meta_order"])
        self.meta.trace.restore(_as_arrays(state["trace"]))


def preconditioner(optimizer: Any, parameters: list[Tensor | None]) -> list[Tensor] | None:
    """The diagonal by which Adam stretches a gradient, 1 / (sqrt(v) + eps); None for other optimizers."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's is a wrapper
    if not isinstance(optimizer, ADAM):
        return None
    scales = []
    group = optimizer.param_groups[0]
    for p in parameters:
        if p is None:
            scales.append(None)
            continue
        state = optimizer.state.get(p, {})
        if "exp_avg_sq" not in state:
            scales.append(torch.ones_like(p))
            continue
        correction = 1 - group["betas"][1] ** float(state["step"])
        scales.append(1 / ((state["exp_avg_sq"] / correction).sqrt() + group["eps"]))
    return scales


def _as_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_tensors(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_as_tensors(v) for v in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_arrays(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_as_arrays(v) for v in value]
    return value.numpy() if isinstance(value, Tensor) else value


def _bare(module: nn.Module) -> nn.Module:
    """The module within torch's wrapper for several processes."""
    return (
        getattr(module, "module", module) if type(module).__name__.endswith("Parallel") else module
    )
