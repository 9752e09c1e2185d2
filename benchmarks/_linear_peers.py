"""The linear part of benchmarks/influence.py: influence functions of statml, pyinfluence and dattri, in one process.

    python benchmarks/_linear_peers.py          # in an environment with torch, dattri, pyinfluence and statml

CPU seconds of attribution alone (the model is fitted already), least of several calls.
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
from dattri.algorithm.influence_function import IFAttributorExplicit
from dattri.task import AttributionTask
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from statml.influence import InfluenceFunction

torch.set_num_threads(1)
warnings.simplefilter("ignore")


def least(function, repeats):
    """The result and the least CPU time of some calls."""
    best, result = np.inf, None
    for _ in range(repeats):
        start = time.process_time()
        with contextlib.redirect_stderr(io.StringIO()):
            result = function()
        best = min(best, time.process_time() - start)
    return np.asarray(result, dtype=float), best


def explicit(model, X, y, X_test, y_test):
    """dattri's explicit solver on the same softmax model; its regularisation also falls on the intercept."""
    two = len(model.classes_) == 2
    linear = torch.nn.Linear(X.shape[1], 2 if two else len(model.classes_))
    with torch.no_grad():
        half = model.coef_ / 2 if two else model.coef_
        shift = model.intercept_ / 2 if two else model.intercept_
        linear.weight.copy_(torch.tensor(np.vstack([-half, half]) if two else half))
        linear.bias.copy_(torch.tensor(np.append(-shift, shift) if two else shift))
    data = [
        DataLoader(
            TensorDataset(torch.tensor(a, dtype=torch.float32), torch.tensor(b)), batch_size=len(a)
        )
        for a, b in ((X, y), (X_test, y_test))
    ]

    def loss(params, batch):
        out = functional_call(linear, params, (batch[0],))
        return torch.nn.functional.cross_entropy(out, batch[1])

    def run():
        task = AttributionTask(loss_func=loss, model=linear, checkpoints=linear.state_dict())
        # with two outputs, l2 on their difference is twice that on each
        attributor = IFAttributorExplicit(task=task, regularization=(2 if two else 1) / len(X))
        attributor.cache(data[0])
        with torch.no_grad():
            return attributor.attribute(*data).T.numpy() / len(X)

    return run


def main() -> None:
    rows = []
    cells, malignant = load_breast_cancer(return_X_y=True)
    cells = StandardScaler().fit_transform(cells)
    digits, labels = load_digits(return_X_y=True)
    for data, X, y, n, m in (
        ("breast cancer, logistic", cells, malignant, 400, 169),
        ("digits, softmax", digits / 16, labels, 1200, 200),
    ):
        X, X_test, y, y_test = X[:n], X[n : n + m], y[:n], y[n : n + m]
        model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10).fit(X, y)

        def ours(model=model, X=X, y=y, X_test=X_test, y_test=y_test):
            return InfluenceFunction().fit(model, X, y).influence(X_test, y_test)

        tau, seconds = least(ours, 9)
        row = {"data": data, "test x train": f"{m} x {n}", "statml CPU s": seconds}
        peer, peer_seconds = least(explicit(model, X, y, X_test, y_test), 3)
        row |= {
            "dattri explicit CPU s": peer_seconds, "dattri / statml": peer_seconds / seconds,
            "correlation with dattri": np.corrcoef(tau.ravel(), peer.ravel())[0, 1],
        }  # fmt: skip
        if len(model.classes_) == 2:  # it takes no more

            def peer(model=model, X=X, y=y, X_test=X_test, y_test=y_test):
                return pyinfluence.influence(
                    model, X, y, X_test, y_test, method="influence_functions", damping=0.0
                )

            values, peer_seconds = least(peer, 9)
            row |= {
                "pyinfluence CPU s": peer_seconds, "statml / pyinfluence": seconds / peer_seconds,
                "largest relative difference": np.abs(values - tau).max() / np.abs(tau).max(),
            }  # fmt: skip
        rows.append(row)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
