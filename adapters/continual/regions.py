r"""After a task: where in the latent space each class lives, and where it ends.

The encoder sees what the task trained on, replayed records included. The records of a class c that are classified correctly give
the mean and the covariance of its aggregate posterior, from sampled latents :math:`z \sim q(z | x)`, and two bounds:

* the **replay bound** on sampled latents, always in the cosine distance. Most of the prior lies beyond it, where with Euclid's distance
  nearly nothing does, since prior draws have small norms;
* the **bound** of rejection and queries on latent means, of any kind.

A class of which the task had no record keeps the region that it had; draws from its Gaussian stand for its latents.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bound import Bound
from .conformal import ConformalBound
from .replay.aggregate import aggregate_posterior
from .trained import Array, Records, Trained
from .weibull import WeibullBound

ABSENT_DRAWS = 500  # that stand for the latents of a class of which the task had no record


@dataclass(frozen=True)
class Regions:
    """Aggregate posterior of every class, and its bounds.

    Attributes
    ----------
    means, covariances : ndarray of shape (n_classes, d) and (n_classes, d, d)
        Of sampled latents.
    bound, replay_bound : Bound
        Labels are codes.
    """

    means: Array
    covariances: Array
    bound: Bound
    replay_bound: WeibullBound

    @property
    def starved(self) -> NDArray[np.bool_]:
        """Classes with too few correct records for a bound of their own, shape (n_classes,)."""
        return self.bound.starved_ | self.replay_bound.starved_


def learn_regions(
    trained: Trained,
    X: Records,
    codes: NDArray[np.int64],
    held_out: tuple[Records, NDArray[np.int64]],
    bound: Bound,
    previous: tuple[Array, Array] | None,
    rng: np.random.Generator,
) -> Regions:
    """Regions of all classes.

    Parameters
    ----------
    trained : Trained
    X : ndarray of shape (n, ...)
        Training records.
    codes : ndarray of shape (n,)
    held_out : tuple of ndarray (m, ...) and ndarray (m,)
        Records that the model was not trained on, which calibrate a `ConformalBound`; may be empty.
    bound : Bound
        To be fitted.
    previous : tuple of ndarray (k, d) and ndarray (k, d, d), or None
        Means and covariances of the k classes before the task.
    rng : Generator

    Returns
    -------
    Regions
    """
    mean, scale = trained.encode(X)
    sample = mean + scale * rng.standard_normal(mean.shape)
    predicted = trained.classify(sample)
    regions = []
    for c in range(len(trained.weights)):
        own = (codes == c) & (predicted == c)
        own = own if own.any() else codes == c
        if own.any():
            regions.append(aggregate_posterior(sample[own]))
            continue
        kept = (previous[0][c], previous[1][c])
        draws = rng.multivariate_normal(*kept, ABSENT_DRAWS, method="cholesky")
        sample, mean = np.concatenate([sample, draws]), np.concatenate([mean, draws])
        absent = np.full(ABSENT_DRAWS, c)
        codes, predicted = np.concatenate([codes, absent]), np.concatenate([predicted, absent])
        regions.append(kept)
    with warnings.catch_warnings():  # of classes by their codes; the estimator names them
        warnings.simplefilter("ignore", UserWarning)
        replay_bound = WeibullBound().fit(sample, codes, predicted)
        bound = _fit(bound, trained, mean, codes, held_out)
    means, covariances = (np.stack(values) for values in zip(*regions, strict=True))
    return Regions(means, covariances, bound, replay_bound)


def _fit(bound: Bound, trained: Trained, mean: Array, codes, held_out) -> Bound:
    """On latent means; what calibrates has to be new to the model."""
    if not isinstance(bound, ConformalBound) or not len(held_out[0]):
        return bound.fit(mean, codes, trained.classify(mean))
    calibration = trained.encode(held_out[0])[0]
    latents = np.concatenate([mean, calibration])
    return bound.fit(
        latents,
        np.concatenate([codes, held_out[1]]),
        trained.classify(latents),
        held_out=np.repeat([False, True], [len(mean), len(calibration)]),
    )
