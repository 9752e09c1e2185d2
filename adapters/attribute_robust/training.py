"""What happens in a training step: a share of the batch is replaced by its worst versions, found now or kept in a pool.

"online": in every step the first `mix` of the (shuffled) batch is searched. "pool", the paper's schedule: every `pool_every` epochs
a part of the training records is searched and added to a pool, from which that share of every batch is then drawn; the pool ends with
`pool_fraction` of the records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback
from skorch.utils import to_device
from torch import Tensor, nn
from torch.nn import functional as F

from .._net import Checkpoint, Net
from .attribute import Chain
from .objectives import OBJECTIVES, make_objective
from .search import Box, Found, frozen, search

BASELINES = {"none": None, "random": (1, 0), "worst_of_k": (None, 0)}  # n_starts, n_steps
POOL_BATCH = 256


@dataclass
class Plan:
    """The parameters of an estimator, checked.

    See `AttributeAdversarialClassifier` for what they mean.
    """

    chain: Chain
    objective: str
    beta_feature: float
    beta_attribute: float
    n_starts: int
    n_steps: int
    step_size: float
    mix: float
    mode: str
    pool_every: int
    pool_fraction: float
    warmup_epochs: int
    curriculum_epochs: int
    epochs: int

    def scale(self, epoch: int) -> float:
        """Share of the box in an epoch, counted from 0."""
        if not self.curriculum_epochs:
            return 1.0
        return min(1.0, (epoch - self.warmup_epochs + 1) / self.curriculum_epochs)

    @property
    def rounds(self) -> list[int]:
        """Epochs before which the pool grows."""
        return list(range(self.warmup_epochs, self.epochs, self.pool_every))


def worst(
    plan: Plan,
    module: nn.Module,
    x: Tensor,
    y: Tensor,
    clean: Tensor | None,
    generator: torch.Generator,
    scale: float = 1.0,
) -> tuple[Found, Box]:
    """The worst versions of records that a search of the plan finds; nothing of it reaches the weights or buffers."""
    box = Box.of(plan.chain, x, clean, scale)
    n_starts, n_steps = BASELINES.get(plan.objective, (None, plan.n_steps))
    with frozen(module):
        at = plan.chain.clean if clean is None else clean
        at = torch.as_tensor(at, dtype=x.dtype, device=x.device).expand_as(box.half)
        kind = plan.objective if plan.objective in OBJECTIVES else "adversarial"
        objective = make_objective(
            kind, module, x, y, box.position(at), plan.beta_feature, plan.beta_attribute
        )
        found = search(
            objective,
            plan.chain,
            x,
            box,
            n_starts=plan.n_starts if n_starts is None else n_starts,
            n_steps=n_steps,
            step_size=plan.step_size,
            generator=generator,
        )
    return found, box


class AdversarialNet(Net):
    """A net that is trained on its worst attributes."""

    adversary_: Adversary | None = None

    def train_step(self, batch, **fit_params):
        if self.adversary_ is not None:
            batch = self.adversary_.perturb(self, batch)
        return super().train_step(batch, **fit_params)

    def objective(self, losses: Tensor, y_true: dict[str, Tensor], training: bool) -> Tensor:
        if training and self.adversary_ is not None:
            self.adversary_.note_losses(losses.detach())
        return super().objective(losses, y_true, training)


class Adversary(Callback):
    """Perturbs batches in one training, and keeps account.

    Parameters
    ----------
    plan : Plan
    generator : torch.Generator
        Draws starts, noise and the pool.
    """

    def __init__(self, plan: Plan, generator: torch.Generator):
        self.plan, self.generator = plan, generator
        self.rows: list[dict[str, float]] = []
        self.pool: dict[str, Tensor] = {}

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        net.adversary_ = self
        self.data = X  # the records, for the pool

    def on_train_end(self, net, **kwargs):
        net.adversary_ = None
        del self.data

    def on_epoch_begin(self, net, **kwargs):
        self.epoch = len(self.rows)
        self.sums = dict.fromkeys(("clean", "inner", "start", "hit"), 0.0)
        self.counts = dict.fromkeys(self.sums, 0)
        plan = self.plan
        self.active = plan.objective != "none" and self.epoch >= plan.warmup_epochs
        if self.active and plan.mode == "pool" and self.epoch in plan.rounds:
            self.grow(net)

    def on_epoch_end(self, net, **kwargs):
        row = {"epoch": self.epoch}
        for name, column in {
            "clean": "clean_loss",
            "inner": "inner_loss",
            "start": "start_loss",
            "hit": "box_hit_rate",
        }.items():
            n = self.counts[name]
            row[column] = float(self.sums[name]) / n if n else float("nan")
        self.rows.append(row)

    # --- a batch ----------------------------------------------------------------------------------------

    def perturb(self, net: Net, batch: tuple[Tensor, dict[str, Tensor]]) -> tuple:
        """The batch with a share of it replaced."""
        x, y = to_device(batch, device=net.device) if net.device is not None else batch
        self.n_changed = h = round(self.plan.mix * len(x)) if self.active else 0
        if not h:
            return x, y
        if self.plan.mode == "pool":
            rows = torch.randint(len(self.pool["x"]), (h,), generator=self.generator)
            changed = self.pool["x"][rows].to(x)
            y = {
                name: torch.cat([self.pool[f"y.{name}"][rows].to(values), values[h:]])
                for name, values in y.items()
            }
            return torch.cat([changed, x[h:]]), y
        clean = y.get("attributes")
        module = unwrapped(net)
        found, box = worst(
            self.plan,
            module,
            x[:h],
            y["y"][:h],
            None if clean is None else clean[:h],
            self.generator,
            self.plan.scale(self.epoch),
        )
        self.note(module, found, box, y["y"][:h])
        return torch.cat([found.x, x[h:]]), y

    def note(self, module: nn.Module, found: Found, box: Box, y: Tensor) -> None:
        """Where the search began and ended."""
        if self.plan.objective in ("explore", "ada", "agat_code"):  # its objective is no loss
            with frozen(module), torch.no_grad():
                inner = F.cross_entropy(module(found.x), y, reduction="none")
        else:
            inner = found.objective
            self.add("start", found.start)
        self.add("inner", inner)
        moves = box.half > 0
        self.add("hit", (found.u.abs() >= 1)[moves].to(found.x))

    def note_losses(self, losses: Tensor) -> None:
        """The losses of the clean part of a batch."""
        self.add("clean", losses[self.n_changed :])

    def add(self, name: str, values: Tensor) -> None:
        self.sums[name] = self.sums[name] + values.detach().double().sum()
        self.counts[name] += values.numel()

    # --- the pool ---------------------------------------------------------------------------------------

    def grow(self, net: Net) -> None:
        """Search the part of the records whose turn it is, and keep what was found."""
        plan, n = self.plan, len(self.data)
        which = plan.rounds.index(self.epoch)
        ends = np.linspace(0, max(1, round(plan.pool_fraction * n)), len(plan.rounds) + 1)
        size = max(1, int(round(ends[which + 1]) - round(ends[which])))
        chosen = torch.randperm(n, generator=self.generator)[:size]
        parts = []
        module = unwrapped(net)
        device = next(module.parameters()).device
        for rows in chosen.split(POOL_BATCH):
            x, y = to_device(self.data[rows], device=device)
            found, box = worst(
                plan,
                module,
                x,
                y["y"],
                y.get("attributes"),
                self.generator,
                plan.scale(self.epoch),
            )
            self.note(module, found, box, y["y"])
            parts.append({"x": found.x.cpu(), **{f"y.{k}": v.cpu() for k, v in y.items()}})
        if self.pool:
            parts.insert(0, self.pool)
        self.pool = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    # --- an interrupted training ------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What belongs to a checkpoint."""
        return {"rows": self.rows, "pool": self.pool, "generator": self.generator.get_state()}

    def load(self, state: dict[str, Any]) -> None:
        self.rows, self.pool = state["rows"], state["pool"]
        self.generator.set_state(state["generator"])


class AdversaryCheckpoint(Checkpoint):
    """A checkpoint with the state of an `Adversary`."""

    adversary: Adversary

    def further_state(self) -> dict[str, Any]:
        return {"adversary": self.adversary.state()}

    def restore_further(self, state: dict[str, Any]) -> None:
        self.adversary.load(state["adversary"])


def unwrapped(net: Net) -> nn.Module:
    """The module without what accelerate puts around it for several processes, which takes no part in a search."""
    module = net.module_
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
