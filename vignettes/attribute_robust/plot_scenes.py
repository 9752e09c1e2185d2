"""
Sorting by colour when the light changes
========================================

A camera above a belt sorts objects by their colour. It learned in the morning: objects of about the same size, in the middle of the
picture, in steady light. By the evening sizes, places and light have shifted, and nobody has labelled a single picture of that. But
somebody can say *what* may shift, and how far. Is that enough?

The pictures are simulated (one object a scene, eight colours, six attributes that say nothing about the colour), so that the truth is known
for every light and size. Training images have their attributes within 0.3 of the middle; the evening's are anywhere within 1.
"""

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from statml.datasets import make_attribute_images

morning = make_attribute_images(800, source=0.3, random_state=0)
evening = make_attribute_images(500, source=1.0, random_state=1)

fig, axes = plt.subplots(2, 8, figsize=(9, 2.5), layout="constrained")
for row, scenes, when in ((0, morning, "morning"), (1, evening, "evening")):
    for k, ax in enumerate(axes[row]):
        ax.imshow(scenes.images[np.flatnonzero(scenes.target == k)[0]].transpose(1, 2, 0))
        ax.set(xticks=[], yticks=[], title=scenes.target_names[k] if row == 0 else None)
    axes[row, 0].set_ylabel(when)

# %%
# A network that has only seen the morning
# ----------------------------------------
from statml.adapters.attribute_robust import AttributeAdversarialClassifier, AttributeRenderer


def network(n_outputs):
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 36, 64),
        nn.ReLU(),
        nn.Linear(64, n_outputs),
    )


common = {
    "module": network,
    "epochs": 16,
    "batch_size": 32,
    "random_state": 0,
    "progress": False,
}
models = {"clean": AttributeAdversarialClassifier(**common, objective="none")}
models["clean"].fit(morning.images, morning.target)
print(
    f"morning: {models['clean'].score(morning.images, morning.target):.3f} (the images it learned from)"
)
print(f"evening: {models['clean'].score(evening.images, evening.target):.3f}")

# %%
# Which attribute does it? The renderer draws the evening's scenes anew with one attribute moved and the others at rest.

renderer = AttributeRenderer(1.0)
x = torch.from_numpy(evening.images)


def accuracy_along(model, name, values):
    k = renderer.names.index(name)
    scores = []
    for value in values:
        alpha = torch.zeros(len(x), 6)
        alpha[:, k] = value
        scores.append(model.score(renderer.apply(x, alpha).numpy(), evening.target))
    return scores


values = np.linspace(-1, 1, 9)
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name in renderer.names:
    ax.plot(values, accuracy_along(models["clean"], name, values), "o-", ms=3, label=name)
ax.axvspan(-0.3, 0.3, color="0.9", label="seen in training")
ax.set(xlabel="attribute, the others at 0", ylabel="accuracy", title="Trained on the morning only")
_ = ax.legend(fontsize=8, ncol=2)

# %%
# One attribute at a time tells little of the harm. Nearly everywhere on these curves the accuracy is 1; in the evening, where all of
# them move, it is 0.78.
#
# Say what may shift
# ------------------
#
# The box of the attributes is all that is added; no image of the evening is. Either their values are drawn at random in every
# step (the baseline that any robust training has to beat), or each image gets the values at which the network does worst: five steps along
# the derivative of the loss in the attributes, from a random start.
for label, objective in (("random", "random"), ("adversarial", "adversarial")):
    models[label] = AttributeAdversarialClassifier(
        **common, attributes=[renderer], objective=objective
    ).fit(morning.images, morning.target)

rng = np.random.default_rng(2)
draws = [torch.from_numpy(rng.uniform(-1, 1, (len(x), 6))).float() for _ in range(10)]
evenings = [renderer.apply(x, alpha).numpy() for alpha in draws]
attacks, rows = {}, {}
for label, model in models.items():
    right = np.array([model.predict(images) == evening.target for images in evenings])
    attacks[label] = model.attack(
        evening.images, evening.target, n_starts=10, n_steps=5, attributes=[renderer]
    )
    rows[label] = {
        "evening": right.mean(),
        "right in all of 10 evenings": right.all(0).mean(),
        "under attack": 1 - attacks[label].success.mean(),
    }
table = pd.DataFrame(rows).T
print(table.round(3).to_string())

# %%
# The mean over random evenings hides the rare ones. The middle column asks of each object to be right in ten of them; for the last, they
# are searched for: the search starts at the worst of ten random draws, and climbs from there.
#
# What does it take to fool each of them? The worst versions that the attack found of one object a colour:
fig, axes = plt.subplots(3, 8, figsize=(9, 4), layout="constrained")
for row, (label, model) in enumerate(models.items()):
    guesses = model.predict(attacks[label].images)
    for k, ax in enumerate(axes[row]):
        i = np.flatnonzero(evening.target == k)[0]
        ax.imshow(attacks[label].images[i].transpose(1, 2, 0).clip(0, 1))
        name, wrong = evening.target_names[guesses[i]], guesses[i] != k
        ax.set_title(name, fontsize=8, color="#D55E00" if wrong else "black")
        ax.set(xticks=[], yticks=[])
    axes[row, 0].set_ylabel(label, fontsize=8)
_ = fig.suptitle(
    "The worst version of an object, and what it was taken for (orange: wrong)", fontsize=9
)

# %%
# Real cameras have no renderer. Where attributes were *recorded* with images, ``fit_editor`` learns a generator from them that takes its place
# (its ``r2_``, on images kept out, says how well; look at its images before you trust it); angles, shifts, blur, noise and
# light need neither (``Rotation``, ``Translate``, ``Blur``, ``Noise``, ``Brightness``, ...).
#
# What was not said is not covered
# --------------------------------
#
# Robustness is bought for the attributes in the box, and for nothing else. Noise was in nobody's box:
noisy = np.clip(evening.images + rng.normal(0, 0.15, evening.images.shape), 0, 1).astype(np.float32)
print(
    pd.Series(
        {k: m.score(noisy, evening.target) for k, m in models.items()}, name="noisy evening"
    ).round(3)
)

# %%
# In short: clean training fails when several attributes move at once, random attributes over the same box repair most of that, and adversarial ones
# most of the rare combinations that are left, for a longer training. All three are worse under an attack than on a random evening. The
# method assumes that the attributes leave the label alone, that their box is right, and that a faithful G exists. One run on one set of scenes is shown here;
# ``benchmarks/attribute_robust_settings.py`` repeats the comparison with new data and weights, and gives intervals.
