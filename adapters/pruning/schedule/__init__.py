"""Schedules: when how much is pruned. One file a member, or a few close relatives; see `Schedule`."""

from .._registry import import_members
from ._base import SCHEDULES, Schedule

import_members(__name__, __path__)

from .gradual import cubic_sparsity  # noqa: E402

__all__ = ["SCHEDULES", "Schedule", "cubic_sparsity"]
