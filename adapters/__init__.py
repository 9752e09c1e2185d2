"""The torch side of statml, installed as ``statml.adapters``.

Each adapter puts one deep-learning method behind ``fit`` / ``predict``. Importing this package needs no
torch; the adapters themselves need the extra ``statml[torch]``.
"""

from __future__ import annotations

import importlib

_HOMES = {
    "AttributeAdversarialClassifier": "attribute_robust",
    "AttributeRenderer": "attribute_robust",
    "LearnedEditor": "attribute_robust",
    "fit_editor": "attribute_robust",
    "robustness_report": "attribute_robust",
    "RobustLogisticRegression": "attribute_robust",
    "TorchOracle": "influence",
    "MLP": "_mlp",
    "NetClassifier": "_estimator",
    "NetRegressor": "_estimator",
    "AMALClassifier": "loss_mixing",
    "AlignmentDisplay": "loss_mixing",
    "CAGE": "loss_mixing",
    "DawidSkene": "loss_mixing",
    "DistillationLoss": "loss_mixing",
    "Entropy": "loss_mixing",
    "LambdaHistogramDisplay": "loss_mixing",
    "LambdaPathDisplay": "loss_mixing",
    "LabelMatrix": "loss_mixing",
    "MajorityVote": "loss_mixing",
    "PerExample": "loss_mixing",
    "RuleSet": "loss_mixing",
    "RuleVotes": "loss_mixing",
    "SoftTarget": "loss_mixing",
    "Teacher": "loss_mixing",
    "AGRONet": "group_robust",
    "GroupDRONet": "group_robust",
    "JTTNet": "group_robust",
    "LfFNet": "group_robust",
    "NetFeatures": "group_robust",
    "AccuracyMatrixDisplay": "continual",
    "CompassDisplay": "continual",
    "ConformalBound": "continual",
    "ContinualEvaluator": "continual",
    "ContinualReport": "continual",
    "LearningCurvesDisplay": "continual",
    "OpenSetDisplay": "continual",
    "OpenVAEClassifier": "continual",
    "PeaksOverThresholdBound": "continual",
    "WeibullBound": "continual",
    "continual_scores": "continual",
    "open_set_scores": "continual",
    "LayerDensityDisplay": "pruning",
    "MaskDisplay": "pruning",
    "PruningCallback": "pruning",
    "PruningClassifier": "pruning",
    "PruningEffectDisplay": "pruning",
    "PruningPathDisplay": "pruning",
    "PruningRegressor": "pruning",
    "decompose_pruning_effect": "pruning",
    "head_meta_gradient": "loss_mixing",
    "meta_gradient": "loss_mixing",
    "AccuracyBitsDisplay": "quantization",
    "BNSLossDisplay": "quantization",
    "GenieQuantizer": "quantization",
    "LayerSQNRDisplay": "quantization",
    "SyntheticImagesDisplay": "quantization",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("torch", "skorch", "safetensors"):
            raise ModuleNotFoundError(
                f"statml.adapters.{name} needs {error.name}: pip install 'statml[torch]'",
                name=error.name,
            ) from error
        raise


def __dir__() -> list[str]:
    return list(__all__)
