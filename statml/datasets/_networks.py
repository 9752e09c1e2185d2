"""Directed signed networks from the literature."""

from __future__ import annotations

import os
from importlib.resources import files

import networkx as nx
import numpy as np
import pandas as pd

from ._base import fetch_file

SAMPSON_GROUPS = {
    "Young Turks": "John Gregory Mark Winfrid Hugh Boniface Albert",
    "Loyal Opposition": "Peter Bonaventure Berthold Victor Ambrose Romul Louis",
    "Outcasts": "Amand Basil Elias Simplicius",
}
BITCOIN = {
    "otc": "76bd9d8f1d3ff9a1813d9fc8e6902a0ee4d0a2f8c1003842dbc9ec79149ab60c",
    "alpha": "1b2a970f327d0ceba0c57bd5919670257cbe4cc0704e2ddac09abc4b08e2ca4d",
}


def load_sampson() -> nx.DiGraph:
    """Sampson's monastery: who among 18 monks thinks well or ill of whom.

    Before the community broke apart, Sampson asked each monk for those he liked and disliked, esteemed and
    disesteemed, those with a positive and a negative influence, and those to praise and to blame. An edge runs from
    the one who names to the one who is named.

    Returns
    -------
    networkx.DiGraph
        18 nodes with the attribute ``group``: "Young Turks", "Loyal Opposition" or "Outcasts", as Sampson saw
        them. 184 edges with the attributes ``positive`` and ``negative``, in how many of the four questions the
        source named the target on that side, and ``sign``, the sign of their difference: 97 edges of +1 and 87 of -1.
        A pair whose difference is zero has no edge, whether it was named on both sides equally or not at all.
        Graph attributes: ``name``, ``description``, ``source``.

    References
    ----------
    Sampson, S. F. (1968). A novitiate in a period of change: An experimental and case study of social
    relationships. PhD dissertation, Cornell University.

    Examples
    --------
    >>> from statml.datasets import load_sampson
    >>> monks = load_sampson()
    >>> monks.edges["Albert", "Basil"]
    {'positive': 0, 'negative': 4, 'sign': -1}
    >>> monks.nodes["Basil"]["group"]
    'Outcasts'
    """
    with files("statml.datasets").joinpath("data/sampson.csv").open("r", encoding="utf-8") as file:
        table = pd.read_csv(file)
    graph = nx.DiGraph(
        name="Sampson's monastery",
        description="positive and negative nominations among 18 monks of a monastery",
        source="S. F. Sampson (1968), A novitiate in a period of change, PhD dissertation, Cornell University",
    )
    group = {monk: name for name, monks in SAMPSON_GROUPS.items() for monk in monks.split()}
    graph.add_nodes_from((monk, {"group": group[monk]}) for monk in sorted(group))
    for source, target, positive, negative in table.itertuples(index=False):
        sign = int(np.sign(positive - negative))
        if sign:
            graph.add_edge(source, target, positive=positive, negative=negative, sign=sign)
    return graph


def fetch_bitcoin_otc(data_home: str | os.PathLike | None = None) -> pd.DataFrame:
    """Who trusts whom on Bitcoin OTC, a platform for trading bitcoins: 35,592 ratings, 5,881 users.

    Downloaded from SNAP (0.4 MB) at the first call.

    Parameters
    ----------
    data_home : path or None, default=None
        Cache folder; None means ``$STATML_CACHE``, or else ``~/.cache/statml``.

    Returns
    -------
    DataFrame of 35,592 rows
        Columns ``source`` and ``target`` (user numbers), ``rating`` (-10 to 10, never 0), ``time`` (UTC) and
        ``sign`` (+1 or -1, of the rating).

    Raises
    ------
    OSError
        If there is no copy and no connection.
    ValueError
        If the file has the wrong checksum.

    References
    ----------
    Kumar, S., Spezzano, F., Subrahmanian, V. S. and Faloutsos, C. (2016). Edge weight prediction in weighted signed
    networks. IEEE International Conference on Data Mining (ICDM), 221-230.

    Examples
    --------
    >>> from statml.datasets import fetch_bitcoin_otc
    >>> ratings = fetch_bitcoin_otc()  # doctest: +SKIP
    >>> ratings["sign"].value_counts()  # doctest: +SKIP
    """
    return _fetch_bitcoin("otc", data_home)


def fetch_bitcoin_alpha(data_home: str | os.PathLike | None = None) -> pd.DataFrame:
    """Who trusts whom on Bitcoin Alpha, a platform for trading bitcoins: 24,186 ratings, 3,783 users.

    Downloaded from SNAP (0.2 MB) at the first call.

    Parameters
    ----------
    data_home : path or None, default=None
        Cache folder; None means ``$STATML_CACHE``, or else ``~/.cache/statml``.

    Returns
    -------
    DataFrame of 24,186 rows
        Columns as in `fetch_bitcoin_otc`.

    Raises
    ------
    OSError
        If there is no copy and no connection.
    ValueError
        If the file has the wrong checksum.

    References
    ----------
    Kumar, S., Spezzano, F., Subrahmanian, V. S. and Faloutsos, C. (2016). Edge weight prediction in weighted signed
    networks. IEEE International Conference on Data Mining (ICDM), 221-230.

    Examples
    --------
    >>> from statml.datasets import fetch_bitcoin_alpha
    >>> ratings = fetch_bitcoin_alpha()  # doctest: +SKIP
    """
    return _fetch_bitcoin("alpha", data_home)


def _fetch_bitcoin(market: str, data_home: str | os.PathLike | None) -> pd.DataFrame:
    name = f"soc-sign-bitcoin{market}.csv.gz"
    path = fetch_file(name, f"https://snap.stanford.edu/data/{name}", BITCOIN[market], data_home)
    ratings = pd.read_csv(path, names=["source", "target", "rating", "time"])
    ratings["time"] = pd.to_datetime(ratings["time"], unit="s", utc=True).dt.as_unit("us")
    ratings["sign"] = np.sign(ratings["rating"])
    return ratings
