"""How the four families of members (saliencies, structures, distributions, schedules) and the growth rules are found.

A member is a class in one file of its family's folder, under ``@family.register("name")``; the folder imports all its files,
so that a new member is one new file and no old file needs to know.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

Member = TypeVar("Member", bound=type)


class Described:
    """A member is printed as the call that makes it."""

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({inside})"


class Registry:
    """Members of one family by name.

    Parameters
    ----------
    argument : str
        The argument through which users name a member, for errors.
    base : type
        What every member derives from.

    Examples
    --------
    >>> from statml.adapters.pruning import SALIENCIES
    >>> SALIENCIES.make("magnitude")
    Magnitude()
    """

    def __init__(self, argument: str, base: type):
        self.argument, self.base = argument, base
        self._members: dict[str, type] = {}

    def register(self, *names: str) -> Callable[[Member], Member]:
        """Class decorator: the member goes by these names."""

        def add(member: Member) -> Member:
            for name in names:
                if name in self._members:
                    raise ValueError(f"{self.argument} {name!r} is registered already")
                self._members[name] = member
            return member

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._members)

    def make(self, value: Any) -> Any:
        """A member from its name; an instance is taken as it is."""
        if isinstance(value, self.base):
            return value
        if isinstance(value, str) and value in self._members:
            return self._members[value]()
        quoted = ", ".join(f'"{name}"' for name in self.names())
        problem = (
            f"{self.argument} must be one of {quoted}, or a {self.base.__name__}, got {value!r}"
        )
        raise ValueError(problem) if isinstance(value, str) else TypeError(problem)


def import_members(package: str, path: list[str]) -> None:
    """Import every file of a family's folder, whereupon its members register themselves."""
    for found in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{found.name}")
