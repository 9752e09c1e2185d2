r"""Open-set replay: draws from the prior, rejected where the aggregate posterior has never been (OpenVAE).

z ~ N(0, I) with label c = argmax W z is kept if its outlier probability :math:`w_c(z)` is below omega, until every class has
its share. The prior's mass hardly overlaps with that of a well separated aggregate posterior: with a weak divergence term
one draw in a thousand is kept. The loop therefore has an end: classes still short after `MAX_DRAWS` draws go on
with :math:`z \sim N(0, \max_c \lVert\bar z_c\rVert^2 I)`, as in the original, and what is then missing is filled up with the
draws of that label that lie least far out.

Mundt, M. et al. (2022). Unified probabilistic deep continual learning through generative replay and open set recognition.
Journal of Imaging 8, 93.
"""

from __future__ import annotations

import numpy as np

from .past import Array, Past, Replayed, assemble, register, share_out

BLOCK = 16_384  # draws at a time
MAX_DRAWS = 2_000_000  # of each of the two scales


@register("openset")
def openset(past: Past, n: int, rng: np.random.Generator) -> Replayed:
    """n draws inside the bound, equally many of each class."""
    wanted = share_out(n, past.n_classes)
    kept: list[list[Array]] = [[] for _ in wanted]
    spare: list[tuple[Array, Array]] = [
        (np.empty((0, past.weights.shape[1])), np.empty(0)) for _ in wanted
    ]
    have, drawn, inside = (np.zeros(past.n_classes, dtype=np.int64) for _ in range(3))
    for scale in (1.0, float(np.linalg.norm(past.means, axis=1).max())):
        for _ in range(MAX_DRAWS // BLOCK):
            if (have >= wanted).all():
                break
            Z = scale * rng.standard_normal((BLOCK, past.weights.shape[1]))
            labels = past.classify(Z)
            open_ = np.flatnonzero((have < wanted)[labels])
            w = past.bound.outlier_proba(Z[open_], labels[open_])
            for c in np.flatnonzero(have < wanted):
                here = labels[open_] == c
                good = open_[here & (w < past.omega)]
                drawn[c] += np.count_nonzero(here)
                inside[c] += len(good)
                good = good[: wanted[c] - have[c]]
                kept[c].append(Z[good])
                have[c] += len(good)
                if have[c] < wanted[c]:
                    spare[c] = _nearest(spare[c], Z[open_[here]], w[here], int(wanted[c]))
    starved = [int(c) for c in np.flatnonzero(have < wanted)]
    for c in starved:
        beyond = spare[c][0][spare[c][1] >= past.omega][: wanted[c] - have[c]]
        kept[c].append(beyond)
    with np.errstate(invalid="ignore"):
        acceptance = inside / np.where(drawn > 0, drawn, np.nan)
    return assemble(past, [np.concatenate(z) for z in kept], acceptance, starved)


def _nearest(spare: tuple[Array, Array], Z: Array, w: Array, n: int) -> tuple[Array, Array]:
    """The n draws that lie least far out, of those kept in reserve and the new ones."""
    Z, w = np.concatenate([spare[0], Z]), np.concatenate([spare[1], w])
    best = np.argsort(w, kind="stable")[:n]
    return Z[best], w[best]
