r"""AGRO for networks: an adversary slices the records where the network errs, the network is trained to be robust over the slices.

A slicing network :math:`P_\phi(g \mid z_i)` (`slicer`) and a classifier theta play

.. math::  \min_\theta \max_\phi \max_{h \in H_\alpha} \sum_g h_g \bar L_g(\theta, \phi), \qquad
           \bar L_g = \frac{\sum_i P_\phi(g \mid z_i)\, \ell_i(\theta)}{\sum_i P_\phi(g \mid z_i)},

:math:`H_\alpha` the group weights of CVaR over slices. No group labels are used.

1. Networks are trained on the mean loss: one, the start of the classifier, and K for out-of-fold probabilities and features,
   brought into the space of the first (`out_of_fold`). z is features, probabilities and label, and stays as it is.
2. The slicer learns to imitate the cells of the confusion matrix or a DOMINO mixture.
3. "two-stage": the adversary is trained against the *out-of-fold* losses of the mean-loss network, then slices stay and the classifier
   is trained (in balanced batches). "alternate": a batch is a step of each against the other.
4. Epochs are judged by the predicted worst slices of held-out records: slices of which the network was not told, from the
   slicer before the classifier's first step, as a yardstick that moves compares nothing. See
   `statml.group_robust.game.predicted_worst`.

What differs from the authors' code: each player has an optimizer of its own (there, one moves both, so that a frozen slicer
goes on decaying); the classifier's objective is a convex combination of slice losses, by exponentiated gradients; losses to slice by
are out of fold; features of different folds are aligned; at least one slice is judged. ``adversary="greedy-reverse"`` is theirs.

**Do not expect much.** The inputs hold the predicted probability and the label, and so the loss: the adversary is nearly free to pick
any records, and the worst of all slices of a mass is the conditional value at risk, which finds noise. An independent study
of shifted image and text data (Shen, Lin and Wang, 2026) found the original below plain training on two of three of them.

Cost: (cv + 2) trainings.

References
----------
Paranjape, B., Dasigi, P., Srikumar, V., Zettlemoyer, L. and Hajishirzi, H. (2023). AGRO: adversarial discovery of
error-prone groups for robust optimization. International Conference on Learning Representations.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from statml._validation import (
    RandomState,
    as_seed_sequence,
    check_choice,
    check_integer,
    check_number,
)
from statml.group_robust._partition import class_codes
from statml.group_robust.game import large_enough, predicted_worst
from statml.group_robust.membership import SoftGroups
from statml.group_robust.out_of_fold import log_losses

from .._estimator import NetClassifier
from .._mlp import MLP
from ._estimator import GroupNet, softmax, stratified_split
from .features import features_and_outputs
from .lff import restored
from .online import GroupPlayer, SoftBatch, balanced_membership, numbers
from .out_of_fold import BASE, out_of_fold
from .slicer import Adversary, slicer_inputs, start_of
from .training import GroupTraining, Selection

Array = NDArray[np.float64]


class AlternatingPlayer(GroupPlayer):
    """A group player whose groups are the slices of an adversary, who makes a step after each of the classifier's."""

    def __init__(self, adversary: Adversary, m: int, alpha: float, step: float):
        super().__init__(np.zeros(m), np.ones(m), step)
        self.adversary, self.alpha = adversary, alpha

    def batch(self, y_true: dict[str, Tensor]) -> SoftBatch:
        with torch.no_grad():
            P = self.adversary.slices(self.adversary.Z[y_true["index"]])
        mass = P.mean(0) if self.adversary.mass is None else self.adversary.mass
        share = numbers(mass).astype(np.float64)
        self.caps = np.minimum(share / share.sum() / self.alpha, 1.0)
        return SoftBatch(numbers(P).astype(np.float64))

    def play(self, losses: Tensor, y_true: dict[str, Tensor]) -> Tensor:
        robust = super().play(losses, y_true)
        self.adversary.step(y_true["index"], losses.detach().float())
        return robust

    def state(self) -> dict[str, Any]:
        return super().state() | {"adversary": self.adversary.state()}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.adversary.load(state["adversary"])


