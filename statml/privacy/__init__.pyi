from . import kernels as kernels, mechanisms as mechanisms, models as models
from .design import (
    ReleaseDesign as ReleaseDesign,
    ReleaseDesignDisplay as ReleaseDesignDisplay,
    design_release as design_release,
)
from .diagnostics import (
    CalibrationResult as CalibrationResult,
    acceptance_check as acceptance_check,
    geweke_joint_test as geweke_joint_test,
    simulation_based_calibration as simulation_based_calibration,
)
from .displays import (
    AcceptanceDisplay as AcceptanceDisplay,
    CalibrationDisplay as CalibrationDisplay,
    PosteriorDisplay as PosteriorDisplay,
)
from .estimators import (
    PrivateContingencyTable as PrivateContingencyTable,
    PrivateLinearRegression as PrivateLinearRegression,
    PrivateNaiveBayes as PrivateNaiveBayes,
    PrivateProportion as PrivateProportion,
)
from .posterior import (
    PrivatePosterior as PrivatePosterior,
)
from .protocols import (
    Mechanism as Mechanism,
    RecordModel as RecordModel,
)
from .pymc_bridge import (
    PyMCModel as PyMCModel,
)
from .record_sweep import (
    RecordSweepStep as RecordSweepStep,
)
