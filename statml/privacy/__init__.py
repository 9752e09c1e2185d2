"""Bayesian inference from differentially private releases.

`PrivatePosterior` composes a data model (`models`) and a privacy mechanism (`mechanisms`). What is heavy is loaded at first use.
"""

from __future__ import annotations

import importlib
import importlib.util

_HOMES = {
    "PrivatePosterior": "posterior",
    "CalibrationResult": "diagnostics",
    "acceptance_check": "diagnostics",
    "geweke_joint_test": "diagnostics",
    "simulation_based_calibration": "diagnostics",
    "AcceptanceDisplay": "displays",
    "CalibrationDisplay": "displays",
    "PosteriorDisplay": "displays",
    "Mechanism": "protocols",
    "PrivateContingencyTable": "estimators",
    "PrivateLinearRegression": "estimators",
    "PrivateNaiveBayes": "estimators",
    "PrivateProportion": "estimators",
    "PyMCModel": "pymc_bridge",
    "RecordModel": "protocols",
    "RecordSweepStep": "pymc_bridge",
    "ReleaseDesign": "design",
    "ReleaseDesignDisplay": "design",
    "design_release": "design",
}

__all__ = sorted([*_HOMES, "kernels", "mechanisms", "models"])


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
