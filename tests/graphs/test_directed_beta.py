"""The unsigned directed beta-model."""

import warnings

import networkx as nx
import numpy as np
import pytest
import statsmodels.api as sm

from statml.graphs import DirectedBetaModel

SOLVERS = ("dense", "chebyshev")


@pytest.mark.parametrize("solver", SOLVERS)
def test_it_is_a_logistic_regression_with_two_effects_a_node(solver):
    graph = nx.gnp_random_graph(14, 0.5, seed=3, directed=True)
    a = nx.to_numpy_array(graph)
    i, j = np.nonzero(~np.eye(14, dtype=bool))
    design = np.hstack([np.eye(14)[i], np.eye(14)[j][:, 1:]])
    glm = sm.GLM(a[i, j], design, family=sm.families.Binomial()).fit(tol=1e-12)
    fit = DirectedBetaModel(solver=solver, tol=1e-10).fit(graph)
    beta = np.r_[0, glm.params[14:]]
    assert fit.in_status_ == pytest.approx(beta - beta.mean(), abs=1e-7)
    assert fit.out_status_ == pytest.approx(glm.params[:14] + beta.mean(), abs=1e-7)
    assert fit.loglik_ == pytest.approx(glm.llf, abs=1e-8)
    contrast = np.zeros(27)
    contrast[[15, 18]] = 1, -1  # in-statuses of nodes 2 and 5
    exact = np.sqrt(contrast @ glm.cov_params() @ contrast)
    assert fit.compare(2, 5).std_error == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_degree_is_matched_on_a_heavy_tailed_network(solver):
    graph = nx.DiGraph(nx.scale_free_graph(300, seed=1))
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    with pytest.warns(UserWarning, match="no finite estimate"):
        fit = DirectedBetaModel(solver=solver).fit(graph)
    names = list(graph)
    edges = [(u, v) for u in names for v in names if u != v]
    p = fit.predict_proba(edges)[:, 1]
    expected = np.zeros((300, 300))
    position = {name: k for k, name in enumerate(fit.node_names_)}
    for (u, v), value in zip(edges, p, strict=True):
        expected[position[u], position[v]] = value
    out = np.array([graph.out_degree(name) for name in fit.node_names_])
    into = np.array([graph.in_degree(name) for name in fit.node_names_])
    assert expected.sum(axis=1) == pytest.approx(out, abs=1e-5)
    assert expected.sum(axis=0) == pytest.approx(into, abs=1e-5)
    assert (fit.out_status_[out == 0] == -np.inf).all()
    assert (fit.in_status_[into == 0] == -np.inf).all()


def test_nodes_of_degree_zero_stay_in_samples_and_have_no_edges_there():
    graph = nx.gnp_random_graph(20, 0.4, seed=5, directed=True)
    graph.add_node("alone")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = DirectedBetaModel().fit(graph)
    draws = [fit.sample(seed).toarray() for seed in range(20)]
    assert all(d.shape == (21, 21) for d in draws)
    assert not any(d[20].any() or d[:, 20].any() for d in draws)
    mean = np.mean([d.sum() for d in draws])
    assert mean == pytest.approx(graph.number_of_edges(), abs=4 * 10 / np.sqrt(20) + 1)


def test_a_network_that_removes_nodes_in_turn_is_solved():
    """A strict hierarchy: every status runs off, the ends first."""
    a = np.triu(np.ones((6, 6)), 1)
    a[4, 0] = 1
    with pytest.raises(ValueError, match="no finite estimate exists"):
        DirectedBetaModel().fit(np.triu(np.ones((6, 6)), 1))


def test_negative_edges_are_refused():
    with pytest.raises(ValueError, match="negative edges; DirectedBetaModel is for unsigned"):
        DirectedBetaModel().fit(np.array([[0, 1, 0], [0, 0, -1], [1, 0, 0]]))


def test_edges_can_be_given_as_positions():
    graph = nx.gnp_random_graph(30, 0.3, seed=2, directed=True)
    source, target = np.array(graph.edges).T
    one = DirectedBetaModel().fit_edges(source, target, n_nodes=30)
    assert one.in_status_ == pytest.approx(DirectedBetaModel().fit(graph).in_status_, abs=1e-9)
    assert "Directed beta-model" in one.summary().as_text()
