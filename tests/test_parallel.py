import io
import json
import sys
import time
import zipfile

import joblib
import numpy as np
import pytest

from statml.parallel import parallel_map, spawn_seeds

TASKS = [3, 1, 4, 1, 5]


def draw(task, rng):
    return {"task": task, "x": rng.normal(size=task), "pair": (rng.random(), [None, "é", True])}


def fail_on_four(task, rng):
    if task == 4:
        raise ZeroDivisionError("four")
    return rng.random()


def same(first, second):
    """Whether two results are equal in every bit and in their types."""
    return joblib.hash(first) == joblib.hash(second)


def task_files(folder):
    return sorted(folder.glob("task_*.zip"))


# --- random numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing", "sequential"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_results_are_the_same_for_every_backend_and_number_of_workers(backend, n_jobs):
    expected = parallel_map(draw, TASKS, random_state=0)
    with joblib.parallel_config(backend=backend, n_jobs=n_jobs):
        assert same(parallel_map(draw, TASKS, random_state=0), expected)


def test_results_are_the_same_for_every_n_jobs(tmp_path):
    expected = parallel_map(draw, TASKS, random_state=0)
    assert same(parallel_map(draw, TASKS, random_state=0, n_jobs=2), expected)
    kept = parallel_map(draw, TASKS, random_state=0, n_jobs=2, checkpoint_dir=tmp_path)
    assert same(kept, expected)


def test_tasks_have_different_streams_and_seeds_give_different_results():
    draws = parallel_map(lambda task, rng: rng.random(), range(20), random_state=0)
    others = parallel_map(lambda task, rng: rng.random(), range(20), random_state=1)
    assert len(set(draws + others)) == 40


def test_the_stream_of_a_task_does_not_depend_on_how_many_follow():
    longer = parallel_map(draw, [*TASKS, 9, 2], random_state=0)
    assert same(longer[: len(TASKS)], parallel_map(draw, TASKS, random_state=0))


def test_spawned_seeds_are_the_streams_of_the_tasks():
    seeds = spawn_seeds(0, 3)
    draws = parallel_map(lambda task, rng: rng.random(), range(3), random_state=0)
    assert draws == [np.random.default_rng(seed).random() for seed in seeds]
    assert spawn_seeds(0, 0) == []
    with pytest.raises(TypeError, match="n must be an integer"):
        spawn_seeds(0, 2.0)


def test_results_stand_in_the_order_of_the_tasks_whoever_finishes_first():
    def wait(task, rng):
        time.sleep(task)
        return task

    tasks = [0.3, 0.0, 0.1, 0.0]
    with joblib.parallel_config(backend="threading", n_jobs=4):
        assert parallel_map(wait, tasks) == tasks


def test_tasks_may_be_a_generator_and_may_be_none_at_all(tmp_path):
    assert parallel_map(lambda task, rng: task, (k for k in range(3))) == [0, 1, 2]
    assert parallel_map(draw, []) == []
    assert parallel_map(draw, [], checkpoint_dir=tmp_path) == []


# --- progress -----------------------------------------------------------------------------------------


def test_progress_is_shown_if_asked_for_and_else_only_in_long_loops(capsys, monkeypatch):
    parallel_map(draw, TASKS, progress=True, description="drawing")
    assert "drawing" in capsys.readouterr().err
    parallel_map(draw, TASKS, description="drawing")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("statml.parallel.PROGRESS_AFTER", 0.05)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # "auto" is silent in a log file
    parallel_map(lambda task, rng: time.sleep(0.1), TASKS, description="waiting")
    assert "waiting" in capsys.readouterr().err
    parallel_map(lambda task, rng: time.sleep(0.1), TASKS, progress=False)
    assert capsys.readouterr().err == ""


def test_arguments_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="progress must be \"auto\", True or False, got 'yes'"):
        parallel_map(draw, TASKS, progress="yes")
    with pytest.raises(TypeError, match="function must be callable, got int"):
        parallel_map(3, TASKS)
    with pytest.raises(TypeError, match="random_state must be"):
        parallel_map(draw, TASKS, random_state="zero")


