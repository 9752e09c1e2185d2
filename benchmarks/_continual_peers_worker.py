"""The peers of benchmarks/continual.py: Avalanche and pytorch-ood beside statml, in one process. Runs inside .venv-continual.

python benchmarks/_continual_peers_worker.py learners 10 11     # rows as JSON; parts: learners, detectors, steps
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from functools import partial

import numpy as np
import torch
from torch import nn

# torchvision's binary does not fit the CPU build of torch; both peers import it and need none of its operators
_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from _continual_studies import SCORES, SMALL, digits, foreign_sets
from statml.adapters import OpenVAEClassifier
from statml.adapters.continual.vae import VAE, kl_divergence, mlp_coder

TASKS = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
STEPS = 500  # of a task
BATCH = 128
MEMORY = 200
OPEN_SET_STEPS = {"clothes": 1500, "digits": 800}
FOREIGN = ("digits", "inverted digits", "clothes", "inverted clothes", "noise")


# --- learners ----------------------------------------------------------------------------------------


def learners(seed: int) -> list[dict]:
    """Digits in five tasks, by Avalanche's strategies and by OpenVAEClassifier, 500 steps a task."""
    X, y, X_test, y_test = digits(seed)
    rows = []
    for name, options in {
        "OpenVAEClassifier, aggregate": {"replay": "aggregate"},
        f"OpenVAEClassifier, {MEMORY} exemplars": {"replay": "exemplar", "memory_size": MEMORY},
    }.items():
        model = OpenVAEClassifier(
            max_steps=STEPS, calibration=0, random_state=seed, **options, **SMALL
        )
        start = time.process_time()
        for task in TASKS:
            own = np.isin(y, task)
            model.partial_fit(X[own], y[own])
        seconds = time.process_time() - start
        rows.append(_row(name, model.predict(X_test) == y_test, y_test, seconds, model.n_stored_))
    for name, (make, stored) in AVALANCHE.items():
        torch.manual_seed(seed)
        train, test = _experiences(X, y), X_test
        start = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            strategy = make(_classifier())
            for experience in train:
                strategy.train(experience)
        seconds = time.process_time() - start
        with torch.no_grad():
            predicted = strategy.model.eval()(torch.from_numpy(_normalised(test))).argmax(1).numpy()
        rows.append(_row(f"Avalanche, {name}", predicted == y_test, y_test, seconds, stored))
    return rows


def _row(name: str, right: np.ndarray, y: np.ndarray, seconds: float, stored: int) -> dict:
    recalls = [right[y == c].mean() for c in range(10)]
    base = float(np.mean(recalls[:2]))
    return {
        "learner": name,
        "acc": float(np.mean(recalls)),
        "base": base,
        "stored": stored,
        "CPU s": seconds,
    }


def _normalised(X: np.ndarray) -> np.ndarray:
    """With the constants that are written into Avalanche's decoder."""
    return ((X[:, None] - 0.1307) / 0.3081).astype(np.float32)


def _experiences(X: np.ndarray, y: np.ndarray, tasks=TASKS) -> list:
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from torch.utils.data import TensorDataset

    parts = []
    for task in tasks:
        own = np.isin(y, task)
        # the third column is the task's label, without which generative replay appends its labels twice
        columns = _normalised(X[own]), y[own], np.zeros(own.sum(), dtype=np.int64)
        data = TensorDataset(*map(torch.from_numpy, columns))
        data.targets = y[own].tolist()
        parts.append(as_classification_dataset(data))
    return list(benchmark_from_datasets(train=parts).train_stream)


def _classifier() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(196, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def _common(model: nn.Module) -> dict:
    a_epoch = -(-800 // BATCH)
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), 1e-3),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": BATCH,
        "train_epochs": -(-STEPS // a_epoch),
        "evaluator": _silent(),
    }


def _silent():
    from avalanche.training.plugins import EvaluationPlugin

    return EvaluationPlugin(loggers=[])


def _naive(model):
    from avalanche.training.supervised import Naive

    return Naive(**_common(model))


