"""The input of every model in this package: a directed network with edges of sign +1 or -1.

`SignedNetwork` keeps the edges as three flat arrays, sorted by source, and the names of the nodes. Nothing
here is ever made dense. `as_network` takes what users have (scipy sparse, ndarray, DataFrame, networkx) and
says in a warning what it had to change: self-loops, repeated edges, weights other than +1 and -1.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import networkx as nx
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

__all__ = ["SignedNetwork", "as_network", "from_edgelist"]

MIN_NODES = 3


@dataclass(frozen=True, eq=False)
class SignedNetwork:
    """A directed network without self-loops whose edges have the sign +1 or -1.

    Made by `from_edgelist`, or by any model's ``fit``.

    Attributes
    ----------
    node_names : ndarray of shape (n_nodes,)
    source, target : ndarray of int32, shape (n_edges,)
        Positions in `node_names`, sorted by source, then target; no pair twice.
    sign : ndarray of int8, shape (n_edges,)
    """

    node_names: NDArray
    source: NDArray[np.int32] = field(repr=False)
    target: NDArray[np.int32] = field(repr=False)
    sign: NDArray[np.int8] = field(repr=False)

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.node_names)

    @property
    def n_edges(self) -> int:
        """Number of edges, of either sign."""
        return len(self.sign)

    @cached_property
    def net_out_degree(self) -> NDArray[np.float64]:
        """Positive minus negative edges that each node sends."""
        return np.bincount(self.source, weights=self.sign, minlength=self.n_nodes)

    @cached_property
    def net_in_degree(self) -> NDArray[np.float64]:
        """Positive minus negative edges that each node receives."""
        return np.bincount(self.target, weights=self.sign, minlength=self.n_nodes)

    def degrees(self, sign: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(out, in) degrees that count only the edges of one sign."""
        chosen = self.sign == sign
        return (
            np.bincount(self.source[chosen], minlength=self.n_nodes),
            np.bincount(self.target[chosen], minlength=self.n_nodes),
        )

    @cached_property
    def adjacency(self) -> sp.csr_array:
        """The signs as a sparse array of shape (n_nodes, n_nodes)."""
        shape = (self.n_nodes, self.n_nodes)
        return sp.csr_array((self.sign, (self.source, self.target)), shape=shape)

    @cached_property
    def _position(self) -> pd.Index:
        return pd.Index(self.node_names)

    def positions(self, names: Sequence[Hashable] | ArrayLike, argument: str) -> NDArray[np.int64]:
        """Positions of nodes given by name; an unknown name is refused."""
        names = np.asarray(names)
        found = self._position.get_indexer(pd.Index(names.ravel()))
        if (found < 0).any():
            unknown = list(pd.unique(pd.Series(names.ravel()[found < 0], dtype=object)))
            raise ValueError(
                f"{argument} names {len(unknown)} node(s) that are not in the network: "
                f"{_few(unknown)}; the network has {self.n_nodes} nodes: {_few(self.node_names)}"
            )
        return found.reshape(names.shape)


