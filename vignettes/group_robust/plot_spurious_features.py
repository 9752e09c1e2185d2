"""
Finding neglected groups without group labels: why the rules must be readable
=============================================================================

A classifier leans on a feature that says the class in 95 of 100 records. In the other five it is wrong, and they
are a group of people, or of patients, who are always served badly. If somebody wrote down who belongs to it, group DRO
mends this. What can be done if nobody did?

The natural answer is an adversary who looks for the group with the largest loss. This tutorial shows, on simulated data
whose groups are known to us but not to the methods, that such an adversary is useless if it may pick any records it likes,
that a small tree makes it useful, and where that comes to its end.
"""

# %%
# A clean spurious feature and a noisy core
# -----------------------------------------
#
# Features 0 to 4 each carry a little about the class. Feature 5 carries much about an attribute that agrees with the class
# in 95 % of the training records. The test data have all four groups in equal parts.
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from statml.datasets import make_spurious_gaussians
from statml.group_robust import (
    AGROClassifier,
    CVaRClassifier,
    DeepFeatureReweighting,
    EIILPartition,
    GroupDROClassifier,
    JTTClassifier,
    XRMPartition,
    group_report,
    worst_group_score,
)

train = make_spurious_gaussians(n=2000, random_state=0)
test = make_spurious_gaussians(n=20_000, agreement=0.5, random_state=1000)

plain = LogisticRegression().fit(train.X, train.y)
print(group_report(test.y, plain.predict(test.X), test.groups))

# %%
# On average over the *training* distribution this is a very good classifier; where the attribute contradicts the
# class it is not much better than a coin. With the groups written down, group DRO gives up some accuracy in the large
# groups for the small ones:
oracle = GroupDROClassifier().fit(train.X, train.y, groups=train.groups)
print(group_report(test.y, oracle.predict(test.X), test.groups))

# %%
# An adversary without a rule
# ---------------------------
#
# Let the adversary choose a soft slice: a weight between 0 and 1 for every record, at least 20 % of the records in
# all. The worst slice is the solution of a linear programme. It is also something well known, the mean of the largest 20 %
# of the losses, the *conditional value at risk*:
from scipy.optimize import linprog

from statml.group_robust.cvar import cvar

losses = -np.log(plain.predict_proba(train.X)[np.arange(2000), train.y])
n, alpha = 200, 0.2  # 200 records are enough to see it
worst_slice = linprog(
    np.r_[-losses[:n], 0],
    A_ub=np.column_stack([np.eye(n), -np.ones(n)]),  # weight u t is at most t, t = 1 / sum of u
    b_ub=np.zeros(n),
    A_eq=[np.r_[np.ones(n), 0]],
    b_eq=[1],
    bounds=[(0, None)] * n + [(0, 1 / (alpha * n))],
)
print(f"worst soft slice, by linear programme: {-worst_slice.fun:.8f}")
print(f"mean of the largest 20 % of losses:    {cvar(losses[:n], alpha):.8f}")

# %%
# So training against this adversary is :class:`~statml.group_robust.CVaRClassifier`. Its slice
# holds the records nearest to the other class, whatever the reason, and the classifier that does best there is nearly the
# one it started from. A tree of a few leaves for each class, fitted to the losses, is a far weaker adversary:
free = CVaRClassifier(alpha=0.2).fit(train.X, train.y)
agro = AGROClassifier(random_state=0).fit(train.X, train.y)
with pd.option_context("display.width", 160, "display.max_columns", None):
    print(agro.slices_.round(3))

# %%
# The rules name the spurious feature. Nobody had to know it: they can be read, and a domain expert may say whether what
# they describe is a group that should be served better. ``lift`` is the ratio to the mean loss. The p-value repeats the
# whole search on permuted losses; it says that a slice is more than noise. It does *not* say that the slice is neglected
# rather than difficult.
#
# The left picture is what the free adversary selects among the records of class 1, the right one what the tree selects.
import matplotlib.pyplot as plt

from statml._display import BLUE, GREY, RED, axes

