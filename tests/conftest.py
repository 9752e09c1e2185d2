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
