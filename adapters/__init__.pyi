from ._estimator import (
    NetClassifier as NetClassifier,
    NetRegressor as NetRegressor,
)
from ._mlp import (
    MLP as MLP,
)
from .attribute_robust import (
    AttributeAdversarialClassifier as AttributeAdversarialClassifier,
    AttributeRenderer as AttributeRenderer,
    LearnedEditor as LearnedEditor,
    RobustLogisticRegression as RobustLogisticRegression,
    fit_editor as fit_editor,
    robustness_report as robustness_report,
)
from .continual import (
    AccuracyMatrixDisplay as AccuracyMatrixDisplay,
    CompassDisplay as CompassDisplay,
    ConformalBound as ConformalBound,
    ContinualEvaluator as ContinualEvaluator,
    ContinualReport as ContinualReport,
    LearningCurvesDisplay as LearningCurvesDisplay,
    OpenSetDisplay as OpenSetDisplay,
    OpenVAEClassifier as OpenVAEClassifier,
    PeaksOverThresholdBound as PeaksOverThresholdBound,
    WeibullBound as WeibullBound,
    continual_scores as continual_scores,
    open_set_scores as open_set_scores,
)
from .group_robust import (
    AGRONet as AGRONet,
    GroupDRONet as GroupDRONet,
    JTTNet as JTTNet,
    LfFNet as LfFNet,
    NetFeatures as NetFeatures,
)
from .influence import (
    TorchOracle as TorchOracle,
)
from .loss_mixing import (
    AMALClassifier as AMALClassifier,
    AlignmentDisplay as AlignmentDisplay,
    CAGE as CAGE,
    DawidSkene as DawidSkene,
    DistillationLoss as DistillationLoss,
    Entropy as Entropy,
    LabelMatrix as LabelMatrix,
    LambdaHistogramDisplay as LambdaHistogramDisplay,
    LambdaPathDisplay as LambdaPathDisplay,
    MajorityVote as MajorityVote,
    PerExample as PerExample,
    RuleSet as RuleSet,
    RuleVotes as RuleVotes,
    SoftTarget as SoftTarget,
    Teacher as Teacher,
    head_meta_gradient as head_meta_gradient,
    meta_gradient as meta_gradient,
)
from .pruning import (
    LayerDensityDisplay as LayerDensityDisplay,
    MaskDisplay as MaskDisplay,
    PruningCallback as PruningCallback,
    PruningClassifier as PruningClassifier,
    PruningEffectDisplay as PruningEffectDisplay,
    PruningPathDisplay as PruningPathDisplay,
    PruningRegressor as PruningRegressor,
    decompose_pruning_effect as decompose_pruning_effect,
)
from .quantization import (
    AccuracyBitsDisplay as AccuracyBitsDisplay,
    BNSLossDisplay as BNSLossDisplay,
    GenieQuantizer as GenieQuantizer,
    LayerSQNRDisplay as LayerSQNRDisplay,
    SyntheticImagesDisplay as SyntheticImagesDisplay,
)
from .viewpoint import (
    ActiveClassificationEnv as ActiveClassificationEnv,
    ActiveClassificationVectorEnv as ActiveClassificationVectorEnv,
    AnalyticSensor as AnalyticSensor,
    GreedyInformationPolicy as GreedyInformationPolicy,
    NearestFrontalPolicy as NearestFrontalPolicy,
    NoisySensor as NoisySensor,
    OrbitPolicy as OrbitPolicy,
    PredictProbaSensor as PredictProbaSensor,
    RandomPolicy as RandomPolicy,
    Scene as Scene,
    TableSensor as TableSensor,
    TourPolicy as TourPolicy,
    ViewpointMPC as ViewpointMPC,
    ViewpointPolicy as ViewpointPolicy,
    ViewpointResults as ViewpointResults,
)
