"""
Does pruning help because the network is smaller, or because it trained longer?
===============================================================================

Iterative magnitude pruning trains a network, removes a share of its weights, trains again, and so on. At the tenth level
the network has a few per cent of its weights left, and eleven times the training. Where it predicts better than the network it came
from, which of the two was it? Where it predicts worse, the same question.

We take handwritten digits, once with clean labels and once with a fifth of the training labels replaced by random ones, and train the
networks that can tell. All of them, over several seeds, train as one batched program.
"""

# %%
import numpy as np
from sklearn.datasets import load_digits

X, y = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(X))
X, y = X[order] / 16, y[order]
X_train, y_train, X_test, y_test = X[:1100], y[:1100], X[1100:], y[1100:]

# %%
# Four networks at every level
# ----------------------------
#
# ==================  ============================  ==========================================
# test error of       trained for T epochs          trained for (k+1) T epochs
# ==================  ============================  ==========================================
# all weights         the dense network             extended dense training (EDT)
# few weights         the pruned mask, restarted    pruning with learning-rate rewinding (LRR)
# ==================  ============================  ==========================================
#
# The step from the upper left to the lower right is what pruning does. It can be taken through either of the other corners: first longer,
# then smaller, or the other way round. The *Shapley effect* of time is the mean of both ways, that of size too, and the
# two add up to the total exactly. Every seed gives one such table with the same start and the same order of the records, so that the
# differences are paired. Four further arms, at the end of the summary: the pruned mask restarted (*sparse_short*), pruning with rewound
# weights (*wr*), random masks trained as long (*random*), and a narrow dense network with as many weights, trained for T epochs (*narrow*).
from statml.adapters.pruning import PruningEffectDisplay, decompose_pruning_effect

result = decompose_pruning_effect(
    (128, 64),
    X_train,
    y_train,
    X_test,
    y_test,
    noise=(0.0, 0.2),
    fraction=0.45,
    levels=5,
    epochs=25,
    n_replicates=5,
    influence_top=0.1,
    random_state=0,
)
print(result.summary())

# %%
# Clean labels
# ------------
#
# With clean labels nothing happens: six times the training, and one weight in twenty, leave the test error where it was, within what
# five seeds can tell. Even so, *which* weights are kept matters: random masks of the same size do worse.
PruningEffectDisplay.from_result(result, "error", noise=0.0)

# %%
# A fifth of the labels wrong
# ---------------------------
#
# Now the picture is another. The dense network, stopped after T epochs, has not yet learned the wrong labels by heart. With longer
# training, dense or pruned, it learns them, and the test error rises.
PruningEffectDisplay.from_result(result, "error", noise=0.2)

# %%
# The share of wrong labels that a network reproduces shows why. Extended training ends by reproducing nearly all of them. The pruned network
# first follows, then has too few weights left to remember.
PruningEffectDisplay.from_result(result, "memorised", noise=0.2)

# %%
# So "pruning harms" would be the wrong summary, and so would "pruning regularises". The decomposition says what each part
# does: the time does the harm, and the bars of size say how much smallness gives back or adds.
PruningEffectDisplay.from_result(result, "decomposition", noise=0.2)

# %%
# Compared at equal training time (``size_long``: EDT minus LRR), smallness helps from the third level on:
effects = result.effects.query("noise == 0.2 and effect == 'size_long'")
effects[
    ["level", "density", "estimate", "conf_low", "conf_high", "band_low", "band_high"]
].set_index("level").round(4)

# %%
# Whose loss falls?
# -----------------
#
# The records are sorted by difficulty: how wrong an early network is about them. What longer training learns in addition is
# mostly the hardest three tenths, which is where the wrong labels are. The pruned network goes less far.
PruningEffectDisplay.from_result(result, "subgroups", noise=0.2, sparsity_level=4)

# %%
# What would the records be missed for? A dense network that is trained without the tenth whose loss pruning lowers most, against one that
# is trained without as many random records: with clean labels these are the informative ones, and the error rises.
result.influence[
    ["noise", "n_removed", "error_without_top", "error_without_random", "conf_low", "conf_high"]
].round(4)

# %%
# Which level to take?
# --------------------
#
# The best of five levels always looks good on the data that it was chosen on. Here it is chosen on validation data, for each seed anew, and
# judged on test data; every arm has the same number of levels to choose from, the dense network among them.
result.optimal.round(4)

# %%
# What this rests on
# ------------------
#
# - Five seeds on one data set. The intervals are about the randomness of training; another sample of digits is another story.
# - The sign of the effect of time depends on where the dense network was stopped. One that has already learned the noise by heart has
#   nothing more to lose, and there small networks can come out ahead. Look at its training loss first: it stands in the summary.
# - The numbers are of a small perceptron with hardly any weight decay. The gains that the paper reports are for convolutional networks.
#
# Reference: T. Jin, M. Carbin, D. M. Roy, J. Frankle and G. K. Dziugaite (2022), Pruning's effect on generalization through the lens of
# training and regularization, NeurIPS.
