"""Snorkel's LabelModel and crowd-kit's DawidSkene, each run in an environment of their own, .venv-label-models, made on the first call.

The second half of the file runs there: `python _label_model_peers.py snorkel|crowdkit votes.npz out.npz`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
PACKAGES = ["snorkel==0.10.0", "crowd-kit==1.4.2"]


def snorkel_label_model(votes: np.ndarray, n_classes: int) -> tuple[np.ndarray, float]:
    """Labels by snorkel's LabelModel (500 epochs, as its tutorials do), and CPU seconds of fit and predict."""
    return _run("snorkel", votes, n_classes)


def crowdkit_dawid_skene(votes: np.ndarray) -> tuple[np.ndarray, float]:
    """Labels by crowd-kit's DawidSkene (100 steps at most, its default), and CPU seconds; -1 without a vote."""
    return _run("crowdkit", votes, int(votes.max()) + 1)


def _run(peer: str, votes: np.ndarray, n_classes: int) -> tuple[np.ndarray, float]:
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "votes.npz", Path(folder) / "out.npz"
        np.savez(given, votes=votes, n_classes=n_classes)
        subprocess.run([_environment(), __file__, peer, given, result], check=True)
        with np.load(result) as out:
            return out["labels"], float(out["seconds"])


def _environment() -> Path:
    folder = ROOT / ".venv-label-models"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        command = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *PACKAGES]
        subprocess.run(command, check=True)
        (folder / "ready").touch()
    return python


def _worker(peer: str, given: str, result: str) -> None:
    with np.load(given) as data:
        votes, n_classes = data["votes"], int(data["n_classes"])
    if peer == "snorkel":
        import torch
        from snorkel.labeling.model import LabelModel

        torch.set_num_threads(1)
        start = time.process_time()
        model = LabelModel(cardinality=n_classes, verbose=False)
        model.fit(votes, n_epochs=500, seed=0, progress_bar=False)
        labels = model.predict(votes, tie_break_policy="abstain")
    else:
        import pandas as pd
        from crowdkit.aggregation import DawidSkene

        task, worker = np.nonzero(votes != -1)
        frame = pd.DataFrame({"task": task, "worker": worker, "label": votes[task, worker]})
        start = time.process_time()
        found = DawidSkene(n_iter=100).fit_predict(frame)
        labels = np.full(len(votes), -1)
        labels[found.index.to_numpy()] = found.to_numpy()
    np.savez(result, labels=labels, seconds=time.process_time() - start)


if __name__ == "__main__":
    _worker(*sys.argv[1:])
