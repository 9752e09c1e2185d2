r"""The baselines that add a penalty instead of replaying.

* Elastic weight consolidation (Kirkpatrick et al. 2017): :math:`\frac\lambda2 \sum_j F_j (\theta_j - \theta_j^*)^2`, with F
  the diagonal Fisher information of the classifier's log-likelihood, added up over tasks, and θ* the weights after the last
  one (the "online" form of Schwarz et al. 2018).
* Learning without forgetting (Li and Hoiem 2016): on the new task's records the old classes' probabilities, softened by a
  temperature T = 2, stay what the previous network says: :math:`\lambda T^2\, \mathrm{KL}(p^{old}_T \| p_T)`.

A regularization has ``loss(module, X, mean)``, what is added to a minibatch's loss, and ``consolidate(module, X, rng)``, what is to
be remembered for the next task, as arrays by name.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

FISHER_RECORDS = 500  # at most, for the information of one task
FISHER_BATCH = 50
TEMPERATURE = 2.0


class NoRegularization:
    """Adds nothing."""

    def __init__(self, strength: float, previous: nn.Module | None, state: dict[str, NDArray]):
        pass

    def loss(self, module: nn.Module, X: Tensor, mean: Tensor) -> float:
        return 0.0

    def consolidate(
        self, module: nn.Module, X: NDArray, rng: np.random.Generator
    ) -> dict[str, NDArray]:
        return {}


class EWC:
    """Elastic weight consolidation."""

    def __init__(self, strength: float, previous: nn.Module | None, state: dict[str, NDArray]):
        self.strength = strength
        self.state = {name: torch.from_numpy(value) for name, value in state.items()}

    def loss(self, module: nn.Module, X: Tensor, mean: Tensor) -> Tensor | float:
        total: Tensor | float = 0.0
        for name, parameter in module.named_parameters():
            if f"information.{name}" in self.state:
                information = self.state[f"information.{name}"].to(parameter.device)
                anchor = self.state[f"anchor.{name}"].to(parameter.device)
                now = parameter[: len(anchor)]  # the classifier's rows that there were
                total = total + (information * (now - anchor).square()).sum()
        return 0.5 * self.strength * total

    def consolidate(
        self, module: nn.Module, X: NDArray, rng: np.random.Generator
    ) -> dict[str, NDArray]:
        chosen = rng.permutation(len(X))[:FISHER_RECORDS]
        state = {}
        for name, information in fisher_information(module, X[chosen], rng).items():
            old = self.state.get(f"information.{name}")
            if old is not None:
                information[: len(old)] += old.numpy()
            state[f"information.{name}"] = information
            anchor = module.get_parameter(name).detach().cpu().numpy()
            state[f"anchor.{name}"] = anchor.copy()
        return state


class LwF(NoRegularization):
    """Learning without forgetting."""

    def __init__(self, strength: float, previous: nn.Module | None, state: dict[str, NDArray]):
        self.strength = strength
        self.teacher = None if previous is None else copy.deepcopy(previous).eval()

    def loss(self, module: nn.Module, X: Tensor, mean: Tensor) -> Tensor | float:
        if self.teacher is None:
            return 0.0
        with torch.no_grad():
            before = self.teacher.classifier(self.teacher.encode(X)[0])
        now = module.classifier(mean)[:, : before.shape[1]]
        kl = F.kl_div(
            F.log_softmax(now / TEMPERATURE, 1),
            F.log_softmax(before / TEMPERATURE, 1),
            log_target=True,
            reduction="batchmean",
        )
        return self.strength * TEMPERATURE**2 * kl


def fisher_information(
    module: nn.Module, X: NDArray, rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Diagonal of E[∇ log p(y|x) ∇ log p(y|x)ᵀ], y drawn from the model, at the latent mean, for what the class depends on."""
    module.eval()
    device = next(module.parameters()).device
    parts = ("encoder.", "mean.", "classifier.")
    watched = {k: v.detach() for k, v in module.named_parameters() if k.startswith(parts)}
    logits_of = _MeanLogits(module)

    def log_likelihood(parameters, x, y):
        named = {f"vae.{name}": value for name, value in parameters.items()}
        logits = functional_call(logits_of, named, (x[None],))[0]
        return F.log_softmax(logits, 0).gather(0, y[None])[0]

    per_record = vmap(grad(log_likelihood), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(value) for name, value in watched.items()}
    for k in range(0, len(X), FISHER_BATCH):
        x = torch.from_numpy(X[k : k + FISHER_BATCH]).to(device)
        with torch.no_grad():
            probabilities = logits_of(x).softmax(1).cpu().double().numpy()
        uniform = rng.random((len(x), 1))
        drawn = (uniform > probabilities.cumsum(1)).sum(1).clip(max=probabilities.shape[1] - 1)
        gradients = per_record(watched, x, torch.from_numpy(drawn).to(device))
        for name, value in gradients.items():
            total[name] += value.square().sum(0)
    return {name: (value / len(X)).cpu().numpy() for name, value in total.items()}


class _MeanLogits(nn.Module):
    """Class logits at the latent mean."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, X: Tensor) -> Tensor:
        return self.vae.classifier(self.vae.encode(X)[0])


REGULARIZATIONS = {None: NoRegularization, "ewc": EWC, "lwf": LwF}
