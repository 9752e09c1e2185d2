"""Jobs on a real dask cluster of two worker processes: the same numbers as one after the other."""

import os

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from statml.influence import DataShapley, SubsetEnsemble
from statml.parallel import parallel_map
from statml.privacy import PrivatePosterior, mechanisms, models, simulation_based_calibration

X, y = load_iris(return_X_y=True)
POSTERIOR = PrivatePosterior(
    models.NormalMean(sigma=1.0, bounds=(-3, 3)),
    mechanisms.Laplace(scale=2.0),
    n_records=20,
    chains=4,
    draws=50,
    tune=50,
    kernel="mwg",
    random_state=0,
    progress=False,
)


def retrained():
    """Twelve retrainings on random halves of the data."""
    ensemble = SubsetEnsemble(12, random_state=0, progress=False)
    ensemble.fit(LogisticRegression(max_iter=500), X[::2], y[::2])
    return ensemble.influence(X[1::2], y[1::2])


def walked():
    """Permutations of the records, each one walked from end to end."""
    shapley = DataShapley(max_permutations=6, random_state=0, progress=False)
    shapley.fit(LogisticRegression(max_iter=200), X[::8], y[::8], X_val=X[1::8], y_val=y[1::8])
    return shapley.values_


def chains():
    """Four Markov chains."""
    return POSTERIOR.fit(7.0).idata_.posterior["mu"].to_numpy()


def simulated():
    """Twenty simulated releases, a posterior of each."""
    found = simulation_based_calibration(POSTERIOR, 20, 9, 5, random_state=0, progress=False)
    return found.ranks


def address(task, rng):
    """Which process does a task."""
    return os.getpid()


JOBS = [retrained, walked, chains, simulated]


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as two,
        distributed.Client(two) as client,
    ):
        yield client


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
def test_a_cluster_gives_the_same_numbers(cluster, job):
    alone = job()
    with joblib.parallel_config(backend="dask"):
        shared = job()
    np.testing.assert_array_equal(shared, alone)


def test_two_other_processes_do_the_work(cluster):
    with joblib.parallel_config(backend="dask"):
        processes = set(parallel_map(address, range(20), progress=False))
    assert len(processes) == 2
    assert os.getpid() not in processes
