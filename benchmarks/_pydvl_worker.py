"""pyDVL's side of benchmarks/influence.py: leave-one-out, KNN-Shapley and permutation Shapley, timed.

python benchmarks/_pydvl_worker.py data.npz result.npz        # in an environment with pyDVL 0.10.0
"""

import os
import sys
import time
import warnings

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
warnings.simplefilter("ignore")

import numpy as np
from pydvl.valuation import (
    Dataset,
    KNNShapleyValuation,
    LOOValuation,
    MaxUpdates,
    ModelUtility,
    NoTruncation,
    PermutationSampler,
    ShapleyValuation,
    SupervisedScorer,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

data = dict(np.load(sys.argv[1]))


def timed(valuation, train):
    start = time.process_time()
    valuation.fit(train)
    seconds = time.process_time() - start
    result = valuation.result
    values = np.empty(len(result))
    values[result.indices] = result.values
    return values, seconds


train = Dataset(data["X"], data["y"])
test = Dataset(data["X_test"], data["y_test"])
scorer = SupervisedScorer("neg_log_loss", test, default=-np.log(2))
utility = ModelUtility(LogisticRegression(), scorer, show_warnings=False)
loo, loo_seconds = timed(LOOValuation(utility), train)
sampler = PermutationSampler(NoTruncation(), seed=0)
permutations = int(data["permutations"])
shapley, shapley_seconds = timed(
    ShapleyValuation(utility, sampler, MaxUpdates(permutations), show_warnings=False), train
)
knn_train, knn_test = Dataset(data["D"], data["d"]), Dataset(data["D_test"], data["d_test"])
knn, knn_seconds = timed(
    KNNShapleyValuation(KNeighborsClassifier(5), knn_test, progress=False), knn_train
)
np.savez(
    sys.argv[2], loo=loo, loo_seconds=loo_seconds, shapley=shapley,
    shapley_seconds=shapley_seconds, knn=knn, knn_seconds=knn_seconds,
)  # fmt: skip
