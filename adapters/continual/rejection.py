r"""Known or unknown? Two scores of a record, and one verdict with a promise.

* The **latent** score: the distance of :math:`\mu(x)` to the mean :math:`\bar z_c` of the class c that the classifier says,
  :math:`(\mu(x) - \bar z_c)^\top S^{-1} (\mu(x) - \bar z_c)` with S the covariance of latent means within classes (Lee et al. 2018), shrunk
  as in `replay.aggregate`.
  Foreign records often move along directions in which no known record varies; the cosine and Euclid's distance, by which the bounds
  of replay and queries measure, hardly see that.
* The **reconstruction** score: how untypical the reconstruction error r(x) is *for that class*,
  :math:`|\log r(x) - m_c| / s_c`, with m and s the median and the median absolute deviation of the class's known records. Two-sided:
  an image of another kind can be reconstructed too well as well as too badly. (Digits are emptier than clothes; under a
  model of clothes their error is *smaller*, and the one-sided score of the literature finds none of them.)

Neither sees everything. Their combination is calibrated on held-out records like any other score (`calibrated_combination`),
so that the share of known records that is rejected stays at its level. The **entropy** and the **softmax** (1 minus the
largest probability) of the classifier are there to compare with.

References
----------
Lee, K., Lee, K., Lee, H. and Shin, J. (2018). A simple unified framework for detecting out-of-distribution samples and
adversarial attacks. Advances in Neural Information Processing Systems 31.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .combining import calibrated_combination
from .conformal import conformal_p_values
from .replay.aggregate import aggregate_posterior
from .selection.entropy import predictive_entropy
from .trained import Array, Records, Trained

SCORES = ("combined", "latent", "reconstruction", "entropy", "softmax")


@dataclass(frozen=True)
class Typicality:
    """What is usual of the records of each class.

    Attributes
    ----------
    means : ndarray of shape (n_classes, d)
        Of latents.
    covariance : ndarray of shape (d, d)
        Of latent means within classes.
    centre, spread : ndarray of shape (n_classes,)
        Median and median absolute deviation of the log reconstruction error.
    """

    means: Array
    covariance: Array
    centre: Array
    spread: Array

    @classmethod
    def of(cls, trained: Trained, X: Records, codes: NDArray[np.int64], means: Array) -> Typicality:
        """Of the correctly classified ones of the records; a class that has none takes the errors of all together."""
        mean, _ = trained.encode(X)
        correct = trained.classify(mean) == codes
        if np.count_nonzero(correct) < 2:
            correct[:] = True
        mean, codes, X = mean[correct], codes[correct], X[correct]
        _, covariance = aggregate_posterior(mean - means[codes])
        log = np.log(trained.reconstruction_nll(X, mean))
        centre = np.full(len(means), np.median(log))
        spread = np.full(len(means), _mad(log))
        for c in range(len(means)):
            own = log[codes == c]
            if len(own) > 2:
                centre[c], spread[c] = np.median(own), _mad(own)
        return cls(means, covariance, centre, spread)

    def scores(self, trained: Trained, X: Records) -> Array:
        """Columns latent, reconstruction, entropy and softmax, shape (n, 4); high is suspicious."""
        mean, scale = trained.encode(X)
        codes = trained.classify(mean)
        log = np.log(trained.reconstruction_nll(X, mean))
        proba = trained.class_proba(mean, scale)
        columns = [
            self.distance(mean, codes),
            np.abs(log - self.centre[codes]) / self.spread[codes],
            predictive_entropy(proba),
            1 - proba.max(axis=1),
        ]
        return np.stack(columns, axis=1)

    def distance(self, mean: Array, codes: NDArray[np.int64]) -> Array:
        """Mahalanobis distance of latents to the means of classes, squared."""
        from_mean = mean - self.means[codes]
        return (from_mean * np.linalg.solve(self.covariance, from_mean.T).T).sum(axis=1)


def p_values(calibration: Array, scores: Array, score: str) -> Array:
    """Conformal p-values of a column (latent, reconstruction, entropy, softmax), or of the first two together."""
    if score == "combined":
        return calibrated_combination(calibration[:, :2], scores[:, :2], "bonferroni")
    column = SCORES.index(score) - 1
    return conformal_p_values(calibration[:, column], scores[:, column])


def _mad(values: Array) -> float:
    return max(float(np.median(np.abs(values - np.median(values)))), 1e-12)
