"""Attribute-guided adversarial training: robustness to changes that are named beforehand."""

from .attribute import Attribute, Chain, Custom
from .cifar_corruptions import CORRUPTIONS, corrupt
from .degradation import Blur, Jpeg, Noise, Pixelate
from .editor import LearnedEditor, fit_editor
from .geometric import Rotation, Scale, Shear, Translate
from .photometric import Brightness, Contrast, Gamma, Hue, Saturation
from .renderer import AttributeRenderer
from .series import Amplitude, Drift, Missingness, TimeScale, TimeShift, TimeWarp, UnitShift

__all__ = [
    "CORRUPTIONS",
    "Amplitude",
    "Attribute",
    "AttributeRenderer",
    "Blur",
    "Brightness",
    "Chain",
    "Contrast",
    "Custom",
    "Drift",
    "Gamma",
    "Hue",
    "Jpeg",
    "LearnedEditor",
    "Missingness",
    "Noise",
    "Pixelate",
    "Rotation",
    "Saturation",
    "Scale",
    "Shear",
    "TimeScale",
    "TimeShift",
    "TimeWarp",
    "Translate",
    "UnitShift",
    "corrupt",
    "fit_editor",
]
