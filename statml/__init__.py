"""statml: statistics for people who also do machine learning.

Methods come with their uncertainty: standard errors, intervals, tests and error control. Submodules are
loaded at first use, so that ``import statml`` costs next to nothing.

Examples
--------
>>> import statml
>>> statml.datasets.load_sampson().number_of_nodes()
18
"""

import importlib
import importlib.metadata
import importlib.util

try:
    __version__ = importlib.metadata.version("statml")
except importlib.metadata.PackageNotFoundError:  # used from a source tree that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str):
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    import pkgutil

    submodules = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted({"__version__"} | {name for name in submodules if not name.startswith("_")})
