r"""One step of the joint model's training: class loss, reconstruction and divergence (see `vae`), and introspection if wanted.

**Introspection** (IntroVAE) makes the encoder a critic of the decoder. With the divergence per latent dimension KL(x) of
q(z | x) from the prior, reconstructions :math:`\hat x`, fakes :math:`\tilde x` decoded from the prior, a weight
:math:`\gamma` and a margin m of 100 nats a record, the encoder's loss gains

.. math:: \beta \frac\gamma2 \left( [m - \mathrm{KL}(\hat x)]_+ + [m - \mathrm{KL}(\tilde x)]_+ \right)

where the images count as data, and the decoder's gains

.. math:: \frac\gamma2 \left( \mathrm{KL}(\hat x) + \mathrm{KL}(\tilde x) \right)

where the encoder's weights count as fixed: the encoder calls what is decoded untypical, the decoder learns to pass. Adam treats every
weight by itself, so that one optimizer does for both.

References
----------
Huang, H., Li, Z., He, R., Sun, Z. and Tan, T. (2018). IntroVAE: introspective variational autoencoders for photographic image
synthesis. Advances in Neural Information Processing Systems 31.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from skorch.dataset import unpack_data
from skorch.utils import to_tensor
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._net import Net
from .vae import VAE, kl_divergence

MARGIN = 100.0  # nats a record


class OpenVAENet(Net):
    """skorch's loop with the joint model's loss, whose three terms go into the history.

    Parameters
    ----------
    beta : float
    introspection : float, default=0.0
        The weight gamma of the module's docstring.
    penalty : Regularization or None
        What a baseline adds to the loss; None in prediction.
    """

    recorded = ("train_loss", "class_loss", "reconstruction", "divergence")

    def __init__(
        self,
        *args: Any,
        beta: float,
        introspection: float = 0.0,
        penalty: Any = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.beta, self.introspection, self.penalty = beta, introspection, penalty

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

    def train_step_single(self, batch, **fit_params):
        if not self.introspection:
            return super().train_step_single(batch, **fit_params)
        self._set_training(True)
        X, y = unpack_data(batch)
        y_pred = self.infer(X, **fit_params)
        loss = self.get_loss(y_pred, y, X=X, training=True)
        loss.backward(retain_graph=True)
        introspect(self.module_, y_pred[1], self.introspection, self.beta)
        return {"loss": loss, "y_pred": y_pred}

    def on_epoch_begin(self, net, **kwargs):
        super().on_epoch_begin(net, **kwargs)
        self._terms: list[Tensor] = []

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        super().run_single_epoch(iterator, training, prefix, step_fn, **fit_params)
        if training:
            means = torch.stack(self._terms).mean(0).tolist()
            for name, value in zip(self.recorded[1:], means, strict=True):
                self.history.record(name, value)


def introspect(module: VAE, decoded: Tensor, gamma: float, beta: float) -> None:
    """Add the gradients of the adversarial terms to those there are.

    Parameters
    ----------
    module : VAE
    decoded : Tensor of shape (batch, ...)
        Decoded latents of a minibatch, with their graph.
    gamma, beta : float
    """
    d = module.mean.out_features
    rng = np.random.default_rng(0)  # differentiable records are not drawn
    critic = [p for part in (module.encoder, module.mean, module.scale) for p in part.parameters()]
    with frozen_statistics(module):
        prior = torch.randn(len(decoded), d, device=decoded.device)
        images = [module.likelihood.records(x, rng) for x in (decoded, module.decode(prior))]
        passed = sum(_divergence(module, x).mean() for x in images)
        caught = sum((MARGIN / d - _divergence(module, x.detach())).relu().mean() for x in images)
    _accumulate(0.5 * gamma * passed, list(module.decoder.parameters()))
    _accumulate(0.5 * beta * gamma * caught, critic)


def _divergence(module: VAE, X: Tensor) -> Tensor:
    return kl_divergence(*module.encode(X.reshape(len(X), *module.shape))).mean(1)


def _accumulate(loss: Tensor, parameters: list[nn.Parameter]) -> None:
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch normalisation does not take fakes into what it knows of records."""
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
