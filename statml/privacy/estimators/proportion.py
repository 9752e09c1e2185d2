r"""A proportion from a noisy count or from randomised answers: :math:`p \sim \mathrm{Beta}(a, b)`, see `statml.privacy.models.BetaBernoulli`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Self

from numpy.typing import ArrayLike

from ..._validation import RandomState
from ..models import BetaBernoulli
from ..protocols import Mechanism
from ._own_model import OwnModel


class PrivateProportion(OwnModel):
    """A proportion, from a noisy count of ones or from randomised answers.

    Parameters
    ----------
    mechanism : Mechanism
        Noise on the count, or `RandomizedResponse` of two categories.
    n_records : int
        Public number of records.
    a, b : float, default=1.0
        Beta prior of the proportion; 1 and 1 make it uniform.
    draws, tune, chains, kernel, n_jobs, progress, checkpoint_dir, random_state
        As in `PrivatePosterior`.

    Attributes
    ----------
    proportion_ : float
        Posterior mean.
    model : BetaBernoulli
        And the attributes of `PrivatePosterior`.

    Examples
    --------
    >>> from statml.privacy import PrivateProportion, mechanisms
    >>> fit = PrivateProportion(mechanisms.DiscreteLaplace(scale=2), n_records=30, random_state=0).fit(17)
    >>> round(fit.proportion_, 2)
    0.56
    """

    def __init__(
        self,
        mechanism: Mechanism,
        n_records: int,
        a: float = 1.0,
        b: float = 1.0,
        draws: int = 2000,
        tune: int = 1000,
        chains: int = 4,
        kernel: str = "auto",
        n_jobs: int | None = None,
        progress: bool | str = "auto",
        checkpoint_dir: str | os.PathLike[str] | None = None,
        random_state: RandomState = None,
    ):
        self.mechanism = mechanism
        self.n_records = n_records
        self.a = a
        self.b = b
        self.draws = draws
        self.tune = tune
        self.chains = chains
        self.kernel = kernel
        self.n_jobs = n_jobs
        self.progress = progress
        self.checkpoint_dir = checkpoint_dir
        self.random_state = random_state

    def fit(self, release: ArrayLike | Mapping[str, float], y: None = None) -> Self:
        """Draw from the posterior.

        Parameters
        ----------
        release : float, array-like of shape (1,) or dict with the key "count"; or the n randomised answers, or their two counts
        y : ignored
        """
        self._model = BetaBernoulli(self.a, self.b)
        super().fit(release)
        self.proportion_ = float(self.posterior_mean_[0])
        return self
