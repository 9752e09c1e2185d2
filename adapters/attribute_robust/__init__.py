"""Attribute-guided adversarial training: robustness to changes that are named beforehand."""

from .additive import AdditiveShift
from .attack import AttackResult
from .attribute import Attribute, Chain, Custom
from .augmentations import AugMix, PixelShift, RandomConv
from .cifar_corruptions import CORRUPTIONS, corrupt
from .degradation import Blur, Jpeg, Noise, Pixelate
from .displays import AttributeGridDisplay, AttributeImagesDisplay, SeverityDisplay
from .editor import LearnedEditor, fit_editor
from .estimator import AttributeAdversarialClassifier
from .geometric import Rotation, Scale, Shear, Translate
from .photometric import Brightness, Contrast, Gamma, Hue, Saturation
from .renderer import AttributeRenderer
from .report import RobustnessReport, robustness_report
from .robust_logistic import RobustLogisticRegression
from .search import Box, grid_search, search
from .series import Amplitude, Drift, Missingness, TimeScale, TimeShift, TimeWarp, UnitShift

__all__ = [
    "CORRUPTIONS",
    "AdditiveShift",
    "Amplitude",
    "AttackResult",
    "Attribute",
    "AttributeAdversarialClassifier",
    "AttributeGridDisplay",
    "AttributeImagesDisplay",
    "AttributeRenderer",
    "AugMix",
    "Blur",
    "Box",
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
    "PixelShift",
    "Pixelate",
    "RandomConv",
    "RobustLogisticRegression",
    "RobustnessReport",
    "Rotation",
    "Saturation",
    "Scale",
    "SeverityDisplay",
    "Shear",
    "TimeScale",
    "TimeShift",
    "TimeWarp",
    "Translate",
    "UnitShift",
    "corrupt",
    "fit_editor",
    "grid_search",
    "robustness_report",
    "search",
]
