"""All at once: before any training (static), or after a dense one (one-shot)."""

from __future__ import annotations

from ._base import SCHEDULES, Schedule


@SCHEDULES.register("one-shot")
class OneShot(Schedule):
    """Train, prune, train."""


@SCHEDULES.register("static")
class Static(Schedule):
    """Prune at initialisation, train once; no dense network is ever trained."""

    dense_first = False
