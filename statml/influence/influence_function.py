r"""Influence functions: the first-order effect of removing a record from a fit that has converged.

.. math::  \theta_{-i} - \theta \approx \frac{v_i}{n} H^{-1} g_i, \qquad
           I(i, z) = \ell(z; \theta_{-i}) - \ell(z; \theta) \approx \frac{v_i}{n}\, \nabla\ell(z)^\top H^{-1} g_i,

g_i the gradient of record i's loss at the fit, H the curvature of the mean objective (`Curvature`). Koh and Liang's
"up, loss" is −n times this. A set of records adds up, or, to second order,

.. math::  \Delta_S = \frac1n H^{-1} g_S + \frac1n H^{-1} H_S \Big(\frac1n H^{-1} g_S\Big), \qquad
           g_S = \sum_{i \in S} v_i g_i,\ H_S = \sum_{i \in S} v_i \nabla^2 \ell_i .

Normalised forms look for records of influence on this test record rather than on all: RelatIF divides by ‖H⁻¹g_i‖ (θ) or
by √(g_iᵀH⁻¹g_i) (ℓ), RenormIF by ‖g_i‖.

It assumes a loss that is twice differentiable, strictly convex around the fit, and a stationary fit; ranks survive much,
sizes do not: a record with leverage h_i is understated by 1 − h_i, and sets are understated the more coherent they
are. In a network none of the assumptions holds: see ``diagnostics_``, and judge by
`metrics.linear_datamodeling_score`.

Cost: one solve a test record and O(np) for all products; the solver's own cost once.

References: Koh, P. W. and Liang, P. (2017). Understanding black-box predictions via influence functions. ICML. Equation 2;
Basu, S., You, X. and Feizi, S. (2020). On second-order group influence functions for black-box predictions. ICML;
Barshan, E., Brunet, M.-E. and Dziugaite, G. K. (2020). RelatIF. AISTATS; Bae, J. et al. (2022). If influence functions are the
answer, then what is the question? NeurIPS; Guo, H. et al. (2021). FastIF. EMNLP.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import check_is_fitted

from .._validation import as_generator, check_choice, check_integer, check_number
from ._base import BaseInfluence
from .curvature import DENSE_LIMIT, KINDS, Curvature, damping_share
from .oracle import count, take
from .solvers import SOLVERS, make_solver

Array = NDArray[np.float64]

EKFAC_FROM = 20_000  # parameters
PROBES = 8  # training gradients on which the solver and the damping are judged


class InfluenceFunction(BaseInfluence):
    """Influence functions with a choice of solver, curvature and normalisation.

    Influence is the loss without a record minus the loss with it: positive is helpful.

    Parameters
    ----------
    solver : {"auto", "direct", "cg", "lissa", "lanczos", "nystrom", "ekfac", "datainf", "logra"}, default="auto"
        How H^{-1} is applied; see `statml.influence.solvers`. "auto": direct up to 3000 parameters, EK-FAC beyond 20,000
        where the model has layers, conjugate gradients otherwise. The first three solve with H; the others
        approximate it.
    curvature : {"auto", "hessian", "ggn", "fisher"}, default="auto"
        What H is: the Hessian, the Gauss-Newton matrix, or the empirical Fisher matrix. "auto": the Hessian of a convex
        model, Gauss-Newton of any other. "ekfac", "datainf" and "logra" are approximations of a Fisher matrix
        whatever is given here.
    damping : "auto" or float, default="auto"
        Added to the diagonal of H, on the scale of the mean loss (as `l2` is). "auto": 0 for a convex model, a tenth of
        the mean eigenvalue for any other; DataInf's own rule for "datainf".
    tol : float, default=1e-8
        Relative residual of a right-hand side, for "cg" and "lissa".
    max_iter : int or None, default=None
        Steps of "cg" (None: ten times the parameters, at most 10,000) and "lissa" (None: 5000).
    n_components : int, default=100
        Eigenvectors of "lanczos", random directions of "nystrom", dimensions a layer of "logra".
    normalize : None or {"relatif", "l-relatif", "renorm"}, default=None
        Divide by ‖H⁻¹g_i‖, √(g_iᵀH⁻¹g_i) or ‖g_i‖. The result is then a score, no longer a difference of losses.
    group_order : {1, 2}, default=1
        1: the influence of a set is the sum over its members; 2: with the members' curvature removed too (Basu et al.).
    random_state : int, SeedSequence, Generator or None, default=None
        Of "lissa", "lanczos", "nystrom" and of the labels that "ekfac" draws.

    Attributes
    ----------
    solver_ : str
        The solver used.
    curvature_ : Curvature
        The matrix H that is inverted, with its ``damping`` and ``kind``.
    diagnostics_ : dict
        The sources of error of Bae et al. (2022), as far as they can be seen without a refit:
        ``nonconvergence``, n‖∇J‖ over the root mean square of ‖g_i‖ (the gradient left at the fit, in units of one
        record's pull; 0 at a stationary fit); ``damping`` and ``damping_share`` (of gᵀH⁻¹g; the proximity gap);
        ``solver_residual``, the largest ‖Hx − g‖/‖g‖ over eight records; ``linearisation``, the largest relative gap, over
        these records, between ℓ_i at the changed parameters and its first-order value;
        ``warm_start``, 0 for a convex model, NaN otherwise (it takes refits from new starts); and what the solver reports.

    Notes
    -----
    The estimator is a fitted model, so scikit-learn's estimator checks do not apply; cloning and parameters do.

    References
    ----------
    Koh, P. W. and Liang, P. (2017). Understanding black-box predictions via influence functions. ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from statml.influence import InfluenceFunction
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10)).fit(X[:400], y[:400])
    >>> method = InfluenceFunction().fit(model, X[:400], y[:400])
    >>> method.influence(X[400:], y[400:]).shape
    (169, 400)
    >>> method.solver_, method.curvature_.kind
    ('direct', 'hessian')
    """

    def __init__(
        self,
        solver: str = "auto",
        curvature: str = "auto",
        damping: str | float = "auto",
        tol: float = 1e-8,
        max_iter: int | None = None,
        n_components: int = 100,
        normalize: str | None = None,
        group_order: int = 1,
        random_state: int | np.random.SeedSequence | np.random.Generator | None = None,
    ):
        self.solver = solver
        self.curvature = curvature
        self.damping = damping
        self.tol = tol
        self.max_iter = max_iter
        self.n_components = n_components
        self.normalize = normalize
        self.group_order = group_order
        self.random_state = random_state

    def _fit(self, estimator, X, y, sample_weight, X_val, y_val) -> None:
        check_choice("solver", self.solver, ("auto", *SOLVERS))
        check_choice("curvature", self.curvature, KINDS)
        check_number("tol", self.tol, low=0, low_open=True)
        check_integer("n_components", self.n_components, low=1)
        check_integer("group_order", self.group_order, low=1, high=2)
        if self.max_iter is not None:
            check_integer("max_iter", self.max_iter, low=1)
        if self.normalize is not None:
            check_choice("normalize", self.normalize, ("relatif", "l-relatif", "renorm"))
        oracle = self.oracle_
        if hasattr(oracle, "_refuse_separation"):
            oracle._refuse_separation()
        # DataInf sets its own, from the gradients' size
        own = self.solver == "datainf" and self.damping == "auto"
        self.curvature_ = Curvature(oracle, self.curvature, 0.0 if own else self.damping)
        self.solver_ = self._choose_solver() if self.solver == "auto" else self.solver
        self._solver = make_solver(
            self.solver_, self.curvature_, damping=self.damping, tol=self.tol,
            max_iter=self.max_iter, rank=self.n_components, rng=as_generator(self.random_state),
        )  # fmt: skip
        self.method_ = f"influence function ({self.solver_}, {self.curvature_.kind})"
        self._norms: Array | None = None
        self._diagnose()

    def _choose_solver(self) -> str:
        p = self.oracle_.n_params
        if p <= DENSE_LIMIT and 8 * p * p <= self._memory_limit:
            return "direct"
        one = slice(0, 1)
        layered = p > EKFAC_FROM and self.oracle_.layer_factors(
            take(self.oracle_.X, one), take(self.oracle_.y, one)
        )
        return "ekfac" if layered else "cg"

    # --- the hooks of BaseInfluence ---

    def _influence(self, X, y, target) -> Array:
        oracle = self.oracle_
        out = np.empty((count(X), self.n_train_))
        for part in oracle.batches(count(X)):
            solved = self._solver.solve(oracle.value_grad(take(X, part), take(y, part), target))
            out[part] = oracle.grad_dot(solved.T, oracle.X, oracle.y).T
        out *= self._scale(target)
        return out

    def _self_influence(self) -> Array:
        out = np.empty(self.n_train_)
        for part, g, solved in self._solved_training_gradients():
            out[part] = np.einsum("ij,ij->i", g, solved)
        return out * self._scale("loss")

    def _parameter_change(self, index_sets) -> Array:
        oracle, n = self.oracle_, self.n_train_
        if index_sets is None:
            out = np.empty((n, oracle.n_params))
            for part, _, solved in self._solved_training_gradients():
                out[part] = solved * (oracle.sample_weight[part, None] / n)
            return out
        members = np.zeros((n, len(index_sets)))
        for k, index in enumerate(index_sets):
            members[index, k] = oracle.sample_weight[index]
        first = self._solver.solve(oracle.grad_sum(members, oracle.X, oracle.y).T) / n
        if self.group_order == 1:
            return first
        bent = np.array([self._set_curvature(s, d) for s, d in zip(index_sets, first, strict=True)])
        return first + self._solver.solve(bent) / n

    def _group_influence(self, index_sets, X, y, target) -> Array:
        if self.group_order == 1 or self.normalize is not None:
            return super()._group_influence(index_sets, X, y, target)
        sign = 1.0 if target == "loss" else -1.0
        change = self._parameter_change(index_sets)
        return sign * self.oracle_.grad_dot(change.T, X, y, target)

    def _set_curvature(self, index: NDArray[np.int64], direction: Array) -> Array:
        """H_S times a direction, the penalty left out; shape (p,)."""
        o = self.oracle_
        product = o.ggn_vp if self.curvature_.kind == "ggn" else o.hvp
        mean = product(direction, take(o.X, index), take(o.y, index), o.sample_weight[index])
        return len(index) * (mean - o.regulariser() * direction)

    # --- scales and diagnostics ---

    def _scale(self, target: str) -> Array:
        """What each column of gᵀH⁻¹g_i is multiplied with, shape (n_train,)."""
        sign = 1.0 if target == "loss" else -1.0
        scale = sign * self.oracle_.sample_weight / self.n_train_
        if self.normalize is None:
            return scale
        if self._norms is None:
            self._norms = np.empty(self.n_train_)
            for part, g, solved in self._solved_training_gradients():
                left, right = {
                    "relatif": (solved, solved),
                    "l-relatif": (g, solved),
                    "renorm": (g, g),
                }[self.normalize]
                self._norms[part] = np.sqrt(np.maximum(np.einsum("ij,ij->i", left, right), 0))
        # a record without a gradient has no influence either
        return np.where(self._norms > 0, scale / np.where(self._norms > 0, self._norms, 1.0), 0.0)

    def _solved_training_gradients(self):
        oracle = self.oracle_
        for part in oracle.batches():
            g = oracle.grad(take(oracle.X, part), take(oracle.y, part))
            yield part, g, self._solver.solve(g)

    def _diagnose(self) -> None:
        oracle, n = self.oracle_, self.n_train_
        index = np.unique(np.linspace(0, n - 1, PROBES).astype(int))
        X, y, weight = take(oracle.X, index), take(oracle.y, index), oracle.sample_weight[index]
        g = oracle.grad(X, y)
        x = self._solver.solve(g)
        size = np.linalg.norm(g, axis=1)
        usable = size > 0
        residual = np.linalg.norm(self.curvature_.matvec(x) - g, axis=1)
        rms = np.sqrt(np.mean(size**2))
        left = np.linalg.norm(oracle.objective_grad())
        convex = oracle.convex
        self.diagnostics_: dict[str, Any] = {
            "nonconvergence": float(n * left / rms) if rms > 0 else 0.0,
            "damping": self.curvature_.damping,
            "damping_share": damping_share(self.curvature_, g, x),
            "solver_residual": float((residual[usable] / size[usable]).max(initial=0.0)),
            "linearisation": self._linearisation(X, y, g, x * (weight[:, None] / n)),
            "warm_start": 0.0 if convex else float("nan"),
            **self._solver.report_,
        }
        if self.diagnostics_["nonconvergence"] > 1:
            warnings.warn(
                "the fit has not converged: the gradient left over is as large as the pull of "
                f"{self.diagnostics_['nonconvergence']:.1f} records, so influence functions describe another fit; "
                "fit with a smaller tol"
                + (
                    ""
                    if convex
                    else ", or use SGDInfluence, HyDRA or Source, which unroll training"
                ),
                stacklevel=4,
            )

    def _linearisation(self, X, y, g: Array, change: Array) -> float:
        """Largest relative error of ℓ_i(θ + Δ_i) ≈ ℓ_i(θ) + g_iᵀΔ_i over some records."""
        oracle = self.oracle_
        gaps = []
        base = oracle.loss(X, y)
        for k in range(len(g)):
            predicted = g[k] @ change[k]
            row = slice(k, k + 1)
            moved = oracle.loss(take(X, row), take(y, row), oracle.theta + change[k])[0] - base[k]
            if predicted > 1e-12 * max(1.0, abs(base[k])):
                gaps.append(abs(moved / predicted - 1))
        return float(max(gaps, default=0.0))

    # --- FastIF ---

    def rank_nearest(
        self,
        X_test: Any,
        y_test: ArrayLike | None = None,
        k: int = 10,
        *,
        n_candidates: int = 1000,
        by: str = "absolute",
        target: str = "loss",
    ) -> pd.DataFrame:
        """The k training records that matter most to each test record, sought among its nearest neighbours only.

        Guo et al.'s FastIF: influence is computed for the `n_candidates` training records whose features (inputs of the
        last layer, where the model has layers) are nearest to the test record's. A record far away that matters,
        as one of high leverage does, is missed.

        Parameters
        ----------
        X_test, y_test, target, by
            As in `rank`.
        k : int, default=10
        n_candidates : int, default=1000

        Returns
        -------
        DataFrame
            As of `rank` with `per_test`.
        """
        check_is_fitted(self)
        check_choice("by", by, ("absolute", "helpful", "harmful"))
        n_candidates = min(check_integer("n_candidates", n_candidates, low=1), self.n_train_)
        k = min(check_integer("k", k, low=1), n_candidates)
        oracle = self.oracle_
        X, y = self._prepare(X_test, y_test, target)
        index = NearestNeighbors(n_neighbors=n_candidates).fit(_features(oracle, oracle.X))
        nearest = index.kneighbors(_features(oracle, X), return_distance=False)
        scale = self._scale(target)
        tables = []
        for part in oracle.batches(count(X)):
            solved = self._solver.solve(oracle.value_grad(take(X, part), take(y, part), target))
            for s, j in zip(solved, range(part.start, part.stop), strict=True):
                rows = np.sort(nearest[j])
                values = np.zeros(self.n_train_)
                dot = oracle.grad_dot(s[:, None], take(oracle.X, rows), take(oracle.y, rows))
                values[rows] = dot[:, 0] * scale[rows]
                key = {"absolute": np.abs(values), "helpful": values, "harmful": -values}[by]
                best = rows[np.argsort(-key[rows], kind="stable")[:k]]
                tables.append(self._table(best, values).assign(test=j))
        table = pd.concat(tables, ignore_index=True)
        return table[["test", *table.columns.drop("test")]]


def _features(oracle, X) -> Array:
    """Where distances are taken: inputs of the last layer, or the records themselves, shape (m, d)."""
    # labels do not enter the inputs of a layer
    y = take(oracle.y, np.zeros(count(X), dtype=np.int64))
    parts = []
    for part in oracle.batches(count(X)):
        factors = oracle.layer_factors(take(X, part), take(y, part))
        rows = take(X, part) if factors is None else factors[-1][0]
        parts.append(np.asarray(rows).reshape(count(rows), -1))
    return np.vstack(parts)
