"""Black boxes that say what a target is. One sensor a file; see `Sensor` for what one of your own must have."""

from ._sensor import Looks, Sensor
from .analytic import AnalyticSensor
from .noisy import NoisySensor

__all__ = ["AnalyticSensor", "Looks", "NoisySensor", "Sensor"]
