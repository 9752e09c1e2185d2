"""
From a trained MobileNetV2 to integers, without a single image
==============================================================

A network trained on ImageNet has to run on a small machine: in a quarter of the size, and faster. The training images are not at hand, and
nobody wants to ship them for calibration either. How far does one get with the network alone?

Here MobileNetV2 (Sandler et al. 2018; 3.5 million weights, 71.9 % top-1 by its publishers) goes to 8-bit integers, and its weights to 4 bits in the
file. Without labels for ImageNet what we can measure is *agreement*: how often the small network names the same of 1,000 classes as the
large one, on photographs that neither has seen.
"""

# %%
# The network and the photographs
# -------------------------------
# The weights are fetched once (13 MB); the photographs ship with scikit-image and scikit-learn. Where one of them cannot be had, this page says so and
# stops here.

import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from statml.adapters import GenieQuantizer
from statml.adapters.quantization.equalization import equalize
from statml.adapters.quantization.networks import INPUT_STATS, as_input, mobilenet_v2
from statml.adapters.quantization.onnx_export import build_model, export_onnx
from statml.adapters.quantization.runtime import open_session, run_session
from statml.adapters.quantization.sum_rounding import keep_sums
from statsmodels.stats.proportion import proportion_confint

from statml._display import BLUE, GREY, ORANGE

torch.set_num_threads(1)
try:
    from skimage import data
    from skimage.transform import resize
    from sklearn.datasets import load_sample_images

    network = mobilenet_v2("imagenet")
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    photographs += list(load_sample_images().images)
except (ImportError, OSError) as error:
    print(f"SKIPPED: this tutorial needs scikit-image and the weights of MobileNetV2. {error}")
    sys.exit(0)

rng = np.random.default_rng(0)
crops = []
for k in range(24):
    photograph = photographs[k % len(photographs)]
    side = round(min(photograph.shape[:2]) * 0.875)
    i, j = (rng.integers(s - side + 1) for s in photograph.shape[:2])
    crop = resize(photograph[i : i + side, j : j + side], (224, 224), anti_aliasing=True)
    crops.append((crop[:, ::-1] if k % 2 else crop).clip(0, 1))
X = as_input(np.stack(crops).astype(np.float32), "imagenet")
with torch.no_grad():
    truth = torch.cat([network(batch) for batch in X.split(12)]).argmax(1).numpy()

# %%
# Images out of the network
# -------------------------
# A quantised tensor needs a step, and a step needs to know what values occur. Batch normalisations remember the mean and deviation of every channel over
# the training images. So we learn a handful of images whose statistics match those (``GenieQuantizer`` with ``data="dba"``: the pixels themselves are
# learnt; four images and ten iterations, to keep this page quick; the other methods are in the tutorial on two bits). One more thing is known without data:
# pixels lie between black and white. Said in ``input_stats``, it keeps the step of the input as small as it can be.
#
# Two things that cost nothing come beside it. ``equalize`` rescales channels so that those which share a step have like ranges: ReLU allows it, and the
# network computes the same. ``keep_sums`` rounds a few weights the other way, so that the errors of a kernel add up to nothing on smooth inputs.

mean, std = (np.array(numbers) for numbers in INPUT_STATS["imagenet"])
pixels = (0.0, 1.0, (-mean / std).min(), ((1 - mean) / std).max())  # mean, deviation, black, white
how = {"placement": "deployable", "method": "rtn-mse", "data": "dba", "input_stats": pixels}
how |= {"n_samples": 4, "distill_batch": 4, "distill_iter": 10}
how |= {"random_state": 0, "progress": False}
eight = GenieQuantizer(8, 8, **how).fit(equalize(network), input_shape=(3, 224, 224))
images = eight.synthetic_data_
plain = GenieQuantizer(8, 8, **how).fit(network, images)
four = GenieQuantizer(4, 8, **how).fit(equalize(network), images)
for quantizer in (eight, four):
    keep_sums(quantizer.model_)