def from_edgelist(
    frame: pd.DataFrame,
    source: str = "source",
    target: str = "target",
    sign: str | None = "sign",
    nodes: Sequence[Hashable] | None = None,
) -> SignedNetwork:
    """Make a network out of a pandas edge list, one row an edge.

    Parameters
    ----------
    frame : DataFrame
    source, target : str, default="source", "target"
        Columns with the names of the sending and the receiving node.
    sign : str or None, default="sign"
        Column with +1 or -1; of any other number the sign is taken, with a warning. None: all edges are +1.
    nodes : sequence, optional
        All nodes, in the wanted order, so that nodes without an edge are not lost. Default: those that occur
        in the frame, sorted.

    Returns
    -------
    SignedNetwork

    Examples
    --------
    >>> import pandas as pd
    >>> from statml.graphs import from_edgelist
    >>> trust = pd.DataFrame({"source": ["ann", "ann", "bob"], "target": ["bob", "cy", "cy"],
    ...                       "sign": [1, -1, -1]})
    >>> from_edgelist(trust)
    SignedNetwork(node_names=array(['ann', 'bob', 'cy'], dtype=object))
    """
    columns = [source, target] + ([] if sign is None else [sign])
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise ValueError(f"frame has no column {missing}; it has {list(frame.columns)}")
    if frame[[source, target]].isna().any(axis=None):
        raise ValueError(
            f"frame has missing values in {source!r} or {target!r}; drop those rows first"
        )
    ends = pd.concat([frame[source], frame[target]], ignore_index=True)
    names = pd.Index(pd.unique(ends)).sort_values() if nodes is None else pd.Index(nodes)
    if names.has_duplicates:
        raise ValueError(f"nodes holds the same name twice: {_few(names[names.duplicated()])}")
    codes = names.get_indexer(ends)
    if (codes < 0).any():
        raise ValueError(
            f"nodes lacks {_few(pd.unique(ends[codes < 0]))}, which occur in the frame"
        )
    values = np.ones(len(frame)) if sign is None else frame[sign].to_numpy(dtype=float)
    return network_from_arrays(
        codes[: len(frame)],
        codes[len(frame) :],
        values,
        n_nodes=len(names),
        node_names=names.to_numpy(),
    )


def as_network(A: object) -> SignedNetwork:
    """Bring any accepted input to a `SignedNetwork`.

    Parameters
    ----------
    A : SignedNetwork, scipy sparse array or matrix, ndarray, DataFrame or networkx.DiGraph
        Entry (i, j) is the sign of the edge from i to j. A DataFrame's row and column labels, equal and in
        the same order, are the nodes' names. A DiGraph's edges have the attribute ``sign`` or ``weight``;
        an edge without either counts as +1.
    """
    if isinstance(A, SignedNetwork):
        return A
    if isinstance(A, nx.Graph):
        return _from_networkx(A)
    names = None
    if isinstance(A, pd.DataFrame):
        if not A.index.equals(A.columns):
            raise ValueError(
                "A is a DataFrame whose row and column labels differ; an adjacency matrix has the same "
                "nodes in the same order on both sides. For a table with one row an edge use from_edgelist"
            )
        names, A = A.index.to_numpy(), A.to_numpy()
    if not sp.issparse(A):
        A = np.asarray(A)
        if not (np.issubdtype(A.dtype, np.number) or A.dtype == bool):
            raise TypeError(
                "A must be a scipy sparse array, a numeric ndarray, a DataFrame, a networkx.DiGraph or a "
                f"SignedNetwork, got {type(A).__name__} of dtype {A.dtype}"
            )
        A = A.astype(A.dtype.newbyteorder("="), copy=False)  # what scipy takes
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"A must be square (one row and one column a node), got shape {A.shape}")
    edges = sp.coo_array(A)
    return network_from_arrays(*edges.coords, edges.data, n_nodes=A.shape[0], node_names=names)


