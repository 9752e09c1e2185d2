"""How targets move. One motion a file; see `Motion` for what a motion of your own must have."""

from __future__ import annotations

from collections.abc import Callable

from ._motion import Crowd, FunctionMotion, Motion
from .brownian import BrownianMotion
from .constant_velocity import ConstantVelocity
from .mixed import MixedMotion
from .social_force import SocialForce
from .static import StaticTargets

_NAMED: dict[str, Callable[..., Motion]] = {
    "static": lambda paper_compat: StaticTargets(),
    "constant_velocity": lambda paper_compat: ConstantVelocity(paper_compat=paper_compat),
    "brownian": lambda paper_compat: BrownianMotion(),
    "social_force": lambda paper_compat: SocialForce(),
}


def make_motion(value: str | tuple | Motion | Callable, paper_compat: bool = False) -> Motion:
    """A motion from its name, an object, a function, or several of these, one of which each episode draws.

    Examples
    --------
    >>> from statml.adapters.viewpoint.motion import make_motion
    >>> make_motion(("static", "brownian"))
    MixedMotion([StaticTargets(), BrownianMotion()])
    """
    if isinstance(value, (tuple, list)):
        return MixedMotion([make_motion(one, paper_compat) for one in value])
    if isinstance(value, str) and value in _NAMED:
        return _NAMED[value](paper_compat)
    if isinstance(value, Motion):
        return value
    if callable(value):
        return FunctionMotion(value)
    names = ", ".join(f'"{name}"' for name in _NAMED)
    problem = f"target_motion must be one of {names}, several of these, a function or a Motion, got {value!r}"
    raise ValueError(problem) if isinstance(value, str) else TypeError(problem)


__all__ = [
    "BrownianMotion",
    "ConstantVelocity",
    "Crowd",
    "FunctionMotion",
    "MixedMotion",
    "Motion",
    "SocialForce",
    "StaticTargets",
    "make_motion",
]
