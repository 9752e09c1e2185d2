"""
Coloured digits: what a network learns when colour gives the answer away
========================================================================

Is the digit at least 5? In the training images the answer can nearly be read off the colour: 95 of 100 images of the class "yes"
are green, and 95 of 100 of the class "no" are red. Nobody will colour the digits that come later. A network does not
know that, and learns the colour.

This tutorial trains the same small network in several ways. With the colours written down as groups, group DRO and
reweighting undo most of the damage, *if* the training is stopped in time. Without them, methods that look for
the neglected records by themselves find them or not, depending on details that one cannot check without group labels.
The last part shows that, too.

The digits are handwritten, 5,000 of MNIST; a quarter of the labels is wrong on purpose, so that no classifier
can be right in more than about 75 % of any group.
"""

# %%
# Two colours, four groups
# ------------------------
#
# The test images are other digits, coloured at random, so that colour says nothing there. (Images are halved to 14 x 14
# pixels, for time.)
import numpy as np
import pandas as pd

from statml.datasets import make_colored_digits

rng = np.random.default_rng(0)
order = rng.permutation(5000)


def digits(agreement, rows, seed):
    data = make_colored_digits(agreement=agreement, random_state=seed)
    small = data.images[rows].reshape(-1, 2, 14, 2, 14, 2).mean(axis=(3, 5))
    return small.astype(np.float32), data.y[rows], data.attribute[rows], data.groups[rows]


images, y, colour, groups = digits(0.95, order[:3500], seed=0)
test_images, y_test, colour_test, groups_test = digits(0.5, order[3500:], seed=1)
X, X_test = (part.reshape(len(part), -1) for part in (images, test_images))
print(pd.crosstab(pd.Series(y, name="at least 5"), pd.Series(colour, name="green")))

# %%
import matplotlib.pyplot as plt

from statml._display import BLUE, GREY, RED, axes

fig, panels = plt.subplots(2, 8, figsize=(8, 2.3), layout="constrained")
for label, row in enumerate(panels):
    for ax, k in zip(row, np.flatnonzero(y == label)[:8], strict=True):
        picture = np.zeros((14, 14, 3))
        picture[..., 0], picture[..., 1] = images[k]
        ax.imshow(picture)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"class {label}", rotation=0, ha="right", va="center")
plt.show()

# %%
# The mean loss
# -------------
from statml.adapters import GroupDRONet, NetClassifier

from statml.group_robust import group_report

shared = {"module__hidden": (64,), "epochs": 10, "random_state": 0}
plain = NetClassifier(**shared).fit(X, y)
print(group_report(y_test, plain.predict(X_test), groups_test))

# %%
# Where the colour agrees with the class, nearly everything is right; where it does not, nearly everything is wrong. The
# network has learnt the colour and nothing else. It is a good network for the data it was given: the colour is right in 95 %
# of the training records, the shape of a digit at most in 75 %.
#
# Groups written down
# -------------------
#
# The four groups are class times colour. *Reweighting* draws them equally often (``eg_step=0``); *group DRO* also raises the
# weight of the groups with the largest loss as it goes. A fifth of the records of each group is held out,
# and after every epoch the accuracy of the worst group is measured there.
robust = GroupDRONet(
    **{**shared, "epochs": 40}, selection="worst-group", validation_fraction=0.2
).fit(X, y, groups=groups)
print(group_report(y_test, robust.predict(X_test), groups_test))
print(f"kept: epoch {robust.best_epoch_}, counted from 0, of {robust.n_iter_}")

# %%
# Not every epoch is as good as another. The small groups have about ninety images each, which the network soon knows by
# heart. From then on, their *training* loss is as low as that of the others, group DRO has nothing left to weigh, and on new images
# the network goes back to the colour. This is the main point of the paper on group DRO (Sagawa et al. 2020): without strong
# regularisation, of which stopping early is the cheapest, a flexible network makes every method the same.
history = robust.history_
worst_train = history.groupby("epoch")["train_loss"].max()
worst_val = history.groupby("epoch")["val_accuracy"].min()
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
axes(left).plot(worst_train, color=BLUE)
left.set(xlabel="epoch", ylabel="loss of the worst group in training", ylim=(0, None))
axes(right).plot(worst_val, color=RED)
right.axvline(robust.best_epoch_, color=GREY, ls=":")
right.set(xlabel="epoch", ylabel="held-out accuracy of the worst group", ylim=(0, None))
plt.show()

# %%
# Groups not written down
# -----------------------
#
# *Just train twice* gives more weight to what a first network, stopped after three epochs, gets wrong. *Learning from failure* lets a
# network that is made to prefer the easy rule tell another one what is hard. *AGRO* trains an adversary to slice the records
# so that the network does badly in some slices, then trains the network to do well in all. All three get images and classes
# only.
from statml.adapters import AGRONet, JTTNet, LfFNet

