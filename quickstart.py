"""Rank the monks of Sampson's monastery: the main job of statml in one minute.

Run by ``make quickstart``. Prints statuses with 95 % intervals, says which monks differ with the false
discovery rate controlled, and writes a forest plot to output/.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from statml.datasets import load_sampson
from statml.graphs import RankingDisplay, SignedBetaModel

monks = load_sampson()
ranking = SignedBetaModel().fit(monks)
print(ranking.summary())

comparisons = ranking.compare_many(q=0.10)
print(f"\nWho stands above whom? {comparisons}.")
for higher, rows in comparisons.table.groupby("higher", sort=False):
    print(f"  {higher:12s} above {', '.join(rows['lower'])}")

ranks = ranking.rank()
print("\nLowest in-status, with simultaneous 95 % intervals for the rank:")
for row in ranks.tail(4).itertuples():
    group = monks.nodes[row.node]["group"]
    print(f"  {row.node:12s} rank {row.rank} [{row.rank_low}-{row.rank_high}]   Sampson: {group}")

groups = {monk: data["group"] for monk, data in monks.nodes(data=True)}
figure = RankingDisplay.from_estimator(ranking, groups=groups).ax_.figure
path = Path("output") / "sampson_in_status.png"
path.parent.mkdir(exist_ok=True)
figure.savefig(path, dpi=150, bbox_inches="tight")
print(f"\nForest plot: {path}")
