r"""Central-limit Gibbs sampling: the total of the records is taken as normal given theta. Approximate.

.. math::  S \mid \theta \approx N(n \mu_t(\theta), n \Sigma_t(\theta)), \quad s_j \mid S \sim N(S_j, V_j),

with known :math:`V_j` for Gaussian noise; Laplace noise of scale b is such a mixture with exponential :math:`V_j` of mean
:math:`2 b^2`, and :math:`1 / V_j \mid S` is inverse Gaussian with mean :math:`1 / (b |s_j - S_j|)` and shape :math:`1 / b^2`. S given
theta, V and s is normal, and theta given S comes from the model. No record is imputed: a sweep costs the same for every n.

The approximation is poor for small n, for heavily clamped records, and wherever theta given the total is itself an approximation;
it serves for very large n and as a start for exact kernels.

Reference: Bernstein, G. and Sheldon, D. (2018). Differentially private Bayesian inference for exponential families. NeurIPS;
(2019). Differentially private Bayesian linear regression. NeurIPS.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..protocols import Array, ChainState, Mechanism, RecordModel
from .chain import LogEta, sums_the_model


class CentralLimit:
    """Approximate Gibbs sampling of theta, the total and the variances of the noise.

    Parameters
    ----------
    model : RecordModel
        With `moments` and `draw_from_totals`.
    mechanism : Mechanism
        Laplace or Gaussian noise on the statistics of the model.
    """

    name = "clt"

    def __init__(self, model: RecordModel, mechanism: Mechanism):
        noise = None
        if sums_the_model(mechanism):
            noise = mechanism.separable(len(model.statistic_names))
        if noise is None or not (hasattr(model, "moments") and hasattr(model, "draw_from_totals")):
            raise ValueError(
                'kernel="clt" needs Laplace or Gaussian noise and a model with moments and draw_from_totals; got '
                f"{type(mechanism).__name__} and {type(model).__name__}"
            )
        self.model = model
        self.mechanism = mechanism
        self.power, self.weight = noise.power, noise.weight
        self.log_eta = LogEta(mechanism, model)
        self.inverse_temperature = 1.0

    def sweep(
        self, state: ChainState, release: Array, rng: np.random.Generator
    ) -> tuple[ChainState, dict[str, Any]]:
        """Variances given S, S given theta and the variances, theta given S; latent records stay as they are."""
        n = len(state.x)
        precision = noise_precision(release - state.S, self.power, self.weight, rng)
        mean, covariance = self.model.moments(state.theta, n)
        S = product_of_normals(
            n * np.asarray(mean), n * np.asarray(covariance), release, precision, rng
        )
        theta = np.asarray(self.model.draw_from_totals(S, n, state.theta, rng), dtype=float)
        # of the noise as a continuous one: the normal total is no integer
        log_eta = self.log_eta(release, S)
        return ChainState(theta, state.x, state.t, S, log_eta), {"accepted": 1.0, "cost": 1.0}


def noise_precision(z: Array, power: Array, weight: Array, rng: np.random.Generator) -> Array:
    """1 / V_j given the noise z_j: fixed for Gaussian noise, inverse Gaussian for Laplace noise."""
    precision = 2 * np.asarray(weight, dtype=float)
    laplace = power == 1
    if laplace.any():
        b = 1 / weight[laplace]
        distance = np.maximum(np.abs(z[laplace]), 1e-10 * b)
        precision[laplace] = rng.wald(1 / (b * distance), 1 / b**2)
    return precision


def product_of_normals(
    mean: Array, covariance: Array, release: Array, precision: Array, rng: np.random.Generator
) -> Array:
    """A draw of S with prior N(mean, covariance) and release ~ N(S, diag(1 / precision)).

    Written with the covariance rather than its inverse, since statistics may be constant.
    """
    # With A = covariance, D = diag(precision): posterior covariance A - A R (I + R A R)^-1 R A, R = D^(1/2).
    root = np.sqrt(precision)
    inner = np.eye(len(mean)) + root[:, None] * covariance * root
    gain = covariance * root @ np.linalg.inv(inner) * root
    posterior_mean = mean + gain @ (release - mean)
    posterior = covariance - gain @ covariance
    values, vectors = np.linalg.eigh((posterior + posterior.T) / 2)
    return posterior_mean + vectors @ (
        np.sqrt(np.maximum(values, 0)) * rng.standard_normal(len(mean))
    )
