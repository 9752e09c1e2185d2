"""Data models: prior, records given parameters, parameters given records, and the statistic of a record."""

from .beta_bernoulli import BetaBernoulli
from .normal_mean import NormalMean

__all__ = [
    "BetaBernoulli",
    "NormalMean",
    "PyMCModel",
]


def __getattr__(name: str):
    if name == "PyMCModel":  # its module is outside this folder, beside what else connects to PyMC
        from ..pymc_bridge import PyMCModel

        return PyMCModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
