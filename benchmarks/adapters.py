"""Benchmarks of the torch base: what an estimator costs a step, and what training many networks as one saves.

    python benchmarks/adapters.py               # both parts, about two minutes
    python benchmarks/adapters.py step          # one part: step, replicates

All sides run in turns in one process, on one thread; CPU time, the smallest of several repeats.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from statml.adapters import MLP, NetClassifier
from statml.adapters.pruning.decomposition.stacks import Recipe, Stack, train
from torch import nn

torch.set_num_threads(1)
EPOCHS, BATCH = 20, 128


def plain_loop(module: nn.Module, X, y, epochs: int, lr: float, seed=0, size=BATCH) -> None:
    """What one would write by hand."""
    optimizer = torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    loss_of = nn.CrossEntropyLoss()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(X), generator=generator).split(size):
            optimizer.zero_grad()
            loss_of(module(X[batch]), y[batch]).backward()
            optimizer.step()


def step() -> None:
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    tensors = torch.from_numpy(X), torch.from_numpy(y)
    n_steps = EPOCHS * -(-len(X) // BATCH)
    rows = []
    for hidden in ((128, 64), (1000, 1000)):

        def by_hand(hidden=hidden):
            plain_loop(MLP(64, 10, hidden=hidden), *tensors, EPOCHS, 0.05)

        def by_statml(hidden=hidden):
            NetClassifier(
                module__hidden=hidden, epochs=EPOCHS, batch_size=BATCH, optimizer="sgd", lr=0.05,
                optimizer__momentum=0.9, weight_decay=1e-4, random_state=0,
            ).fit(X, y)  # fmt: skip

        def by_skorch(hidden=hidden):
            NeuralNetClassifier(
                MLP(64, 10, hidden=hidden), criterion=nn.CrossEntropyLoss, optimizer=torch.optim.SGD,
                max_epochs=EPOCHS, batch_size=BATCH, iterator_train__shuffle=True, train_split=None,
                verbose=0, lr=0.05, optimizer__momentum=0.9, optimizer__weight_decay=1e-4,
            ).fit(X, y)  # fmt: skip

        seconds = in_turns([by_hand, by_statml, by_skorch], 5)
        micro = [1e6 * s / n_steps for s in seconds]
        rows.append(
            {
                "network": "64-" + "-".join(map(str, hidden)) + "-10",
                "plain torch loop, us a step": micro[0],
                "NetClassifier, us a step": micro[1],
                "skorch, us a step": micro[2],
                "NetClassifier / plain": micro[1] / micro[0],
                "skorch / plain": micro[2] / micro[0],
            }
        )
    report("A training step, batch 128, whole call of fit", rows)


def replicates() -> None:
    X, y = load_digits(return_X_y=True)
    X, y = torch.from_numpy((X[:1000] / 16).astype(np.float32)), torch.from_numpy(y[:1000])
    rows = []
    for n_networks, size in ((5, 128), (30, 128), (5, 32), (30, 32)):
        recipe = Recipe(EPOCHS, size)

        def one_by_one(n_networks=n_networks, size=size):
            for seed in range(n_networks):
                plain_loop(MLP(64, 10, hidden=(128, 64)), X, y, EPOCHS, 0.1, seed, size)

        def stacked(looped, n_networks=n_networks, recipe=recipe):
            networks = [MLP(64, 10, hidden=(128, 64)) for _ in range(n_networks)]
            stack = Stack.of(networks, False, looped)
            orders = [np.random.default_rng(seed) for seed in range(n_networks)]
            train(stack, None, X, y, torch.arange(len(X)).expand(n_networks, -1), orders, recipe)

        alone, together, looped = in_turns(
            [one_by_one, partial(stacked, False), partial(stacked, True)], 3
        )
        per_step = 1e6 / (EPOCHS * -(-len(X) // size) * n_networks)
        rows.append(
            {
                "networks 64-128-64-10": n_networks,
                "batch": size,
                "plain torch loop, us a step and network": alone * per_step,
                "looped stack": looped * per_step,
                "batched stack": together * per_step,
                "plain / batched": alone / together,
                "looped / batched": looped / together,
            }
        )
    report("Replicates on 1,000 digits", rows)


def in_turns(functions: list[Callable[[], None]], repeats: int) -> list[float]:
    """Smallest CPU time of each, the sides in turns."""
    best = [np.inf] * len(functions)
    for _ in range(repeats + 1):  # the first round warms up
        for k, function in enumerate(functions):
            start = time.process_time()
            function()
            best[k] = min(best[k], time.process_time() - start)
    return best


def report(title: str, rows: list[dict]) -> None:
    print(f"\n## {title}\n")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4g"), flush=True)


PARTS = {"step": step, "replicates": replicates}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
