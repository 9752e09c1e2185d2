"""Estimators for common releases: a proportion, a table, naive Bayes, a linear regression.

Each is a `PrivatePosterior` that builds its model itself, from the shape or the names of the release; all of its methods
(`summary`, `conf_int`, `naive_posterior`, `sample_predictive`, ...) and attributes (`idata_`, ...) are there.
"""

from .contingency_table import PrivateContingencyTable
from .linear_regression import PrivateLinearRegression
from .naive_bayes import PrivateNaiveBayes
from .proportion import PrivateProportion

__all__ = [
    "PrivateContingencyTable",
    "PrivateLinearRegression",
    "PrivateNaiveBayes",
    "PrivateProportion",
]
