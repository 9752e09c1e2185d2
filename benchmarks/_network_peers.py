"""The network part of benchmarks/influence.py: linear datamodeling scores of statml and dattri, in one process.

    python benchmarks/_network_peers.py         # in an environment with torch, dattri and statml

A 64-32-10 network on 800 digits. Truth: its recipe repeated on 50 random halves, twice each with other initial weights.
"""

from __future__ import annotations

import copy
import json
import os
import time
import warnings

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import torch
from sklearn.datasets import load_digits
from statml.adapters.influence import TorchOracle
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from statml.influence import TRAK, InfluenceFunction, Source, TracIn, Trajectory
from statml.influence.metrics import linear_datamodeling_score

torch.set_num_threads(1)
warnings.simplefilter("ignore")

N, N_TEST, SUBSETS, REPEATS = 800, 200, 50, 2
LR, MOMENTUM, EPOCHS, BATCH, DECAY = 0.05, 0.9, 40, 80, 1e-3
KEPT = (0, 100, 200, 300, 399)  # steps at which parameters are kept for TracIn and SOURCE


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def train(X, y, masks, seeds):
    """One network for every mask, all at once: SGD whose batches skip records that a mask leaves out."""
    models = [network(seed) for seed in seeds]
    params, _ = stack_module_state(models)
    params = {k: v.detach() for k, v in params.items()}
    skeleton = copy.deepcopy(models[0])

    def loss(p, batch, keep):
        out = functional_call(skeleton, p, (X[batch],))
        losses = nn.functional.cross_entropy(out, y[batch], reduction="none")
        decay = sum((v**2).sum() for v in p.values()) * DECAY / 2
        return (losses * keep).sum() / keep.sum().clamp(min=1) + decay

    gradient = vmap(grad(loss), (0, None, 0))
    velocity = {k: torch.zeros_like(v) for k, v in params.items()}
    order = torch.Generator().manual_seed(0)
    kept, step = [], 0
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(X), generator=order).split(BATCH):
            if step in KEPT:
                kept.append({k: v.clone() for k, v in params.items()})
            step += 1
            g = gradient(params, batch, masks[:, batch].float())
            for k in params:
                velocity[k] = MOMENTUM * velocity[k] + g[k]
                params[k] = params[k] - LR * velocity[k]
    return params, kept


def losses_of(params, X, y):
    skeleton = network(0)
    out = vmap(lambda p: functional_call(skeleton, p, (X,)))(params)
    return torch.stack([nn.functional.cross_entropy(o, y, reduction="none") for o in out]).numpy()


