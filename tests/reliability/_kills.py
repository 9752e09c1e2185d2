"""The harness: a job is killed at random moments, again and again, and must end with the result of an undisturbed run.

`Server` runs this file as a process that does the job once, undisturbed (so that everything is imported and compiled), and then forks:
a child begins at once, in a process group of its own, and SIGKILL hits it and its workers while it computes, writes or reads.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np

TIMEOUT = 300.0  # seconds that any part of a job may take
POLL = 0.002


class Server:
    """A process that does one job, in children that can be killed.

    Parameters
    ----------
    name, part : str
        A line of `_jobs.JOBS`.
    scratch : Path
        A folder of the test's own.

    Attributes
    ----------
    expected : dict of array
        The result of the undisturbed run.
    """

    def __init__(self, name: str, part: str, scratch: Path):
        self.scratch, self.errors = scratch, scratch / "errors.txt"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__, name, part, scratch / "undisturbed.npz"], bufsize=0,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        self._expect("ready")
        self.expected = _read(scratch / "undisturbed.npz")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def run(self, folder: Path | None) -> dict[str, np.ndarray]:
        """The result of a job that nobody kills."""
        assert self._run(folder, lambda: self._wait(TIMEOUT)) == 0, self._reason()
        return _read(self.scratch / "result.npz")

    def attempt(self, folder: Path) -> dict[str, np.ndarray] | str:
        """The result of a job, or the last line of the error that it ended with."""
        if self._run(folder, lambda: self._wait(TIMEOUT)) == 0:
            return _read(self.scratch / "result.npz")
        return self._reason().rstrip().rsplit("\n", 1)[-1]

    def killed(self, folder: Path, seconds: float, after_change: bool) -> bool:
        """Whether the job could be killed so many seconds after its start, or after it first changed the folder."""

        def wait():
            before = _snapshot(folder)
            if not after_change or self._wait(TIMEOUT, lambda: _snapshot(folder) != before):
                self._wait(seconds)

        code = self._run(folder, wait)
        assert code in (0, -signal.SIGKILL), self._reason()
        return code != 0

    def _run(self, folder: Path | None, wait: Callable[[], object]) -> int:
        self._send(f"{folder or ''}\t{self.scratch / 'result.npz'}")
        group = int(self._answer())
        wait()
        os.killpg(group, signal.SIGKILL)  # its workers as well; one that has ended is still there
        self._expect("ended")
        self._send("")
        return int(self._answer())

    def _wait(self, seconds: float, happened: Callable[[], bool] = lambda: False) -> bool:
        """Whether the job still ran when something happened or the time was over."""
        end = time.monotonic() + seconds
        while not happened() and (rest := end - time.monotonic()) > 0:
            if select.select([self.process.stdout], [], [], min(POLL, rest))[0]:
                return False
        return True

    def _send(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n".encode())

    def _answer(self) -> str:
        assert select.select([self.process.stdout], [], [], TIMEOUT)[0], self._reason()
        return self.process.stdout.readline().decode().strip()

    def _expect(self, word: str) -> None:
        answer = self._answer()
        assert answer == word, f"{answer!r} {self._reason()}"

    def _reason(self) -> str:
        return self.errors.read_text()[-3000:]


def kill_and_resume(name: str, part: str, n_kills: int, scratch: Path, seed: int = 0) -> list[int]:
    """Kill a job so many times and compare what it ends with; a job that ends before all kills were made begins again.

    Half of the kills come at any moment of the run; half soon after the folder has changed, so that the job makes progress whatever the
    kills, and files are hit while they are written.

    Returns
    -------
    list of int
        The number of files that each kill left.
    """
    rng, n_left = np.random.default_rng(seed), []
    with Server(name, part, scratch) as server:
        started = time.monotonic()
        assert_same(server.run(None), server.expected)
        length = time.monotonic() - started
        attempt = 0
        while len(n_left) < n_kills:
            folder, attempt = scratch / f"kept_{attempt}", attempt + 1
            while len(n_left) < n_kills:
                after_change = bool(rng.integers(2))
                moment = rng.uniform(0, length * (0.1 if after_change else 1.0))
                if not server.killed(folder, moment, after_change):
                    break
                n_left.append(len(_snapshot(folder)))
            assert_same(server.run(folder), server.expected)
            assert list(folder.rglob("*.partial")) == [], "an unfinished file was left"
    return n_left


def damage_and_resume(name: str, part: str, scratch: Path) -> None:
    """Damage one file that a job has kept, and do the job again: it refuses the file or makes it anew."""
    with Server(name, part, scratch) as server:
        kept = scratch / "kept"
        assert_same(server.run(kept), server.expected)
        files = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
        for number, path in enumerate({files[0], files[len(files) // 2], files[-1]}):
            whole = (kept / path).read_bytes()
            middle = len(whole) // 2
            flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
            for how, content in (("emptied", b""), ("cut", whole[:middle]), ("flipped", flipped)):
                folder = scratch / f"{how}_{number}"
                shutil.copytree(kept, folder)
                (folder / path).write_bytes(content)
                found = server.attempt(folder)
                if isinstance(found, str):
                    assert found.startswith("ValueError: "), f"{path} {how}: {found}"
                    assert str(folder) in found, f"{path} {how}: {found}"
                else:
                    assert_same(found, server.expected)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Every array equal in every bit."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape), name
        assert found[name].tobytes() == values.tobytes(), f"{name} differs"


def _snapshot(folder: Path) -> dict[str, int]:
    """Files and when they were written; one that vanishes meanwhile is not among them."""
    found = {}
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                found[str(path)] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue
    return found


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


# --- the process that forks ---------------------------------------------------------------------------


def serve(name: str, part: str, output: str) -> None:
    from _jobs import JOBS

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a job prints is not an answer

    def answer(what):
        print(what, file=answers, flush=True)

    job = JOBS[name, part]
    with joblib.parallel_config(backend="sequential"):  # a process with threads could not be forked
        np.savez(output, **job(None))
    answer("ready")
    for line in sys.stdin:
        folder, result = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            os.setsid()
            answer(os.getpid())
            try:
                np.savez(result, **job(Path(folder) if folder else None))
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        os.waitid(
            os.P_PID, child, os.WEXITED | os.WNOWAIT
        )  # its number stays taken until it is told
        answer("ended")
        sys.stdin.readline()
        answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    serve(*sys.argv[1:])
