"""
Where should the drone look next?
=================================

A drone watches a square in which people, robots or animals walk about. It knows where they are, and has to find out *what*
each of them is, with a classifier that sees something from the front and nothing from behind. Time is short: 25 seconds.
Which of them should it approach, from where, and when may it move on?
"""

# %%
# What a look is worth
# --------------------
#
# The classifier is a black box: a pose goes in, probabilities of the classes come out. The one that ships with the scene is the
# analytic classifier of the literature: the class is written on a plate on the target's front, and the evidence grows with the size
# of its image and falls with its slant.
import warnings

import numpy as np
import pandas as pd
from statml.adapters.viewpoint import plate_quality

from statml._display import BLUE, GREY, axes

distance, aspect = np.meshgrid(np.linspace(0.5, 8, 200), np.radians(np.linspace(-80, 80, 161)))
looks = np.stack([distance, np.zeros_like(distance), np.pi + aspect], axis=-1)
ax = axes(figsize=(6, 3.2))
shades = ax.contourf(distance, np.degrees(aspect), plate_quality(looks), 12, cmap="Blues")
ax.figure.colorbar(shades, label="evidence q of one look")
_ = ax.set(
    xlabel="distance, m", ylabel="aspect, degrees", title="The classifier sees well from few places"
)

# %%
# It is best from 1.7 to 2.9 m, nearly straight from the front; at 30 degrees little is left. The plate has to fit into the image, and nobody
# may stand in between. After each look, Bayes' rule multiplies the belief with what the classifier said; at 95 % a target counts as classified.
#
# Candidates
# ----------
#
# Five policies fly the same 200 scenarios of six targets in 16 x 16 m: random moves; standing before the nearest target until it is classified;
# a tour; the most bits a second, by one that *knows* the classifier; and a network that imitated that one at first, went on by reinforcement
# learning, and only knows what it sees: places, velocities, and how much is known about each target. Four times a second it points at one of six
# viewpoints before one of the targets, and makes for it.
from statml.adapters import ViewpointPolicy
from statml.adapters.viewpoint import (
    GreedyInformationPolicy,
    NearestFrontalPolicy,
    RandomPolicy,
    Scene,
    TourPolicy,
    evaluate,
)

policies = {
    "random": RandomPolicy(),
    "nearest": NearestFrontalPolicy(),
    "tour": TourPolicy(),
    "greedy, knows the sensor": GreedyInformationPolicy(),
    "trained": ViewpointPolicy.pretrained(),
}
field = Scene(n_targets=6, side=8.0, random_beliefs=False)
results = evaluate(policies, field, scenarios=200, random_state=2026)
print(results.summary())

# %%
# Scenarios that are cut count with their whole 25 seconds. The mean over successes alone would be smaller for policies that only finish the
# easy ones.
_ = results.plot_survival()

# %%
# The five flew in the same scenarios, among the same movements. Intervals of two policies that overlap therefore do not say that the
# difference is chance: whether a scenario is hard is in both figures, and cancels in the difference. (*larger* and *smaller* count the
# scenarios in which the first policy's figure was so.)
print(results.paired("trained", "nearest").round(3).to_string())
print(results.paired("trained", "greedy, knows the sensor").round(3).to_string())

# %%
# The network is quicker than the policy that knows the classifier, and as successful as far as 200 scenarios can tell.
#
# One flight
# ----------
from statml.adapters.viewpoint import rollout

flight = rollout(policies["trained"], Scene(n_targets=5, random_beliefs=False), random_state=3)
_ = flight.plot()

# %%
flight.animate()

# %%
# The beliefs rise in steps while a target is in view, and stay where nothing is seen.
_ = flight.plot_beliefs()

# %%
# More targets, other movements
# -----------------------------
#
# The network reads a set of targets of any size. It was trained with up to six, and did not see people who make way for one another.
rows = []
for title, changes in {
    "1 to 6 targets": {"n_targets": (1, 6)},
    "10 targets": {"n_targets": 10},
    "6, walking like people": {"n_targets": 6, "target_motion": "social_force"},
}.items():
    some = {name: policies[name] for name in ("nearest", "greedy, knows the sensor", "trained")}
    other = Scene(**changes, random_beliefs=False)
    there = evaluate(some, other, 100, random_state=7).tidy().set_index(["term", "policy"])
    rows.append(there.loc["fraction", "estimate"].rename(title))
print("Share of the targets classified\n", pd.DataFrame(rows).round(3).to_string())

