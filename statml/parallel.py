"""The one function through which every embarrassingly parallel loop goes.

Each task gets its own random generator, from the child of that number of one ``SeedSequence``, so that the results do not
depend on who computes them: they are the same for every ``n_jobs`` and every joblib backend
(``with joblib.parallel_config(backend="dask"): ...`` carries a loop to a cluster).

With ``checkpoint_dir``, each finished task is a file there, written under another name and then renamed, and a
run that was killed goes on where it stopped, with bit-identical results. The files are zip archives that hold a
structure in JSON and its arrays in numpy's format; loading one never runs code.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from joblib.parallel import get_active_backend
from tqdm.auto import tqdm

from ._plain import from_plain, to_plain
from ._validation import RandomState, as_seed_sequence, check_integer

__all__ = ["parallel_map", "spawn_seeds"]

PROGRESS_AFTER = 2.0  # seconds that a loop runs before its bar appears
WORDING = {
    "n_tasks": "the number of tasks",
    "tasks": "the fingerprint of the tasks",
    "seed": "random_state",
}


def parallel_map(
    function: Callable[[Any, np.random.Generator], Any],
    tasks: Iterable[Any],
    *,
    random_state: RandomState = None,
    n_jobs: int | None = None,
    progress: bool | str = "auto",
    checkpoint_dir: str | os.PathLike[str] | None = None,
    description: str = "",
) -> list[Any]:
    """Apply a function to every task, each with a random generator of its own.

    Parameters
    ----------
    function : callable
        (task, Generator) -> result.
    tasks : iterable
        Its elements; all are held in memory.
    random_state : int, SeedSequence, Generator, RandomState or None, default=None
        Fixes every result.
    n_jobs : int or None, default=None
        Number of workers, as joblib takes it: None means 1, unless a ``joblib.parallel_config`` says otherwise;
        -1 means all cores.
    progress : "auto", True or False, default="auto"
        Whether to show a bar; "auto" shows it once the loop has run for two seconds.
    checkpoint_dir : path or None, default=None
        Folder in which finished tasks are kept, made if it is missing. A run with the same function and tasks
        takes them from there. Results must then be arrays (not of objects), numbers, strings, None, or lists,
        tuples and dicts (with strings as keys) of these.
    description : str, default=""
        Stands beside the bar, and belongs to the identity of a checkpointed run.

    Returns
    -------
    list
        Results in the order of the tasks.

    Raises
    ------
    ValueError
        If `checkpoint_dir` holds another run; the message names what differs.
    TypeError
        If a result cannot be kept in `checkpoint_dir`.

    Notes
    -----
    An error in a task ends the loop with that error. Finished tasks stay in `checkpoint_dir`, also after an
    interruption. Without a `random_state`, the entropy drawn by the first run is kept there and used again.
    The identity of a run does not cover the code of the function: clear the folder after changing it.

    Examples
    --------
    >>> from statml.parallel import parallel_map
    >>> def mean_of_draws(size, rng):
    ...     return rng.normal(size=size).mean()
    >>> one = parallel_map(mean_of_draws, [10, 100, 1000], random_state=0)
    >>> two = parallel_map(mean_of_draws, [10, 100, 1000], random_state=0, n_jobs=2)
    >>> one == two
    True
    """
    if not callable(function):
        raise TypeError(f"function must be callable, got {type(function).__name__}")
    check_progress(progress)
    tasks = list(tasks)
    results: list[Any] = [None] * len(tasks)
    missing = list(range(len(tasks)))
    if checkpoint_dir is None:
        seeds = spawn_seeds(random_state, len(tasks))
        run = partial(_run, function)
    else:
        folder = Path(checkpoint_dir).absolute()  # workers may have another working directory
        seeds, fingerprint = _open_checkpoint(folder, function, tasks, random_state, description)
        kept = {k: _load(_file(folder, k), fingerprint, k) for k in missing}
        missing = [k for k in missing if kept[k] is None]
        results = [kept[k][0] if kept[k] else None for k in range(len(tasks))]
        run = partial(_run_and_keep, function, folder, fingerprint)

    # A backend that cannot hand over results one by one hands them over at the end, without a moving bar.
    streams = get_active_backend()[0].supports_return_generator
    finished = joblib.Parallel(
        n_jobs=n_jobs, return_as="generator_unordered" if streams else "list"
    )(joblib.delayed(run)(k, tasks[k], seeds[k]) for k in missing)
    with progress_bar(len(tasks), progress, description, len(tasks) - len(missing)) as bar:
        for k, result in finished:
            results[k] = result
            bar.update()
    return results


def check_progress(progress: bool | str) -> bool | str:
    """Refuse what is neither "auto" nor True or False."""
    if progress not in ("auto", True, False):
        raise ValueError(f'progress must be "auto", True or False, got {progress!r}')
    return progress


def progress_bar(
    total: int, progress: bool | str = "auto", description: str = "", done: int = 0
) -> tqdm:
    """A tqdm bar as every long loop shows it.

    Parameters
    ----------
    total : int
    progress : "auto", True or False, default="auto"
        "auto": on a terminal, once the loop has run for two seconds.
    description : str, default=""
    done : int, default=0
        Steps that were done before, by a run that is resumed.

    Returns
    -------
    tqdm.tqdm
        To be used in a ``with`` statement, or closed.
    """
    return tqdm(
        total=total,
        initial=done,
        desc=description or None,
        delay=PROGRESS_AFTER if check_progress(progress) == "auto" else 0,
        disable={True: False, False: True, "auto": None}[progress],  # None: only on a terminal
    )


def spawn_seeds(random_state: RandomState, n: int) -> list[np.random.SeedSequence]:
    """Make n independent seeds of one, each for ``numpy.random.default_rng``.

    Parameters
    ----------
    random_state : int, SeedSequence, Generator, RandomState or None
        A Generator or RandomState is advanced; a SeedSequence is not.
    n : int

    Returns
    -------
    list of numpy.random.SeedSequence

    Examples
    --------
    >>> import numpy as np
    >>> from statml.parallel import spawn_seeds
    >>> first, second = spawn_seeds(0, 2)
    >>> np.random.default_rng(first).integers(10**9) == np.random.default_rng(second).integers(10**9)
    np.False_
    """
    return as_seed_sequence(random_state).spawn(check_integer("n", n, low=0))


def _run(function, k: int, task, seed: np.random.SeedSequence):
    return k, function(task, np.random.default_rng(seed))


def _run_and_keep(function, folder: Path, fingerprint: str, k: int, task, seed):
    _, result = _run(function, k, task, seed)
    _write(_file(folder, k), _packed(result, fingerprint, k))
    return k, result


# --- checkpoints ------------------------------------------------------------------------------------


def _open_checkpoint(folder: Path, function, tasks: list, random_state, description: str):
    """Refuse the folder of another run; return its seeds and the fingerprint that its files carry."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.partial"):
        leftover.unlink(missing_ok=True)
    path = folder / "manifest.json"
    before = _read_manifest(path) if path.exists() else None
    if random_state is None and before is not None:
        root = np.random.SeedSequence(**before["seed"])
    else:
        root = as_seed_sequence(random_state)
    manifest = {
        "function": qualified_name(function),
        "description": description,
        "n_tasks": len(tasks),
        "tasks": joblib.hash(tasks),
        "seed": {
            "entropy": np.asarray(root.entropy).tolist(),
            "spawn_key": list(root.spawn_key),
            "pool_size": root.pool_size,
        },
    }
    if before is None:
        _write(path, json.dumps(manifest, indent=1).encode())
    elif before != manifest:
        differences = "; ".join(
            f"{WORDING.get(name, name)} was {before.get(name)!r}, now is {value!r}"
            for name, value in manifest.items()
            if before.get(name) != value
        )
        raise ValueError(
            f"checkpoint_dir {str(folder)!r} holds another run: {differences}. "
            "Name another folder, or delete this one to start anew."
        )
    return root.spawn(len(tasks)), joblib.hash(manifest)


