r"""Replay from the aggregate posterior itself: a Gaussian for each class, inside the bound.

Rather than wait for the prior to fall into the region that a class occupies, draw there:
:math:`z \sim N(\bar z_c, \hat\Sigma_c)`, with the covariance of the class's sampled latents shrunk towards a multiple of the
identity (Ledoit and Wolf 2004), and keep the draw if :math:`w_c(z)` is below omega. About half are kept, where the prior's
draws are kept one in a thousand. Costs C(d² + d) numbers of memory and no stored record.
"""

from __future__ import annotations

import numpy as np
from sklearn.covariance import ledoit_wolf

from .past import Array, Past, Replayed, assemble, register, share_out

MAX_ROUNDS = 50


@register("aggregate")
def aggregate(past: Past, n: int, rng: np.random.Generator) -> Replayed:
    """n draws, equally many of each class."""
    drawn_for, acceptance, starved = [], np.empty(past.n_classes), []
    for c, wanted in enumerate(share_out(n, past.n_classes)):
        mean, root = past.means[c], np.linalg.cholesky(past.covariances[c])
        Z, w = np.empty((0, len(mean))), np.empty(0)
        drawn = 0
        for _ in range(MAX_ROUNDS):
            new = mean + rng.standard_normal((max(2 * int(wanted), 64), len(mean))) @ root.T
            Z = np.concatenate([Z, new])
            w = np.concatenate([w, past.bound.outlier_proba(new, np.full(len(new), c))])
            drawn += len(new)
            if np.count_nonzero(w < past.omega) >= wanted:
                break
        inside = w < past.omega
        acceptance[c] = inside.mean()
        # those inside in the order of their drawing, then, where they do not suffice, the least far out
        order = np.argsort(np.where(inside, -1.0, w), kind="stable")[:wanted]
        if np.count_nonzero(inside) < wanted:
            starved.append(c)
        drawn_for.append(Z[order])
    return assemble(past, drawn_for, acceptance, starved)


def aggregate_posterior(Z: Array) -> tuple[Array, Array]:
    """Mean and shrunk covariance of the sampled latents of one class, (n, d)."""
    d = Z.shape[1]
    covariance = ledoit_wolf(Z)[0] if len(Z) > 1 else np.zeros((d, d))
    # never singular: a latent that does not vary keeps a millionth of the mean variance
    floor = 1e-6 * max(np.trace(covariance) / d, 1e-6)
    return Z.mean(axis=0), covariance + floor * np.eye(d)