def _ewc(model):
    from avalanche.training.supervised import EWC

    return EWC(ewc_lambda=100.0, **_common(model))


def _replay(model):
    from avalanche.training.supervised import Replay

    return Replay(mem_size=MEMORY, **_common(model))


def _generative(model):
    """A generator for 14 x 14 images: the default one takes 28 x 28 only."""
    from avalanche.models import MlpVAE
    from avalanche.models.generator import VAE_loss
    from avalanche.training.plugins import GenerativeReplayPlugin
    from avalanche.training.supervised import GenerativeReplay, VAETraining

    generator = MlpVAE((1, 14, 14), nhid=20)
    common = _common(model)
    trainer = VAETraining(
        model=generator,
        optimizer=torch.optim.Adam(generator.parameters(), 1e-3),
        criterion=VAE_loss,
        train_mb_size=BATCH,
        train_epochs=common["train_epochs"],
        evaluator=_silent(),
        plugins=[GenerativeReplayPlugin(increasing_replay_size=True)],
    )
    return GenerativeReplay(generator_strategy=trainer, increasing_replay_size=True, **common)


AVALANCHE = {  # name: strategy of a model, stored records
    "Naive": (_naive, 0),
    "EWC": (_ewc, 0),
    "GenerativeReplay": (_generative, 0),
    "Replay": (_replay, MEMORY),
}


# --- the open set ------------------------------------------------------------------------------------


def open_set(seed: int) -> list[dict]:
    """Foreign images found at 5 % rejected known ones: pytorch-ood's detectors on a network of the same encoder, and statml."""
    rows = []
    for known, n_steps in OPEN_SET_STEPS.items():
        X, y, X_test, foreign = foreign_sets(known, seed)
        judges = {
            f"pytorch-ood, {name}": judge
            for name, judge in _pytorch_ood(X, torch.from_numpy(y), n_steps, seed).items()
        }
        model = OpenVAEClassifier("conv", max_steps=n_steps, random_state=seed, progress=False)
        model.fit(X, y)
        for score in SCORES:
            judges[f"OpenVAEClassifier, {score}"] = partial(_refused, model, score)
        for name, judge in judges.items():
            shares = {set_: float(judge(images).mean()) for set_, images in foreign.items()}
            rows.append(
                {
                    "trained on": known,
                    "detector": name,
                    "known": float(judge(X_test).mean()),
                    **{set_: shares.get(set_, float("nan")) for set_ in FOREIGN},
                    "worst": min(shares.values()),
                }
            )
    return rows


def _refused(model: OpenVAEClassifier, score: str, images: np.ndarray) -> np.ndarray:
    return model.outlier_proba(images, score) >= 0.95


