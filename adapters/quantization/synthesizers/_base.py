"""What an image synthesizer is: it makes a batch of inputs for which a network has no data.

A member is one small file with one class, whose ``batch`` returns images and the losses on the way; `SYNTHESIZERS` names it.
`synthesize` calls it, batch after batch, each with a seed of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, fx

from statml.parallel import progress_bar

from ..._files import read_state, write_state
from ..statistics import Teacher, image_loss
from ..swing import swung


@dataclass(frozen=True)
class Request:
    """What all batches have in common; `GenieQuantizer` has the numbers as parameters of the same names.

    Parameters
    ----------
    shape : tuple of int
        Of one record.
    distill_iter : int
    lr_z, lr_g : float
        Learning rates of latents (or pixels) and of the generator.
    latent_dim : int
    generator_channels : (int, int)
    mean, std : Tensor or None
        Of real inputs; None: not known.
    limits : (float, float) or None
        Smallest and largest value of real inputs.
    """

    shape: tuple[int, ...]
    distill_iter: int = 300
    lr_z: float = 0.1
    lr_g: float = 0.01
    latent_dim: int = 256
    generator_channels: tuple[int, int] = (64, 32)
    mean: Tensor | None = field(default_factory=lambda: torch.zeros(1))
    std: Tensor | None = field(default_factory=lambda: torch.ones(1))
    limits: tuple[float, float] | None = None
    device: str = "cpu"

    def scaled(self, x: Tensor) -> Tensor:
        """Standardised images on the scale of real inputs."""
        if self.mean is not None:
            wide = (1, -1, *[1] * (x.ndim - 2))
            x = x * self.std.to(x).reshape(wide) + self.mean.to(x).reshape(wide)
        return x if self.limits is None else x.clamp(*self.limits)

    def image_loss(self, x: Tensor) -> Tensor:
        """Distance of single images to the statistics of real inputs, zero where none are known."""
        if self.mean is None or x.ndim == 2:
            return x.new_zeros(())
        return image_loss(x, self.mean.to(x), self.std.to(x))


Losses = list[tuple[Tensor, float]]  # of every iteration: at every normalisation, and of the images


class Synthesizer:
    """Base of the members.

    Attributes
    ----------
    needs_norms : bool
        Whether the network must have batch normalisations.
    uses_swing : bool
        Whether strided convolutions are shifted at random meanwhile.
    """

    needs_norms = True
    uses_swing = True

    def batch(
        self,
        teacher: Teacher,
        request: Request,
        n: int,
        generator: torch.Generator,
        on_iteration: Callable[[], object],
    ) -> tuple[Tensor, Losses]:
        """n images, and the losses of all iterations."""
        raise NotImplementedError


def descend(
    teacher: Teacher,
    request: Request,
    images: Callable[[], Tensor],
    step: Callable[[float], None],
    on_iteration: Callable[[], object],
    loss=None,
) -> Losses:
    """The loop that the members share: loss, gradients, step."""
    curve: Losses = []
    for _ in range(request.distill_iter):
        x = images()
        layers = teacher.losses(x) if loss is None else teacher.losses(x, loss)
        image = request.image_loss(x)
        total = layers.sum() + image
        total.backward()
        step(total.item())
        curve.append((layers.detach().cpu(), image.item()))
        on_iteration()
    return curve


def synthesize(
    synthesizer: Synthesizer,
    traced: fx.GraphModule,
    request: Request,
    n: int,
    batch_size: int,
    swing: int,
    seeds: np.random.SeedSequence,
    *,
    progress: bool | str = "auto",
    folder: Path | None = None,
    fingerprint: str = "",
) -> tuple[Tensor, pd.DataFrame]:
    """Images from the batch normalisations of a network.

    Parameters
    ----------
    synthesizer : Synthesizer
    traced : GraphModule
        As `tracing.trace` returns it.
    request : Request
    n : int
        Number of images, made in batches of nearly equal size, at most `batch_size`.
    batch_size : int
    swing : int
    seeds : SeedSequence
    progress : "auto", True or False, default="auto"
    folder : Path, optional
        Where finished batches are kept.
    fingerprint : str, default=""

    Returns
    -------
    images : Tensor of shape (n, ...)
    losses : DataFrame
        A row an iteration: batch, iteration, total, image, and a column for each normalisation.
    """
    n_batches = -(-n // batch_size)
    sizes = [len(part) for part in np.array_split(np.arange(n), n_batches)]
    images, tables = [], []
    n_steps = request.distill_iter if synthesizer.needs_norms else 1
    with progress_bar(n_batches * n_steps, progress, "images") as bar:
        for k, (size, seed) in enumerate(zip(sizes, seeds.spawn(n_batches), strict=True)):
            path = None if folder is None else folder / f"images_{k:03d}.pt"
            made = _kept(path, fingerprint)
            if made is None:
                generator = torch.Generator(request.device)
                generator.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
                # offsets are drawn on the CPU, where they are read
                shifts = torch.Generator().manual_seed(int(seed.generate_state(4, np.uint32)[3]))
                shift = swing if synthesizer.uses_swing else 0
                teacher = Teacher(swung(traced, shift, shifts))
                x, curve = synthesizer.batch(teacher, request, size, generator, bar.update)
                rows = [[*layers.tolist(), image] for layers, image in curve]
                made = (x.detach(), rows)
                _keep(path, fingerprint, made)
            else:
                bar.update(n_steps)
            x, rows = made
            images.append(x)
            tables.append(_table(k, rows, Teacher(traced).layers))
    return torch.cat(images), pd.concat(tables, ignore_index=True)


def _table(k: int, rows: list, layers: list[str]) -> pd.DataFrame:
    columns = [*layers, "image"]
    table = pd.DataFrame(np.array(rows).reshape(len(rows), len(columns)), columns=columns)
    table.insert(0, "total", table.sum(axis=1))
    table.insert(0, "iteration", np.arange(1, len(rows) + 1))
    table.insert(0, "batch", k)
    return table


def _kept(path: Path | None, fingerprint: str) -> tuple[Tensor, list] | None:
    if path is None or not path.exists():
        return None
    state = read_state(path)
    if state["fingerprint"] != fingerprint:
        raise ValueError(
            f"checkpoint_dir {str(path.parent)!r} holds another run: its network or parameters differ. "
            "Name another folder, or delete this one to start anew."
        )
    return state["images"], state["losses"]


def _keep(path: Path | None, fingerprint: str, made: tuple[Tensor, list]) -> None:
    if path is not None:
        write_state(path, {"fingerprint": fingerprint, "images": made[0], "losses": made[1]})
