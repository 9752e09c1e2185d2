"""The walk along the path of a pruning estimator: cycles of training with fewer and fewer weights.

See `estimator` for what a cycle starts from. Every cycle has seeds of its own, so that an interrupted walk goes on with the
same result: finished cycles are read back, and the pruning between them is done again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from torch import nn

from statml.parallel import progress_bar

from .._net import Net, Records
from .costs import layer_positions
from .distribution import Distribution
from .growth import Growth
from .masks import Masks, PruneRounds, apply_masks, density, full_masks, prunable_weights
from .path import Measured, measure, path_row
from .pruning import number_kept, prune_step
from .records import Scoring
from .saliency import Saliency
from .schedule import Schedule
from .structure import Structure
from .training import MaskedCheckpoint, Masking, weights_of

MOST_LEVELS = 200  # of one gradual cycle


@dataclass
class Plan:
    """The parameters of a fit, checked, with names replaced by members."""

    saliency: Saliency
    structure: Structure
    distribution: Distribution
    schedule: Schedule
    growth: Growth | None
    levels: list[float]
    rate: Callable[[float], float]


class Walk:
    """One walk along the path of an estimator; collects rows, states and masks."""

    def __init__(self, estimator, plan, module, initial, data, held_out, scored, seeds, identity):
        self.estimator, self.plan, self.data, self.held_out = estimator, plan, data, held_out
        self.seeds = seeds
        self.module = module.to(estimator.device)
        self.weights = prunable_weights(module, estimator.exclude, estimator.prune_output)
        number_kept(self.weights, estimator.sparsity)
        batches = [
            (data.X[part].to(estimator.device), data.y["y"][part].to(estimator.device))
            for part in torch.from_numpy(scored).split(128)
        ]
        loss = estimator._criterion(reduction="none")

        def record_loss(outputs, y):
            losses = loss(outputs, y)
            return losses.flatten(1).mean(1) if losses.ndim > 1 else losses

        masks = full_masks(self.weights)
        self.scoring = Scoring(self.module, self.weights, masks, batches, record_loss)
        self.units = plan.structure.units(self.scoring)
        attached = {
            name: torch.ones_like(ids, dtype=torch.bool)
            for name, ids in self.units.attached.items()
        }
        masks = masks | attached | {k: m.to(estimator.device) for k, m in (initial or {}).items()}
        self.scoring.masks = masks
        apply_masks(self.module, masks)
        self.rounds = PruneRounds(masks)
        self.positions = layer_positions(self.module, batches[0][0][:1])
        self.parameters = [name for name, _ in self.module.named_parameters()]
        self.rows: list[dict[str, Any]] = []
        self.states: list[dict[str, torch.Tensor]] = []
        self.history: list[tuple[int, int, float]] = []
        self.dense: nn.Module | None = None
        self.rewound = weights_of(self.module)
        self.start = {name: value.numpy() for name, value in self.rewound.items()}
        self.identity = identity

    def walk(self) -> None:
        """All cycles, in turn."""
        plan, epochs = self.plan, self.estimator.epochs
        first = 0 if plan.schedule.dense_first else 1
        n = len(plan.levels) - first + 1
        with progress_bar(
            n * epochs, self.estimator.progress, type(self.estimator).__name__
        ) as bar:
            self.bar = bar
            if plan.schedule.dense_first:
                self._cycle(0, epochs, None)
                self.dense = copy.deepcopy(self.module)
            else:
                self.module.load_state_dict(self.rewound)
            for k, sparsity in enumerate(plan.levels, start=1):
                start = 1 - density(self._weight_masks())
                if plan.schedule.gradual:
                    self._rewind(k)
                    self._cycle(
                        k, epochs, lambda t, s=start, e=sparsity: plan.schedule.sparsity_at(s, e, t)
                    )
                else:
                    self._prune(k, sparsity)
                    self._rewind(k)
                    self._cycle(k, epochs, None)

    def _prune(self, k: int, sparsity: float) -> None:
        before = weights_of(self.module)
        self.scoring.generator = torch.Generator(self.estimator.device).manual_seed(
            seed_of(self.seeds[k], 1)
        )
        self.scoring.masks = self._prune_to(self.scoring.masks, sparsity)
        if self.plan.growth is not None:
            self.module.load_state_dict(
                before
            )  # a growth rule may keep a reserve of what is masked
        else:
            self.rounds.append(self.scoring.masks)

    def _prune_to(self, masks: Masks, sparsity: float) -> Masks:
        self.scoring.masks = masks
        plan = self.plan
        return prune_step(
            self.scoring,
            sparsity,
            plan.saliency,
            plan.structure,
            plan.distribution,
            self.estimator.compensate,
            self.units,
        )

    def _rewind(self, k: int) -> None:
        """What the weights start a cycle from."""
        rewind = self.estimator.rewind
        if not self.plan.schedule.dense_first or rewind in ("lr", None):
            return
        if rewind == "weight":
            self.module.load_state_dict(self.rewound)
        else:
            torch.manual_seed(seed_of(self.seeds[k], 2))
            self.module.load_state_dict(draw_anew(self.estimator, self.module).state_dict())
        apply_masks(self.module, self.scoring.masks)

    def _cycle(self, k: int, epochs: int, ramp: Callable[[float], float] | None) -> None:
        """One training, from the optimizer's start to the row of the path."""
        estimator, plan = self.estimator, self.plan
        retrained = k > 0 and plan.schedule.dense_first
        from_epoch = estimator.rewind_epoch if retrained and estimator.rewind == "weight" else 0
        at_last_rate = retrained and estimator.rewind is None

        def rate(epoch):
            done = epochs - 1 if at_last_rate else epoch + from_epoch
            return plan.rate(min(done / max(epochs, 1), 1.0))

        torch.manual_seed(seed_of(self.seeds[k]))
        order = torch.Generator().manual_seed(seed_of(self.seeds[k], 3))
        net = estimator._make_net(self.module, order, epochs - from_epoch)
        masking = Masking(
            self.module,
            list(self.weights),
            self.scoring.masks,
            plan.saliency if plan.saliency.trained else None,
            plan.growth if k else None,
            None if ramp is None else (self._prune_to, ramp),
            rate,
            keep_levels=ramp is not None,
            keep_epoch=estimator.rewind_epoch if k == 0 and estimator.rewind == "weight" else 0,
        )
        net.callbacks_.append(("masking", masking.initialize()))
        net.callbacks_.append(("progress", Advance(self.bar, k).initialize()))
        done = self._resume(net, order, masking, k)
        net.partial_fit(self.data, epochs=epochs - from_epoch - done)
        self.module.to(estimator.device)  # accelerate may have moved it
        if masking.early is not None:
            self.rewound = masking.early
        losses = [float(row["train_loss"]) for row in net.history]
        self._check_finite(losses)
        self.history += [(k, epoch, loss) for epoch, loss in enumerate(losses, start=1)]
        self._finish(k, epochs, masking, from_epoch)

    def _finish(self, k: int, epochs: int, masking: Masking, from_epoch: int) -> None:
        estimator = self.estimator
        if self.plan.saliency.trained:
            self.plan.saliency.finish(self.weights)
        self.scoring.masks = masking.masks
        before = self.rows[-1]["epochs_total"] if self.rows else 0
        kept_on = not self.rows or estimator.rewind in ("lr", None)
        base = before if kept_on else from_epoch
        if not masking.keep_levels:
            if self.plan.growth is not None:
                self.rounds.append(masking.masks)
            apply_masks(self.module, masking.masks)
            self._row(self.rounds.n_rounds, base + epochs - from_epoch)
            return
        last = weights_of(self.module)
        levels = masking.levels  # a path has a byte for them
        chosen = np.unique(np.linspace(0, len(levels) - 1, min(len(levels), MOST_LEVELS)).round())
        for epoch, masks, state in (levels[int(i)] for i in chosen):
            self.rounds.append(masks)
            self.module.load_state_dict(state)
            self._row(self.rounds.n_rounds, base + epoch)
        self.module.load_state_dict(last)

    def _row(self, level: int, epochs_total: int) -> None:
        estimator = self.estimator
        state = weights_of(self.module)
        masks = self.rounds.masks(level)
        criterion = estimator._criterion(reduction="none")
        train, val = (self._measure(part, criterion) for part in (self.data, self.held_out))
        self._check_finite([train.loss])
        self.states.append(state)
        self.rows.append(
            path_row(
                level,
                {name: masks[name] for name in self.weights},
                state,
                self.parameters,
                self.positions,
                epochs_total,
                train,
                val,
            )
        )

    def _check_finite(self, losses: list[float]) -> None:
        if not all(map(math.isfinite, losses)):
            raise ValueError(
                f"the training diverged (loss {losses[-1]}): lower lr, now {self.estimator.lr!r}, or bring the data "
                "to a scale of about 1"
            )

    def _measure(self, data: Records, criterion: nn.Module) -> Measured:
        return measure(self.module, data, criterion, self.estimator.device)

    def _weight_masks(self) -> Masks:
        return {name: self.scoring.masks[name] for name in self.weights}

    def _resume(self, net: Net, order: torch.Generator, masking: Masking, k: int) -> int:
        """Take up an interrupted cycle, and write this one down; returns the number of epochs done."""
        estimator = self.estimator
        if estimator.checkpoint_dir is None:
            return 0
        folder = Path(estimator.checkpoint_dir)
        folder.mkdir(parents=True, exist_ok=True)
        fingerprint = joblib.hash(
            (type(estimator).__name__, k, estimator._identity(), self.identity, self.start)
        )
        callback = MaskedCheckpoint(folder / f"cycle_{k:03d}.pt", fingerprint, order)
        callback.masking = masking
        net.callbacks_.append(("checkpoint", callback.initialize()))
        return callback.resume(net)


