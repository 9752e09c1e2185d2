r"""The directed beta-model (directed configuration model) for unsigned networks.

.. math::  P(A_{ij} = 1) = s(\alpha_i + \beta_j), \quad i \ne j, \text{ independently},

with s the logistic function: the maximum-entropy model with given out- and in-degrees. The likelihood is
concave, its equations match every degree, and the estimate exists where no degree is 0 or n - 1 (and the
degree sequence is not on the boundary otherwise). It is fitted by the engine of the signed model: Newton's
method in O(nK) an iteration, with standard errors 1/sqrt(f) from the node information f.

Reference: Yan, T., Leng, C. and Zhu, J. (2016). Asymptotics in directed exponential random graph models with an
increasing bi-degree sequence. Annals of Statistics 44, 31-57.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._status_model import StatusModel
from .families import Family, Unsigned
from .network import SignedNetwork, as_network, network_from_arrays


class DirectedBetaModel(StatusModel):
    """Directed beta-model for unsigned networks, with standard errors, comparisons and ranks.

    Parameters
    ----------
    l2 : float, default=0.0
        Ridge on deviations of the statuses from their side's mean, as in `SignedBetaModel`.
    solver : {"auto", "dense", "chebyshev"}, default="auto"
    tol : float, default=1e-8
        Largest difference of an observed and an expected degree, in units of its standard error.
    max_iter : int, default=100
    interp_tol : float, default=1e-10
    cov : {"model", "sandwich", "dyad"}, default="model"
    random_state : int, Generator or None, default=None

    Attributes
    ----------
    out_status_, in_status_ : ndarray of shape (n_nodes,)
        alpha and beta, in-statuses summing to zero over the finite ones; -inf for degree 0, inf for degree n - 1.
    out_status_se_, in_status_se_ : ndarray of shape (n_nodes,)
    loglik_, n_iter_, converged_, existence_, node_names_
        As in `SignedBetaModel`.

    Examples
    --------
    >>> import networkx as nx
    >>> from statml.graphs import DirectedBetaModel
    >>> graph = nx.gnp_random_graph(30, 0.3, seed=1, directed=True)
    >>> model = DirectedBetaModel().fit(graph)
    >>> expected = model.predict_proba([(0, j) for j in range(1, 30)])[:, 1].sum()
    >>> round(float(expected), 6) == graph.out_degree(0)
    True
    """

    def __init__(
        self,
        l2: float = 0.0,
        solver: str = "auto",
        tol: float = 1e-8,
        max_iter: int = 100,
        interp_tol: float = 1e-10,
        cov: str = "model",
        random_state: int | np.random.Generator | None = None,
    ):
        self.l2 = l2
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.interp_tol = interp_tol
        self.cov = cov
        self.random_state = random_state

    def fit(self, A: object, y: None = None) -> Self:
        """Fit to a network without negative edges.

        Parameters
        ----------
        A : scipy sparse array, ndarray or DataFrame of shape (n, n), networkx.DiGraph or SignedNetwork
        y : ignored

        Returns
        -------
        self
        """
        return self._fit(_without_negative(as_network(A)))

    def fit_edges(self, source: ArrayLike, target: ArrayLike, n_nodes: int | None = None) -> Self:
        """Fit to edges given as positions of nodes, 0 to n_nodes - 1."""
        ones = np.ones(len(np.asarray(source)))
        return self._fit(network_from_arrays(source, target, ones, n_nodes))

    def predict_proba(self, edges: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of no edge and of an edge, shape (n_edges, 2), for pairs of node names."""
        _, zero, plus = self._probabilities(*self._positions(edges))
        return np.column_stack([zero, plus])

    def _family(self) -> Family:
        return Unsigned()

    def _summary_title(self) -> str:
        return "Directed beta-model"

    def _summary_notes(self) -> Sequence[Hashable]:
        return [
            "Only differences are identified; in-statuses sum to zero, so 0 is the average node."
        ]


def _without_negative(network: SignedNetwork) -> SignedNetwork:
    negative = int((network.sign < 0).sum())
    if negative:
        raise ValueError(
            f"A has {negative} negative edges; DirectedBetaModel is for unsigned networks, use SignedBetaModel"
        )
    return network
