"""Replay: what stands in for the data of earlier tasks."""

from . import aggregate, openset, prior, stored
from .past import REPLAYS, Past, Replay, Replayed, register

__all__ = [
    "REPLAYS",
    "Past",
    "Replay",
    "Replayed",
    "aggregate",
    "openset",
    "prior",
    "register",
    "stored",
]
