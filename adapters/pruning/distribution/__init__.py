"""Distributions: how many weights each layer keeps. One file a member, or a few close relatives; see `Distribution`."""

from .._registry import import_members
from ._base import DISTRIBUTIONS, Distribution, apportion

import_members(__name__, __path__)

from .erk import erk_densities  # noqa: E402

__all__ = ["DISTRIBUTIONS", "Distribution", "apportion", "erk_densities"]