own = train.y == 1
core, spurious = train.X[own, :5].mean(axis=1), train.X[own, 5]
minority = train.attribute[own] == 0
member = agro.slice_proba(train.X[own], train.y[own])
of_class = agro.slices_["rule"].str.endswith("y = 1")
worst = agro.slices_["loss"].where(of_class).argmax()
selected = {
    "free adversary (CVaR)": free.record_weights_[own] > 0.5 / (0.2 * 2000),
    f"tree: {agro.slices_['rule'][worst]}": member[:, worst] == 1,
}
fig, panels = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for ax, (title, chosen) in zip(panels, selected.items(), strict=True):
    axes(ax)
    for group, marker, size in ((~minority, "o", 10), (minority, "^", 32)):
        for picked, colour in ((False, GREY), (True, RED)):
            at = group & (chosen == picked)
            ax.scatter(
                spurious[at],
                core[at],
                size,
                colour,
                marker=marker,
                alpha=0.75,
                linewidth=0,
                zorder=2,
            )
    ax.set(title=title, xlabel="x5, the spurious feature")
    share = minority[chosen].mean()
    ax.text(
        0.03,
        0.03,
        f"{chosen.sum()} selected (in colour), {share:.0%} of them minority",
        transform=ax.transAxes,
    )
panels[0].set_ylabel("mean of the core features")
panels[1].scatter([], [], 32, GREY, marker="^", label="attribute contradicts the class")
panels[1].legend(loc="upper left", frameon=False)
panels[1].set_ylim(-1.9, 4.2)
plt.show()

# %%
# Every form, beside what it has to beat
# --------------------------------------
#
# One draw proves nothing, so the following goes over eight. AGRO comes in its forms: tree slicer with cutting planes
# (the default), the same without the choice of a round, the two-stage schedule of the original's scripts, alternating
# moves, and the original's soft slices in the form of a linear model, with both of its adversaries. (The tests of the slices have
# fewer permutations here, for time.) The group labels of the training data are seen only by the three methods at the
# bottom of the picture, and those of the test data by none.
from statml.group_robust.slicers import TreeSlicer
from statml.group_robust.soft_slicer import LinearSlicer
from statml.parallel import parallel_map


def tree(**options):
    return AGROClassifier(
        slicer=TreeSlicer(max_leaves=3, n_permutations=19), random_state=0, **options
    )


def soft(**options):
    slicer = LinearSlicer(n_slices=3, n_permutations=1, **options)  # of each class
    return AGROClassifier(slicer=slicer, schedule="two-stage", random_state=0)


def partitioned(partition):
    """Group DRO over the groups that a method infers."""
    return lambda d: GroupDROClassifier().fit(d.X, d.y, groups=partition.fit_predict(d.X, d.y))


def reweighted(d):
    _, group, size = np.unique(d.groups, return_inverse=True, return_counts=True)
    return LogisticRegression().fit(d.X, d.y, sample_weight=len(d.y) / size[group] / len(size))


METHODS = {
    "mean loss": lambda d: LogisticRegression().fit(d.X, d.y),
    "class balance": lambda d: LogisticRegression(class_weight="balanced").fit(d.X, d.y),
    "CVaR, 20 %": lambda d: CVaRClassifier(alpha=0.2).fit(d.X, d.y),
    "just train twice": lambda d: JTTClassifier(random_state=0).fit(d.X, d.y),
    "EIIL + group DRO": partitioned(EIILPartition(random_state=0)),
    "XRM + group DRO": partitioned(XRMPartition(random_state=0)),
    "AGRO, soft, worst": lambda d: soft().fit(d.X, d.y),
    "AGRO, soft, greedy-reverse": lambda d: soft(init="domino", adversary="greedy-reverse").fit(
        d.X, d.y
    ),
    "AGRO, tree, last of 5 rounds": lambda d: tree(selection=None).fit(d.X, d.y),
    "AGRO, tree, alternate": lambda d: tree(schedule="alternate").fit(d.X, d.y),
    "AGRO, tree, two-stage": lambda d: tree(schedule="two-stage").fit(d.X, d.y),
    "AGRO, tree (default)": lambda d: tree().fit(d.X, d.y),
    "labels: reweighting": reweighted,
    "labels: deep feature rew.": lambda d: DeepFeatureReweighting(random_state=0).fit(
        d.X, d.y, d.groups
    ),
    "labels: group DRO (oracle)": lambda d: GroupDROClassifier().fit(d.X, d.y, groups=d.groups),
}


