import networkx as nx
import numpy as np
import pandas as pd
import pytest

from statml.datasets import fetch_bitcoin_alpha, fetch_bitcoin_otc, load_sampson


@pytest.fixture(scope="module")
def monks():
    return load_sampson()


def test_sampson_has_the_known_numbers_of_monks_and_edges(monks):
    signs = list(nx.get_edge_attributes(monks, "sign").values())
    assert type(monks) is nx.DiGraph
    assert (len(monks), signs.count(1), signs.count(-1), len(signs)) == (18, 97, 87, 184)


def test_sampson_signs_are_those_of_the_differences_of_counts(monks):
    for _, _, edge in monks.edges(data=True):
        assert 0 <= edge["positive"] <= 4
        assert 0 <= edge["negative"] <= 4
        assert edge["sign"] == np.sign(edge["positive"] - edge["negative"])


def test_sampson_pairs_named_on_both_sides_equally_have_no_edge(monks):
    assert not monks.has_edge("Albert", "Amand")  # one positive and one negative nomination
    assert nx.number_of_selfloops(monks) == 0


def test_sampson_groups_think_well_of_themselves(monks):
    group = nx.get_node_attributes(monks, "group")
    sizes = pd.Series(group).value_counts()
    assert sizes.to_dict() == {"Young Turks": 7, "Loyal Opposition": 7, "Outcasts": 4}
    signs = {True: [], False: []}
    for source, target, sign in monks.edges(data="sign"):
        signs[group[source] == group[target]].append(sign)
    assert np.mean(signs[True]) > 0.5
    assert np.mean(signs[False]) < 0


def test_sampson_says_what_it_is_and_whence(monks):
    assert set(monks.graph) == {"name", "description", "source"}
    assert "Sampson (1968)" in monks.graph["source"]
    assert "Cornell" in monks.graph["source"]


def test_every_call_gives_a_graph_of_its_own():
    load_sampson().clear()
    assert len(load_sampson()) == 18


@pytest.mark.parametrize(
    ("fetch", "n_rows", "n_users", "n_negative"),
    [(fetch_bitcoin_otc, 35_592, 5_881, 3_563), (fetch_bitcoin_alpha, 24_186, 3_783, 1_536)],
)
def test_bitcoin_ratings_have_the_published_sizes(
    statml_data, tmp_path, fetch, n_rows, n_users, n_negative
):
    if not list(statml_data.glob("soc-sign-bitcoin*.csv.gz")):
        pytest.skip("STATML_DATA holds no Bitcoin networks")
    ratings = fetch(data_home=tmp_path)
    assert ratings.columns.tolist() == ["source", "target", "rating", "time", "sign"]
    assert len(ratings) == n_rows
    assert len(set(ratings["source"]) | set(ratings["target"])) == n_users
    assert (ratings["sign"] == -1).sum() == n_negative
    assert (ratings["sign"] * ratings["rating"]).between(1, 10).all()
    assert not ratings.duplicated(["source", "target"]).any()
    assert ratings["time"].dtype == "datetime64[us, UTC]"
    assert ratings["time"].dt.year.between(2010, 2016).all()
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded


def test_bitcoin_alpha_edges_run_from_source_to_target(statml_data):
    if not (statml_data / "soc-sign-bitcoinalpha.csv.gz").exists():
        pytest.skip("STATML_DATA holds no Bitcoin networks")
    first = fetch_bitcoin_alpha().iloc[0]
    assert (first["source"], first["target"], first["rating"]) == (7188, 1, 10)
