r"""`AMALClassifier`: a classifier trained on many losses a record, with weights learned on a small clean validation set.

.. math::

    \theta^*(\lambda) = \arg\min_\theta \frac1N \sum_i \sum_k \lambda_{ik} \ell_{ik}(\theta), \qquad
    \min_{\lambda \ge 0} L_V(\theta^*(\lambda)),

with the cross-entropy as loss 0, losses 1..K from teachers, rules or elsewhere, and L_V the cross-entropy on validation data V alone.
Between epochs the weights follow the gradient of the validation loss after one step of training (`head`, `one_step`), scaled as `mixing_weights`
says.

N(K + 1) free weights are tuned on |V| labels, so that the loss on V no longer tells how good the classifier is: judge it on data that are neither in
training nor in V, and beside a classifier that is simply trained on the labels of V too (`AMALClassifier.compare`).

References
----------
Sivasubramanian, D., Maheshwari, A., Prathosh, A. P., Shenoy, P. and Ramakrishnan, G. (2023). Adaptive mixing of auxiliary
losses in supervised learning. AAAI.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import nn

from statml._validation import (
    RandomState,
    as_seed_sequence,
    check_choice,
    check_integer,
    check_number,
)

from .._estimator import NetClassifier
from .._mlp import MLP
from .._net import Net, Records
from .auxiliary import bind_losses
from .blocks import Losses, log_softmax
from .linear import fit_linear
from .mixing_weights import (
    UPDATES,
    MixingWeights,
    as_groups,
    check_bounds,
    check_init,
    effective_number,
    shares_at_bounds,
)
from .plan import SCHEDULES, Plan, Trace, learning_rate
from .report import MixingReport
from .training import MetaStep, MixingCheckpoint, MixingNet
from .validation_data import check_labels_of, encode, given_data, set_aside

METAS = ("head", "full", "implicit")
COLLAPSED = 0.95  # share of the weights of a loss at one bound


class AMALClassifier(MixingReport, NetClassifier):
    """Classifier on a mixture of losses, each with a weight for every record that is learned on validation data (AMAL).

    Parameters
    ----------
    module : "mlp", "linear", torch Module, or class or function that makes one, default="mlp"
        As in `NetClassifier`. "linear" is trained in NumPy, where the meta-gradient is exact, and takes sparse X.
    epochs : int, default=40
    batch_size : int, default=128
    optimizer : {"adam", "adamw", "sgd"} or class, default="adam"
        Further arguments as ``optimizer__*``.
    lr : float, default=2e-3
    lr_schedule : {"constant", "cosine"} or callable, default="constant"
        A callable takes the share of the training that is done and returns a factor.
    weight_decay : float, default=1e-2
        As torch's optimizer takes it.
    temperature : float, default=4.0
        Of the teachers that name none.
    lambda_init : float or array-like of shape (n_losses,) or (n_records, n_losses), default=0.5
        Weights at the start, the cross-entropy's first. ``lambda_`` of an earlier fit goes on from there.
    lambda_lr : float, default=0.1
        Step of the weights. 0 leaves them as they are: a fixed mixture.
    lambda_update : {"rms", "raw"}, default="rms"
        "rms" divides the alignments by their root mean square, so that a step is about `lambda_lr` whatever the scale of the losses and the
        learning rate. "raw" steps along the gradient itself, as the authors' code does (with a step of 1500).
    lambda_bounds : (low, high), default=(1e-4, 2.0)
    simplex : bool, default=False
        The weights of a record sum to 1, in place of the bounds. A record with one loss then has weight 1.
    lambda_groups : None, "instance", "class", "loss" or array-like of shape (n_records,), default=None
        Which records share their weights: none, those of a class, all (one weight for every teacher or rule), or those of a label.
    update_every : int, default=1
        Epochs from one step of the weights to the next.
    warmup : int, default=3
        Epochs before the first step.
    lookahead : float, default=1.0
        Share of a training step after which the gradient of the validation loss is taken; 0 takes it where the network is.
    meta : {"head", "full", "implicit"}, default="head"
        Meta-gradient of the last layer in closed form, of all weights, or of the minimum in the last layer (the influence function).
    validation : float, (X_val, y_val) or int, default=0.1
        Share of the labelled records to set aside, stratified; or validation data; or a number of folds: the weights of each record are then
        learned on labels of other folds and averaged, and a last training on all records uses them.
    refit_with_validation : bool, default=False
        Train once more with the weights that were found, on the validation records too, which have weight 1 and no auxiliary loss.
    teacher_dropout : float, default=0.0
        Chance of each auxiliary loss to be left out of a batch. With ``lambda_lr=0``, densely guided distillation.
    device, accelerate, random_state, progress
        As in `NetClassifier`.
    checkpoint_dir : path or None, default=None
        As in `NetClassifier`; not for ``module="linear"``.
    **nested
        ``module__*``, ``optimizer__*``, ``iterator_train__*``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    loss_names_ : list of str
        "ce" first.
    lambda_ : ndarray of shape (n_records, n_losses)
        Weights after training; 0 where a record has no such loss, NaN where it was not trained on.
    loss_mask_ : ndarray of bool of shape (n_records, n_losses)
        Which record was trained on which loss.
    alignment_ : ndarray of shape (n_records, n_losses)
        M of the last step, over its root mean square: positive where a loss pulls the way the validation data do. NaN outside the mask.
    lambda_path_ : ndarray of shape (n_steps + 1, n_classes + 1, n_losses)
        Mean weights of each class at the start and after every step, those of unlabelled records last; NaN where there are none.
    class_counts_ : ndarray of shape (n_classes + 1, n_losses)
        Records of each class with each loss.
    lambda_epochs_ : ndarray of shape (n_steps + 1,)
        The epoch that each was first used in.
    val_loss_path_ : ndarray of shape (n_steps,)
        Validation loss before every step.
    n_effective_ : ndarray of shape (n_losses,)
        (sum lambda)^2 / sum lambda^2 of each loss.
    share_at_bounds_ : ndarray of shape (2, n_losses)
        Share of the records at the lower and at the upper bound.
    validation_indices_ : ndarray of int
        Records of X that were set aside; empty if validation data were given.
    val_loss_ : float
        Validation loss of the fitted classifier; NaN if it was trained on the validation data.
    estimator_, module_ : torch Module
    coef_, intercept_ : ndarray of shape (n_classes, n_features) and (n_classes,)
        With ``module="linear"``.
    loss_curve_, n_iter_, net_, n_features_in_
        As in `NetClassifier`.

    Warns
    -----
    UserWarning
        If the weights of a loss have collapsed: nearly all are at one bound.

    Notes
    -----
    The step that the meta-gradient looks ahead is one of gradient descent, or of Adam with its present scales; momentum changes nothing in the
    direction. The validation data must be clean and like the data to come; no validation label enters the training but
    through the weights, unless `refit_with_validation` says so.

    References
    ----------
    Sivasubramanian, D., Maheshwari, A., Prathosh, A. P., Shenoy, P. and Ramakrishnan, G. (2023). Adaptive mixing of auxiliary
    losses in supervised learning. AAAI.

    Examples
    --------
    A third of the labels are wrong, and the validation data tell which.

    >>> import numpy as np
    >>> from statml.adapters import AMALClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(600, 2))
    >>> clean = (X[:, 0] > 0).astype(int)
    >>> y = np.where(rng.random(600) < 0.35, 1 - clean, clean)
    >>> model = AMALClassifier(module="linear", validation=(X[:50], clean[:50]), random_state=0)
    >>> model = model.fit(X[50:], y[50:])
    >>> right = y[50:] == clean[50:]
    >>> bool(model.lambda_[right, 0].mean() > 1.5 * model.lambda_[~right, 0].mean())
    True
    """

    _net_class: ClassVar[type[Net]] = MixingNet
    _keeps_callbacks = False

    def __init__(
        self,
        module: str | type[nn.Module] | nn.Module = "mlp",
        *,
        epochs: int = 40,
        batch_size: int = 128,
        optimizer: str | type[torch.optim.Optimizer] = "adam",
        lr: float = 2e-3,
        lr_schedule: str | Callable[[float], float] = "constant",
        weight_decay: float = 1e-2,
        temperature: float = 4.0,
        lambda_init: ArrayLike = 0.5,
        lambda_lr: float = 0.1,
        lambda_update: str = "rms",
        lambda_bounds: tuple[float, float] = (1e-4, 2.0),
        simplex: bool = False,
        lambda_groups: str | ArrayLike | None = None,
        update_every: int = 1,
        warmup: int = 3,
        lookahead: float = 1.0,
        meta: str = "head",
        validation: float | int | tuple[ArrayLike, ArrayLike] = 0.1,
        refit_with_validation: bool = False,
        teacher_dropout: float = 0.0,
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
        self.lr_schedule = lr_schedule
        self.temperature = temperature
        self.lambda_init = lambda_init
        self.lambda_lr = lambda_lr
        self.lambda_update = lambda_update
        self.lambda_bounds = lambda_bounds
        self.simplex = simplex
        self.lambda_groups = lambda_groups
        self.update_every = update_every
        self.warmup = warmup
        self.lookahead = lookahead
        self.meta = meta
        self.validation = validation
        self.refit_with_validation = refit_with_validation
        self.teacher_dropout = teacher_dropout

    # --- fitting ----------------------------------------------------------------------------------------

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        aux: Sequence[Any] | None = None,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train from new weights on.

        Parameters
        ----------
        X : array-like of shape (n_records, ...), or sparse for ``module="linear"``
        y : array-like of shape (n_records,)
            -1 marks a record without label, where labels are numbers.
        aux : list of SoftTarget, Teacher, RuleVotes, Entropy, PerExample or callable, optional
            Auxiliary losses of the records of X. None learns a weight for each label only.
        X_val, y_val : array-like of shape (n_val, ...) and (n_val,), optional
            Validation data, in place of `validation`.
        sample_weight : array-like of shape (n_records,), optional
            Multiplies all losses of a record.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For unusable data (NaN, one class, no validation data and none to set aside, an auxiliary loss that does not fit the records
            or returns a mean) or parameters, or if `checkpoint_dir` holds another run.
        """
        given = X  # a teacher that was fitted on a frame wants a frame
        n, X, y, val = self._stack(X, y, X_val, y_val)
        losses = bind_losses(y, aux, self.classes_, given, self.temperature, n)
        weight = None
        if sample_weight is not None:
            own = _check_sample_weight(
                sample_weight, X[:n], dtype=np.float64, ensure_non_negative=True
            )
            weight = np.append(own / own.mean(), np.ones(len(y) - n))
        plan = self._plan()
        usable = losses.mask.any(axis=1)
        if isinstance(val, list):
            result = self._cross_fit(plan, X, y, losses, weight, val, usable, n)
        else:
            rows = np.flatnonzero(usable & ~np.isin(np.arange(len(y)), val))
            result = self._run("", plan, X, y, losses, weight, rows, val, self.lambda_init, n)
        self._keep(result, n)
        if self.refit_with_validation and not isinstance(val, list):
            found = np.where(losses.mask, result.mixing.weights, 0.0)
            found[val] = np.eye(1, found.shape[1])  # the label, with weight 1
            self._run(
                "refit", self._fixed(plan), X, y, losses, weight, np.flatnonzero(usable), val, found, len(y)
            )  # fmt: skip
        trained_on = self.refit_with_validation or isinstance(val, list)
        self.val_loss_ = np.nan if trained_on else mean_loss(self._of_checked(X[val]), y[val])
        self._warn_of_collapse()
        return self

    def _run(
        self, stage: str, plan: Plan, X, y, losses: Losses, weight, rows, val, init, n: int
    ) -> MetaStep:
        """One training, on some of the records."""
        mask = losses.mask.copy()
        mask[np.setdiff1d(np.arange(len(mask)), rows)] = False
        if not len(rows):
            raise ValueError("no record is left to train on: y is -1 everywhere and aux is empty")
        if stage == "refit" or stage == "final":
            groups, bounds, simplex = None, (0.0, np.inf), False  # as they were found
        else:
            groups = as_groups(self.lambda_groups, y, n)
            bounds, simplex = check_bounds(self.lambda_bounds), self.simplex
            if plan.rate == 0:
                bounds = (0.0, np.inf)
        mixing = MixingWeights(mask, check_init(init, mask, n), groups, bounds, simplex)
        trace = Trace(y, len(self.classes_))
        linear = _is_linear(self.module)
        inputs = None if linear else torch.from_numpy(X)
        meta = MetaStep(plan, mixing, losses, trace, inputs, y, rows, val, weight)
        if linear:
            self._train_linear(X, meta)
            return meta
        extras = {"index": rows}
        if weight is not None:
            extras["weight"] = weight[rows].astype(np.float32)
        self._meta, self._stage = meta, stage
        try:
            self._train(X[rows], y[rows], extras)
        finally:
            del self._meta, self._stage
        return meta

    def _train_linear(self, X: Any, meta: MetaStep) -> None:
        self._check_names()
        if self.checkpoint_dir is not None:
            raise ValueError('checkpoint_dir is not for module="linear", which trains in seconds')
        self.coef_, self.intercept_, self.loss_curve_ = fit_linear(
            X, meta.y, meta.bound, meta.mixing, meta.trace, meta.plan, meta.rows, meta.val, meta.weight,
            optimizer=self.optimizer,
            optimizer_options=self._nested("optimizer__"),
            weight_decay=check_number("weight_decay", self.weight_decay, 0),
            seed=int(self._seeds().generate_state(1)[0]),
            progress=self.progress,
        )  # fmt: skip
        self.n_iter_ = len(self.loss_curve_)
        with torch.random.fork_rng(devices=[]):  # the draws of weights that are overwritten
            module = self._make_module(self._n_inputs)
        with torch.no_grad():
            module.layers[-1].weight.copy_(torch.from_numpy(self.coef_))
            module.layers[-1].bias.copy_(torch.from_numpy(self.intercept_))
        self.net_ = self._make_net(module, torch.Generator(), 0, plain=True)

    def _cross_fit(self, plan, X, y, losses, weight, folds, usable, n: int) -> MetaStep:
        """Weights of each record from trainings whose validation data it was not among; then one with these on all records."""
        sums, times = np.zeros(losses.mask.shape), np.zeros((len(y), 1))
        trials = []
        for k, val in enumerate(folds):
            rows = np.flatnonzero(usable & ~np.isin(np.arange(len(y)), val))
            result = self._run(
                f"fold{k}", plan, X, y, losses, weight, rows, val, self.lambda_init, n
            )
            sums[rows] += result.mixing.weights[rows]
            times[rows] += 1
            trials.append(result.trace)
        rows = np.flatnonzero(usable)
        init = sums / np.maximum(times, 1)
        final = self._run(
            "final", self._fixed(plan), X, y, losses, weight, rows, folds[0], init, len(y)
        )
        final.trace.epochs = trials[0].epochs
        final.trace.path = list(np.mean([t.path for t in trials], axis=0))
        final.trace.val_losses = list(np.mean([t.val_losses for t in trials], axis=0))
        found = [t.alignment for t in trials if t.alignment is not None]
        if found:
            counts = np.maximum(sum(np.isfinite(a) for a in found), 1)
            final.trace.alignment = np.where(
                final.mixing.mask, sum(np.nan_to_num(a) for a in found) / counts, np.nan
            )
        return final

    def _keep(self, meta: MetaStep, n: int) -> None:
        """What a training taught about the weights."""
        mixing, trace = meta.mixing, meta.trace
        bounds = (0.0, 1.0) if self.simplex else check_bounds(self.lambda_bounds)
        mask = mixing.mask[:n]
        trained = np.isin(np.arange(n), meta.rows)
        self.loss_names_: list[str] = list(meta.bound.names)
        self.loss_mask_ = mask
        self.lambda_: NDArray[np.float64] = np.where(trained[:, None], mixing.weights[:n], np.nan)
        self.lambda_path_: NDArray[np.float64] = (
            np.stack(trace.path) if trace.path else np.empty((0, *mask[:0].shape))
        )
        self.class_counts_: NDArray[np.float64] = trace.one_hot.T @ mixing.mask
        self.lambda_epochs_: NDArray[np.int64] = np.array(trace.epochs, dtype=int)
        self.val_loss_path_: NDArray[np.float64] = np.array(trace.val_losses, dtype=float)
        last = trace.alignment
        self.alignment_: NDArray[np.float64] = np.full(mask.shape, np.nan)
        if last is not None:
            size = np.sqrt(np.nanmean(last[mixing.mask] ** 2))
            self.alignment_ = last[:n] / size if size > 0 else last[:n]
        self.n_effective_ = effective_number(mixing.weights[:n], mask)
        self.share_at_bounds_ = np.stack(shares_at_bounds(mixing.weights[:n], mask, bounds))
        inside = meta.val[meta.val < n]
        self.validation_indices_: NDArray[np.int64] = inside[~trained[inside]]

    def _warn_of_collapse(self) -> None:
        if not len(self.val_loss_path_):
            return
        some = self.loss_mask_.any(axis=0)
        lower, upper = (share[some] > COLLAPSED for share in self.share_at_bounds_)
        names = [repr(name) for name, there in zip(self.loss_names_, some, strict=True) if there]
        stuck: list[str] = []
        if lower.all():
            where, stuck = "lower", names  # one alone is a loss that was found to be wrong
        elif not self.simplex and (upper.all() or (self.lambda_groups is None and upper.any())):
            where = "upper"
            stuck = [name for name, there in zip(names, upper, strict=True) if there]
        if stuck:
            warnings.warn(
                f"more than {COLLAPSED:.0%} of the weights of {', '.join(stuck)} are at the {where} bound: they no longer tell records "
                'apart. Lower lambda_lr, use lambda_update="rms", or share weights by lambda_groups',
                stacklevel=3,
            )

    # --- parameters and data ----------------------------------------------------------------------------

    def _plan(self) -> Plan:
        if not callable(self.lr_schedule):
            check_choice("lr_schedule", self.lr_schedule, SCHEDULES)
        check_choice("lambda_update", self.lambda_update, UPDATES)
        check_choice("meta", self.meta, METAS)
        return Plan(
            rate=check_number("lambda_lr", self.lambda_lr, 0),
            update=self.lambda_update,
            update_every=check_integer("update_every", self.update_every, low=1),
            warmup=check_integer("warmup", self.warmup, low=0),
            lookahead=check_number("lookahead", self.lookahead, 0),
            meta="head" if _is_linear(self.module) and self.meta == "full" else self.meta,
            dropout=check_number("teacher_dropout", self.teacher_dropout, 0, 1, high_open=True),
            batch_size=check_integer("batch_size", self.batch_size, low=1),
            lr=check_number("lr", self.lr, 0),
            damping=check_number("weight_decay", self.weight_decay, 0),
            schedule=learning_rate(self.lr_schedule),
            epochs=check_integer("epochs", self.epochs, low=0),
            seed=self._own_seed(1),
        )

    @staticmethod
    def _fixed(plan: Plan) -> Plan:
        return Plan(**(vars(plan) | {"rate": 0.0}))

    def _own_seed(self, which: int) -> int:
        """A seed beside those of the weights and the order of the records."""
        root = as_seed_sequence(self.random_state)
        child = np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, 7, which))
        return int(child.generate_state(1)[0])

    def _check_X(self, X: Any, y: Any = "no_validation", reset: bool = True) -> Any:
        if not _is_linear(self.module):
            return self._as_float32(X, y, reset=reset)
        return validate_data(
            self, X, y, dtype=np.float64, order="C", accept_sparse="csr", reset=reset
        )

    def _stack(self, X, y, X_val, y_val) -> tuple[int, Any, NDArray[np.int64], Any]:
        """Number of records, X and y with external validation data below, and which are for validation (a list: folds)."""
        X, y = self._check_X(X, y)
        check_classification_targets(y)
        X_val, y_val = given_data(self.validation, X_val, y_val)
        if X_val is not None:
            X_val = self._check_X(X_val, reset=False)
            y_val = check_labels_of(X_val.shape[0], y_val)
        self.classes_, codes = encode(y, y_val)
        self._n_inputs, self._n_outputs = int(np.prod(X.shape[1:])), len(self.classes_)
        n = len(y)
        if X_val is None:
            rng = np.random.default_rng(self._own_seed(0))
            return n, X, codes, set_aside(self.validation, codes, rng)
        both = sp.vstack([X, X_val], "csr") if sp.issparse(X) else np.concatenate([X, X_val])
        return n, both, codes, np.arange(n, len(codes))

    def _make_module(self, n_inputs: int) -> nn.Module:
        if _is_linear(self.module):
            return MLP(n_inputs, self._n_outputs, hidden=(), **self._nested("module__"))
        return super()._make_module(n_inputs)

    # --- hooks of the base ------------------------------------------------------------------------------

    def _callbacks(self) -> list[tuple[str, Any]]:
        return [("meta", self._meta)]

    def _checkpoint_folder(self) -> Path:
        return Path(self.checkpoint_dir) / self._stage

    def _make_checkpoint(self, path: Path, fingerprint: str, order: torch.Generator) -> Any:
        checkpoint = MixingCheckpoint(path, fingerprint, order)
        checkpoint.meta = self._meta
        return checkpoint

    def _identity(self, *free: str) -> dict[str, str]:
        """Everything else a run depends on: its losses, their first weights, its validation data."""
        import joblib

        if self.lr_schedule != "constant":
            free = tuple(name for name in free if name != "epochs")
        identity = super()._identity(*free, "validation", "lambda_init", "lambda_groups")
        meta = self._meta
        data = (meta.mixing.table, meta.mixing.groups, meta.rows, meta.val, meta.y)
        probe = np.zeros((len(meta.y), self._n_outputs))
        targets = [getattr(block, "targets", None) for block in meta.bound.blocks]
        val = meta.X[torch.from_numpy(meta.val)].numpy()
        identity["losses"] = joblib.hash((meta.bound.names, meta.bound.mask, targets, probe.shape))
        identity["weights"] = joblib.hash((data, val))
        return identity

    # --- prediction -------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> NDArray:
        check_is_fitted(self, "net_")
        return self._of_checked(self._check_X(X, reset=False))

    def _of_checked(self, X: Any) -> NDArray:
        """Logits of data that have been through the checks."""
        if _is_linear(self.module):
            return X @ self.coef_.T + self.intercept_
        parts = self.net_.forward_iter(Records(torch.from_numpy(X), {}))
        return torch.cat([part.cpu() for part in parts]).numpy()

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits.

        Parameters
        ----------
        X : array-like of shape (n_records, ...)

        Returns
        -------
        ndarray of shape (n_records, n_classes), or (n_records,) for two classes, that of the second less that of the first
        """
        logits = self._outputs(X).astype(np.float64)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    @property
    def estimator_(self) -> nn.Module:
        """The trained module."""
        return self.module_

    def _mean_loss(self, X: Any, y: NDArray[np.int64]) -> float:
        """Mean cross-entropy with labels as positions of classes."""
        return mean_loss(self._outputs(X), y)

    # --- files ------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted network into one safetensors file.

        Parameters
        ----------
        path : path
            The file holds the weights of the module and of the losses, the parameters and what else `fit` learned; no data: validation
            data that were given as `validation` are left out. A module of one's own is not in it: hand it to `load`.
        """
        other = copy.copy(self)
        if isinstance(self.validation, (tuple, list)):
            other.validation = 0.1
        super(AMALClassifier, other).save(path)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        if _is_linear(self.module):
            tags.input_tags.three_d_array = False
            tags.input_tags.sparse = True
        return tags


def mean_loss(logits: NDArray, y: NDArray[np.int64]) -> float:
    """Mean cross-entropy of logits (n, C) with labels as positions of classes."""
    return float(-log_softmax(logits.astype(np.float64))[np.arange(len(y)), y].mean())


def _is_linear(module: Any) -> bool:
    return isinstance(module, str) and module == "linear"
