"""
What did the noise cost? Admissions at Berkeley, released privately
===================================================================

In 1973 the six largest departments of Berkeley's graduate school admitted 44.5 % of the men and 30.4 % of the women who applied. Suppose
that the 4,526 decisions were confidential, and that all one gets is a *private release*: numbers to which random noise was added so
that nobody can tell from them whether a given person is in the data. Can one still say that the rates differ? And how sure may one be?
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from statml.datasets import load_berkeley_admissions
from statml.privacy import PrivateContingencyTable, mechanisms

table = load_berkeley_admissions()
n = int(table.to_numpy().sum())
table

# %%
# Two ways to protect people
# --------------------------
#
# **A trusted curator** holds the table and adds noise to its four counts. Replacing one person moves at most two counts by one, so
# integer noise of scale :math:`2 / \epsilon` gives :math:`\epsilon`-differential privacy: whatever is published would have been
# nearly as likely, within a factor :math:`e^{\epsilon}`, had any one person given another answer.
epsilon = 0.1
noise = mechanisms.DiscreteLaplace.from_epsilon(epsilon, sensitivity=2)
rng = np.random.default_rng(1973)
counts = pd.DataFrame(
    noise.randomise(table.to_numpy(), rng), index=table.index, columns=table.columns
)
counts

# %%
# **Nobody is trusted**: every applicant tells a cell drawn at random, the true one a little more often (*randomised response*).
# With the same :math:`\epsilon` this hides far more of the table. We allow each person ten times the privacy loss here, and it will
# still be the worse deal.
local = mechanisms.RandomizedResponse.from_epsilon(10 * epsilon, n_categories=4)
answers = local.randomise(np.repeat(np.arange(4), table.to_numpy().ravel()), rng)
pd.Series(answers).value_counts().sort_index().to_frame("people who answered this cell")

# %%
# From a release to a posterior
# -----------------------------
#
# Both are fitted by the same estimator. It knows the noise, and averages over all tables that could have led to the release. For noisy
# counts it draws exactly from the posterior, with no Markov chain; for the answers it runs a Gibbs sampler.
central_fit = PrivateContingencyTable(noise, n, random_state=0).fit(counts)
print(central_fit.summary())

# %%
local_fit = PrivateContingencyTable(local, n, shape=(2, 2), draws=4000, random_state=0).fit(answers)
print(local_fit.kernel_, "converged" if local_fit.converged_ else "not converged")

# %%
# What one would have learned from the confidential table is known here, because this is a rehearsal; and what one would *believe*
# to have learned if one took noisy counts for true ones is always at hand.
quantities = {}


def odds_ratio(draws):
    p = np.asarray(draws)
    return p[:, 0] * p[:, 3] / (p[:, 1] * p[:, 2])


records = np.repeat(np.arange(4.0), table.to_numpy().ravel())[:, None]
quantities["confidential table"] = odds_ratio(
    central_fit.nonprivate_posterior(records, random_state=0)
)
quantities["noisy counts"] = odds_ratio(central_fit.draws_of())
quantities["noisy counts, noise ignored"] = odds_ratio(central_fit.naive_posterior(random_state=0))
quantities["randomised answers"] = odds_ratio(local_fit.draws_of())
intervals = pd.DataFrame(
    {label: np.quantile(q, [0.025, 0.5, 0.975]) for label, q in quantities.items()},
    index=["2.5%", "median", "97.5%"],
).T
intervals["width"] = intervals["97.5%"] - intervals["2.5%"]
intervals.round(2)

# %%
# The odds of men over those of women, with 95 % intervals:
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for row, (_, interval) in enumerate(intervals.iterrows()):
    ax.plot(interval[["2.5%", "97.5%"]], [row, row], color="#0072B2", lw=2)
    ax.plot(interval["median"], row, "o", color="#0072B2")
ax.axvline(1, color="0.5", linestyle=":", lw=1)
ax.set_yticks(range(len(intervals)), intervals.index)
ax.margins(y=0.15)
ax.invert_yaxis()
ax.set_xlabel("odds ratio of admission, men over women")
ax.set_xscale("log")
ax.set_xticks([1, 1.5, 2, 3], ["1", "1.5", "2", "3"])
ax.minorticks_off()

# %%
# The curator's noise, with a standard deviation of 28 on counts in the hundreds, makes the interval wider by about two fifths, as if half of
# the applicants had been left out. Ignoring it gives an interval that is too narrow by a quarter. Randomised answers at ten
# times the loss cost far more: from them alone, one could not say that the rates differ.
#
# A smaller table
# ---------------
#
# Take away people and the noise stays. With a hundredth of the applicants, 45 of them, the same :math:`\epsilon` drowns the table.
# Noise that is ignored now invents certainty: the naive interval is narrow and may lie anywhere.
few = (table / 100).round().astype(int)
n_few = int(few.to_numpy().sum())
rows = []
for replicate in range(6):
    release = pd.DataFrame(noise.randomise(few.to_numpy(), rng), few.index, few.columns)
    fit = PrivateContingencyTable(noise, n_few, random_state=replicate).fit(release)
    for label, draws in (
        ("noise in the model", fit.draws_of()),
        ("noise ignored", fit.naive_posterior(random_state=0)),
    ):
        share = draws.to_numpy()[:, 0] / draws.to_numpy()[:, :2].sum(axis=1)
        rows.append((replicate, label, *np.quantile(share, [0.025, 0.5, 0.975])))
repeated = pd.DataFrame(rows, columns=["release", "analysis", "low", "median", "high"])

fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for shift, colour, (label, part) in zip(
    (-0.12, 0.12), ("#E69F00", "#0072B2"), repeated.groupby("analysis"), strict=True
):
    at = part["release"] + shift
    ax.vlines(at, part["low"], part["high"], color=colour, lw=2, label=label)
    ax.plot(at, part["median"], "o", color=colour)
truth = few.loc["male", "admitted"] / few.loc["male"].sum()
ax.axhline(truth, color="0.5", linestyle=":", label="share among the 27 men")
ax.set(
    xlabel="six releases of the same table of 45 people",
    ylabel="share of men admitted",
    ylim=(0, 1),
)
ax.legend(frameon=False, loc="upper center", ncols=3, bbox_to_anchor=(0.5, 1.2))

# %%
# With the noise in the model the intervals say how little such a release tells: nearly nothing. That is the honest answer, and
# a good reason to design releases before making them (see the tutorial on planning a release).
#
# What this rests on
# ------------------
#
# - *The mechanism is the curator's*: kind and scale of the noise, and n, which here is public. A wrong scale gives a wrong
#   posterior, without a warning in most cases.
# - *A prior*: all tables equally likely here. Where noise drowns the data, the posterior is the prior.
# - *No more than the table*: the difference between the sexes nearly vanishes within departments, because women applied more
#   often where few of either sex were admitted. A release of the added table, private or not, cannot show that.
