"""Benchmarks of statml.influence against its peers: speed of influence functions, and scores on a network.

    python benchmarks/influence.py              # everything (about five minutes, after the environment is made)
    python benchmarks/influence.py linear       # one part

Both sides of a comparison run one after the other in one process, on one thread. Peers that need torch, and statml beside
them, live in a virtual environment of their own, .venv-dattri, made on the first run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]


def linear() -> None:
    print("\n## Influence functions of linear models: statml, pyinfluence 0.5.0 and dattri 0.3.0\n")
    _print(_in_environment("dattri", "_linear_peers.py"))


def network() -> None:
    print(
        "\n## Linear datamodeling scores on a 64-32-10 network, 800 digits: statml and dattri 0.3.0\n"
    )
    _print(_in_environment("dattri", "_network_peers.py"))


ENVIRONMENTS = {
    "dattri": ["torch==2.13.0", "dattri==0.3.0", "pyinfluence==0.5.0", "-e", f"{ROOT}[torch]"]
}


def _in_environment(name: str, script: str) -> list[dict]:
    """Run a helper script in an environment with the peers, made at need; the table it prints last, as JSON."""
    folder = ROOT / f".venv-{name}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
        subprocess.run([*install, *ENVIRONMENTS[name]], check=True)
        (folder / "ready").touch()
    out = subprocess.run(
        [python, Path(__file__).parent / script], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(out.stdout.splitlines()[-1])


def _print(rows: list[dict]) -> None:
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".4g"), flush=True)


PARTS = {"linear": linear, "network": network}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
