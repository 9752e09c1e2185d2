"""What the reference of the documentation lists."""

import importlib
import inspect
import re
from functools import cache
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "vignettes" / "site" / "api.rst"


@cache
def public_objects() -> dict[str, object]:
    """Classes and functions by every public name they have."""
    found = {}
    for name in re.findall(r"^   (statml[\w.]*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        module = importlib.import_module(name)
        for member in getattr(module, "__all__", dir(module)):
            thing = getattr(module, member)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            if not member.startswith("_") and thing.__module__.startswith(name):
                found[f"{name}.{member}"] = thing
    return found
