r"""The curvature matrix that gradient-based influence inverts: Hessian, Gauss-Newton or empirical Fisher.

.. math::  H = \frac1n\sum_i v_i C_i + \mathrm{diag}(r) + \lambda I,

with C_i the Hessian of record i's loss ("hessian"), its Gauss-Newton matrix ("ggn"; positive semidefinite, equal to the
Hessian where outputs are linear in the parameters and the Fisher matrix of every loss here), or g_i g_iᵀ
("fisher", the empirical Fisher, which needs gradients only). r is the model's own penalty, λ the damping.

Damping moves the answer: what is then estimated is the response of an objective held back towards the fit (the
proximal Bregman response of Bae et al.), not leave-one-out. `damping_share` says how much of gᵀH⁻¹g is damping's.

Reference: Bae, J. et al. (2022). If influence functions are the answer, then what is the question? NeurIPS.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._validation import check_choice, check_number
from .oracle import GradientOracle, take

Array = NDArray[np.float64]

KINDS = ("auto", "hessian", "ggn", "fisher")
DENSE_LIMIT = 3000  # parameters up to which "auto" forms the matrix
NETWORK_DAMPING = 0.1  # of the mean eigenvalue, where the model is not convex


class Curvature:
    """Products with H, and H itself, of an oracle's training data.

    Vectors are rows: V has shape (k, p), and so have products.

    Parameters
    ----------
    oracle : GradientOracle
    kind : {"auto", "hessian", "ggn", "fisher"}
        "auto": the Hessian of a convex model, Gauss-Newton of any other.
    damping : "auto" or float
        λ, on the scale of the mean loss, like `l2`. "auto": 0 for a convex model, a tenth of the mean eigenvalue of
        the undamped matrix for any other.
    thetas : ndarray of shape (m, p) or None
        Parameters over which the matrix is averaged; None: those of the fit.
    """

    def __init__(
        self,
        oracle: GradientOracle,
        kind: str = "auto",
        damping: str | float = "auto",
        thetas: Array | None = None,
    ):
        check_choice("curvature", kind, KINDS)
        convex = oracle.convex
        self.oracle = oracle
        self.kind = kind if kind != "auto" else ("hessian" if convex else "ggn")
        self.thetas = [None] if thetas is None else list(thetas)
        # flat by construction: completed by a multiple of the projection, which no gradient feels
        self.gauge = oracle.gauge()
        self.damping = 0.0
        self._mean_eigenvalue: float | None = None
        if isinstance(damping, str):
            check_choice("damping", damping, ("auto",))
            self.damping = 0.0 if convex else NETWORK_DAMPING * self.mean_eigenvalue()
        else:
            self.damping = check_number("damping", damping, low=0)
        self.lift = self.mean_eigenvalue() if self.gauge.shape[1] else 0.0

    @property
    def n_params(self) -> int:
        return self.oracle.n_params

    @property
    def ridge(self) -> Array:
        """Diagonal of penalty and damping, shape (p,)."""
        return self.oracle.regulariser() + self.damping

    def matvec(self, V: Array) -> Array:
        """HV."""
        return self._product(V) + self.damping * V + self._lifted(V)

    def data_matvec(self, V: Array) -> Array:
        """HV without penalty and damping."""
        return self._product(V) - self.oracle.regulariser() * V + self._lifted(V)

    def batch_matvec(self, V: Array, size: int, rng: np.random.Generator) -> Array:
        """HV with the mean over a random batch of `size` records; over all if there are no more."""
        n = self.oracle.n_train
        if n <= size:
            return self.matvec(V)
        index = np.sort(rng.choice(n, size, replace=False))
        return self._product(V, index) + self.damping * V + self._lifted(V)

    def dense(self) -> Array:
        """H, shape (p, p)."""
        p = self.n_params
        if self.thetas[0] is None:
            matrix = {
                "hessian": self.oracle.hessian,
                "ggn": self.oracle.ggn,
                "fisher": self.oracle.fisher,
            }[self.kind]()
        else:
            matrix = sum(self._dense_at(theta) for theta in self.thetas) / len(self.thetas)
        if self.gauge.shape[1]:
            matrix = matrix + self.lift * self.gauge @ self.gauge.T
        return matrix + self.damping * np.eye(p) if self.damping else matrix

    def _dense_at(self, theta: Array) -> Array:
        """As `_product_at` with the identity, by the Gram matrix of factors where there is one."""
        o, p = self.oracle, self.n_params
        if self.kind == "hessian":
            matrix = o.hvp(np.eye(p), theta=theta)
            return (matrix + matrix.T) / 2
        matrix = np.diag(o.regulariser())
        for part in o.batches():
            X, y, weight = take(o.X, part), take(o.y, part), o.sample_weight[part]
            factor = o.grad(X, y, theta) if self.kind == "fisher" else o.ggn_factor(X, y, theta)
            weight = np.repeat(weight, len(factor) // len(weight)) / o.n_train
            matrix = matrix + (factor * weight[:, None]).T @ factor
        return matrix

    def mean_eigenvalue(self) -> float:
        """Mean eigenvalue of the data's part, by eight random probes (Hutchinson)."""
        if self._mean_eigenvalue is None:
            probes = np.random.default_rng(0).choice([-1.0, 1.0], size=(8, self.n_params))
            product = self._product(probes) - self.oracle.regulariser() * probes
            self._mean_eigenvalue = float(np.abs(np.mean(probes * product)))
        return self._mean_eigenvalue

    def _lifted(self, V: Array) -> Array | float:
        return self.lift * (V @ self.gauge) @ self.gauge.T if self.gauge.shape[1] else 0.0

    def _product(self, V: Array, index: NDArray | None = None) -> Array:
        """With penalty, without damping; of the records named by `index`, or of all."""
        records: tuple = ()
        if index is not None:
            o = self.oracle
            records = (take(o.X, index), take(o.y, index), o.sample_weight[index])
        # an oracle may hold a number for every record and vector
        size = max(1, int(self.oracle.memory_limit // (8 * self.oracle.n_train)))
        total = np.zeros(V.shape)
        for start in range(0, len(V), size):
            part = slice(start, start + size)
            for theta in self.thetas:
                total[part] += self._product_at(V[part], records, theta)
        return total / len(self.thetas)

    def _product_at(self, V: Array, records: tuple, theta: Array | None) -> Array:
        if self.kind == "hessian":
            return self.oracle.hvp(V.T, *records, theta=theta).T
        if self.kind == "ggn":
            return self.oracle.ggn_vp(V.T, *records, theta=theta).T
        o = self.oracle
        X, y, weight = records or (o.X, o.y, o.sample_weight)
        products = weight[:, None] * o.grad_dot(V.T, X, y, theta=theta)
        return o.grad_sum(products, X, y, theta=theta).T / len(weight) + o.regulariser() * V


def damping_share(curvature: Curvature, V: Array, solutions: Array) -> float:
    """Share of damping in gᵀH⁻¹g, 0 to 1: λ‖H⁻¹g‖² over gᵀH⁻¹g, averaged over the rows g of V."""
    if curvature.damping == 0:
        return 0.0
    whole = np.einsum("ij,ij->i", V, solutions)
    part = curvature.damping * np.einsum("ij,ij->i", solutions, solutions)
    usable = whole > 0
    return float(np.mean(part[usable] / whole[usable])) if usable.any() else float("nan")
