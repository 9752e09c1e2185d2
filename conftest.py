"""Settings for every test and doctest; pytest reads this file before it imports statml or numpy."""

import os

# Two pytest workers share two cores, and sums over threads would differ in their last digits.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["MPLBACKEND"] = "Agg"

from hypothesis import settings  # noqa: E402

# deadline=None: the first call of a numba function compiles it.
settings.register_profile("default", deadline=None, derandomize=True, max_examples=25)
# `make test-all` looks for new counterexamples on every run and prints how to repeat one.
settings.register_profile("thorough", deadline=None, max_examples=300, print_blob=True)
settings.load_profile("default")
