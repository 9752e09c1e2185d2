r"""
Finding mislabelled digits
==========================

A tenth of the labels of a training set are wrong. Which ones? The usual advice is to rank records by their influence
and look at the top. This tutorial follows it with several methods, against the baseline that is often left out, the
plain training loss, and then asks which methods predict what retraining would do.

The data are 1797 handwritten digits of 8 x 8 pixels. 500 train a softmax regression; a tenth of their labels are changed
at random. 300 others, with clean labels, say what is helpful, and 300 more judge the result.
"""

# %%
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

rng = np.random.default_rng(0)
digits = load_digits()
X, y = digits.data / 16, digits.target
order = rng.permutation(len(y))
train, clean, fresh = order[:500], order[500:800], order[800:1100]
labels = y[train].copy()
is_bad = np.zeros(500, dtype=bool)
is_bad[rng.choice(500, 50, replace=False)] = True
labels[is_bad] = (labels[is_bad] + rng.integers(1, 10, 50)) % 10

model = LogisticRegression(tol=1e-6, max_iter=2000).fit(X[train], labels)
print(f"accuracy on clean digits: {model.score(X[clean], y[clean]):.3f}")

# %%
# Scores for suspicion
# --------------------
#
# Two ideas. *Self-influence*: how much worse is a record's own label predicted without it? A wrong label is known from
# nowhere else, so the model must have memorised it. And *harm*: minus the mean influence on the clean digits.
from statml.influence import KNNShapley, NewtonStep, SubsetEnsemble

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    step = NewtonStep().fit(model, X[train], labels)
ensemble = SubsetEnsemble(100, warm_start=True, random_state=0).fit(model, X[train], labels)
neighbours = KNNShapley(n_neighbors=5).fit(None, X[train], labels)

tau = {
    "Newton step": step.influence(X[clean], y[clean]),
    "KNN-Shapley": neighbours.influence(X[clean], y[clean]),
    "downsampling": ensemble.influence(X[clean], y[clean]),
}
loss = step.oracle_.loss(step.oracle_.X, step.oracle_.y)
suspicion = {
    "training loss": loss,
    "self-influence (Newton step)": step.self_influence(),
    "memorisation (100 subsets)": ensemble.memorization().value,
    **{f"harm ({name})": -values.mean(axis=0) for name, values in tau.items()},
}

# %%
# The curve shows how many of the wrong labels are found by looking through the records from the most suspicious on.
from statml.influence import DetectionCurveDisplay

DetectionCurveDisplay(suspicion, is_bad).plot()

# %%
# With uncertainty, and each against the loss. The standard errors are DeLong's; the differences are paired, since all
# scores judge the same records.
from statml.influence.metrics import mislabel_auc

for name, score in suspicion.items():
    table = mislabel_auc(score, is_bad, loss)
    auc, difference = table.loc["score"], table.loc["difference"]
    print(
        f"{name:30s} AUC {auc['auc']:.3f} [{auc['conf_low']:.3f}, {min(auc['conf_high'], 1):.3f}]"
        f"   minus the loss: {difference['auc']:+.3f} +- {difference['std_error']:.3f}"
    )

# %%
# The sober reading: **nothing beats the plain loss here**. A well-regularised linear model does not fit its wrong labels,
# so a wrong label has a large loss and that is that. Influence earns its cost where the model is flexible enough to
# memorise, or where the question is another one.
#
# These are the digits at the top, with the label that was given to them:
import matplotlib.pyplot as plt

top = np.argsort(-step.self_influence())[:12]
fig, axs = plt.subplots(2, 6, figsize=(8, 3.2), layout="constrained")
for ax, i in zip(axs.ravel(), top, strict=True):
    ax.imshow(X[train][i].reshape(8, 8), cmap="gray_r")
    ax.set_title(
        f"said {labels[i]}, is {y[train][i]}", fontsize=9, color="C3" if is_bad[i] else "0.2"
    )
    ax.axis("off")

# %%
# What would retraining do?
# -------------------------
#
# The other question: who helped *this* prediction? The judge is retraining. Half of the data is drawn at random, 40
# times; a good method predicts, for each test digit, in which of these its loss is low: the linear datamodeling score is
# the rank correlation of the two.
from statml.influence import LDSDisplay
from statml.influence.metrics import linear_datamodeling_score

judge = SubsetEnsemble(40, fraction=0.5, warm_start=True, random_state=1).fit(
    model, X[train], labels
)
masks, outputs = judge.lds_truth(X[clean], y[clean])
tau["random"] = rng.normal(size=tau["Newton step"].shape)
tau["datamodel (ridge, 100 subsets)"] = ensemble.datamodel(X[clean], y[clean]).value
scores = {name: linear_datamodeling_score(t, masks, outputs) for name, t in tau.items()}
for name, score in scores.items():
    print(f"{name:32s} {score.score:.3f} [{score.conf_low:.3f}, {score.conf_high:.3f}]")
LDSDisplay(scores).plot()

# %%
# Here the Newton step wins by far: it knows the model, at the price of one matrix inversion. 100 retrained models know
# it only through noise, and the neighbours do not know it at all.
#
# Which of these values are more than noise?
# ------------------------------------------
#
# Downsampling values come with standard errors, so they can be tested, here for their effect on the mean loss of the
# clean digits at a false discovery rate of 10 %. With 100 subsets no single record stands out: their values rank well
# only on average, and it would take thousands of fits to be sure of one.
found = ensemble.influential(X[clean], y[clean], q=0.10)
print(f"{len(found)} of 500 records stand out of the sampling noise")
if len(found):
    print(
        f"of these, {is_bad[found['row']].sum()} have wrong labels, and {(found['effect'] == 'hurts').sum()} hurt"
    )

# %%
# Does it pay to clean up?
# ------------------------
#
# Remove the most harmful records, and compare with random removal. The loss is that of digits which had no say in what
# is harmful: those that had would flatter it.
from statml.influence import RemovalCurveDisplay
from statml.influence.metrics import removal_curve

settled = LogisticRegression(tol=1e-3, max_iter=500)
curves = {
    name: removal_curve(
        score, settled, X[train], labels, X[fresh], y[fresh], [0, 0.05, 0.1, 0.2],
        order="lowest", n_random=2,
    )
    for name, score in (
        ("most harmful first", tau["Newton step"].mean(axis=0)),
        ("largest loss first", -loss),
    )
}  # fmt: skip
RemovalCurveDisplay(curves).plot()

# %%
# What this rests on
# ------------------
#
# * The clean digits decide what is harmful: they must come from the population that matters.
# * KNN-Shapley values a neighbour classifier in the space of pixels, not the model at hand.
# * The wrong labels here are random. Systematic ones (all 4s called 9) look consistent to the model, and have a small
#   loss and a small self-influence.
# * Retraining scores (downsampling, datamodels) need hundreds of fits; their standard errors say whether there were
#   enough.
