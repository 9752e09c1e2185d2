"""
Whom do traders trust? A large sparse network of ratings
========================================================

On the Bitcoin Alpha platform, people rated those they traded with from -10 (fraud) to +10 (trust). There
are 3,783 people and 24,186 ratings: each knows a handful of others, some of them hundreds. Two questions: can the
sign of an unseen rating be predicted, and whose reputation is surely good or bad?

On the first run the data are downloaded from SNAP (150 kB).
"""

# %%
from statml.datasets import fetch_bitcoin_alpha

ratings = fetch_bitcoin_alpha()
print(ratings.head(3))
print(f"{(ratings['sign'] < 0).mean():.1%} of {len(ratings)} ratings are negative")

# %%
# The right family
# ----------------
#
# The families over all pairs describe who rates whom as well as how. Here that would be a mistake: who
# meets whom has nothing to do with one density for all, and the net degree of hundreds of people lies beyond anything
# that such a model can produce:
import warnings

from statml.graphs import SignedBetaModel, from_edgelist

network = from_edgelist(ratings)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    sparse_logit = SignedBetaModel().fit(network)
print(str(caught[0].message)[:400], "...")
print(sparse_logit.existence_["side"].value_counts())

# %%
# The *conditional* family models the sign given that there is a rating, and leaves the meeting alone. Most people
# have only positive ratings, so their status would be infinite; a ridge keeps it finite and says how far
# a few good ratings go.
#
# Held-out signs
# --------------
#
# Five folds over the ratings. The score is the area under the ROC curve: the chance that a positive rating
# gets a higher probability than a negative one.
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

edges, sign = ratings[["source", "target"]], ratings["sign"].to_numpy()
nodes = network.node_names


def held_out_auc(l2):
    """Of the whole model, and of the in-status of the target alone; a row a fold."""
    scores = []
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(edges, sign):
        model = SignedBetaModel(family="conditional", l2=l2)
        model.fit(from_edgelist(ratings.iloc[train], nodes=nodes))
        in_status = pd.Series(model.in_status_, model.node_names_)
        reputation = edges["target"].iloc[test].map(in_status)
        scores.append(
            [model.score(edges.iloc[test], sign[test]), roc_auc_score(sign[test], reputation)]
        )
    return np.array(scores)


for strength in (0.1, 0.5, 2.0):
    scores = held_out_auc(l2=strength / len(ratings))  # the ridge is per observation
    error = scores[:, 0].std(ddof=1) / np.sqrt(5)
    print(f"ridge {strength:3.1f} / edges: AUC {scores[:, 0].mean():.3f} +- {error:.3f}", end="")
    print(f"   in-status alone: {scores[:, 1].mean():.3f}")

# %%
# The in-status alone is what a reputation score would use. It ignores that some raters are harsh, and that costs
# a tenth of the area.
#
# Whose reputation is beyond doubt?
# ---------------------------------
#
# With a handful of ratings each, few reputations are certain, and the intervals say so.
from statml.graphs import RankingDisplay

model = SignedBetaModel(family="conditional", l2=0.5 / len(ratings), cov="dyad").fit(network)
RankingDisplay.from_estimator(model, max_nodes=30)

# %%
# How many are surely worse than average? One test a person, with 5 % of false ones expected among those named.
from statml.inference import adjust_pvalues

people = model.tidy().query("term.str.startswith('in[')")
surely = people[(adjust_pvalues(people["p_value"]) <= 0.05) & (people["estimate"] < 0)]
ever_negative = ratings.loc[ratings["sign"] < 0, "target"].nunique()
print(f"{ever_negative} people ever got a negative rating; {len(surely)} are surely below average.")

# %%
# What this rests on
# ------------------
#
# - Given the statuses, ratings are independent. They are not quite: four in five are returned, mostly with the same
#   sign. The standard errors above are clustered by dyad, so they allow for that.
# - The ridge is a prior. For people with one or two ratings the interval is mostly prior, and rightly wide.
# - Ratings come in time order; a split by folds answers "could this have been known from the others", not
#   "could it have been foreseen".
#
# Data: S. Kumar, F. Spezzano, V. S. Subrahmanian and C. Faloutsos (2016), Edge weight prediction in weighted signed
# networks, ICDM.
