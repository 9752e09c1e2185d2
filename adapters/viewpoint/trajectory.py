"""One episode, kept to be looked at."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from statml._validation import RandomState

from .evaluation import play
from .information import entropy
from .scenario import Scenario, draw_keys
from .scene import Scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .animation import Animation
    from .displays import BeliefsDisplay, TrajectoryDisplay
    from .environment import ActiveClassificationEnv

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Trajectory:
    """What happened in one episode, at its T + 1 moments.

    Parameters
    ----------
    drone : ndarray of shape (T + 1, 3)
        x, y (m) and yaw (rad).
    targets : ndarray of shape (T + 1, N, 3)
        x, y (m) and heading (rad).
    visible : ndarray of bool of shape (T + 1, N)
        What the camera saw; nothing at the start.
    beliefs : ndarray of shape (T + 1, N, K)
    tracked : ndarray of bool of shape (T + 1, N)
        What was classified.
    classes : ndarray of int of shape (N,)
        The truth.
    rewards : ndarray of shape (T,)
    side : float
        Half the edge of the field, m.
    dt : float
        Seconds between two moments.
    threshold : float
        Belief at which a target is classified.
    """

    drone: Array
    targets: Array
    visible: NDArray[np.bool_]
    beliefs: Array
    tracked: NDArray[np.bool_]
    classes: NDArray[np.int64]
    rewards: Array
    side: float
    dt: float
    threshold: float

    @property
    def success(self) -> bool:
        """Whether all targets were classified."""
        return bool(self.tracked[-1].all())

    @property
    def seconds(self) -> Array:
        """Times of the moments, shape (T + 1,)."""
        return self.dt * np.arange(len(self.drone))

    @property
    def declared_at(self) -> Array:
        """Seconds at which each target was classified, shape (N,); NaN where it never was."""
        ever = self.tracked.any(0)
        return np.where(ever, self.seconds[self.tracked.argmax(0)], np.nan)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a moment and target: seconds, target, x, y, heading, visible, tracked, belief (in the likeliest class), entropy (bits)."""
        T, N = self.visible.shape
        x, y, heading = self.targets.reshape(-1, 3).T
        return pd.DataFrame(
            {
                "seconds": np.repeat(self.seconds, N),
                "target": np.tile(np.arange(N), T),
                "x": x,
                "y": y,
                "heading": heading,
                "visible": self.visible.ravel(),
                "tracked": self.tracked.ravel(),
                "belief": self.beliefs.max(-1).ravel(),
                "entropy": entropy(self.beliefs).ravel(),
            }
        )

    def plot(self, ax: Axes | None = None) -> TrajectoryDisplay:
        """The way of the drone and of the targets on a map; see `TrajectoryDisplay`."""
        from .displays import TrajectoryDisplay

        return TrajectoryDisplay(self).plot(ax)

    def plot_beliefs(self, ax: Axes | None = None) -> BeliefsDisplay:
        """The belief about each target over time; see `BeliefsDisplay`."""
        from .displays import BeliefsDisplay

        return BeliefsDisplay(self).plot(ax)

    def animate(self, path: str | os.PathLike | None = None, fps: int = 10) -> Animation:
        """The episode as a moving picture.

        Parameters
        ----------
        path : str, path or None, default=None
            Where to write it, as GIF.
        fps : int, default=10
            Moments a second.

        Returns
        -------
        Animation
            Shows itself in notebooks.
        """
        from .animation import animate

        return animate(self, path, fps)


def rollout(
    policy: Any,
    env: ActiveClassificationEnv | Scene,
    scenario: Scenario | None = None,
    *,
    random_state: RandomState = 0,
) -> Trajectory:
    """Fly one episode.

    Parameters
    ----------
    policy : policy
        See `Policy`.
    env : ActiveClassificationEnv or Scene
        Whose settings are used; its episode stays as it is.
    scenario : Scenario or None, default=None
        Of one episode. None: one is drawn.
    random_state : int, SeedSequence, Generator, RandomState or None, default=0
        Of the draw.

    Returns
    -------
    Trajectory

    Raises
    ------
    ValueError
        If the scenario has more than one episode.

    Examples
    --------
    >>> from statml.adapters.viewpoint import GreedyInformationPolicy, Scene, rollout
    >>> trajectory = rollout(GreedyInformationPolicy(), Scene(n_targets=2), random_state=1)
    >>> trajectory.success, trajectory.drone.shape[1]
    (True, 3)
    """
    scene = copy.copy(getattr(env, "scene", env))
    if scenario is None:
        scenario = scene.draw(draw_keys(random_state, 1))
    elif len(scenario) != 1:
        raise ValueError(f"scenario must be of one episode, got {len(scenario)}; see Scenario.take")
    names = ("drone", "targets", "visible", "beliefs", "tracked")
    moments: dict[str, list] = {name: [] for name in names}
    rewards = []
    scene.set_scenario(scenario)
    start = {name: getattr(scene, name)[0] for name in names}
    for result in play(policy, scene, scenario):
        rewards.append(result.reward[0])
        for name in names:
            moments[name].append(getattr(scene, name)[0])
    here = scene.active[0]
    arrays = {name: np.array([start[name], *moments[name]]) for name in names}
    for name in names[1:]:
        arrays[name] = arrays[name][:, here]
    return Trajectory(
        **arrays,
        classes=scene.classes[0][here],
        rewards=np.array(rewards),
        side=float(scene.side[0]),
        dt=scene.dt,
        threshold=scene.threshold,
    )
