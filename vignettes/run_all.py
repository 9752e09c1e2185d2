"""Run every tutorial the way a reader would: alone, in a fresh process, with nothing on the screen.

Each must end without an error; a minute of CPU time is what a reader waits for, and what is named here. It works in a scratch
folder, so that what it writes does not stay in the repository.
"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 900  # seconds, on a machine that may be busy with other things: what takes longer hangs
VIGNETTES = Path(__file__).resolve().parent


def run(script):
    """Return (verdict, output) of one script; the verdict is "ok" or says what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=folder,
            env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that a timeout also ends the script's own workers
        )
        try:
            output, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return f"over {LIMIT} s", output
    return "ok" if process.returncode == 0 else f"exit {process.returncode}", output


def main():
    scripts = sorted(VIGNETTES.glob("*/plot_*.py"))
    if not scripts:
        sys.exit(f"no vignettes (*/plot_*.py) in {VIGNETTES.name}/")
    rows = []
    for script in scripts:
        name = str(script.relative_to(VIGNETTES))
        started, cpu = time.perf_counter(), cpu_of_children()
        verdict, output = run(script)
        rows.append((name, time.perf_counter() - started, cpu_of_children() - cpu, verdict))
        if verdict != "ok":
            print(f"---- {name}: {verdict}\n{output}", flush=True)

    width = max(len(name) for name, *_ in rows)
    print(f"{'vignette':<{width}}  seconds  CPU s")
    for name, seconds, cpu, verdict in rows:
        print(f"{name:<{width}}  {seconds:7.1f}  {cpu:5.1f}  {verdict}")
    return any(verdict != "ok" for *_, verdict in rows)


def cpu_of_children():
    """CPU seconds of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
