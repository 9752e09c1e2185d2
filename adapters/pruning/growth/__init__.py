"""Growth: sparse from scratch, with connections that move in training. One file a member; see `Growth`."""

from .._registry import import_members
from ._base import GROWTHS, Growth

import_members(__name__, __path__)

__all__ = ["GROWTHS", "Growth"]
