"""Training with masks: what happens in each step.

`Masking` hooks into skorch's loop. After the gradients: the saliency collects, connections move where a growth rule says so, and the gradients
of pruned weights are multiplied by zero, which with zero weights and zero optimizer state leaves them at exactly zero
(`masks`). After the step: proximal steps, and a gradual schedule's next bit of pruning. `PruningCallback` is the same for
users of skorch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from skorch.callbacks import Callback
from skorch.utils import to_tensor
from torch import Tensor, nn
from torch.func import functional_call

from statml._validation import RandomState, check_choice, check_integer

from .._net import Checkpoint, Net
from .distribution import DISTRIBUTIONS, Distribution
from .growth import GROWTHS, Growth
from .masks import (
    Masks,
    apply_masks,
    density,
    full_masks,
    gradient_factors,
    mask_gradients,
    mask_state,
    prunable_weights,
    warn_of_collapse,
)
from .pruning import check_members, prune_step
from .records import Scoring
from .saliency import Saliency
from .saliency._base import as_saliency, seeded_generator
from .schedule import SCHEDULES, Schedule
from .structure import Structure, as_structure
from .structure.weights import Weights

RAMP_STEPS = 100  # from one bit of gradual pruning to the next
LEAST_BITS = 10
# their step is zero where weight, gradient and state are zero
ZERO_KEEPING = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
)

Ramp = tuple[Callable[[Masks, float], Masks], Callable[[float], float]]


class PruningNet(Net):
    """A net that runs with a saliency's noise and is trained with its penalty; see `Saliency`."""

    learned_: tuple[Saliency, dict[str, nn.Parameter]] | None = None

    def infer(self, x, **fit_params):
        if self.learned_ is not None and self.module_.training:
            saliency, weights = self.learned_
            perturbed = saliency.perturb(weights)
            if perturbed is not None:
                x = to_tensor(x, device=self.device)
                return functional_call(self.module_, perturbed, (x,), fit_params)
        return super().infer(x, **fit_params)

    def objective(self, losses: Tensor, y_true: dict[str, Tensor], training: bool) -> Tensor:
        loss = super().objective(losses, y_true, training)
        if self.learned_ is not None and training:
            saliency, weights = self.learned_
            penalty = saliency.penalty(weights)
            loss = loss if penalty is None else loss + penalty
        return loss


