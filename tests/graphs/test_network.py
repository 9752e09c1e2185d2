"""What networks are taken, and what is said about what had to be changed."""

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from statml.graphs import DirectedBetaModel, SignedBetaModel, from_edgelist
from statml.graphs.network import as_network, network_from_arrays

A = np.array([[0, 1, -1, 0], [1, 0, 0, -1], [0, 1, 0, 0], [-1, 0, 1, 0]])


@pytest.mark.parametrize(
    "form",
    [
        sp.csr_array,
        sp.coo_matrix,
        sp.csc_array,
        np.asarray,
        pd.DataFrame,
        lambda a: a.astype(float),
    ],
)
def test_every_form_of_the_matrix_gives_the_same_network(form):
    network = as_network(form(A))
    assert (network.adjacency.toarray() == A).all()


def test_networkx_names_and_the_attributes_sign_or_weight_are_kept():
    graph = nx.DiGraph()
    graph.add_nodes_from(["a", "b", "c", "d"])
    graph.add_edge("a", "b", sign=-1)
    graph.add_edge("b", "c", weight=1)
    graph.add_edge("d", "a")
    network = as_network(graph)
    assert network.node_names.tolist() == ["a", "b", "c", "d"]
    assert network.adjacency.toarray().tolist() == [
        [0, -1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0],
    ]  # fmt: skip


def test_labels_of_a_dataframe_are_the_names_and_must_agree():
    frame = pd.DataFrame(A, index=list("wxyz"), columns=list("wxyz"))
    assert as_network(frame).node_names.tolist() == list("wxyz")
    with pytest.raises(ValueError, match="row and column labels differ"):
        as_network(frame.rename(columns={"w": "v"}))


def test_edge_lists_keep_names_and_nodes_without_edges():
    frame = pd.DataFrame({"source": ["b", "a"], "target": ["a", "c"], "sign": [1, -1]})
    network = from_edgelist(frame, nodes=["a", "b", "c", "z"])
    assert network.n_nodes == 4
    assert network.net_in_degree.tolist() == [1, 0, -1, 0]
    with pytest.raises(ValueError, match="nodes lacks c"):
        from_edgelist(frame, nodes=["a", "b", "q"])
    with pytest.raises(ValueError, match=r"no column \['rating'\]"):
        from_edgelist(frame, sign="rating")
    with pytest.raises(ValueError, match="missing values"):
        from_edgelist(frame.assign(source=[None, "a"]))


def test_self_loops_repeated_edges_and_weights_are_mended_with_a_warning_that_says_so():
    with pytest.warns(UserWarning, match=r"1 self-loop\(s\) were dropped"):
        looped = as_network(A + np.diag([1, 0, 0, 0]))
    assert (looped.adjacency.toarray() == A).all()
    with pytest.warns(UserWarning, match=r"7 weight\(s\) other than \+1 and -1 were replaced by"):
        weighted = as_network(A * 7)
    assert (weighted.adjacency.toarray() == A).all()
    with pytest.warns(
        UserWarning, match=r"3 repeated edge\(s\) were merged.*1 tie\(s\) were dropped"
    ):
        merged = network_from_arrays(
            np.array([0, 0, 0, 1, 1]), np.array([1, 1, 1, 2, 2]), np.array([1, -1, 1, 1, -1]), 3
        )
    assert merged.adjacency.toarray().tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_a_clean_network_gives_no_warning(recwarn):
    as_network(A)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.ones((3, 4)), ValueError, r"square.*\(3, 4\)"),
        (np.full((4, 4), np.nan), ValueError, "NaN or infinite"),
        (np.array([[0, 1], [1, 0]]), ValueError, "2 node.*at least 3"),
        (np.zeros((5, 5)), ValueError, "no edges"),
        (np.array([["a", "b"], ["c", "d"]]), TypeError, "scipy sparse array"),
        (A * 1j, TypeError, "real numbers"),
        (nx.Graph([(0, 1), (1, 2)]), ValueError, "undirected"),
        (None, TypeError, "scipy sparse array"),
    ],
)
@pytest.mark.parametrize("model", [SignedBetaModel(), DirectedBetaModel()])
def test_unusable_networks_are_refused_by_name(model, bad, error, message):
    with pytest.raises(error, match=message):
        model.fit(bad)


@pytest.mark.parametrize(
    ("source", "target", "sign", "n", "error", "message"),
    [
        ([0, 1], [1], [1, 1], None, ValueError, "equally long"),
        ([0.5, 1], [1, 2], [1, 1], None, TypeError, "source must hold integers"),
        ([0, 1], [1, 9], [1, 1], 5, ValueError, "target holds positions from 1 to 9"),
        ([0, -1], [1, 2], [1, 1], 5, ValueError, "source holds positions from -1"),
        ([0, 1], [1, 2], [1, np.inf], None, ValueError, "NaN or infinite"),
    ],
)
def test_unusable_edges_are_refused_by_name(source, target, sign, n, error, message):
    with pytest.raises(error, match=message):
        SignedBetaModel().fit_edges(source, target, sign, n_nodes=n)


def test_unknown_nodes_are_named():
    network = as_network(A)
    with pytest.raises(ValueError, match="edges names 1 node.*17"):
        network.positions([0, 17], "edges")
