"""statml: statistics for people who also do machine learning.

Methods come with their uncertainty: standard errors, intervals, tests and error control. Submodules are
loaded at first use, so that ``import statml`` costs next to nothing; ``__init__.pyi`` names them.

Examples
--------
>>> import statml
>>> statml.datasets.load_sampson().number_of_nodes()
18
"""

import importlib.metadata

import lazy_loader

try:
    __version__ = importlib.metadata.version("statml")
except importlib.metadata.PackageNotFoundError:  # used from a source tree that is not installed
    __version__ = "0+unknown"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
