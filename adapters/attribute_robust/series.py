r"""Attributes of time series and of tables: amplitude, drift and clock; units and gaps.

Time series have shape (n, channels, length), and t runs from 0 to 1 over one. Tables have shape (n, columns).

=============== =============================================================== =========== =================
attribute       x'                                                              clean value differentiable
=============== =============================================================== =========== =================
`Amplitude`     a x                                                             1           yes
`Drift`         x + a (2 t - 1)                                                 0           yes
`TimeShift`     x(t - a)                                                        0           yes
`TimeScale`     x(1/2 + (t - 1/2) / a)                                          1           yes
`TimeWarp`      x(t + a sin(2 pi t) / (2 pi))                                   0           yes
`UnitShift`     one column of a table: a x_j + b                                1, 0        yes
`Missingness`   values replaced by `fill` with probability a                    0           no
=============== =============================================================== =========== =================

Series are interpolated linearly between their points, and keep their first and last values beyond their ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from statml._validation import check_integer, check_number

from .attribute import Attribute


def sample_series(x: Tensor, times: Tensor) -> Tensor:
    """Series at other times, by linear interpolation.

    Parameters
    ----------
    x : Tensor of shape (n, channels, length)
    times : Tensor of shape (n, m)
        Where to look, in steps: 0 is the first point, length - 1 the last. Places beyond the ends have their values.

    Returns
    -------
    Tensor of shape (n, channels, m)
        Differentiable in both. At whole steps it is x bit for bit.
    """
    last = x.shape[-1] - 1
    times = times.clamp(0, last)
    before = times.detach().floor().clamp(max=max(last - 1, 0)).long()
    share = (times - before)[:, None]
    left, right = (
        x.gather(2, place.clamp(max=last)[:, None].expand(-1, x.shape[1], -1))
        for place in (before, before + 1)
    )
    # between equal weights 1 and 0 nothing is rounded
    return left * (1 - share) + right * share


class Amplitude(Attribute):
    """The whole series, or the whole row of a table, multiplied.

    Parameters
    ----------
    low : float
        Factor of at least 0.01; without `high`, the box is from 1 - low to 1 + low.
    high : float, optional

    Examples
    --------
    >>> import torch
    >>> from statml.adapters.attribute_robust import Amplitude
    >>> Amplitude(0.5, 2).apply(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[2.0]])).tolist()
    [[[2.0, 6.0]]]
    """

    names, units, clean = ("amplitude",), ("factor",), (1.0,)
    limits = (0.01, 100.0)

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return x * value.reshape(-1, *[1] * (x.ndim - 1))


class Drift(Attribute):
    """A straight line added, from -a at the first point to a at the last.

    Parameters
    ----------
    low : float
        In the units of x; without `high`, the box is from -low to low.
    high : float, optional
    """

    kind = "series"
    names, units, clean = ("drift",), ("those of x",), (0.0,)

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        line = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype, device=x.device)
        return x + value[:, :, None] * line


class TimeShift(Attribute):
    """The series later by a share of its length.

    Parameters
    ----------
    low : float
        Share of the length; without `high`, the box is from -low to low.
    high : float, optional
    """

    kind = "series"
    names, units, clean = ("time_shift",), ("lengths",), (0.0,)
    limits = (-1.0, 1.0)

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return sample_series(x, _steps(x) - value * x.shape[-1])


class TimeScale(Attribute):
    """The series stretched about its middle; above 1 everything takes longer.

    Parameters
    ----------
    low : float
        Factor of at least 0.01; without `high`, the box is from 1 - low to 1 + low.
    high : float, optional
    """

    kind = "series"
    names, units, clean = ("time_scale",), ("factor",), (1.0,)
    limits = (0.01, 100.0)

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        steps = _steps(x)
        from_middle = steps - (x.shape[-1] - 1) / 2
        return sample_series(x, steps + from_middle * (1 / value - 1))


class TimeWarp(Attribute):
    """The clock faster at the ends of the series and slower in its middle (a > 0), or the reverse; the ends stay.

    Parameters
    ----------
    low : float
        Within [-0.99, 0.99], where time never runs backwards: the speed is 1 + a cos(2 pi t). Without `high`, the box is from -low to low.
    high : float, optional
    """

    kind = "series"
    names, units, clean = ("time_warp",), ("change of speed",), (0.0,)
    limits = (-0.99, 0.99)

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        steps, last = _steps(x), x.shape[-1] - 1
        turn = 2 * math.pi * steps / max(last, 1)
        return sample_series(x, steps + value * torch.sin(turn) * last / (2 * math.pi))


class UnitShift(Attribute):
    """One column of a table in another unit or off its zero: a x_j + b.

    Parameters
    ----------
    column : int
        Which column, from 0.
    scale : tuple (low, high) of float, default=(1.0, 1.0)
        Box of a.
    offset : tuple (low, high) of float, default=(0.0, 0.0)
        Box of b.
    """

    units, clean, kind = ("factor", "those of x"), (1.0, 0.0), "tables"

    def __init__(
        self,
        column: int,
        scale: tuple[float, float] = (1.0, 1.0),
        offset: tuple[float, float] = (0.0, 0.0),
    ):
        self.column = check_integer("column", column, 0)
        self.names = (f"scale_{column}", f"offset_{column}")
        super().__init__((scale[0], offset[0]), (scale[1], offset[1]))

    def __repr__(self) -> str:
        boxes = list(zip(self.low.tolist(), self.high.tolist(), strict=True))
        return f"UnitShift({self.column}, scale={boxes[0]}, offset={boxes[1]})"

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        if self.column >= shape[1]:
            raise ValueError(
                f"UnitShift changes column {self.column}, got X of shape {tuple(shape)}"
            )

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        here = torch.arange(x.shape[1], device=x.device) == self.column
        return torch.where(here, x * value[:, :1] + value[:, 1:], x)


class Missingness(Attribute):
    """Values missing at random, replaced by a constant; no derivative.

    Parameters
    ----------
    low : float
        Probability that a value is missing; without `high`, the box is from 0 to low.
    high : float, optional
    fill : float, default=0.0
        What stands for a missing value; 0 is the mean of standardised columns.
    columns : sequence of int or None, default=None
        Those that may be missing; None means all. Of a time series, the channels.
    """

    names, units, clean = ("missingness",), ("probability",), (0.0,)
    limits, differentiable = (0.0, 1.0), False

    def __init__(
        self,
        low: float,
        high: float | None = None,
        fill: float = 0.0,
        columns: Sequence[int] | None = None,
    ):
        super().__init__(low, high)
        self.fill = check_number("fill", fill)
        self.columns = columns
        for c in columns or ():
            check_integer("each of columns", c, 0)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, fill={self.fill}, columns={self.columns})"

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        if self.columns and max(self.columns) >= shape[1]:
            raise ValueError(
                f"Missingness changes column {max(self.columns)}, got X of shape {tuple(shape)}"
            )

    def draw_noise(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Uniform numbers of the shape of x: a value is missing where its number is below the probability."""
        return torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device)

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        missing = noise < value.reshape(-1, *[1] * (x.ndim - 1))
        if self.columns is not None:
            may = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
            may[list(self.columns)] = True
            missing = missing & may.view(1, -1, *[1] * (x.ndim - 2))
        return torch.where(missing, self.fill, x)


def _steps(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
