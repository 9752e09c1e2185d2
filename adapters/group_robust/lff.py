r"""Learning from failure: a network that is trained to be biased tells another one which records are hard for it.

The biased network minimises the generalised cross-entropy, which counts records more that it already gets right,

.. math::  \mathrm{GCE}_q(p_y) = (1 - p_y^q) / q,

and so holds on to the easy rule. At the same time the other network minimises the weighted cross-entropy with

.. math::  W_i = \frac{\ell^b_i}{\ell^b_i + \ell^d_i},

:math:`\ell^b_i` and :math:`\ell^d_i` the cross-entropies of record i under the two networks. As in the authors' code, they are
smoothed over epochs, :math:`\bar\ell \leftarrow 0.7\, \bar\ell + 0.3\, \ell`, and divided by the largest of the class: without
this, all weights vanish where the biased network gets everything right. Each network has an optimizer of its own.

Cost: two networks, and O(n) a step for the largest losses.

Reference: Nam, J., Cha, H., Ahn, S., Lee, J. and Shin, J. (2020). Learning from failure: training debiased classifier from
biased classifier. Advances in Neural Information Processing Systems 33, algorithm 1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from skorch.utils import to_tensor
from torch import Tensor, nn

from statml._validation import RandomState, as_seed_sequence, check_number
from statml.group_robust._estimator import check_weights

from .._estimator import OPTIMIZERS, NetClassifier, relative_weights
from .._net import Checkpoint, Net

MEMORY = 0.7  # of the running means of losses, as in the authors' code


def generalized_cross_entropy(losses: Tensor, q: float) -> Tensor:
    """GCE of the cross-entropies -log p_y; with q = 0, these themselves.

    Parameters
    ----------
    losses : Tensor of shape (batch,)
    q : float

    Returns
    -------
    Tensor of shape (batch,)

    Examples
    --------
    >>> import torch
    >>> generalized_cross_entropy(-torch.tensor([0.5625, 0.25]).log(), 0.5).tolist()
    [0.5, 1.0]
    """
    return losses if q == 0 else -torch.expm1(-q * losses) / q


def relative_difficulty(biased: Tensor, debiased: Tensor) -> Tensor:
    """W, the share of the biased network in the sum of both losses; 1/2 where both are zero.

    Parameters
    ----------
    biased, debiased : Tensor of shape (batch,)

    Returns
    -------
    Tensor of shape (batch,)

    Examples
    --------
    >>> import torch
    >>> relative_difficulty(torch.tensor([3.0, 0.0, 0.0]), torch.tensor([1.0, 2.0, 0.0])).tolist()
    [0.75, 0.0, 0.5]
    """
    total = biased + debiased
    return torch.where(total > 0, biased / total.clamp_min(torch.finfo(total.dtype).tiny), 0.5)


class SmoothedLosses:
    """Running means of the records' losses, on the scale of the largest in the class.

    Parameters
    ----------
    classes : int Tensor of shape (n,)
    n_classes : int

    Examples
    --------
    >>> import torch
    >>> losses = SmoothedLosses(torch.tensor([0, 0, 1]), 2)
    >>> first = losses.update(torch.tensor([0, 1, 2]), torch.tensor([1.0, 4.0, 8.0]))
    >>> losses.update(torch.tensor([0]), torch.tensor([2.0]))  # (0.7 * 1 + 0.3 * 2) / 4
    tensor([0.3250])
    """

    def __init__(self, classes: Tensor, n_classes: int):
        self.classes, self.n_classes = classes, n_classes
        self.mean = torch.full(classes.shape, -1.0, device=classes.device)  # -1: not yet seen

    def update(self, index: Tensor, losses: Tensor) -> Tensor:
        """Take in the losses of some records, and return theirs, smoothed and scaled."""
        before = self.mean[index]
        losses = losses.to(before.dtype)
        now = torch.where(before < 0, losses, MEMORY * before + (1 - MEMORY) * losses)
        self.mean[index] = now
        return now / self._largest()[self.classes[index]]

    def scaled(self) -> Tensor:
        """Those of all records, (n,); zero for one that was not seen."""
        return self.mean.clamp_min(0) / self._largest()[self.classes]

    def _largest(self) -> Tensor:
        largest = torch.full((self.n_classes,), 1e-30, device=self.mean.device)
        return largest.scatter_reduce_(0, self.classes, self.mean, "amax")


class BiasedPlayer:
    """The biased network with its optimizer, and the smoothed losses of both.

    Parameters
    ----------
    module : torch Module
    optimizer : torch Optimizer
    q : float
    classes : int Tensor of shape (n,)
    n_classes : int
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        q: float,
        classes: Tensor,
        n_classes: int,
    ):
        self.module, self.optimizer, self.q = module, optimizer, q
        self.biased, self.debiased = (SmoothedLosses(classes, n_classes) for _ in range(2))

    def play(self, X: Tensor, losses_of, weight: Tensor | None) -> Tensor:
        """A step of the biased network; its cross-entropies before it, shape (batch,)."""
        self.module.train()
        losses = losses_of(self.module(X))
        biased = generalized_cross_entropy(losses, self.q)
        self.optimizer.zero_grad()
        (biased if weight is None else biased * weight).mean().backward()
        self.optimizer.step()
        return losses.detach()

    def difficulty(self, index: Tensor, biased: Tensor, debiased: Tensor) -> Tensor:
        """W of the records of a batch."""
        return relative_difficulty(
            self.biased.update(index, biased), self.debiased.update(index, debiased)
        )


