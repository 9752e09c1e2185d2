"""Data models: prior, records given parameters, parameters given records, and the statistic of a record."""

from typing import TYPE_CHECKING, Any

from .beta_bernoulli import BetaBernoulli
from .callable_model import CallableModel
from .dirichlet_categorical import DirichletCategorical
from .dirichlet_data import DirichletData
from .linear_regression import LinearRegression
from .logistic_regression import LogisticRegression
from .naive_bayes import NaiveBayesLogLinear
from .normal_mean import NormalMean
from .normal_mean_variance import NormalMeanVariance
from .poisson_gamma import PoissonGamma

if TYPE_CHECKING:  # loaded at first use
    from ..pymc_bridge import PyMCModel as PyMCModel

__all__ = [
    "BetaBernoulli",
    "CallableModel",
    "DirichletCategorical",
    "DirichletData",
    "LinearRegression",
    "LogisticRegression",
    "NaiveBayesLogLinear",
    "NormalMean",
    "NormalMeanVariance",
    "PoissonGamma",
    "PyMCModel",
]


def __getattr__(name: str) -> Any:
    if name == "PyMCModel":  # its module is outside this folder, beside what else connects to PyMC
        from ..pymc_bridge import PyMCModel

        return PyMCModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
