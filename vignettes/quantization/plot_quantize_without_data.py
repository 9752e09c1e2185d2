"""
Two bits, and no data
=====================

A clinic hands over a trained network that reads handwritten digits, but not the forms that it was trained on. It has to
become small: weights and activations of two bits. Rounding destroys it, and whatever repairs the damage wants examples. Where
should they come from?
"""

# %%
# The network
# -----------
#
# A small residual network and 1,200 of scikit-learn's digits. From here on the digits are out of reach; 597 others wait for
# the end, to say what each attempt was worth.
import warnings

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from statml.adapters import GenieQuantizer, NetClassifier
from statml.adapters.quantization.networks import ResNet

X, y = load_digits(return_X_y=True)
X = ((X - X.mean()) / X.std()).reshape(-1, 1, 8, 8).astype(np.float32)
X, X_test, y, y_test = train_test_split(X, y, test_size=597, stratify=y, random_state=0)


def small_resnet(n_outputs):
    return ResNet("basic", (1, 1), (16, 32), in_channels=1, n_classes=n_outputs, small_stem=True)


trained = NetClassifier(small_resnet, epochs=12, lr=4e-3, random_state=0).fit(X, y)
network = trained.module_
print(f"float: {trained.score(X_test, y_test):.1%} of the test digits right")

# %%
# What the network remembers
# --------------------------
#
# Every batch normalisation has kept mean and variance of what went through it. An image that looks, layer by layer, like
# those averages is no digit, but it drives the network where digits drive it. GENIE learns a small generator together with one
# latent vector an image until the statistics agree; no label takes part.
common = {"n_samples": 128, "recon_iter": 500, "random_state": 0, "progress": False}
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)  # we print the share
    zero_shot = GenieQuantizer(
        2, 2, distill_iter=200, latent_dim=64, generator_channels=(32, 16), **common
    ).fit(network, input_shape=(1, 8, 8))
print(zero_shot.summary())

# %%
from statml.adapters import BNSLossDisplay, SyntheticImagesDisplay

_ = SyntheticImagesDisplay.from_estimator(zero_shot, n=24)

# %%
# Not digits, and they need not be. That the loss falls proves little by itself: one far below what as many real digits leave
# is over-fitted, and one far above, as after the few iterations that a tutorial has, is not finished.
from statml.adapters.quantization.statistics import Teacher

losses = zero_shot.distill_loss_["total"]
as_digits = sum(Teacher(zero_shot.float_model_).describe(torch.from_numpy(X[:128])).values())
print(
    f"loss {losses.iloc[0]:.3f} at first, {losses.iloc[-1]:.3f} at last; of 128 real digits {as_digits:.3f}"
)
display = BNSLossDisplay.from_estimator(zero_shot)
_ = display.ax_.set_title("Distance to the statistics of the network")

# %%
# No class was asked for either; the histogram of what the network sees in its images tells whether some are missing.
histogram = zero_shot.class_histogram()
print(histogram.round(2).to_string(index=False))
print(f"entropy {histogram.attrs['entropy']:.2f} of at most 1")

# %%
# What each ingredient buys
# -------------------------
#
# Two roundings to nearest, which learn nothing; then learnt roundings, on noise, on the synthetic images and on real digits.
# "Undecided" is the share of roundings that had come neither to 0 nor to 1 when the iterations ended: above a twentieth the row says more
# about a short optimisation than about the method.
rows = {}


