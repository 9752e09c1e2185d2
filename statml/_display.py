"""What all plots share: axes made at need, colours that everyone can tell apart, a quiet style."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Okabe and Ito's palette, distinct with every kind of colour blindness.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#7F7F7F",
)


def axes(ax: Axes | None = None, figsize: tuple[float, float] | None = None) -> Axes:
    """The axes to draw on, styled: those given, or those of a new figure.

    Parameters
    ----------
    ax : matplotlib Axes or None, default=None
    figsize : (width, height) in inches or None, default=None
        Size of the new figure.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> ax = axes(figsize=(4, 3))
    >>> axes(ax) is ax
    True
    """
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=figsize, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis at 1 and 3 times the powers of ten, in plain numbers.

    Parameters
    ----------
    axis : matplotlib Axis
        ``ax.xaxis`` or ``ax.yaxis``.

    Examples
    --------
    >>> ax = axes()
    >>> ax.set(xscale="log", xlim=(0.1, 10))  # doctest: +ELLIPSIS
    [...]
    >>> log_ticks(ax.xaxis)
    >>> ax.xaxis.get_major_formatter()(0.3)
    '0.3'
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