class LfFLoop(Net):
    """The training loop of the debiased network; its `BiasedPlayer` is ``player_``."""

    def get_loss(self, y_pred: Tensor, y_true: dict[str, Tensor], X=None, training=False):
        player = getattr(self, "player_", None)
        if player is None or not training:
            return super().get_loss(y_pred, y_true, X, training)
        y_true = to_tensor(y_true, device=self.device)
        weight = y_true.get("weight")
        losses = self.criterion_(y_pred, y_true["y"])
        biased = player.play(
            to_tensor(X, device=self.device), lambda z: self.criterion_(z, y_true["y"]), weight
        )
        W = player.difficulty(y_true["index"], biased, losses.detach())
        return (W * losses if weight is None else weight * W * losses).mean()


class LfFCheckpoint(Checkpoint):
    """A checkpoint with the biased network."""

    player: BiasedPlayer

    def further_state(self) -> dict[str, Any]:
        return {
            "biased": self.player.module.state_dict(),
            "biased_optimizer": self.player.optimizer.state_dict(),
            "losses": [self.player.biased.mean, self.player.debiased.mean],
        }

    def restore_further(self, state: dict[str, Any]) -> None:
        self.player.module.load_state_dict(state["biased"])
        self.player.optimizer.load_state_dict(state["biased_optimizer"])
        self.player.biased.mean, self.player.debiased.mean = state["losses"]


