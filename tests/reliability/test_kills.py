"""Killed and restarted: everything that has a `checkpoint_dir` ends with the result of a run that was never stopped."""

import inspect

import pytest

from ._jobs import JOBS
from ._kills import damage_and_resume, kill_and_resume
from ._public import public_objects

CHEAP = [  # these begin within seconds, so that every run of the tests can afford two kills
    ("statml.influence.SubsetEnsemble", ""),
    ("statml.adapters.NetClassifier", ""),
]


@pytest.mark.parametrize(("name", "part"), CHEAP, ids=map(" ".join, CHEAP))
def test_a_job_that_was_killed_twice_ends_in_the_same_bits(tmp_path, name, part):
    assert len(kill_and_resume(name, part, 2, tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), JOBS, ids=map(" ".join, JOBS))
def test_a_job_that_was_killed_twenty_times_ends_in_the_same_bits(tmp_path, name, part):
    n_left = kill_and_resume(name, part, 20, tmp_path, seed=1)
    assert len(n_left) == 20
    assert max(n_left) > 0, "no kill came after the first file"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), JOBS, ids=map(" ".join, JOBS))
def test_a_damaged_file_of_a_run_is_refused_or_made_anew(tmp_path, name, part):
    damage_and_resume(name, part, tmp_path)


def test_every_public_object_with_a_checkpoint_dir_is_tried():
    def resumes(thing):
        functions = [thing]
        if inspect.isclass(thing):
            functions = [f for _, f in inspect.getmembers(thing, inspect.isfunction)]
        return any("checkpoint_dir" in inspect.signature(f).parameters for f in functions)

    found = {thing for thing in public_objects().values() if resumes(thing)}
    tried = {public_objects()[name] for name, _ in JOBS}
    assert found == tried