class Masking(Callback):
    """Masks that hold, and move, in the course of one training.

    Parameters
    ----------
    module : torch Module
        The one that is trained.
    names : sequence of str
        The weights that are pruned; `masks` may hold more (biases of channels).
    masks : dict of str to bool Tensor
        Those at the start.
    saliency : Saliency, optional
        One that is learned in training.
    growth : Growth, optional
    ramp : (function of masks and sparsity -> masks, function of progress -> sparsity), optional
        Gradual pruning.
    rate : function of the epoch -> factor, optional
        Of the learning rate.
    keep_levels : bool, default=False
        Whether the state is kept at the end of each epoch in which masks changed.
    keep_epoch : int, default=0
        The epoch after which the weights are kept in `early`; 0: none.
    """

    def __init__(
        self,
        module: nn.Module,
        names: Sequence[str],
        masks: Masks,
        saliency: Saliency | None = None,
        growth: Growth | None = None,
        ramp: Ramp | None = None,
        rate: Callable[[int], float] | None = None,
        keep_levels: bool = False,
        keep_epoch: int = 0,
    ):
        parameters = dict(module.named_parameters())
        self.module = module
        self.weights = {name: parameters[name] for name in names}
        self.masks = {name: m.to(parameters[name].device) for name, m in masks.items()}
        self.saliency, self.growth, self.ramp, self.rate = saliency, growth, ramp, rate
        self.keep_levels, self.keep_epoch = keep_levels, keep_epoch
        self.early: dict[str, Tensor] | None = None
        self.levels: list[tuple[int, Masks, dict[str, Tensor]]] = []  # epoch, masks, weights
        self.pending: dict[str, Any] | None = None
        self._parameters = parameters

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        n_records, n_batches = self._sizes(net, X)
        self.step, self.n_steps = 0, max(1, n_batches * net.max_epochs)
        self._every = max(1, min(RAMP_STEPS, int(0.75 * self.n_steps / LEAST_BITS)))
        self._rates = [group["lr"] for group in net.optimizer_.param_groups]
        optimizer = getattr(
            net.optimizer_, "optimizer", net.optimizer_
        )  # accelerate's is a wrapper
        self._optimizer = optimizer
        self._safe = type(optimizer) in ZERO_KEEPING
        if self.saliency is not None:
            self.saliency.start(self.weights, n_records, self.n_steps)
            net.learned_ = (self.saliency, self.weights)
        if self.growth is not None:
            self.growth.start(self.weights, self.masks, self.n_steps)
        if self.pending is not None:
            self._load(self.pending)
        self._set(self.masks)

    def _sizes(self, net, X) -> tuple[int, int]:
        return len(X), -(-len(X) // net.batch_size)

    def on_epoch_begin(self, net, **kwargs):
        if self.rate is not None:
            factor = self.rate(len(net.history) - 1)
            for group, lr in zip(net.optimizer_.param_groups, self._rates, strict=True):
                group["lr"] = lr * factor

    def on_grad_computed(self, net, **kwargs):
        if self.saliency is not None:
            self.saliency.after_backward(self.weights)
        if self.growth is not None:
            self._move(self.growth.after_backward(self.weights, self.masks, self.step))
        mask_gradients(self._masked, self._factors)

    def on_batch_end(self, net, training=True, **kwargs):
        if not training:
            return
        self.step += 1
        if self.saliency is not None:
            self.saliency.after_step(self.weights, net.optimizer_.param_groups[0]["lr"])
        if self.growth is not None:
            self._move(self.growth.after_step(self.weights, self.masks))
        if self.ramp is not None and (self.step % self._every == 0 or self.step == self.n_steps):
            prune, sparsity_at = self.ramp
            sparsity = sparsity_at(self.step / self.n_steps)
            weights = {name: self.masks[name] for name in self.weights}
            if sparsity > 1 - density(weights):
                self._set(prune(self.masks, sparsity))
        elif not self._safe:
            apply_masks(self.module, self.masks, self._optimizer)

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.keep_epoch:
            self.early = weights_of(self.module)
        if self.keep_levels:
            masks = {name: m.cpu().clone() for name, m in self.masks.items()}
            before = self.levels[-1][1] if self.levels else None
            if before is not None and all(torch.equal(before[n], m) for n, m in masks.items()):
                del self.levels[-1]  # the same masks, trained further
            self.levels.append((len(net.history), masks, weights_of(self.module)))

    def _move(self, masks: Masks | None) -> None:
        if masks is not None:
            self._set(masks)

    def _set(self, masks: Masks) -> None:
        """New masks: weights and optimizer state, and what the next gradients are multiplied by."""
        self.masks = masks
        apply_masks(self.module, masks)
        # a growth rule may train a reserve along with the network
        trained = masks if self.growth is None else self.growth.trained(masks)
        mask_state(self._optimizer, self._parameters, trained)
        self._masked = [self._parameters[name] for name in trained]
        self._factors = gradient_factors(self._masked, trained.values())

    # --- an interrupted training ------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that `Masking` adds to the state of a training."""
        return {
            "step": self.step,
            "masks": self.masks,
            "rates": self._rates,
            "saliency": {} if self.saliency is None else self.saliency.state(),
            "growth": {} if self.growth is None else self.growth.state(),
            "levels": self.levels,
            "early": self.early,
        }

    def _load(self, state: dict[str, Any]) -> None:
        self.step, self.masks, self._rates = state["step"], state["masks"], state["rates"]
        self.levels, self.early = [tuple(level) for level in state["levels"]], state["early"]
        if self.saliency is not None:
            self.saliency.load(state["saliency"])
        if self.growth is not None:
            self.growth.load(state["growth"])


class MaskedCheckpoint(Checkpoint):
    """A checkpoint with the state of `Masking`."""

    masking: Masking

    def further_state(self) -> dict[str, Any]:
        return {"masking": self.masking.state()}

    def restore_further(self, state: dict[str, Any]) -> None:
        self.masking.pending = state["masking"]


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's state on the CPU, apart from the module."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def learning_rate(schedule: str | Callable[[float], float]) -> Callable[[float], float]:
    """The factor at the learning rate as a function of progress in [0, 1).

    Examples
    --------
    >>> [learning_rate("step")(t) for t in (0.0, 0.5, 0.75)]
    [1.0, 0.1, 0.01]
    """
    if callable(schedule):
        return schedule
    check_choice("lr_schedule", schedule, ("step", "cosine", "constant"))
    return {
        "step": lambda t: 1.0 if t < 0.5 else (0.1 if t < 0.75 else 0.01),
        "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
        "constant": lambda t: 1.0,
    }[schedule]


class PruningCallback(Callback):
    """Prune any skorch net while it is trained.

    Parameters
    ----------
    criterion : str, Saliency or callable, default="magnitude"
        As in `PruningClassifier`.
    sparsity : float, default=0.9
    schedule : {"cubic", "static"}, default="cubic"
        In the course of ``fit``, or before its first step.
    scope, structure
        As in `PruningClassifier`.
    growth : {"set", "rigl", "snfs", "topkast"} or None, default=None
        Static at first, then connections move.
    exclude, prune_output
        As in `prunable_weights`.
    score_records : int, default=512
        Records on which weights are scored, the first of the training data.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        For random scores.

    Attributes
    ----------
    masks_ : dict of str to bool Tensor
        At the end of ``fit``.

    Examples
    --------
    >>> import torch
    >>> from skorch import NeuralNetClassifier
    >>> from sklearn.datasets import load_digits
    >>> from statml.adapters import MLP
    >>> from statml.adapters.pruning import PruningCallback
    >>> X, y = load_digits(return_X_y=True)
    >>> net = NeuralNetClassifier(MLP, module__n_inputs=64, module__n_outputs=10, criterion=torch.nn.CrossEntropyLoss,
    ...     max_epochs=4, lr=0.1, train_split=None, callbacks=[("pruning", PruningCallback(sparsity=0.8))], verbose=0)
    >>> net = net.fit((X / 16).astype("float32"), y)
    >>> float((net.module_.layers[1].weight != 0).float().mean())
    0.2...
    """

    def __init__(
        self,
        criterion: str | Saliency | Callable = "magnitude",
        *,
        sparsity: float = 0.9,
        schedule: str | Schedule = "cubic",
        scope: str | Distribution = "global",
        structure: str | Structure = "unstructured",
        growth: str | Growth | None = None,
        exclude: Sequence[str] = ("bias", "norm"),
        prune_output: bool = False,
        score_records: int = 512,
        random_state: RandomState = None,
    ):
        self.criterion = criterion
        self.sparsity = sparsity
        self.schedule = schedule
        self.scope = scope
        self.structure = structure
        self.growth = growth
        self.exclude = exclude
        self.prune_output = prune_output
        self.score_records = score_records
        self.random_state = random_state

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        saliency = copy.deepcopy(as_saliency(self.criterion))
        structure, distribution = as_structure(self.structure), DISTRIBUTIONS.make(self.scope)
        check_members(saliency, structure, distribution, None, self.sparsity)
        schedule = SCHEDULES.make(self.schedule)
        growth = None if self.growth is None else copy.deepcopy(GROWTHS.make(self.growth))
        check_growth(growth, saliency, structure)
        gradual = growth is None and schedule.gradual
        if not gradual and growth is None and schedule.dense_first:
            raise ValueError(
                f'schedule must be "cubic" or "static" within one training, got {self.schedule!r}'
            )
        if saliency.trained and not gradual:
            raise ValueError(
                f"{saliency!r} is learned in training: it cannot prune before the first step"
            )
        if saliency.trained and type(saliency).perturb is not Saliency.perturb:
            raise ValueError(
                f"{saliency!r} changes the forward pass: use PruningClassifier or PruningRegressor"
            )
        module = net.module_
        weights = prunable_weights(module, self.exclude, self.prune_output)
        scoring = Scoring(
            module,
            weights,
            full_masks(weights),
            _first_records(net, X, y, check_integer("score_records", self.score_records, 1)),
            _record_losses(net),
            seeded_generator(self.random_state, next(iter(weights.values())).device),
        )
        units = structure.units(scoring)

        def prune(masks, sparsity):
            scoring.masks = masks
            return prune_step(scoring, sparsity, saliency, structure, distribution, units=units)

        masks = scoring.masks | {
            name: torch.ones_like(ids, dtype=torch.bool) for name, ids in units.attached.items()
        }
        ramp = None
        before = weights_of(module)
        if gradual:
            ramp = (prune, lambda t: schedule.sparsity_at(0.0, self.sparsity, t))
        else:
            masks = prune(masks, self.sparsity)
            warn_of_collapse({name: masks[name] for name in weights})
            if growth is not None:
                module.load_state_dict(before)  # it masks by itself, and may keep a reserve
        engine = Masking(
            module, list(weights), masks, saliency if saliency.trained else None, growth, ramp
        )
        engine._sizes = lambda net, X: _sizes(net, X, y)
        self._engine = engine
        engine.on_train_begin(net, X=X, y=y)

    def on_grad_computed(self, net: Any, **kwargs: Any) -> None:
        self._engine.on_grad_computed(net, **kwargs)

    def on_batch_end(self, net: Any, training: bool = True, **kwargs: Any) -> None:
        self._engine.on_batch_end(net, training=training, **kwargs)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        self.masks_ = self._engine.masks
        del self._engine  # functions of the training cannot be pickled


def check_growth(growth: Growth | None, saliency: Saliency, structure: Structure) -> None:
    """Refuse what growth does not go with."""
    if growth is not None and not isinstance(structure, Weights):
        raise ValueError(
            f'growth moves single weights: structure must be "unstructured", got {structure!r}'
        )
    if growth is not None and saliency.trained:
        raise ValueError(f"growth starts before any training, and {saliency!r} is learned in it")


def _sizes(net, X, y) -> tuple[int, int]:
    data = net.get_dataset(X, y)
    train, _ = net.get_split_datasets(X, y) if net.train_split else (data, None)
    return len(train), len(net.get_iterator(train, training=True))


def _first_records(net, X, y, n: int) -> list[tuple[Tensor, Tensor]]:
    """Records of the training data in their order, as batches on the net's device."""
    batches, left = [], n
    for Xi, yi in net.get_iterator(net.get_dataset(X, y), training=False):
        yi = yi["y"] if isinstance(yi, dict) else yi
        batches.append((to_tensor(Xi[:left], net.device), to_tensor(yi[:left], net.device)))
        left -= len(Xi)
        if left <= 0:
            break
    return batches


def _record_losses(net) -> Callable[[Tensor, Tensor], Tensor]:
    """The net's criterion as one loss a record."""
    criterion = copy.deepcopy(net.criterion_)
    criterion.reduction = "none"

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        if isinstance(criterion, nn.NLLLoss):  # skorch's classifier has probabilities here
            outputs = (outputs + 1e-12).log()
        losses = criterion(outputs, y)
        return losses.flatten(1).mean(1) if losses.ndim > 1 else losses

    return loss
