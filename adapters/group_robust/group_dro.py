r"""Group DRO for networks: stochastic gradients for the network, exponentiated gradients for the weights of the groups.

.. math::  \min_\theta \; \max_{q \in Q} \; \sum_g q_g \big( L_g(\theta) + C / \sqrt{n_g} \big)

with :math:`L_g` the mean cross-entropy of group g and Q as in `statml.group_robust.group_dro`. The moves are in `online`. On a
linear module the average of the iterates comes to the certified optimum of `statml.group_robust.GroupDROClassifier`.

A network that can memorise its training records drives the loss of every group to zero; the worst group then says
nothing, and group DRO is ordinary training. What makes the difference is what keeps it from that: strong `weight_decay`, few
`epochs`, or an epoch chosen by the worst group of held-out records (section 3 of the paper).

Cost: an epoch of ordinary training; with `selection`, a pass over the held-out records an epoch.

Reference: Sagawa, S., Koh, P. W., Hashimoto, T. B. and Liang, P. (2020). Distributionally robust neural networks for
group shifts: on the importance of regularization for worst-case generalization. ICLR.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from statml._validation import (
    RandomState,
    as_generator,
    as_seed_sequence,
    check_choice,
    check_integer,
    check_number,
)
from statml.group_robust._estimator import check_weights, group_caps, warn_of_leak
from statml.group_robust.membership import (
    Groups,
    HardGroups,
    SoftGroups,
    check_group_weights,
    encode_groups,
    refuse_empty,
)
from statml.group_robust.out_of_fold import log_losses

from .._estimator import relative_weights
from ._estimator import GroupNet, softmax, stratified_split
from .online import GroupPlayer, balanced_membership
from .training import Averaging, GroupTraining, Judge, Selection


class GroupDRONet(GroupNet):
    """Neural network with the least loss in its worst group.

    Parameters
    ----------
    module, epochs, batch_size, optimizer, lr, weight_decay, device, accelerate, random_state, progress, checkpoint_dir
        As in `NetClassifier`; `accelerate` for one process. `random_state` fixes the held-out records, too.
    alpha : float in (0, 1] or None, default=None
        CVaR over groups: the mean loss of the worst groups that make up a share alpha of the data. 1 is ordinary
        training; None, or a share below the smallest group's, is group DRO.
    adjustment : float, default=0.0
        C of the group adjustment C / sqrt(n_g), which guards small groups against their larger gap between training and new
        data. The authors choose it among 0, 1, ..., 5 by the worst group of validation records.
    eg_step : float, default=0.01
        Step size of the group weights. 0 keeps them equal: with balanced batches, reweighting by group.
    balanced : bool, default=True
        Whether batches are drawn so that groups have equal chances; otherwise every record comes once an epoch. The
        average over groups is the same, its variance in small groups is not.
    averaging : float in [0, 1], default=0.0
        Share of the steps, at the end, over whose weights the result is averaged. 0 is the last iterate, usual for
        networks. The guarantee for convex losses is for averages: 0.5 for a linear module.
    selection : {"worst-group"} or None, default=None
        Keep the epoch that has the highest accuracy in the worst group of held-out records (ties: the least loss there). None:
        the last, and no record is held out.
    validation_fraction : float in (0, 1), default=0.1
        Share of the records, of each group, that is held out for `selection`.
    patience : int or None, default=None
        With `selection`: stop after so many epochs without a better one.
    **nested
        ``module__*``, ``optimizer__*``, ``iterator_train__*``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    groups_ : ndarray of shape (n_groups,)
        Labels, sorted.
    group_sizes_ : ndarray of shape (n_groups,)
        Numbers of training records; sums of memberships for soft groups.
    group_losses_ : ndarray of shape (n_groups,)
        Mean loss of each group in training, of the fitted network.
    group_weights_ : ndarray of shape (n_groups,)
        q of the epoch that was kept, or its average over the steps that are averaged.
    worst_group_loss_ : float
    history_ : DataFrame, one row an epoch and group
        ``epoch``, ``group``, ``weight``, ``train_loss`` (while it was trained); with `selection`, ``val_accuracy`` and ``val_loss``;
        ``selected``.
    best_epoch_ : int
        The epoch that was kept, from 0.
    n_val_ : int
        Number of records held out.
    module_, net_, loss_curve_, n_iter_, n_features_in_
        As in `NetClassifier`; the loss is the robust one.

    See Also
    --------
    statml.group_robust.GroupDROClassifier : The linear model, solved exactly, with intervals.
    statml.group_robust.group_report : Accuracies of groups with simultaneous intervals, for held-out data.

    Notes
    -----
    Compare with reweighting (``eg_step=0``): much of the gain over plain training is usually there already. Choosing anything by
    the worst group needs group labels for the records it is judged on, and in a group of few records it is noisy.

    References
    ----------
    Sagawa, S., Koh, P. W., Hashimoto, T. B. and Liang, P. (2020). Distributionally robust neural networks for
    group shifts. ICLR.

    Examples
    --------
    >>> from statml.adapters.group_robust import GroupDRONet
    >>> from statml.datasets import make_spurious_gaussians
    >>> data = make_spurious_gaussians(random_state=0)
    >>> model = GroupDRONet(module__hidden=(16,), epochs=10, random_state=0).fit(data.X, data.y, groups=data.groups)
    >>> dict(zip(model.groups_.tolist(), model.group_sizes_.tolist()))
    {'y=0, a=0': 914, 'y=0, a=1': 43, 'y=1, a=0': 52, 'y=1, a=1': 991}
    >>> bool(model.group_losses_.max() < 0.3)
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
        alpha: float | None = None,
        adjustment: float = 0.0,
        eg_step: float = 0.01,
        balanced: bool = True,
        averaging: float = 0.0,
        selection: str | None = None,
        validation_fraction: float = 0.1,
        patience: int | None = None,
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
        self.alpha = alpha
        self.adjustment = adjustment
        self.eg_step = eg_step
        self.balanced = balanced
        self.averaging = averaging
        self.selection = selection
        self.validation_fraction = validation_fraction
        self.patience = patience

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        group_weights: ArrayLike | None = None,
    ) -> Self:
        """Train from new weights on.

        Parameters
        ----------
        X : array-like of shape (n, ...)
        y : array-like of shape (n,)
            Labels of any kind.
        groups : array-like of shape (n,) or None, default=None
            Labels of any kind; None means that every class is a group.
        sample_weight : array-like of shape (n,) or None, default=None
            Within the groups: a group does not gain by heavier records.
        group_weights : array-like of shape (n, n_groups) or None, default=None
            Soft or overlapping memberships, in place of `groups`; a DataFrame's columns name the groups.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a group is empty, a label or number is missing, y has one class, or a parameter is out of range.

        Warns
        -----
        UserWarning
            If there is one group only, or if groups that determine the class can be read off a column of X.
        ConvergenceWarning
            If the training diverged.
        """
        self._check_parameters()
        X, y = self._check_data(X, y)
        weight = check_weights(sample_weight, X)
        absent = self.classes_[np.bincount(y, weight > 0, len(self.classes_)) == 0]
        if len(absent):
            raise ValueError(f"sample_weight leaves no row of class {absent.tolist()[0]!r}")
        labels, hard, soft = self._who_is_where(X, y, groups, group_weights)
        rng = as_generator(as_seed_sequence(self.random_state).spawn(1)[0])
        fraction = 0.0 if self.selection is None else self.validation_fraction
        counts = weight > 0
        strata = hard if soft is None else soft.argmax(axis=1)
        train, held_out = stratified_split(np.where(counts, strata, -1), fraction, rng)
        train, held_out = train[counts[train]], held_out[counts[held_out]]

        members = memberships(hard, soft, weight, labels, train)
        refuse_empty(members, labels)
        training = self._make_training(members)
        if self.selection is not None:
            judged = memberships(hard, soft, weight, labels, held_out)
            judge = worst_group_judge(y[held_out][judged.order], judged)
            inputs = torch.from_numpy(X[held_out][judged.order])
            training.selection = Selection(inputs, judge, self.patience)
        X, y, weight = X[train], y[train], weight[train]
        if soft is None:
            extras = {"group": hard[train]}
        elif self.balanced:
            extras = {"membership": balanced_membership(members, len(X))}
        else:
            extras = {"membership": soft[train].astype(np.float32)}
        weighted = (weight != weight[0]).any()
        if weighted and not self.balanced:
            extras["weight"] = relative_weights(weight)
        if weighted:  # belongs to the identity of the run, whichever way it is used
            extras["sample_weight"] = relative_weights(weight)
        self._play(X, y, extras, training, members if self.balanced else None)

        self.groups_, self.n_val_ = labels, len(held_out)
        self.group_sizes_: NDArray = members.sizes.astype(int) if soft is None else members.sizes
        self.group_losses_ = members.means(self._record_losses(X, y)[members.order])
        self.group_weights_ = self._q
        self.worst_group_loss_ = float(self.group_losses_.max())
        self.history_ = self._history(training, labels)
        self.best_epoch_ = training.chosen
        return self

    def _check_parameters(self) -> None:
        check_number("adjustment", self.adjustment, 0)
        check_number("eg_step", self.eg_step, 0)
        check_number("averaging", self.averaging, 0, 1)
        if self.selection is not None:
            check_choice("selection", self.selection, ("worst-group",))
            check_number(
                "validation_fraction", self.validation_fraction, 0, 1, low_open=True, high_open=True
            )
        if self.patience is not None:
            check_integer("patience", self.patience, low=1)
            if self.selection is None:
                raise ValueError(
                    f'patience needs selection="worst-group", got patience={self.patience!r} and selection=None'
                )

    def _who_is_where(
        self, X, y, groups, group_weights
    ) -> tuple[NDArray, NDArray[np.int64], NDArray | None]:
        """Labels; the group of each record; memberships, where they are soft."""
        if groups is not None and group_weights is not None:
            raise ValueError("groups and group_weights both say who is in which group; give one")
        if group_weights is not None:
            labels, soft = check_group_weights(group_weights, len(X))
            return labels, soft.argmax(axis=1), soft
        if groups is None:
            return self.classes_, y, None
        labels, hard = encode_groups(groups, len(X))
        if len(labels) == 1:
            warnings.warn(
                f"groups holds one label only, {labels.tolist()[0]!r}: the fit is that of the mean loss",
                UserWarning,
                stacklevel=3,
            )
        if X.ndim == 2:
            warn_of_leak(X, y, hard, self)
        return labels, hard, None

    def _make_training(self, members: Groups) -> GroupTraining:
        caps = None if self.alpha is None else group_caps(members, self.alpha)
        offsets = self.adjustment / np.sqrt(members.effective_sizes())
        player = GroupPlayer(offsets, caps, self.eg_step)
        return GroupTraining(player, Averaging(self.averaging) if self.averaging else None, None)


