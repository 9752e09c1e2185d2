"""What a run over the graph knows: units and what was joined, tensors with ids, the slices of parameters that belong to units.

`channel_ids` runs the graph, `channel_rules` and `channel_products` say what each operation does to these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

FIXED = 0  # the id of what cannot be removed: entries of the input, padding


@dataclass
class Tracked:
    """A tensor in the graph and what is known of its entries; all tensors have the same shape.

    Attributes
    ----------
    value : Tensor
    ids : Tensor of int64, or None
        Units; None for what does not come from the input (parameters, constants).
    depends : Tensor of bool
        Whether the entry can change with the input.
    entries : Tensor of int64, or None
        For a parameter, the number of each entry among those of all parameters.
    """

    value: Tensor
    ids: Tensor | None
    depends: Tensor
    entries: Tensor | None = None

    @property
    def moves(self) -> Tensor:
        """Whether the entry can make a difference: it is not a constant zero."""
        return self.depends | (self.value != 0)


@dataclass
class Site:
    """A place where a weight reads units: a convolution, linear layer or product with a matrix.

    Attributes
    ----------
    node : str
    x, weight : Tracked
    bias : Tracked or None
    axis : int
        Of the channels in the input, and (`out_axis`) in the output.
    in_axis : int
        Of the input channels in the weight.
    in_ids : ndarray of shape (n_inputs / n_groups,)
    out_ids : ndarray of shape (n_outputs,)
    n_groups : int
    apply : function of (input, weight)
        The operation without its bias.
    """

    node: str
    x: Tracked
    weight: Tracked
    bias: Tracked | None
    axis: int
    out_axis: int
    in_axis: int
    in_ids: np.ndarray
    out_ids: np.ndarray
    n_groups: int
    apply: Callable[[Tensor, Tensor], Tensor]


class Units:
    """Union-find over unit ids; `FIXED` is no unit, and what is joined to it is kept."""

    def __init__(self):
        self.parent = np.zeros(1, dtype=np.int64)
        self.reasons: dict[int, str] = {}

    def new(self, n: int) -> Tensor:
        """Ids of n new units."""
        start = len(self.parent)
        self.parent = np.concatenate([self.parent, np.arange(start, start + n)])
        return torch.arange(start, start + n)

    def roots(self, ids: Tensor | np.ndarray) -> np.ndarray:
        """The representative of each id."""
        found = self.parent[np.asarray(ids)]
        while True:
            above = self.parent[found]
            if np.array_equal(above, found):
                return found
            found = above

    def _root(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = i = self.parent[self.parent[i]]
        return i

    def join(self, a: Tensor | np.ndarray, b: Tensor | np.ndarray, why: str) -> None:
        """Join ids pairwise; where one is `FIXED`, keep the other for the reason given."""
        pairs = np.stack(np.broadcast_arrays(self.roots(a), self.roots(b))).reshape(2, -1)
        pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
        for i, j in pairs.T.tolist():
            if FIXED in (i, j):
                self.keep(np.array([i, j]), why)
            else:
                i, j = sorted((self._root(i), self._root(j)))
                self.parent[j] = i

    def keep(self, ids: Tensor | np.ndarray, why: str) -> None:
        """Never remove these units."""
        for i in np.unique(self.roots(ids)).tolist():
            if i != FIXED:
                self.reasons.setdefault(i, why)

    def kept(self) -> dict[int, str]:
        """Representatives of the units that are never removed, with the reason."""
        found: dict[int, str] = {}
        for i, why in self.reasons.items():
            found.setdefault(self._root(i), why)
        return found


@dataclass
class Parameters:
    """Numbers the entries of all parameters and buffers, and notes which index of which dimension belongs to which unit.

    Attributes
    ----------
    shapes : dict of name to shape
    slots : dict of (name, dimension) to ndarray of ids
        -1 where nothing was attached.
    readers : set of (name, dimension)
        Those that read units rather than make them.
    opaque : dict of name to reason
        Parameters used in a way that no rule follows: nothing of them is removed.
    """

    units: Units
    shapes: dict[str, torch.Size]
    slots: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    readers: set[tuple[str, int]] = field(default_factory=set)
    opaque: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        sizes = [max(shape.numel(), 1) for shape in self.shapes.values()]
        self.names = list(self.shapes)
        self.starts = np.concatenate([[0], np.cumsum(sizes)])

    def entries(self, name: str) -> Tensor:
        """The numbers of a parameter's entries."""
        start = int(self.starts[self.names.index(name)])
        return torch.arange(start, start + self.shapes[name].numel()).reshape(self.shapes[name])

    def owners(self, entries: Tensor) -> list[str]:
        """The parameters that entries come from."""
        number = np.searchsorted(self.starts, entries.numpy().ravel(), side="right") - 1
        return [self.names[k] for k in np.unique(number)]

    def is_whole(self, entries: Tensor | None) -> str | None:
        """The parameter that these entries are, in its own shape, or None."""
        if entries is None or entries.numel() == 0:
            return None
        owners = self.owners(entries)
        whole = len(owners) == 1 and torch.equal(self.entries(owners[0]), entries)
        return owners[0] if whole else None

    def keep(self, entries: Tensor, why: str) -> None:
        """Remove nothing of the parameters that these entries come from."""
        for name in self.owners(entries):
            self.opaque.setdefault(name, why)

    def attach(self, entries: Tensor, axis: int, ids: Tensor | np.ndarray, reads: bool) -> None:
        """Note that index j along `axis` of a tensor of entries belongs to unit ids[j]."""
        ids = np.asarray(ids)
        rows = entries.movedim(axis, 0).reshape(len(ids), -1).numpy()
        number = np.searchsorted(self.starts, rows, side="right") - 1
        for k in np.unique(number[:, 0]).tolist():
            name, mine = self.names[k], number[:, 0] == k
            places = np.unravel_index(rows[mine] - self.starts[k], self.shapes[name])
            dim = axis if self.is_whole(entries) else self._dimension(places)
            if dim is None or (number[mine] != k).any():
                self.units.keep(ids, f"{name} is rearranged before it is used")
                continue
            slot = self.slots.setdefault(
                (name, dim), np.full(self.shapes[name][dim], -1, dtype=np.int64)
            )
            place = places[dim][:, 0]
            known = slot[place] >= 0
            self.units.join(slot[place][known], ids[mine][known], f"{name} is used twice")
            slot[place] = np.where(known, slot[place], ids[mine])
            if reads:
                self.readers.add((name, dim))

    @staticmethod
    def _dimension(places: tuple[np.ndarray, ...]) -> int | None:
        """The dimension along which the rows of a matrix of coordinates lie."""
        for dim, place in enumerate(places):
            if (place == place[:, :1]).all() and len(np.unique(place[:, 0])) == len(place) > 1:
                return dim
        return None


def varies(ids: np.ndarray) -> list[int]:
    """The dimensions along which ids differ."""
    return [d for d in range(ids.ndim) if ids.shape[d] > 1 and (ids != ids.take([0], axis=d)).any()]
