"""Saliencies: how much a weight matters. One file a member, or a few close relatives; see `Saliency`."""

from .._registry import import_members
from ._base import SALIENCIES, FunctionSaliency, Saliency, score_weights

import_members(__name__, __path__)

__all__ = ["SALIENCIES", "FunctionSaliency", "Saliency", "score_weights"]
