r"""DataInf: the mean of inverses in place of the inverse of the mean, layer by layer.

.. math::  H^{-1}v \approx \frac{1}{n\lambda}\sum_i\Big[v - \frac{g_i^\top v}{\lambda + \|g_i\|^2}\,g_i\Big],

each layer l with a λ_l of its own, 0.1 times the mean squared entry of its gradients. Exact for n = 1. It is made for many
parameters and gradients that are nearly orthogonal (LoRA adapters); in a model with few parameters the swap of mean
and inverse is far off, as ``diagnostics_["solver_residual"]`` shows.

Cost: two passes over the gradients; no matrix at all.

Reference: Kwon, Y., Wu, E., Wu, K. and Zou, J. (2024). DataInf: efficiently estimating data influence in
LoRA-tuned LLMs and diffusion models. ICLR. Equation 5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..oracle import take
from .ekfac import layer_blocks


class DataInfSolver:
    """H^{-1} of the empirical Fisher matrix by swapping mean and inverse.

    Parameters
    ----------
    curvature : Curvature
        Its damping, where one was given, replaces λ of every layer; its kind does not matter.
    damping : "auto" or float
        As the user gave it.
    """

    def __init__(self, curvature, damping: str | float):
        self.oracle = oracle = curvature.oracle
        try:
            self.blocks_ = [block for block, _ in layer_blocks(oracle)]
        except ValueError:
            self.blocks_ = [slice(0, oracle.n_params)]
        self.squares_ = np.empty((oracle.n_train, len(self.blocks_)))
        for part, g in self._gradients():
            for l, block in enumerate(self.blocks_):
                self.squares_[part, l] = np.einsum("ij,ij->i", g[:, block], g[:, block])
        if damping == "auto":
            sizes = np.array([block.stop - block.start for block in self.blocks_])
            self.lambda_ = 0.1 * self.squares_.mean(axis=0) / sizes
        else:
            self.lambda_ = np.full(len(self.blocks_), float(damping))
        if np.any(self.lambda_ <= 0):
            raise ValueError(
                'solver="datainf" needs damping > 0; leave it at "auto" or pass a number'
            )
        self.report_ = {"datainf_lambda": self.lambda_.tolist()}

    def solve(self, V: NDArray) -> NDArray:
        """H^{-1}v of every row v of an array of shape (k, p), approximately."""
        n, weight = self.oracle.n_train, self.oracle.sample_weight
        out = np.zeros_like(V, dtype=float)
        for part, g in self._gradients():
            for l, block in enumerate(self.blocks_):
                # a record's weight scales its term of the Fisher matrix
                scale = weight[part] / (self.lambda_[l] + weight[part] * self.squares_[part, l])
                out[:, block] -= (V[:, block] @ g[:, block].T * scale) @ g[:, block]
        for l, block in enumerate(self.blocks_):
            out[:, block] = (V[:, block] + out[:, block] / n) / self.lambda_[l]
        return out

    def _gradients(self):
        oracle = self.oracle
        for part in oracle.batches():
            yield part, oracle.grad(take(oracle.X, part), take(oracle.y, part))