# --- checkpoints --------------------------------------------------------------------------------------


def test_a_finished_run_is_read_back_without_computing(tmp_path):
    calls = []

    def count(task, rng):
        calls.append(task)
        return rng.random()

    first = parallel_map(count, TASKS, random_state=0, checkpoint_dir=tmp_path)
    assert parallel_map(count, TASKS, random_state=0, checkpoint_dir=tmp_path) == first
    assert calls == TASKS


def test_every_kept_type_comes_back_as_it_was(tmp_path):
    values = [
        np.arange(6.0).reshape(2, 3).T,
        np.array(3),
        np.float32(1.5),
        np.datetime64("2020-02-03"),
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["x", "yz"]),
        np.array([1 + 2j]),
        [1, 2**70, 0.1, float("nan"), -float("inf"), True, None, "\ud800 ☃"],
        ({"array": 0, "": {}}, [], ()),
    ]
    for _ in range(2):
        found = parallel_map(lambda task, rng: values[task], range(9), checkpoint_dir=tmp_path)
        assert [joblib.hash(value) for value in found] == [joblib.hash(value) for value in values]


def test_an_empty_array_keeps_its_shape_and_type(tmp_path):
    for _ in range(2):
        (found,) = parallel_map(
            lambda task, rng: np.empty((0, 3), dtype="f4"), [0], checkpoint_dir=tmp_path
        )
        assert (found.shape, found.dtype) == ((0, 3), np.float32)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "a object,"),
        ({1, 2}, "a set,"),
        ({1: 2.0}, "a dict with keys other than strings,"),
        (np.array([None]), "a numpy.ndarray of objects,"),
        (np.ma.ones(2), "a numpy.ma.MaskedArray,"),
    ],
)
def test_a_result_that_cannot_be_kept_is_refused_naming_its_type_and_place(tmp_path, value, named):
    with pytest.raises(TypeError, match=rf"the result of task 0\['a'\]\[1\] is {named}"):
        parallel_map(lambda task, rng: {"a": [0, value]}, [0], checkpoint_dir=tmp_path)
    assert task_files(tmp_path) == []


def test_loading_a_file_runs_no_code(tmp_path):
    # An array of objects could only be stored by pickle, which can run code; such a file is not read.
    parallel_map(draw, TASKS, random_state=0, checkpoint_dir=tmp_path)
    victim = task_files(tmp_path)[0]
    pickled = io.BytesIO()
    np.lib.format.write_array(pickled, np.array([print]), allow_pickle=True)
    with zipfile.ZipFile(victim) as archive:
        header = archive.read("result.json")
    with zipfile.ZipFile(victim, "w") as archive:
        archive.writestr("result.json", header)
        archive.writestr("0.npy", pickled.getvalue())
    again = parallel_map(draw, TASKS, random_state=0, checkpoint_dir=tmp_path)
    assert same(again, parallel_map(draw, TASKS, random_state=0))


def test_without_a_random_state_the_first_entropy_is_used_again(tmp_path):
    first = parallel_map(draw, TASKS, checkpoint_dir=tmp_path)
    for path in task_files(tmp_path)[1:4]:
        path.unlink()
    assert same(parallel_map(draw, TASKS, checkpoint_dir=tmp_path), first)
    assert not same(parallel_map(draw, TASKS, checkpoint_dir=tmp_path / "other"), first)


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.random.default_rng(3),
        lambda: np.random.RandomState(3),
        lambda: np.random.SeedSequence(3, spawn_key=(1,)),
        lambda: 2**100,
    ],
    ids=["Generator", "RandomState", "SeedSequence", "large int"],
)
def test_every_kind_of_random_state_is_recognised_on_resuming(tmp_path, make):
    first = parallel_map(draw, TASKS, random_state=make(), checkpoint_dir=tmp_path)
    task_files(tmp_path)[2].unlink()
    assert same(parallel_map(draw, TASKS, random_state=make(), checkpoint_dir=tmp_path), first)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"tasks": [3, 1, 4, 1, 6]}, "the fingerprint of the tasks was"),
        ({"tasks": TASKS[:4]}, "the number of tasks was 5, now is 4"),
        ({"random_state": 1}, r"random_state was .*'entropy': 0.*now is .*'entropy': 1"),
        ({"description": "b"}, "description was '', now is 'b'"),
        ({"function": fail_on_four}, r"function was '.*draw', now is '.*fail_on_four'"),
    ],
)
def test_the_folder_of_another_run_is_refused_naming_what_differs(tmp_path, changed, named):
    job = {"function": draw, "tasks": TASKS, "random_state": 0, "checkpoint_dir": tmp_path}
    first = parallel_map(**job)
    with pytest.raises(ValueError, match=f"holds another run: .*{named}"):
        parallel_map(**job | changed)
    assert same(parallel_map(**job), first)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"seed": {"entropy": "x"}}'])
