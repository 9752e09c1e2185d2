"""Settings for every test and doctest; pytest reads this file before it imports statml or numpy."""

import os

# Two pytest workers share two cores, and sums over threads would differ in their last digits.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["MPLBACKEND"] = "Agg"

import random  # noqa: E402
from importlib.util import find_spec  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# deadline=None: the first call of a numba function compiles it.
settings.register_profile("default", deadline=None, derandomize=True, max_examples=25)
# `make test-all` looks for new counterexamples on every run and prints how to repeat one.
settings.register_profile("thorough", deadline=None, max_examples=300, print_blob=True)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _same_global_randomness():
    """A test that draws from a global generator draws the same whatever ran before it on its worker."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    if find_spec("torch"):
        import torch

        torch.manual_seed(0)
