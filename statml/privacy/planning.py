"""From the arguments of a `PrivatePosterior` and a release to the plan of a run: all checks, and what "auto" leaves open."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .._validation import check_choice, check_integer
from ..parallel import check_progress
from .kernels import KERNELS, choose_kernel, exact_draws
from .kernels.chain import is_additive
from .mechanisms._release import as_release
from .protocols import Array, Mechanism, RecordModel
from .sampling import Plan

if TYPE_CHECKING:
    from .posterior import PrivatePosterior


def make_plan(posterior: PrivatePosterior, release: ArrayLike | Mapping[str, float]) -> Plan:
    """Check all arguments and settle what "auto" leaves open."""
    check_choice("kernel", posterior.kernel, ("auto", *KERNELS))
    for name, low in (("draws", 1), ("tune", 0), ("chains", 1), ("block_size", 1)):
        check_integer(name, getattr(posterior, name), low=low)
    check_progress(posterior.progress)
    if not isinstance(posterior.mechanism, Mechanism):
        raise TypeError(f"mechanism must be a Mechanism, got {type(posterior.mechanism).__name__}")
    if not isinstance(posterior.model, RecordModel):
        raise TypeError(
            "model must have parameter_names, statistic_names, sample_prior, sample_records, statistic and "
            f"draw_posterior, got {type(posterior.model).__name__}"
        )
    init = init_of(posterior)
    if not getattr(posterior.model, "prior_is_proper", True):
        if not posterior.allow_improper:
            raise ValueError(
                f"{type(posterior.model).__name__} has an improper prior: a private release holds finite information, so that the "
                "posterior may be improper too. Give a proper prior, or allow_improper=True with init"
            )
        if init is None and posterior.kernel != "exact":
            raise ValueError("init must be given where the prior is improper")
    if posterior.n_prior is None and posterior.n_mechanism is not None:
        raise ValueError('n_mechanism needs n_prior, a prior of n ("flat" for a flat one)')
    if posterior.n_prior is None or posterior.n_records is not None:
        check_integer("n_records", posterior.n_records, low=1)
    s = checked_release(posterior, release)
    plan = Plan(
        model=posterior.model,
        mechanism=posterior.mechanism,
        release=s,
        n_records=posterior.n_records,
        kernel=posterior.kernel,
        tune=posterior.tune,
        draws=posterior.draws,
        block_size=posterior.block_size,
        log_prior_n=None
        if posterior.n_prior is None
        else log_prior_of_n(posterior.n_prior, posterior.n_mechanism),
        n_mechanism=posterior.n_mechanism,
        init=init,
        store_records=posterior.store_records,
    )
    if posterior.n_prior is not None:
        if posterior.store_records:
            raise ValueError("store_records must be False where n is unknown: their number varies")
        plan = replace(plan, n_records=first_n(posterior, plan))
    if not is_additive(posterior.model):
        if posterior.kernel not in ("auto", "mwg"):
            raise ValueError(
                f'kernel must be "auto" or "mwg" for a statistic that is no sum over records, got {posterior.kernel!r}'
            )
        warnings.warn(
            f"the statistic of {type(posterior.model).__name__} is no sum over records: every proposal computes it anew, and "
            "a sweep takes time proportional to n squared",
            stacklevel=4,
        )
    kernel = plan.kernel
    if kernel == "auto":
        kernel = choose_kernel(
            posterior.model,
            posterior.mechanism,
            s,
            plan.n_records,
            block_size=posterior.block_size,
            keep_records=posterior.store_records or posterior.n_prior is not None,
        )
    elif kernel == "mwg" and posterior.block_size > 1:
        kernel = "block"
    if kernel in ("exact", "gibbs", "clt") and posterior.store_records:
        raise ValueError(
            f"store_records must be False with kernel={kernel!r}: no records are imputed"
        )
    if kernel == "exact":
        exact_draws(
            posterior.model, posterior.mechanism, s, plan.n_records, 1, np.random.default_rng(0)
        )
        if posterior.n_prior is not None:
            raise ValueError('kernel="exact" needs a known number of records')
    if kernel == "clt":
        warnings.warn(
            'kernel="clt" is approximate: it takes the totals of the records as normal. Compare with kernel="auto" where '
            "n is small or records are clamped often.",
            stacklevel=4,
        )
    return replace(plan, kernel=kernel, adaptive=posterior.kernel == "auto")


def checked_release(posterior: PrivatePosterior, release: ArrayLike | Mapping[str, float]) -> Array:
    """The release in the order of the statistics, a noisy number of records last."""
    if isinstance(release, pd.Series):
        release = release.to_dict()
    names = list(posterior.model.statistic_names)
    if posterior.n_mechanism is None:
        known_n = posterior.n_records if posterior.n_prior is None else None
        return posterior.mechanism.check_release(release, names, known_n)
    values = as_release(release, [*names, "n"])
    return np.concatenate(
        [
            posterior.mechanism.check_release(values[:-1], names),
            posterior.n_mechanism.check_release(values[-1:], ["n"]),
        ]
    )


def init_of(posterior: PrivatePosterior) -> Array | None:
    """Where chains start, (chains, k); None: at draws from the prior."""
    if isinstance(posterior.init, str):
        check_choice("init", posterior.init, ("prior",))
        return None
    init, k = np.asarray(posterior.init, dtype=float), len(posterior.model.parameter_names)
    if init.shape not in ((k,), (posterior.chains, k)) or not np.isfinite(init).all():
        raise ValueError(
            f'init must be "prior", or finite and of shape ({k},) or ({posterior.chains}, {k}): one value a parameter in the order '
            f"{', '.join(posterior.model.parameter_names)}; got shape {init.shape}"
        )
    return np.broadcast_to(init, (posterior.chains, k)).copy()


def first_n(posterior: PrivatePosterior, plan: Plan) -> int:
    """The number of records that chains start with: one that prior and release allow."""
    if plan.n_records is not None:
        guess = plan.n_records
    elif posterior.n_mechanism is not None:
        guess = max(int(np.rint(plan.release[-1])), 1)
    elif hasattr(posterior.n_prior, "median"):
        guess = max(int(posterior.n_prior.median()), 1)
    else:
        raise ValueError("n_records must be given, as the number to start with, for this n_prior")
    near = np.arange(max(guess - 1000, 1), guess + 1001)
    log_p = np.asarray(plan.log_prior_n(near), dtype=float)
    if posterior.n_mechanism is not None:
        log_p = log_p + posterior.n_mechanism.log_density(
            plan.release[-1:], near[:, None].astype(float)
        )
    possible = near[log_p > -np.inf]
    if not len(possible):
        raise ValueError(f"n_prior gives no probability to any number of records near {guess}")
    return int(possible[np.abs(possible - guess).argmin()])


class _FlatPrior:
    """log p(n) of a flat prior."""

    def __call__(self, n: Array) -> Array:
        return np.zeros(len(n))


def log_prior_of_n(prior: object, n_mechanism: Mechanism | None) -> Callable[[Array], Array]:
    """The log prior of n as a function of an array of numbers."""
    if isinstance(prior, str):
        check_choice("n_prior", prior, ("flat",))
        if n_mechanism is None:
            raise ValueError(
                'n_prior="flat" needs n_mechanism: without a release of n its posterior is improper'
            )
        return _FlatPrior()
    if hasattr(prior, "logpmf"):
        return prior.logpmf
    if callable(prior):
        return prior
    raise TypeError(
        f'n_prior must be a distribution with logpmf, a callable, "flat" or None, got {type(prior).__name__}'
    )