class LfFNet(NetClassifier):
    """Neural network that learns from the failure of a biased one.

    Parameters
    ----------
    module, epochs, batch_size, optimizer, lr, weight_decay, device, random_state, progress, checkpoint_dir
        As in `NetClassifier`; for both networks.
    accelerate : None
        Not taken: there are two networks.
    gce_q : float in [0, 1], default=0.7
        q of the generalised cross-entropy: 0 is the cross-entropy, 1 the probability of an error.
    **nested
        ``module__*``, ``optimizer__*``, ``iterator_train__*``.

    Attributes
    ----------
    biased_module_ : torch Module
        The biased network.
    difficulty_ : ndarray of shape (n,)
        W of each training record at the end; 1/2 if there was no epoch.
    classes_, module_, net_, loss_curve_, n_iter_, n_features_in_
        As in `NetClassifier`; of the debiased network.

    Notes
    -----
    A record whose label is wrong is hard for both networks, and keeps about half its weight, while a record that both get right
    may lose all of it: noisy labels gain. In a long training the weights of all easy records vanish, and the network forgets
    them: keep `epochs` few, by the accuracy of held-out records.

    References
    ----------
    Nam et al. (2020), algorithm 1.

    Examples
    --------
    >>> from statml.adapters.group_robust import LfFNet
    >>> from statml.datasets import make_spurious_gaussians
    >>> data = make_spurious_gaussians(random_state=0)
    >>> model = LfFNet(module__hidden=(16,), epochs=20, random_state=0).fit(data.X, data.y)
    >>> minority = data.y != data.attribute
    >>> bool(model.difficulty_[minority].mean() > model.difficulty_[~minority].mean())
    True
    """

    _net_class: ClassVar[type[Net]] = LfFLoop
    _keeps_callbacks = False
    _player: BiasedPlayer

    def __init__(
        self,
        module: str | type[nn.Module] | nn.Module = "mlp",
        *,
        epochs: int = 100,
        batch_size: int = 128,
        optimizer: str | type[torch.optim.Optimizer] = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        gce_q: float = 0.7,
        device: str = "cpu",
        accelerate: None = None,
        random_state: RandomState = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        **nested: Any,
    ):
        super().__init__(
            module,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            device=device,
            accelerate=accelerate,
            random_state=random_state,
            progress=progress,
            checkpoint_dir=checkpoint_dir,
            **nested,
        )
        self.gce_q = gce_q

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Train both networks from new weights on.

        Parameters
        ----------
        X : array-like of shape (n, ...)
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,) or None, default=None
            Counts for both networks.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `gce_q` is out of range, or data or parameters are unusable.
        """
        if self.accelerate is not None:
            raise ValueError(f"accelerate must be None for LfFNet, got {self.accelerate!r}")
        check_number("gce_q", self.gce_q, 0, 1)
        X, y = self._check_data(X, y)
        extras = {"index": np.arange(len(X))}
        if sample_weight is not None:
            extras["weight"] = relative_weights(check_weights(sample_weight, X))
        self._codes = y
        self._seed = int(as_seed_sequence(self.random_state).spawn(1)[0].generate_state(1)[0])
        try:
            self._train(X, y, extras)
            player = self._player
        finally:
            for name in ("_codes", "_seed", "_player"):
                vars(self).pop(name, None)
        self.biased_module_ = player.module.eval()
        W = relative_difficulty(player.biased.scaled(), player.debiased.scaled())
        self.difficulty_: NDArray[np.float64] = W.double().cpu().numpy()
        return self

    def _make_net(
        self, module: nn.Module, order: torch.Generator, epochs: int, plain: bool = False
    ) -> Net:
        net = super()._make_net(module, order, epochs, plain)
        if plain:
            return net
        with torch.random.fork_rng(devices=[]):  # weights of its own, not a change of the others'
            torch.manual_seed(self._seed)
            biased = self._make_module(self._n_inputs).to(self.device)
        kind = OPTIMIZERS.get(self.optimizer, self.optimizer)
        arguments = {"lr": self.lr, "weight_decay": self.weight_decay}
        optimizer = kind(biased.parameters(), **(arguments | self._nested("optimizer__")))
        codes = torch.from_numpy(self._codes).to(self.device)
        self._player = BiasedPlayer(biased, optimizer, self.gce_q, codes, self._n_outputs)
        net.player_ = self._player
        return net

    def _make_checkpoint(self, path: Path, fingerprint: str, order: torch.Generator) -> Checkpoint:
        callback = LfFCheckpoint(path, fingerprint, order)
        callback.player = self._player
        return callback

    # --- files ------------------------------------------------------------------------------------------

    def _fitted_attributes(self) -> dict[str, Any]:
        fitted = super()._fitted_attributes()
        state = fitted.pop("biased_module_").state_dict()
        return fitted | {"biased_module_": {k: v.cpu().numpy() for k, v in state.items()}}

    @classmethod
    def load(cls, path: str | os.PathLike[str], module: Any = None) -> Self:
        estimator = super().load(path, module)
        estimator.biased_module_ = restored(estimator, estimator.biased_module_)
        return estimator


def restored(estimator: NetClassifier, state: Mapping[str, NDArray]) -> nn.Module:
    """Another network of the same kind as the estimator's, with weights from a file."""
    module = estimator._make_module(estimator._n_inputs)
    module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    return module.eval()
