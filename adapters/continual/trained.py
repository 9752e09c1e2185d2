"""A trained joint model as functions of arrays: single precision inside the network, double outside of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from statml._validation import check_outputs

from .._estimator import PREDICT_BATCH
from .vae import VAE

Array = NDArray[np.float64]
Records = NDArray[np.float32]


class Trained:
    """What is asked of a model after its training.

    Parameters
    ----------
    module : VAE
    device : str
        Where its weights are.
    draws : ndarray of shape (n_samples, latent_dim)
        Standard normal, over which class probabilities are averaged. The same for every record, so that none depends on its
        company.
    """

    def __init__(self, module: VAE, device: str, draws: Array):
        self.module, self.device, self.draws = module.eval(), device, draws
        self.weights: Array = module.classifier.weight.detach().cpu().double().numpy()

    def encode(self, X: Records) -> tuple[Array, Array]:
        """Mean and scale of the latents, (n, latent_dim) each."""
        mean, scale = self._mapped(self.module.encode, X)
        return mean.astype(float), scale.astype(float)

    def decode(self, Z: Array, rng: np.random.Generator) -> Records:
        """Records that the decoder makes of latents; `rng` for likelihoods whose records are drawn."""
        likelihood = self.module.likelihood

        def records(z: Tensor) -> tuple[Tensor]:
            return (likelihood.records(self.module.decode(z), rng),)

        return self._mapped(records, Z.astype(np.float32))[0]

    def reconstruction_nll(self, X: Records, mean: Array) -> Array:
        """Mean over a record's values of minus the log-likelihood at the latent mean; never zero."""

        def nll(x: Tensor, z: Tensor) -> tuple[Tensor]:
            values = self.module.likelihood.nll(x, self.module.decode(z))
            return (values.flatten(1).mean(1),)

        (losses,) = self._mapped(nll, X, mean.astype(np.float32))
        return losses.astype(float) + 1e-12

    def classify(self, Z: Array) -> NDArray[np.int64]:
        """The classifier's code of latents."""
        return (Z @ self.weights.T).argmax(axis=1)

    def class_proba(self, mean: Array, scale: Array) -> Array:
        """Softmax averaged over latents, (n, n_classes)."""
        total = np.zeros((len(mean), len(self.weights)))
        for draw in self.draws:
            logits = (mean + scale * draw) @ self.weights.T
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            total += odds / odds.sum(axis=1, keepdims=True)
        return total / len(self.draws)

    @torch.no_grad()
    def _mapped(
        self, function: Callable[..., tuple[Tensor, ...]], *arrays: Records
    ) -> list[NDArray]:
        """What a function of tensors makes of arrays, batch by batch."""
        parts = []
        for k in range(0, max(len(arrays[0]), 1), PREDICT_BATCH):
            batch = [torch.from_numpy(a[k : k + PREDICT_BATCH]).to(self.device) for a in arrays]
            parts.append([value.cpu().numpy() for value in function(*batch)])
        return [check_outputs(np.concatenate(values)) for values in zip(*parts, strict=True)]
