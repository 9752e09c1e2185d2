"""Which records to keep, or to ask about: rules that choose n of a pool."""

from . import below_bound, entropy, herding, inverse_cdf, k_center, k_means, random_choice
from .bound_filter import BoundFilter, check_band, in_band
from .exemplars import select_exemplars
from .pool import RULES, Pool, find_rule, register

__all__ = [
    "RULES",
    "BoundFilter",
    "Pool",
    "below_bound",
    "check_band",
    "entropy",
    "find_rule",
    "herding",
    "in_band",
    "inverse_cdf",
    "k_center",
    "k_means",
    "random_choice",
    "register",
    "select_exemplars",
]
