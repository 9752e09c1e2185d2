"""How looks become a belief: every rule is a Bayes update b <- b p^w, and says how much weight w a look gets."""

from __future__ import annotations

from ._fusion import Fusion, fuse_beliefs
from .pose_discount import PoseDiscountFusion
from .product import ProductFusion
from .tempered import TemperedFusion

_NAMED = {
    "product": ProductFusion,
    "tempered": TemperedFusion,
    "pose_discount": PoseDiscountFusion,
}


def make_fusion(value: str | Fusion) -> Fusion:
    """A fusion from its name; an object is taken as it is.

    Examples
    --------
    >>> from statml.adapters.viewpoint.fusion import make_fusion
    >>> make_fusion("tempered")
    TemperedFusion(weight=0.5)
    """
    if isinstance(value, str) and value in _NAMED:
        return _NAMED[value]()
    if isinstance(value, Fusion):
        return value
    names = ", ".join(f'"{name}"' for name in _NAMED)
    problem = f"fusion must be one of {names} or a Fusion, got {value!r}"
    raise ValueError(problem) if isinstance(value, str) else TypeError(problem)


__all__ = [
    "Fusion",
    "PoseDiscountFusion",
    "ProductFusion",
    "TemperedFusion",
    "fuse_beliefs",
    "make_fusion",
]
