"""Part of benchmarks/influence.py: exact leave-one-out and KNN-Shapley of statml, pyinfluence and dattri, in one process.

    python benchmarks/_removal_peers.py         # in an environment with torch, dattri, pyinfluence and statml

CPU seconds, least of several calls for the fast ones.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
import warnings

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pyinfluence
import torch
from dattri.algorithm.data_shapley import KNNShapleyAttributor
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from statml.influence import KNNShapley, LeaveOneOut

torch.set_num_threads(1)
warnings.simplefilter("ignore")


def timed(function, repeats=1):
    best, result = np.inf, None
    for _ in range(repeats):
        start = time.process_time()
        with contextlib.redirect_stderr(io.StringIO()):
            result = function()
        best = min(best, time.process_time() - start)
    return np.asarray(result, dtype=float), best


def leave_one_out():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit(X[:400]).transform(X)
    train, test = (X[:400], y[:400]), (X[400:], y[400:])
    model = LogisticRegression(tol=1e-8, max_iter=1000).fit(*train)
    ours, seconds = timed(lambda: LeaveOneOut().fit(model, *train).influence(*test), 5)
    theirs, peer = timed(lambda: pyinfluence.influence(model, *train, *test, method="loo"))
    return {
        "task": "leave-one-out, breast cancer 400 x 169", "peer": "pyinfluence 0.5.0",
        "statml s": seconds, "peer s": peer, "ratio": peer / seconds,
        "max difference": np.abs(ours - theirs).max(), "correlation": _correlation(ours, theirs),
    }  # fmt: skip


def neighbours():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    knn = KNNShapley(5, ties="order").fit(None, X[:1200], y[:1200])
    ours, seconds = timed(lambda: knn.influence(X[1200:], y[1200:]), 5)
    parts = [
        DataLoader(
            TensorDataset(torch.tensor(a, dtype=torch.float64), torch.tensor(b)), batch_size=600
        )
        for a, b in ((X[:1200], y[:1200]), (X[1200:], y[1200:]))
    ]
    theirs, peer = timed(lambda: KNNShapleyAttributor(5).attribute(*parts))
    theirs = theirs if theirs.shape == ours.shape else theirs.T
    return {
        "task": "KNN-Shapley, digits 1200 x 597", "peer": "dattri 0.3.0", "statml s": seconds,
        "peer s": peer, "ratio": peer / seconds, "max difference": np.abs(ours - theirs).max(),
        "correlation": _correlation(ours, theirs),
    }  # fmt: skip


def _correlation(a, b):
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


if __name__ == "__main__":
    print(json.dumps([leave_one_out(), neighbours()]))
