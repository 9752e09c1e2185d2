"""The one thing pyproject.toml cannot say: which packages there are.

``adapters/`` stands beside ``statml/`` and is installed inside it, so that neither wing needs a hand-kept list
and no top-level name ``adapters`` reaches the user's environment.
"""

from setuptools import find_packages, setup

core = find_packages(include=["statml", "statml.*"])
adapters = find_packages(include=["adapters", "adapters.*"])
setup(packages=core + [f"statml.{name}" for name in adapters])
