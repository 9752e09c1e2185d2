"""Greedy information rate: go where most bits a second are to be had, knowing the sensor."""

from __future__ import annotations

import numpy as np

from statml._validation import check_number

from ..geometry import MAX_SPEED, MAX_YAW_RATE, steer, viewpoint_before, wrap
from ..scene import Scene
from ._policy import Policy


class GreedyInformationPolicy(Policy):
    needs_scene = True

    def __init__(self, distance: float = 2.7, tau: float = 1.0, stick: float = 1.15):
        self.distance = check_number("distance", distance, 0, low_open=True)
        self.tau = check_number("tau", tau, 0, low_open=True)
        self.stick = check_number("stick", stick, 1)

    def reset(self, episodes: int) -> None:
        self._target = np.full(episodes, -1)

    def predict(self, observation, scene: Scene | None = None) -> np.ndarray:
        if len(getattr(self, "_target", ())) != scene.episodes:
            self.reset(scene.episodes)
        open_ = scene.active & ~scene.tracked
        places, seconds = self._intercept(scene)
        bits = np.log2(scene.n_classes) - np.log2(scene.n_classes) + scene._entropies
        rate = np.where(open_, bits / (seconds + self.tau), -np.inf)
        rows = np.arange(scene.episodes)
        kept = np.maximum(self._target, 0)
        rate[rows, kept] *= np.where(self._target >= 0, self.stick, 1.0)
        chosen = rate.argmax(-1)
        self._target = chosen
        goal = places[rows, chosen].copy()
        t = scene.targets[rows, chosen, :2] + scene.dt * scene.velocities[rows, chosen]
        d = t - scene.drone[:, :2]
        goal[:, 2] = np.arctan2(d[:, 1], d[:, 0])
        return steer(scene.drone, goal, scene.dt)

    def _intercept(self, scene):
        seconds = np.zeros(scene.active.shape)
        edge = scene.side[:, None, None] - 0.05
        for _ in range(3):
            ahead = scene.targets.copy()
            ahead[..., :2] += seconds[..., None] * scene.velocities
            ahead[..., :2] = np.clip(ahead[..., :2], -edge, edge)
            places = viewpoint_before(ahead, self.distance)
            places[..., :2] = np.clip(places[..., :2], -edge, edge)
            gap = np.hypot(*(places[..., :2] - scene.drone[:, None, :2]).transpose(2, 0, 1))
            turn = np.abs(wrap(places[..., 2] - scene.drone[:, None, 2])) / MAX_YAW_RATE
            seconds = np.maximum(np.maximum(gap / MAX_SPEED, turn), scene.dt)
        return places, seconds
