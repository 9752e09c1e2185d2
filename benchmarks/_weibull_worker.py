"""The Weibull part of benchmarks/continual.py: statml, libMR and pytorch-ood fit the same tails, in one process.

    python benchmarks/_weibull_worker.py        # in an environment with libmr, pytorch-ood and statml

pytorch-ood's fit is a file of its own that needs scipy only; it is loaded without the rest of the package, which needs torchvision.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import libmr
import numpy as np
from statml.adapters.continual import fit_weibull_tail, weibull_cdf

# (classes, distances a class, tail)
SIZES = [(10, 500, 25), (10, 6000, 300), (100, 500, 25), (1000, 500, 25)]
REPEATS = 15
CALLS = 10  # of a measurement


def main() -> None:
    LibNotMR = _libnotmr()
    rows = []
    for n_classes, n, tail in SIZES:
        rng = np.random.default_rng(0)
        classes = [np.sqrt(rng.chisquare(60, n)) for _ in range(n_classes)]
        sides = {
            "statml": lambda classes=classes, tail=tail: fit_weibull_tail(classes, tail),
            "libMR": lambda classes=classes, tail=tail: [_libmr(d, tail) for d in classes],
        }
        times: dict[str, list[float]] = {side: [] for side in sides}
        fits = {}
        for _ in range(REPEATS):  # in turns, so that both meet the same load
            for side, run in sides.items():
                start = time.process_time()
                for _ in range(CALLS):
                    fits[side] = run()
                times[side].append((time.process_time() - start) / CALLS)
        if n_classes <= 10:  # hundreds of times slower, so that once is enough
            start = time.process_time()
            fits["pytorch-ood"] = [_pytorch_ood(LibNotMR, one, tail) for one in classes]
            times["pytorch-ood"] = [time.process_time() - start]
        d = np.quantile(np.concatenate(classes), [0.9, 0.99])
        ours = np.stack([weibull_cdf(at, *fits["statml"]) for at in d], axis=1)
        row = {"classes": n_classes, "distances": n, "tail": tail}
        for side in times:
            row[f"{side}, ms"] = float(np.median(times[side])) * 1e3
        ratios = np.array(times["libMR"]) / np.array(times["statml"])
        row["libMR / statml"] = float(np.median(ratios))
        theirs = np.array([mr.w_score_vector(d) for mr in fits["libMR"]])
        row["max difference of w, libMR"] = float(np.abs(ours - theirs).max())
        row["w at the 90 % quantile"] = float(ours[:, 0].mean())
        if "pytorch-ood" in fits:
            other = np.array([model.w_score(d) for model in fits["pytorch-ood"]])
            row["the same, pytorch-ood"] = float(other[:, 0].mean())
        rows.append(row)
    print(json.dumps(rows))


def _libmr(d, tail):
    mr = libmr.MR()
    mr.fit_high(d, tail)
    return mr


def _pytorch_ood(LibNotMR, d, tail):
    model = LibNotMR(tailsize=tail)
    model.fit_high(d)
    return model


def _libnotmr():
    package = Path(importlib.util.find_spec("pytorch_ood").origin).parent
    spec = importlib.util.spec_from_file_location(
        "libnotmr", package / "detector" / "openmax" / "libnotmr.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LibNotMR


if __name__ == "__main__":
    main()
