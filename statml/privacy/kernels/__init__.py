"""Kernels: how a chain moves. None knows a particular model or mechanism.

What ``kernel="auto"`` takes, the first line that applies:

==================================================  =======================================================
model and mechanism                                 kernel
==================================================  =======================================================
n is unknown (`n_prior`)                            jumps in n, after sweeps of what the other lines give
the statistic is no sum over records                ``"mwg"``, slow (with a warning)
`block_size` is larger than 1                       ``"block"``
the model draws exactly for this release            ``"exact"``: independent draws, no chain
randomised response and a model of categories       ``"gibbs"`` on counts
the model has to_ancillary and from_ancillary       ``"interweave"``, left out again where warm-up shows no gain
anything else                                       ``"mwg"``
==================================================  =======================================================

``"soma"`` and ``"clt"`` are never chosen: the first seldom pays its cost, the second is approximate. Latent records exist only
under ``"mwg"``, ``"interweave"``, ``"block"`` and ``"soma"``; with ``store_records=True`` the choice is among these.
"""

from __future__ import annotations

from collections.abc import Callable

from ..._validation import check_choice
from ..protocols import Array, Kernel, Mechanism, RecordModel
from .block import BlockUpdates
from .chain import is_additive
from .clt import CentralLimit
from .exact import exact_draws, has_exact
from .gibbs import CountGibbs, allows_gibbs
from .interweave import Interweaving, can_interweave
from .mwg import MetropolisWithinGibbs
from .reversible_jump import ReversibleJump
from .soma import Soma

__all__ = [
    "KERNELS",
    "BlockUpdates",
    "CentralLimit",
    "CountGibbs",
    "Interweaving",
    "MetropolisWithinGibbs",
    "ReversibleJump",
    "Soma",
    "choose_kernel",
    "exact_draws",
    "make_kernel",
]

KERNELS = ("mwg", "interweave", "block", "soma", "gibbs", "exact", "clt")
WITH_RECORDS = ("mwg", "interweave", "block", "soma")


def choose_kernel(
    model: RecordModel,
    mechanism: Mechanism,
    release: Array,
    n_records: int,
    *,
    block_size: int = 1,
    keep_records: bool = False,
) -> str:
    """What "auto" means: the table at the top of this module.

    Parameters
    ----------
    model : RecordModel
    mechanism : Mechanism
    release : ndarray of shape (m,)
    n_records : int
    block_size : int, default=1
    keep_records : bool, default=False
        Whether latent records are needed: to store them, or because their number varies.

    Returns
    -------
    str
    """
    if not is_additive(model):
        return "mwg"
    if block_size > 1:
        return "block"
    if not keep_records:
        if has_exact(model, mechanism, release, n_records):
            return "exact"
        if allows_gibbs(model, mechanism):
            return "gibbs"
    return "interweave" if can_interweave(model) else "mwg"


def make_kernel(
    name: str,
    model: RecordModel,
    mechanism: Mechanism,
    *,
    block_size: int = 1,
    adaptive: bool = False,
    log_prior_n: Callable[[Array], Array] | None = None,
    n_mechanism: Mechanism | None = None,
    n_typical: int = 100,
) -> Kernel:
    """A kernel by its name.

    Parameters
    ----------
    name : str
        One of `KERNELS` but "exact", which is no chain.
    model : RecordModel
    mechanism : Mechanism
    block_size : int, default=1
        1 lets ``"block"`` choose.
    adaptive : bool, default=False
        Whether interweaving may be left out where it does not pay.
    log_prior_n : callable or None, default=None
        Given, the number of records jumps.
    n_mechanism : Mechanism or None, default=None
    n_typical : int, default=100
        About how many records there are, where their number jumps.

    Returns
    -------
    Kernel
    """
    check_choice("kernel", name, KERNELS)
    if name == "exact":
        raise ValueError('kernel="exact" needs a known number of records and keeps none of them')
    if name not in WITH_RECORDS and log_prior_n is not None:
        raise ValueError(f"kernel must be one of {', '.join(WITH_RECORDS)} where n is unknown")
    if name == "block":
        kernel = BlockUpdates(model, mechanism, "auto" if block_size == 1 else block_size)
    elif name == "interweave":
        kernel = Interweaving(model, mechanism, adaptive)
    else:
        kernels = {
            "mwg": MetropolisWithinGibbs,
            "soma": Soma,
            "gibbs": CountGibbs,
            "clt": CentralLimit,
        }
        kernel = kernels[name](model, mechanism)
    if log_prior_n is not None:
        return ReversibleJump(kernel, model, mechanism, log_prior_n, n_mechanism, n_typical)
    return kernel
