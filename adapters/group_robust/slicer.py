r"""The slicing adversary: a small network that puts records into soft slices, where the classifier does badly.

Slices are :math:`P_\phi(g \mid z_i)`, a softmax of a network of z: the classifier's features, predicted probabilities and label of
record i. With a batch's slice losses

.. math::  \bar L_g = \frac{\sum_i P_\phi(g \mid z_i)\, \ell_i}{\max(\sum_i P_\phi(g \mid z_i),\; c\, n)}

the adversary climbs on

.. math::  \sum_g v_g \bar L_g + \rho_e\, \overline{H(P(\cdot \mid z_i))} - \rho_m\, \mathrm{KL}(\bar P \,\|\, U),

c the smallest mass, v the weights of `statml.group_robust.soft_slicer.adversary_weights`, from running means of the slices'
losses and masses. Equal slices are a stationary point, so that the slicer first learns to imitate others: cells
of the confusion matrix, or a DOMINO mixture.

Cost: O(batch d) a step, d the inputs.

Reference: Paranjape, B., Dasigi, P., Srikumar, V., Zettlemoyer, L. and Hajishirzi, H. (2023). AGRO: adversarial discovery of
error-prone groups for robust optimization. ICLR; inputs, network, weights and regularisers as in the authors' code, where one
optimizer serves both players (and moves the one that should be frozen). Here each has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from statml.group_robust.domino import confusion_start, domino_start
from statml.group_robust.soft_slicer import adversary_weights

from .._mlp import MLP

Array = NDArray[np.float64]

STARTS = {"confusion": confusion_start, "domino": domino_start}
IMITATION_STEPS = 300
IMITATION_LR = 1e-2
MEMORY = 0.5  # of the running means of slice losses, gamma in the authors' code
MASS_MEMORY = 0.05  # weight of a new batch in the running means of masses


def slicer_inputs(features: NDArray, proba: Array, y: NDArray[np.int64], n_classes: int) -> Array:
    """z of each record before it is scaled: features, probabilities, label, shape (n, d)."""
    return np.hstack([features, proba, np.eye(n_classes)[y]])


def slice_losses(losses: Tensor, P: Tensor, min_mass: float) -> Tensor:
    """Mean loss of each slice; to shrink below the smallest mass gains nothing.

    Parameters
    ----------
    losses : Tensor of shape (batch,)
    P : Tensor of shape (batch, m)
    min_mass : float
        c, a share of the batch.

    Returns
    -------
    Tensor of shape (m,)

    Examples
    --------
    >>> import torch
    >>> P = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    >>> [round(loss, 3) for loss in slice_losses(torch.tensor([1.0, 2.0]), P, 0.1).tolist()]
    [1.474, 1.0]
    """
    floor = max(min_mass * len(P), torch.finfo(P.dtype).tiny)
    return (losses @ P) / P.sum(0).clamp_min(floor)


def adversary_objective(
    losses: Tensor,
    P: Tensor,
    v: Tensor,
    min_mass: float,
    entropy_reg: float = 0.0,
    marginal_reg: float = 0.0,
) -> Tensor:
    """What the adversary climbs on, for weights v of the slices.

    Parameters
    ----------
    losses : Tensor of shape (batch,)
    P : Tensor of shape (batch, m)
    v : Tensor of shape (m,)
    min_mass, entropy_reg, marginal_reg : float

    Returns
    -------
    Tensor of shape ()
    """
    value = v @ slice_losses(losses, P, min_mass)
    if entropy_reg:
        value = value - entropy_reg * torch.special.xlogy(P, P).sum(1).mean()
    if marginal_reg:
        share = P.mean(0)
        value = value - marginal_reg * torch.special.xlogy(share, share * len(share)).sum()
    return value


class Adversary:
    """The slicer with its optimizer, and running means of its slices.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
        Inputs of the training records; scaled here, and those of others alike.
    n_slices : int
    hidden : sequence of int
    lr, weight_decay : float
    form : {"worst", "greedy-reverse"}
    min_mass, entropy_reg, marginal_reg : float
    device : str
    """

    def __init__(
        self,
        Z: Array,
        n_slices: int,
        hidden: Sequence[int] = (64, 32),
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        form: str = "worst",
        min_mass: float = 0.02,
        entropy_reg: float = 0.0,
        marginal_reg: float = 0.0,
        device: str = "cpu",
    ):
        self.centre, self.scale = Z.mean(axis=0), Z.std(axis=0)
        self.scale[self.scale < 1e-8] = 1.0
        self.module = MLP(Z.shape[1], n_slices, hidden=hidden).to(device)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=lr, weight_decay=weight_decay
        )
        self.form, self.min_mass, self.device = form, min_mass, device
        self.entropy_reg, self.marginal_reg = entropy_reg, marginal_reg
        self.Z = self.scaled(Z)
        self.forget()

    def forget(self) -> None:
        """Begin the running means anew."""
        self.losses: Tensor | None = None
        self.mass: Tensor | None = None

    def scaled(self, Z: Array) -> Tensor:
        """Inputs as the slicer takes them."""
        scaled = ((Z - self.centre) / self.scale).astype(np.float32)
        return torch.from_numpy(scaled).to(self.device)

    def slices(self, Z: Tensor) -> Tensor:
        """Soft slices of records, (n, m)."""
        return self.module(Z).softmax(1)

    @torch.no_grad()
    def membership(self, Z: Tensor) -> Array:
        """The same as numbers; rows sum to one."""
        P = self.slices(Z).double().cpu().numpy()
        return P / P.sum(axis=1, keepdims=True)

    def imitate(self, start: Array) -> None:
        """Learn memberships that are given for the training records, in cross-entropy, in full batches."""
        target = torch.as_tensor(start, dtype=torch.float32, device=self.device)
        optimizer = torch.optim.Adam(self.module.parameters(), lr=IMITATION_LR)
        for _ in range(IMITATION_STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.module(self.Z), target).backward()
            optimizer.step()

    def look(self, losses: Tensor, P: Tensor) -> None:
        """Update the running means of slice losses and masses by a batch."""
        seen, mass = slice_losses(losses, P, self.min_mass), P.mean(0)
        if self.losses is None:
            self.losses, self.mass = seen.clone(), mass.clone()
        else:
            self.losses.lerp_(seen, 1 - MEMORY)
            self.mass.lerp_(mass, MASS_MEMORY)

    def step(self, index: Tensor, losses: Tensor) -> None:
        """One step up on the losses (batch,) of some training records."""
        P = self.slices(self.Z[index])
        self.look(losses, P.detach())
        share = (self.mass / self.mass.sum()).double().cpu().numpy()
        v = adversary_weights(self.losses.double().cpu().numpy(), share, self.form)
        v = torch.as_tensor(v, dtype=P.dtype, device=P.device)
        value = adversary_objective(
            losses, P, v, self.min_mass, self.entropy_reg, self.marginal_reg
        )
        self.optimizer.zero_grad()
        (-value).backward()
        self.optimizer.step()

    def train(self, losses: Tensor, epochs: int, batch_size: int, order: torch.Generator) -> None:
        """Climb on fixed losses (n,) of the training records."""
        losses = losses.to(self.device)
        for _ in range(epochs):
            for index in torch.randperm(len(losses), generator=order).split(batch_size):
                self.step(index.to(self.device), losses[index.to(self.device)])

    # --- an interrupted training ------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "mass": self.mass,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses, self.mass = state["losses"], state["mass"]


def start_of(
    init: str,
    features: NDArray,
    y: NDArray[np.int64],
    proba: Array,
    n_slices: int,
    rng: np.random.Generator,
) -> Array | None:
    """Memberships that the slicer first imitates, (n, m); None for "random"."""
    if init == "random":
        return None
    return STARTS[init](features.astype(float), y, proba, n_slices, rng)
