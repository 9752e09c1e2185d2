r"""LoGra: gradients projected layer by layer on both sides, and an inverse Fisher matrix in the small space.

A layer's record gradient is δaᵀ; with P_o and P_i the leading eigenvectors of E[δδᵀ] and E[aaᵀ] (k_o and k_i rows),
(P_oδ)(P_ia)ᵀ is what is kept of it, and

.. math::  H^{-1} \approx P^\top\Big(\frac1n\sum_i Pg_i\,(Pg_i)^\top + P\,\mathrm{diag}(r + \lambda)P^\top\Big)^{-1}P,
           \qquad P = \bigoplus_l P_o \otimes P_i .

All layers share one matrix of side Σ k_o k_i.

Cost: two passes over the layers' factors and (Σ k_o k_i)³ once.

Reference: Choe, S. K. et al. (2024). What is your data worth to GPT? LLM-scale data valuation with influence
functions. arXiv:2405.13954, section 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh

from ..oracle import take
from .ekfac import _weighted_gram, layer_blocks


class LoGraSolver:
    """H^{-1} in a space of projected layer gradients.

    Parameters
    ----------
    curvature : Curvature
        Its kind does not matter: the matrix is the empirical Fisher's.
    rank : int
        Dimensions a layer: √rank of its outputs (all, if it has fewer), the rest of its inputs.
    """

    def __init__(self, curvature, rank: int):
        oracle = curvature.oracle
        self.blocks_ = layer_blocks(oracle)
        self.projections_ = _leading_eigenvectors(oracle, self.blocks_, rank)
        gram = 0.0
        for part in oracle.batches():
            weight = oracle.sample_weight[part]
            small = self._project_factors(
                oracle.layer_factors(take(oracle.X, part), take(oracle.y, part))
            )
            gram = gram + (small * weight[:, None]).T @ small
        gram = gram / oracle.n_train
        start = 0
        for (block, shape), (P_o, P_i) in zip(self.blocks_, self.projections_, strict=True):
            size = len(P_o) * len(P_i)
            ridge = curvature.ridge[block].reshape(shape)
            rows = slice(start, start + size)
            basis = np.einsum("ao,bi->aboi", P_o, P_i).reshape(size, -1)
            gram[rows, rows] += (basis * ridge.ravel()) @ basis.T
            start += size
        if np.linalg.cond(gram) > 1e13:
            raise ValueError(
                f"the projected Fisher matrix is singular; pass damping={0.1 * curvature.mean_eigenvalue():.1g} or so"
            )
        self.factor_ = cho_factor(gram)
        self.report_ = {"rank": len(gram)}

    def solve(self, V: NDArray) -> NDArray:
        """H^{-1}v of every row v of an array of shape (k, p), approximately."""
        small = np.hstack(
            [
                (P_o @ V[:, block].reshape(len(V), *shape) @ P_i.T).reshape(len(V), -1)
                for (block, shape), (P_o, P_i) in zip(self.blocks_, self.projections_, strict=True)
            ]
        )
        small = cho_solve(self.factor_, small.T).T
        out, start = np.empty_like(V, dtype=float), 0
        for (block, _), (P_o, P_i) in zip(self.blocks_, self.projections_, strict=True):
            size = len(P_o) * len(P_i)
            matrices = small[:, start : start + size].reshape(len(V), len(P_o), len(P_i))
            out[:, block] = (P_o.T @ matrices @ P_i).reshape(len(V), -1)
            start += size
        return out

    def _project_factors(self, factors) -> NDArray:
        columns = []
        for (a, delta), (P_o, P_i) in zip(factors, self.projections_, strict=True):
            small_a, small_delta = a @ P_i.T, delta @ P_o.T
            pattern = "no,ni->noi" if a.ndim == 2 else "nto,nti->noi"
            columns.append(np.einsum(pattern, small_delta, small_a).reshape(len(a), -1))
        return np.hstack(columns)


def _leading_eigenvectors(oracle, blocks, rank: int) -> list[tuple[NDArray, NDArray]]:
    """P_o (k_o, out) and P_i (k_i, in) of every layer, orthonormal rows."""
    S = [np.zeros((shape[0], shape[0])) for _, shape in blocks]
    A = [np.zeros((shape[1], shape[1])) for _, shape in blocks]
    for part in oracle.batches():
        factors = oracle.layer_factors(take(oracle.X, part), take(oracle.y, part))
        for l, (a, delta) in enumerate(factors):
            A[l] += _weighted_gram(a, oracle.sample_weight[part])
            S[l] += _weighted_gram(delta, oracle.sample_weight[part])
    projections = []
    for S_l, A_l in zip(S, A, strict=True):
        k_o = min(len(S_l), max(1, int(np.sqrt(rank))))
        k_i = min(len(A_l), max(1, rank // k_o))
        projections.append((eigh(S_l)[1][:, ::-1][:, :k_o].T, eigh(A_l)[1][:, ::-1][:, :k_i].T))
    return projections
