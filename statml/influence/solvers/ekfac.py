r"""EK-FAC: Kronecker-factored curvature, corrected in its eigenbasis, layer by layer.

A layer with inputs a (a one appended for the bias) and loss gradients δ at its outputs has record gradients
δaᵀ. With labels drawn from the model, so that outer products estimate the Fisher matrix,

.. math::  A = E[aa^\top] = Q_A\Lambda_A Q_A^\top,\quad S = E[\delta\delta^\top] = Q_S\Lambda_S Q_S^\top,\quad
           \Lambda_{ij} = E\big[(Q_S^\top \delta a^\top Q_A)_{ij}^2\big],

.. math::  H^{-1}V \approx Q_S\big[(Q_S^\top V Q_A) / (\Lambda + \lambda)\big]Q_A^\top .

Layers are taken as independent. For one linear layer with squared loss it is exact; for others it has the smallest Frobenius
error of all matrices with these eigenvectors.

Cost: O(n(d_in² + d_out²) + d_in³ + d_out³) a layer once, O(d_in d_out (d_in + d_out)) a right-hand side.

Reference: Grosse, R. et al. (2023). Studying large language model generalization with influence functions.
arXiv:2308.03296, section 2.2; George, T. et al. (2018). Fast approximate natural gradient descent in a
Kronecker-factored eigenbasis. NeurIPS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..oracle import take


@dataclass
class LayerBasis:
    """Eigenbasis of one layer: outputs Q_S (out, out), inputs Q_A (in, in), eigenvalues (out, in)."""

    block: slice
    Q_S: NDArray
    Q_A: NDArray
    eigenvalues: NDArray


class EKFACSolver:
    """H^{-1} in the Kronecker eigenbasis of every layer.

    Parameters
    ----------
    curvature : Curvature
        Its kind does not matter: EK-FAC is an approximation of the Fisher (Gauss-Newton) matrix.
    rng : numpy.random.Generator
        Draws the labels.
    """

    def __init__(self, curvature, rng: np.random.Generator):
        self.layers_ = ekfac(curvature, rng)
        smallest = min(layer.eigenvalues.min() for layer in self.layers_)
        largest = max(layer.eigenvalues.max() for layer in self.layers_)
        if smallest <= 1e-13 * largest:
            raise ValueError(
                f"EK-FAC is singular: its eigenvalues reach from {smallest:.2g} to {largest:.2g}; pass damping="
                f"{0.1 * curvature.mean_eigenvalue():.1g} or so"
            )
        self.report_ = {"condition_number": float(largest / smallest)}

    def solve(self, V: NDArray) -> NDArray:
        """H^{-1}v of every row v of an array of shape (k, p), approximately."""
        return apply_spectrum(self.layers_, V, lambda eigenvalues: 1 / eigenvalues)


def ekfac(curvature, rng: np.random.Generator) -> list[LayerBasis]:
    """Eigenbases and corrected eigenvalues of all layers, penalty and damping included.

    Raises
    ------
    ValueError
        If the model has no layers that cover all its parameters.
    """
    parts = list(_factor_batches(curvature, rng))
    A = [sum(p[l][2] @ _gram(p[l][0]) for p in parts) for l in range(len(parts[0]))] if 0 else None
    del A
    return _bases(curvature, parts)
