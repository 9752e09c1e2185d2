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
    from .trajectory import Trajectory

VIEW = 8.0  # m; how far the field of view is drawn


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
    from matplotlib.patches import Wedge
    from PIL import Image

    check_integer("fps", fps, low=1)
    t = trajectory
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(7.6, 4.2), width_ratios=(1.5, 1), layout="constrained", dpi=80
    )
    axes(left), axes(right)
    n = t.targets.shape[1]
    pictures = []
    for k in range(len(t.drone)):
        left.clear()
        field(t.side, left)
        for i in range(n):
            draw_target(left, t.targets[k, i], t.tracked[k, i])
            left.text(*t.targets[k, i, :2], str(i), ha="center", va="center", size="small")
            if t.visible[k, i]:
                left.plot(*zip(t.drone[k, :2], t.targets[k, i, :2], strict=True), color=BLUE, lw=1)
        x, y, yaw = t.drone[k]
        angle = np.degrees(yaw)
        left.add_patch(Wedge((x, y), VIEW, angle - 45, angle + 45, color=BLUE, alpha=0.08, lw=0))
        left.plot(*t.drone[: k + 1, :2].T, color=BLUE, lw=1, alpha=0.6)
        left.plot(x, y, marker=(3, 0, angle - 90), ms=11, color=BLUE)
        left.set_title(f"{t.seconds[k]:.2f} s", size="medium")

        right.clear()
        colours = [GREEN if done else ORANGE for done in t.tracked[k]]
        right.barh(range(n), t.beliefs[k].max(-1), color=colours)
        right.axvline(t.threshold, color=GREY, lw=1, ls="--")
        right.set(xlim=(0, 1), ylim=(n - 0.4, -0.6), xlabel="belief", ylabel="target")
        right.set_yticks(range(n))

        figure.canvas.draw()
        figure.set_layout_engine("none")  # is found once: it costs most of a frame
        shown = np.asarray(figure.canvas.buffer_rgba())[..., :3]
        # one palette of few colours keeps the file small
        pictures.append(
            Image.fromarray(shown).quantize(
                64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
        )
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
