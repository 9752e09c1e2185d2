"""An episode as a GIF: the map on the left, the beliefs on the right."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from statml._display import BLUE, GREEN, GREY, ORANGE, axes
from statml._validation import check_integer

from .displays import draw_target, field

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from .trajectory import Trajectory

VIEW = 8.0  # m; how far the field of view is drawn
DRONE = np.array([[0.9, 0.0], [-0.5, 0.4], [-0.25, 0.0], [-0.5, -0.4]])  # m, along its yaw


class Animation:
    """A GIF in memory, that notebooks and the documentation show by itself.

    Parameters
    ----------
    data : bytes
    """

    def __init__(self, data: bytes):
        self.data = data

    def save(self, path: str | os.PathLike) -> None:
        """Write it to a file."""
        Path(path).write_bytes(self.data)

    def _repr_html_(self) -> str:
        text = base64.b64encode(self.data).decode()
        return f'<img src="data:image/gif;base64,{text}" alt="The episode, animated"/>'

    def __repr__(self) -> str:
        return f"<Animation of {len(self.data) / 1e6:.1f} MB>"


def animate(trajectory: Trajectory, path: str | os.PathLike | None, fps: int) -> Animation:
    """Draw every moment; see `Trajectory.animate`."""
    import matplotlib.pyplot as plt
    from PIL import Image

    check_integer("fps", fps, low=1)
    t = trajectory
    n = t.targets.shape[1]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(7.6, 4.2), width_ratios=(1.5, 1), layout="constrained", dpi=80
    )
    field(t.side, axes(left))
    left.set_title(" ", size="medium")  # room for the time
    axes(right).set(xlim=(0, 1), ylim=(n - 0.4, -0.6), xlabel="belief", ylabel="target")
    right.set_yticks(range(n))
    right.axvline(t.threshold, color=GREY, lw=1, ls="--")
    figure.canvas.draw()
    # what stays the same is drawn once; it costs most of a frame
    empty = figure.canvas.copy_from_bbox(figure.bbox)
    pictures = []
    for k in range(len(t.drone)):
        figure.canvas.restore_region(empty)
        for artist in [*_map(left, t, k), *_bars(right, t, k)]:
            artist.axes.draw_artist(artist)
            artist.remove()
        shown = np.asarray(figure.canvas.buffer_rgba())[..., :3]
        # a palette of few colours keeps the file small
        few = Image.fromarray(shown).quantize(64, Image.Quantize.MAXCOVERAGE, dither=0)
        pictures.append(few)
    plt.close(figure)
    stream = io.BytesIO()
    times = [1000 // fps] * (len(pictures) - 1) + [2000]  # the end stays for a while
    pictures[0].save(
        stream, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0
    )
    animation = Animation(stream.getvalue())
    if path is not None:
        animation.save(path)
    return animation


def _map(ax: Axes, t: Trajectory, k: int) -> list[Artist]:
    """The field at moment k."""
    from matplotlib.patches import Polygon, Wedge

    x, y, yaw = t.drone[k]
    angle = np.degrees(yaw)
    view = Wedge((x, y), VIEW, angle - 45, angle + 45, color=BLUE, alpha=0.08, lw=0)
    artists = [ax.add_patch(view), *ax.plot(*t.drone[: k + 1, :2].T, color=BLUE, lw=1, alpha=0.6)]
    for i, pose in enumerate(t.targets[k]):
        if t.visible[k, i]:
            artists += ax.plot([x, pose[0]], [y, pose[1]], color=BLUE, lw=1)
        artists += draw_target(ax, pose, t.tracked[k, i])
        artists.append(ax.text(*pose[:2], str(i), ha="center", va="center", size="small"))
    turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    artists.append(ax.add_patch(Polygon(DRONE @ turn + [x, y], color=BLUE, lw=0)))
    clock = ax.text(0.5, 1.02, f"{t.seconds[k]:.2f} s", ha="center", transform=ax.transAxes)
    return [*artists, clock]


def _bars(ax: Axes, t: Trajectory, k: int) -> list[Artist]:
    """The beliefs at moment k."""
    colours = [GREEN if done else ORANGE for done in t.tracked[k]]
    return list(ax.barh(range(len(colours)), t.beliefs[k].max(-1), color=colours, zorder=0))