def _read_manifest(path: Path) -> dict:
    try:
        manifest = json.loads(path.read_bytes())
        np.random.SeedSequence(**manifest["seed"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read, so that nothing is known of the run that checkpoint_dir holds. "
            "Name another folder, or delete this one to start anew."
        ) from error
    return manifest


def qualified_name(function: Callable) -> str:
    """What identifies a function or class in another process too, where its address is another."""
    while isinstance(function, partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _file(folder: Path, k: int) -> Path:
    return folder / f"task_{k:06d}.zip"


def _write(path: Path, content: bytes) -> None:
    """Write a file so that it is there in full or not at all, wherever the process is killed."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=path.name, suffix=".partial", delete=False
    ) as file:
        file.write(content)
    os.replace(file.name, path)


def _packed(result, fingerprint: str, k: int) -> bytes:
    arrays: list[np.ndarray] = []
    header = {
        "run": fingerprint,
        "task": k,
        "result": to_plain(result, arrays, f"the result of task {k}"),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("result.json", json.dumps(header))
        for i, array in enumerate(arrays):
            with archive.open(f"{i}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()


def _load(path: Path, fingerprint: str, k: int) -> tuple[Any] | None:
    """The kept result in a 1-tuple, or None if there is none that can be trusted."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        # ZipFile.read compares checksums, so what is parsed after it is what was written.
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            header = json.loads(archive.read("result.json"))
            arrays = [archive.read(f"{i}.npy") for i in range(len(archive.namelist()) - 1)]
        if (header["run"], header["task"]) != (fingerprint, k):
            return None
        arrays = [np.lib.format.read_array(io.BytesIO(a), allow_pickle=False) for a in arrays]
        return (from_plain(header["result"], arrays),)
    except Exception:  # a damaged file may raise nearly anything; its task is computed again
        return None