# %%
# May we believe it?
# ------------------
#
# A belief of 95 % should be right 95 times in 100. The analytic classifier never errs, so that nothing can go wrong with it, and nothing is
# learnt from that. A real one does err, and its errors repeat: whoever looks at the same hard view forty times is not told forty things.
# Here a small network reads handwritten digits on the plates, and the drone hovers where the plate is far away and slanted.
from sklearn.neural_network import MLPClassifier
from statml.adapters.viewpoint import (
    DigitPlateRenderer,
    PredictProbaSensor,
    Scenario,
    fit_sensor,
)

renderer = DigitPlateRenderer()
views, digits = renderer.training_views(8000, random_state=0)
network = MLPClassifier((64,), max_iter=15, random_state=0)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # 15 passes are enough
    network.fit(views, digits)
sensor = fit_sensor(PredictProbaSensor(network, renderer), n_classes=6, random_state=1)


class Hover:
    def predict(self, observation):
        return np.zeros((len(observation["mask"]), 3))


drones, slanted = np.zeros((400, 3)), np.tile([[5.0, 0, np.pi + np.radians(60)]], (400, 1, 1))
classes = np.random.default_rng(5).integers(0, 6, (400, 1))
stares = Scenario.placed(drones, slanted, n_classes=6, classes=classes, random_state=3)
rows = {}
for fusion in ("product", "tempered", "pose_discount"):
    scene = Scene(1, target_motion="static", sensor=sensor, fusion=fusion, horizon=40)
    rows[fusion] = evaluate([Hover()], scene, stares, random_state=4).declarations().iloc[0]
table = pd.DataFrame(rows).T
print(table.round(3).to_string())

# %%
ax = axes(figsize=(5.6, 2.4))
place = np.arange(len(table))
ends = np.abs(table[["conf_low", "conf_high"]].to_numpy().T - table["right"].to_numpy())
ax.errorbar(table["right"], place, xerr=ends, fmt="o", color=BLUE, capsize=2, label="right")
ax.plot(table["belief"], place, "|", ms=14, color=GREY, label="believed")
ax.set_yticks(place, [f"{name} ({n:.0f})" for name, n in table["declared"].items()])
ax.invert_yaxis()
ax.set(xlabel="share of declarations", title="400 hard views, looked at 40 times each (declared)")
_ = ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

# %%
# Multiplying treats the looks as independent: nearly all targets are declared, and about one in six of them wrongly. That the classifier was
# calibrated, look by look, does not help. Discounting looks from a pose that was seen before declares few and lets the drone
# go on to another pose, which is what the hard view calls for. ``results.declarations()`` shows this for any evaluation; look
# at it before believing a belief.
#
# A drone has weight
# ------------------
#
# So far a viewpoint was reached the moment it was asked for. A real drone tilts before it moves. A model predictive controller
# flies it: it plans a second ahead, twenty times a second, within the limits of speed and tilt, and around what is in the way.
from statml.adapters.viewpoint import Ellipsoid, ViewpointMPC

mpc = ViewpointMPC()
way = mpc.simulate([[6, 0, 1.5, np.pi / 2]] * 110, obstacles=[Ellipsoid([3, 0.3, 1.5], [1, 1, 2])])
ax = axes(figsize=(6, 3))
ax.plot(way.states[:, 0], way.states[:, 1], color=BLUE)
arrows = way.states[::10]
ax.quiver(*arrows[:, :2].T, np.cos(arrows[:, -1]), np.sin(arrows[:, -1]), color=BLUE, width=0.004)
turn = np.linspace(0, 2 * np.pi, 100)
ax.fill(3 + np.cos(turn), 0.3 + np.sin(turn), color=GREY, alpha=0.4, lw=0)
ax.set_aspect("equal")
_ = ax.set(
    xlabel="metres",
    ylabel="metres",
    title="Six metres and a quarter turn, an arrow each half second",
)

# %%
# ``dynamics="mpc"`` flies every decision that way. Policies that were made for a weightless drone pay for it:
rows = {}
for dynamics in ("kinematic", "mpc"):
    flown = Scene(n_targets=3, random_beliefs=False, dynamics=dynamics)
    some = {name: policies[name] for name in ("nearest", "trained")}
    there = evaluate(some, flown, 25, random_state=11).tidy().set_index(["term", "policy"])
    rows[dynamics] = there["estimate"].unstack("term")[["success", "seconds"]].stack()
print(pd.DataFrame(rows).round(2).to_string())

# %%
# When not to trust it
# --------------------
#
# * The drone is told where the targets are, and how fast. Errors of tracking are not simulated.
# * The trained network knows targets like those of its training: another classifier, other speeds, or a field much larger than the 16 metres here
#   call for an evaluation like the one above, and perhaps for ``ViewpointPolicy().fit(env)``.
# * Results with the analytic classifier say who looks well. They say nothing about errors: it makes none.
# * A belief is honest if the looks are independent, or discounted. The discount assumes that looks from different poses are independent; a target
#   that is odd from everywhere is misread from everywhere.
