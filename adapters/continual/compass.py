"""The CLEVA compass: what a continual learner uses, and what its report tells, at a glance.

An inner star of eleven axes says which ingredients the method has (0 not, 1 supervised, 2 unsupervised); an outer ring of fifteen
marks says which measurements are reported. The JSON is that of the authors' software.

References
----------
Mundt, M., Lang, S., Delfosse, Q. and Kersting, K. (2022). CLEVA-Compass: a continual learning evaluation assessment compass to
promote research transparency and comparability. ICLR.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from statml._display import BLUE, GREEN, ORANGE, PURPLE, RED, SKY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INNER = (
    "multiple_models",
    "federated",
    "online",
    "open_world",
    "multiple_modalities",
    "active_data_query",
    "task_order_discovery",
    "task_agnostic",
    "episodic_memory",
    "generative",
    "uncertainty",
)
OUTER = (
    "parameters",
    "compute_time",
    "mac_operations",
    "communication",
    "forgetting",
    "forward_transfer",
    "backward_transfer",
    "openness",
    "data_per_task",
    "task_order",
    "per_task_metric",
    "optimization_steps",
    "generated_data",
    "stored_data",
    "memory",
)
# the document's names, drawn in colours that everyone can tell apart
COLORS = {
    "magenta": PURPLE,
    "green": GREEN,
    "blue": BLUE,
    "orange": ORANGE,
    "cyan": SKY,
    "brown": RED,
}


def cleva_entry(
    label: str,
    inner: Mapping[str, int] | None = None,
    outer: Mapping[str, bool] | None = None,
    color: str = "magenta",
) -> dict[str, Any]:
    """One method's entry of a compass document.

    Parameters
    ----------
    label : str
    inner : mapping of axis to {0, 1, 2}, optional
        What the method uses; axes that are not named are 0. Names in `INNER`.
    outer : mapping of axis to bool, optional
        What is reported; axes that are not named are False. Names in `OUTER`.
    color : str, default="magenta"
        "magenta", "green", "blue", "orange", "cyan" or "brown".

    Returns
    -------
    dict
        With all axes, in the order in which they are drawn.

    Raises
    ------
    ValueError
        For an unknown axis, level or colour.

    Examples
    --------
    >>> entry = cleva_entry("ours", {"generative": 1}, {"forgetting": True})
    >>> entry["inner_level"]["generative"], entry["outer_level"]["memory"]
    (1, False)
    """
    inner, outer = dict(inner or {}), dict(outer or {})
    for name, given, axes in (("inner", inner, INNER), ("outer", outer, OUTER)):
        unknown = [axis for axis in given if axis not in axes]
        if unknown:
            raise ValueError(f"{name} must name axes among {', '.join(axes)}, got {unknown[0]!r}")
    for axis, level in inner.items():
        if isinstance(level, bool) or level not in (0, 1, 2):
            raise ValueError(
                f"inner[{axis!r}] must be 0 (not used), 1 (supervised) or 2 (unsupervised), got {level!r}"
            )
    for axis, told in outer.items():
        if not isinstance(told, (bool, np.bool_)):
            raise ValueError(f"outer[{axis!r}] must be True or False, got {told!r}")
    if color not in COLORS:
        raise ValueError(f"color must be one of {', '.join(COLORS)}, got {color!r}")
    return {
        "color": color,
        "label": str(label),
        "inner_level": {axis: int(inner.get(axis, 0)) for axis in INNER},
        "outer_level": {axis: bool(outer.get(axis, False)) for axis in OUTER},
    }


def write_cleva(document: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write a compass document, ``{"entries": [...]}``, as JSON."""
    Path(path).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


class CompassDisplay:
    """Picture of a compass with one method or several.

    Parameters
    ----------
    document : mapping
        ``{"entries": [...]}``, entries from `cleva_entry`, ``ContinualReport.cleva`` or a file.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> document = {"entries": [cleva_entry("ours", {"generative": 1}, {"forgetting": True})]}
    >>> display = CompassDisplay(document).plot()
    """

    def __init__(self, document: Mapping[str, Any]):
        self.document = document

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            A new figure by default; its own ticks and frame are turned off.

        Returns
        -------
        CompassDisplay
        """
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=(7.4, 7.4), layout="constrained")
        entries = self.document["entries"]
        angle = np.pi / 2 - 2 * np.pi * np.arange(len(INNER)) / len(INNER)
        ring = np.linspace(0, 2 * np.pi, 200)
        for radius in (0.5, 1.0):
            ax.plot(radius * np.cos(ring), radius * np.sin(ring), color="0.8", lw=0.8, zorder=0)
        for a, axis in zip(angle, INNER, strict=True):
            ax.plot([0, np.cos(a)], [0, np.sin(a)], color="0.8", lw=0.8, zorder=0)
            _label(ax, 1.07, a, axis, size=8)
        first, width = 2.4, 0.18  # radius and width of the ring of marks
        turn = 2 * np.pi / len(OUTER)
        for k, entry in enumerate(entries):
            color = COLORS.get(entry["color"], entry["color"])
            level = np.array([entry["inner_level"][axis] for axis in INNER]) / 2
            x, y = level * np.cos(angle), level * np.sin(angle)
            ax.fill(x, y, facecolor=color, alpha=0.2)
            ax.plot([*x, x[0]], [*y, y[0]], "o-", color=color, ms=4, label=entry["label"])
            radius = first + k * width
            for j, axis in enumerate(OUTER):
                start = np.pi / 2 - (j - 0.45) * turn
                part = np.linspace(start, start - 0.9 * turn, 20)
                told = entry["outer_level"][axis]
                ax.fill(
                    [*(radius * np.cos(part)), *((radius + 0.8 * width) * np.cos(part[::-1]))],
                    [*(radius * np.sin(part)), *((radius + 0.8 * width) * np.sin(part[::-1]))],
                    facecolor=color if told else "white",
                    edgecolor=color if told else "0.7",
                    lw=0.6,
                )
        beyond = first + len(entries) * width + 0.06
        for j, axis in enumerate(OUTER):
            _label(ax, beyond, np.pi / 2 - j * turn, axis, size=8)
        ax.text(0.0, 0.53, "supervised", size=6, color="0.45", ha="center", va="bottom")
        ax.text(0.0, 1.0, "unsupervised", size=6, color="0.45", ha="center", va="top")
        reach = beyond + 0.95
        ax.set(xlim=(-reach, reach), ylim=(-beyond - 0.75, beyond + 0.35), aspect="equal")
        ax.axis("off")
        ax.legend(loc="lower center", ncols=3, frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _label(ax: Axes, radius: float, angle: float, text: str, size: float) -> None:
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    side = "center" if abs(np.cos(angle)) < 0.1 else "left" if x > 0 else "right"
    height = "center" if abs(np.sin(angle)) < 0.9 else "bottom" if y > 0 else "top"
    ax.text(x, y, text.replace("_", " "), size=size, ha=side, va=height)
