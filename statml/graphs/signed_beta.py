r"""The signed beta-model: statuses of the nodes of a directed network with positive and negative edges.

Every node i has an out-status :math:`\alpha_i` (how positive it is towards others) and an in-status
:math:`\beta_i` (how positive others are towards it). The network is the difference of two independent unsigned
networks; in the sparse-logit family

.. math::  A_{ij} = Y_{ij} - Z_{ij},\quad Y_{ij} \sim B(\rho\, s(x_{ij})),\quad Z_{ij} \sim B(\rho\, s(-x_{ij})),
           \quad x_{ij} = \alpha_i + \beta_j,

s the logistic function, rho the sparsity factor. Negative edges make the likelihood non-concave; matching
net degrees is a convex problem, but loses up to half of the information when rho < 1; one scoring step from
there (the default) is efficient. Only differences within a side are identified; reported in-statuses sum to
zero, so that 0 is the average node.

Cost: O(nK + edges) time and O(n + edges) memory, with K some dozens (`node_sums`).

Reference: Zhang, H. and Wang, J. (2025). Efficient estimation and inference for the signed beta-model in
directed signed networks. Statistica Sinica 35, 1671-1687. Its full text was not available when this was
written: the model is reconstructed from the abstract and checked by derivation and simulation, and any other
additive-index link is one small class (`families`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from .._validation import check_choice, check_number
from ._status_model import StatusModel
from .families import FAMILIES, Family
from .goodness_of_fit import GoodnessOfFit, goodness_of_fit
from .network import as_network, network_from_arrays


class SignedBetaModel(StatusModel):
    """Signed beta-model with standard errors, comparisons, ranks and goodness of fit.

    Parameters
    ----------
    family : {"sparse-logit", "trinomial", "conditional"} or Family, default="sparse-logit"
        How edge probabilities depend on the sum of out-status and in-status. "sparse-logit" is the paper's
        model and "trinomial" its concave exponential-family relative: both describe all pairs and suit dense
        networks. "conditional" models the signs of the observed edges only; it is the one for large sparse
        networks, whose density varies in ways that statuses do not explain.
    estimator : {"one-step", "ee", "mle"}, default="one-step"
        Net-degree estimating equations ("ee"), one Fisher-scoring step from their solution, or scoring steps
        to the maximum of the likelihood. They coincide for "trinomial" and "conditional".
    rho : "auto" or float, default="auto"
        Density parameter of the family: the sparsity factor in (0, 1] for "sparse-logit", the odds of a positive
        edge against none at x = 0 for "trinomial". "auto" matches the number of edges.
    l2 : float, default=0.0
        Ridge: (l2 / 2) times the sum of squared deviations of the statuses from their side's mean is added to
        the mean negative log-likelihood an observation (a pair; an edge for "conditional"). Makes every status finite.
    solver : {"auto", "dense", "chebyshev"}, default="auto"
        Sums over all pairs by n x n arrays, or by interpolation in O(n); "auto" takes arrays up to 500 nodes.
    tol : float, default=1e-8
        Largest residual of an estimating equation, in units of its standard error.
    max_iter : int, default=100
    interp_tol : float, default=1e-10
        Relative error of an interpolated node sum.
    cov : {"model", "sandwich", "dyad"}, default="model"
        Standard errors from the model, from observed squared scores, or the latter clustered by dyad (so that
        i -> j and j -> i may depend on each other).
    clip_step : float, default=1.5
        The scoring step of no status exceeds so many standard errors of the estimating-equation estimate.
    random_state : int, Generator or None, default=None
        Used by `gof` for its bootstrap; fitting is deterministic.

    Attributes
    ----------
    in_status_, out_status_ : ndarray of shape (n_nodes,)
        Estimates; +-inf where the net degree is at its bound (see `existence_`), NaN without data.
    in_status_se_, out_status_se_ : ndarray of shape (n_nodes,)
        Standard errors. For the families over all pairs, the standard error of a difference of two nodes is the
        root of the sum of their squares.
    rho_ : float or None
    loglik_ : float
    n_iter_ : int
    converged_ : bool
    existence_ : DataFrame
        Which statuses have no finite estimate: node, side, status (+-inf or NaN), net_degree, bound, reason.
    initial_ : DataFrame
        The estimating-equation estimates from which the scoring step starts.
    node_names_ : ndarray of shape (n_nodes,)
    network_ : SignedNetwork

    Notes
    -----
    The input is a network, not a table of records, so scikit-learn's cross-validation and pipelines do not
    apply; parameters, cloning, pickling and `get_params` work as usual. Hold out edges to judge prediction
    (see `score`).

    References
    ----------
    Zhang, H. and Wang, J. (2025). Efficient estimation and inference for the signed beta-model in directed
    signed networks. Statistica Sinica 35, 1671-1687.

    Examples
    --------
    >>> from statml.datasets import load_sampson
    >>> from statml.graphs import SignedBetaModel
    >>> model = SignedBetaModel().fit(load_sampson())
    >>> model.rank().head(2)[["node", "estimate", "rank", "rank_low", "rank_high"]].round(2)
              node  estimate  rank  rank_low  rank_high
    0  Bonaventure      1.16     1         1         15
    1     Boniface      0.98     2         1         15
    >>> print(model.compare("Boniface", "Basil"))
    in-status of Boniface minus Basil: 2.415 (95% interval 1.281 to 3.550, p = 3e-05)
    >>> print(model.compare_many(q=0.1))
    42 of 153 pairs differ in in-status (false discovery rate 0.1 by liu; |statistic| >= 2.205; ...)
    """

    def __init__(
        self,
        family: str | Family = "sparse-logit",
        estimator: str = "one-step",
        rho: str | float = "auto",
        l2: float = 0.0,
        solver: str = "auto",
        tol: float = 1e-8,
        max_iter: int = 100,
        interp_tol: float = 1e-10,
        cov: str = "model",
        clip_step: float = 1.5,
        random_state: int | np.random.Generator | None = None,
    ):
        self.family = family
        self.estimator = estimator
        self.rho = rho
        self.l2 = l2
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.interp_tol = interp_tol
        self.cov = cov
        self.clip_step = clip_step
        self.random_state = random_state

    def fit(self, A: object, y: None = None) -> Self:
        """Fit to a network.

        Parameters
        ----------
        A : scipy sparse array, ndarray or DataFrame of shape (n, n), networkx.DiGraph or SignedNetwork
            Entry (i, j) is the sign of the edge from i to j, 0 where there is none. A DiGraph's edges carry
            ``sign`` or ``weight``. Self-loops are dropped, repeated edges merged, and other weights replaced by
            their sign, each with a warning. Sparse input is never made dense by ``solver="chebyshev"``.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If A is not square, has NaN, fewer than 3 nodes or no edge, or if no status at all is finite.

        Warns
        -----
        UserWarning
            If some status has no finite estimate; the message names nodes and remedies.
        """
        return self._fit(as_network(A))

    def fit_edges(
        self,
        source: ArrayLike,
        target: ArrayLike,
        sign: ArrayLike,
        n_nodes: int | None = None,
    ) -> Self:
        """Fit to edges given as positions of nodes, 0 to n_nodes - 1.

        Parameters
        ----------
        source, target : array-like of int, shape (n_edges,)
        sign : array-like of shape (n_edges,)
            +1 or -1.
        n_nodes : int, optional
            Default: the largest position plus one. Give it if the last nodes may have no edge.

        Returns
        -------
        self
        """
        return self._fit(network_from_arrays(source, target, sign, n_nodes))

    def predict_proba(self, edges: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of a negative, no, and a positive edge.

        Parameters
        ----------
        edges : array-like or DataFrame of shape (n_edges, 2)
            Names of source and target.

        Returns
        -------
        ndarray of shape (n_edges, 3)
            P(-1), P(0), P(+1); NaN where an end has no estimate. P(0) = 0 for the conditional family.
        """
        return self._probabilities(*self._positions(edges)).T

    def predict_sign(self, edges: ArrayLike) -> NDArray[np.int64]:
        """The more probable sign, were there an edge: +1 or -1 (0 where an end has no estimate).

        Parameters
        ----------
        edges : array-like or DataFrame of shape (n_edges, 2)
            Names of source and target.
        """
        minus, _, plus = self._probabilities(*self._positions(edges))
        return np.where(np.isnan(plus), 0, np.where(plus >= minus, 1, -1))

    def score(self, edges: ArrayLike, sign: ArrayLike) -> float:
        """Area under the ROC curve of predicted signs, for edges that were held out.

        Parameters
        ----------
        edges : array-like or DataFrame of shape (n_edges, 2)
            Names of source and target.
        sign : array-like of shape (n_edges,)
            Their signs, +1 or -1, both present.

        Returns
        -------
        float
            The probability that a positive edge is ranked above a negative one.
        """
        sign = np.asarray(sign)
        if set(np.unique(sign)) != {-1, 1}:
            raise ValueError(
                f"sign must hold both +1 and -1 and nothing else, got {np.unique(sign)[:5]}"
            )
        minus, _, plus = self._probabilities(*self._positions(edges))
        if len(sign) != len(plus):
            raise ValueError(f"edges has {len(plus)} rows, sign has {len(sign)} values")
        with np.errstate(divide="ignore"):
            log_odds = np.log(plus) - np.log(minus)
        unknown = np.isnan(log_odds)
        if unknown.any():
            raise ValueError(
                f"{int(unknown.sum())} of the edges join nodes without an estimate (see existence_); "
                "refit with l2 > 0"
            )
        return float(roc_auc_score(sign, np.clip(log_odds, -1e300, 1e300)))

    def gof(
        self,
        n_boot: int = 0,
        n_jobs: int | None = None,
        progress: str | bool = "auto",
        checkpoint_dir: str | None = None,
    ) -> GoodnessOfFit:
        """Does the model describe what it was not fitted to?

        Parameters
        ----------
        n_boot : int, default=0
            Networks simulated from the fit and fitted again, for p-values of the degree statistics.
        n_jobs, progress, checkpoint_dir
            As in `statml.parallel.parallel_map`.

        Returns
        -------
        GoodnessOfFit
            ``tests`` (reciprocity; the restriction P(0) >= 2 sqrt(P(+) P(-)) of every difference of two
            networks; spread of positive and negative degrees) and ``degrees`` (observed and expected).
        """
        return goodness_of_fit(
            self, n_boot, n_jobs=n_jobs, progress=progress, checkpoint_dir=checkpoint_dir
        )

    def _family(self) -> Family:
        check_choice("estimator", self.estimator, ("one-step", "ee", "mle"))
        check_number("clip_step", self.clip_step, 0, low_open=True)
        if isinstance(self.family, Family):
            return self.family
        check_choice("family", self.family, tuple(FAMILIES))
        return FAMILIES[self.family]

    def _fixed_rho(self, family: Family) -> float | None:
        if isinstance(self.rho, str):
            check_choice("rho", self.rho, ("auto",))
            return None
        if family.rho_range is None:
            raise ValueError(
                f'rho must be "auto" for family={family.name!r}, which has no density parameter; got {self.rho!r}'
            )
        low, high = family.rho_range
        return check_number("rho", self.rho, low, high, low_open=True)

    def _summary_title(self) -> str:
        return "Signed beta-model"

    def _summary_notes(self) -> Sequence[Hashable]:
        notes = [
            "in[...]: how positive others are towards a node; out[...]: how positive it is towards others.",
            "Only differences are identified; in-statuses sum to zero, so 0 is the average node.",
        ]
        if len(self.existence_):
            notes.append(
                f"{len(self.existence_)} status(es) have no finite estimate; see existence_."
            )
        return notes