def test_an_unreadable_manifest_is_refused(tmp_path, content):
    parallel_map(draw, TASKS, random_state=0, checkpoint_dir=tmp_path)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json' cannot be read"):
        parallel_map(draw, TASKS, random_state=0, checkpoint_dir=tmp_path)


def test_files_of_another_run_are_not_trusted_where_the_manifest_is_lost(tmp_path):
    parallel_map(draw, TASKS, random_state=0, checkpoint_dir=tmp_path)
    (tmp_path / "manifest.json").unlink()
    found = parallel_map(draw, TASKS, random_state=1, checkpoint_dir=tmp_path)
    assert same(found, parallel_map(draw, TASKS, random_state=1))


def test_the_file_of_another_task_is_not_trusted(tmp_path):
    first = parallel_map(draw, TASKS, random_state=0, checkpoint_dir=tmp_path)
    one, two, *_ = task_files(tmp_path)
    one.write_bytes(two.read_bytes())
    assert same(parallel_map(draw, TASKS, random_state=0, checkpoint_dir=tmp_path), first)


def test_a_file_cut_off_or_changed_anywhere_is_computed_again(tmp_path):
    first = parallel_map(draw, TASKS, random_state=0, checkpoint_dir=tmp_path)
    victim = task_files(tmp_path)[0]
    whole = victim.read_bytes()
    rng = np.random.default_rng(0)
    cut = [whole[:size] for size in rng.integers(0, len(whole), size=40)]
    flipped = []
    for at in rng.integers(0, len(whole), size=200):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.integers(8)
        flipped.append(bytes(damaged))
    for content in cut + flipped:
        victim.write_bytes(content)
        assert same(parallel_map(draw, TASKS, random_state=0, checkpoint_dir=tmp_path), first)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_failing_task_raises_its_own_error_and_keeps_finished_work(tmp_path, n_jobs):
    job = {"tasks": TASKS, "random_state": 0, "checkpoint_dir": tmp_path, "n_jobs": n_jobs}
    with pytest.raises(ZeroDivisionError, match="four"):
        parallel_map(fail_on_four, **job)
    if (
        n_jobs == 1
    ):  # the two before the one that fails; with more workers, how many is a matter of time
        assert [path.name for path in task_files(tmp_path)] == [
            "task_000000.zip",
            "task_000001.zip",
        ]
    assert list(tmp_path.glob("*.partial")) == []


def test_an_interruption_keeps_finished_work(tmp_path):
    interrupted = []

    def interrupt_once(task, rng):
        if task == 4 and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return rng.random()

    with pytest.raises(KeyboardInterrupt):
        parallel_map(interrupt_once, TASKS, random_state=0, checkpoint_dir=tmp_path)
    assert len(task_files(tmp_path)) == 2
    found = parallel_map(interrupt_once, TASKS, random_state=0, checkpoint_dir=tmp_path)
    assert found == parallel_map(lambda task, rng: rng.random(), TASKS, random_state=0)


def test_the_manifest_says_what_the_run_is(tmp_path):
    parallel_map(draw, TASKS, random_state=7, description="drawing", checkpoint_dir=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["description"] == "drawing"
    assert manifest["function"].endswith("draw")
    assert manifest["n_tasks"] == 5
    assert manifest["seed"]["entropy"] == 7
    assert manifest["tasks"] == joblib.hash(TASKS)
