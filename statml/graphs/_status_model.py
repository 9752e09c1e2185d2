"""What the signed and the unsigned beta-model have in common: fitting, results, prediction, sampling."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from .._validation import (
    as_generator,
    check_choice,
    check_integer,
    check_number,
)
from ..datasets._signed_networks import thinned_edges
from ..inference import Coefficients, InferenceMixin
from .comparisons import ComparisonMixin, Side
from .covariance import StatusCovariance, status_covariances
from .estimation import Engine, Infinite, Solution
from .families import Family
from .net_degrees import solve_net_degrees
from .network import SignedNetwork
from .scoring import log_likelihood, maximise_likelihood, one_step

DENSE_UP_TO = 500  # nodes; beyond, interpolated node sums are faster than n x n arrays


class StatusModel(InferenceMixin, ComparisonMixin, BaseEstimator):
    """Base of the beta-models: every node has an out-status and an in-status, edges depend on their sum.

    A model supplies its constructor, `_family()`, the title of its summary, and ``fit``.
    """

    def _fit(self, network: SignedNetwork):
        family = self._family()
        check_number("l2", self.l2, 0)
        check_number("tol", self.tol, 0, low_open=True)
        check_integer("max_iter", self.max_iter, low=1)
        check_choice("solver", self.solver, ("auto", "dense", "chebyshev"))
        check_number("interp_tol", self.interp_tol, 0, 1e-3, low_open=True)
        check_choice("cov", self.cov, ("model", "sandwich", "dyad"))
        if network.n_edges == 0:
            raise ValueError("the network has no edges; nothing can be estimated")
        solver = self.solver
        if solver == "auto":
            solver = "dense" if network.n_nodes <= DENSE_UP_TO else "chebyshev"
        engine = Engine(family, solver, self.interp_tol)
        rho, estimator = self._fixed_rho(family), getattr(self, "estimator", "mle")

        step0, infinite = solve_net_degrees(network, engine, rho, self.l2, self.tol, self.max_iter)
        ridge = self.l2 * step0.pairs.n_pairs
        solution = step0
        if estimator != "ee" and not family.net_degree_is_efficient:
            step0_se = np.sqrt(
                np.concatenate(
                    [c.variance for c in status_covariances(step0, engine, "ee", "model", ridge)]
                )
            )
            solution = one_step(step0, engine, ridge, self.clip_step, step0_se)
            if estimator == "mle":
                solution, runaway = maximise_likelihood(
                    network, solution, engine, ridge, self.tol, self.max_iter
                )
                infinite += runaway
        self._store(network, engine, step0, solution, estimator, ridge, infinite)
        return self

    def _store(self, network, engine, step0, solution, estimator, ridge, infinite):
        n = network.n_nodes
        self.network_, self._engine, self._ridge = network, engine, ridge
        self.node_names_ = network.node_names
        self.n_nodes_in_ = n
        self.rho_ = solution.rho
        self.n_iter_, self.converged_ = solution.n_iter, solution.converged
        self._solution = solution = _centred(solution)
        self.out_status_, self.in_status_ = _spread(solution, n)
        initial_out, initial_in = _spread(_centred(step0), n)
        self.initial_ = pd.DataFrame(
            {"node": network.node_names, "out_status": initial_out, "in_status": initial_in}
        )
        self._covariance_request = (solution, engine, estimator, self.cov, ridge)
        self._covariance_answer = None
        self.loglik_ = log_likelihood(solution, engine)
        self.existence_ = self._existence_table(infinite)
        if len(infinite):
            warnings.warn(
                _existence_message(self.existence_, engine.family), UserWarning, stacklevel=4
            )
        if not self.converged_:
            warnings.warn(
                f"the estimating equations were not solved to tol={self.tol:g} in {self.n_iter_} iterations; "
                "raise max_iter, or use l2 > 0 if some node has hardly any information",
                ConvergenceWarning,
                stacklevel=4,
            )

    @property
    def _covariances(self) -> tuple[StatusCovariance, StatusCovariance]:
        """Of the out- and of the in-statuses; made at first use, since prediction does not need them."""
        check_is_fitted(self)
        if self._covariance_answer is None:
            self._covariance_answer = status_covariances(*self._covariance_request)
        return self._covariance_answer

    @property
    def out_status_se_(self) -> NDArray[np.float64]:
        """Standard errors of the out-statuses, shape (n_nodes,); NaN where there is no finite estimate."""
        return self._standard_errors(self._covariances[0], self._solution.pairs.rows)

    @property
    def in_status_se_(self) -> NDArray[np.float64]:
        """Standard errors of the in-statuses, shape (n_nodes,); NaN where there is no finite estimate."""
        return self._standard_errors(self._covariances[1], self._solution.pairs.cols)

    def _standard_errors(self, covariance, nodes) -> NDArray[np.float64]:
        out = np.full(self.n_nodes_in_, np.nan)
        out[nodes] = np.sqrt(covariance.variance)
        return out

    def _existence_table(self, infinite: list[Infinite]) -> pd.DataFrame:
        node, side, direction, net, bound, reason = (
            zip(*infinite, strict=True) if infinite else ([],) * 6
        )
        return pd.DataFrame(
            {
                "node": self.node_names_[np.array(node, dtype=int)],
                "side": pd.Series(side, dtype=str),
                "status": [{1: np.inf, -1: -np.inf, 0: np.nan}[d] for d in direction],
                "net_degree": np.array(net, dtype=float),
                "bound": np.array(bound, dtype=float),
                "reason": pd.Series(reason, dtype=str),
            }
        )

    # --- prediction ---------------------------------------------------------------------------------

    def _positions(self, edges: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        check_is_fitted(self)
        names = edges.to_numpy() if isinstance(edges, pd.DataFrame) else np.asarray(edges)
        if names.ndim != 2 or names.shape[1] != 2:
            raise ValueError(
                f"edges must have shape (n_edges, 2): source and target names; got {names.shape}"
            )
        at = self.network_.positions(names, "edges")
        if (at[:, 0] == at[:, 1]).any():
            raise ValueError(
                "edges holds a pair of a node with itself; the model has no self-loops"
            )
        return at[:, 0], at[:, 1]

    def _working_statuses(self) -> tuple[NDArray, NDArray]:
        """Statuses with infinities made huge, the larger the earlier found, so that sums are defined."""
        limits = self._solution.limits
        out, into = self.out_status_.copy(), self.in_status_.copy()
        for status, sign, order in (
            (out, limits.out, limits.out_order),
            (into, limits.into, limits.in_order),
        ):
            far = sign != 0
            status[far] = sign[far] * 1e12 / 4.0 ** np.minimum(order[far], 15.0)
        return out, into

    def _probabilities(self, i: NDArray, j: NDArray) -> NDArray[np.float64]:
        """P(-1), P(0), P(+1) for positions i, j: shape (3, len(i))."""
        out, into = self._working_statuses()
        x = out[i] + into[j]
        return np.where(np.isnan(x), np.nan, self._engine.family.probabilities(x, self.rho_))

    def sample(
        self, random_state: int | np.random.Generator | np.random.RandomState | None = None
    ) -> sp.csr_array:
        """Draw a network from the fitted model.

        Parameters
        ----------
        random_state : int, Generator or None

        Returns
        -------
        scipy.sparse.csr_array of int8, shape (n, n)
            Of a model that is conditional on the edges: the observed edges with new signs. Nodes without an
            edge keep their row and column.
        """
        check_is_fitted(self)
        rng, network = as_generator(random_state), self.network_
        shape = (network.n_nodes, network.n_nodes)
        if self._engine.family.pairs == "edges":
            p = self._probabilities(network.source, network.target)[2]
            if np.isnan(p).any():
                raise ValueError(
                    "some edges join nodes without an estimate (see existence_); refit with l2 > 0 to sample"
                )
            sign = np.where(rng.random(len(p)) < p, 1, -1).astype(np.int8)
            return sp.csr_array((sign, (network.source, network.target)), shape=shape)
        out, into = self._working_statuses()

        def bound(row_low, row_high, col_low, col_high):
            # The density of every family is largest at an end of an interval of indices.
            low, high = row_low + col_low, row_high + col_high
            density = self._engine.family.density
            return np.maximum(density(low, self.rho_), density(high, self.rho_))

        def probabilities(i, j):
            minus, _, plus = self._probabilities(i, j)
            return minus, plus

        source, target, sign = thinned_edges(out, into, bound, probabilities, rng)
        return sp.csr_array((sign, (source, target)), shape=shape)

    # --- results ------------------------------------------------------------------------------------

    def _side(self, name: str) -> Side:
        check_choice("side", name, ("in", "out"))
        pairs = self._solution.pairs
        finite = pairs.cols if name == "in" else pairs.rows
        status = self.in_status_ if name == "in" else self.out_status_
        return Side(
            name=name,
            estimate=status[finite],
            covariance=self._covariances[1 if name == "in" else 0],
            nodes=self.node_names_[finite],
            left_out=np.delete(self.node_names_, finite),
        )

    def _coefficients(self) -> Coefficients:
        terms, estimates, errors = [], [], []
        for side, status, se in (
            ("in", self.in_status_, self.in_status_se_),
            ("out", self.out_status_, self.out_status_se_),
        ):
            order = np.argsort(-np.where(np.isnan(status), -np.inf, status), kind="stable")
            terms += [f"{side}[{name}]" for name in self.node_names_[order]]
            estimates.append(status[order])
            errors.append(se[order])
        return Coefficients(terms, np.concatenate(estimates), np.concatenate(errors))

    def _n_parameters(self) -> int:
        pairs, family = self._solution.pairs, self._engine.family
        free_rho = family.rho_range is not None and self._fixed_rho(family) is None
        return len(pairs.rows) + len(pairs.cols) - 1 + int(free_rho)

    def _glance(self) -> dict[str, object]:
        network = self.network_
        n = network.n_nodes
        return {
            "family": self._engine.family.name,
            "estimator": getattr(self, "estimator", "mle"),
            "covariance": self.cov,
            "n_nodes": n,
            "n_positive": int((network.sign > 0).sum()),
            "n_negative": int((network.sign < 0).sum()),
            "density": network.n_edges / (n * (n - 1)),
            "rho": np.nan if self.rho_ is None else self.rho_,
            "log_likelihood": self.loglik_,
            "aic": 2 * self._n_parameters() - 2 * self.loglik_,
            "n_without_finite_status": len(self.existence_),
            "n_iter": self.n_iter_,
            "converged": self.converged_,
        }

    def _fixed_rho(self, family: Family) -> float | None:
        return None


def _centred(solution: Solution) -> Solution:
    """The same fit with in-statuses that sum to zero."""
    theta, n_rows = solution.theta.copy(), len(solution.pairs.rows)
    shift = theta[n_rows:].mean()
    theta[:n_rows] += shift
    theta[n_rows:] -= shift
    return Solution(
        theta, solution.rho, solution.pairs, solution.limits, solution.n_iter, solution.converged
    )


def _spread(solution: Solution, n: int) -> tuple[NDArray, NDArray]:
    """Statuses of all nodes: finite, infinite, or NaN where there is no data."""
    limits = solution.limits
    ends = np.array([-np.inf, np.nan, np.inf])
    out, into = ends[limits.out + 1], ends[limits.into + 1]
    out[solution.pairs.rows], into[solution.pairs.cols] = solution.alpha, solution.beta
    return out, into


def _existence_message(table: pd.DataFrame, family: Family) -> str:
    parts = []
    infinite = table[np.isinf(table["status"])]
    if len(infinite):
        shown = ", ".join(
            f"{row.side}[{row.node}] (net degree {row.net_degree:.4g}, bound {row.bound:.4g})"
            for row in infinite.head(5).itertuples()
        )
        more = f" and {len(infinite) - 5} more" if len(infinite) > 5 else ""
        parts.append(
            f"{len(infinite)} status(es) have no finite estimate, because the net degree reaches the bound that "
            f"the model allows: {shown}{more}; they are reported as +-inf without a standard error"
        )
    unknown = int(table["status"].isna().sum())
    if unknown:
        parts.append(
            f"{unknown} status(es) cannot be compared with the others (no edges, or not connected to the "
            "largest part of the network); they are reported as NaN"
        )
    remedy = (
        "l2 > 0"
        if family.pairs == "edges" or family.name == "unsigned"
        else 'l2 > 0, or family="conditional"'
    )
    return "; ".join(parts) + f". See existence_ for all of them; remedy: {remedy}"
