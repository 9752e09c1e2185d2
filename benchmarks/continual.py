"""Benchmarks of statml.adapters.continual.

    python benchmarks/continual.py              # everything
    python benchmarks/continual.py weibull      # some parts: weibull

Both sides of a comparison run in turn in one process, in CPU time on one thread. Peers live in a virtual environment of their own,
.venv-weibull, made on the first run (libMR is compiled there, which takes a C++ compiler).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]


# --- fits of the bound -------------------------------------------------------------------------------


def weibull() -> None:
    """The Weibull fits of all classes by statml, libMR and pytorch-ood."""
    worker = Path(__file__).parent / "_weibull_worker.py"
    out = subprocess.run(
        [_weibull_environment(), worker], check=True, stdout=subprocess.PIPE, text=True
    )
    _print(
        "Weibull fits of all classes, one thread, CPU time", json.loads(out.stdout.splitlines()[-1])
    )


def _weibull_environment() -> Path:
    """The Python of an environment with libMR and pytorch-ood, made at need."""
    folder = ROOT / ".venv-weibull"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
        for packages in (
            [
                "cython<3",
                "numpy",
                "setuptools",
                "wheel",
            ],  # what libMR 0.1.9 is built with, but does not say
            ["--no-build-isolation", "libmr==0.1.9"],
            ["--no-deps", "pytorch-ood==0.4.0"],  # one file of it, which needs scipy alone
            ["-e", str(ROOT)],
        ):
            subprocess.run([*install, *packages], check=True)
        (folder / "ready").touch()
    return python


PARTS = {"weibull": weibull}


def _print(title: str, rows: list[dict]) -> None:
    print(f"\n{title}\n")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4g"), flush=True)


def main() -> None:
    names = sys.argv[1:] or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        sys.exit(f"parts are {', '.join(PARTS)}; got {unknown[0]}")
    for name in names:
        PARTS[name]()


if __name__ == "__main__":
    main()
