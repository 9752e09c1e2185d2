r"""Goodness of fit of a signed beta-model: what it was not fitted to.

Net degrees and the number of edges are matched by construction. The following are not:

- **Reciprocity.** Under the model the two directions of a dyad are independent, so that
  :math:`\sum_{i<j} r_{ij} r_{ji}`, :math:`r = A - m(x)`, has mean 0 and variance :math:`\sum_{i<j} V_{ij} V_{ji}`. Both sums
  over all dyads are traces of small matrices, because m and V have low rank.
- **Two layers.** Any difference of two independent networks has :math:`P(0) \ge 2\sqrt{P(+)P(-)}`; in the trinomial
  family this is :math:`\rho \le 1/2`, tested there by Wald's statistic for log rho.
- **Degrees.** Positive and negative degrees each: sum of squared residuals over the sum of their variances, with
  p-values from a parametric bootstrap that refits the model.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from .._validation import check_integer
from ..inference import bootstrap_p_value, parametric_bootstrap
from .estimation import Engine, Solution
from .families import Trinomial
from .net_degrees import solve_net_degrees
from .node_system import LowRankMatrix, NodeSystem

if TYPE_CHECKING:
    from .signed_beta import SignedBetaModel

Array = NDArray[np.float64]

DEGREES = ("positive_in", "negative_in", "positive_out", "negative_out")


@dataclass(frozen=True)
class GoodnessOfFit:
    """Result of `SignedBetaModel.gof`.

    Attributes
    ----------
    tests : DataFrame
        Columns test, statistic, expected, z, p_value. Small p-values speak against the model.
    degrees : DataFrame
        One row a node: observed and expected positive and negative, in- and out-degrees.
    """

    tests: pd.DataFrame
    degrees: pd.DataFrame

    def __str__(self) -> str:
        with pd.option_context("display.width", 100, "display.float_format", "{:.4g}".format):
            return f"Goodness of fit (small p-values speak against the model)\n{self.tests.to_string(index=False)}"


def goodness_of_fit(model: SignedBetaModel, n_boot: int = 0, **parallel: object) -> GoodnessOfFit:
    """See `SignedBetaModel.gof`."""
    check_is_fitted(model)
    check_integer("n_boot", n_boot, low=0)
    rows = [reciprocity_test(model)]
    if model._engine.family.pairs == "all":
        rows.append(two_layer_test(model))
    degrees = degree_table(model)
    observed = degree_spread(degrees)
    if n_boot:
        draws = parametric_bootstrap(
            model.sample,
            partial(refitted_degree_spread, model),
            n_boot,
            random_state=model.random_state,
            **parallel,
        )
        p_values = [
            bootstrap_p_value(o, d, "greater") for o, d in zip(observed, draws.T, strict=True)
        ]
        expected = draws.mean(axis=0)
    else:
        p_values = expected = [np.nan] * len(observed)
    for name, *values in zip(DEGREES, observed, expected, p_values, strict=True):
        rows.append(
            _row(
                f"spread of {name.replace('_', ' ')}-degrees",
                values[0],
                values[1],
                np.nan,
                values[2],
            )
        )
    return GoodnessOfFit(pd.DataFrame(rows), degrees)


def refitted_degree_spread(model: SignedBetaModel, adjacency: object) -> Array:
    """The degree spreads of another network, once the same model is fitted to it."""
    with warnings.catch_warnings():  # a simulated network may have nodes at infinity: they drop out
        warnings.simplefilter("ignore")
        return degree_spread(degree_table(clone(model).fit(adjacency)))


def _row(test, statistic, expected, z, p_value):
    return {"test": test, "statistic": statistic, "expected": expected, "z": z, "p_value": p_value}


def degree_table(model: SignedBetaModel) -> pd.DataFrame:
    """Observed and expected positive and negative degrees of the nodes with finite statuses."""
    pairs, theta = model._solution.pairs, model._solution.theta
    family, rho, n_rows = model._engine.family, model.rho_, len(pairs.rows)

    def probability(which):
        return lambda x: family.probabilities(x, rho)[which]

    def variance(which):
        return lambda x: probability(which)(x) * (1 - probability(which)(x))

    minus, plus, minus_var, plus_var = (
        model._engine.sums(theta, pairs)
        .sums(probability(0), probability(2), variance(0), variance(2))
        .T
    )
    n = model.n_nodes_in_
    table = pd.DataFrame({"node": model.node_names_})
    for sign, name, expected, var in (
        (1, "positive", plus, plus_var),
        (-1, "negative", minus, minus_var),
    ):
        counts = pairs.edge_sums((pairs.sign == sign).astype(float))
        for side, nodes, part in (
            ("in", pairs.cols, slice(n_rows, None)),
            ("out", pairs.rows, slice(0, n_rows)),
        ):
            for label, values in (("observed", counts), ("expected", expected), ("variance", var)):
                column = np.full(n, np.nan)
                column[nodes] = values[part]
                table[f"{name}_{side}_{label}"] = column
    return table


def degree_spread(degrees: pd.DataFrame) -> Array:
    """Sum of squared residuals over sum of variances, for each kind of degree."""
    out = []
    for name in DEGREES:
        residual = degrees[f"{name}_observed"] - degrees[f"{name}_expected"]
        out.append(float((residual**2).sum() / degrees[f"{name}_variance"].sum()))
    return np.array(out)


def reciprocity_test(model: SignedBetaModel) -> dict[str, object]:
    """Are the two directions of a dyad independent given the statuses?"""
    solution, engine = model._solution, model._engine
    pairs, family, rho = solution.pairs, engine.family, model.rho_
    out, into = model._working_statuses()
    i, j = pairs.rows[pairs.source], pairs.cols[pairs.target]
    n = model.n_nodes_in_
    code, mirror = i.astype(np.int64) * n + j, j.astype(np.int64) * n + i
    has_both = np.isin(mirror, code)
    sign_back = np.zeros(len(code))
    order = np.argsort(code)
    sign_back[has_both] = pairs.sign[order][np.searchsorted(code[order], mirror[has_both])]

    def mean(x):
        return family.mean(x, rho)

    def variance(x):
        return family.variance(x, rho)

    if pairs.only_edges:
        a, b = i[has_both], j[has_both]
        there, back = out[a] + into[b], out[b] + into[a]
        residual = (pairs.sign[has_both] - mean(there)) * (sign_back[has_both] - mean(back))
        total, spread = residual.sum() / 2, (variance(there) * variance(back)).sum() / 2
    else:
        # sum over dyads of (A - m)_ij (A - m)_ji = half of [A.A' - 2 A.m' + m.m'] over ordered pairs.
        back = out[j] + into[i]
        usable = np.isin(j, pairs.rows) & np.isin(i, pairs.cols)
        edges = pairs.sign * (sign_back - 2 * np.where(usable, mean(back), 0.0))
        total = (edges[usable].sum() + _mirrored_total(engine, solution, mean)) / 2
        spread = _mirrored_total(engine, solution, variance) / 2
    z = total / np.sqrt(spread) if spread > 0 else np.nan
    return _row("reciprocity", total, 0.0, z, float(2 * norm.sf(abs(z))))


def _mirrored_total(engine: Engine, solution: Solution, kernel) -> float:
    """sum over i != j of g(x_ij) g(x_ji), over the nodes with both statuses finite."""
    pairs = solution.pairs
    rows, cols = pairs.self_rows, pairs.self_cols
    matrix = engine.sums(solution.theta, pairs).matrix(kernel, 1e-13)
    if isinstance(matrix, LowRankMatrix):
        gram = matrix.left[rows].T @ matrix.right[cols]
        return float((gram * gram.T).sum() - (matrix.self_values**2).sum())
    values = matrix.values[np.ix_(rows, cols)]
    return float((values * values.T).sum())


def two_layer_test(model: SignedBetaModel) -> dict[str, object]:
    """Is P(0) >= 2 sqrt(P(+)P(-)), as for every difference of two networks? One-sided, in log rho."""
    engine = Engine(Trinomial(), model._engine.solver, model.interp_tol)
    solution, _ = solve_net_degrees(
        model.network_, engine, None, model.l2, model.tol, model.max_iter
    )
    family, rho = engine.family, solution.rho
    sums = engine.sums(solution.theta, solution.pairs)
    # Information of log rho once the statuses are profiled out; rho is a natural parameter of the family.
    system = NodeSystem(sums.matrix(engine.kernel("mean_slope", rho)), model._ridge)
    border = sums.sums(engine.kernel("density_slope", rho))[:, 0]

    def density_variance(x):
        density = family.density(x, rho)
        return density * (1 - density)

    information = sums.totals(density_variance)[0] - border @ system.solve(border)
    z = float((np.log(rho) - np.log(0.5)) * np.sqrt(information))
    return _row("two layers: rho <= 1/2", rho, 0.5, z, float(norm.sf(z)))
