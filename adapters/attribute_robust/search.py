r"""The inner search: for each record the attributes in the box at which the objective is largest.

With :math:`u = 2 (\alpha - low) / (high - low) - 1` every parameter has the box [-1, 1], so that an angle, a shift and a
standard deviation share one step size. For all records of a batch at once, each with attributes of its own:

1. k random starts, u uniform in the box, judged without derivatives; the best is kept (worst of k).
2. m times: a step along the derivative, and back into the box: :math:`u \leftarrow clip(u + s\, g / \max_j |g_j|)`, so that no parameter
   moves by more than `step_size`. The first three quarters of the steps are taken from wherever the record stands: a step down may lead
   over to a higher hill. The others go on from its best place, and one that did not raise the objective halves s for this record.
3. The best of all places visited is the result.

Parameters that no derivative reaches (`Chain.differentiable`) have theirs estimated by simultaneous perturbation (SPSA, Spall 1992): with signs
:math:`\Delta` drawn anew, :math:`\hat g = \Delta\, [f(u + c\Delta) - f(u - c\Delta)] / 2c`. What is random beyond the parameters is drawn once and
held. Cost: k + 2m forward-equivalents (2m more with SPSA).

References
----------
Gokhale, T. et al. (2021). Attribute-guided adversarial training for robustness to natural perturbations. AAAI.
Engstrom, L. et al. (2019). Exploring the landscape of spatial robustness. ICML. (worst of k)
Spall, J. C. (1992). Multivariate stochastic approximation using a simultaneous perturbation gradient approximation. IEEE TAC 37.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .attribute import Chain

# (x', u) -> the objective of each record; u is the scaled position, shape (n, K)
Objective = Callable[[Tensor, Tensor], Tensor]
SPSA_REACH = 0.2  # c, in half-widths of the box
EXPLORING = 0.75  # share of the steps that need not raise the objective


@dataclass
class Box:
    """Where the attributes of each record may lie: middle plus u times half, u in [-1, 1]^K.

    Parameters
    ----------
    middle, half : Tensor of shape (n, K)
    """

    middle: Tensor
    half: Tensor

    @classmethod
    def of(cls, chain: Chain, x: Tensor, clean: Tensor | None = None, scale: float = 1.0) -> Box:
        """The box of a chain for the records of x, drawn together around their clean values by `scale`."""
        low, high, at = (
            torch.as_tensor(v, dtype=x.dtype, device=x.device).expand(len(x), -1)
            for v in (chain.low, chain.high, chain.clean)
        )
        if clean is not None:
            at = clean.to(low)
        if scale < 1:
            low, high = torch.lerp(at, low, scale), torch.lerp(at, high, scale)
        return cls((low + high) / 2, (high - low) / 2)

    def value(self, u: Tensor) -> Tensor:
        """Attributes at the scaled positions u."""
        return self.middle + self.half * u

    def position(self, value: Tensor) -> Tensor:
        """Scaled positions of attributes; the middle where the box has no width."""
        return torch.where(self.half > 0, (value - self.middle) / self.half.clamp_min(1e-30), 0.0)


@dataclass
class Found:
    """What a search found, for each record.

    Attributes
    ----------
    u : Tensor of shape (n, K)
        Scaled positions.
    value : Tensor of shape (n, K)
        Attributes.
    x : Tensor of shape (n, ...)
        The records so changed.
    objective, start : Tensor of shape (n,)
        At the result, and at the first start.
    noise : list
        What was held during the search.
    """

    u: Tensor
    value: Tensor
    x: Tensor
    objective: Tensor
    start: Tensor
    noise: list[Any]


def search(
    objective: Objective,
    chain: Chain,
    x: Tensor,
    box: Box,
    *,
    n_starts: int = 1,
    n_steps: int = 5,
    step_size: float = 0.4,
    n_climbs: int = 1,
    generator: torch.Generator | None = None,
) -> Found:
    """Look for the attributes of each record at which its objective is largest.

    Parameters
    ----------
    objective : callable (x', u) -> Tensor of shape (n,)
        Of a network in evaluation mode, see `frozen`.
    chain : Chain
        Of attributes that keep what they declare, see `Chain.check_derivatives`.
    x : Tensor of shape (n, ...)
    box : Box
    n_starts : int, default=1
        k.
    n_steps : int, default=5
        m.
    step_size : float, default=0.4
        How far a step moves the parameter of the largest derivative, in half-widths of the box.
    n_climbs : int, default=1
        From how many of the starts, the best first, to climb: a loss in attributes has several hills.
    generator : torch.Generator or None, default=None
        On the CPU; starts are nested in k.

    Returns
    -------
    Found

    Examples
    --------
    >>> import torch
    >>> from statml.adapters.attribute_robust import Chain, Custom
    >>> shift = Chain([Custom(lambda x, a: x + a, -1, 1)])
    >>> x = torch.zeros(3, 1)
    >>> draws = torch.Generator().manual_seed(0)
    >>> found = search(
    ...     lambda x, u: -((x[:, 0] - 0.5) ** 2), shift, x, Box.of(shift, x), n_steps=40, generator=draws
    ... )
    >>> bool((found.value - 0.5).abs().max() < 0.02)
    True
    """
    noise = chain.draw_noise(x, generator)
    smooth = torch.as_tensor(chain.differentiable, device=x.device)

    def judge(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        changed = chain.apply(x, box.value(u), noise)
        return u, changed, objective(changed, u)

    def draw() -> Tensor:
        drawn = torch.rand(len(x), chain.n_parameters, generator=generator, dtype=x.dtype)
        return (2 * drawn - 1).to(x.device)

    if n_starts == 1 and n_steps:  # its first step judges it
        best, start = _ascend(judge, draw, draw(), smooth, n_steps, step_size)
        return _found(best, start, box, noise)
    with torch.no_grad():
        starts = [judge(draw()) for _ in range(n_starts)]
    best, start = starts[0], starts[0][2]
    for here in starts[1:]:
        best = _better(here, best)
    if n_steps:
        order = torch.stack([f for _, _, f in starts]).argsort(0, descending=True)
        places, rows = torch.stack([u for u, _, _ in starts]), torch.arange(len(x))
        for which in order[:n_climbs]:
            top, _ = _ascend(judge, draw, places[which, rows], smooth, n_steps, step_size)
            best = _better(top, best)
    return _found(best, start, box, noise)


def _ascend(
    judge: Callable, draw: Callable, u: Tensor, smooth: Tensor, n_steps: int, step_size: float
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The best place (u, x', f) on the way up from u, and the objective at u."""
    best = start = None
    step = torch.full_like(u[:, :1], step_size)
    direction = torch.zeros_like(u)
    for turn in range(n_steps):
        here, gradient = _climb(judge, u, smooth)
        if best is None:
            best, start = here, here[2]
            rose = torch.ones_like(start, dtype=torch.bool)
        else:
            rose = here[2] >= best[2]
            best = _better(here, best)
        if not smooth.all():
            with torch.no_grad():
                sign = torch.where(draw() < 0, -1.0, 1.0).to(u) * ~smooth
                ends = [judge((u + side * SPSA_REACH * sign).clamp(-1, 1)) for side in (1, -1)]
            rise = (ends[0][2] - ends[1][2]) / (2 * SPSA_REACH)
            # less than sign where the box ends
            gradient = gradient + rise[:, None] * (ends[0][0] - ends[1][0]) / (2 * SPSA_REACH)
            for end in ends:
                best = _better(end, best)
        # a parameter at the end of its box, pushed outwards, takes no share of the step
        gradient = torch.where(u * gradient.sign() >= 1, 0.0, gradient)
        size = gradient.abs().amax(1, keepdim=True)
        new = gradient / torch.where(size > 0, size, 1.0)
        direction = torch.where(rose[:, None], new, direction)
        if turn < EXPLORING * n_steps:
            u = (here[0] + step * new).clamp(-1, 1)
        else:
            step = torch.where(rose[:, None], step, step / 2)
            u = (best[0] + step * direction).clamp(-1, 1)
    with torch.no_grad():
        return _better(judge(u), best), start


def _found(best: tuple[Tensor, ...], start: Tensor, box: Box, noise: list[Any]) -> Found:
    u, changed, f = best
    return Found(u, box.value(u), changed, f, start, noise)


def _climb(judge: Callable, u: Tensor, smooth: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """The place (u, x', f) and the derivative of f in u; nothing of it reaches the weights of the network."""
    if not smooth.any():
        with torch.no_grad():
            return judge(u), torch.zeros_like(u)
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        _, changed, f = judge(u)
        (gradient,) = torch.autograd.grad(f.sum(), u)
    return (u.detach(), changed.detach(), f.detach()), torch.nan_to_num(gradient) * smooth


def _better(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of two places (u, x', f) the one with the larger f, record by record."""
    larger = one[-1] > other[-1]
    return tuple(
        torch.where(larger.view(-1, *[1] * (a.ndim - 1)), a, b)
        for a, b in zip(one, other, strict=True)
    )


def grid_search(
    objective: Objective,
    chain: Chain,
    x: Tensor,
    box: Box,
    *,
    n_points: int = 101,
    generator: torch.Generator | None = None,
) -> tuple[Found, Tensor]:
    """Judge every record at every point of a grid over the box, for chains of one or two parameters.

    Parameters
    ----------
    objective, chain, x, box, generator
        As in `search`.
    n_points : int, default=101
        A side, the ends of the box among them.

    Returns
    -------
    Found
        ``start`` is the objective at the first corner.
    gap : Tensor of shape (n,)
        Largest difference between neighbours on the grid: what the maximum may rise by between points is of this size at most, as far
        as the objective does not turn twice between two of them.
    """
    if chain.n_parameters not in (1, 2):
        raise ValueError(
            f"a grid takes chains of one or two parameters, got {chain.n_parameters}: {', '.join(chain.names)}"
        )
    noise = chain.draw_noise(x, generator)
    axis = torch.linspace(-1, 1, n_points, dtype=x.dtype).tolist()
    best, rows = None, []
    with torch.no_grad():
        for point in itertools.product(*[axis] * chain.n_parameters):
            u = torch.tensor(point, dtype=x.dtype, device=x.device).expand(len(x), -1)
            changed = chain.apply(x, box.value(u), noise)
            here = (u, changed, objective(changed, u))
            best = here if best is None else _better(here, best)
            rows.append(here[2])
    surface = torch.stack(rows, 1).unflatten(1, (n_points,) * chain.n_parameters)
    gap = torch.stack(
        [surface.diff(dim=d).abs().flatten(1).amax(1) for d in range(1, surface.ndim)]
    ).amax(0)
    u, changed, f = best
    return Found(u, box.value(u), changed, f, rows[0], noise), gap


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and every part afterwards as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
