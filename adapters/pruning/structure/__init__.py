"""Structures: what is pruned as one piece. One file a member; see `Structure`."""

from .._registry import import_members
from ._base import STRUCTURES, Structure, Units, as_structure

import_members(__name__, __path__)

__all__ = ["STRUCTURES", "Structure", "Units", "as_structure"]