class AGRONet(GroupNet):
    """Neural network that is robust over slices which an adversary finds. No group labels.

    Parameters
    ----------
    module, epochs, batch_size, optimizer, lr, weight_decay, device, accelerate, random_state, progress, checkpoint_dir
        As in `NetClassifier`; `epochs` for each network. `accelerate` for one process.
    n_slices : int, default=6
    slicer_hidden : sequence of int, default=(64, 32)
        Widths of the slicer's hidden layers.
    slicer_lr : float, default=1e-3
        Learning rate of its optimizer (AdamW, with `weight_decay`).
    slicer_epochs : int, default=20
        With "two-stage": epochs in which the adversary alone is trained. 0: slices stay those of the start, which is DOMINO and
        group DRO.
    init : {"domino", "confusion", "random"}, default="domino"
        What slices imitate first. "random" begins near a stationary point.
    cv : int, default=5
        Folds for out-of-fold losses and features.
    min_mass : float in [0, 1), default=0.02
        Smallest share of the records in a slice. A slice below it gains no loss by shrinking; with "two-stage", it is left
        out.
    marginal_reg, entropy_reg : float, default=0.0
        Penalty on unequal masses of slices, and reward for softness.
    schedule : {"two-stage", "alternate"}, default="two-stage"
    adversary : {"worst", "greedy-reverse"}, default="worst"
        Whose loss the adversary raises: that of the worst slices or, as in the authors' code, of all but these.
    alpha : float in (0, 1], default=0.2
        CVaR over slices: weights are at most the slice's mass over alpha. Also the share of the slices that are merged to
        judge an epoch.
    eg_step : float, default=0.01
        Step size of the weights of slices.
    selection : {"predicted-worst"} or None, default="predicted-worst"
        Keep the epoch that does best by held-out predicted worst slices (ties: the least mean loss), or the last.
    validation_fraction : float in (0, 1), default=0.2
        Share of the records, of each class, that is held out for `selection`.
    n_jobs : int or None, default=None
        Folds that are trained at once; the result does not depend on it.
    **nested
        ``module__*``, ``optimizer__*``, ``iterator_train__*``.

    Attributes
    ----------
    erm_ : NetClassifier
        Trained on the mean loss; the classifier starts from it.
    slicer_ : torch Module
        Scaled z to logits of the slices.
    slices_ : DataFrame, one row a slice
        ``slice``; ``mass`` (share of training records), ``loss`` (mean out-of-fold loss of mean-loss networks), ``lift`` (ratio to the
        loss of all), ``error`` (out-of-fold), ``label`` and ``label_share`` (the most frequent label, its share), ``robust_loss`` (of the
        fitted network on its training records), ``weight`` (q).
    history_ : DataFrame, one row an epoch and slice
        ``epoch``, ``group``, ``weight``, ``train_loss``, ``predicted_worst``, ``selected``.
    best_epoch_, n_val_ : int
    classes_, module_, net_, loss_curve_, n_iter_, n_features_in_
        As in `NetClassifier`; of the robust network.

    See Also
    --------
    statml.group_robust.AGROClassifier : For tables: readable slices, with tests, and an exact classifier.

    References
    ----------
    Paranjape et al. (2023).

    Examples
    --------
    >>> from statml.adapters.group_robust import AGRONet
    >>> from statml.datasets import make_spurious_gaussians
    >>> data = make_spurious_gaussians(n=600, random_state=0)
    >>> model = AGRONet(module__hidden=(16,), epochs=4, cv=2, slicer_epochs=5, random_state=0).fit(data.X, data.y)
    >>> bool(model.slices_["lift"].max() > 1)
    True
    >>> model.slice_proba(data.X, data.y).shape[1] == len(model.slices_)
    True
    """

    def __init__(
        self,
        module: str | type[nn.Module] | nn.Module = "mlp",
        *,
        epochs: int = 100,
        batch_size: int = 128,
        optimizer: str | type[torch.optim.Optimizer] = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        n_slices: int = 6,
        slicer_hidden: Sequence[int] = (64, 32),
        slicer_lr: float = 1e-3,
        slicer_epochs: int = 20,
        init: str = "domino",
        cv: int = 5,
        min_mass: float = 0.02,
        marginal_reg: float = 0.0,
        entropy_reg: float = 0.0,
        schedule: str = "two-stage",
        adversary: str = "worst",
        alpha: float = 0.2,
        eg_step: float = 0.01,
        selection: str | None = "predicted-worst",
        validation_fraction: float = 0.2,
        n_jobs: int | None = None,
        device: str = "cpu",
        accelerate: Mapping[str, Any] | None = None,
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
        self.n_slices = n_slices
        self.slicer_hidden = slicer_hidden
        self.slicer_lr = slicer_lr
        self.slicer_epochs = slicer_epochs
        self.init = init
        self.cv = cv
        self.min_mass = min_mass
        self.marginal_reg = marginal_reg
        self.entropy_reg = entropy_reg
        self.schedule = schedule
        self.adversary = adversary
        self.alpha = alpha
        self.eg_step = eg_step
        self.selection = selection
        self.validation_fraction = validation_fraction
        self.n_jobs = n_jobs

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Find slices, and train to be robust over them.

        Parameters
        ----------
        X : array-like of shape (n, ...)
        y : array-like of shape (n,)
            Labels of any kind.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter is out of range, or data are unusable.
        """
        self._check_parameters()
        X, y = self._check_data(X, y)
        folder = None if self.checkpoint_dir is None else Path(self.checkpoint_dir)
        seeds = as_seed_sequence(self.random_state).spawn(5)
        rng = np.random.default_rng(seeds[0])
        fraction = 0.0 if self.selection is None else self.validation_fraction
        train, held_out = stratified_split(y, fraction, rng)

        own = {k: v for k, v in self.get_params(deep=False).items() if k in BASE or "__" in k}
        plain = NetClassifier(**own).set_params(checkpoint_dir=None, random_state=None)
        self.erm_ = copy.deepcopy(plain).set_params(
            random_state=seeds[1], checkpoint_dir=None if folder is None else folder / "erm"
        )
        self.erm_.fit(X[train], y[train])
        features, outputs = features_and_outputs(self.erm_.net_, X)
        proba, turned = out_of_fold(
            plain, X[train], y[train], self.cv, seeds[2], None, self.n_jobs, folder, features[train]
        )
        losses = log_losses(proba, y[train])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seeds[3].generate_state(1)[0]))
            adversary = self._find_slices(turned, proba, y[train], losses, rng, seeds[4])
        self._centre, self._scale = adversary.centre, adversary.scale
        self.slicer_, self._kept = adversary.module, np.arange(self.n_slices)
        P = adversary.membership(adversary.Z)
        if self.schedule == "two-stage":
            self._kept = large_enough(P, self.min_mass)
            P = self._among_kept(P)
            members = SoftGroups(P, np.ones(len(P)))
            caps = np.minimum(members.mass / members.mass.sum() / self.alpha, 1.0)
            player = GroupPlayer(np.zeros(len(caps)), caps, self.eg_step)
            extras, balanced = {"membership": balanced_membership(members, len(P))}, members
        else:
            player = AlternatingPlayer(adversary, self.n_slices, self.alpha, self.eg_step)
            extras, balanced = {"index": np.arange(len(train))}, None
        training = GroupTraining(player, None, None)
        if self.selection is not None:
            seen = softmax(outputs[held_out].astype(np.float64))
            yardstick = self._membership(features[held_out], seen, y[held_out])
            judge = predicted_worst_judge(y[held_out], yardstick, self.alpha)
            training.selection = Selection(torch.from_numpy(X[held_out]), judge, None)
        self._start = self.erm_.module_
        try:
            self._play(X[train], y[train], extras, training, balanced)
        finally:
            del self._start
        self.slicer_.eval()
        P = self._among_kept(adversary.membership(adversary.Z))
        robust = self._record_losses(X[train], y[train])
        self.slices_: pd.DataFrame = self._table(P, y[train], losses, proba, robust)
        self.history_: pd.DataFrame = self._history(training, self.slices_["slice"].to_numpy())
        self.best_epoch_, self.n_val_ = training.chosen, len(held_out)
        return self

    def slice_proba(self, X: ArrayLike, y: ArrayLike) -> Array:
        """Memberships of labelled records in the slices.

        Features and probabilities are those of `erm_`.

        Parameters
        ----------
        X : array-like of shape (n, ...)
        y : array-like of shape (n,)

        Returns
        -------
        ndarray of shape (n, n_slices)
            In the order of `slices_`; rows sum to one.

        Raises
        ------
        ValueError
            If y holds a class that was not there in ``fit``.
        """
        check_is_fitted(self, "net_")
        X = self._as_float32(X, reset=False)
        y = np.asarray(y)
        if y.shape != (len(X),):
            raise ValueError(
                f"y must hold one label for each of the {len(X)} rows of X, got shape {y.shape}"
            )
        features, outputs = features_and_outputs(self.erm_.net_, X)
        proba = softmax(outputs.astype(np.float64))
        return self._membership(features, proba, class_codes(y, self.classes_))

    # --- slices -----------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        check_integer("n_slices", self.n_slices, low=2)
        check_number("slicer_lr", self.slicer_lr, 0)
        check_integer("slicer_epochs", self.slicer_epochs, low=0)
        check_choice("init", self.init, ("domino", "confusion", "random"))
        check_integer("cv", self.cv, low=2)
        check_number("min_mass", self.min_mass, 0, 1, high_open=True)
        check_number("marginal_reg", self.marginal_reg, 0)
        check_number("entropy_reg", self.entropy_reg, 0)
        check_choice("schedule", self.schedule, ("two-stage", "alternate"))
        check_choice("adversary", self.adversary, ("worst", "greedy-reverse"))
        check_number("alpha", self.alpha, 0, 1, low_open=True)
        check_number("eg_step", self.eg_step, 0)
        if self.selection is not None:
            check_choice("selection", self.selection, ("predicted-worst",))
            check_number(
                "validation_fraction", self.validation_fraction, 0, 1, low_open=True, high_open=True
            )

    def _find_slices(self, features, proba, y, losses, rng, seed) -> Adversary:
        """The adversary at the start of the classifier's training."""
        Z = slicer_inputs(features, proba, y, len(self.classes_))
        adversary = Adversary(
            Z,
            self.n_slices,
            self.slicer_hidden,
            self.slicer_lr,
            self.weight_decay,
            self.adversary,
            self.min_mass,
            self.entropy_reg,
            self.marginal_reg,
            self.device,
        )
        start = start_of(self.init, features, y, proba, self.n_slices, rng)
        if start is not None:
            adversary.imitate(start)
        if self.schedule == "two-stage":
            order = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
            fixed = torch.as_tensor(losses, dtype=torch.float32)
            adversary.train(fixed, self.slicer_epochs, self.batch_size, order)
        adversary.forget()
        return adversary

    def _membership(self, features, proba, y) -> Array:
        Z = slicer_inputs(features, proba, y, len(self.classes_))
        Z = ((Z - self._centre) / self._scale).astype(np.float32)
        with torch.no_grad():
            logits = self.slicer_(torch.from_numpy(Z).to(self.net_device)).cpu().numpy()
        return self._among_kept(softmax(logits.astype(np.float64)))

    @property
    def net_device(self) -> torch.device:
        """Where the slicer is."""
        return next(self.slicer_.parameters()).device

    def _among_kept(self, P: Array) -> Array:
        P = P[:, self._kept]
        return P / P.sum(axis=1, keepdims=True)

    def _table(self, P, y, losses, proba, robust) -> pd.DataFrame:
        mass = P.sum(axis=0)
        labels = np.eye(len(self.classes_))[y].T @ P / mass
        mean = P.T @ losses / mass
        return pd.DataFrame(
            {
                "slice": self._kept,
                "mass": mass / len(P),
                "loss": mean,
                "lift": mean / losses.mean(),
                "error": P.T @ (proba.argmax(axis=1) != y) / mass,
                "label": self.classes_[labels.argmax(axis=0)],
                "label_share": labels.max(axis=0),
                "robust_loss": P.T @ robust / mass,
                "weight": self._q,
            }
        )

    def _make_module(self, n_inputs: int) -> nn.Module:
        if hasattr(self, "_start"):
            return copy.deepcopy(self._start)
        return super()._make_module(n_inputs)

    # --- files ------------------------------------------------------------------------------------------

    def _fitted_attributes(self) -> dict[str, Any]:
        fitted = super()._fitted_attributes()
        fitted["erm_"] = arrays(self.erm_.module_)
        fitted["slicer_"] = arrays(self.slicer_)
        return fitted | {name: getattr(self, name) for name in ("_centre", "_scale", "_kept")}

    @classmethod
    def load(cls, path: str | os.PathLike[str], module: Any = None) -> Self:
        estimator = super().load(path, module)
        own = {k: v for k, v in estimator.get_params(deep=False).items() if k in BASE or "__" in k}
        erm = NetClassifier(**own)
        for name in ("classes_", "n_features_in_", "_n_inputs", "_n_outputs", "feature_names_in_"):
            if hasattr(estimator, name):
                setattr(erm, name, getattr(estimator, name))
        network = restored(estimator, estimator.erm_)
        erm.net_ = erm._make_net(network, torch.Generator(), 0, plain=True)
        estimator.erm_ = erm
        state = {k: torch.from_numpy(np.array(v)) for k, v in estimator.slicer_.items()}
        d = len(estimator._centre)
        slicer = MLP(d, estimator.n_slices, hidden=tuple(estimator.slicer_hidden))
        slicer.load_state_dict(state)
        estimator.slicer_ = slicer.eval()
        return estimator


def predicted_worst_judge(y: NDArray[np.int64], yardstick: Array, alpha: float):
    """Compares networks by their accuracy in the predicted worst slices, then by their mean loss.

    Parameters
    ----------
    y : ndarray of int, shape (n,)
    yardstick : ndarray of shape (n, m)
    alpha : float
        Share of the slices that are merged; at least one.
    """

    def judge(logits: NDArray) -> tuple[tuple[float, ...], dict[str, Any]]:
        accuracy, _ = predicted_worst(logits.argmax(axis=1) == y, yardstick, alpha)
        loss = float(log_losses(softmax(logits), y).mean())
        return (accuracy, -loss), {"predicted_worst": accuracy}

    return judge


def arrays(module: nn.Module) -> dict[str, NDArray]:
    """The weights of a module, for a file."""
    return {k: v.detach().cpu().numpy() for k, v in module.state_dict().items()}
