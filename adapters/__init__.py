"""The torch side of statml, installed as ``statml.adapters``.

Each adapter puts one deep-learning method behind ``fit`` / ``predict``. Importing this package needs no
torch; the adapters themselves need the extra ``statml[torch]``. What can be imported from here, and where it lives,
stands in ``__init__.pyi``; each name is loaded at its first use.
"""

from typing import Any

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_EXTRAS = {
    "torch": "torch",
    "skorch": "torch",
    "safetensors": "torch",
    "gymnasium": "rl",
    "stable_baselines3": "rl",
    "piqp": "rl",
    "osqp": "rl",
}


def __getattr__(name: str) -> Any:
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in _EXTRAS:
            raise ModuleNotFoundError(
                f"statml.adapters.{name} needs {missing}: pip install 'statml[{_EXTRAS[missing]}]'",
                name=error.name,
            ) from error
        raise