def _pytorch_ood(X: np.ndarray, y: torch.Tensor, n_steps: int, seed: int) -> dict:
    """Judges by name: images to whether they score beyond 95 % of a tenth of X that was held out."""
    from pytorch_ood import detector

    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
    held, train = order[: len(X) // 10], order[len(X) // 10 :]
    images = torch.from_numpy(X)
    torch.manual_seed(seed)
    body, head = _convolutions(), nn.Linear(64 * 49, 10)
    net = nn.Sequential(body, head)
    _loop(
        net,
        lambda x, labels: nn.functional.cross_entropy(net(x), labels),
        images[train],
        y[train],
        n_steps,
    )
    net.eval()
    parts = train.split(500)
    loader = [(images[part], y[part]) for part in parts]
    judges = {}
    for name, judge in {
        "MaxSoftmax": detector.MaxSoftmax(net),
        "MaxLogit": detector.MaxLogit(net),
        "EnergyBased": detector.EnergyBased(net),
        "OpenMax": detector.OpenMax(net, tailsize=25, alpha=10),
        "KNN": detector.KNN(body),
        "Mahalanobis": detector.Mahalanobis(body),
    }.items():
        judge.fit(loader)
        limit = float(np.quantile(_scores(judge, X[held.numpy()]), 0.95))
        judges[name] = partial(_beyond, judge, limit)
    return judges


def _beyond(judge, limit: float, images: np.ndarray) -> np.ndarray:
    return _scores(judge, images) > limit


def _scores(judge, images: np.ndarray) -> np.ndarray:
    parts = torch.from_numpy(images).split(500)
    return np.concatenate([np.asarray(judge.predict(part).detach()) for part in parts])


def _convolutions() -> nn.Module:
    """The encoder of `architecture="conv"` with biases."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28)),
        *(nn.Conv2d(1, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.ReLU()),
        nn.Flatten(),
    )


# --- the cost of a step ------------------------------------------------------------------------------

ROUNDS = 5
MANY, FEW = 160, 32  # steps; their difference is free of what is done once


def steps(seed: int) -> list[dict]:
    """CPU time of a training step against a bare torch loop on the same network, in turns."""
    X, y, *_ = digits(seed)
    times: dict[str, list[float]] = {
        name: []
        for name in ("OpenVAE, bare", "OpenVAEClassifier", "classifier, bare", "Avalanche, Naive")
    }
    torch.manual_seed(seed)
    tensors = torch.from_numpy(X), torch.from_numpy(y)
    images = torch.from_numpy(_normalised(X)), tensors[1]

    def ours(n):
        OpenVAEClassifier(max_steps=n, epochs=n, calibration=0, random_state=0, **SMALL).fit(X, y)

    def theirs(n):
        from avalanche.training.supervised import Naive

        options = _common(_classifier()) | {"train_epochs": n // a_epoch}
        with contextlib.redirect_stdout(io.StringIO()):
            Naive(**options).train(experience)

    a_epoch = -(-len(X) // BATCH)
    (experience,) = _experiences(X, y, [range(10)])
    runs = {
        "OpenVAE, bare": lambda n: _bare_vae(*tensors, n),
        "OpenVAEClassifier": ours,
        "classifier, bare": lambda n: _bare(_classifier(), *images, n),
        "Avalanche, Naive": theirs,
    }
    many, few = (k // a_epoch * a_epoch for k in (MANY, FEW))
    for _ in range(ROUNDS):
        for name, run in runs.items():
            spent = []
            for n in (many, few):
                start = time.process_time()
                run(n)
                spent.append(time.process_time() - start)
            times[name].append(1e3 * (spent[0] - spent[1]) / (many - few))
    rows = []
    for bare, full in (
        ("OpenVAE, bare", "OpenVAEClassifier"),
        ("classifier, bare", "Avalanche, Naive"),
    ):
        ratio = np.median(np.array(times[full]) / np.array(times[bare]))
        rows.append(
            {
                "training": full,
                "ms a step": float(np.median(times[full])),
                "bare loop, ms": float(np.median(times[bare])),
                "ratio": float(ratio),
            }
        )
    return rows


def _bare_vae(X, y, n: int) -> None:
    coder = mlp_coder((14, 14), SMALL["latent_dim"], SMALL["hidden"])
    net = VAE((14, 14), 10, *coder, SMALL["latent_dim"], 0.25)

    def loss_of(x, labels):
        logits, decoded, mean, scale = net(x)
        return (
            nn.functional.cross_entropy(logits, labels)
            + nn.functional.binary_cross_entropy_with_logits(decoded, x)
            + 0.1 * kl_divergence(mean, scale).mean()
        )

    _loop(net, loss_of, X, y, n)


def _bare(net: nn.Module, X, y, n: int) -> None:
    _loop(net, lambda x, labels: nn.functional.cross_entropy(net(x), labels), X, y, n)


def _loop(net: nn.Module, loss_of, X, y, n: int) -> None:
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    done = 0
    while done < n:
        for batch in torch.randperm(len(X)).split(BATCH):
            optimizer.zero_grad()
            loss = loss_of(X[batch], y[batch])
            loss.backward()
            optimizer.step()
            done += 1


PARTS = {"open_set": open_set, "learners": learners, "steps": steps}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(PARTS[sys.argv[1]](int(sys.argv[2]))))