class Advance(Callback):
    """Moves the bar of the whole path."""

    def __init__(self, bar: Any, cycle: int):
        self.bar, self.cycle = bar, cycle

    def on_train_begin(self, net, **kwargs):
        self.bar.update(len(net.history))  # done before an interruption

    def on_epoch_end(self, net, **kwargs):
        self.bar.set_postfix(
            cycle=self.cycle, loss=f"{net.history[-1, 'train_loss']:.4g}", refresh=False
        )
        self.bar.update()


def draw_anew(estimator: Any, module: nn.Module) -> nn.Module:
    """A network of the same architecture with new weights, drawn from torch's global generator."""
    if not isinstance(estimator.module, nn.Module):
        return estimator._make_module(estimator._n_inputs)
    module = copy.deepcopy(module)
    for name, part in module.named_modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
        elif any(True for _ in part.parameters(recurse=False)):
            raise ValueError(
                f'rewind="reinit" cannot draw {name or "the module"} anew: give the class of the module instead of an instance'
            )
    return module


def as_records(X: NDArray, y: NDArray, extras: dict[str, NDArray], part: NDArray) -> Records:
    """Some records as tensors."""
    arrays = {"y": y, **extras}
    return Records(
        torch.from_numpy(X[part]), {name: torch.from_numpy(v[part]) for name, v in arrays.items()}
    )


def seed_of(sequence: np.random.SeedSequence, k: int = 0) -> int:
    """One of four seeds for torch."""
    return int(sequence.generate_state(4)[k])
