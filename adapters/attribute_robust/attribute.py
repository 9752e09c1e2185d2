r"""Attributes: what may change about a record while its class stays, as a few numbers in a box.

An `Attribute` renders :math:`x' = G(x, \alpha)` for a batch of records, each with its own numbers :math:`\alpha`. The robust training,
the attack and the report see nothing of it but this protocol:

===================  ==================================================================================================
``names``            of its k parameters, e.g. ``("right", "down")``
``units``            of them, e.g. ``("widths", "heights")``
``clean``            the values at which records stay as they are
``low``, ``high``    the box, ndarrays of shape (k,)
``differentiable``   whether x' has useful derivatives in the parameters; if not, it is searched without gradients
``kind``             "images" (n, channels, height, width), "series" (n, channels, length), "tables" (n, columns) or "any"
``apply``            ``(x, value of shape (n, k), noise) -> x'``, all tensors, every record with its own row of `value`
``draw_noise``       ``(x, generator) -> Tensor or None``: what is random beyond the parameters, drawn once a record and
                     held through a search, so that a search climbs a fixed function
===================  ==================================================================================================

A new one subclasses `Attribute`, declares the class variables and writes `apply`; `Custom` makes one of a function. `Chain` composes
attributes in the order in which they are named. Neighbours with the same ``together`` are applied in one call (affine maps multiply, so that
an image is resampled once).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHAPES = {
    "images": (4, "(n, channels, height, width)"),
    "series": (3, "(n, channels, length)"),
    "tables": (2, "(n, columns)"),
}


class Attribute:
    """A change of records with k parameters in a box.

    Parameters
    ----------
    low : float or sequence of k floats
        Low end of the box; without `high`, how far the box reaches to both sides of the clean values, within `limits`.
    high : float or sequence of k floats, optional
        High end of the box.

    Attributes
    ----------
    low, high : ndarray of shape (k,)
    n_parameters : int
        k.

    Notes
    -----
    A subclass sets, beside `names`, `units` and `clean` (tuples of length k), where it differs from the default:

    - ``kind`` ("any"), ``channels`` (None: any number), ``value_range`` (None: any values) of the records it takes;
    - ``differentiable`` (True);
    - ``limits`` (-inf, inf): values of the parameters that make sense, refused beyond;
    - ``label_safe`` (-inf, inf): values that leave the class as it is, warned of beyond;
    - ``together`` (None): a function (x, attributes, values) -> x' that applies several neighbours in one step.

    Examples
    --------
    >>> import torch
    >>> class Offset(Attribute):
    ...     names, units, clean = ("offset",), ("those of x",), (0.0,)
    ...     def apply(self, x, value, noise=None):
    ...         return x + value.view(-1, *[1] * (x.ndim - 1))
    >>> Offset(0.5).apply(torch.zeros(2, 3), torch.tensor([[0.1], [0.5]]))
    tensor([[0.1000, 0.1000, 0.1000],
            [0.5000, 0.5000, 0.5000]])
    >>> Offset(0.5)
    Offset(-0.5, 0.5)
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    clean: tuple[float, ...]
    kind: str = "any"
    channels: int | None = None
    value_range: tuple[float, float] | None = None
    differentiable: bool = True
    limits: tuple[float, float] = (-np.inf, np.inf)
    label_safe: tuple[float, float] = (-np.inf, np.inf)
    together: ClassVar[Callable[[Tensor, list[Attribute], list[Tensor]], Tensor] | None] = None

    def __init__(self, low: float | Sequence[float], high: float | Sequence[float] | None = None):
        clean = np.array(self.clean, dtype=float)
        low = self._ends("low", low)
        if high is None:
            if (low < 0).any():
                raise ValueError(
                    f"{self._title} takes a reach >= 0 to both sides of {list(self.clean)}, or low and high; got {low.tolist()}"
                )
            low, high = np.clip([clean - low, clean + low], *self.limits)
        else:
            high = self._ends("high", high)
        if (low > high).any():
            raise ValueError(
                f"low must be at most high, got the box {low.tolist()} to {high.tolist()} for {self._title}"
            )
        if (low < self.limits[0]).any() or (high > self.limits[1]).any():
            raise ValueError(
                f"{self._title} takes values in [{self.limits[0]:g}, {self.limits[1]:g}], "
                f"got the box {low.tolist()} to {high.tolist()}"
            )
        self.low, self.high = low, high

    @property
    def n_parameters(self) -> int:
        """k, the number of parameters."""
        return len(self.names)

    @property
    def _title(self) -> str:
        return type(self).__name__

    def _ends(self, name: str, value: float | Sequence[float]) -> NDArray[np.float64]:
        try:
            ends = np.broadcast_to(np.asarray(value, dtype=float), (self.n_parameters,)).copy()
        except (TypeError, ValueError):
            ends = np.array([np.nan])
        if not np.isfinite(ends).all():
            raise ValueError(
                f"{name} of {self._title} must be a finite number or {self.n_parameters} of them, got {value!r}"
            )
        return ends

    def __repr__(self) -> str:
        ends = [v[0].item() if len(v) == 1 else tuple(v.tolist()) for v in (self.low, self.high)]
        return f"{self._title}({ends[0]}, {ends[1]})"

    def draw_noise(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """What is random beyond the parameters, for each record of x; None if nothing is.

        Parameters
        ----------
        x : Tensor of shape (n, ...)
        generator : torch.Generator or None, default=None
            On the CPU.

        Returns
        -------
        Tensor of shape (n, ...) or None
        """
        return None

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        """Change records.

        Parameters
        ----------
        x : Tensor of shape (n, ...)
        value : Tensor of shape (n, k)
            Each record's own, in `units`.
        noise : Tensor or None, default=None
            Of `draw_noise`.

        Returns
        -------
        Tensor of shape (n, ...)
        """
        raise NotImplementedError

    def check(self, shape: Sequence[int]) -> None:
        """Refuse records that it does not fit.

        Parameters
        ----------
        shape : tuple of int
            Of the records, with n in front.

        Raises
        ------
        ValueError
            If the records have another number of dimensions or channels, or have their channels last.
        """
        shape = tuple(shape)
        if self.kind in SHAPES:
            ndim, wanted = SHAPES[self.kind]
            if len(shape) != ndim:
                raise ValueError(
                    f"{self._title} takes {self.kind} of shape {wanted}, got X of shape {shape}"
                )
        if self.kind == "images" and shape[-1] in (1, 3, 4) and min(shape[1:3]) > 4:
            raise ValueError(
                f"{self._title} takes images of shape (n, channels, height, width), got X of shape {shape}, "
                "whose channels seem to be last: use np.moveaxis(X, -1, 1)"
            )
        if self.channels is not None and shape[1] != self.channels:
            raise ValueError(
                f"{self._title} takes {self.kind} of {self.channels} channels, got X of shape {shape}"
            )

    def warn_of_labels(self) -> None:
        """Warn if the box holds values that can change the class."""
        safe_low, safe_high = self.label_safe
        for name, unit, low, high in zip(self.names, self.units, self.low, self.high, strict=True):
            if low < safe_low or high > safe_high:
                warnings.warn(
                    f"the box of {name}, {low:g} to {high:g} {unit}, may change the class of a record (a 6 turned by 180 degrees "
                    f"is a 9); within {safe_low:g} to {safe_high:g} it should not",
                    UserWarning,
                    stacklevel=3,
                )


class Custom(Attribute):
    """An attribute made of a function.

    Parameters
    ----------
    fn : callable
        (x, value) -> x', or with `noise` (x, value, noise) -> x', tensors, as `Attribute.apply`.
    low, high : float or sequence of k floats
        The box.
    clean : float or sequence of k floats, default=0.0
        Values at which ``fn`` returns x as it is.
    names : str or sequence of k str, default="custom"
        Of the parameters; a single one is numbered where there are several.
    units : str, default=""
    differentiable : bool, default=True
        Whether the search may use derivatives of ``fn`` in value.
    noise : bool, default=False
        Whether ``fn`` takes standard normal noise of the shape of x, held through a search.
    kind : {"any", "images", "series", "tables"}, default="any"
        Records that it takes.

    Raises
    ------
    ValueError
        If the box is reversed or the lengths differ.

    Examples
    --------
    >>> import torch
    >>> gain = Custom(lambda x, value: x * value, 0.8, 1.25, clean=1.0, names="gain")
    >>> gain.apply(torch.ones(2, 2), torch.tensor([[1.0], [0.8]]))
    tensor([[1.0000, 1.0000],
            [0.8000, 0.8000]])
    """

    def __init__(
        self,
        fn: Callable[..., Tensor],
        low: float | Sequence[float],
        high: float | Sequence[float],
        *,
        clean: float | Sequence[float] = 0.0,
        names: str | Sequence[str] = "custom",
        units: str = "",
        differentiable: bool = True,
        noise: bool = False,
        kind: str = "any",
    ):
        if not callable(fn):
            raise TypeError(f"fn must be a function (x, value) -> x, got {fn!r}")
        if kind not in ("any", *SHAPES):
            raise ValueError(f"kind must be one of any, {', '.join(SHAPES)}, got {kind!r}")
        k = max(np.size(low), np.size(high), np.size(clean))
        if not isinstance(names, str):
            k = max(k, len(names))
            if len(names) != k:
                raise ValueError(f"names must hold {k} names, got {list(names)}")
        self.fn, self.noise, self.kind, self.differentiable = fn, noise, kind, differentiable
        numbered = [names] if k == 1 else [f"{names}{i}" for i in range(k)]
        self.names = tuple(numbered if isinstance(names, str) else names)
        self.units = (units,) * k
        self.clean = (0.0,) * k
        self.clean = tuple(self._ends("clean", clean).tolist())
        super().__init__(low, high)

    def draw_noise(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        if not self.noise:
            return None
        return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)

    def apply(self, x: Tensor, value: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.fn(x, value, noise) if self.noise else self.fn(x, value)

    def __repr__(self) -> str:
        fn = getattr(self.fn, "__qualname__", type(self.fn).__qualname__)
        further = f"clean={self.clean}, names={self.names}, differentiable={self.differentiable}, noise={self.noise}"
        return f"Custom({fn}, {self.low.tolist()}, {self.high.tolist()}, {further})"


class Chain:
    """Attributes applied one after the other, as one with all their parameters.

    Parameters
    ----------
    attributes : sequence of Attribute
        In the order in which they act.

    Attributes
    ----------
    names, units : tuple of str
        Of all K parameters; a name that occurs twice is numbered.
    clean, low, high : ndarray of shape (K,)
    differentiable : ndarray of bool, shape (K,)
        Whether derivatives reach a parameter: neither its attribute nor one after it stops them.

    Examples
    --------
    >>> import torch
    >>> double = Custom(lambda x, a: x * a, 1, 2, clean=1.0, names="gain")
    >>> shift = Custom(lambda x, a: x + a, 0, 1, names="shift")
    >>> Chain([double, shift]).apply(torch.ones(1, 1), torch.tensor([[2.0, 1.0]]), [None, None])
    tensor([[3.]])
    """

    def __init__(self, attributes: Sequence[Attribute]):
        if isinstance(attributes, Attribute) or not isinstance(attributes, Sequence):
            raise TypeError(f"attributes must be a list of attributes, got {attributes!r}")
        for attribute in attributes:
            if not isinstance(attribute, Attribute):
                raise TypeError(
                    f"attributes must hold attributes (Rotation(45), Custom(fn, low, high), ...), got {attribute!r}"
                )
        self.attributes = list(attributes)
        flat = [(n, a.names[i]) for n, a in enumerate(attributes) for i in range(a.n_parameters)]
        names = [name for _, name in flat]
        self.names = tuple(
            f"{name}{1 + names[:i].count(name)}" if names.count(name) > 1 else name
            for i, name in enumerate(names)
        )
        self.units = tuple(unit for a in attributes for unit in a.units)
        self.clean = _joined([a.clean for a in attributes])
        self.low = _joined([a.low for a in attributes])
        self.high = _joined([a.high for a in attributes])
        last = max([n for n, a in enumerate(attributes) if not a.differentiable], default=-1)
        self.differentiable = np.array([n > last for n, _ in flat], dtype=bool)
        self._sizes = [a.n_parameters for a in attributes]

    @property
    def n_parameters(self) -> int:
        """K, the number of parameters of all attributes."""
        return len(self.names)

    def draw_noise(
        self, x: Tensor, generator: torch.Generator | None = None
    ) -> list[Tensor | None]:
        """The noise of each attribute, for the records of x."""
        return [a.draw_noise(x, generator) for a in self.attributes]

    def apply(self, x: Tensor, value: Tensor, noise: Sequence[Tensor | None]) -> Tensor:
        """Records changed by the attributes in their order.

        Parameters
        ----------
        x : Tensor of shape (n, ...)
        value : Tensor of shape (n, K)
        noise : list of Tensor or None
            Of `draw_noise`.

        Returns
        -------
        Tensor of shape (n, ...)
        """
        values = value.split(self._sizes, 1)
        links = zip(self.attributes, values, noise, strict=True)
        for together, group in groupby(links, lambda link: type(link[0]).together):
            run = list(group)
            if together is None:
                for attribute, own, held in run:
                    if not attribute.differentiable:  # it may leave torch
                        x, own = x.detach(), own.detach()
                    x = attribute.apply(x, own, held)
            else:
                x = together(x, [a for a, _, _ in run], [own for _, own, _ in run])
        return x

    def check(self, X: NDArray | Tensor) -> None:
        """Refuse records that do not fit one of the attributes: their shape, their channels, their range."""
        for attribute in self.attributes:
            attribute.check(X.shape)
            if attribute.value_range is not None:
                check_range(X, attribute.value_range, type(attribute).__name__)

    def check_derivatives(self, x: Tensor) -> None:
        """Refuse attributes that declare derivatives and have none.

        Parameters
        ----------
        x : Tensor of shape (n, ...)
            A few records to try them on.

        Raises
        ------
        ValueError
            If an attribute leaves torch's graph.
        """
        for attribute in self.attributes:
            if not attribute.differentiable:
                continue
            value = torch.as_tensor(attribute.low + attribute.high, dtype=x.dtype, device=x.device)
            value = (value / 2).repeat(len(x), 1).requires_grad_()
            noise = attribute.draw_noise(x, torch.Generator())
            reason = None
            with torch.enable_grad():
                try:
                    traced = attribute.apply(x, value, noise).requires_grad
                except RuntimeError as error:  # what torch says to who takes it out of the graph
                    if "requires grad" not in str(error):
                        raise
                    traced, reason = False, error
            if not traced:
                raise ValueError(
                    f"{attribute!r} is to be searched by its derivative, but computes outside torch's graph: declare it "
                    "differentiable=False (it is then searched without derivatives), or set n_steps=0"
                ) from reason

    def warn_of_labels(self) -> None:
        """Warn of boxes that can change the class."""
        for attribute in self.attributes:
            attribute.warn_of_labels()

    def __repr__(self) -> str:
        return f"Chain({self.attributes})"


def check_range(X: NDArray | Tensor, value_range: tuple[float, float], who: str) -> None:
    """Refuse values outside a range, by name.

    Parameters
    ----------
    X : array or Tensor
    value_range : tuple (low, high)
    who : str
        Who declared it, for the error.
    """
    low, high = float(X.min()), float(X.max())
    if low < value_range[0] or high > value_range[1]:
        raise ValueError(
            f"X must lie in [{value_range[0]:g}, {value_range[1]:g}], as {who} declares, got values from {low:g} to {high:g}"
        )


def _joined(parts: list[Any]) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(p, dtype=float) for p in parts] or [np.empty(0)])
