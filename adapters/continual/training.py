"""One step of the joint model's training: class loss, reconstruction and divergence, see `vae`."""

from __future__ import annotations

from typing import Any

import torch
from skorch.utils import to_tensor
from torch import Tensor

from .._net import Net
from .vae import kl_divergence


class OpenVAENet(Net):
    """skorch's loop with the joint model's loss, whose three terms go into the history.

    Parameters
    ----------
    beta : float
    penalty : Regularization or None
        What a baseline adds to the loss; None in prediction.
    """

    recorded = ("train_loss", "class_loss", "reconstruction", "divergence")

    def __init__(self, *args: Any, beta: float, penalty: Any = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.beta, self.penalty = beta, penalty

    def get_loss(self, y_pred, y_true: dict[str, Tensor], X=None, training=False):
        logits, decoded, mean, scale = y_pred
        y_true = to_tensor(y_true, device=self.device)
        X = to_tensor(X, device=self.device)
        class_loss = self.criterion_(logits, y_true["y"])
        reconstruction = self.module_.likelihood.nll(X, decoded).flatten(1).mean(1)
        divergence = kl_divergence(mean, scale).mean(1)
        if training:
            terms = torch.stack([class_loss, reconstruction, divergence]).detach().mean(1)
            self._terms.append(terms)
        losses = class_loss + reconstruction + self.beta * divergence
        total = self.objective(losses, y_true, training)
        if training and self.penalty is not None:
            total = total + self.penalty.loss(self.module_, X, mean)
        return total

    def on_epoch_begin(self, net, **kwargs):
        super().on_epoch_begin(net, **kwargs)
        self._terms: list[Tensor] = []

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        super().run_single_epoch(iterator, training, prefix, step_fn, **fit_params)
        if training:
            means = torch.stack(self._terms).mean(0).tolist()
            for name, value in zip(self.recorded[1:], means, strict=True):
                self.history.record(name, value)
