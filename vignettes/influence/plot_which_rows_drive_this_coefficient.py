r"""
Which rows drive this coefficient?
==================================

A regression prints a coefficient, a standard error, stars. It does not print that three of the rows carry the result.
Statisticians have looked at Cook's distance since 1977; here the same question is asked of a logistic regression, of
groups of rows, and of the sign of a coefficient, and every answer is checked by refitting.

The first data are Brownlee's 21 days of a plant that oxidises ammonia: the loss of ammonia through the stack, against
air flow, water temperature and acid concentration.
"""

# %%
import statsmodels.api as sm

data = sm.datasets.stackloss.load_pandas()
fit = sm.OLS(data.endog, sm.add_constant(data.exog)).fit()
print(fit.summary().tables[1])

# %%
# One exact formula
# -----------------
#
# For squared loss, the coefficients without day i follow from the fit in closed form,
# :math:`\theta_{-i} - \theta = A^{-1} x_i (\eta_i - y_i) / (1 - h_i)`, with the leverage :math:`h_i`.
# :class:`~statml.influence.NewtonStep` takes the statsmodels results as they are.
from statml.influence import CaseDiagnosticsDisplay, NewtonStep

step = NewtonStep().fit(fit)
CaseDiagnosticsDisplay.from_estimator(step)

# %%
# Day 21 (label 20, as Python counts) lies beyond Cook's distance 0.5. What does it do to the coefficient of air flow?
# The change is *with the day minus without it*, in the units of the coefficient.
from statml.influence.functionals import Coefficient

effect = step.functional_influence(Coefficient("AIRFLOW"))
order = abs(effect).argsort()[::-1]
for i in order[:4]:
    print(f"day {i + 1:2d} moves the coefficient of air flow by {effect[i]:+.3f}")

without = sm.OLS(data.endog.drop(20), sm.add_constant(data.exog.drop(20))).fit()
print(f"refit without day 21: {fit.params['AIRFLOW']:.3f} -> {without.params['AIRFLOW']:.3f}")

# %%
# R and statsmodels tabulate the same thing, scaled by standard errors, as DFBETAS.
print(step.dfbetas().loc[[0, 2, 3, 20]].round(2))

# %%
# How few rows flip a sign?
# -------------------------
#
# In the diabetes data (442 patients, progression after a year), take all ten predictors. Some coefficients are firm,
# others hang on a few patients. The search removes, again and again, the patient whose removal brings the coefficient
# nearest to zero, and verifies the set that it ends with by a refit.
import pandas as pd
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from statml.influence import most_influential_subset

X, y = load_diabetes(return_X_y=True, as_frame=True)
diabetes = NewtonStep().fit(LinearRegression().fit(X, y), X, y)
ols = sm.OLS(y, sm.add_constant(X)).fit()
rows = []
for name in X.columns:
    found = most_influential_subset(diabetes, name, max_size=60)
    rows.append(
        {
            "coefficient": name,
            "estimate": found.value_full,
            "p-value": ols.pvalues[name],
            "rows removed": len(found.rows),
            "flips": found.flipped,
            "without them": found.value_without,
        }
    )
robustness = pd.DataFrame(rows).set_index("coefficient")
print(robustness.round(3))

# %%
# To turn the sign of ``bmi``, the search needs 58 patients, one in eight; for ``sex``, ``bp`` and ``s5`` 26 to 39. The
# coefficients that are not significant flip with one to seven, as they should. The two columns are not the same
# thing: ``s5`` has the smallest p-value but one and yet hangs on half as many patients as ``bmi``. A p-value says how
# much a coefficient varies from sample to sample, the search says how concentrated the evidence is.
import numpy as np

from statml._display import BLUE, axes

ax = axes(figsize=(6, 4))
p = robustness["p-value"].clip(lower=1e-10)
ax.scatter(p, robustness["rows removed"], color=BLUE)
for name in robustness.index:
    ax.annotate(
        name,
        (p[name], robustness["rows removed"][name]),
        xytext=(4, 4),
        textcoords="offset points",
        fontsize=8,
    )
