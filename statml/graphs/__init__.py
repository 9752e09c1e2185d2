"""Networks: statuses of nodes with standard errors, comparisons with controlled errors, ranks."""

from .comparisons import NodeComparisons, PairComparison
from .directed_beta import DirectedBetaModel
from .displays import ComparisonDisplay, DegreeFitDisplay, RankingDisplay
from .families import Conditional, Family, SparseLogit, Trinomial
from .goodness_of_fit import GoodnessOfFit
from .network import SignedNetwork, from_edgelist
from .signed_beta import SignedBetaModel

__all__ = [
    "ComparisonDisplay",
    "Conditional",
    "DegreeFitDisplay",
    "DirectedBetaModel",
    "Family",
    "GoodnessOfFit",
    "NodeComparisons",
    "PairComparison",
    "RankingDisplay",
    "SignedBetaModel",
    "SignedNetwork",
    "SparseLogit",
    "Trinomial",
    "from_edgelist",
]
