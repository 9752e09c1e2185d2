"""
How small can a digit reader get?
=================================

A small convolutional network reads the 1,797 handwritten digits that come with scikit-learn. How many of its weights does
it need, how sure is that, and does it become any faster? Three traps lie on the way: a sparse network that was trained
longer than the dense one that it is compared with, a level that was chosen and reported on the same records, and
zeros that are sold as speed.
"""

# %%
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.3, stratify=y, random_state=0)
print(f"{len(X)} digits to learn from, {len(X_test)} kept away until the end")

# %%
# Any torch module will do: a function that makes one is called anew for each fit.
import torch
from torch import nn


def small_convnet(n_outputs):
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, n_outputs),
    )


# %%
# The whole path in one fit
# -------------------------
#
# Iterative magnitude pruning: train, remove the smallest two fifths of what is left, start the learning rate anew, train on.
# A fifth of the records is held out, so that every level of the path has an error of its own.
from statml.adapters import LayerDensityDisplay, PruningClassifier, PruningPathDisplay

common = {
    "module": small_convnet,
    "sparsity": 0.95,
    "fraction": 0.4,
    "epochs": 12,
    "batch_size": 96,
    "lr": 0.05,
    "validation_fraction": 0.2,
    "random_state": 0,
}
pruned = PruningClassifier(**common, selection="1se").fit(X, y)
print(pruned.summary())

# %%
# The fitted network, marked by an asterisk, is the sparsest whose held-out error is within one standard error of the best.
# The path is kept: ``at_sparsity`` gives any other level.
display = PruningPathDisplay.from_estimator(pruned)
_ = display.ax_.set_title("One path: iterative magnitude pruning")

# %%
# Was it pruning, or training?
# ----------------------------
#
# The sparse networks have seen more epochs than the dense one. The fair comparisons: a dense network that was trained as long
# (the same cycles, nothing pruned), and random masks, the control that every criterion has to beat.
from statml.adapters.pruning.schedule.iterative import Iterative

n_rounds = len(pruned.path_) - 1
dense_longer = PruningClassifier(**{**common, "sparsity": 0.0}, schedule=Iterative(n_rounds)).fit(
    X, y
)
random_masks = PruningClassifier(**common, criterion="random").fit(X, y)

ax = PruningPathDisplay.from_estimator(pruned).ax_
ax.plot(
    pruned.path_["density"],
    dense_longer.path_["val_error"],
    "s-",
    color="#009E73",
    ms=4,
    label="dense, trained as long",
)
ax.plot(
    random_masks.path_["density"],
    random_masks.path_["val_error"],
    "^-",
    color="#D55E00",
    ms=4,
    label="random masks",
)
ax.set_ylim(0, 1.1 * random_masks.path_["val_error"].max())
_ = ax.legend(loc="upper left")

# %%
# The intervals say how little a few hundred held-out records settle: differences of a point are within them. What they
# do settle is that random masks fall off long before magnitude does. ``decompose_pruning_effect`` asks the
# question of training or size properly, over replicates.
#
# How much slack is there?
# ------------------------
#
# The largest sparsity at which the held-out accuracy is down by at most the amount given; and, more cautiously, up to which a
# one-sided 95 % bound of the loss stays below it at every level (none, where the held-out records are too few to say so).
from statml.adapters.pruning import parameter_slack, sensitivity_scan

print(parameter_slack(pruned.path_, pruned.n_val_, loss=[0.0, 0.01, 0.05]))

# %%
# The records that were kept away give the last word; the held-out error of a level that was chosen by it would
# be too good.
for name, model in {
    "dense, once": pruned.at_sparsity(0.0),
    "dense, as long": dense_longer,
    f"fitted, {pruned.sparsity_:.0%} sparse": pruned,
    "random masks, as sparse": random_masks.at_sparsity(pruned.sparsity_),
}.items():
    wrong = int((model.predict(X_test) != y_test).sum())
    print(f"{name:24s} {wrong:3d} of {len(y_test)} test digits wrong")

# %%
# So the smallness was not free, though the held-out records had shown no loss: there were some 250 of them, and they had chosen the level.
#
# Where are the weights?
# ----------------------
#
# All weights competed, so that the layers could differ. A scan prunes one layer alone, without training, and says which
# layers the network would miss. Layers go by their place in the module.
_ = LayerDensityDisplay.from_estimator(pruned).ax_.set_title("What each layer kept")

# %%
scan = sensitivity_scan(pruned.dense_module_, (X_test, y_test), [0.5, 0.8, 0.9])
print(f"dense: error {scan['error'].iloc[0]:.3f}; with one layer pruned:")
layers = scan.iloc[1:].assign(sparsity=lambda t: t["sparsity"].round(1))
print(layers.pivot(index="layer", columns="sparsity", values="error").round(3))

# %%
# Smaller, and faster?
# --------------------
#
# The file shrinks by itself: zeros are not stored. But a dense kernel multiplies by zeros as slowly as by anything else.
# Only whole channels that are gone make the network faster, and ``compact()`` cuts them out.
channels = PruningClassifier(
    **{**common, "sparsity": 0.5, "fraction": 0.3},
    structure="channel",
    scope="layer",
    criterion="taylor",
).fit(X, y)
small = channels.compact()
with torch.no_grad():
    inputs = torch.from_numpy(X_test.astype("float32"))
    difference = (small(inputs) - channels.module_(inputs)).abs().max().item()
print(f"compact and masked network differ by at most {difference:.1e}")


def seconds(module, repeats=15):
    import time

    times = []
    with torch.no_grad():
        for _ in range(repeats):
            start = time.process_time()
            module(inputs)
            times.append(time.process_time() - start)
    return np.median(times)


table = pd.DataFrame(
    [
        {
            "network": name,
            "parameters": sum(p.numel() for p in module.parameters()),
            "not zero": sum(int(p.count_nonzero()) for p in module.parameters()),
            "CPU ms": 1000 * seconds(module),
            "test accuracy": (module(inputs).argmax(1).numpy() == y_test).mean(),
        }
        for name, module in {
            "dense": pruned.dense_module_.eval(),
            "single weights pruned": pruned.module_,
            "channels pruned": channels.module_.eval(),
            "channels cut out": small.eval(),
        }.items()
    ]
)
print(table.round(3).to_string(index=False))

# %%
# When it fails
# -------------
#
# - Weights that compete over layers of different scale can empty a layer; a warning names it. ``scope="erk"`` or ``"layer"``
#   prevents it.
# - An undertrained dense network makes pruning look good: the further cycles are what helps.
# - One path is one draw. Another seed moves single levels by as much as the intervals are wide.
# - Single zeros save no time on a dense kernel, and sparse kernels pay only from about 85 % sparsity on; ``benchmark(X)``
#   measures it on your machine.