def main() -> None:
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[: N + N_TEST]
    X, y = torch.tensor(X[order] / 16, dtype=torch.float32), torch.tensor(y[order])
    X, X_test, y, y_test = X[:N], X[N:], y[:N], y[N:]
    rng = np.random.default_rng(1)
    masks = np.zeros((SUBSETS, N), dtype=bool)
    for row in masks:
        row[rng.choice(N, N // 2, replace=False)] = True
    truth = []
    for r in range(REPEATS):
        params, _ = train(
            X, y, torch.tensor(masks), range(100 + r * SUBSETS, 100 + (r + 1) * SUBSETS)
        )
        truth.append(losses_of(params, X_test, y_test))
    everything = torch.ones(5, N, dtype=torch.bool)
    params, kept = train(X, y, everything, range(5))
    models = []
    for k in range(5):
        model = network(k)
        model.load_state_dict({name: v[k] for name, v in params.items()})
        models.append(model)
    accuracy = (models[0](X_test).argmax(1) == y_test).float().mean().item()
    checkpoints = [{name: v[0] for name, v in c.items()} for c in kept]

    rows = []
    for side, name, method in [
        *ours(models, checkpoints, X, y, X_test, y_test),
        *theirs(models, checkpoints, X, y, X_test, y_test),
    ]:
        start, cpu = time.perf_counter(), time.process_time()
        try:
            tau = np.asarray(method(), dtype=float)
        except Exception as error:
            rows.append({"side": side, "method": name, "error": str(error)[:80]})
            continue
        cpu, wall = time.process_time() - cpu, time.perf_counter() - start
        if not np.isfinite(tau).all():
            rows.append({"side": side, "method": name, "error": "NaN in the result"})
            continue
        score = linear_datamodeling_score(tau, masks, np.array(truth))
        rows.append(
            {
                "side": side, "method": name, "LDS": score.score, "low": score.conf_low,
                "high": score.conf_high, "CPU s": cpu, "wall s": wall,
                "ceiling": score.noise_ceiling, "accuracy": accuracy,
            }
        )  # fmt: skip
    print(json.dumps(rows))


def ours(models, checkpoints, X, y, X_test, y_test):
    def oracle(k=0):
        return TorchOracle(models[k], X=X, y=y, l2=DECAY)

    def influence(solver, damping="auto", n_models=1, **arguments):
        def run():
            return np.mean(
                [
                    InfluenceFunction(solver, damping=damping, random_state=0, **arguments)
                    .fit(oracle(k))
                    .influence(X_test, y_test)
                    for k in range(n_models)
                ],
                axis=0,
            )

        return run

    def path():
        o = oracle()
        thetas = [o.vector(c) for c in checkpoints] + [o.theta]
        return o, thetas

    def tracin(**arguments):
        def run():
            o, thetas = path()
            return TracIn(thetas[1:], LR, **arguments).fit(o).influence(X_test, y_test)

        return run

    def source():
        o, thetas = path()
        steps = [*KEPT, EPOCHS * N // BATCH]
        run = Trajectory(thetas, LR, steps=steps, momentum=MOMENTUM)
        return Source(3, run, random_state=0).fit(o).influence(X_test, y_test)

    def trak(n_models, proj_dim):
        def run():
            return (
                TRAK(proj_dim=proj_dim, n_models=n_models, random_state=0)
                .fit([oracle(k) for k in range(n_models)])
                .influence(X_test, y_test)
            )

        return run

    cases = [
        ("IF, EK-FAC", influence("ekfac")),
        ("IF, EK-FAC, 5 models", influence("ekfac", n_models=5)),
        ("IF, Gauss-Newton, CG", influence("cg", tol=1e-3)),
        ("IF, LoGra", influence("logra", n_components=100)),
        ("IF, DataInf", influence("datainf")),
        ("SOURCE", source),
        ("TracIn", tracin()),
        ("GAS", tracin(cosine=True)),
        ("TRAK", trak(1, 512)),
        ("TRAK, 5 models", trak(5, 512)),
    ]
    for name, run in cases:
        yield "statml", name, run


def theirs(models, checkpoints, X, y, X_test, y_test):
    from dattri.algorithm.influence_function import (
        IFAttributorArnoldi,
        IFAttributorCG,
        IFAttributorDataInf,
        IFAttributorEKFAC,
        IFAttributorExplicit,
    )
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.task import AttributionTask
    from torch.utils.data import DataLoader, TensorDataset

    model = models[0]
    train_data, test_data = (
        DataLoader(TensorDataset(a, b), batch_size=len(a)) for a, b in ((X, y), (X_test, y_test))
    )

    def loss(params, batch):
        out = functional_call(model, params, (batch[0],))
        return nn.functional.cross_entropy(out, batch[1])

    def record_loss(params, batch):
        out = functional_call(model, params, (batch[0][None],))
        return nn.functional.cross_entropy(out, batch[1][None])

    def margin(params, batch):
        log_p = -record_loss(params, batch)
        return log_p - torch.log(1 - torch.exp(log_p))

    def probability(params, batch):
        return torch.exp(-record_loss(params, batch))

    def influence(kind, **arguments):
        def run():
            task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
            attributor = kind(task=task, **arguments)
            attributor.cache(train_data)
            with torch.no_grad():
                return attributor.attribute(train_data, test_data).T.numpy()

        return run

    def tracin():
        task = AttributionTask(
            loss_func=record_loss, model=model, checkpoints=[*checkpoints[1:], model.state_dict()]
        )
        attributor = TracInAttributor(
            task=task, weight_list=torch.full((len(checkpoints),), LR), normalized_grad=False
        )
        with torch.no_grad():
            return attributor.attribute(train_data, test_data).T.numpy()

    def trak(n_models, proj_dim):
        def run():
            task = AttributionTask(
                loss_func=margin, model=model,
                checkpoints=[m.state_dict() for m in models[:n_models]],
            )  # fmt: skip
            attributor = TRAKAttributor(
                task=task, correct_probability_func=probability,
                projector_kwargs={"proj_dim": proj_dim, "device": "cpu"},
            )  # fmt: skip
            attributor.cache(train_data)
            with torch.no_grad():
                return attributor.attribute(test_data).T.numpy()

        return run

    cases = [
        (f"IF, EK-FAC, damping {d:g}", influence(IFAttributorEKFAC, damping=d))
        for d in (1e-3, 1e-2, 1e-1)
    ]
    cases += [
        (f"IF, explicit, {d:g}", influence(IFAttributorExplicit, regularization=d))
        for d in (1e-3, 1e-2, 1e-1)
    ]
    cases += [
        ("IF, CG, 1e-2", influence(IFAttributorCG, regularization=1e-2, max_iter=20)),
        ("IF, Arnoldi, 1e-2", influence(IFAttributorArnoldi, regularization=1e-2)),
        ("IF, DataInf, 1e-2", influence(IFAttributorDataInf, regularization=1e-2)),
        ("TracIn", tracin),
        ("TRAK", trak(1, 512)),
        ("TRAK, 5 models", trak(5, 512)),
    ]
    for name, run in cases:
        yield "dattri", name, run


if __name__ == "__main__":
    main()
