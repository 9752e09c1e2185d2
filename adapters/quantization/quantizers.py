r"""Grids of weights and activations, and what is learnt of them.

Weights lie on an asymmetric grid an output channel, :math:`\hat w = s\,(\mathrm{clip}(B + h(V) + z, 0, 2^n - 1) - z)`, with

- :math:`B = \lfloor W / s_0 \rfloor`, computed once with the initial step :math:`s_0` and held from then on, so that the step s can be learnt without
  giving V another meaning: :math:`\partial \hat w / \partial s` is the integer code itself;
- :math:`h(V) = \mathrm{clip}(\sigma(V)(\zeta - \gamma) + \gamma, 0, 1)`, :math:`\zeta = 1.1, \gamma = -0.1`, which decides whether to round
  down (0) or up (1). At the start :math:`h(V) = W / s_0 - B`: soft weights equal W, hard ones (:math:`V \ge 0`) are those of round-to-nearest.

Activations lie on one grid a tensor, :math:`\hat x = s\,\mathrm{clip}(\lfloor x / s \rceil, Q_n, Q_p)`, with the straight-through
gradient of LSQ (without its factor :math:`1/\sqrt{N Q_p}`).

References
----------
Jeon, Y., Lee, C. and Kim, H. (2023). Genie: show me the data for quantization. CVPR.

Nagel, M., Amjad, R. A., van Baalen, M., Louizos, C. and Blankevoort, T. (2020). Up or down? Adaptive rounding for post-training
quantization. ICML.

Esser, S. K., McKinstry, J. L., Bablani, D., Appuswamy, R. and Modha, D. S. (2020). Learned step size quantization. ICLR.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from statml._validation import check_integer, check_number

ZETA, GAMMA = 1.1, -0.1
RATIOS = [r / 100 for r in range(100, 0, -1)]  # shares of the range at which clipping is tried
SEARCHED = 60_000  # values of a tensor, or of a channel, on which they are tried,
LARGEST = 6_000  # and how many of them are the largest ones


def search_step(
    x: Tensor,
    n_bits: int,
    p: float = 2.4,
    *,
    per_channel: bool = False,
    symmetric: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""The grid on which rounding changes a tensor least, searched over shares of its range.

    For r = 1.00, 0.99, ..., 0.01 the range is clipped to r times itself, :math:`s = \mathrm{range} / (2^n - 1)`; the s of least mean
    :math:`|x - \hat x|^p` is taken. Zero is always a point of the grid. The range is that of all values. Of more than 60,000 the mean is
    estimated from as many: the 6,000 largest, on which the error of clipping hangs, and others at random, the same in every call.

    Parameters
    ----------
    x : Tensor
        Weights (output channels first) or activations.
    n_bits : int
        2 to 8.
    p : float, default=2.4
    per_channel : bool, default=False
        One grid for every x[c] instead of one for all of x.
    symmetric : bool, default=False
        Without a free zero-point: the range is from -max|x| to max|x| (zero-point 2^(n_bits - 1)) where x holds negative values, from 0
        to max x where it holds none. Otherwise from min x to max x.

    Returns
    -------
    step : Tensor of float, shape () or (n_channels,)
        Positive; 1 where x is zero throughout.
    zero_point : Tensor of float, same shape
        A whole number in {0, ..., 2^n_bits - 1}: the code of zero.

    Raises
    ------
    ValueError
        If `n_bits` or `p` is not taken, or x is empty or not finite.

    Examples
    --------
    >>> import torch
    >>> step, zero_point = search_step(torch.tensor([0.0, 0.1, 0.5, 1.0, 1.5]), n_bits=2)
    >>> round(step.item(), 3), int(zero_point)
    (0.5, 0)
    """
    p = check_number("p", p, 0, low_open=True)
    rows, low, high, top = _ranges(x, n_bits, per_channel, symmetric)
    rows, weights = _sampled(rows)
    best_step, best_zero = _step(low, high, top)
    best = torch.full_like(best_step, torch.inf)
    for ratio in RATIOS:
        step, zero = _step(low * ratio, high * ratio, top, symmetric)
        codes = (torch.round(rows / step[:, None]) + zero[:, None]).clamp_(0, top)
        error = (rows - step[:, None] * (codes - zero[:, None])).abs_().pow_(p)
        error = error.mul_(weights).mean(1)
        better = error < best
        best = torch.where(better, error, best)
        best_step = torch.where(better, step, best_step)
        best_zero = torch.where(better, zero, best_zero)
    return (best_step, best_zero) if per_channel else (best_step[0], best_zero[0])


