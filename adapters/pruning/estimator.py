"""`PruningClassifier` and `PruningRegressor`: train, prune, train on, and keep the whole path.

A path is a sequence of training cycles. After the dense one, each begins with fewer weights and with what `rewind` makes of the others:

- "lr" (Renda, Frankle and Carbin 2020): they keep their values; the schedule of the learning rate and the optimizer start anew. After k
  rounds the weights have seen (k + 1) `epochs`: the fair comparison is a dense network that was trained as long.
- "weight" (Frankle and Carbin 2019): they go back to their values after `rewind_epoch` epochs of the dense cycle, and so do
  the running statistics of normalisations, and the learning rate goes on from there.
- None: they keep their values and are trained at the last learning rate of the schedule.
- "reinit": they are drawn anew; what is left is the mask.

Every cycle draws from a seed of its own, so that one that prunes nothing is a dense network trained on.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import nn

from statml._validation import (
    RandomState,
    as_seed_sequence,
    check_choice,
    check_integer,
    check_number,
)
from statml.parallel import check_progress

from .._estimator import NetClassifier, NetEstimator, NetRegressor
from .._net import Net
from .deployment import DeploymentMixin
from .distribution import DISTRIBUTIONS, Distribution
from .growth import GROWTHS, Growth
from .masks import NEVER, Masks, layer_densities, warn_of_collapse
from .path import path_table, select, split
from .pruning import check_members
from .report import PathReport
from .saliency import Saliency
from .saliency._base import as_saliency
from .schedule import SCHEDULES, Schedule
from .structure import Structure, as_structure
from .training import PruningNet, check_growth, learning_rate
from .walk import Plan, Walk, as_records, seed_of

REWINDS = ("lr", "weight", "reinit")
SELECTIONS = ("final", "best", "1se")


class PruningEstimator(PathReport, DeploymentMixin, NetEstimator):
    """What the two estimators share; see the module's docstring."""

    _net_class: ClassVar[type[Net]] = PruningNet
    _losses: ClassVar[dict[str, type[nn.Module]]]

    # --- the path ---------------------------------------------------------------------------------------

    def _train(self, X: NDArray, y: NDArray, extras: dict[str, NDArray]) -> Self:
        self._check_names()
        plan = self._plan()
        check_progress(self.progress)
        self.input_shape_ = tuple(int(size) for size in X.shape[1:])
        seeds = as_seed_sequence(self.random_state).spawn(3 + len(plan.levels) + 1)
        start = self._warm_start()
        train, val = self._split(y, np.random.default_rng(seeds[0]))
        data, held_out = (as_records(X, y, extras, part) for part in (train, val))
        scored = self._scored(extras.get("weight"), train, np.random.default_rng(seeds[1]))
        cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=cuda):  # torch's global state stays as it was
            torch.manual_seed(seed_of(seeds[2]))
            module = self._make_module(X[0].size) if start is None else start[0]
            initial = None if start is None else start[1]
            run = Walk(
                self, plan, module, initial, data, held_out, scored, seeds[3:], (X, y, extras)
            )
            run.walk()
        return self._keep(run)

    def _keep(self, run: Walk) -> Self:
        self.path_: pd.DataFrame = path_table(run.rows)
        self.history_: pd.DataFrame = pd.DataFrame(
            run.history, columns=["level", "epoch", "train_loss"]
        )
        self.loss_curve_: list[float] = self.history_["train_loss"].tolist()
        self.n_iter_ = len(self.history_)
        self.n_val_ = len(run.held_out)
        self.prune_rounds_ = run.rounds
        self._states = run.states
        self._weight_names = list(run.weights)
        if run.dense is not None:
            self.dense_module_ = run.dense
        elif hasattr(self, "dense_module_"):
            del self.dense_module_
        self._take(select(self.path_, self.selection), run.module)
        warn_of_collapse({name: self.masks_[name] for name in self._weight_names})
        return self

    def _take(self, position: int, module: nn.Module) -> None:
        """Make one row of the path the fitted network."""
        level = int(self.path_["level"].iloc[position])
        module.load_state_dict(self._states[position])
        module.eval()
        masks = self.prune_rounds_.masks(level)
        self.masks_: dict[str, NDArray[np.bool_]] = {name: m.numpy() for name, m in masks.items()}
        self.best_level_ = level
        self.sparsity_ = float(self.path_["sparsity"].iloc[position])
        self.layer_density_ = layer_densities({n: masks[n] for n in self._weight_names})
        self.net_ = self._make_net(module, torch.Generator(), 0, plain=True)

    def at_sparsity(self, sparsity: float) -> Self:
        """The fitted estimator at another level of its path.

        Parameters
        ----------
        sparsity : float
            The first level that is at least as sparse is taken; where counts are rounded, to within one weight.

        Returns
        -------
        estimator
            A copy; this one stays as it is.

        Raises
        ------
        ValueError
            If no level is as sparse, or the estimator was read from a file, which holds one level only.
        """
        check_is_fitted(self, "net_")
        sparsity = check_number("sparsity", sparsity, 0, 1, high_open=True)
        n = sum(self.masks_[name].size for name in self.layer_density_)
        found = np.flatnonzero(self.path_["sparsity"].to_numpy() >= sparsity - 1 / n)
        if not len(found) and sparsity <= self.sparsity:
            found = np.array([len(self.path_) - 1])  # whole units came as near as they could
        if not len(found):
            raise ValueError(
                f"sparsity must be at most that of the last level, {self.path_['sparsity'].max():.6g}, got {sparsity:g}"
            )
        position = int(found[np.argmin(self.path_["sparsity"].to_numpy()[found])])
        if int(self.path_["level"].iloc[position]) == self.best_level_:
            position = int(np.flatnonzero(self.path_["level"] == self.best_level_)[0])
        other = copy.copy(self)
        if not hasattr(self, "_states"):
            if int(self.path_["level"].iloc[position]) == self.best_level_:
                return other
            raise ValueError(
                "an estimator that was read from a file holds the weights of one level only"
            )
        other._take(position, copy.deepcopy(self.module_))
        return other

    # --- parameters -------------------------------------------------------------------------------------

    def _plan(self) -> Plan:
        # copies: what a member learns in training must not stay in the parameter
        saliency = copy.deepcopy(as_saliency(self.criterion))
        structure, distribution = as_structure(self.structure), DISTRIBUTIONS.make(self.scope)
        schedule = SCHEDULES.make(self.schedule)
        growth = None if self.growth is None else copy.deepcopy(GROWTHS.make(self.growth))
        check_members(saliency, structure, distribution, self.compensate, self.sparsity)
        check_growth(growth, saliency, structure)
        if growth is not None:
            schedule = SCHEDULES.make("static")
        check_integer("epochs", self.epochs, low=0)
        check_integer("rewind_epoch", self.rewind_epoch, 0, max(self.epochs - 1, 0))
        check_number("momentum", self.momentum, 0, 1, high_open=True)
        check_number("validation_fraction", self.validation_fraction, 0, 1, high_open=True)
        fraction = check_number("fraction", self.fraction, 0, 1, low_open=True, high_open=True)
        check_choice("selection", self.selection, SELECTIONS)
        if self.rewind is not None:
            check_choice("rewind", self.rewind, REWINDS)
        if self.rewind_epoch and self.rewind != "weight":
            raise ValueError(f'rewind_epoch goes with rewind="weight", got rewind={self.rewind!r}')
        if self.compensate is not None and self.rewind in ("weight", "reinit"):
            raise ValueError(
                f"compensate={self.compensate!r} moves weights that rewind={self.rewind!r} throws away: use rewind='lr' or None"
            )
        if saliency.trained and not schedule.dense_first:
            raise ValueError(
                f"{saliency!r} is learned in training, and schedule {schedule!r} prunes before it"
            )
        levels = schedule.levels(self.sparsity, fraction)
        if structure.sparsity is not None and structure.m > 2:  # one of the m after the other
            steps = [k / structure.m for k in range(1, structure.m - structure.n)]
            levels = [*steps, structure.sparsity] if len(levels) > 1 else levels
        if len(levels) >= NEVER:
            raise ValueError(
                f"a path has at most {NEVER - 1} rounds, got {len(levels)}: raise fraction, {fraction:g}"
            )
        return Plan(
            saliency,
            structure,
            distribution,
            schedule,
            growth,
            levels,
            learning_rate(self.lr_schedule),
        )

    def _scored(
        self, weight: NDArray | None, train: NDArray, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Records on which weights are scored, as positions in `train`; weighted ones in proportion to their weights."""
        n = check_integer("score_records", self.score_records, low=1)
        if weight is None:
            return np.sort(rng.permutation(len(train))[:n])
        p = weight[train].astype(float)
        if not p.any():
            raise ValueError(
                "sample_weight must hold a positive value among the records to train on"
            )
        return np.sort(rng.choice(len(train), n, p=p / p.sum()))

    def _split(self, y: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
        train, val = split(y, self.validation_fraction, rng, y.dtype.kind == "i")
        if self.selection != "final" and not len(val):
            raise ValueError(
                f'selection="{self.selection}" needs records for validation; validation_fraction='
                f"{self.validation_fraction!r} of {len(y)} records leaves none"
            )
        return train, val

    def _warm_start(self) -> tuple[nn.Module, Masks] | None:
        """Network and masks of the last fit, where it is to go on from there."""
        if not self.warm_start or not hasattr(self, "net_"):
            return None
        module = copy.deepcopy(self.net_.module_)
        return module, {name: torch.from_numpy(m.copy()) for name, m in self.masks_.items()}

    @property
    def _criterion(self) -> Callable[..., nn.Module]:
        """The loss, as the base makes it: one number a record."""
        if callable(self.loss):
            return self.loss
        return self._losses[check_choice("loss", self.loss, self._losses)]

    def _nested(self, prefix: str) -> dict[str, Any]:
        nested = super()._nested(prefix)
        if prefix == "module__" and self.module_params is not None:
            if not isinstance(self.module_params, Mapping):
                raise TypeError(
                    f"module_params must be a dict of the module's arguments, got {self.module_params!r}"
                )
            nested = dict(self.module_params) | nested
        if prefix == "optimizer__" and self.optimizer == "sgd":
            nested = {"momentum": self.momentum} | nested
        return nested

    # --- files ------------------------------------------------------------------------------------------

    def _fitted_attributes(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in super()._fitted_attributes().items()
            if name not in ("prune_rounds_", "dense_module_", "loss_curve_")
        }

    @classmethod
    def load(cls, path: Any, module: Any = None, **code: Any) -> Self:
        estimator = super().load(path, module, **code)
        estimator.loss_curve_ = estimator.history_["train_loss"].tolist()
        return estimator


class PruningClassifier(PruningEstimator, NetClassifier):
    """Train a network for classification, prune it, train on; with the whole path from dense to sparse.

    Parameters
    ----------
    module : "mlp", torch Module, or class or function that makes one, default="mlp"
        As in `NetClassifier`; further arguments as ``module__*``.
    module_params : dict or None, default=None
        Further arguments of the module, as an alternative to ``module__*``.
    criterion : str, Saliency or callable, default="magnitude"
        What is pruned first. Without data: "magnitude", "random", "synflow"; from activations: "wanda", "apoz",
        "activation"; from gradients: "taylor", "snip", "grasp"; from curvature: "obd", "obs" ("woodfisher"); layer by layer with new
        weights: "sparsegpt", "obc"; learned in training: "movement", "l1", "group_lasso", "l0", "vd". A callable
        (module, batches) -> dict of scores, larger stays.
    scope : {"global", "layer", "row", "uniform", "erk", "lamp"} or Distribution, default="global"
        How many weights each layer keeps; see `prune`.
    structure : {"unstructured", "block", "channel"}, "N:M" or Structure, default="unstructured"
        What goes as one piece. A pattern such as "2:4" fixes the sparsity, here at 0.5.
    sparsity : float, default=0.9
        Share of the prunable weights that is zero at the end.
    schedule : {"iterative", "one-shot", "cubic", "static"} or Schedule, default="iterative"
        "iterative": `fraction` of what is left goes before each cycle; "one-shot": all goes before the second; "cubic": in
        the course of the second; "static": before any training.
    fraction : float, default=0.2
    rewind : {"lr", "weight", "reinit"} or None, default="lr"
        From what a cycle starts: the trained weights at a schedule of the learning rate that starts anew, the weights after
        `rewind_epoch` epochs of the dense cycle, new weights, or (None) the trained weights at the last learning rate.
    rewind_epoch : int, default=0
    growth : {"set", "rigl", "snfs", "topkast"}, Growth or None, default=None
        Sparse from scratch: pruned before training by `criterion` and `scope` (``criterion="random", scope="erk"`` is usual), then
        connections move. `schedule` and `rewind` do not matter then.
    compensate : {"ls", "obs"} or None, default=None
        Whether the remaining weights make up for the pruned ones in closed form, right after a pruning.
    epochs : int, default=40
        Of each cycle.
    optimizer : {"sgd", "adam", "adamw"} or class, default="sgd"
        Further arguments as ``optimizer__*``.
    lr : float, default=0.1
    momentum : float, default=0.9
        Of "sgd".
    weight_decay : float, default=1e-4
    lr_schedule : {"step", "cosine", "constant"} or callable, default="step"
        Factor at the learning rate in the course of a cycle: "step" divides by ten after half and three quarters of it. A
        callable takes the share of the cycle's epochs that are over, which also serves for a warm-up.
    batch_size : int, default=128
    loss : "cross_entropy" or class, default="cross_entropy"
        A class or function is called with ``reduction="none"``.
    exclude : sequence of str, default=("bias", "norm")
        What is never pruned: kinds, and names of parameters or submodules.
    prune_output : bool, default=False
        Whether the output layer is pruned.
    score_records : int, default=512
        Training records on which weights are scored.
    selection : {"final", "best", "1se"}, default="final"
        Which level the fitted network is: the last, that of least validation error, or the sparsest within one standard error of it.
        The validation error of a level that was chosen by it is too good: report that of fresh records.
    validation_fraction : float, default=0.1
        Share of the records that is held out for the path's validation columns.
    warm_start : bool, default=False
        Whether a further ``fit`` goes on from the network and masks of the last one.
    device, accelerate, random_state, progress, checkpoint_dir
        As in `NetClassifier`; a run that was killed goes on from the last epoch of its path.
    **nested
        ``module__*``, ``optimizer__*``, ``iterator_train__*``.

    Attributes
    ----------
    path_ : DataFrame
        A row a level: level, sparsity, density (of the prunable weights), epochs_total (that the weights have seen), train_loss,
        train_error, val_loss, val_error, val_std_error, and of the whole network nonzero, n_parameters, macs (products with
        weights that are not zero, for one record) and bytes (as a bitmap and values).
    masks_ : dict of str to ndarray of bool
        Of the fitted network, True where a weight is kept.
    prune_rounds_ : PruneRounds
        The masks of all levels.
    best_level_ : int
        The level that was selected.
    sparsity_ : float
    layer_density_ : dict of str to float
    dense_module_ : torch Module
        The network at the end of the dense cycle; absent where there is none.
    module_ : torch Module
        The fitted network, pruned weights exactly zero.
    history_ : DataFrame
        level (the cycle), epoch and train_loss.
    classes_, net_, loss_curve_, n_iter_, n_features_in_
        As in `NetClassifier`; epochs of all cycles together.

    Notes
    -----
    Iterative pruning trains ``1 + log(1 - sparsity) / log(1 - fraction)`` times `epochs`, so a better accuracy than that of the
    dense network may be the effect of longer training alone; `decompose_pruning_effect` tells them apart.

    Zeros by themselves make no network faster: ``structure="channel"`` with ``compact()`` does, and ``benchmark(X)`` measures.

    References
    ----------
    Hoefler, T., Alistarh, D., Ben-Nun, T., Dryden, N. and Peste, A. (2021). Sparsity in deep learning. JMLR 22(241).

    Renda, A., Frankle, J. and Carbin, M. (2020). Comparing rewinding and fine-tuning in neural network pruning. ICLR.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from statml.adapters import PruningClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = PruningClassifier(sparsity=0.8, schedule="one-shot", epochs=10, random_state=0)
    >>> model.fit(X[:1000] / 16, y[:1000]).score(X[1000:] / 16, y[1000:]) > 0.85
    True
    >>> model.path_[["sparsity", "epochs_total", "nonzero"]]
       sparsity  epochs_total  nonzero
    0       0.0            10     7510
    1       0.8            20     2390
    >>> model.at_sparsity(0.0).sparsity_
    0.0
    """

    _losses: ClassVar = {"cross_entropy": nn.CrossEntropyLoss}

    def __init__(
        self,
        module: str | type[nn.Module] | nn.Module = "mlp",
        *,
        module_params: Mapping[str, Any] | None = None,
        criterion: str | Saliency | Callable = "magnitude",
        scope: str | Distribution = "global",
        structure: str | Structure = "unstructured",
        sparsity: float = 0.9,
        schedule: str | Schedule = "iterative",
        fraction: float = 0.2,
        rewind: str | None = "lr",
        rewind_epoch: int = 0,
        growth: str | Growth | None = None,
        compensate: str | None = None,
        epochs: int = 40,
        optimizer: str | type[torch.optim.Optimizer] = "sgd",
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        lr_schedule: str | Callable[[float], float] = "step",
        batch_size: int = 128,
        loss: str | Callable[..., nn.Module] = "cross_entropy",
        exclude: Sequence[str] = ("bias", "norm"),
        prune_output: bool = False,
        score_records: int = 512,
        selection: str = "final",
        validation_fraction: float = 0.1,
        warm_start: bool = False,
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
        self.module_params = module_params
        self.criterion = criterion
        self.scope = scope
        self.structure = structure
        self.sparsity = sparsity
        self.schedule = schedule
        self.fraction = fraction
        self.rewind = rewind
        self.rewind_epoch = rewind_epoch
        self.growth = growth
        self.compensate = compensate
        self.momentum = momentum
        self.lr_schedule = lr_schedule
        self.loss = loss
        self.exclude = exclude
        self.prune_output = prune_output
        self.score_records = score_records
        self.selection = selection
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start


class PruningRegressor(PruningEstimator, NetRegressor):
    """Train a network for regression, prune it, train on; with the whole path from dense to sparse.

    Parameters
    ----------
    module, module_params, criterion, scope, structure, sparsity, schedule, fraction, rewind, rewind_epoch, growth, compensate, epochs, \
optimizer, lr, momentum, weight_decay, lr_schedule, batch_size, loss, exclude, prune_output, score_records, selection, \
validation_fraction, warm_start, device, accelerate, random_state, progress, checkpoint_dir
        As in `PruningClassifier`, with ``optimizer="adam"``, ``lr=0.01`` and ``loss="mse"``.
    **nested
        ``module__*``, ``optimizer__*``, ``iterator_train__*``.

    Attributes
    ----------
    path_, masks_, prune_rounds_, best_level_, sparsity_, layer_density_, dense_module_, module_, history_, net_, loss_curve_, n_iter_, \
n_features_in_
        As in `PruningClassifier`. An error is a squared error over the variance of the targets, one minus R^2.

    Notes
    -----
    The targets are used as they are: bring them to a scale of about 1, for example by
    ``sklearn.compose.TransformedTargetRegressor``.

    Examples
    --------
    >>> import numpy as np
    >>> from statml.adapters import PruningRegressor
    >>> X = np.linspace(-2, 2, 300)[:, None]
    >>> y = np.sin(2 * X[:, 0])
    >>> model = PruningRegressor(module__hidden=(32, 32), sparsity=0.6, fraction=0.4, random_state=0)
    >>> model.fit(X, y).score(X, y) > 0.9
    True
    """

    _losses: ClassVar = {"mse": nn.MSELoss}

    def __init__(
        self,
        module: str | type[nn.Module] | nn.Module = "mlp",
        *,
        module_params: Mapping[str, Any] | None = None,
        criterion: str | Saliency | Callable = "magnitude",
        scope: str | Distribution = "global",
        structure: str | Structure = "unstructured",
        sparsity: float = 0.9,
        schedule: str | Schedule = "iterative",
        fraction: float = 0.2,
        rewind: str | None = "lr",
        rewind_epoch: int = 0,
        growth: str | Growth | None = None,
        compensate: str | None = None,
        epochs: int = 40,
        optimizer: str | type[torch.optim.Optimizer] = "adam",
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        lr_schedule: str | Callable[[float], float] = "step",
        batch_size: int = 128,
        loss: str | Callable[..., nn.Module] = "mse",
        exclude: Sequence[str] = ("bias", "norm"),
        prune_output: bool = False,
        score_records: int = 512,
        selection: str = "final",
        validation_fraction: float = 0.1,
        warm_start: bool = False,
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
        self.module_params = module_params
        self.criterion = criterion
        self.scope = scope
        self.structure = structure
        self.sparsity = sparsity
        self.schedule = schedule
        self.fraction = fraction
        self.rewind = rewind
        self.rewind_epoch = rewind_epoch
        self.growth = growth
        self.compensate = compensate
        self.momentum = momentum
        self.lr_schedule = lr_schedule
        self.loss = loss
        self.exclude = exclude
        self.prune_output = prune_output
        self.score_records = score_records
        self.selection = selection
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