def one_draw(seed, rng):
    import warnings

    train = make_spurious_gaussians(n=2000, random_state=seed)
    test = make_spurious_gaussians(n=20_000, agreement=0.5, random_state=1000 + seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no slice was found")
        fits = [fit(train) for fit in METHODS.values()]
    return [worst_group_score(test.y, model.predict(test.X), test.groups) for model in fits]


scores = pd.DataFrame(parallel_map(one_draw, range(8), n_jobs=2), columns=list(METHODS))

# %%
# The bars are 95 % t-intervals for the mean over draws; the last column is the distance to the oracle, draw by draw.
from scipy.stats import t as student

half = student.ppf(0.975, len(scores) - 1) / np.sqrt(len(scores))
to_oracle = scores.sub(scores["labels: group DRO (oracle)"], axis=0)
table = pd.DataFrame(
    {
        "worst group": scores.mean(),
        "+-": half * scores.std(),
        "minus oracle": to_oracle.mean(),
        "+- ": half * to_oracle.std(),
    }
)
print(table.round(3).to_string())

ax = axes(figsize=(7, 5.2))
colour = [BLUE if "tree" in m else GREY if "labels" in m else RED for m in METHODS]
ax.errorbar(
    table["worst group"], range(len(table)), xerr=table["+-"], fmt="none", ecolor=colour, lw=2
)
ax.scatter(table["worst group"], range(len(table)), 36, colour, zorder=3)
ax.axvline(table["worst group"].iloc[-1], color=GREY, lw=1, ls=":")
ax.set(yticks=range(len(table)), yticklabels=table.index, xlabel="test accuracy of the worst group")
ax.invert_yaxis()
plt.show()

# %%
# With three groups of methods the picture needs little comment:
#
# * Whoever looks for *records* with large losses (CVaR, just train twice, EIIL, XRM, soft slices) does not get away from the
#   mean loss, or falls below it. Soft slices see the predicted probability, from which the loss of a record of known class
#   follows, so that they are as free as the adversary of the conditional value at risk. (Just train twice is usually tuned on
#   validation data *with* group labels. Networks, which learn the easy rule first, suit EIIL and XRM better than a
#   linear model.)
# * Tree slices come as near to the oracle as chance allows to say, without its labels.
# * More is not better: each further round of cutting planes finds slices that are hard rather than neglected. The default
#   therefore judges the rounds by the slices of the first, out of fold, and keeps the first round that is within a
#   standard error of the best:
with pd.option_context("display.width", 160, "display.max_columns", None):
    print(agro.history_.round(3))

# %%
# Where it fails: difficulty looks like neglect
# ---------------------------------------------
#
# Now there is no spurious feature. Instead the labels of some records are simply noisy: where feature 9 is above 1, two in
# five are flipped. Nobody can predict them better, so nobody is neglected.


def with_noisy_labels(n, seed):
    d = make_spurious_gaussians(n=n, agreement=0.5, random_state=seed)
    noisy = d.X[:, 9] > 1
    flipped = noisy & (np.random.default_rng(seed).random(n) < 0.4)
    return d.X, np.where(flipped, 1 - d.y, d.y), noisy


X, y, _ = with_noisy_labels(2000, seed=0)
X_test, y_test, noisy = with_noisy_labels(20_000, seed=1000)
misled = tree(schedule="two-stage").fit(X, y)
with pd.option_context("display.width", 160, "display.max_columns", None):
    print(misled.slices_.drop(columns=["weight", "round"]).round(3))
for name, model in {"mean loss": LogisticRegression().fit(X, y), "AGRO": misled}.items():
    right = model.predict(X_test) == y_test
    print(
        f"{name:10s} accuracy {right.mean():.3f}; noisy {right[noisy].mean():.3f}, clean {right[~noisy].mean():.3f}"
    )

# %%
# The rules are right about where the errors are, their p-values are the smallest that 19 permutations can give, and robustness over them ruins the classifier for
# everybody. No statistic of the losses can tell this case from the first one. (Nor does ``offset="excess"`` of group DRO: in a
# slice of one class the smallest possible loss is zero, whatever the noise.) A person who reads "x9 > 1" can.
#
# To remember
# -----------
#
# * Without a restriction on what a group may be, looking for the worst group is the conditional value at risk.
# * The restriction is an assumption: here, that neglected groups can be told by a split or two of single features within a
#   class, and hold at least ``min_mass`` of the records. Groups that only an interaction of many features can tell are not found.
# * Read the rules before you use the classifier. Compare the accuracy on average, too.
# * If group labels exist for even a few records, reweighting or deep feature reweighting is simpler and as good.