def range_step(
    x: Tensor,
    n_bits: int,
    percentile: float = 100.0,
    *,
    per_channel: bool = False,
    symmetric: bool = False,
) -> tuple[Tensor, Tensor]:
    """The grid that covers the range of a tensor, or the range between two percentiles of it.

    Parameters
    ----------
    x, n_bits, per_channel, symmetric
        As in `search_step`.
    percentile : float, default=100.0
        Above 50 and up to 100: from the (100 - percentile)-th to this percentile; 100 is the whole range.

    Returns
    -------
    step, zero_point : Tensor
        As in `search_step`.
    """
    percentile = check_number("percentile", percentile, 50, 100, low_open=True)
    rows, low, high, top = _ranges(x, n_bits, per_channel, symmetric)
    if percentile < 100:
        signed = bool((rows < 0).any())
        if symmetric:
            high = _percentile(rows.abs(), percentile)
            low = -high if signed else torch.zeros_like(high)
        else:
            low = _percentile(rows, 100 - percentile).clamp(max=0)
            high = _percentile(rows, percentile).clamp(min=0)
    step, zero = _step(low, high, top, symmetric)
    return (step, zero) if per_channel else (step[0], zero[0])


def _ranges(x: Tensor, n_bits: int, per_channel: bool, symmetric: bool):
    """x as a matrix with a row a grid, the lowest and highest value of each row, and the highest code."""
    top = 2 ** check_integer("n_bits", n_bits, 2, 8) - 1
    if not x.numel() or not torch.isfinite(x).all():
        raise ValueError(
            f"x must hold finite numbers, at least one, got a tensor of shape {tuple(x.shape)}"
        )
    rows = x.detach().reshape(len(x) if per_channel else 1, -1)
    low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        # one sign for all rows: a layer's channels share the meaning of their zero-point
        low = -high if bool((low < 0).any()) else torch.zeros_like(high)
    return rows, low, high, top


