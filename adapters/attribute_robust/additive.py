r"""Additive shifts of tables, for which the inner maximum of a linear model is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .attribute import Attribute


class AdditiveShift(Attribute):
    r"""x' = x + b d: all records move along a direction, by a b in the box.

    Parameters
    ----------
    direction : array-like of shape (n_columns,)
        d, in the units of the columns.
    low : float
        Without `high`, b is between -low and low.
    high : float, optional
    name : str, default="shift"

    Examples
    --------
    >>> import torch
    >>> from statml.adapters.attribute_robust import AdditiveShift
    >>> AdditiveShift([1.0, 0.5], 2).apply(torch.zeros(1, 2), torch.tensor([[2.0]]))
    tensor([[2., 1.]])
    """

    kind, units, clean = "tables", ("directions",), (0.0,)

    def __init__(
        self,
        direction: ArrayLike,
        low: float,
        high: float | None = None,
        name: str = "shift",
    ):
        self.names = (name,)
        self.direction = np.asarray(direction, dtype=float)
        if self.direction.ndim != 1 or not np.isfinite(self.direction).all():
            raise ValueError(
                f"direction must be finite numbers of shape (n_columns,), got {direction!r}"
            )
        super().__init__(low, high)

    def __repr__(self) -> str:
        return f"AdditiveShift({self.direction.tolist()}, {self.low[0]}, {self.high[0]}, name={self.names[0]!r})"

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        if shape[1] != len(self.direction):
            raise ValueError(
                f"direction has {len(self.direction)} columns, X has shape {tuple(shape)}"
            )

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return x + value * torch.as_tensor(self.direction, dtype=x.dtype, device=x.device)
