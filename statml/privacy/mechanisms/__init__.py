"""Privacy mechanisms: how a released statistic was noised. One file a mechanism.

Additive noise on the total of a statistic: `Laplace`, `Gaussian`, `DiscreteLaplace`, `DiscreteGaussian`. Answers of single
records: `RandomizedResponse`. Releases that are no sum: `ObjectivePerturbation`, `FiniteExponential`. Built from others:
`Composed`, `Censored`, `Rounded`. Anything else: `Custom`. `from_opendp` reads an OpenDP measurement.
"""

from ._opendp import from_opendp
from .censored import Censored
from .composed import Composed
from .custom import Custom
from .discrete_gaussian import DiscreteGaussian
from .discrete_laplace import DiscreteLaplace
from .finite_exponential import FiniteExponential
from .gaussian import Gaussian
from .laplace import Laplace
from .objective_perturbation import ObjectivePerturbation
from .randomized_response import RandomizedResponse
from .rounded import Rounded

__all__ = [
    "Censored",
    "Composed",
    "Custom",
    "DiscreteGaussian",
    "DiscreteLaplace",
    "FiniteExponential",
    "Gaussian",
    "Laplace",
    "ObjectivePerturbation",
    "RandomizedResponse",
    "Rounded",
    "from_opendp",
]
