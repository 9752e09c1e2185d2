"""Static targets with random headings."""

from __future__ import annotations

from ._motion import Crowd, Motion, Moved


class StaticTargets(Motion):
    """Targets that stay where they are."""

    def start(self, crowd: Crowd) -> Moved:
        return crowd.targets, crowd.velocities, {}

    def move(self, crowd: Crowd) -> Moved:
        return crowd.targets, crowd.velocities, {}

    def __repr__(self) -> str:
        return "StaticTargets()"
