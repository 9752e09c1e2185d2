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

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from ..oracle import GradientOracle, take

ENOUGH = 10_000  # drawn labels in all: a small data set is drawn for several times


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
    layer_blocks(curvature.oracle)
    n_thetas = len(curvature.thetas)
    n_draws = max(1, -(-ENOUGH // (curvature.oracle.n_train * n_thetas)))
    seed = int(rng.integers(2**63))  # the same labels in both passes
    A, S = None, None
    for factors, weight in _batches(curvature, n_draws, seed):
        if A is None:
            A = [np.zeros((a.shape[-1], a.shape[-1])) for a, _ in factors]
            S = [np.zeros((delta.shape[-1], delta.shape[-1])) for _, delta in factors]
        for l, (a, delta) in enumerate(factors):
            A[l] += _weighted_gram(a, weight)
            S[l] += _weighted_gram(delta, weight)
    layers, start = [], 0
    for A_l, S_l in zip(A, S, strict=True):
        size = len(A_l) * len(S_l)
        shape = (len(S_l), len(A_l))
        layers.append(
            LayerBasis(slice(start, start + size), eigh(S_l)[1], eigh(A_l)[1], np.zeros(shape))
        )
        start += size

    n = curvature.oracle.n_train * n_thetas * n_draws
    for factors, weight in _batches(curvature, n_draws, seed):
        for layer, (a, delta) in zip(layers, factors, strict=True):
            layer.eigenvalues += _squared_sum(delta @ layer.Q_S, a @ layer.Q_A, weight) / n
    for layer in layers:
        # a diagonal in parameter space, as far as it is one in the eigenbasis
        ridge = curvature.ridge[layer.block].reshape(layer.eigenvalues.shape)
        layer.eigenvalues += (layer.Q_S**2).T @ ridge @ layer.Q_A**2
        for direction in curvature.gauge[layer.block].T:
            matrix = direction.reshape(layer.eigenvalues.shape)
            layer.eigenvalues += curvature.lift * (layer.Q_S.T @ matrix @ layer.Q_A) ** 2
    return layers


def apply_spectrum(
    layers: list[LayerBasis], V: NDArray, function: Callable[[NDArray], NDArray]
) -> NDArray:
    """f(H)v of every row v of an array of shape (k, p), f acting on the eigenvalues."""
    out = np.empty_like(V, dtype=float)
    for layer in layers:
        matrices = V[:, layer.block].reshape(len(V), *layer.eigenvalues.shape)
        rotated = layer.Q_S.T @ matrices @ layer.Q_A
        scaled = layer.Q_S @ (rotated * function(layer.eigenvalues)) @ layer.Q_A.T
        out[:, layer.block] = scaled.reshape(len(V), -1)
    return out


def layer_blocks(oracle: GradientOracle) -> list[tuple[slice, tuple[int, int]]]:
    """Each layer's slice of the parameters and its shape (out, in); refused if layers do not cover all parameters."""
    factors = oracle.layer_factors(take(oracle.X, slice(0, 1)), take(oracle.y, slice(0, 1)))
    if factors is None:
        raise ValueError(
            f"{type(oracle).__name__} does not split into layers, which this method needs; "
            'solver="cg" and TracIn(kind="cp") work without'
        )
    blocks, start = [], 0
    for a, delta in factors:
        shape = (delta.shape[-1], a.shape[-1])
        blocks.append((slice(start, start + shape[0] * shape[1]), shape))
        start += shape[0] * shape[1]
    return blocks


def _batches(
    curvature, n_draws: int, seed: int
) -> Iterator[tuple[list[tuple[NDArray, NDArray]], NDArray]]:
    """Layer factors under drawn labels, and weights, batch after batch, at all of the curvature's parameters."""
    oracle = curvature.oracle
    rng = np.random.default_rng(seed)
    rows = np.tile(np.arange(oracle.n_train), n_draws)
    for theta in curvature.thetas:
        for part in oracle.batches(len(rows)):
            X = take(oracle.X, rows[part] if n_draws > 1 else part)
            y = oracle.sample_labels(X, rng, theta)
            yield oracle.layer_factors(X, y, theta), oracle.sample_weight[rows[part]]


def _weighted_gram(rows: NDArray, weight: NDArray) -> NDArray:
    """Sum of v_i x xᵀ over records and positions."""
    flat = rows.reshape(-1, rows.shape[-1])
    return (flat * np.repeat(weight, len(flat) // len(weight))[:, None]).T @ flat


def _squared_sum(delta: NDArray, a: NDArray, weight: NDArray) -> NDArray:
    """Sum over records of v_i times the squared entries of the record's gradient matrix."""
    if a.ndim == 2:
        return (delta**2 * weight[:, None]).T @ a**2
    return np.einsum("n,noi->oi", weight, np.einsum("nto,nti->noi", delta, a) ** 2)