def attempt(name, images=None, **changes):
    quantizer = GenieQuantizer(2, 2, **common | changes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        quantizer.fit(network, images, input_shape=(1, 8, 8))
    record(name, quantizer)


def record(name, quantizer):
    right = int((quantizer.predict(X_test) == y_test).sum())
    low, high = proportion_confint(right, len(y_test), method="wilson")
    rows[name] = {
        "accuracy": right / len(y_test),
        "low": low,
        "high": high,
        "undecided": quantizer.undecided_,
    }


from statsmodels.stats.proportion import proportion_confint

synthetic = zero_shot.synthetic_data_
attempt("nearest, min-max range", synthetic, method="rtn-minmax")
attempt("nearest, range of least error", synthetic, method="rtn-mse")
attempt("GENIE on noise", data="noise")
record("GENIE on synthetic images", zero_shot)
attempt("GENIE on real digits", X[:128])
table = pd.DataFrame(rows).T
print(table.round(3).to_string())

# %%

from statml._display import BLUE, GREY, axes

ax = axes(figsize=(6.4, 2.6))
place = np.arange(len(table))
bars = np.abs(np.stack([table["accuracy"] - table["low"], table["high"] - table["accuracy"]]))
ax.errorbar(table["accuracy"], place, xerr=bars, fmt="o", color=BLUE, capsize=2)
ax.axvline(trained.score(X_test, y_test), color=GREY, ls="--", lw=1)
ax.text(trained.score(X_test, y_test), -0.45, "float ", ha="right", color=GREY, fontsize="small")
ax.set_yticks(place, table.index)
ax.invert_yaxis()
_ = ax.set(xlabel="accuracy at two bits", title="Intervals: of the test digits, 95 %")

# %%
# The learnt rows are a little above that twentieth here: read nothing into differences between them.
#
# Learning the roundings is worth most. On images of 8 x 8 pixels, noise serves it as well as images of the statistics do; on the
# ResNet-8 of the benchmarks, noise loses more than twenty points to images of the statistics, and these hardly one to real ones. Real records, where they can be had, remain best.
#
# The intervals count test digits. They do not contain the luck of one fit: another seed moves a learnt row, and small differences
# between two of them are none. Over several seeds, and on a larger network, the table is in the benchmarks.
#
# How few bits?
# -------------
#
# Where the curve of rounding to nearest meets the float line, nothing has to be learnt, and tables of methods at that many bits tell
# them apart badly.
from statml.adapters import AccuracyBitsDisplay

nearest = GenieQuantizer(method="rtn-mse", data="noise", **common | {"random_state": 1})
nearest.fit(network, input_shape=(1, 8, 8))
nearest.synthetic_data_ = synthetic  # noise gives bad ranges; these images are there already
_ = AccuracyBitsDisplay.from_estimator(nearest, X_test, y_test, bits=(2, 3, 4, 8))

# %%
# Not all layers need the same. Each is quantised alone, the rest left in floats; then the bits are shared out such that the
# weights fit a budget and the sum of the damage is least.
sensitivity = zero_shot.sensitivity(bits=(2, 3, 4, 8))
print(sensitivity.pivot(index="name", columns="n_bits", values="kl").round(4).to_string())
budget = int(sensitivity.query("n_bits == 3")["bytes"].sum())
bits = zero_shot.mixed_precision(budget, bits=(2, 3, 4, 8))
print(f"within the {budget} bytes that three bits everywhere would take:\n{bits}")

# %%
# A trap
# ------
#
# A rounding moves by about the learning rate an iteration and has to move by 2.4. At the rate that goes with 20,000
# iterations, 60 of them decide nothing, and the package says so. Comparisons of methods made in this state compare speeds, not results.
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    GenieQuantizer(2, 2, **common | {"recon_iter": 60, "lr_round": 1e-3}).fit(network, synthetic)
print(caught[-1].message)

# %%
# What is small, and what is fast
# -------------------------------
from statml.adapters.quantization.storage import float_bytes

print(
    f"{float_bytes(network)} bytes in floats, {zero_shot.size_bytes_} with packed codes "
    f"(normalisations and biases stay in floats)"
)

# %%
# The fitted ``model_`` simulates in floats and is no faster than the original. ``placement="deployable"`` quantises sums and outputs
# too, and ``export_onnx`` then writes a file whose every layer runs in 8-bit integers; fewer bits make it smaller, not faster. That is the
# subject of the other tutorial.
#
# When not to trust it: networks without batch normalisation have kept nothing (hand real records over, ``fit(network, X)``); a network whose
# statistics are of other data than it will see; depthwise networks at two bits, for which no method here is known to work;
# and inputs on another scale than ``input_stats`` says, zero mean and unit deviation by default.