def network_from_arrays(
    source: ArrayLike,
    target: ArrayLike,
    sign: ArrayLike,
    n_nodes: int | None = None,
    node_names: NDArray | None = None,
) -> SignedNetwork:
    """A network out of positions and signs; the one place where edges are checked and mended."""
    source, target, sign = np.asarray(source), np.asarray(target), np.asarray(sign)
    for name, values in (("source", source), ("target", target), ("sign", sign)):
        if values.ndim != 1 or len(values) != len(source):
            raise ValueError(
                f"source, target and sign must be one-dimensional and equally long, got shapes "
                f"{source.shape}, {target.shape}, {sign.shape}"
            )
        if name != "sign" and len(values) and not np.issubdtype(values.dtype, np.integer):
            raise TypeError(
                f"{name} must hold integers (positions of nodes), got dtype {values.dtype}"
            )
    if np.iscomplexobj(sign) or not (np.issubdtype(sign.dtype, np.number) or sign.dtype == bool):
        raise TypeError(f"sign must hold real numbers, got dtype {sign.dtype}")
    sign = sign.astype(np.float64) if sign.dtype != np.int8 else sign
    if not np.isfinite(sign).all():
        raise ValueError(
            f"sign holds {int((~np.isfinite(sign)).sum())} NaN or infinite values; an absent edge is 0"
        )
    if n_nodes is None:
        n_nodes = int(max(source.max(initial=-1), target.max(initial=-1))) + 1
    if n_nodes < MIN_NODES:
        raise ValueError(f"the network has {n_nodes} node(s); at least {MIN_NODES} are needed")
    for name, values in (("source", source), ("target", target)):
        if len(values) and (values.min() < 0 or values.max() >= n_nodes):
            raise ValueError(
                f"{name} holds positions from {values.min()} to {values.max()}; with n_nodes={n_nodes} they "
                f"must lie between 0 and {n_nodes - 1}"
            )

    changes = []
    loops = source == target
    if loops.any() and np.any(sign[loops] != 0):
        changes.append(f"{int((sign[loops] != 0).sum())} self-loop(s) were dropped")
    keep = ~loops & (sign != 0)
    if not keep.all():
        source, target, sign = source[keep], target[keep], sign[keep]
    if np.any(np.abs(sign) != 1):
        odd = int((np.abs(sign) != 1).sum())
        changes.append(f"{odd} weight(s) other than +1 and -1 were replaced by their sign")
        sign = np.sign(sign)

    pair = source.astype(np.int64) * n_nodes + target
    if len(pair) and np.any(pair[1:] <= pair[:-1]):  # not yet sorted, or not unique
        order = np.argsort(pair, kind="stable")
        pair, sign = pair[order], sign[order]
    first = np.ones(len(pair), dtype=bool)
    first[1:] = pair[1:] != pair[:-1]
    if not first.all():
        total = np.add.reduceat(sign.astype(np.float64), np.flatnonzero(first))
        changes.append(
            f"{int((~first).sum())} repeated edge(s) were merged; the sign of the majority was kept"
            + (f", {int((total == 0).sum())} tie(s) were dropped" if (total == 0).any() else "")
        )
        pair, sign = pair[first][total != 0], np.sign(total[total != 0])
    if changes:
        warnings.warn(
            "the network was changed on input: " + "; ".join(changes), UserWarning, stacklevel=3
        )
    return SignedNetwork(
        node_names=np.arange(n_nodes) if node_names is None else np.asarray(node_names),
        source=(pair // n_nodes).astype(np.int32),
        target=(pair % n_nodes).astype(np.int32),
        sign=sign.astype(np.int8),
    )


def _from_networkx(graph: nx.Graph) -> SignedNetwork:
    if not graph.is_directed():
        raise ValueError(
            "A is an undirected networkx graph; these models are for directed networks. "
            "graph.to_directed() makes each edge two, one in each direction"
        )
    names = list(graph)
    position = {name: i for i, name in enumerate(names)}
    edges = [
        (position[u], position[v], data.get("sign", data.get("weight", 1)))
        for u, v, data in graph.edges(data=True)
    ]
    source, target, sign = (
        (np.array(x) for x in zip(*edges, strict=True)) if edges else ([], [], [])
    )
    labels = np.empty(len(names), dtype=object)
    labels[:] = names  # keeps tuples and other compound names whole
    return network_from_arrays(
        np.asarray(source, dtype=np.int64),
        np.asarray(target, dtype=np.int64),
        np.asarray(sign, dtype=float),
        n_nodes=len(names),
        node_names=labels,
    )


def _few(names: Sequence, most: int = 5) -> str:
    """The first few names, for a message."""
    shown = ", ".join(str(name) for name in list(names)[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