fig, panels = plt.subplots(1, 4, figsize=(9, 2.5), layout="constrained")
for panel, image in zip(panels, images, strict=True):
    low, high = np.quantile(image, [0.01, 0.99])
    panel.imshow(((image - low) / (high - low)).clip(0, 1).transpose(1, 2, 0))
    panel.axis("off")
fig.suptitle("No photographs: pixels whose statistics are those that the network remembers")

# %%
# A file that runs in integers
# ----------------------------
# ``placement="deployable"`` puts a quantiser after every layer and every sum, so that each of the 53 convolutions and linear layers reads codes and
# writes codes. The report says what onnxruntime makes of the file: it counts the operations of the optimised graph, compares every code with an exact
# integer reference, and times both sides in turns on one thread.

folder = Path(tempfile.mkdtemp())
report = export_onnx(eight.to_graph(), folder / "w8a8.onnx", weight_storage="int8", X=images[:1])
print(report)

# %%
# Fake quantisation is no speed-up; these codes are real, and the same to the last one. With four bits a weight the file shrinks further: the
# classifier, a third of all weights, keeps eight bits here. The arithmetic stays 8 bits wide, so it gets no faster.

report_four = export_onnx(four.to_graph(), folder / "w4a8.onnx", weight_storage="int4", check=False)
print(report_four)

# %%
# Does it still see the same?
# ---------------------------
# Intervals are Wilson's for independent crops. They are somewhat too narrow, as the crops come from six photographs only.


def agreement(content) -> tuple[float, float, float]:
    session = open_session(content)
    out = np.concatenate([run_session(session, x.numpy())[0] for x in X.split(12)])
    same = int((out.argmax(1) == truth).sum())
    return same / len(X), *proportion_confint(same, len(X), method="wilson")


sizes = {
    name: r.size.set_index("form")["bytes"] / 1e6
    for name, r in (("eight", report), ("four", report_four))
}
table = pd.DataFrame(
    [
        ("float32", sizes["eight"]["float32"], 1.0, 1.0, 1.0),
        ("8 bits, grids alone", sizes["eight"]["int8"], *agreement(build_model(plain.to_graph(), weight_storage="int8").SerializeToString())),
        ("8 bits, equalised, sums kept", sizes["eight"]["int8"], *agreement(folder / "w8a8.onnx")),
        ("weights 4 bits, the same", sizes["four"]["int4"], *agreement(folder / "w4a8.onnx")),
    ],
    columns=["network", "MB", "agreement", "low", "high"],
)  # fmt: skip
table.round(3)

# %%
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for k, (row, colour) in enumerate(zip(table.itertuples(), (GREY, ORANGE, BLUE, BLUE), strict=True)):
    ax.plot([row.low, row.high], [k, k], color=colour, lw=2)
    ax.plot(row.agreement, k, "o", color=colour)
    ax.annotate(f"{row.MB:.1f} MB", (0.02, k), xycoords=("axes fraction", "data"), va="center")
ax.set_yticks(range(len(table)), table["network"])
ax.margins(y=0.15)
ax.invert_yaxis()
_ = ax.set(xlabel="agreement with the float network, with 95 % interval", xlim=(-0.15, 1.02))

# %%
# What to take along
# ------------------
# - Eight bits without data work: a bit more than a quarter of the size, and the same class on most crops. How much faster it is depends on the
#   processor: the better its floats, the less is left to gain. We saw twice as fast on a server with AVX-512.
# - Four bits a weight are another matter with rounding to nearest. MobileNetV2's depthwise layers have nine weights a channel and no
#   slack. That is what learnt rounding (``method="genie"``) is for; on 224 x 224 images it needs a GPU or patience.
# - Agreement is not accuracy: it says that little was changed, not that what was there was right. With labelled images measure accuracy, with
#   unlabelled ones calibrate on them (``fit(network, X)``).
# - benchmarks/quantization_deployment.py repeats this with more crops and images, beside onnxruntime's own quantizer, calibrated on real photographs.
