"""A mixture: each episode draws one of several motions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._motion import Crowd, Motion, Moved


class MixedMotion(Motion):
    """Each episode moves by one of `motions`, drawn with equal chance.

    Parameters
    ----------
    motions : sequence of Motion
    """

    def __init__(self, motions: Sequence[Motion]):
        if not motions:
            raise ValueError("target_motion must name at least one motion, got none")
        self.motions = list(motions)

    def start(self, crowd: Crowd) -> Moved:
        draw = crowd.noise.uniform("motion", 0, ())
        kind = (draw * len(self.motions)).astype(int)
        return self._by_kind(crowd, kind, [motion.start(crowd) for motion in self.motions])

    def move(self, crowd: Crowd) -> Moved:
        # every motion moves all episodes, and each episode keeps its own: simple, and a step stays one array operation
        state, moved = crowd.state, []
        for k, motion in enumerate(self.motions):
            crowd.state = {n.split(":", 1)[1]: a for n, a in state.items() if n.startswith(f"{k}:")}
            moved.append(motion.move(crowd))
        return self._by_kind(crowd, state["kind"], moved)

    def _by_kind(self, crowd: Crowd, kind: np.ndarray, moved: list[Moved]) -> Moved:
        episodes = np.arange(len(kind))
        targets = np.stack([m[0] for m in moved])[kind, episodes]
        velocities = np.stack([m[1] for m in moved])[kind, episodes]
        state = {f"{k}:{name}": a for k, m in enumerate(moved) for name, a in m[2].items()}
        return targets, velocities, {"kind": kind, **state}

    def __repr__(self) -> str:
        return f"MixedMotion({self.motions!r})"