ax.set_xscale("log")
ax.set_yscale("log")
ax.set_yticks([1, 2, 5, 10, 20, 50], [1, 2, 5, 10, 20, 50])
ax.set_xlabel("p-value of the coefficient")
ax.set_ylabel("rows whose removal flips the sign")

# %%
# A logistic regression
# ---------------------
#
# Without a closed form, one Newton step is an approximation, and it says how good a one (``relative_gap``: its errors are 3 % of the effects). Here is the risk of a
# malignant tumour in the breast-cancer data, with a penalty. The model is a pipeline: the scaler is applied first.
import warnings

from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from statml.influence import InfluenceAgreementDisplay, InfluenceFunction, LeaveOneOut

cancer = load_breast_cancer(as_frame=True)
train, test = slice(0, 400), slice(400, None)
model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=1000))
model.fit(cancer.data[train], cancer.target[train])
arguments = (model, cancer.data[train], cancer.target[train])

exact = LeaveOneOut().fit(*arguments).influence(cancer.data[test], cancer.target[test])
with warnings.catch_warnings(record=True) as remarks:
    warnings.simplefilter("always")
    newton = NewtonStep().fit(*arguments)
print({name: round(value, 3) for name, value in newton.diagnostics_.items()})
for remark in remarks:
    print("warning:", remark.message)

# %%
# Against exact leave-one-out, the plain influence function (first order) has the right order and too small effects:
# it leaves out the division by :math:`1 - h_i`.
import matplotlib.pyplot as plt

fig, both = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
for ax, method, name in (
    (both[0], InfluenceFunction(), "influence function"),
    (both[1], NewtonStep(), "Newton step"),
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = method.fit(*arguments).influence(cancer.data[test], cancer.target[test])
    InfluenceAgreementDisplay(values, exact, name).plot(ax)

# %%
# :class:`~statml.influence.Influence` takes the step where it is accurate and refits the rest, exactly:
from statml.influence import Influence

auto = Influence().fit(*arguments)
print(auto.method_, "-", auto.diagnostics_["n_refined"], "of 400 records refitted")
print(auto.rank(cancer.data[test], cancer.target[test], k=6))

# %%
# Groups add up to less than they do together
# -------------------------------------------
#
# Remove the k patients that help most, all at once. Adding up their single effects understates what a refit shows, the
# more so the larger the group. The Newton step of the *group* follows up to twenty patients, and overshoots after.
helpful = np.argsort(-exact.mean(axis=0))
sizes = [1, 5, 10, 20, 30, 40]
groups = [helpful[:k] for k in sizes]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    influence_function = InfluenceFunction().fit(*arguments)
    group_step = NewtonStep().fit(*arguments)
    results = {
        "exact refit": LeaveOneOut().fit(*arguments),
        "Newton step of the group": group_step,
        "influence function, added up": influence_function,
    }
    curves = {
        name: m.group_influence(groups, cancer.data[test], cancer.target[test]).mean(axis=0)
        for name, m in results.items()
    }
ax = axes(figsize=(6, 4))
for (name, curve), style in zip(curves.items(), ("o-", "s--", "^:"), strict=True):
    ax.plot(sizes, curve, style, label=name)
ax.set_xlabel("patients removed together")
ax.set_ylabel("rise of the mean test loss")
ax.legend(frameon=False)

# %%
# What this rests on
# ------------------
#
# * Closed forms are exact for squared loss. For other models read ``diagnostics_``: a ``relative_gap`` above 0.05 or
#   leverages near 1 mean that the step is short, and :class:`~statml.influence.LeaveOneOut` is a few milliseconds away.
# * The steps before a pipeline's last (here the scaler) are held as they are. ``LeaveOneOut(warm_start=False)`` refits
#   all of it.
# * The greedy search proves that a sign is fragile by showing the rows. That it finds none does not prove the opposite.
# * An influential row is not a wrong row. It is a row to read again.