def _sampled(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Columns that stand for all, and what each weighs: 1 for the largest, for others the number that it stands for."""
    n = rows.shape[1]
    if n <= SEARCHED:
        return rows, rows.new_ones(1, 1)
    sizes, places = rows.abs().topk(LARGEST, 1)
    least = sizes[:, -1:]
    # of values that tie with the least of the largest some were left out: all of them count as others
    large = sizes > least
    drawn = torch.randint(n, (SEARCHED - LARGEST,), generator=torch.Generator().manual_seed(0))
    others = rows[:, drawn.to(rows.device)]
    small = others.abs() <= least
    share = (n - large.sum(1, keepdim=True)) / small.sum(1, keepdim=True).clamp(min=1)
    return (
        torch.cat([rows.gather(1, places), others], 1),
        torch.cat([large.to(rows), small * share.to(rows)], 1),
    )


def _step(low: Tensor, high: Tensor, top: int, symmetric: bool = False) -> tuple[Tensor, Tensor]:
    step = (high - low) / top
    step = torch.where(step > torch.finfo(step.dtype).tiny * top, step, torch.ones_like(step))
    if symmetric:
        zero = torch.where(low < 0, torch.full_like(step, (top + 1) // 2), torch.zeros_like(step))
    else:
        zero = torch.round(-low / step).clamp(0, top)
    return step, zero


def _percentile(rows: Tensor, percentile: float) -> Tensor:
    """Of each row; by sorting, since torch.quantile refuses large tensors."""
    place = percentile / 100 * (rows.shape[1] - 1)
    below = int(place)
    ordered = rows.sort(1).values
    above = min(below + 1, rows.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], place - below)


# --- weights ------------------------------------------------------------------------------------------


def rectified_sigmoid(V: Tensor) -> Tensor:
    """h(V): 0 rounds down, 1 rounds up."""
    return (torch.sigmoid(V) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse_rectified_sigmoid(h: Tensor) -> Tensor:
    """V with h(V) = h, for h in [0, 1]."""
    return -torch.log((ZETA - GAMMA) / (h - GAMMA) - 1)


class WeightQuantizer(nn.Module):
    """The quantised weights of a layer, with their roundings and steps to be learnt.

    Parameters
    ----------
    weight : Tensor, output channels first
        The trained weights.
    n_bits : int
        2 to 8.
    step : Tensor of shape (n_out,)
    zero_point : Tensor of shape (n_out,)
        Codes of zero, whole numbers.
    low, high : int, optional
        Codes that are taken, by default all: 0 and 2^n_bits - 1.

    Attributes
    ----------
    base : Tensor
        B, floor(W / s) at the initial step.
    V : Parameter
        Roundings to be; a weight is rounded up where V >= 0.
    step : Parameter of shape (n_out, 1, ...)
    hard : bool
        Whether the roundings are decided.
    nearest : Tensor of uint8
        Codes of round-to-nearest at the initial step.
    clipped : float
        Share of the weights that lie outside the grid at the initial step.
    n_bits : int

    Examples
    --------
    >>> import torch
    >>> weight = torch.tensor([[0.26, -0.5, 0.9]])
    >>> quantizer = WeightQuantizer(weight, 3, *search_step(weight, 3, per_channel=True))
    >>> quantizer.hard = True
    >>> quantizer.codes()
    tensor([[3., 0., 7.]])
    """

    base: Tensor
    zero_point: Tensor

    def __init__(
        self,
        weight: Tensor,
        n_bits: int,
        step: Tensor,
        zero_point: Tensor,
        low: int = 0,
        high: int | None = None,
    ):
        super().__init__()
        self.n_bits = check_integer("n_bits", n_bits, 2, 8)
        self.low, self.high = low, 2**n_bits - 1 if high is None else high
        wide = (-1, *[1] * (weight.ndim - 1))
        weight, step = weight.detach(), step.detach().reshape(wide).to(weight)
        self.step = nn.Parameter(step.clone())
        self.register_buffer("zero_point", zero_point.detach().reshape(wide).to(weight).clone())
        base = torch.floor(weight / step)
        self.register_buffer("base", base)
        self.V = nn.Parameter(inverse_rectified_sigmoid(weight / step - base))
        with torch.no_grad():
            raw = base + (self.V >= 0) + self.zero_point
        self.clipped = ((raw < low) | (raw > self.high)).double().mean().item()
        self.nearest = raw.clamp(low, self.high).to(torch.uint8)
        self.hard = False

    def codes(self) -> Tensor:
        """Codes, whole numbers once the roundings are decided."""
        up = (self.V >= 0).to(self.base) if self.hard else rectified_sigmoid(self.V)
        return (self.base + up + self.zero_point).clamp(self.low, self.high)

    def forward(self) -> Tensor:
        """The quantised weights."""
        return self.step * (self.codes() - self.zero_point)

    def undecided(self) -> float:
        """Share of the roundings that are neither up nor down: h in (0.01, 0.99)."""
        h = rectified_sigmoid(self.V.detach())
        return ((h > 0.01) & (h < 0.99)).double().mean().item()

    @torch.no_grad()
    def set_codes(self, codes: Tensor) -> None:
        """Take decided codes."""
        self.base.copy_(codes - self.zero_point)
        self.V.fill_(-torch.inf)
        self.hard = True


# --- activations --------------------------------------------------------------------------------------


def fake_quantize(x: Tensor, step: Tensor, zero_point: float, top: int) -> Tensor:
    """A tensor on its grid, with LSQ's gradients for x and the step."""
    u = x / step
    rounded = u + (torch.round(u) - u).detach()
    return step * rounded.clamp(-zero_point, top - zero_point)


class LSQActivation(nn.Module):
    """The grid of a tensor, whose step can be learnt.

    Before it is given a grid it hands its input on.

    Parameters
    ----------
    n_bits : int
        2 to 8.

    Attributes
    ----------
    step : Parameter, a number
    zero_point : Tensor, a number
        0 for a tensor without sign, 2^(n_bits - 1) for one with sign.
    ready : bool
        Whether it has a grid.
    drop_prob : float
        Share of the values that pass as they are, drawn anew at every call (QDrop); 0 but for the time of a reconstruction.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([0.0, 0.3, 1.0, 2.0])
    >>> grid = LSQActivation(n_bits=2)
    >>> grid.set_grid(torch.tensor(0.5), torch.tensor(0.0))
    >>> grid(x).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """

    zero_point: Tensor

    def __init__(self, n_bits: int):
        super().__init__()
        self.n_bits = check_integer("n_bits", n_bits, 2, 8)
        self.step = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(0.0))
        self.ready, self.active, self.drop_prob = False, True, 0.0
        self.generator: torch.Generator | None = None

    @torch.no_grad()
    def set_grid(self, step: Tensor, zero_point: Tensor) -> None:
        """Take a grid."""
        self.step.copy_(step)
        self.zero_point.copy_(zero_point)
        self.ready = True

    def forward(self, x: Tensor) -> Tensor:
        """Values on the grid."""
        if not (self.ready and self.active):
            return x
        y = fake_quantize(x, self.step, self.zero_point.item(), 2**self.n_bits - 1)
        if self.drop_prob:
            draws = torch.rand(x.shape, generator=self.generator, device=x.device)
            y = torch.where(draws < self.drop_prob, x, y)
        return y


class QuantizedLayer(nn.Module):
    """A convolution or linear layer that computes with quantised weights.

    Parameters
    ----------
    layer : torch.nn.Conv1d, Conv2d, Conv3d or Linear
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
        self.quantizer: WeightQuantizer | None = None
        self._frozen: Tensor | None = None

    def freeze(self) -> None:
        """Compute the quantised weights once and for all."""
        self._frozen = None if self.quantizer is None else self.quantizer().detach()

    def thaw(self) -> None:
        """Compute them at every call."""
        self._frozen = None

    def weight(self) -> Tensor:
        """The weights that are computed with: quantised where there is a quantizer."""
        if self.quantizer is None:
            return self.layer.weight
        return self.quantizer() if self._frozen is None else self._frozen

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output with quantised weights."""
        weight = self.weight()
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(x, weight, self.layer.bias)
        return self.layer._conv_forward(x, weight, self.layer.bias)
