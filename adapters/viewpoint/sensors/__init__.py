"""Black boxes that say what a target is. One sensor a file; see `Sensor` for what one of your own must have."""

from ._sensor import Looks, Sensor
from .analytic import AnalyticSensor
from .digit_plates import DigitPlateRenderer
from .logs import log_looks, reliability
from .noisy import NoisySensor
from .predict_proba import PredictProbaSensor, fit_sensor
from .table import TableSensor

__all__ = [
    "AnalyticSensor",
    "DigitPlateRenderer",
    "Looks",
    "NoisySensor",
    "PredictProbaSensor",
    "Sensor",
    "TableSensor",
    "fit_sensor",
    "log_looks",
    "reliability",
]
