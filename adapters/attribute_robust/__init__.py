"""Attribute-guided adversarial training: robustness to changes that are named beforehand."""

from .attribute import Attribute, Chain, Custom

__all__ = [
    "Attribute",
    "Chain",
    "Custom",
]