discovery = {
    "just train twice": JTTNet(**shared, stop=0.3, upweight=20.0),
    "learning from failure": LfFNet(**shared),
    "AGRO, DOMINO start": AGRONet(**shared),
    "AGRO, confusion start": AGRONet(**shared, init="confusion"),
}
for model in discovery.values():
    model.fit(X, y)

# %%
# Which records did they go for? Those we hope for are the minority, images in the colour of the other class.
minority = y != colour
errors = discovery["just train twice"].error_set_
print(
    f"just train twice: {errors.sum()} records, {minority[errors].mean():.0%} of them minority, "
    f"which has {minority.sum()}"
)
W = discovery["learning from failure"].difficulty_
print(
    f"learning from failure: mean weight {W[minority].mean():.2f} minority, {W[~minority].mean():.2f} others"
)
for name in ("AGRO, DOMINO start", "AGRO, confusion start"):
    model = discovery[name]
    P = model.slice_proba(X, y)
    table = model.slices_[["mass", "loss", "lift", "error", "label", "weight"]].copy()
    table["minority"] = P.T @ minority / P.sum(axis=0)
    print(f"\n{name}\n{table.round(2).to_string(index=False)}")

# %%
# All of them go for the minority: just train twice has it complete, and both adversaries have a slice of hardly anything
# else, with thirteen times the mean loss. One would expect that training to be robust over such slices is as good as having the labels.
#
# Side by side
# ------------
#
# Two draws of colours, labels and initial weights; points are draws, bars their means. The methods above the line saw no
# groups. AGRO's classifier starts, as in the paper, from the network trained on the mean loss, and its slices have weights of at most
# their mass over ``alpha=0.2``; below it, group DRO is trained on the same slices from new weights, without that bound.
from statml.group_robust import worst_group_score

METHODS = {
    "mean loss": lambda s: NetClassifier(**s).fit(X, y),
    "just train twice": lambda s: JTTNet(**s, stop=0.3, upweight=20.0).fit(X, y),
    "learning from failure": lambda s: LfFNet(**s).fit(X, y),
    "AGRO, confusion start": lambda s: AGRONet(**s, init="confusion").fit(X, y),
    "group DRO on its slices": lambda s: GroupDRONet(**s).fit(
        X, y, group_weights=fitted["AGRO, confusion start"].slice_proba(X, y)
    ),
    "labels: reweighting": lambda s: GroupDRONet(**s, eg_step=0.0).fit(X, y, groups),
    "labels: group DRO": lambda s: GroupDRONet(**s).fit(X, y, groups),
    "labels: group DRO, chosen epoch": lambda s: GroupDRONet(
        **s, selection="worst-group", validation_fraction=0.2
    ).fit(X, y, groups),
}
scores = {name: [] for name in METHODS}
for draw in range(2):
    order = np.random.default_rng(draw).permutation(5000)
    images, y, colour, groups = digits(0.95, order[:3500], seed=draw)
    test_images, y_test, _, groups_test = digits(0.5, order[3500:], seed=1000 + draw)
    X, X_test = (part.reshape(len(part), -1) for part in (images, test_images))
    fitted = {}
    for name, fit in METHODS.items():
        fitted[name] = fit({**shared, "random_state": draw})
        predicted = fitted[name].predict(X_test)
        scores[name].append(worst_group_score(y_test, predicted, groups_test))
table = pd.DataFrame(scores)
print(table.mean().round(3).to_string())

ax = axes(figsize=(7, 3.6))
for k, name in enumerate(METHODS):
    shade = GREY if "labels" in name else RED
    ax.barh(k, table[name].mean(), color=shade, alpha=0.5, height=0.6)
    ax.scatter(table[name], [k] * len(table), 18, shade, zorder=3, clip_on=False)
ax.axhline(4.5, color=GREY, lw=1, ls=":")
ax.axvline(0.75, color=BLUE, lw=1)
ax.set(yticks=range(len(METHODS)), yticklabels=METHODS, xlabel="test accuracy of the worst group")
ax.invert_yaxis()
plt.show()

# %%
# (The blue line is the most that label noise allows. ``python benchmarks/group_robust_networks.py digits`` runs five draws.)
#
# AGRO had the minority in a slice and still does not serve it. Two things differ from group DRO on its slices, which does
# better: its classifier starts from a network that has learnt the colour, and the weight of a slice is bounded. Even that
# stays below what the true labels give, in both draws. Who could have told any of this, without labels?
#
# To remember
# -----------
#
# * Group labels, and an epoch chosen with them, give what can be relied on. Between reweighting and group DRO there is little to
#   choose here; the epoch matters more.
# * Discovery without labels is fragile. Just train twice comes as far as the labels here because it was told to stop after three epochs and to weigh
#   errors 20 times; such numbers are usually chosen by the worst group of labelled validation records, which is to say, with
#   the labels. A slice that holds the right records is not yet
#   a network that serves them.
# * Accuracy on records like the training ones says nothing about all this: by that measure the first network was
#   the best.
# * If a few records with known groups can be had, use them: to choose among these methods, or for
#   :class:`~statml.group_robust.DeepFeatureReweighting` on :class:`~statml.adapters.NetFeatures`.
