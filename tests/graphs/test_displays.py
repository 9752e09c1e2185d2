"""The plots show what the tables hold."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from statml.datasets import load_sampson, make_signed_network
from statml.graphs import ComparisonDisplay, DegreeFitDisplay, RankingDisplay, SignedBetaModel


@pytest.fixture(scope="module")
def monks():
    return SignedBetaModel().fit(load_sampson())


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_ranking_shows_every_node_in_order(monks):
    display = RankingDisplay.from_estimator(monks)
    labels = [t.get_text() for t in display.ax_.get_yticklabels()]
    assert labels == monks.rank()["node"].tolist()
    assert np.diff(display.ax_.get_yticks()).max() < 0  # best on top


def test_ranking_of_a_large_network_shows_both_ends():
    data = make_signed_network(80, 0.6, 0.5, 0.5, random_state=0)
    fit = SignedBetaModel().fit(data.adjacency)
    display = RankingDisplay.from_estimator(fit, max_nodes=10)
    assert display.table["rank"].tolist() == [1, 2, 3, 4, 5, 76, 77, 78, 79, 80]


def test_groups_are_coloured_and_named(monks):
    groups = {name: data["group"] for name, data in load_sampson().nodes(data=True)}
    display = RankingDisplay.from_estimator(monks, groups=groups)
    legend = {t.get_text() for t in display.ax_.get_legend().get_texts()}
    assert legend == {"Young Turks", "Loyal Opposition", "Outcasts"}


def test_grid_marks_the_rejected_pairs(monks):
    comparisons = monks.compare_many(q=0.1)
    display = ComparisonDisplay.from_comparisons(comparisons)
    marked = display.ax_.collections[0].get_offsets()
    assert len(marked) == comparisons.n_rejected
    assert ComparisonDisplay.from_estimator(monks).letters == display.letters
    with pytest.raises(ValueError, match="must be over all pairs"):
        ComparisonDisplay.from_comparisons(monks.compare_many("vs:Basil"))
    with pytest.raises(ValueError, match="max_nodes=5"):
        ComparisonDisplay.from_comparisons(comparisons, max_nodes=5)


def test_degree_plot_draws_onto_given_axes(monks):
    _, ax = plt.subplots()
    display = DegreeFitDisplay.from_estimator(monks, side="out", ax=ax)
    assert display.ax_ is ax
    assert ax.get_xlabel() == "expected out-degree"
    with pytest.raises(ValueError, match="side must be"):
        DegreeFitDisplay.from_estimator(monks, side="up")