def memberships(
    hard: NDArray[np.int64],
    soft: NDArray | None,
    weight: NDArray,
    labels: NDArray,
    rows: NDArray[np.int64],
) -> Groups:
    """Who is in which group, of some records."""
    if soft is None:
        return HardGroups(hard[rows], weight[rows], len(labels))
    return SoftGroups(soft[rows], weight[rows])


def worst_group_judge(y: NDArray[np.int64], members: Groups) -> Judge:
    """Compares networks by accuracy, then by loss, in the worst group; groups without a record are left out.

    Parameters
    ----------
    y : ndarray of int, shape (n,)
        In the order of ``members.order``.
    members : HardGroups or SoftGroups

    Examples
    --------
    >>> import numpy as np
    >>> members = HardGroups(np.array([0, 0, 1]), np.ones(3), 3)
    >>> score, noted = worst_group_judge(np.array([0, 1, 1]), members)(np.array([[2.0, 0.0]] * 3))
    >>> score[0], noted["val_accuracy"]
    (0.0, [0.5, 0.0, nan])
    """
    V = members.weight[:, None] * (
        members.codes[:, None] == np.arange(len(members.mass))
        if isinstance(members, HardGroups)
        else members.membership
    )
    there = members.mass > 0
    V = V[:, there] / members.mass[there]

    def judge(logits: NDArray) -> tuple[tuple[float, ...], dict[str, Any]]:
        right = logits.argmax(axis=1) == y
        accuracy, loss = right @ V, log_losses(softmax(logits), y) @ V
        noted = {}
        for name, values in (("val_accuracy", accuracy), ("val_loss", loss)):
            column = np.full(len(there), np.nan)
            column[there] = values
            noted[name] = column.tolist()
        return (float(accuracy.min()), -float(loss.max())), noted

    return judge
